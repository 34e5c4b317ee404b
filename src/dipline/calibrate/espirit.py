"""ESPIRiT: coil sensitivities as eigenvectors of a local k-space projection.

The kernel x kernel windows of the fully sampled centre are the rows of the calibration matrix; its right singular
vectors above the threshold span the space of windows of coil k-space. To project all windows of a k-space on it and to
average is, at image position r, a matrix G(r) over the coils that leaves coil images s(r) x(r) unchanged: the
sensitivities s are its eigenvectors with eigenvalue 1. A second set serves objects that fold over themselves.

Uecker et al. 2014, doi:10.1002/mrm.24751. Defaults are BART's: 24 lines, kernel 6, sigma_i / sigma_0 > sqrt(0.001),
crop 0.8. Deviations: eigenvectors are exact (BART: 30 iterations), which shows where two eigenvalues nearly coincide;
the block may be a rectangle, because undersampled scans have many readout rows but few centre columns.
"""

import numpy as np

from dipline.acquire.masks import centre_block

THRESHOLD = 0.001 ** 0.5


def espirit(kspace, centre, kernel=6, threshold=THRESHOLD, crop=0.8, sets=1):
    """Maps (sets, coils, rows, columns), eigenvalues (sets, rows, columns) from k-space (coils, rows, columns).

    centre: (rows, columns) of the calibration block, sizes around n // 2 or slices. Maps are zero where the eigenvalue
    is below crop, elsewhere of unit norm over the coils; the phase of coil 0 is taken as zero.
    """
    block = tuple(c if isinstance(c, slice) else slice(n // 2 - c // 2, n // 2 - c // 2 + c)
                  for c, n in zip(centre, kspace.shape[1:], strict=True))
    maps, eigenvalues = _eigenmaps(kspace[(slice(None), *block)], kspace.shape[1:], kernel, threshold, sets)
    return _cropped(maps, eigenvalues, crop), eigenvalues


def calibrate(kspace, mask, sets=1, crop=0.8):
    """Maps (sets, coils, rows, columns) from undersampled k-space (coils, rows, columns), and a dict of what was used.

    mask: (columns,) or (rows, columns). From 12 centre columns on kernel 6; from 4 to 11 kernel 4, and the crop lowered
    until 99 % of the object is inside: where the RSS image of the centre exceeds 10 % of its 99th percentile.
    info: kernel, rows, columns, crop, coverage (share of the object inside), warnings.
    """
    found = centre_block(np.broadcast_to(mask, kspace.shape[1:]))
    n = min(s.stop - s.start for s in found)
    if n < 4:
        raise ValueError(f"coil maps: found {n} fully sampled centre columns, needed: at least 4 (8 for good maps); "
                         "raise center_fraction of the mask, or give maps: {file: ...}")
    kernel, wanted = 6 if n >= 12 else 4, (24 if n >= 24 else 64, 24)  # few columns: more rows make up for them (tried)
    block = tuple(_within(s, size, shape) for s, size, shape in zip(found, wanted, kspace.shape[1:], strict=True))
    maps, eigenvalues = _eigenmaps(kspace[(slice(None), *block)], kspace.shape[1:], kernel, THRESHOLD, sets)
    inside = eigenvalues[0][_object(kspace, found)]
    if n < 12:
        crop = min(crop, float(np.quantile(inside, 0.01, method="lower")))
    info = {"kernel": kernel, "rows": block[0].stop - block[0].start, "columns": block[1].stop - block[1].start,
            "crop": crop, "coverage": float(np.mean(inside >= crop)), "warnings": []}
    if n < 8:
        info["warnings"].append(f"coil maps from only {n} fully sampled centre columns: 6 have cost up to 2 dB, 4 or 5 "
                                "up to 10 dB, 8 nothing")
    if info["coverage"] < 0.9:
        info["warnings"].append(f"coil maps cover only {info['coverage']:.0%} of the object at crop {crop:g}; lower it")
    return _cropped(maps, eigenvalues, crop), info


def _within(found, size, length):
    """At most `size` indices of the slice `found`, around length // 2 as far as it allows."""
    size = min(size, found.stop - found.start)
    start = min(max(length // 2 - size // 2, found.start), found.stop - size)
    return slice(start, start + size)


def _object(kspace, centre):
    low = np.zeros_like(kspace)
    low[(slice(None), *centre)] = kspace[(slice(None), *centre)]
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(low, (1, 2))), (1, 2))
    rss = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    return rss > 0.1 * np.percentile(rss, 99)


def _cropped(maps, eigenvalues, crop):
    return maps * (eigenvalues >= crop)[:, None]


def _eigenmaps(block, shape, kernel, threshold, sets):
    """Leading eigenvectors (sets, coils, *shape) of G and their eigenvalues (sets, *shape), everywhere."""
    coils, most = len(block), 4_000_000  # entries of G at once: 64 MB
    if not np.isfinite(block).all() or not block.any():
        raise ValueError("coil maps: the calibration block of k-space is zero or holds NaN; check scan and mask")
    if not 1 <= sets <= coils:
        raise ValueError(f"coil maps: found {sets} sets, allowed: 1 to {coils}, the number of coils")
    spectrum = _spectrum(_projection(block, kernel, threshold), shape)
    maps = np.empty((sets, coils, *shape), np.complex64)
    eigenvalues = np.empty((sets, *shape), np.float32)
    for rows in np.array_split(np.arange(shape[0]), -(-shape[0] * shape[1] * coils ** 2 // most)):
        values, vectors = np.linalg.eigh(spectrum(rows))
        values, vectors = values[..., ::-1][..., :sets], vectors[..., ::-1][..., :sets]
        vectors = vectors * np.exp(-1j * np.angle(vectors[..., :1, :]))
        maps[:, :, rows] = np.moveaxis(vectors, (3, 2), (0, 1))
        eigenvalues[:, rows] = np.moveaxis(values, 2, 0)
    return maps, eigenvalues


def _projection(block, kernel, threshold):
    """Projection on the space of windows, as (coils, k, k, coils, k, k)."""
    coils, rows, columns = block.shape
    if min(rows, columns) < kernel:
        raise ValueError(f"coil maps: calibration block {rows}x{columns}, needed: at least {kernel} both ways")
    windows = np.lib.stride_tricks.sliding_window_view(block.astype(np.complex128), (kernel, kernel), axis=(1, 2))
    matrix = windows.transpose(1, 2, 0, 3, 4).reshape(-1, coils * kernel ** 2)
    # right singular vectors and squared singular values of the calibration matrix, conjugated
    values, vectors = np.linalg.eigh(matrix.T @ matrix.conj())
    kept = vectors[:, values > threshold ** 2 * values[-1]]
    return (kept @ kept.conj().T).reshape(coils, kernel, kernel, coils, kernel, kernel)


def _spectrum(projection, shape):
    """A function of row numbers: G (rows, columns, coils, coils), from (2k - 1)^2 correlations of the projection."""
    coils, k = projection.shape[:2]
    correlation = np.zeros((2 * k - 1, 2 * k - 1, coils, coils), complex)
    for i, j in np.ndindex(k, k):
        correlation[k - 1 - i:2 * k - 1 - i, k - 1 - j:2 * k - 1 - j] += projection[:, i, j].transpose(2, 3, 0, 1)
    lags = np.arange(2 * k - 1) - (k - 1)
    over_rows, over_columns = (np.exp(-2j * np.pi / n * np.outer(np.arange(n) - n // 2, lags)) for n in shape)
    partial = np.einsum("we,deab->dwab", over_columns, correlation / k ** 2, optimize=True).reshape(2 * k - 1, -1)
    return lambda rows: (over_rows[rows] @ partial).reshape(-1, shape[1], coils, coils)
