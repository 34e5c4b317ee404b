"""From an image of attenuation to a sinogram: which views, which rays, how many photons.

A geometry is a dict of small arrays, as a measurement file keeps them:

    angles       float64 (views,)  radians
    detector     float64 (2,)      number of cells, their width in mm
    distances    float64 (2,)      source to isocentre, isocentre to detector, mm; (0, 0): parallel rays
    pixel        float64 (1,)      mm
    image_shape  int (2,)          rows, columns
    view_shape   int (2,)          the centre crop that is shown and scored

With x = column − (columns−1)/2 and y = (rows−1)/2 − row in pixels, a parallel ray at angle t meets the detector at
u = x cos t + y sin t. Fan: the source stands at D (sin t, −cos t), the flat detector on the other side, u along (cos t, sin t).
These are the conventions of the ASTRA toolbox (van Aarle et al. 2016), whose projectors are used.
"""

import math

import numpy as np

LAYOUTS = ("equispaced", "random", "limited")
SCANNERS = {"none": (None, None), "aapm": (595.0, 490.6)}  # mm; the scanner of the AAPM low-dose challenge (McCollough et al. 2017)
ZERO_COUNT = 0.1  # what LoDoPaB-CT puts in place of no photon at all


def angles(layout, views, range_deg, start=0.0, seed=0, limited_to=None):
    """Projection angles in radians, float64 (views,), ascending.

    equispaced: over ``range_deg`` from ``start``, endpoint excluded. random: drawn without replacement from the
    equispaced grid of 180 (or 360, for a range above 180) angles. limited: equispaced over ``limited_to`` degrees.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: found {layout!r}, allowed: {', '.join(LAYOUTS)}")
    if views < 1:
        raise ValueError(f"views: found {views}, allowed: 1 or more")
    if not 0 < range_deg <= 360:
        raise ValueError(f"range: found {range_deg}, allowed: above 0, up to 360 degrees")
    if layout == "limited":
        if limited_to is None or not 0 < limited_to <= range_deg:
            raise ValueError(f"limited_to: found {limited_to}, allowed: above 0, up to the range of {range_deg:g} degrees")
        range_deg = limited_to
    grid = views
    if layout == "random":
        grid = 180 if range_deg <= 180 else 360
        if views > grid:
            raise ValueError(f"views: found {views}, allowed with layout random: up to {grid}, the angles to draw from")
    steps = np.arange(grid)
    if layout == "random":
        steps = np.sort(np.random.default_rng(seed).choice(grid, views, replace=False))
    return np.deg2rad(start + range_deg * steps / grid)


def geometry(shape, pixel_mm, views, *, geometry="parallel", scanner="none", source_mm=None, detector_mm=None, detectors=None,
             detector_width=None, range=None, start=0.0, layout="equispaced", seed=0, limited_to=None, view_shape=None,
             **_):  # fmt: skip
    """The geometry (see the module) of an image of ``shape`` (rows, columns) under an acquisition.

    The keywords are the keys of an acquisition in a study; those that concern noise are passed over. The detector covers the
    image's diagonal by default: parallel, with cells of one pixel; fan, with as many cells, wider by the magnification.
    """
    rows, columns = shape
    diagonal = math.hypot(rows, columns) * pixel_mm
    distances, cover = (0.0, 0.0), diagonal
    if geometry == "fanflat":
        preset = SCANNERS[scanner]
        distances = (source_mm or preset[0], detector_mm or preset[1])
        if None in distances:
            raise ValueError("source_mm, detector_mm: missing; geometry fanflat needs both, or a scanner, e.g. scanner: aapm")
        if distances[0] <= diagonal / 2:
            raise ValueError(f"source_mm: found {distances[0]:g}, allowed: above {diagonal / 2:g}, half the image's diagonal")
        cover = 2 * sum(distances) * math.tan(math.asin(diagonal / 2 / distances[0]))
    elif geometry != "parallel":
        raise ValueError(f"geometry: found {geometry!r}, allowed: parallel, fanflat")
    whole = 180.0 if geometry == "parallel" else 360.0
    cells = detectors or math.ceil(cover / detector_width if detector_width else diagonal / pixel_mm)
    width = detector_width or (pixel_mm if geometry == "parallel" else cover / cells)
    nearest = 0.0 if cells % 2 else width / 2  # a ray runs through the middle of a cell
    if any(distances):
        nearest = distances[0] * math.sin(math.atan(nearest / sum(distances)))
    if nearest >= min(shape) * pixel_mm / 2:
        key = "detectors" if detectors else "detector_width"
        raise ValueError(
            f"{key}: found {cells} cells of {width:g} mm, of which no ray comes nearer to the axis than {nearest:.4g} mm, "
            f"allowed: less than {min(shape) * pixel_mm / 2:g}, half the image's side; take more and narrower ones"
        )
    return {
        "angles": angles(layout, views, range or whole, start, seed, limited_to), "detector": np.array([cells, width]),
        "distances": np.array(distances), "pixel": np.array([float(pixel_mm)]), "image_shape": np.array([rows, columns]),
        "view_shape": np.array(view_shape or (rows, columns)),
    }  # fmt: skip


def limits(shape, pixel_mm, **acquisition):
    """{name: words} of what the rays of an acquisition miss of an image, however many views there are; mostly nothing."""
    g, said = geometry(shape, pixel_mm, **acquisition), {}
    diagonal, width, (source, behind) = math.hypot(*shape) * pixel_mm, float(g["detector"].prod()), g["distances"]
    seen = 2 * source * math.sin(math.atan(width / 2 / (source + behind))) if source else width
    if seen < 0.999 * diagonal:
        said["truncated"] = f"the detector sees a circle of {seen:.4g} mm, the image has a diagonal of {diagonal:.4g} mm"
    span = acquisition.get("limited_to") or acquisition.get("range") or (360 if source else 180)
    needed = 180 + (math.degrees(2 * math.asin(min(seen, diagonal) / 2 / source)) if source else 0)
    if span < needed:
        said["limited angle"] = f"the views lie within {span:g} degrees, every line is seen from {needed:.4g} on"
    return said


def held_out(views, share):
    """How many of the views are kept from every arm, to judge by; at least one is left."""
    return min(max(1, round(share * views)), views - 1) if share else 0


def projector(geometry, gpu=False):
    """The id of an ASTRA projector, which the caller deletes. Of ASTRA's CPU projectors these agree best with exact line integrals."""
    import astra

    rows, columns = (int(n) for n in geometry["image_shape"])
    (cells, width), distances = geometry["detector"], geometry["distances"]
    half_y, half_x = (n * float(geometry["pixel"][0]) / 2 for n in (rows, columns))
    volume = astra.create_vol_geom(rows, columns, -half_x, half_x, -half_y, half_y)
    if any(distances):
        rays = astra.create_proj_geom("fanflat", width, int(cells), geometry["angles"], *map(float, distances))
    else:
        rays = astra.create_proj_geom("parallel", width, int(cells), geometry["angles"])
    kind = "cuda" if gpu else "line_fanflat" if any(distances) else "linear"
    return astra.create_projector(kind, rays, volume)


