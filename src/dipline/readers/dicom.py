"""CT series in DICOM: a folder tree of them (with or without ``.dcm``, ``.IMA``), one series, or a single file.

Files of one SeriesInstanceUID are a volume; where its positions repeat in another folder (full and quarter dose under
one UID), each folder is one. HU = slope * stored + intercept. Slices are sorted along their normal, upwards in an axial
scan; the affine is exact also under a tilted gantry. Padding (PixelPaddingValue, or outside the scan circle) becomes
-1000 HU. A series without any air is taken where its header states HU: RescaleType HU, or a RescaleIntercept of -1000 or less.

A volume is named after the folders below ``path`` (``L067_full_1mm``), numbered where they hold several series; a
series of one file beside others is named after the file. Only numbers leave a file: a name that holds the header's name
of the patient or of staff, number, date (in any order) or UID, or looks like a date or UID, becomes ``series_01``, and
``*`` in messages.
"""

import os
import re
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dipline.readers import base, dicom_file, dicom_series, personal
from dipline.readers.base import ReadError, Scan

MODALITY = "ct"
PARAMETERS = {}
PERSONAL_PATHS = (".dcm",)

ENDINGS = (".dcm", ".ima")
TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point to the left and the back


def list_volumes(path):
    """{name: [files]} of a folder (with its subfolders) or of one file, by headers alone. Other files are skipped.

    Not those that should be images, by their ending: empty or cut off, they are volumes of their own, which `inspect`
    refuses.
    """
    path = Path(path)
    if path.is_file():
        return _named(path.parent, [[path]], {path: dicom_file.header(path)})
    if not path.is_dir():
        raise ReadError(f"{path}: no such file or folder; correct the dataset's `path` in the study file")
    files = _files(path)
    meant = [file for file in files if dicom_file.is_dicom(file) or file.suffix.lower() in ENDINGS]
    heads = {file: dicom_file.header(file) for file in meant}
    heads = {file: h for file, h in heads.items() if h is None or h["Rows"] or h["Modality"] in (None, "CT")}
    if not heads:
        found = f"{len(files)} files, none of them a DICOM image" if files else "no file"
        raise ReadError(f"{path}: holds {found}; correct the dataset's `path`, or unpack the archive there")
    kinds = Counter(dicom_file.code(h["Modality"]) for h in heads.values() if h)
    if kinds and not {"CT", "none"} & set(kinds):
        found = ", ".join(f"{kind} ({n} files)" for kind, n in sorted(kinds.items()))
        where = personal.shown(path, frozenset().union(*(h["words"] for h in heads.values() if h)))
        raise ReadError(f"{where}: holds no CT, but {found}; allowed CT; correct the dataset's `path`")
    return _named(path, _groups(heads), heads)


def inspect(files):
    """Shape, voxel size and warnings of a volume, from the headers of all its files."""
    v = _volume(_stamps(files))
    return base.volume_summary(v["shape"], v["voxel"], [*v["warnings"]])


def load(files, slices):
    """The chosen slices as a Scan; slice 0 is the first along the normal, the lowest of an axial scan."""
    v = _volume(_stamps(files))
    base.check_choice(v["where"], slices, v["shape"])
    data = np.empty((len(slices), *v["shape"][1:]), np.float32)
    padding = np.zeros(data.shape, bool)
    for i, s in enumerate(slices):
        data[i], padding[i] = dicom_file.hounsfield(v["slices"][s])
    if v["air"] is None:  # kept, like the rest: without air every slice is read, which slices one by one shall not ask again
        stated = {s.stated for s in v["slices"]}
        v["air"] = base.check_hounsfield(v["where"], _widening(v["slices"], data, padding), "" if "" in stated else min(stated))
    warnings = v["warnings"] + v["air"] + base.fill_padding(data, padding, v["where"].name)
    for s, image in zip(slices, data, strict=True):
        base.check_slice(v["where"], image, s)
    kept = {"affine": v["affine"].copy(), "voxel": v["voxel"], "warnings": warnings}
    return Scan(MODALITY, data, list(slices), recon_shape=v["shape"][1:], **kept)


def _widening(slices, data, padding):
    """The chosen slices without their padding, then those of the whole volume that can be read: one may hold no air."""
    yield data[~padding]
    for one in slices:
        with suppress(ReadError):
            image, outside = dicom_file.hounsfield(one)
            yield image[~outside]


