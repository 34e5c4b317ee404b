"""Raw ISMRMRD files (.h5): Cartesian 2-D scans of one or many slices, as the scanners' converters write them.

Readouts are sorted by slice and phase encode step, averages are averaged; noise, navigator, phase correction and
calibration-only readouts are skipped. Of several contrasts, repetitions, phases or sets the first is taken, with a
warning. A line that the header announces but the file lacks is undersampling (``Scan.mask``); columns outside its
encoding limits are zero padding (``Scan.acquired``). Slices are in the order of their positions along the slice
direction. The delivered image is the measured one cut to the header's reconSpace field of view, without interpolation.

The affine follows from the readouts' position and directions (patient coordinates, left-posterior-superior in the
format, turned to RAS), rows along the readout, columns along phase encode, both increasing with the inverse Fourier
transform's index. Kept from a file: numbers. Nothing of its subject, study or measurement information is read.
"""

import mmap
import os
import re
import struct
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from pathlib import Path

import h5py
import ismrmrd
import numpy as np

from dipline.readers.base import ReadError, Scan

MODALITY = "mri"
PARAMETERS = {}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LARGEST = 100_000  # samples along an axis
HEAP = b"GCOL\1\0\0\0"  # how HDF5 marks a heap
SLICES_ONLY = "allowed 2-D slices; Fourier transform the second phase encode axis and store its planes as slices"
NOT_IMAGING = (
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)


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
        raise ReadError(f"{path}: holds no .h5 file; correct the dataset's `path`, or convert the raw data there")
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
    """The chosen slices as a Scan; the affine counts slices as `inspect` does."""
    file = _only(files)
    with _reading(file), h5py.File(file, "r") as h:
        v = _describe(h, file)
        count, coils, readout, phase = v["shape"]
        _check_slices(file, slices, count)
        _check_memory(file, 8 * len(slices) * coils * readout * phase)
        data, heaps = np.zeros((len(slices), coils, readout, phase), np.complex64), {}
        first, last = v["samples"]
        into = slice(v["offset"], v["offset"] + last - first)
        with _raw(file) as raw:
            for i, s in enumerate(slices):
                repeats = np.zeros(phase, int)
                for line, column in v["lines"][s]:
                    samples = _samples(raw, v["rows"][line]["data"], heaps, file, line, 2 * coils * v["length"])
                    with np.errstate(invalid="ignore", over="ignore"):
                        data[i, :, into, column] += samples.view(np.complex64).reshape(coils, -1)[:, first:last]
                    repeats[column] += 1
                _check_values(file, data[i], s)
                data[i] /= np.maximum(repeats, 1)
    kept = {key: v[key] for key in ("recon_shape", "acquired", "mask", "affine", "voxel", "warnings")}
    return Scan(MODALITY, data, list(slices), **kept)


def fake(folder):
    """Two tiny volumes: two slices in two averages with a noise scan and zero padding; one slice, undersampled."""
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
        "</kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )
    some = (0, 3, 6, 8, 9, 10, 11, 12, 15, 18)
    for name, slices, averages, steps in (("full", 2, 2, range(20)), ("under", 1, 1, some)):
        with ismrmrd.Dataset(folder / f"{name}.h5", "dataset", mode="w") as dataset:
            dataset.write_xml_header(header.encode())
            for average in range(-1, averages):  # -1: noise
                for s in range(slices):
                    for step in steps if average >= 0 else (0,):
                        data = rng.standard_normal((4, 32, 2)).astype(np.float32).view(np.complex64)[..., 0]
                        line = ismrmrd.Acquisition.from_array(data)
                        line.idx.slice, line.idx.kspace_encode_step_1, line.idx.average = s, step, max(average, 0)
                        line.center_sample = 16
                        line.position[:] = 10, 20, 30 + 6 * s
                        line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = (0, 1, 0), (1, 0, 0), (0, 0, 1)
                        if average < 0:
                            line.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
                        dataset.append_acquisition(line)


