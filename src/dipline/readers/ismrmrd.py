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

from pathlib import Path

import h5py
import ismrmrd
import numpy as np

from dipline.readers import base, hdf5
from dipline.readers.base import ReadError, Scan

MODALITY = "mri"
PARAMETERS = {}

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
    """{name: [files]} of a folder (with its subfolders) or of one file."""
    return base.find_volumes(path, ".h5", "; correct the dataset's `path`, or convert the raw data there")


def inspect(files):
    """Shape and warnings of a volume, from the headers alone."""
    with base.reading(files) as file, h5py.File(file, "r") as h:
        v = _describe(h, file)
    return base.summary(v["shape"], v["recon_shape"], v["mask"] is not None, v["warnings"])


def load(files, slices):
    """The chosen slices as a Scan; the affine counts slices as `inspect` does."""
    with base.reading(files) as file, h5py.File(file, "r") as h:
        v = _describe(h, file)
        _, coils, readout, phase = v["shape"]
        base.check_choice(file, slices, v["shape"])
        data, heaps = np.zeros((len(slices), coils, readout, phase), np.complex64), {}
        first, last = v["samples"]
        into = slice(v["offset"], v["offset"] + last - first)
        with hdf5.raw_bytes(file) as raw:
            for i, s in enumerate(slices):
                repeats = np.zeros(phase, int)
                for line, column in v["lines"][s]:
                    samples = _samples(raw, v["rows"][line]["data"], heaps, file, line, 2 * coils * v["length"])
                    with np.errstate(invalid="ignore", over="ignore"):
                        data[i, :, into, column] += samples.view(np.complex64).reshape(coils, -1)[:, first:last]
                    repeats[column] += 1
                base.check_values(file, data[i], s)
                data[i] /= np.maximum(repeats, 1)
    kept = {key: v[key] for key in ("recon_shape", "acquired", "mask", "affine", "voxel", "warnings")}
    return Scan(MODALITY, data, list(slices), **kept)


def fake(folder):
    """Two tiny volumes: two slices in two averages with a noise scan and zero padding; one slice, undersampled."""
    folder, rng = Path(folder), np.random.default_rng(0)
    some = (0, 3, 6, 8, 9, 10, 11, 12, 15, 18)
    for name, slices, averages, steps in (("full", 2, 2, range(20)), ("under", 1, 1, some)):
        with ismrmrd.Dataset(folder / f"{name}.h5", "dataset", mode="w") as dataset:
            dataset.write_xml_header(hdf5.FAKE_HEADER)
            for average in range(-1, averages):  # -1: noise
                for s in range(slices):
                    for step in steps if average >= 0 else (0,):
                        line = ismrmrd.Acquisition.from_array(base.noise(rng, 4, 32))
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
        heaps[address] = hdf5.heap_objects(file, raw, address)
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
    header = _header(hdf5.read_text(file, h[group]["xml"]), file)
    rows = _rows(hdf5.check_size(file, h[group]["data"]), file)
    head, (readout, phase), (left, right) = rows["head"], header["encoded"], header["limits"]
    use = _imaging(head, file, warnings)
    coils, along_readout = _readout(head[use], readout, file, warnings)
    step = head["idx"]["kspace_encode_step_1"].astype(int)
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
        "acquired": None if acquired.all() else acquired,
        "mask": None if common[acquired].all() else common,
        "warnings": warnings,
        **along_readout,
        **_geometry(header, head[use][0], place, position, file, warnings),
    }


def _readout(head, encoded, file, warnings):
    """Number of coils; of every readout its length, the (first, last + 1) samples that count, where they belong."""
    coils, length, pre, post, centre = (
        _single(head[key], key, file)
        for key in ("active_channels", "number_of_samples", "discard_pre", "discard_post", "center_sample")
    )
    count = length - post - pre
    if coils < 1 or count < 1 or count > encoded:
        raise ReadError(
            f"{file}: readouts of {coils} channels, {count} samples; allowed 1 channel or more, 1 to {encoded} "
            "samples, as encodedSpace has; correct the header"
        )
    offset = encoded // 2 - (centre - pre)
    if not 0 <= offset <= encoded - count:
        offset = (encoded - count) // 2
    if count < encoded:
        warnings.append(f"{file.name}: {count} of {encoded} samples along the readout were measured, the rest is zero")
    return coils, {"length": length, "samples": (pre, length - post), "offset": offset}


def _group(h, file):
    """The group that holds the scan."""
    groups = [k for k in h if isinstance(h.get(k), h5py.Group) and {"data", "xml"} <= set(h[k])]
    if not groups:
        raise ReadError(f"{file}: no group with `data` and `xml`, found {sorted(h)[:8]}; is this a raw ISMRMRD file?")
    return "dataset" if "dataset" in groups else groups[0]


def _rows(readouts, file):
    """All readouts, a structured array: headers, and where samples lie; read past HDF5 as `heap_objects` tells."""
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
    with hdf5.raw_bytes(file) as raw:
        for first in range(0, count, step):
            here = min(step, count - first)
            at = places[first] + base
            rows[first : first + here] = np.frombuffer(raw[at : at + here * kind.itemsize], row)
    rows["data"]["address"] += base
    return rows


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
    header = hdf5.Header(text, f"{file}: xml", "convert the file again", "not valid ({}); convert the file again")
    trajectory = (header.text("trajectory") or "cartesian").strip().lower()
    if trajectory != "cartesian":
        raise ReadError(f"{file}: trajectory is {trajectory[:20]}; allowed cartesian; grid it, store as fastMRI does")
    (depth,) = header.matrix("encodedSpace", "z")
    if depth > 1:
        raise ReadError(f"{file}: a 3-D scan (encodedSpace z = {depth}); {SLICES_ONLY}")
    encoded = header.matrix("encodedSpace")
    return {
        "encoded": encoded,
        "limits": header.columns() or (0, encoded[1]),
        "matrix": header.matrix("reconSpace"),
        "field": header.field_of_view("encodedSpace"),
        "delivered": header.field_of_view("reconSpace"),
        "thickness": header.field_of_view("encodedSpace", "z")[0],
    }
