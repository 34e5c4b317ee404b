"""Volumes for viewers and for other programs: NIfTI and HDF5, one of each for every job with a result.

    volumes/<arm>/<dataset>/<acq>/seed<k>/<volume>.nii.gz    axes (column, row, slice), millimetres, for any viewer
    volumes/<arm>/<dataset>/<acq>/seed<k>/<volume>.h5        dataset `reconstruction` (slices, rows, columns)
    volumes/<arm>/<dataset>/<acq>/seed<k>/<volume>.png       photographs, instead of NIfTI; HDF5: (slices, [colours,] rows, columns)

A folder of HDF5 files is what fastMRI's own evaluate.py takes as its predictions: it pairs them with the targets by file
name, and compares whole volumes (`slices: all`). The same images give the same bytes. CT is in HU. A slice without an
image (it failed, or lies between chosen ones that are not evenly spaced) is zero, in CT air: 0 HU would be water. The
HDF5 file has what failed under `failed_slices` and the number under `fill`; the NIfTI file has both in its description,
and the unit under `intent_name`.
"""

import gzip

import h5py
import nibabel as nib
import numpy as np

from dipline import store
from dipline.hounsfield import AIR
from dipline.report import tables


def volumes(plan):
    """Write all volumes; returns the files written. The folder is there even if nothing could be written."""
    (plan.root / "volumes").mkdir(parents=True, exist_ok=True)
    written = []
    for job in plan.jobs:
        views = tables.views(plan, job)
        shapes = {c["view"].shape for c in views.values()}
        if len(shapes) != 1:  # no result, or slices that are no volume
            continue
        chosen = plan.volumes[job.dataset][job.volume]["chosen"]
        head = tables.attributes(plan.measurement(job.dataset, job.volume, job.acq))
        fill = AIR if plan.study.modality(job.dataset) == "ct" else 0.0
        stack = np.full((len(chosen), *shapes.pop()), fill, np.float32)
        for i, index in enumerate(chosen):
            if index in views:
                stack[i] = views[index]["view"]
        folder = plan.root / "volumes" / job.arm / job.dataset / job.acq / f"seed{job.seed}"
        kind = "png" if plan.study.modality(job.dataset) == "image" else "nii.gz"
        shown, hdf5 = folder / f"{job.volume}.{kind}", folder / f"{job.volume}.h5"
        failed = [s for s in chosen if s not in views]
        units = str(head.get("units", ""))
        if kind == "png":
            _png(shown, stack[0])
        else:
            _nifti(shown, stack, chosen, failed, np.array(head.get("affine", np.eye(4)), float), fill, units)
        _hdf5(hdf5, stack, chosen, failed, fill, units)
        written += [str(shown), str(hdf5)]
    return written


def _png(path, image):
    """An image (H, W) or (3, H, W), 8 bits a value; what lies outside black and white is cut off."""
    from PIL import Image

    values = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    with store.written(path) as part:
        Image.fromarray(values.transpose(1, 2, 0) if values.ndim == 3 else values).save(part, format="png")


def geometry(chosen, affine):
    """(positions of the chosen slices in the exported volume, its depth, its affine).

    The affine of a scan counts slices from the first of the file. Evenly spaced slices become neighbours, with their
    true distance as voxel size; unevenly spaced ones keep their places, with empty slices between them.
    """
    steps = set(np.diff(chosen).tolist())
    step = steps.pop() if len(steps) == 1 else 1
    out = affine.copy()
    out[:3, 3] += chosen[0] * affine[:3, 2]
    out[:3, 2] *= step
    at = [(index - chosen[0]) // step for index in chosen]
    return at, at[-1] + 1, out


def _nifti(path, stack, chosen, failed, affine, fill, units):
    at, depth, affine = geometry(chosen, affine)
    data = np.full((stack.shape[2], stack.shape[1], depth), fill, np.float32)
    data[:, :, at] = stack.transpose(2, 1, 0)
    image = nib.Nifti1Image(data, affine)
    there = {place for place, index in zip(at, chosen, strict=True) if index not in failed}
    image.header["descrip"], image.header["intent_name"] = _description(sorted(set(range(depth)) - there), fill), units
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-4):  # a tilted gantry: a qform holds no shear
        image.set_qform(None, code=0)
    with (
        store.written(path) as part,
        open(part, "wb") as f,
        gzip.GzipFile(filename="", fileobj=f, mode="wb", mtime=0) as z,
    ):
        z.write(image.to_bytes())


NO_IMAGE = "no image, filled with"  # the first words of a description


def _description(empty, fill):
    """Which slices of a NIfTI volume, counted from 0, hold no image; the header has room for 79 characters."""
    if not empty:
        return ""
    said = f"{NO_IMAGE} {fill:g}: {len(empty)} slice(s)"
    named = f"{said}: {','.join(map(str, empty))}"
    return named if len(named) < 80 else said


def _hdf5(path, stack, chosen, failed, fill, units):
    with store.written(path) as part, h5py.File(part, "w", track_order=False) as f:
        f.create_dataset("reconstruction", data=stack, track_times=False)
        f.attrs["slices"], f.attrs["failed_slices"] = np.array(chosen, int), np.array(failed, int)
        f.attrs["fill"], f.attrs["units"] = fill, units
