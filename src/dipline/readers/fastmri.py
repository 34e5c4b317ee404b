"""fastMRI's HDF5 files: one volume a file, multi-coil or single-coil, with or without reference and header.

``kspace`` is complex (slices, coils, readout, phase encode), single-coil (slices, readout, phase encode), centred (zero
frequency at index n // 2); ``ismrmrd_header`` is XML; ``mask``, (phase encode,) or (readout, phase encode), marks the
samples of a scan that was undersampled on the scanner. Size of the delivered image: that of ``reconstruction_rss`` or
``reconstruction_esc``, else the header's reconSpace, else guessed with a warning. Columns without data and voxel size:
from the header, as fastMRI counts them. The format keeps no position and no orientation: the affine has the axes of an
axial scan (columns to the left, rows to the back, slices upwards), its origin in the middle of the volume.

Kept from a file: numbers. Its attributes (``patient_id``) are not read.
"""

from pathlib import Path

import h5py
import numpy as np

from dipline.readers import base, hdf5
from dipline.readers.base import ReadError, Scan

MODALITY = "mri"
PARAMETERS = {}


def list_volumes(path):
    """{name: [files]} of a folder (with its subfolders) or of one file."""
    return base.find_volumes(path, ".h5", "; correct the dataset's `path`, or unpack the archive there")


def inspect(files):
    """Shape and warnings of a volume, from the headers alone."""
    with base.reading(files) as file, h5py.File(file, "r") as h:
        v = _describe(h, file)
    return base.summary(v["shape"], v["recon_shape"], v["mask"] is not None, v["warnings"])


def load(files, slices):
    """The chosen slices as a Scan; the affine counts slices as the file does."""
    with base.reading(files) as file, h5py.File(file, "r") as h:
        v = _describe(h, file)
        count, *shape = v["shape"]
        base.check_choice(file, slices, v["shape"])
        data = np.empty((len(slices), *shape), np.complex64)
        for i, s in enumerate(slices):
            with np.errstate(over="ignore"):
                data[i] = h["kspace"][s].reshape(shape)
            base.check_values(file, data[i], s)
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
    kspace = base.noise(rng, 2, 4, 32, 24)
    kspace[..., :2] = kspace[..., 22:] = 0
    with h5py.File(folder / "multi.h5", "w") as h:
        h.create_dataset("kspace", data=kspace, compression="gzip", chunks=(1, 2, 32, 24))
        h["reconstruction_rss"], h["ismrmrd_header"] = np.ones((2, 16, 24), np.float32), hdf5.FAKE_HEADER
        h.attrs["acquisition"] = "AXT2"
    mask = (np.arange(24) % 2 == 0) | (np.abs(np.arange(24) - 12) < 4)
    with h5py.File(folder / "single.h5", "w") as h:
        h["kspace"], h["mask"] = kspace[:1, 0] * mask, mask


def _describe(h, file):
    """What a file says of itself; its shape is (slices, coils, readout, phase encode)."""
    warnings, shape = [], _shape(h, file)
    header = _header(h, file)
    acquired = _acquired(header["columns"], file, shape[3], warnings) if header else None
    recon_shape = _recon_shape(h, file, header, *shape[2:], warnings)
    if not header:
        warnings.append(f"{file.name}: no header: voxel size unknown, 1 mm is assumed")
    return {
        "shape": shape,
        "recon_shape": recon_shape,
        "acquired": acquired,
        "mask": _mask(h, file, *shape[2:]),
        "voxel": header["voxel"] if header else (1.0, 1.0, 1.0),
        "warnings": warnings,
    }


def _shape(h, file):
    """(slices, coils, readout, phase encode) of k-space."""
    kspace, layout = h.get("kspace"), "(slices, coils, readout, phase encode)"
    if not isinstance(kspace, h5py.Dataset):
        raise ReadError(f"{file}: no dataset `kspace`, found {sorted(h)[:8]}; is this a fastMRI file?")
    shape = kspace.shape or ()
    where = f"{file}: kspace: shape {shape}"
    if len(shape) not in (3, 4):
        raise ReadError(f"{where}; allowed {layout}, single-coil (slices, readout, phase encode); add or remove axes")
    if min(shape) < 1 or max(shape) > base.LARGEST:
        raise ReadError(f"{where}; allowed 1 to {base.LARGEST} samples along an axis; write the file again")
    if kspace.dtype.kind != "c":
        raise ReadError(f"{file}: kspace: {kspace.dtype}; allowed complex64; store both parts as one complex number")
    if len(shape) == 4 and shape[3] <= 32 and 2 * shape[3] < min(shape[1:3]):
        raise ReadError(f"{where} looks like coils last; allowed {layout}; store kspace.transpose(0, 3, 1, 2)")
    hdf5.check_size(file, kspace)
    return shape if len(shape) == 4 else (shape[0], 1, *shape[1:])


def _recon_shape(h, file, header, readout, phase, warnings):
    """(rows, columns) of the delivered image: the reference's, else the header's, else a guess."""
    stored = [h[k].shape for k in ("reconstruction_rss", "reconstruction_esc") if isinstance(h.get(k), h5py.Dataset)]
    if stored:
        if not stored[0] or len(stored[0]) != 3 or min(stored[0]) < 1:
            raise ReadError(f"{file}: reconstruction: shape {stored[0]}; allowed (slices, rows, columns); remove it")
        rows, columns = stored[0][1:]
    elif header:
        rows, columns = header["recon_shape"]
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
    return int(rows), int(columns)


def _mask(h, file, readout, phase):
    """The sampled positions of a scan that was undersampled on the scanner, bool, or None."""
    mask = h.get("mask")
    if mask is None:
        return None
    shape, allowed = getattr(mask, "shape", None), ((phase,), (readout, phase))
    if shape not in allowed or mask.dtype.kind not in "biuf":
        raise ReadError(f"{file}: mask: shape {shape}; allowed {allowed[0]} or {allowed[1]}; correct or remove it")
    mask = hdf5.check_size(file, mask)[()] != 0
    if not mask.any():
        raise ReadError(f"{file}: mask: all zero, so nothing was measured; correct or remove it")
    return mask


def _header(h, file):
    """Numbers of the ISMRMRD header, or None where a file has none."""
    stored = h.get("ismrmrd_header")
    if stored is None:
        return None
    where, invalid = f"{file}: ismrmrd_header", "no valid XML ({}); correct or remove it"
    header = hdf5.Header(hdf5.read_text(file, stored), where, "remove it", invalid)
    rows, columns = header.matrix("reconSpace")
    high, wide, thick = header.field_of_view("reconSpace", "xyz")
    (depth,) = header.matrix("reconSpace", "z")
    voxel = wide / columns, high / rows, thick / depth
    return {"recon_shape": (rows, columns), "voxel": voxel, "columns": header.columns()}


def _acquired(limits, file, phase, warnings):
    """bool (phase,): columns that the scanner measured, within the header's limits; None: all of them."""
    if not limits:
        return None
    left, right = limits
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