def _samples(raw, where, heaps, file, line, length):
    """float32 (length,): the samples of one readout."""
    address, index = int(where["address"]), int(where["index"])
    if address not in heaps:
        heaps[address] = _heap(raw, address, file)
    start, size = heaps[address].get(index, (0, 0))
    if where["length"] != length or size < 4 * length:
        raise ReadError(
            f"{file}: readout {line}: {where['length']} numbers; allowed {length}, as its header says; "
            "convert the file again"
        )
    return np.frombuffer(raw[start : start + 4 * length], "<f4")


def _describe(h, file):
    """What a file says of itself, and where its lines lie; its shape is (slices, coils, readout, phase encode)."""
    warnings, group = [], _group(h, file)
    header, rows = _header(_text(file, h[group]["xml"]), file), _rows(_sized(file, h[group]["data"]), file)
    head = rows["head"]
    idx, use = head["idx"], _imaging(head, file, warnings)
    coils, length, pre, post, centre = (
        _single(head[key][use], key, file)
        for key in ("active_channels", "number_of_samples", "discard_pre", "discard_post", "center_sample")
    )
    readout, phase = header["encoded"]
    samples = pre, length - post
    count = length - post - pre
    offset = readout // 2 - (centre - pre)
    if coils < 1 or count < 1 or count > readout:
        raise ReadError(
            f"{file}: readouts of {coils} channels, {count} samples; allowed 1 channel or more, 1 to {readout} "
            "samples, as encodedSpace has; correct the header"
        )
    if not 0 <= offset <= readout - count:
        offset = (readout - count) // 2
    if count < readout:
        warnings.append(f"{file.name}: {count} of {readout} samples along the readout were measured, the rest is zero")
    step, (left, right) = idx["kspace_encode_step_1"].astype(int), header["limits"]
    column = step + left
    if column[use].min() < 0 or column[use].max() >= phase:
        raise ReadError(
            f"{file}: kspace_encode_step_1: {step[use].min()} to {step[use].max()}; allowed {max(-left, 0)} to "
            f"{phase - 1 - left}, as encodedSpace and the centre say; correct the header"
        )
    lines, place, position = _slices(head, use, column, file, warnings)
    have = np.zeros((len(lines), phase), bool)
    for s, found in enumerate(lines):
        have[s, [c for _, c in found]] = True
    common = have.all(axis=0)
    if not common.any():
        raise ReadError(f"{file}: no phase encode line was measured in every slice; convert the file again")
    if (have != common).any():
        warnings.append(f"{file.name}: the slices measured different lines; the {common.sum()} common to all are used")
    columns = np.arange(phase)
    acquired = common | ((columns >= left) & (columns < right))
    return {
        "rows": rows,
        "shape": (len(lines), coils, readout, phase),
        "lines": [[(line, c) for line, c in found if common[c]] for found in lines],
        "length": length,
        "samples": samples,
        "offset": offset,
        "acquired": None if acquired.all() else acquired,
        "mask": None if common[acquired].all() else common,
        "warnings": warnings,
        **_geometry(header, head[np.flatnonzero(use)[0]], place, position, file, warnings),
    }


def _group(h, file):
    """The group that holds the scan."""
    groups = [k for k in h if isinstance(h.get(k), h5py.Group) and {"data", "xml"} <= set(h[k])]
    if not groups:
        raise ReadError(f"{file}: no group with `data` and `xml`, found {sorted(h)[:8]}; is this a raw ISMRMRD file?")
    return "dataset" if "dataset" in groups else groups[0]


