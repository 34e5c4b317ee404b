"""One MRI volume: what is measured of it, and the truth that scores see."""

import os
from pathlib import Path

import numpy as np

from dipline import store
from dipline.acquire import masks, noise
from dipline.calibrate import espirit
from dipline.readers import cfl

SCORES = ({"metrics": ["psnr", "ssim", "nmse", "hfen"]},)  # fastMRI's, over the whole range


def truth(scan):
    """Views (h, w) of all slices: root sum of squares of the coil images, centre crop, as fastMRI's target."""
    return [_rss(kspace, scan.recon_shape) for kspace in scan.data]


def extent(view):
    """(lowest, highest) value of a view that the range of a score counts: fastMRI's begins at 0."""
    return 0.0, float(view.max())


def _rss(kspace, shape):
    return _centre(np.sqrt(np.sum(np.abs(_ifft(kspace, (-2, -1))) ** 2, 0)), shape).astype(np.float32)


def measured(scan, file, volume, spec):
    """Crop, noise, coil compression, mask, held-out samples, coil maps.

    Returns:
        ({slice: arrays}, arrays of all slices, the same two of the held-out samples, attributes).
    """
    a, warnings = spec["acq"], []
    kspace, acquired, crop = _cropped(scan, spec["crop"])
    shape = kspace.shape[-2:]
    mask = _mask(a, scan, shape, file)
    if acquired is not None and a["mask"] != "as_measured":
        mask = mask & acquired
    if not mask.any():
        advice = "change offset, seed or acceleration"
        raise ValueError(f"{file}: the mask keeps no sample of the measured columns; {advice}")
    if crop != spec["crop"]:
        warnings.append(f"{file.name}: its mask has single points along the readout, so the oversampling was kept")
    achieved, held = mask.size / int(mask.sum()), None
    if a["holdout"]:
        mask, held = masks.hold_out(mask, a["holdout"], np.random.default_rng(noise.seed_of(volume, a, "holdout")))
    content, kept = {}, {}
    for s, full in zip(scan.slices, kspace, strict=True):
        added = {}
        if a["noise_snr"] is not None:
            added = {"noise": np.array([noise.deviation(full, a["noise_snr"]), 0.0])}
            full = noise.add_noise(full, a["noise_snr"], np.random.default_rng(noise.seed_of(volume, a, f"noise {s}")))
        if a["coils"]:
            rows, columns = masks.centre_block(np.broadcast_to(mask, shape))
            centre = full[:, rows, columns].reshape(len(full), -1)
            full = noise.compress_coils(full, noise.compression_matrix(centre, a["coils"]))
        seen = (full * mask).astype(np.complex64)
        maps, info = _maps(spec["maps"], scan, s, seen, full, mask, volume)
        warnings += [w for w in info["warnings"] if w not in warnings]
        content[s] = {"kspace": seen, "maps": maps.astype(np.complex64), "calibration": info} | added
        if held is not None:
            kept[s] = {"kspace": (full * held).astype(np.complex64), "maps": content[s]["maps"]}
    view = np.array([min(n, m) for n, m in zip(scan.recon_shape, shape, strict=True)])
    found = {
        "acceleration_achieved": achieved, "crop": crop, "mask": a["mask"],
        "maps": spec["maps"]["method"], "coils": kspace.shape[1], "units": "a.u.", "warnings": warnings,
        "given": {str(f): store.file_hash(f) for f in given_files(a, spec["maps"], volume)},
    }  # fmt: skip
    shared = {"mask": mask, "view_shape": view}
    return content, shared, (kept, {"mask": held, "view_shape": view} if kept else {}), found


def given_files(acquisition, maps, volume):
    """The user's own files that a measurement is made with: a mask, coil maps."""
    files = [_path(acquisition["file"])] if acquisition["file"] else []
    if maps["file"]:
        file = _path(maps["file"].replace("{volume}", volume))
        files += [file] if file.suffix == ".npy" else [cfl.header(file), cfl.header(file).with_suffix(".cfl")]
    return files


def _path(text):
    return Path(os.path.expandvars(text)).expanduser()


