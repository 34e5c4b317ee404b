"""What filtered back-projection needs besides projectors: ramp filters, interpolation, the weight of a view."""

import math

import numpy as np
import torch

WINDOWS = {  # of f in [0, 1], 1: the highest frequency
    "ram-lak": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "cosine": lambda f: torch.cos(math.pi / 2 * f),
    "hamming": lambda f: 0.54 + 0.46 * torch.cos(math.pi * f),
    "hann": lambda f: 0.5 + 0.5 * torch.cos(math.pi * f),
}


def ramp(rays, width, filter):
    """Projections (views, cells) filtered with |ω| times a window; the band-limited kernel of Kak and Slaney (3.29), zero-padded."""
    if filter not in WINDOWS:
        raise ValueError(f"filter: found {filter!r}, allowed: {', '.join(WINDOWS)}")
    cells = rays.shape[-1]
    size = 1 << (2 * cells - 1).bit_length()
    n = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64).round()
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp(min=-size) * width).square(), 0.0)
    kernel[0] = 1 / (4 * width**2)
    window = WINDOWS[filter](torch.linspace(0, 1, size // 2 + 1, dtype=torch.float64))
    response = (torch.fft.rfft(kernel).real * window * width).to(rays)
    return torch.fft.irfft(torch.fft.rfft(rays, n=size) * response, n=size)[..., :cells]


def between(view, position):
    """Values of one projection at fractional cell numbers, linearly interpolated, zero beyond the detector."""
    left = position.floor()
    inside = (left >= 0) & (left < len(view) - 1)
    index = left.clamp(0, len(view) - 2).long()
    return torch.where(inside, torch.lerp(view[index], view[index + 1], position - left), 0.0)


def shares_of(angles, period):
    """The angle that every view stands for: half the way to its neighbours on the circle of ``period``, all together ``period``.

    A gap counts as four usual ones at most: a missing wedge cannot be filled by the two views at its border.
    """
    order = np.argsort(angles % period)
    gaps = np.diff(angles[order] % period, append=(angles[order[0]] % period) + period)
    gaps = np.minimum(gaps, 4 * np.median(gaps[gaps > 1e-6]))
    shares = np.empty(len(angles))
    shares[order] = (gaps + np.roll(gaps, 1)) / 2
    return torch.as_tensor(shares * period / shares.sum())