def _rows(readouts, file):
    """All readouts: their headers, and where their samples lie; a structured array, read past HDF5 as `_heap` tells."""
    packed = readouts.id.get_create_plist().get_nfilters()
    if readouts.ndim != 1 or not len(readouts) or not readouts.chunks or packed:
        raise ReadError(f"{file}: data: shape {readouts.shape}; allowed a list of readouts, not packed; convert again")
    kind, count, step = readouts.dtype, len(readouts), readouts.chunks[0]
    if h5py.check_vlen_dtype(kind["data"]) != np.float32:
        raise ReadError(f"{file}: data: the samples are not float32; convert the file again")
    refers = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
    offsets = [kind.fields["head"][1], kind.fields["data"][1]]
    names, formats = ["head", "data"], [kind["head"], refers]
    row = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": kind.itemsize})
    rows, places, base = np.zeros(count, row), {}, readouts.file.userblock_size
    readouts.id.chunk_iter(lambda chunk: places.update({chunk.chunk_offset[0]: chunk.byte_offset}))
    with _raw(file) as raw:
        for first in range(0, count, step):
            here = min(step, count - first)
            at = places[first] + base
            rows[first : first + here] = np.frombuffer(raw[at : at + here * kind.itemsize], row)
    rows["data"]["address"] += base
    return rows


@contextmanager
def _raw(file):
    """The bytes of a file, as they are needed."""
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        yield raw


def _imaging(head, file, warnings):
    """bool (readouts,): the readouts that make up the image."""
    flags, idx = head["flags"], head["idx"]
    use = (flags & np.uint64(sum(1 << (flag - 1) for flag in NOT_IMAGING))) == 0
    if ((flags & np.uint64(1 << (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION - 1))) != 0).any():
        warnings.append(f"{file.name}: readouts for calibration alone were left out")
    if (head["encoding_space_ref"][use] > 0).any():
        warnings.append(f"{file.name}: holds several encodings; only the first is used")
    use &= head["encoding_space_ref"] == 0
    for key in ("contrast", "repetition", "phase", "set"):
        if not use.any():
            raise ReadError(f"{file}: holds no readout of an image among {len(head)}; convert the file again")
        values = np.unique(idx[key][use])
        if len(values) > 1:
            warnings.append(f"{file.name}: {key}: {len(values)} are stored; only the first is used")
            use &= idx[key] == values[0]
    if (idx["kspace_encode_step_2"][use] > 0).any():
        raise ReadError(f"{file}: a 3-D scan (kspace_encode_step_2 > 0); {SLICES_ONLY}")
    if ((flags[use] & np.uint64(1 << (ismrmrd.ACQ_IS_REVERSE - 1))) != 0).any():
        raise ReadError(f"{file}: readouts in both directions (EPI); allowed one; correct and store as fastMRI does")
    return use


def _single(values, key, file):
    """The one value that all readouts share."""
    found = np.unique(values)
    if len(found) > 1:
        raise ReadError(f"{file}: {key} varies between readouts ({found[:4].tolist()}); allowed one; convert it again")
    return int(found[0])


def _slices(head, use, column, file, warnings):
    """Per slice, in order of place: its (readout, column) pairs, distance along the slice direction, position (3,)."""
    idx, lines, where = head["idx"]["slice"], [], []
    for s in np.unique(idx[use]):
        index = np.flatnonzero(use & (idx == s))
        lines.append([(int(i), int(column[i])) for i in index])
        where.append(head["position"][index[0]].astype(float))
    where = np.array(where)
    place = where @ head["slice_dir"][np.flatnonzero(use)[0]].astype(float)
    if not np.isfinite(place).all() or (len(place) > 1 and np.ptp(place) == 0):
        warnings.append(f"{file.name}: the readouts hold no usable positions; slices are in the order of their numbers")
        where, place = np.zeros_like(where), np.zeros(len(lines))
    order = np.argsort(place, kind="stable")
    return [lines[i] for i in order], place[order], where[order]


