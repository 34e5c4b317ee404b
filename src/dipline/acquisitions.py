"""What can be wrong with an acquisition: keys that do not go together, two that are the same, masks that a scan does not allow.

``study`` imports this late. No torch here.
"""

import zipfile
from functools import cache
from pathlib import Path

from dipline.study import Cartesian, Degraded, local

BLURS = ("deblur", "deblur_blind", "blur_nonlinear")
TAKES = {  # keys that mean something for one kind of task alone
    "denoise": (), "inpaint": ("missing", "boxes", "file"), "superres": ("factor", "filter"),
    **dict.fromkeys(BLURS, ("kernel", "width", "length", "angle", "file")),
    "blur_neural": ("file",), "phase": ("oversampling",), "gaussian": ("rate",),
}  # fmt: skip
UNDRAWN = ("file", "full", "as_measured")  # masks without chance or density
REGULAR = ("equispaced", "equispaced_fraction", "magic", "magic_fraction")


def essence(a):
    """What an acquisition comes to, hashable: defaults filled in, keys that mean nothing left out."""
    from dipline.acquire.views import SCANNERS

    found, chance = a.model_dump(), a.holdout is not None
    if isinstance(a, Cartesian):
        if a.mask not in REGULAR:
            found["offset"] = None
        if a.mask not in UNDRAWN:
            found["center_fraction"] = round(0.32 / a.acceleration if a.center_fraction is None else a.center_fraction, 9)
        chance |= a.noise_snr is not None or a.mask not in UNDRAWN and found["offset"] is None
    elif isinstance(a, Degraded):
        chance |= bool(a.sigma or a.peak or a.impulse or a.missing or a.rate)
        found["boxes"] = a.boxes and tuple(sorted(a.boxes))
        if a.task in BLURS and a.kernel == "gaussian":
            found["width"] = a.width or 1.6
    else:
        whole = 180.0 if a.geometry == "parallel" else 360.0
        found |= {"range": None if a.layout == "limited" else a.range or whole, "start": a.start % 360, "scanner": None}
        for key, preset in zip(("source_mm", "detector_mm"), SCANNERS[a.scanner], strict=True):
            found[key] = found[key] or preset
        chance |= a.photons is not None or a.layout == "random"
    if not chance:
        found["seed"] = None
    return tuple(sorted(found.items()))


def facts(a):
    """{key: value} of an acquisition as plug-ins refuse them; ``views`` are those that an arm sees."""
    from dipline.acquire.views import held_out

    found = a.model_dump() | {"task": a.task}
    return found | ({"views": a.views - held_out(a.views, a.holdout)} if a.task == "ct" else {})


def of_mask(a):
    """(key, what is wrong) of the settings of a Cartesian acquisition that do not go together."""
    if a.mask == "full" and a.holdout:
        yield "holdout", "means nothing with mask: full, whose samples all belong to the centre; leave it out"
    if a.mask in UNDRAWN:
        for key in ("acceleration", "center_fraction", "offset"):
            if getattr(a, key) is not None:
                yield key, f"means nothing with mask: {a.mask}; leave it out"
    elif a.acceleration is None:
        yield "acceleration", f"missing; mask: {a.mask} needs one, e.g. acceleration: 4"
    elif a.mask in ("equispaced", "magic") and a.acceleration % 1:
        yield "acceleration", f"found {a.acceleration:g}, allowed with mask: {a.mask}: a whole number"
    elif a.mask in ("random", "equispaced_fraction") and (a.center_fraction or 0) * a.acceleration >= 1:
        why = f"or the centre alone is more than acceleration {a.acceleration:g} leaves"
        most = f"less than {1 / a.acceleration:.3g}, {why}"
        yield "center_fraction", f"found {a.center_fraction:g}, allowed: {most}"
    if (a.file is None) == (a.mask == "file"):
        yield "file", "goes with mask: file, and only there"


def of_projections(a):
    """(key, what is wrong) of the settings of a CT acquisition that do not go together."""
    distances = [k for k in ("source_mm", "detector_mm") if getattr(a, k) is not None]
    if a.geometry == "parallel":
        for key in [*distances, *(["scanner"] if a.scanner != "none" else [])]:
            yield key, "means nothing with geometry: parallel; leave it out, or use geometry: fanflat"
    elif a.scanner == "none" and len(distances) < 2:
        lacking = "detector_mm" if "source_mm" in distances else "source_mm"
        yield lacking, "missing; geometry: fanflat needs source_mm and detector_mm, or scanner: aapm"
    if (a.limited_to is None) == (a.layout == "limited"):
        yield "limited_to", "goes with layout: limited, and only there, e.g. {layout: limited, limited_to: 120}"
    whole = a.range or (180 if a.geometry == "parallel" else 360)
    if a.limited_to is not None and a.limited_to >= whole:
        yield "limited_to", f"found {a.limited_to:g}, allowed: less than the {whole:g} degrees of range"
    grid = 180 if whole <= 180 else 360
    if a.layout == "random" and a.views > grid:
        yield "views", f"found {a.views}, allowed with layout: random: {grid} or less, the angles to draw from"
    if a.electronic_noise and a.photons is None:
        yield "electronic_noise", "needs photons, e.g. photons: 1e5"


