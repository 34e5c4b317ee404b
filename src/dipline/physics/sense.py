"""Multi-coil Cartesian MRI: y_c = M F (S_c x), with one or two sets of coil sensitivities.

    A x = M F Σ_s S_{s,c} x_s,      Aᴴ y = Σ_c conj(S_{s,c}) Fᴴ Mᵀ y_c,

F the centred orthonormal DFT, Σ_{s,c}|S|² ≤ 1, so that ‖A‖ ≤ 1 (Pruessmann et al., MRM 1999; soft SENSE with two sets:
Uecker et al., MRM 2014).

Masks that act on phase-encode columns need no transform along the readout: the data are transformed once, before the
loop, and A is a 1-D FFT. The shifts of the centred transform are modulations exp(2πi c n/N), folded into the maps and
the data. Neither changes a residual's norm.
"""

import math

import numpy as np
import torch

from dipline.physics.base import Operator, told

CITE = ("pruessmann1999",)


def build(arrays, device="cpu"):
    """Operator and data of one slice of a measurement file.

    Args:
        arrays: ``kspace`` complex (coils, H, W), zero where not acquired; ``mask`` bool (W,) or (H, W); ``maps`` complex
            (sets, coils, H, W); ``view_shape`` (h, w), the centre crop that is shown and scored; ``noise`` (standard deviation
            of a sample, 0), where it was added.

    Returns:
        (operator, y), y complex (coils, H, columns) or (coils, points).
    """
    mask = torch.as_tensor(np.asarray(arrays["mask"], bool))
    maps = torch.as_tensor(np.asarray(arrays["maps"], np.complex64))
    operator = told(Sense(maps, mask, tuple(int(n) for n in arrays["view_shape"])), arrays)
    y = operator.samples(torch.as_tensor(np.asarray(arrays["kspace"], np.complex64)))
    return operator.to(device), y.to(device)


