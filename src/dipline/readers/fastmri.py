"""fastMRI's HDF5 files: one volume a file, multi-coil or single-coil, with or without reference and header.

``kspace`` is complex (slices, coils, readout, phase encode), single-coil (slices, readout, phase encode), centred (zero
frequency at index n // 2); ``ismrmrd_header`` is XML; ``mask``, (phase encode,) or (readout, phase encode), marks the
samples of a scan that was undersampled on the scanner. Size of the delivered image: that of ``reconstruction_rss`` or
``reconstruction_esc``, else the header's reconSpace, else guessed with a warning. Columns without data and voxel size:
from the header, as fastMRI counts them. The format keeps no position and no orientation: the affine has the axes of an
axial scan (columns to the left, rows to the back, slices upwards), its origin in the middle of the volume.

Kept from a file: numbers. Its attributes (``patient_id``) are not read.
"""

import mmap
import os
import re
import struct
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from dipline.readers.base import ReadError, Scan

MODALITY = "mri"
PARAMETERS = {}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LARGEST = 100_000  # samples along an axis
HEAP = b"GCOL\1\0\0\0"  # how HDF5 marks a heap


def list_volumes(path):
    """{name: [files]} of a folder (with its subfolders) or of one file. Two files of one name are told by `inspect`."""
    path = Path(path)
    if path.is_file():
        return {path.stem: [path]}
    if not path.is_dir():
        raise ReadError(f"{path}: no such file or folder; correct the dataset's `path` in the study file")
    found = {}
    for file in sorted(path.rglob("*.h5")):
        if file.is_file() and not file.name.startswith("."):
            found.setdefault(file.stem, []).append(file)
    if not found:
        raise ReadError(f"{path}: holds no .h5 file; correct the dataset's `path`, or unpack the archive there")
    return found


def inspect(files):
    """Shape and warnings of a volume, from the headers alone."""
    file = _only(files)
    with _reading(file), h5py.File(file, "r") as h:
        v = _describe(h, file)
    slices, coils, readout, phase = v["shape"]
    return {
        "slices": slices,
        "shape": [coils, readout, phase],
        "recon_shape": list(v["recon_shape"]),
        "undersampled": v["mask"] is not None,
        "bytes": 8 * slices * coils * readout * phase,
        "warnings": v["warnings"],
    }


def load(files, slices):
    """The chosen slices as a Scan; the affine counts slices as the file does."""
    file = _only(files)
    with _reading(file), h5py.File(file, "r") as h:
        v = _describe(h, file)
        count, *shape = v["shape"]
        _check_slices(file, slices, count)
        _check_memory(file, 8 * len(slices) * int(np.prod(shape)))
        data = np.empty((len(slices), *shape), np.complex64)
        for i, s in enumerate(slices):
            with np.errstate(over="ignore"):
                data[i] = h["kspace"][s].reshape(shape)
            _check_values(file, data[i], s)
    for key, what in (("acquired", "the header"), ("mask", "`mask`")):
        if v[key] is not None and data[:, :, ~np.broadcast_to(v[key], shape[1:])].any():
            v["warnings"].append(f"{file.name}: samples outside {what} are not zero; they will not be used")
    dx, dy, dz = v["voxel"]
    rows, columns = v["recon_shape"]
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = dx * (columns - 1) / 2, dy * (rows - 1) / 2, -dz * (count - 1) / 2
    kept = {key: v[key] for key in ("recon_shape", "acquired", "mask", "voxel", "warnings")}
    return Scan(MODALITY, data, list(slices), affine=affine, **kept)