def of_task(a):
    """(key, what is wrong) of the settings of a photograph's acquisition that do not go together."""
    for key in sorted({k for keys in TAKES.values() for k in keys}):
        if key not in TAKES[a.task] and getattr(a, key) != type(a).model_fields[key].default:
            tasks = ", ".join(task for task, keys in TAKES.items() if key in keys)
            yield key, f"means nothing with task: {a.task} (allowed with {tasks}); leave it out"
    if a.task == "denoise" and not (a.sigma or a.peak or a.impulse):
        yield "sigma", "missing; task: denoise needs noise: sigma: 25, peak: 30 or impulse: 0.1"
    if a.task == "inpaint" and sum(v is not None for v in (a.missing, a.boxes, a.file)) != 1:
        yield "missing", "task: inpaint needs one of missing: 0.5, boxes: [[top, left, height, width]] and file: MASK"
    for task, key, example in (("superres", "factor", 4), ("gaussian", "rate", 0.25)):
        if a.task == task and getattr(a, key) is None:
            yield key, f"missing; task: {task} needs one, e.g. {key}: {example}"
    if a.task in BLURS:
        yield from _of_kernel(a)
        if a.task == "deblur_blind" and a.holdout:
            yield "holdout", "means nothing with task: deblur_blind, where an image alone does not tell the values left out; leave it out"
    elif a.file and a.task == "inpaint":
        yield from _of_image_file(a.file, "mask_file")
    elif a.task == "blur_neural":
        yield from _of_model(a.file)


def _of_kernel(a):
    for key, kind in (("width", "gaussian"), ("length", "motion"), ("file", "file")):
        if getattr(a, key) is not None and a.kernel != kind:
            yield key, f"goes with kernel: {kind}, and only there"
    for key, kind, example in (("length", "motion", 15), ("file", "file", "kernel.npy")):
        if getattr(a, key) is None and a.kernel == kind:
            yield key, f"missing; kernel: {kind} needs one, e.g. {key}: {example}"
    if a.kernel == "file" and a.file:
        yield from _of_image_file(a.file, "kernel_file")


def _of_model(path):
    if path is None:
        yield "file", "missing; task: blur_neural needs a model, e.g. file: blur.pt"
    elif not local(path).exists():
        yield "file", f"no such file {local(path)}; correct the path"
    elif not torchscript(path):
        yield "file", f'"{path}" is no model, allowed: a TorchScript file; write one with torch.jit.script(model).save("blur.pt")'


def torchscript(path):
    """Whether a file is a TorchScript module, as far as it tells without torch: they are zip files with code."""
    try:
        with zipfile.ZipFile(local(path)) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _of_image_file(path, reader):
    """("file", fault) of a mask or kernel that cannot be one, whatever the image."""
    from dipline.acquire import degrade

    if not local(path).exists():
        yield "file", f"no such file {local(path)}; correct the path"
        return
    try:
        getattr(degrade, reader)(local(path))
    except ValueError as error:
        yield "file", str(error)


def words(a):
    """What a caption says of a photograph's acquisition, as phrases."""
    moved = f"motion blur over {a.length} pixels, {a.angle:g} degrees"
    kernels = {"gaussian": f"Gaussian blur of {a.width or 1.6:g} pixels", "motion": moved, "file": "blur by a given kernel"}
    blur = f"{kernels[a.kernel]}, periodic"
    said = {
        "denoise": "all pixels", "superres": f"{a.factor} times fewer pixels a side ({a.filter})", "deblur": blur,
        "deblur_blind": f"{blur}, the kernel unknown but for its size; scored up to a shift by whole pixels",
        "blur_neural": f"blur by the learnt model {Path(a.file or '').name}",
        "blur_nonlinear": f"{blur}, of light (grey levels to the power 2.2), cut off at white",
        "phase": f"magnitudes of a Fourier transform oversampled {a.oversampling:g} times a side",
        "gaussian": f"Gaussian random matrix, {a.rate} values a pixel",
        "inpaint": f"{100 * (a.missing or 0):g} % of the pixels missing" if a.missing else "pixels missing within given regions",
    }[a.task]  # fmt: skip
    noise = [f"Gaussian noise of {a.sigma:g}/255"] * bool(a.sigma)
    noise += [f"Poisson noise of {a.peak} photons at white"] * bool(a.peak)
    noise += [f"{100 * (a.impulse or 0):g} % of the values black or white"] * bool(a.impulse)
    return [said, *(noise or ["no noise"])]