def project(mu, geometry, oversample=2):
    """Line integrals, float32 (views, detectors), dimensionless, of an image of attenuation in 1/mm (rows, columns).

    With ``oversample`` above 1 the image is interpolated to so many times finer pixels (linearly, constant beyond its border)
    and every detector cell averages so many rays: the data then do not come from the operator that inverts them.
    """
    import astra
    from scipy import ndimage

    n = int(oversample)
    cells, width = geometry["detector"]
    fine = geometry | {
        "detector": np.array([n * cells, width / n]), "pixel": geometry["pixel"] / n,
        "image_shape": np.asarray(geometry["image_shape"]) * n,
    }  # fmt: skip
    image = ndimage.zoom(np.asarray(mu, np.float32), n, order=1, mode="nearest", grid_mode=True) if n > 1 else mu
    rays = np.zeros((len(geometry["angles"]), n * int(cells)), np.float32)
    chosen = projector(fine)
    try:
        astra.projector.direct_FP(chosen, np.ascontiguousarray(image, np.float32), out=rays)
    finally:
        astra.projector.delete(chosen)
    return rays.reshape(len(rays), int(cells), n).mean(2)


def noisy(line_integrals, photons, electronic, rng):
    """(line integrals, counts), both float32, after counting ``photons`` per unattenuated ray and taking the logarithm.

    Counts are Poisson(I₀ e^−p), plus Gaussian noise of ``electronic`` counts standard deviation; what is below 0.1 becomes
    0.1. ``rng``: numpy Generator.
    """
    counts = rng.poisson(photons * np.exp(-np.asarray(line_integrals, np.float64))).astype(np.float64)
    if electronic:
        counts += electronic * rng.standard_normal(counts.shape)
    counts = np.maximum(counts, ZERO_COUNT)
    return -np.log(counts / photons).astype(np.float32), counts.astype(np.float32)