def fake(folder):
    """Two tiny volumes: multi-coil with header, zero padding, reference; single-coil, undersampled, without those."""
    folder, rng = Path(folder), np.random.default_rng(0)
    space = (
        "<{0}><matrixSize><x>{1}</x><y>24</y><z>1</z></matrixSize>"
        "<fieldOfView_mm><x>{2}</x><y>48</y><z>5</z></fieldOfView_mm></{0}>"
    )
    header = (
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        + space.format("encodedSpace", 32, 64)
        + space.format("reconSpace", 16, 32)
        + "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>19</maximum><center>10</center>"
        "</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"
    )
    noise = rng.standard_normal((2, 4, 32, 24, 2)).astype(np.float32).view(np.complex64)[..., 0]
    noise[..., :2] = noise[..., 22:] = 0
    with h5py.File(folder / "multi.h5", "w") as h:
        h.create_dataset("kspace", data=noise, compression="gzip", chunks=(1, 2, 32, 24))
        h["reconstruction_rss"], h["ismrmrd_header"] = np.ones((2, 16, 24), np.float32), header.encode()
        h.attrs["acquisition"] = "AXT2"
    mask = (np.arange(24) % 2 == 0) | (np.abs(np.arange(24) - 12) < 4)
    with h5py.File(folder / "single.h5", "w") as h:
        h["kspace"], h["mask"] = noise[:1, 0] * mask, mask