def _cropped(scan, crop):
    """K-space (slices, coils, H, W), the columns that were measured, and which crop of the study file was made."""
    kspace, acquired = scan.data, scan.acquired
    if crop == "readout" and scan.recon_shape[0] < kspace.shape[-2]:
        if scan.mask is not None and scan.mask.ndim == 2:
            crop = "full"
        else:
            kspace = _fft(_centre(_ifft(kspace, (-2,)), (scan.recon_shape[0], kspace.shape[-1])), (-2,))
    elif crop == "image":
        if scan.mask is not None:
            raise ValueError("crop: image needs complete data, the scan is undersampled; use crop: readout or full")
        kspace, acquired = _fft(_centre(_ifft(kspace, (-2, -1)), scan.recon_shape), (-2, -1)), None
    return kspace.astype(np.complex64), acquired, crop


def _mask(a, scan, shape, file):
    """The mask that an acquisition asks for, bool (W,) or (H, W)."""
    kind, width = a["mask"], shape[1]
    if kind == "as_measured":
        full = scan.acquired if scan.acquired is not None else np.ones(width, bool)
        return scan.mask if scan.mask is not None else full
    if kind == "full":
        return np.ones(width, bool)
    if kind == "file":
        return masks.from_file(_path(a["file"]), shape)
    seed = a["seed"] if a["seed"] is not None else masks.seed_of(file.name)
    return masks.drawn(kind, shape, a["acceleration"], a["center_fraction"], seed, a["offset"])


def _maps(wanted, scan, s, seen, full, mask, volume):
    """Coil maps (sets, coils, H, W) of slice ``s`` and how they were made."""
    if wanted["method"] == "espirit":
        return espirit.calibrate(seen, mask, sets=wanted["sets"])
    if wanted["method"] == "full":
        maps, info = espirit.calibrate(full, np.ones(full.shape[-1], bool), sets=wanted["sets"])
        warning = "coil maps from complete data, which a real undersampled scan does not have"
        return maps, info | {"warnings": [*info["warnings"], warning]}
    if wanted["file"]:
        maps = _map_file(_path(wanted["file"].replace("{volume}", volume)), s)
    elif scan.maps is not None:
        maps = scan.maps[scan.slices.index(s)]
    else:
        advice = "name a file (maps: {method: given, file: …}) or use method: espirit"
        raise ValueError(f"maps: given, but the scan brings none; {advice}")
    if maps.shape[-3:] != seen.shape:
        allowed = f"{seen.shape} (coils, rows, columns after the crop {tuple(seen.shape[1:])})"
        raise ValueError(f"maps: found shape {maps.shape[-3:]}, allowed: {allowed}")
    maps, low, high = _normalised(maps.reshape(-1, *seen.shape))
    return maps, {"method": "given", "norm": [low, high], "warnings": []}


def _map_file(path, s):
    """Maps (coils, H, W) or (sets, coils, H, W) of slice ``s``, from .npy or BART's .cfl.

    An axis in front counts the slices of the volume, as the study does; one entry is for all slices.
    """
    try:
        maps = np.load(path, allow_pickle=False, mmap_mode="r") if path.suffix == ".npy" else cfl.read_maps(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"maps: {path}: {error}; give a .npy or a BART .cfl file") from None
    if maps.ndim < 4:
        return maps
    if len(maps) > 1 and s >= len(maps):
        advice = "its first axis counts all slices of the volume"
        raise ValueError(f"maps: {path}: holds slices 0 to {len(maps) - 1}, needed: slice {s}; {advice}")
    return maps[s if len(maps) > 1 else 0]


def _normalised(maps):
    """Maps (sets, coils, H, W) divided so that Σ|S|² = 1 where they are not 0, and the least and largest root they had there.

    Of two sets, the larger singular value of every pixel's coils x sets matrix is 1: two orthonormal sets stay as they are.
    """
    if not np.isfinite(maps).all() or not maps.any():
        raise ValueError("maps: NaN, Inf or zeros alone, allowed: finite numbers; estimate the maps again")
    maps = np.asarray(maps, np.complex128)
    gram = np.einsum("schw,tchw->hwst", maps.conj(), maps)
    norm = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[..., -1], 0))
    support = norm > 1e-6 * norm.max()  # not the dust of a Fourier transform
    return maps * (support / np.where(support, norm, 1)), float(norm[support].min()), float(norm.max())


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
