"""From a scan to what an arm may see (``measure``), and to the truth that only scores see (``reference``)."""

import hashlib
import os
from pathlib import Path

import numpy as np

from dipline import registry, store
from dipline.acquire import masks, noise
from dipline.calibrate import espirit


def simulate(out, spec):
    """Write one embedded patient in its true file format."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    registry.get("readers", spec["reader"]).load().write(out.stem, out, **spec["params"])


def reference(files, out, volume, slices, spec):
    """Write the truth of the chosen slices, and the largest value of all slices (the range of PSNR and SSIM)."""
    reader = registry.get("readers", spec["reader"]).load()
    files = [Path(f) for f in files]
    attributes = {"kind": "reference", "volume": volume, "status": "done", "reason": ""}
    content = {}
    try:
        scan = reader.load(files, slices, **spec["params"])
        if scan.mask is not None:
            attributes |= {"status": "none", "reason": "the scan is undersampled: there is no truth"}
        else:
            views = dict(zip(slices, map(_truth(scan.recon_shape), scan.data), strict=True))
            peak = max(float(v.max()) for v in views.values())
            for s in set(range(reader.inspect(files, **spec["params"])["slices"])) - set(slices):
                try:
                    other = reader.load(files, [s], **spec["params"]).data[0]
                    peak = max(peak, float(_truth(scan.recon_shape)(other).max()))
                except ValueError:
                    continue  # an unreadable slice that nobody asked for
            content = {s: {"view": v} for s, v in views.items()}
            attributes["range"] = peak
    except ValueError as error:
        attributes |= {"status": "failed", "reason": str(error)}
    store.write(out, content, attributes | {"provenance": _provenance("reference", spec, files)})


def _truth(shape):
    """Root sum of squares of the fully sampled coil images (coils, readout, phase), centre crop: fastMRI's target."""
    return lambda kspace: _centre(np.sqrt(np.sum(np.abs(_ifft(kspace, (-2, -1))) ** 2, 0)), shape).astype(np.float32)


def measure(files, out, heldout, dataset, volume, acq, slices, spec):
    """Undersample, add noise, estimate coil maps from what is left, and write one self-contained file.

    A scan that cannot be used gives a file whose status is ``failed``, with the reason; only what another attempt can
    mend (disk, memory, signal) is an exception.
    """
    files = [Path(f) for f in files]
    attributes = {
        "kind": "measurement", "dataset": dataset, "volume": volume, "acq": acq, "physics": spec["physics"],
        "status": "done", "reason": "",
    }  # fmt: skip
    content, shared, kept = {}, {}, ({}, {})
    try:
        scan = registry.get("readers", spec["reader"]).load().load(files, slices, **spec["params"])
        content, shared, kept, found = MODALITIES[scan.modality](scan, files[0], volume, spec)
        attributes |= found | {
            "modality": scan.modality, "affine": scan.affine.tolist(), "voxel": [float(v) for v in scan.voxel],
            "meta": scan.meta, "warnings": scan.warnings + found["warnings"],
        }  # fmt: skip
    except ValueError as error:
        attributes |= {"status": "failed", "reason": str(error)}
    attributes["provenance"] = _provenance("measure", spec, files)
    store.write(heldout, kept[0], {"kind": "heldout", "status": "done" if kept[0] else "none"}, kept[1])
    store.write(out, content, attributes, shared)


def _provenance(verb, spec, files):
    return store.provenance(verb, spec, [f for f in files if f.is_file() and os.access(f, os.R_OK)])


def _mri(scan, file, volume, spec):
    """One MRI volume: crop, noise, coil compression, mask, held-out samples, coil maps."""
    a, warnings = spec["acq"], []
    kspace, acquired = _cropped(scan, spec["crop"])
    shape = kspace.shape[-2:]
    mask = _mask(a, scan, shape, file)
    if acquired is not None and a["mask"] != "as_measured":
        mask = mask & acquired
    if not mask.any():
        advice = "change offset, seed or acceleration"
        raise ValueError(f"{file}: the mask keeps no sample of the measured columns; {advice}")
    achieved, held = mask.size / int(mask.sum()), None
    if a["holdout"]:
        mask, held = masks.hold_out(mask, a["holdout"], np.random.default_rng(_seed(volume, a, "holdout")))
    content, kept = {}, {}
    for s, full in zip(scan.slices, kspace, strict=True):
        if a["noise_snr"] is not None:
            full = noise.add_noise(full, a["noise_snr"], np.random.default_rng(_seed(volume, a, f"noise {s}")))
        if a["coils"]:
            rows, columns = masks.centre_block(np.broadcast_to(mask, shape))
            centre = full[:, rows, columns].reshape(len(full), -1)
            full = noise.compress_coils(full, noise.compression_matrix(centre, a["coils"]))
        seen = (full * mask).astype(np.complex64)
        maps, info = _maps(spec["maps"], scan, scan.slices.index(s), seen, full, mask, volume)
        warnings += [w for w in info["warnings"] if w not in warnings]
        content[s] = {"kspace": seen, "maps": maps.astype(np.complex64), "calibration": info}
        if held is not None:
            kept[s] = {"kspace": (full * held).astype(np.complex64), "maps": content[s]["maps"]}
    view = np.array([min(n, m) for n, m in zip(scan.recon_shape, shape, strict=True)])
    found = {
        "acceleration_achieved": achieved, "crop": spec["crop"], "mask": a["mask"],
        "maps": spec["maps"]["method"], "coils": kspace.shape[1], "units": "a.u.", "warnings": warnings,
    }  # fmt: skip
    shared = {"mask": mask, "view_shape": view}
    return content, shared, (kept, {"mask": held, "view_shape": view} if kept else {}), found


