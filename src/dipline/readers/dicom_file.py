"""One DICOM file: its header as plain values, the words in it that tell who was scanned and when, its image in HU.

pydicom's own warnings and errors quote values of the header, so they are never passed on.
"""

import logging
import re
import struct
import warnings
from contextlib import contextmanager

import numpy as np
import pydicom
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dipline.readers import personal
from dipline.readers.base import ReadError

NAMES = [
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "InstitutionName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy", "RequestingPhysician", "ResponsiblePerson",
]  # fmt: skip
DATES = [
    "PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime",
    "InstanceCreationDate", "PerformedProcedureStepStartDate",
]  # fmt: skip
TIMES = ["StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime"]
CODES = [
    "StudyID", "AccessionNumber", "StationName", "DeviceSerialNumber", "RequestedProcedureID", "AdmissionID",
    "PerformedProcedureStepID", "OtherPatientIDsSequence", "RequestAttributesSequence", "StudyInstanceUID",
    "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
]  # fmt: skip
PERSONAL = NAMES + DATES + TIMES + CODES
NEEDED = [
    "SOPClassUID", "Modality", "ImageType", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "Rows",
    "Columns", "BitsAllocated", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
]  # fmt: skip


# ---------------------------------------------------------------- what messages may say


def code(value):
    """A coded value as messages may show it."""
    if value is None:
        return "none"
    return value if re.fullmatch(r"[A-Z][A-Z0-9_]{1,9}", str(value)) else "unreadable"


@contextmanager
def _quiet():
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


# ---------------------------------------------------------------- the header


FIRST = {(2, 0), (2, 1), (2, 2), (2, 16), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x12), (8, 0x16), (8, 0x18)}  # elements


def is_dicom(file):
    """Whether a file bears DICOM's mark, or begins as a header does where the preamble is missing, or cannot be opened."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(132)
    except OSError:
        return True
    return start[128:] == b"DICM" or _bare(start)


def _bare(start):
    """Whether a file's first bytes are an element of group 2 or 8, explicit or implicit, little endian."""
    if start[128:] == b"DICM" or len(start) < 132 or struct.unpack("<HH", start[:4]) not in FIRST:
        return False
    return start[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA") or struct.unpack("<I", start[4:8])[0] < 256


def _read(stream, **how):
    """(data set, whether its encoding had to be found out): without preamble and transfer syntax, as some archives store."""
    bare = _bare(stream.read(132))
    stream.seek(0)
    d = pydicom.dcmread(stream, force=bare, **how)
    if guessed := bare and not d.file_meta.get("TransferSyntaxUID"):
        implicit, _ = d.original_encoding
        d.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return d, guessed


def header(file):
    """{keyword: text, number, list of them, or None} of a file; None where it cannot be read at all.

    ``words``: who and when, `plain`; ``pixels``: (bytes stated, bytes left in the file) of the pixel data, () where the
    file has none, None where all of it is packed, "float" where they are no whole numbers; ``whole``: whether the header
    is there to its end; ``guessed``: whether the encoding is not stated.
    """
    try:
        with _quiet(), open(file, "rb") as stream:
            d, guessed = _read(stream, stop_before_pixels=True, specific_tags=NEEDED + PERSONAL)
            head = {"guessed": guessed} | {key: _value(d, key) for key in NEEDED + PERSONAL}
            head["syntax"] = UID(d.file_meta.get("TransferSyntaxUID") or "")
            packed = head["syntax"] == DeflatedExplicitVRLittleEndian
            head["pixels"] = None if packed else _pixels(stream, *d.original_encoding)
    except Exception:  # damaged bytes raise errors of any kind
        return None
    head["whole"] = head["pixels"] != () and head["SOPClassUID"] is not None
    words = [text for key in PERSONAL for text in listed(head[key])]
    words += [w for key in NAMES for text in listed(head[key]) for w in re.split(r"[\^=,\s]+", text)]
    words += [text.split(".")[0] for key in TIMES for text in listed(head[key])]  # without fractions
    dates = [personal.spellings(text) for key in DATES for text in listed(head[key])]
    return head | {"words": frozenset(map(personal.plain, words)).union(*dates) - {""}}


def listed(value):
    """The texts of a header's value."""
    return [] if value is None else [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _value(d, key):
    """``?``: there, but not readable as what it should be."""
    try:
        value = d.get(key)
        if isinstance(value, Sequence):  # of codes: what its items hold
            value = [element.value for item in value for element in item if element.VR != "SQ"]
        many = isinstance(value, MultiValue | list)
        found = [v if isinstance(v, int | float) else str(v) for v in (value if many else [value])]
    except Exception:
        return "?"
    return None if value is None or value in ("", []) else found if many else found[0]


def _pixels(stream, implicit, little):
    """`header`'s ``pixels``; the stream stands before the pixel data, if there are any."""
    start, order = stream.read(12), "<" if little else ">"
    tag = struct.unpack(order + "HH", start[:4]) if len(start) == 12 else ()
    if tag != (0x7FE0, 0x0010):
        return "float" if tag in ((0x7FE0, 0x0008), (0x7FE0, 0x0009)) else ()
    at = stream.tell() - (4 if implicit else 0)
    return struct.unpack(order + "I", start[4:8] if implicit else start[8:12])[0], stream.seek(0, 2) - at


def numbers(head, key, n, where):
    """`n` finite numbers of the header, float64 (n,), or None where it does not state them."""
    if head[key] is None:
        return None
    try:
        found = np.array([float(v) for v in listed(head[key])])
    except ValueError:
        found = np.zeros(0)
    if found.shape != (n,) or not np.isfinite(found).all():
        raise ReadError(f"{where}: {key} is unreadable; allowed finite numbers ({n}); correct it or export again")
    return found


# ---------------------------------------------------------------- the image


def packages(syntax):
    """What to install to decode a compressed transfer syntax."""
    kind = "openjpeg" if "2000" in syntax.name else "rle" if "RLE" in syntax.name else "libjpeg"
    return f"pylibjpeg pylibjpeg-{kind}"


def hounsfield(s):
    """HU of a slice, float32 (rows, columns), and where it is padding, bool."""
    try:
        with _quiet(), open(s.file, "rb") as stream:
            stored = _read(stream)[0].pixel_array
    except Exception as problem:
        packed = s.syntax.is_compressed and s.syntax.is_encapsulated
        advice = "copy or download it again" + (f", or pip install {packages(s.syntax)}" if packed else "")
        raise ReadError(
            f"{s.where}: its image cannot be decoded ({type(problem).__name__}); allowed a whole image; {advice}"
        ) from None
    if stored.shape != s.shape:
        raise ReadError(f"{s.where}: an image of shape {stored.shape}; allowed {s.shape}; export it again")
    low, high = s.padding or (1, 0)
    return (stored * s.slope + s.intercept).astype(np.float32), (stored >= low) & (stored <= high)
