"""What makes DICOM files a CT volume: every slice usable by itself, and all of them evenly spaced and alike."""

from collections import Counter
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import AllTransferSyntaxes

from dipline.readers import base
from dipline.readers.base import ReadError
from dipline.readers.dicom_file import code, is_dicom, listed, numbers, packages

ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # CT with all slices in one file
LARGEST = 8192  # pixels along a side
SHIFTED = -1000  # air of 0 is stored as it would be of a scanner: with -1000, -1024 or, in an extended range, -8192
MATTER = -900  # HU; a declared padding value above it would turn matter into air
APART = 1.5  # times the thickness of a slice: a distance from which on slices may be missing
UNEVEN = 0.2  # positions are often rounded to 0.1 mm; a gap may differ from the usual one by this part of it


def read_slice(file, head, where, notes):
    """What a volume needs to know of one slice; refuses what is no slice of a CT, adds to the dict `notes`."""

    def refuse(found, allowed, advice):
        raise ReadError(f"{where}: {found}; allowed {allowed}; {advice}")

    if not is_dicom(file):
        empty = not file.stat().st_size
        found = "an empty file" if empty else "no DICOM file, or its beginning is cut off"
        refuse(found, "files with DICOM's header", "copy it again, or take it out of the folder if it is none")
    if head is None:
        refuse("its header cannot be read", "a whole file that you may read", "copy or download it again")
    if head["guessed"]:
        notes[f"no preamble and no transfer syntax; {head['syntax'].name} is assumed"] = None
    _check_kind(head, where, notes, refuse)
    _check_pixels(head, refuse)
    spacing = numbers(head, "PixelSpacing", 2, where)
    if spacing is None or not 1e-3 < spacing.min() <= spacing.max() < 100:
        refuse("no usable PixelSpacing", "two lengths in mm", "the size of a pixel must be known; export it again")
    base.check_square(where, spacing[1], spacing[0])
    scale = {}
    for key, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        found = numbers(head, key, 1, where)
        scale[key] = usual if found is None else float(found[0])
        if found is None:
            notes[f"no {key}; {usual:g} is assumed"] = None
    slope, intercept = scale.values()
    if slope <= 0:
        refuse(f"RescaleSlope {slope:g}", "a number above 0", "export it again: its values cannot become HU")
    orientation = numbers(head, "ImageOrientationPatient", 6, where)
    if orientation is not None:
        across, down = orientation = orientation.reshape(2, 3)
        if np.abs(orientation @ orientation.T - np.eye(2)).max() > 1e-2:
            refuse("ImageOrientationPatient", "two directions at right angles, of length 1", "correct the header")
        across /= np.linalg.norm(across)
        down /= np.linalg.norm(down)
    sizes = [numbers(head, key, 1, where) for key in ("SliceThickness", "SpacingBetweenSlices")]
    thickness, distance = (float(s[0]) if s is not None and 0 < s[0] < 1000 else None for s in sizes)
    return SimpleNamespace(
        file=file, where=where, syntax=head["syntax"], shape=(head["Rows"], head["Columns"]),
        spacing=spacing, orientation=orientation, position=numbers(head, "ImagePositionPatient", 3, where),
        slope=slope, intercept=intercept, stated=_stated(head, intercept), padding=_padding(head, slope, intercept, notes),
        tilt=numbers(head, "GantryDetectorTilt", 1, where),
        thickness=thickness, distance=distance,
    )  # fmt: skip


def _stated(head, intercept):
    """What in a header says that the values are HU, in words, or nothing."""
    if head["RescaleType"] in ("HU", "HU_MOD"):
        return f"RescaleType {head['RescaleType']}"
    return f"RescaleIntercept {intercept:g}" if intercept <= SHIFTED else ""


def _check_kind(head, where, notes, refuse):
    """Refuse what is no single-frame grey CT image."""
    modality, frames = code(head["Modality"]), numbers(head, "NumberOfFrames", 1, where)
    if modality not in ("CT", "none"):
        refuse(f"modality {modality}", "CT", "leave that series out")
    if modality == "none":
        notes["no Modality; CT is assumed"] = None
    if "LOCALIZER" in listed(head["ImageType"]):
        refuse("a localiser (scout view)", "axial slices", "take that file out of the folder: its series waits for it")
    if head["SOPClassUID"] in ENHANCED or (frames is not None and frames[0] > 1):
        refuse("a multi-frame image", "one slice a file", "export it as single-frame (classic) CT")
    if head["SamplesPerPixel"] not in (None, 1) or "MONO" not in str(head["PhotometricInterpretation"] or "MONO"):
        refuse("a colour image", "one grey value a pixel", "leave that series out")
    if head["ModalityLUTSequence"] is not None:
        refuse("a ModalityLUTSequence", "RescaleSlope and RescaleIntercept", "export the series again in HU")
    if head["RescaleType"] not in (None, "HU", "HU_MOD", "US"):  # US: unspecified
        refuse(f"RescaleType {code(head['RescaleType'])}", "HU", "leave that series out: its values are no HU")