MODALITIES = {"mri": _mri}


def _seed(volume, acquisition, purpose):
    """From the volume's name, the acquisition's seed and the purpose; not from the slices that happen to be chosen."""
    return int.from_bytes(hashlib.sha256(f"{volume}/{acquisition['seed']}/{purpose}".encode()).digest()[:8], "big")


def _cropped(scan, crop):
    """K-space (slices, coils, H, W) and the columns that were measured, under one of the crops of the study file."""
    kspace, acquired = scan.data, scan.acquired
    by_points = scan.mask is not None and scan.mask.ndim == 2
    if crop == "readout" and scan.recon_shape[0] < kspace.shape[-2] and not by_points:
        kspace = _fft(_centre(_ifft(kspace, (-2,)), (scan.recon_shape[0], kspace.shape[-1])), (-2,))
    elif crop == "image":
        if scan.mask is not None:
            raise ValueError("crop: image needs complete data, the scan is undersampled; use crop: readout or full")
        kspace, acquired = _fft(_centre(_ifft(kspace, (-2, -1)), scan.recon_shape), (-2, -1)), None
    return kspace.astype(np.complex64), acquired


def _mask(a, scan, shape, file):
    """The mask that an acquisition asks for, bool (W,) or (H, W)."""
    kind, width = a["mask"], shape[1]
    if kind == "as_measured":
        full = scan.acquired if scan.acquired is not None else np.ones(width, bool)
        return scan.mask if scan.mask is not None else full
    if kind == "full":
        return np.ones(width, bool)
    if kind == "file":
        return masks.from_file(os.path.expandvars(a["file"]), shape)
    seed = a["seed"] if a["seed"] is not None else masks.seed_of(file.name)
    fraction = 0.32 / a["acceleration"] if a["center_fraction"] is None else a["center_fraction"]
    if kind in masks.KINDS:
        return masks.cartesian(kind, width, a["acceleration"], fraction, seed, a["offset"])[0]
    if kind == "gaussian":
        return masks.gaussian(width, a["acceleration"], fraction, seed)
    if kind == "gaussian_2d":
        return masks.gaussian(shape, a["acceleration"], fraction, seed)
    return masks.poisson(shape, a["acceleration"], [max(4, round(n * fraction)) for n in shape], seed)


def _maps(wanted, scan, position, seen, full, mask, volume):
    """Coil maps (sets, coils, H, W) of one slice and how they were made."""
    if wanted["method"] == "espirit":
        return espirit.calibrate(seen, mask, sets=wanted["sets"])
    if wanted["method"] == "full":
        maps, info = espirit.calibrate(full, np.ones(full.shape[-1], bool), sets=wanted["sets"])
        warning = "coil maps from complete data, which a real undersampled scan does not have"
        return maps, info | {"warnings": [*info["warnings"], warning]}
    if wanted["file"]:
        maps = _map_file(Path(os.path.expandvars(wanted["file"].replace("{volume}", volume))), position)
    elif scan.maps is not None:
        maps = scan.maps[position]
    else:
        advice = "name a file (maps: {method: given, file: …}) or use method: espirit"
        raise ValueError(f"maps: given, but the scan brings none; {advice}")
    if maps.shape[-3:] != seen.shape:
        allowed = f"{seen.shape} (coils, rows, columns after the crop {tuple(seen.shape[1:])})"
        raise ValueError(f"maps: found shape {maps.shape[-3:]}, allowed: {allowed}")
    return maps.reshape(-1, *seen.shape), {"method": "given", "warnings": []}


def _map_file(path, position):
    """Maps (coils, H, W) of the slice at ``position``, from .npy (with or without an axis of slices) or BART's .cfl."""
    try:
        if path.suffix == ".npy":
            maps = np.load(path, allow_pickle=False)
        else:
            from dipline.readers import cfl

            maps = cfl.read_maps(path)
    except OSError as error:
        raise ValueError(f"maps: {path}: {error}; give a .npy or a BART .cfl file") from None
    return maps[position] if maps.ndim == 4 else maps


def _centre(x, shape):
    """The centre crop (…, *shape); fastMRI's rounding."""
    (h, w), (height, width) = shape, x.shape[-2:]
    h, w = min(h, height), min(w, width)
    top, left = (height - h) // 2, (width - w) // 2
    return x[..., top : top + h, left : left + w]


def _fft(x, axes):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def _ifft(x, axes):
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