def fake(folder):
    """Two tiny volumes: a series of three, named as AAPM does, but not in the order of positions; a single file."""
    folder, rng = Path(folder), np.random.default_rng(0)
    (folder / "L000").mkdir()
    for i, place in enumerate((2, 0, 1, None)):
        hu = np.where(np.hypot(*np.mgrid[-10:10, -12:12]) < 9, 40 + rng.normal(0, 20, (20, 24)), -1000)
        d = pydicom.Dataset()
        d.file_meta = pydicom.dataset.FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.SOPClassUID, d.SOPInstanceUID, d.SeriesInstanceUID = CTImageStorage, f"2.25.{i}", f"2.25.9{place is None:d}"
        d.Modality, d.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.ImagePositionPatient, d.ImageOrientationPatient = [-12, -10, 3 * (place or 0)], [1, 0, 0, 0, 1, 0]
        d.PixelSpacing, d.SliceThickness, d.RescaleSlope, d.RescaleIntercept = [1.5, 1.5], 3, 1, -1024
        d.SamplesPerPixel, d.PhotometricInterpretation, (d.Rows, d.Columns) = 1, "MONOCHROME2", hu.shape
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.PixelData = (np.rint(hu) + 1024).astype("<u2").tobytes()
        name = "single.dcm" if place is None else f"L000/L000_FD_1.CT.0001.{i:04d}.IMA"
        d.save_as(folder / name, enforce_file_format=True)


# ---------------------------------------------------------------- which files, under which name


def _files(folder):
    """What may be an image below a folder; hidden files and indices are none."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name.upper() != "DICOMDIR"]
    return [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _groups(heads):
    """The files of every volume."""
    series = {}
    for file, head in heads.items():
        key = str((head or {}).get("SeriesInstanceUID") or f"none, {head is None}, {file.parent}")
        series.setdefault(key, []).append(file)
    for files in series.values():
        folders = {}
        for file in files:
            folders.setdefault(file.parent, {})[file] = str((heads[file] or {}).get("ImagePositionPatient"))
        repeated = max(Counter(p for group in folders.values() for p in set(group.values())).values()) > 1
        yield from map(list, folders.values() if repeated else [files])


def _named(root, groups, heads):
    """{name: files}; no name tells who or when, and none is given twice."""
    groups = sorted(groups, key=lambda files: (_folder(files), files[0]))
    beside, found = Counter(map(_folder, groups)), []
    for files in groups:
        folder = _folder(files)
        parts = list(folder.relative_to(root).parts)
        if len(files) == 1 and (beside[folder] > 1 or folder == root):
            parts.append(files[0].stem)
        parts = parts or [root.resolve().name]
        if len(files) > 1 and not any(heads[file] for file in files):
            parts.append("unreadable")
        words = _words(files, heads)
        whole = "_".join(parts)  # folders 2017/03/12 are a date, too
        tells = any(personal.private(part, words) for part in (*parts, whole))
        found.append(("" if tells else re.sub(r"[^A-Za-z0-9._-]+", "-", whole)[-100:].lstrip("._-"), files))
    return personal.named(found)


def _words(files, heads):
    """Who and when, from a volume's headers; where one is damaged, some of the files beside are asked as well."""
    if any(not heads.get(file) or not heads[file]["whole"] for file in files):
        files = [*files, *[file for file in sorted(files[0].parent.glob("*")) if file.is_file()][:50]]
    heads = {file: heads[file] if file in heads else dicom_file.header(file) for file in files}
    return frozenset().union(*(head["words"] for head in heads.values() if head))


def _folder(files):
    """The folder that holds all of the files, in itself or in its subfolders."""
    return Path(os.path.commonpath([file.parent for file in files]))


# ---------------------------------------------------------------- slices become a volume


def _stamps(files):
    """What tells whether a volume's files changed: ((path, size, time), …). One folder stands for all files in it."""
    files = [Path(file) for file in files]
    inside = _files(files[0]) if len(files) == 1 and files[0].is_dir() else files
    missing = [file for file in inside if not file.is_file()] or ([] if inside else files)
    if missing:
        where = personal.shown(missing[0], _words(files, {file: dicom_file.header(file) for file in inside}))
        raise ReadError(f"{where}: no such file; start again, so that the folder is listed anew")
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in inside)


@lru_cache(maxsize=4)
def _volume(stamps):
    """Shape, affine, voxel size and sorted slices of a volume; kept, because slices are often loaded one by one."""
    files = [Path(name) for name, *_ in stamps]
    heads = {file: dicom_file.header(file) for file in files}
    words = _words(files, heads)
    where, notes, slices = personal.shown(files[0] if len(files) == 1 else _folder(files), words), {}, []
    for i, (file, head) in enumerate(heads.items(), 1):
        shown = personal.shown(file, words)
        label = f"{shown}" if shown.name == file.name else f"{shown} (file {i} of {len(files)} by name)"
        if len(files) > 1 and not any(heads.values()):
            label += f" and {len(files) - 1} more"
        slices.append(dicom_series.read_slice(file, head, label, notes))
    dicom_series.check_same(where, slices)
    slices, step = dicom_series.ordered(where, slices, notes)
    first, affine = slices[0], np.eye(4)
    across, down = first.orientation
    affine[:3, :3] = TO_RAS @ np.stack([across * first.spacing[1], down * first.spacing[0], step], 1)
    affine[:3, 3] = TO_RAS @ first.position
    return {
        "where": where, "shape": (len(slices), *first.shape), "affine": affine, "slices": slices,
        "voxel": tuple(round(float(v), 6) for v in np.linalg.norm(affine[:3, :3], axis=0)),
        "warnings": [f"{where.name}: {note}" for note in notes], "air": None,
    }  # fmt: skip
