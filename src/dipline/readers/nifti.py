"""NIfTI files of CT volumes in HU, ``.nii`` or ``.nii.gz``, with any order and direction of the axes.

The axes are turned, never interpolated, until slices are as near to axial as they can be and lie as radiologists see
them: columns run from the patient's right to the left, rows from front to back, slices upwards. The affine is turned
with them and stays exact. ``scl_slope`` and ``scl_inter`` are applied once. Padding outside the scan circle becomes -1000 HU.
A volume without any air (nothing below -200) is refused: nothing in such a file states the unit, and what has no value far
below 0 is most often HU + 1024. As DICOM the same volume is taken, where the header states HU.

Kept from a file: numbers. Its texts (``descrip``, ``aux_file``, extensions) are not read. A volume is named after its
file; a name that looks like a date or UID becomes ``series_01``. A person's name in it is not known as one.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from dipline.readers import base, personal
from dipline.readers.base import ReadError, Scan

MODALITY = "ct"
PARAMETERS = {}
PERSONAL_PATHS = (".nii.gz", ".nii", "")

AXES = orientations.axcodes2ornt(("L", "P", "S"))  # (column, row, slice) as they are delivered
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


def list_volumes(path):
    """{name: [files]} of a folder (with its subfolders) or of one file."""
    found, private, advice = {}, [], "; correct the dataset's `path`, or unpack the archive there"
    for file in (file for files in base.find_volumes(path, ".nii*", advice).values() for file in files):
        name = file.name.removesuffix(".gz").removesuffix(".nii")
        if personal.private(name):
            private.append(("", [file]))
        else:
            found.setdefault(name, []).append(file)
    return personal.named([*found.items(), *private])


def inspect(files):
    """Shape, voxel size and warnings of a volume, from its header alone."""
    with base.reading(files) as file:
        v = _describe(file)
    return base.volume_summary(v["shape"], v["voxel"], v["warnings"])


def load(files, slices):
    """The chosen slices as a Scan; the affine counts slices as they are delivered, from the lowest upwards."""
    with base.reading(files) as file:
        v = _describe(file)
        base.check_choice(file, slices, v["shape"])
        first, last = min(slices), max(slices)
        base.check_choice(file, range(first, last + 1), v["shape"])  # all between is read: a .gz has no random access
        block = _block(file, v, first, last)
        base.check_hounsfield(file, _widening(file, v, block))
        data = np.stack([block[s - first] for s in slices]).astype(np.float32)
        warnings = v["warnings"] + base.fill_padding(data, np.zeros(data.shape, bool), file.name)
        for s, image in zip(slices, data, strict=True):
            base.check_slice(file, image, s)
    kept = {"affine": v["affine"], "voxel": v["voxel"], "warnings": warnings}
    return Scan(MODALITY, data, list(slices), recon_shape=v["shape"][1:], **kept)


def fake(folder):
    """Two tiny volumes: scaled int16, compressed, to the right, front and top; float32 in the order delivered."""
    folder, rng = Path(folder), np.random.default_rng(0)
    hu = np.full((4, 20, 24), -1000.0) + rng.normal(0, 5, (4, 20, 24))  # (slices, rows, columns)
    hu[:, 4:15, 6:20] = 40 + rng.normal(0, 20, (4, 11, 14))
    scaled = nib.Nifti1Image(hu.transpose(2, 1, 0)[::-1, ::-1], np.diag([1.5, 1.5, 3.0, 1.0]))
    scaled.header.set_data_dtype(np.int16)  # nibabel then chooses slope and intercept
    nib.save(scaled, folder / "scaled.nii.gz")
    nib.save(
        nib.Nifti1Image(hu.transpose(2, 1, 0).astype(np.float32), np.diag([-1.5, -1.5, 3.0, 1.0])), folder / "plain.nii"
    )


def _describe(file):
    """Shape (slices, rows, columns), affine and voxel size as delivered, and how the file's axes are turned."""
    if not file.name.endswith((".nii", ".nii.gz")):
        raise ReadError(f"{file}: allowed .nii or .nii.gz; convert it")
    image, warnings = nib.load(file), []
    if not isinstance(image, nib.Nifti1Image):
        raise ReadError(f"{file}: {type(image).__name__}; allowed NIfTI; convert it")
    kind, shape = image.get_data_dtype(), tuple(map(int, image.shape))
    if kind.kind not in "iuf":
        raise ReadError(f"{file}: values of type {kind}; allowed whole or real numbers (HU); store one number a voxel")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape += (1,) if len(shape) == 2 else ()
    if len(shape) != 3:
        raise ReadError(f"{file}: shape {shape}; allowed one volume of 3 axes; store each volume in a file of its own")
    if min(shape) < 1 or max(shape) > base.LARGEST or sum(n > 1 for n in shape) < 2:
        raise ReadError(f"{file}: shape {shape}; allowed 2 or 3 axes of 1 to {base.LARGEST} voxels; write it again")
    needed, size = image.dataobj.offset + kind.itemsize * int(np.prod(shape, dtype=object)), file.stat().st_size
    if needed > size * (1100 if file.suffix == ".gz" else 1):  # deflate packs 1000 to 1
        raise ReadError(f"{file}: {size} bytes, too few for shape {shape}: cut off; copy or download it again")
    affine = np.array(image.affine, float)
    affine[:3] *= MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ReadError(f"{file}: the affine {affine[:3].tolist()} has no inverse; allowed one that has; correct it")
    if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
        warnings.append(f"{file.name}: no orientation in the header; axes to the left, front and top are assumed")
    turn = orientations.ornt_transform(orientations.io_orientation(affine), AXES)
    affine = affine @ orientations.inv_ornt_aff(turn, shape)
    voxel = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    base.check_square(file, *voxel[:2])
    tilt = np.degrees(np.arccos(np.min(np.abs(np.diag(affine[:3, :3])) / voxel)))
    if tilt > 0.5:
        warnings.append(f"{file.name}: axes tilted by {tilt:.1f} degrees; each slice is reconstructed in its own plane")
    delivered = tuple(shape[int(np.flatnonzero(turn[:, 0] == axis)[0])] for axis in (2, 1, 0))
    return {"image": image, "turn": turn, "stored": shape, "shape": delivered, "affine": affine, "voxel": voxel,
            "warnings": warnings}  # fmt: skip


def _block(file, v, first, last):
    """HU of the delivered slices first to last, (slices, rows, columns), scaled as the header says."""
    axis = int(np.flatnonzero(v["turn"][:, 0] == 2)[0])
    if v["turn"][axis, 1] < 0:
        first, last = v["shape"][0] - 1 - last, v["shape"][0] - 1 - first
    chosen = [slice(None)] * 3
    chosen[axis] = slice(first, last + 1)
    extra = len(v["image"].shape) - 3
    try:
        with np.errstate(all="ignore"):  # of what overflows, the caller is told
            block = np.asarray(v["image"].dataobj[tuple(chosen[: 3 + min(extra, 0)] + [0] * max(extra, 0))])
    except (EOFError, OSError, ValueError) as problem:
        raise ReadError(f"{file}: cut off or damaged ({type(problem).__name__}); copy it again") from problem
    stored = [last + 1 - first if i == axis else n for i, n in enumerate(v["stored"])]
    return orientations.apply_orientation(block.reshape(stored), v["turn"]).transpose(2, 1, 0)


def _widening(file, v, block):
    """What was read, then the whole volume: a slice inside the body may hold no air, the volume must."""
    yield block
    base.check_choice(file, range(v["shape"][0]), v["shape"])
    yield _block(file, v, 0, v["shape"][0] - 1)
