"""One CT volume: what is measured of it, and the truth that scores see."""

import numpy as np

from dipline.acquire import noise, views
from dipline.hounsfield import AIR, to_mu

SCORES = (  # HU from air upwards; again in the soft-tissue window, centre 40, width 400
    {"clip": [AIR, None], "metrics": ["psnr", "ssim", "rmse_hu", "hfen"]},
    {"name": "40_400", "clip": [-160.0, 240.0], "metrics": ["psnr", "ssim"]},
)
OVERSAMPLE = 2  # the scan is projected on a grid so many times finer than that of the operator: no inverse crime


def truth(scan):
    """Views (rows, columns) in HU of all slices; nothing is less than air."""
    return [np.maximum(hu, np.float32(AIR)) for hu in scan.data]


def extent(view):
    """(lowest, highest) value of a view that the range of a score counts."""
    return float(view.min()), float(view.max())


def measured(scan, file, volume, spec):
    """Attenuation, line integrals, photons, held-out views.

    Returns:
        ({slice: arrays}, arrays of all slices, the same two of the held-out views, attributes).
    """
    a = spec["acq"]
    if abs(scan.voxel[0] - scan.voxel[1]) > 1e-3 * scan.voxel[0]:
        raise ValueError(f"{file}: pixels of {scan.voxel[0]:g} x {scan.voxel[1]:g} mm, allowed: square ones; resample first")
    geometry = views.geometry(scan.data.shape[-2:], float(scan.voxel[0]), **a)
    kept_views = np.zeros(a["views"], bool)
    if count := views.held_out(a["views"], a["holdout"]):
        rng = np.random.default_rng(noise.seed_of(volume, a, "holdout"))
        kept_views[rng.choice(a["views"], count, replace=False)] = True
    content, kept = {}, {}
    for s, hu in zip(scan.slices, truth(scan), strict=True):
        rays = {"sinogram": views.project(to_mu(hu), geometry, 1 if a["inverse_crime"] else OVERSAMPLE)}
        if a["photons"]:
            rng = np.random.default_rng(noise.seed_of(volume, a, f"noise {s}"))
            rays["sinogram"], rays["counts"] = views.noisy(rays["sinogram"], a["photons"], a["electronic_noise"], rng)
        content[s] = {name: array[~kept_views] for name, array in rays.items()}
        if a["electronic_noise"]:
            content[s]["noise"] = np.array([a["electronic_noise"], 0.0])
        if kept_views.any():
            kept[s] = {name: array[kept_views] for name, array in rays.items()}
    warnings = ["projected with the operator's own grid: an inverse crime, too easy"] if a["inverse_crime"] else []
    limits = views.limits(scan.data.shape[-2:], float(scan.voxel[0]), **a)
    warnings += [f"{name}: {words}" for name, words in limits.items()]
    found = {
        "views": a["views"], "geometry": a["geometry"], "layout": a["layout"], "photons": a["photons"], "units": "HU",
        "inverse_crime": a["inverse_crime"], "pixel_mm": float(scan.voxel[0]), "warnings": warnings,
        "limits": list(limits),
    }  # fmt: skip
    of = lambda chosen: geometry | {"angles": geometry["angles"][chosen]}  # noqa: E731
    return content, of(~kept_views), (kept, of(kept_views) if kept else {}), found