def _geometry(header, readout, place, position, file, warnings):
    """Shape, voxel size and affine of the delivered image, from the first readout and the places of the slices."""
    measured, field, delivered = (np.array(header[k], float) for k in ("encoded", "field", "delivered"))
    pixel = field / measured
    rows, columns = shape = np.minimum(np.maximum(np.rint(delivered / pixel), 1), measured).astype(int)
    if tuple(shape) != header["matrix"]:
        here = (int(rows), int(columns))
        warnings.append(f"{file.name}: reconSpace is {header['matrix']}, the image here {here}: not interpolated")
    along = np.array([readout["read_dir"], readout["phase_dir"], readout["slice_dir"]], float)
    if not (np.isfinite(along).all() and np.allclose(along @ along.T, np.eye(3), atol=0.01)):
        warnings.append(f"{file.name}: the readouts' directions are not three right angles; an axial scan is assumed")
        along = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], float)
    gaps = np.diff(place)
    spacing = float(np.mean(gaps)) if len(gaps) and place[0] != place[-1] else header["thickness"]
    if len(gaps) and np.ptp(gaps) > 0.05 * spacing:
        warnings.append(f"{file.name}: slices are not evenly spaced; {spacing:.2f} mm is their mean")
    centre = np.array(header["encoded"]) // 2 - (np.array(header["encoded"]) - shape) // 2  # its index in the image
    start = np.nan_to_num(position[0]) - (along[:2] * (pixel * centre)[:, None]).sum(0)
    affine = np.eye(4)
    affine[:3] = np.stack([along[1] * pixel[1], along[0] * pixel[0], along[2] * spacing, start], 1)
    affine[:2] *= -1  # left-posterior-superior to right-anterior-superior
    voxel = float(pixel[1]), float(pixel[0]), spacing
    return {"recon_shape": (int(rows), int(columns)), "voxel": voxel, "affine": affine}


def _header(text, file):
    """Numbers of the XML header: matrices and fields of view (readout, phase encode), thickness, columns with data."""
    if len(text) > 1_000_000 or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ReadError(f"{file}: xml: over 1 MB or with a DOCTYPE; allowed plain ISMRMRD XML; convert the file again")
    try:
        root = ElementTree.fromstring(text.rstrip(b"\0"))
    except (ElementTree.ParseError, ValueError, LookupError) as problem:
        raise ReadError(f"{file}: xml: not valid ({problem}); convert the file again") from problem

    def number(path, low, high, kind=int):
        found = root.findtext("{*}encoding/" + "/".join("{*}" + part for part in path.split("/")))
        try:
            value = kind(found)
        except (TypeError, ValueError):
            value = None
        if value is None or not low <= value <= high:
            raise ReadError(f"{file}: xml: {path} is {found}; allowed {low} to {high}; correct the header")
        return value

    trajectory = (root.findtext("{*}encoding/{*}trajectory") or "cartesian").strip().lower()
    if trajectory != "cartesian":
        raise ReadError(f"{file}: trajectory is {trajectory[:20]}; allowed cartesian; grid it, store as fastMRI does")
    depth = number("encodedSpace/matrixSize/z", 1, LARGEST)
    if depth > 1:
        raise ReadError(f"{file}: a 3-D scan (encodedSpace z = {depth}); {SLICES_ONLY}")
    encoded = tuple(number(f"encodedSpace/matrixSize/{axis}", 1, LARGEST) for axis in "xy")
    limits, step = (0, encoded[1]), "encodingLimits/kspace_encoding_step_1"
    if root.find("{*}encoding/{*}encodingLimits/{*}kspace_encoding_step_1") is not None:
        last = number(f"{step}/maximum", 0, LARGEST)
        left = encoded[1] // 2 - number(f"{step}/center", 0, last + 1)
        limits = left, left + last + 1
    return {
        "encoded": encoded,
        "matrix": tuple(number(f"reconSpace/matrixSize/{axis}", 1, LARGEST) for axis in "xy"),
        "field": tuple(number(f"encodedSpace/fieldOfView_mm/{axis}", 1e-3, 1e5, float) for axis in "xy"),
        "delivered": tuple(number(f"reconSpace/fieldOfView_mm/{axis}", 1e-3, 1e5, float) for axis in "xy"),
        "thickness": number("encodedSpace/fieldOfView_mm/z", 1e-3, 1e5, float),
        "limits": limits,
    }


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
    with _raw(file) as raw:
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