def try_image(a, scan):
    """ValueError, key first, where an image (an entry of the index) cannot be measured so."""
    import numpy as np

    from dipline.acquire import degrade

    shape = scan["shape"][-2:]
    if a.task == "inpaint" and a.missing is None:
        degrade.seen(tuple(shape), np.random.default_rng(0), None, a.boxes, local(a.file) if a.file else None)
    if a.task in BLURS:
        kernel = degrade.kernel(a.kernel, a.width, a.length, a.angle, local(a.file) if a.file else None)
        if any(k > n for k, n in zip(kernel.shape, shape, strict=True)):
            found, allowed = (f"{rows} x {columns} pixels" for rows, columns in (kernel.shape, shape))
            raise ValueError(f"kernel: found {found}, allowed at most those of the image, {allowed}")
    if a.task == "superres" and min(shape) < 2 * a.factor:
        raise ValueError(f"factor: found {a.factor}, allowed for {shape[0]} x {shape[1]} pixels: {min(shape) // 2} or less")
    if a.task == "gaussian" and a.rate * (shape[0] * shape[1]) ** 2 > LARGEST:
        n = round((LARGEST / a.rate) ** 0.25)
        found = f"{a.rate:g} of {shape[0]} x {shape[1]} pixels is a matrix of more than 2 GB"
        raise ValueError(f"rate: {found}, allowed about {n} x {n} pixels; make images smaller, e.g. by the reader's params: {{size: 64}}")


LARGEST = 5e8  # numbers in a Gaussian matrix


def try_rays(a, scan):
    """ValueError where a scan (an entry of the index) cannot be projected so; without its voxel size nobody can tell."""
    from dipline.acquire import views

    if "voxel" in scan:
        views.geometry(scan["shape"][-2:], scan["voxel"][0], **a.model_dump())


def limits(a, shape, pixel):
    """{name: words}: what the rays miss of an image of ``shape`` (rows, columns), its pixels in mm."""
    from dipline.acquire import views

    return views.limits(shape, pixel, **a.model_dump())


def try_mask(a, scan, dataset):
    """ValueError where the mask cannot be made for a scan (an entry of the index), or its centre is too small for coil maps.

    The name of the scan's file seeds a mask of columns.
    """
    if scan.get("undersampled") and a.mask != "as_measured":
        advice = "the scan is undersampled already; use acquisitions: {as_measured: {holdout: 0.05}}"
        raise ValueError(f"mask: found {a.mask}, allowed: as_measured: {advice}")
    if a.mask in ("full", "as_measured") or "shape" not in scan or a.mask == "file" and not local(a.file).exists():
        return  # a missing file is told by the study's check; a report can do without
    named = a.seed is None and a.mask not in ("file", "gaussian_2d", "poisson")
    stamp = local(a.file).stat().st_mtime_ns if a.mask == "file" else None
    name = Path(scan["files"][0]).name if named else ""
    if fault := _mask_fault(a, _kspace(scan, dataset.crop), dataset.maps.method, name, stamp):
        raise ValueError(fault if fault.startswith("holdout: ") else f"mask: {fault}")


def _kspace(scan, crop):
    """(readout, phase encode) of a scan's k-space after the crop, as masks see it."""
    rows, columns = scan["shape"][-2:]
    height, width = scan.get("recon_shape", (rows, columns))
    return rows if crop == "full" else min(rows, height), min(columns, width) if crop == "image" else columns


@cache
def _mask_fault(a, shape, maps, name, stamp):
    """What is wrong with a mask, or nothing; ``stamp``: the time of its file."""
    import numpy as np

    from dipline.acquire import masks

    try:
        if a.mask == "poisson":  # to draw it takes seconds, and its centre is always large enough
            fraction = 0.32 / a.acceleration if a.center_fraction is None else a.center_fraction
            masks.discs(shape, a.acceleration, masks.calibration(shape, fraction))
            return ""
        if a.mask == "file":
            mask, advice = masks.from_file(local(a.file), shape), "widen the centre of the mask"
        else:
            seed, advice = masks.seed_of(name) if name else a.seed or 0, "raise center_fraction"
            mask = masks.drawn(a.mask, shape, a.acceleration, a.center_fraction, seed, a.offset)
        if not mask.any():
            return "it keeps no sample; change offset, seed or acceleration"
        if a.holdout:
            masks.hold_out(mask, a.holdout, np.random.default_rng(0))
    except ValueError as error:
        return str(error)
    columns = np.min(masks.centre_columns(mask))
    if maps != "espirit" or columns >= 4:
        return ""
    found = f"{columns} of {shape[1]} columns are a fully sampled centre"
    return f"{found}; coil maps need 4, good ones 8: {advice}, or give maps"
