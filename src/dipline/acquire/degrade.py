"""How a photograph becomes a measurement: kernels, sampling, missing pixels, noise. Images are (colours, rows, columns), white is 1."""

from pathlib import Path

import numpy as np
from scipy import ndimage

REACH = {"lanczos": 2.0, "bicubic": 2.0}  # of a filter, in pixels of the small image
DEFAULT_WIDTH = 1.6


def kernel(kind, width=None, length=None, angle=0.0, file=None):
    """The kernel of a blur, float32 (kh, kw), of sum 1.

    Args:
        kind: gaussian, of standard deviation ``width`` pixels, cut off at 3; motion, along a straight line of ``length`` pixels, ``angle``
            degrees from the rows upwards; file.
    """
    if kind == "file":
        return kernel_file(file)
    if kind == "gaussian":
        reach = int(np.ceil(3 * (width or DEFAULT_WIDTH)))
        axis = np.arange(-reach, reach + 1)
        one = np.exp(-(axis**2) / (2 * (width or DEFAULT_WIDTH) ** 2))
        found = np.outer(one, one)
    else:
        fine, reach = 16, int(np.ceil(length / 2))  # points of the line in a pixel
        t = (np.arange(int(length * fine)) + 0.5) / fine - length / 2
        turn = np.deg2rad(angle)
        edges = np.arange(-reach, reach + 2) - 0.5
        found = np.histogram2d(-t * np.sin(turn), t * np.cos(turn), bins=(edges, edges))[0]
    return (found / found.sum()).astype(np.float32)


def kernel_file(path):
    """A kernel from .npy or an image of one colour; ValueError where it is none."""
    found = _array(path, "a kernel")
    if found.ndim != 2 or not np.isfinite(found).all() or found.min() < 0 or not found.any():
        raise ValueError(f"{path}: found shape {found.shape}, allowed for a kernel: two axes, finite numbers of 0 or more, not all 0")
    return (found / found.sum()).astype(np.float32)


def mask_file(path):
    """Bool (rows, columns) from .npy or an image of one colour: True where pixels are there, that is, not 0."""
    found = _array(path, "a mask")
    if found.ndim != 2:
        raise ValueError(f"{path}: found shape {found.shape}, allowed for a mask: (rows, columns), 0 where pixels are missing")
    return found != 0


def _array(path, what):
    from PIL import Image

    try:
        if Path(path).suffix == ".npy":
            return np.load(path, allow_pickle=False).astype(float)
        with Image.open(path) as image:
            return np.array(image.convert("F"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as {what} ({type(error).__name__}); give a .npy file or a grey PNG") from None


def blurred(image, kernel):
    """k * x of every colour, the image continued periodically."""
    # an even kernel's middle is (n − 1) // 2 here and n // 2 in SciPy
    origin = [-1 if n % 2 == 0 else 0 for n in kernel.shape]
    return np.stack([ndimage.convolve(c, kernel, mode="wrap", origin=origin) for c in image])


def resampling(n, m, filter):
    """Weights (m, n) that make m pixels of n, rows of sum 1; pixels are areas, the outer edges of both grids agree.

    lanczos: sinc(t) sinc(t/2), as Deep Image Prior has it; bicubic: Keys' with a = −1/2. Where m < n the filter is widened by n/m, so
    that nothing aliases.
    """
    scale = n / m
    widened = max(scale, 1.0)
    t = ((np.arange(m)[:, None] + 0.5) * scale - 0.5 - np.arange(n)) / widened
    size = np.abs(t)
    if filter == "lanczos":
        weights = np.sinc(t) * np.sinc(t / 2) * (size < 2)
    else:
        near, far = 1.5 * size**3 - 2.5 * size**2 + 1, -0.5 * size**3 + 2.5 * size**2 - 4 * size + 2
        weights = np.where(size < 1, near, np.where(size < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def seen(shape, rng, missing=None, boxes=None, file=None):
    """Bool (rows, columns): the pixels that are there. ValueError where none is, or a box or a file does not fit."""
    there = np.ones(shape, bool)
    if missing is not None:
        gone = rng.choice(there.size, round(missing * there.size), replace=False)
        there.flat[gone] = False
    for top, left, height, width in boxes or ():
        if top + height > shape[0] or left + width > shape[1]:
            allowed = f"within {shape[0]} x {shape[1]} pixels, as top + height and left + width go"
            raise ValueError(f"boxes: found {[top, left, height, width]}, allowed {allowed}")
        there[top : top + height, left : left + width] = False
    if file is not None:
        there = mask_file(file)
        if there.shape != tuple(shape):
            found, wanted = (f"{rows} x {columns} pixels" for rows, columns in (there.shape, shape))
            raise ValueError(f"file: {file} has {found}, the image {wanted}; make one of the same size")
    if not there.any():
        raise ValueError("no pixel is left; leave some")
    return there


def nonlinear(image, kernel, gamma=2.2):
    """Grey levels become light (x^gamma), light is blurred and cut off at white, and becomes grey levels again."""
    return np.clip(blurred(np.clip(image, 0, 1) ** gamma, kernel), 1e-3, 1) ** (1 / gamma)


def noisy(values, rng, sigma=0.0, peak=None, impulse=None):
    """Values with Poisson noise (``peak`` photons at white), Gaussian noise (``sigma`` grey levels of 255), and a part ``impulse`` of
    them black or white; nothing is cut off or rounded."""
    values = np.asarray(values, np.float64)
    if peak:
        values = rng.poisson(np.clip(values, 0, None) * peak) / peak
    if sigma:
        values = values + sigma / 255 * rng.standard_normal(values.shape)
    if impulse:
        hit = rng.random(values.shape) < impulse
        values = np.where(hit, rng.integers(0, 2, values.shape), values)
    return values.astype(np.float32)