def _modulation(n):
    """exp(2πi c m / n) for m = 0 … n−1, c = n // 2: what turns a plain DFT into a centred one."""
    m = torch.arange(n, dtype=torch.float64)
    return torch.polar(torch.ones_like(m), 2 * math.pi * (n // 2) * m / n)


class Sense(Operator):
    """See the module's docstring.

    Args:
        maps: complex64 (sets, coils, H, W).
        mask: bool (W,), phase-encode columns, or (H, W), points.
        view_shape: (h, w) centre crop of the magnitude image; None: all.
    """

    complex = True

    def __init__(self, maps, mask, view_shape=None):
        sets, coils, height, width = maps.shape
        self.domain = (sets, height, width)
        self.view_shape = tuple(view_shape or (height, width))
        self.by_column = mask.ndim == 1
        self.mask = mask
        self.support = maps.abs().sum((0, 1)) > 0
        self.index = mask.reshape(-1).nonzero()[:, 0]
        self.place = _places(self.index, mask.numel())
        self.weights = torch.ones(len(self.index))
        phase_w, phase_h = _modulation(width), _modulation(height)
        shift, size = (phase_w[None], width) if self.by_column else (phase_h[:, None] * phase_w, width * height)
        # the constant phase of a centred transform, −2π c²/N per axis, goes with the image's modulation
        const = -2 * math.pi * ((width // 2) ** 2 / width + (0 if self.by_column else (height // 2) ** 2 / height))
        self.maps = (maps * (shift * complex(math.cos(const), math.sin(const)) / math.sqrt(size))).to(torch.complex64)
        self.phase = shift.to(torch.complex64).expand(height, width).contiguous()

    def samples(self, kspace):
        """Centred k-space (coils, H, W) as this operator keeps it: (coils, H, columns) or (coils, points)."""
        if self.by_column:
            rows = torch.fft.ifftshift(kspace, dim=-2)
            kspace = torch.fft.fftshift(torch.fft.ifft(rows, dim=-2, norm="ortho"), dim=-2)
        return self._gather(kspace * self.phase.conj()) * self.weights

    def kspace(self, y):
        """The inverse of :meth:`samples`: centred k-space (coils, H, W), zero where nothing was acquired."""
        full = self._scatter(y / self.weights) * self.phase
        if self.by_column:
            rows = torch.fft.fft(torch.fft.ifftshift(full, dim=-2), dim=-2, norm="ortho")
            full = torch.fft.fftshift(rows, dim=-2)
        return full

    def _gather(self, full):
        return (full if self.by_column else full.flatten(-2)).index_select(-1, self.index)

    def _scatter(self, y):
        """A gather as well, of every place its sample or the zero that is appended: the same bits on every device, and fast."""
        full = torch.nn.functional.pad(y, (0, 1)).index_select(-1, self.place)
        return full if self.by_column else full.view(len(y), *self.domain[1:])

    def _coils(self, x):
        """The coil images of x, transformed: complex (coils, H, W)."""
        images = self.maps[0] * x[0] if self.domain[0] == 1 else (self.maps * x[:, None]).sum(0)
        return torch.fft.fft(images) if self.by_column else torch.fft.fft2(images)

    def _combine(self, full):
        images = torch.fft.ifft(full, norm="forward") if self.by_column else torch.fft.ifft2(full, norm="forward")
        return (self.maps.conj() * images).sum(1)

    def __call__(self, x):
        return self._gather(self._coils(x)) * self.weights

    def AT(self, y):
        return self._combine(self._scatter(y * self.weights))

    def init(self, y):
        """The zero-filled image, whatever the data weights."""
        return self._combine(self._scatter(y / self.weights))

    def consistent(self, x, y):
        """x with its acquired samples replaced by the measured ones, coil-combined (aSeqDIP's released code)."""
        measured = self._scatter(y / self.weights)
        return self._combine(torch.where((self.place < len(self.index)).view(-1, *measured.shape[-1:]), measured, self._coils(x)))

    def view(self, x):
        """Magnitude (root sum of squares over map sets), centre crop: float32 (h, w)."""
        magnitude = x[0].abs() if x.shape[0] == 1 else x.abs().square().sum(0).sqrt()
        (height, width), (h, w) = magnitude.shape, self.view_shape
        top, left = (height - h) // 2, (width - w) // 2
        return magnitude[top : top + h, left : left + w]

    def spare(self):
        """Everything outside the fully sampled centre, which the calibration needs."""
        centre = torch.zeros_like(self.mask)
        if self.by_column:
            low, high = _run(self.mask)
            centre[low:high] = True
        else:
            (top, bottom), (low, high) = (
                _run(self.mask[:, self.mask.shape[1] // 2]),
                _run(self.mask[self.mask.shape[0] // 2]),
            )
            centre[top:bottom, low:high] = True
        return ~centre.reshape(-1)[self.index]

    def restrict(self, keep):
        other = self.to(self.index.device)
        other.index, other.weights = self.index[keep], self.weights[keep]
        other.place = _places(other.index, self.mask.numel())
        mask = torch.zeros_like(self.mask).reshape(-1)
        mask[other.index] = True
        other.mask = mask.view_as(self.mask)
        return other

    def preconditioned(self, y, strength):
        """W A and W y, W = √(strength / (e + strength)), e: the measured energy at a sample's distance from the centre, relative to
        the largest.

        k-space falls off by orders of magnitude towards the periphery, and an unweighted residual hardly sees it: fine structure comes
        late, after much of the noise. The energy is that of the acquired data, averaged over rings of k-space.
        """
        distance = self._distance()[self.index]
        energy = y.abs().square().mean(tuple(range(y.ndim - 1)))
        rings = (distance / 2).round().long()
        total = torch.zeros(int(rings.max()) + 1, device=y.device).index_add(0, rings, energy)
        ring_mean = total / torch.bincount(rings, minlength=len(total)).clamp(min=1)
        e = ring_mean[rings] / ring_mean.max()
        weights = (strength / (e + strength)).sqrt()
        return self.weighted(weights), y * weights

    def _distance(self):
        """Distance from the centre of k-space, for every column or point of the full grid, in columns."""
        axes = [torch.arange(n, device=self.index.device) - n // 2 for n in self.mask.shape]
        return (
            axes[0].abs()
            if self.by_column
            else torch.hypot(*torch.meshgrid(*[a.float() for a in axes], indexing="ij")).flatten()
        )

    def weighted(self, weights):
        other = self.to(self.index.device)
        other.weights = self.weights * weights
        return other

    @classmethod
    def example(cls, by_column=True):
        """A small operator on 12x15 images with 3 coils, for tests."""
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn(1, 3, 12, 15, generator=generator, dtype=torch.complex64)
        maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
        mask = torch.rand(15 if by_column else (12, 15), generator=generator) < 0.5
        mask[..., 5:10] = True
        return cls(maps, mask)


def _places(index, size):
    """Where the sample of each of ``size`` places stands in ``index``; its length where there is none."""
    places = torch.full((size,), len(index), device=index.device)
    places[index] = torch.arange(len(index), device=index.device)
    return places


def _run(line):
    """(start, stop) of the run of True around the centre of a bool vector."""
    line = line.cpu().numpy()
    low = high = len(line) // 2
    while low > 0 and line[low - 1]:
        low -= 1
    while high < len(line) and line[high]:
        high += 1
    return low, high