def _check_pixels(head, refuse):
    """Refuse an image that is not there, is cut off, or is packed in a way that nothing here unpacks."""
    if head["pixels"] == ():
        refuse("no pixel data (not exported, or cut off)", "an image", "copy or export the file again")
    if head["pixels"] == "float":
        refuse("floating-point pixels", "whole numbers: those are not supported", "export as 16-bit pixels in HU")
    syntax, decoder, found = head["syntax"], None, "an unknown transfer syntax"
    if syntax in AllTransferSyntaxes:
        found = f"transfer syntax {syntax.name}"
        with suppress(NotImplementedError):
            decoder = get_decoder(syntax)
    if decoder is None:
        refuse(found, "Explicit VR Little Endian", "convert it, for example with dcmtk's dcmconv or dcmdjpeg")
    if not decoder.is_available:
        refuse(
            f"compressed ({syntax.name}), and no decoder is installed", "uncompressed files",
            f"pip install {packages(syntax)}, or decompress the files, for example with dcmtk's dcmdjpeg",
        )  # fmt: skip
    rows, columns, bits = (n if isinstance(n := head[key], int) else 0 for key in ("Rows", "Columns", "BitsAllocated"))
    if not (2 <= min(rows, columns) <= max(rows, columns) <= LARGEST and bits in (8, 16, 32)):
        refuse(f"{rows} x {columns} pixels of {bits} bits", f"2 to {LARGEST}, of 8, 16 or 32 bits", "export it again")
    needed = rows * columns * bits // 8
    if head["pixels"] and not syntax.is_encapsulated and min(head["pixels"]) < needed:
        refuse(f"{min(head['pixels'])} bytes of pixel data", f"{needed}", "cut off: copy or download it again")


def _padding(head, slope, intercept, notes):
    """(lowest, highest) stored value that marks padding, or None."""
    ends = [head[k] for k in ("PixelPaddingValue", "PixelPaddingRangeLimit") if isinstance(head[k], int)]
    if not ends:
        return None
    size = 2 ** head["BitsAllocated"]  # some writers state a negative value as unsigned, or the other way round
    low, high = (0, size) if head["PixelRepresentation"] == 0 else (-size // 2, size // 2)
    ends = [(end - low) % (high - low) + low for end in ends]
    if max(ends) * slope + intercept > MATTER:
        notes["PixelPaddingValue would be matter and is not heeded"] = None
        return None
    return min(ends), max(ends)


# ---------------------------------------------------------------- all slices


def check_same(where, slices):
    """Refuse slices of several sizes, pixel sizes or orientations."""
    sizes = Counter(f"{s.shape[0]} x {s.shape[1]}" for s in slices)
    if len(sizes) > 1:
        found = ", ".join(f"{size} ({n} files)" for size, n in sizes.items())
        raise ReadError(f"{where}: mixed sizes: {found}; allowed one; keep one of them in that folder")
    if any(np.abs(s.spacing / slices[0].spacing - 1).max() > 1e-3 for s in slices):
        found = ", ".join(sorted({f"{s.spacing[0]:g}" for s in slices})[:4])
        raise ReadError(f"{where}: mixed pixel sizes: {found} mm; allowed one; keep one of them in that folder")
    if len(slices) > 1 and any(s.position is None or s.orientation is None for s in slices):
        which = next(s.where for s in slices if s.position is None or s.orientation is None)
        raise ReadError(
            f"{which}: no ImagePositionPatient or ImageOrientationPatient; allowed in a single file alone: without "
            "them slices have no order; export the series again"
        )
    if any(np.abs(s.orientation - slices[0].orientation).max() > 1e-3 for s in slices if len(slices) > 1):
        raise ReadError(f"{where}: mixed orientations; allowed parallel slices; keep one orientation in that folder")


def ordered(where, slices, notes):
    """The slices along their normal and the vector from one to the next, mm; refuses gaps, doubles and shifts."""
    first = slices[0]
    if first.position is None or first.orientation is None:
        notes["no position or orientation in the header; an axial slice is assumed"] = None
        first.orientation = np.eye(3)[:2] if first.orientation is None else first.orientation
        half = (np.array(first.shape[::-1]) - 1) / 2 * first.spacing[::-1]
        first.position = -half @ first.orientation if first.position is None else first.position
    normal = np.cross(*first.orientation)
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    if len(slices) == 1:
        size = first.thickness or first.distance
        if size is None:
            notes["no SliceThickness; 1 mm is assumed"] = None
        step = normal * (size or 1.0)
    else:
        at = np.stack([s.position for s in slices])
        gaps = np.diff(at @ normal)
        usual = np.median(gaps)
        for a, b, gap in zip(slices, slices[1:], gaps, strict=False):
            if gap < 0.01:
                raise ReadError(
                    f"{a.where} and {b.where}: two slices at one position; allowed one; keep one of them (phases or "
                    "doses in a folder each)"
                )
        if np.abs(gaps - usual).max() > UNEVEN * usual:
            raise ReadError(
                f"{where}: gaps of {gaps.min():.2f} to {gaps.max():.2f} mm between slices; allowed even ones: slices "
                "are missing; copy those, or keep a part without gaps in that folder"
            )
        meant = first.distance and abs(usual - first.distance) <= UNEVEN * usual
        if first.thickness and usual >= APART * first.thickness and not meant:
            notes[f"slices of {first.thickness:g} mm lie {usual:.4g} mm apart; some may be missing"] = None
        step = (at[-1] - at[0]) / (len(at) - 1)
        aside = at - at[0] - np.arange(len(at))[:, None] * step
        if np.linalg.norm(aside - np.outer(aside @ normal, normal), axis=1).max() > first.spacing[0]:
            raise ReadError(f"{where}: slices shifted sideways; allowed positions on a line; export the series again")
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    tilt = max(tilt, *(abs(s.tilt[0]) for s in slices if s.tilt is not None), 0)
    if tilt > 0.5:
        notes[f"gantry tilted by {tilt:.1f} degrees; each slice is reconstructed in its own plane"] = None
    if abs(normal[2]) < 0.7:
        notes["the slices are not axial; they are reconstructed as if they were"] = None
    return slices, step
