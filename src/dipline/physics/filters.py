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


WIDEST = 4  # usual gaps between neighbouring views: what is wider is a missing wedge
SOFT = math.radians(10)  # at either end of an arc of fans


def shares_of(angles, period):
    """The angle that every view stands for: half the way to its neighbours on the circle of ``period``, all together ``period``.

    A gap counts as four usual ones at most: a missing wedge cannot be filled by the two views at its border.
    """
    order, gaps, usual = _gaps(angles, period)
    shares = _halves(order, np.minimum(gaps, WIDEST * usual))
    return torch.as_tensor(shares * period / shares.sum())


def fan_shares(angles, fan):
    """What every ray counts in the back-projection of fans (views, cells): the angle that its view stands for, times its weight.

    The ray at fan angle γ of the view β runs along the same line as the ray at −γ of the view β + π − 2γ. Both together count once:
    w = c(β) / (c(β) + c(β + π − 2γ)), c being 1 on the arc of the views and falling smoothly to 0 at its ends (Noo, Defrise, Clackdoyle,
    Kudo, Phys. Med. Biol. 2002). On a full turn that is 1/2; on 180 degrees and the fan it does what Parker's weights do (Med. Phys.
    1982); on less, a line that is seen once counts fully. The central rays count π together, so that a short arc keeps the scale.

    Args:
        angles: of the views, in radians (views,).
        fan: angles of the rays from the central one, in radians (cells,), positive along the detector.
    """
    order, gaps, usual = _gaps(angles, 2 * math.pi)
    missing = int(gaps.argmax())
    whole = gaps[missing] <= WIDEST * usual
    span = 2 * math.pi if whole else 2 * math.pi - gaps[missing] + usual
    begin = angles[order[(missing + 1) % len(order)]] - usual / 2
    if not whole:
        gaps[missing] = usual

    def c(beta):
        inside = (beta - begin) % (2 * math.pi)
        edge = np.clip(np.minimum(inside, span - inside) / SOFT, 0, 1)
        return np.ones_like(beta) if whole else np.sin(math.pi / 2 * edge) ** 2

    def weights(gamma):
        here, there = c(angles[:, None] + 0 * gamma), c(angles[:, None] + math.pi - 2 * gamma)
        return here / (here + there)

    shares = _halves(order, np.minimum(gaps, WIDEST * usual))[:, None]
    return torch.as_tensor(shares * weights(fan[None]) * math.pi / (shares * weights(np.zeros((1, 1)))).sum())


def _gaps(angles, period):
    """(order of the views on the circle of ``period``, gap from each to the next, the usual gap)"""
    order = np.argsort(angles % period)
    gaps = np.diff(angles[order] % period, append=(angles[order[0]] % period) + period)
    return order, gaps, np.median(gaps[gaps > 1e-6])


def _halves(order, gaps):
    """Half the gaps on either side of every view."""
    shares = np.empty(len(order))
    shares[order] = (gaps + np.roll(gaps, 1)) / 2
    return shares