def _describe(h, file):
    """What a file says of itself; its shape is (slices, coils, readout, phase encode)."""
    kspace, warnings, layout = h.get("kspace"), [], "(slices, coils, readout, phase encode)"
    if not isinstance(kspace, h5py.Dataset):
        raise ReadError(f"{file}: no dataset `kspace`, found {sorted(h)[:8]}; is this a fastMRI file?")
    shape = kspace.shape or ()
    where = f"{file}: kspace: shape {shape}"
    if len(shape) not in (3, 4):
        raise ReadError(f"{where}; allowed {layout}, single-coil (slices, readout, phase encode); add or remove axes")
    if min(shape) < 1 or max(shape) > LARGEST:
        raise ReadError(f"{where}; allowed 1 to {LARGEST} samples along an axis; write the file again")
    if kspace.dtype.kind != "c":
        raise ReadError(f"{file}: kspace: {kspace.dtype}; allowed complex64; store both parts as one complex number")
    if len(shape) == 4 and shape[3] <= 32 and 2 * shape[3] < min(shape[1:3]):
        raise ReadError(f"{where} looks like coils last; allowed {layout}; store kspace.transpose(0, 3, 1, 2)")
    shape = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    _sized(file, kspace)
    readout, phase = shape[2:]
    header = _header(h, file)
    acquired = _acquired(header, file, phase, warnings) if header else None
    stored = [h[k].shape for k in ("reconstruction_rss", "reconstruction_esc") if isinstance(h.get(k), h5py.Dataset)]
    reference = stored[0] if stored else None
    if stored and (not reference or len(reference) != 3 or min(reference) < 1):
        raise ReadError(f"{file}: reconstruction: shape {reference}; allowed (slices, rows, columns); remove it")
    if reference or header:
        rows, columns = reference[1:] if reference else (header["rows"], header["columns"])
    else:
        rows, columns = (readout // 2 if readout >= 1.5 * phase else readout), phase
        warnings.append(f"{file.name}: no header and no reference: image size {rows}x{columns} is a guess")
    if rows <= readout and columns > phase:  # so do some of fastMRI's own files, and so its code treats them
        warnings.append(f"{file.name}: an image of {rows}x{columns} from {phase} columns is cut to those")
        rows, columns = min(rows, phase), phase
    if rows > readout:
        raise ReadError(
            f"{file}: the delivered image, {rows}x{columns}, is larger than the measured one; allowed up to "
            f"{readout}x{phase}; correct reconSpace in ismrmrd_header, or the reference"
        )
    if not header:
        warnings.append(f"{file.name}: no header: voxel size unknown, 1 mm is assumed")
    voxel = header["voxel"] if header else (1.0, 1.0, 1.0)
    mask = _mask(h, file, readout, phase)
    recon_shape = int(rows), int(columns)
    return {
        "shape": shape,
        "recon_shape": recon_shape,
        "acquired": acquired,
        "mask": mask,
        "voxel": voxel,
        "warnings": warnings,
    }


def _mask(h, file, readout, phase):
    """The sampled positions of a scan that was undersampled on the scanner, bool, or None."""
    mask = h.get("mask")
    if mask is None:
        return None
    shape, allowed = getattr(mask, "shape", None), ((phase,), (readout, phase))
    if shape not in allowed or mask.dtype.kind not in "biuf":
        raise ReadError(f"{file}: mask: shape {shape}; allowed {allowed[0]} or {allowed[1]}; correct or remove it")
    mask = _sized(file, mask)[()] != 0
    if not mask.any():
        raise ReadError(f"{file}: mask: all zero, so nothing was measured; correct or remove it")
    return mask


def _header(h, file):
    """Numbers of the ISMRMRD header, or None where a file has none."""
    stored = h.get("ismrmrd_header")
    if stored is None:
        return None
    text = _text(file, stored)
    if len(text) > 1_000_000 or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ReadError(f"{file}: ismrmrd_header: over 1 MB or with a DOCTYPE; allowed plain ISMRMRD XML; remove it")
    try:
        root = ElementTree.fromstring(text.rstrip(b"\0"))
    except (ElementTree.ParseError, ValueError, LookupError) as problem:
        raise ReadError(f"{file}: ismrmrd_header: no valid XML ({problem}); correct or remove it") from problem

    def number(path, low, high, kind=int):
        found = root.findtext("{*}encoding/" + "/".join("{*}" + part for part in path.split("/")))
        try:
            value = kind(found)
        except (TypeError, ValueError):
            value = None
        if value is None or not low <= value <= high:
            raise ReadError(f"{file}: ismrmrd_header: {path} is {found}; allowed {low} to {high}; correct the header")
        return value

    rows, columns = (number(f"reconSpace/matrixSize/{axis}", 1, LARGEST) for axis in "xy")
    high, wide, thick = (number(f"reconSpace/fieldOfView_mm/{axis}", 1e-3, 1e5, float) for axis in "xyz")
    depth = number("reconSpace/matrixSize/z", 1, LARGEST)
    header = {"rows": rows, "columns": columns, "voxel": (wide / columns, high / rows, thick / depth), "limits": None}
    step = "encodingLimits/kspace_encoding_step_1"
    if root.find("{*}encoding/{*}encodingLimits/{*}kspace_encoding_step_1") is not None:
        last = number(f"{step}/maximum", 0, LARGEST)
        centre, encoded = number(f"{step}/center", 0, last + 1), number("encodedSpace/matrixSize/y", 1, LARGEST)
        header["limits"] = encoded // 2 - centre, encoded // 2 - centre + last + 1
    return header


def _acquired(header, file, phase, warnings):
    """bool (phase,): columns that the scanner measured, counted as fastMRI does; None: all of them."""
    if not header["limits"]:
        return None
    left, right = header["limits"]
    if left < 0 or right > phase:
        if left < -2 or right > phase + 2:
            raise ReadError(
                f"{file}: ismrmrd_header: encodingLimits say columns {left} to {right - 1}; allowed 0 to {phase - 1}, "
                "the columns of kspace; correct the header"
            )
        warnings.append(f"{file.name}: the header's columns {left} to {right - 1} were cut to 0 to {phase - 1}")
    columns = np.arange(phase)
    acquired = (columns >= left) & (columns < right)
    return None if acquired.all() else acquired


def _only(files):
    """The volume's one file; refuses two files of one name, and names that a shell or a path could misread."""
    first = Path(files[0])
    if len(files) > 1:
        both = " and ".join(map(str, files))
        raise ReadError(f"{both}: two files of one name `{first.stem}`; allowed one; rename or move the other")
    if not NAME.fullmatch(first.stem):
        allowed = "letters, digits and . _ -, the first a letter or digit"
        raise ReadError(f"{first}: name `{first.stem}`; allowed {allowed}; rename the file")
    return first


@contextmanager
def _reading(file):
    """Whatever goes wrong inside becomes a ReadError that names the file."""
    try:
        yield
    except ReadError:
        raise
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        fault = f"{type(problem).__name__}: {text}"
        raise ReadError(f"{file}: cannot be read ({fault}); copy or download it again") from problem


def _heap(raw, at, file):
    """{index: (start, length)} of the objects in the heap at byte `at`.

    Texts and other data of variable length lie in such heaps. HDF5 2.0 never returns from a damaged one in which an
    object has no size, and reserves as many gigabytes as a damaged length says; so they are read without it.
    """
    size = int.from_bytes(raw[at + 8 : at + 16], "little")
    if raw[at : at + 8] != HEAP or at + size > len(raw):
        raise ReadError(f"{file}: a heap is damaged; copy or download it again")
    objects, place, end = {}, at + 16, at + size
    while place + 16 <= end:
        index, length = struct.unpack("<H6xQ", raw[place : place + 16])
        step = 16 + (length + 7) // 8 * 8 if index else length
        if step < 16 or place + step > end:
            raise ReadError(f"{file}: a heap is damaged; copy or download it again")
        if index:
            objects[index] = place + 16, length
        place += step
    return objects


def _text(file, dataset):
    """The bytes of a dataset that holds one text."""
    _sized(file, dataset)
    if dataset.shape not in ((), (1,)):
        raise ReadError(f"{file}: {dataset.name}: shape {dataset.shape}; allowed one text; write the file again")
    if dataset.dtype.kind == "S":
        return bytes(np.asarray(dataset[()]).reshape(-1)[0])
    kind, place = h5py.check_string_dtype(dataset.dtype), dataset.id.get_offset()
    if kind is None or place is None:
        raise ReadError(f"{file}: {dataset.name}: {dataset.dtype}; allowed text; write the file again")
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        length, at, index = struct.unpack("<IQI", raw[place : place + 16])
        start, most = _heap(raw, at + dataset.file.userblock_size, file).get(index, (0, 0))
        return raw[start : start + min(length, most)]


def _sized(file, dataset):
    """The dataset, unless it claims to be larger than the file can hold (deflate packs 1000 to 1)."""
    if not isinstance(dataset, h5py.Dataset):
        raise ReadError(f"{file}: found a group where a dataset belongs; copy, convert or download the file again")
    packed = dataset.id.get_create_plist().get_nfilters() > 0
    chunk = int(np.prod([int(n) for n in dataset.chunks or ()], dtype=object)) * dataset.dtype.itemsize
    most = file.stat().st_size * (1100 if packed else 1)
    if max(dataset.nbytes, chunk if packed else 0) > most:
        raise ReadError(
            f"{file}: {dataset.name}: shape {dataset.shape} does not fit into {file.stat().st_size} bytes; "
            "copy or download it again, with all its data in one file"
        )
    return dataset


def _check_slices(file, slices, count):
    wrong = [s for s in slices if not 0 <= s < count]
    if wrong or not slices:
        raise ReadError(f"{file}: slices {wrong or 'none'} chosen; allowed 0 to {count - 1}; correct `slices`")


def _check_memory(file, needed):
    """Refuse what this machine cannot hold, before reading it."""
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.9 * present:
        raise ReadError(
            f"{file}: the chosen slices need {needed / 1e9:.1f} GB, this machine has {present / 1e9:.1f} GB; "
            "choose fewer slices"
        )


def _check_values(file, data, s):
    """Refuse a slice (coils, readout, phase) that holds NaN or Inf, or nothing at all, or a dead coil."""
    for coil, plane in enumerate(data):
        if not np.isfinite(plane).all():
            kind = "NaN" if np.isnan(plane).any() else "Inf"
            raise ReadError(f"{file}: {kind} in slice {s}, coil {coil}; allowed finite numbers; leave out that slice")
    empty = ~data.any(axis=(1, 2))
    if empty.all():
        raise ReadError(f"{file}: slice {s} is all zero; leave it out with `slices`")
    if empty.any():
        raise ReadError(f"{file}: slice {s}: coil {np.flatnonzero(empty).tolist()} is all zero; remove that coil")
