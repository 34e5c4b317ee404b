"""Computed tomography in parallel-beam or flat-detector fan-beam geometry, on post-log data.

    y = A x,   (A x)_i = 1/L ∫ x along ray i,   ‖A‖ = 1

x attenuation in 1/mm, y a sinogram divided by L, the norm of the unscaled projector: one learning rate serves all geometries.
The projector is the ASTRA toolbox's (van Aarle et al., Optics Express 2016), as a matrix with its stored transpose (``matrix``).

Data terms other than ‖A x − y‖² take the counting of photons into account: ``weighted`` multiplies every ray by √(N/mean N), N its
counts (Sauer, Bouman, IEEE TSP 1993); ``poisson`` is the negative log-likelihood of the counts themselves. The preconditioned residual
is ramp-filtered along the detector, which evens out the 1/|ω| by which projection and back-projection favour coarse structure.
"""

import copy
import math

import numpy as np
import torch

from dipline.hounsfield import to_hu
from dipline.physics.base import Operator, percentile, told
from dipline.physics.filters import between, fan_shares, ramp, shares_of
from dipline.physics.matrix import applied, projector

CITE = ("vanaarle2016", "kak1988", "parker1982", "noo2002", "sauer1993")
DATA_TERMS = ("least_squares", "weighted", "poisson")
REFUSES = [({"precondition": "> 0", "data_term": "poisson"}, "0 with data_term: poisson, which counts single rays; leave one out")]

GEOMETRY = ("angles", "detector", "distances", "pixel", "image_shape", "view_shape")
STEEPEST = 20.0  # beyond so many line integrals below the data the likelihood goes on as a straight line: no overflow at a wild start


def build(arrays, device="cpu"):
    """Operator and data of one slice of a measurement file.

    Args:
        arrays: ``sinogram`` float32 (views, detectors), line integrals; ``counts`` likewise, where photons were counted, and
            ``noise`` (electronic, in counts, and 0), where there was any; the geometry as ``acquire.views`` describes it: ``angles``,
            ``detector``, ``distances``, ``pixel``, ``image_shape``, ``view_shape``.

    Returns:
        (operator, y), y float32 (views, detectors).
    """
    missing = [k for k in ("sinogram", *GEOMETRY) if k not in arrays]
    if missing:
        raise ValueError(f"CT measurement: {', '.join(missing)} missing; measure the scan again")
    sinogram = torch.as_tensor(np.asarray(arrays["sinogram"], np.float32))
    shape = len(arrays["angles"]), int(arrays["detector"][0])
    if tuple(sinogram.shape) != shape:
        raise ValueError(f"CT measurement: sinogram of shape {tuple(sinogram.shape)}, needed: {shape}, angles by detector cells")
    counts = arrays.get("counts")
    operator = told(Tomography({k: np.asarray(arrays[k]) for k in GEOMETRY}, counts), arrays)
    return operator.to(device), (sinogram / operator.length).to(device)


class Tomography(Operator):
    """See the module's docstring.

    Args:
        geometry: dict of arrays, see ``acquire.views``.
        counts: (views, detectors) photons counted, or None: e^−(line integral) stands for them.

    Attributes:
        length: L in mm, found by power iteration on all views; a restricted operator keeps it.
        adjoint_error: relative; 0 with the stored matrix.
    """

    unit_axis = 0

    def __init__(self, geometry, counts=None):
        self.domain = (1, *(int(n) for n in geometry["image_shape"]))
        self.view_shape = tuple(int(n) for n in geometry["view_shape"])
        self.cells, self.width = int(geometry["detector"][0]), float(geometry["detector"][1])
        self.source, self.behind = (float(d) for d in geometry["distances"])
        self.pixel = float(geometry["pixel"][0])
        self.angles = torch.as_tensor(np.array(geometry["angles"], np.float64))
        self.weights = torch.ones(len(self.angles), 1)
        self.counts = None if counts is None else torch.as_tensor(np.asarray(counts, np.float32))
        self.response = None  # of the preconditioning filter, (cells // 2 + 1,)
        self.likelihood = None  # N / mean N, where the data term is Poisson's
        self.projector = projector(geometry)
        self.length = self.projector.norm

    adjoint_error = property(lambda self: self.projector.adjoint_error)
    dtype = property(lambda self: self.weights.dtype)

    def __call__(self, x):
        rays = applied(x[0], self.projector.forward, self.projector.adjoint) / self.length
        return self._filtered(rays * self.weights)

    def AT(self, y):
        rays = self._filtered(y) * self.weights / self.length
        return applied(rays, self.projector.adjoint, self.projector.forward)[None]

    def _filtered(self, y, power=1):
        """The preconditioning filter along the detector, circular and therefore exactly its own adjoint; power −1: its inverse."""
        if self.response is None:
            return y
        return torch.fft.irfft(torch.fft.rfft(y) * self.response**power, n=self.cells)

    def sinogram(self, y):
        """The line integrals (views, detectors) behind ``y``, whatever filter and weights."""
        return self._filtered(y, -1) / self.weights * self.length

    def init(self, y):
        """Filtered back-projection with Hann's window, negative values cut off."""
        return self.filtered_back_projection(y, "hann").clamp(min=0)

    def filtered_back_projection(self, y, filter="hann"):
        """The image (1, H, W) from ``y``; ``filter``: ram-lak, shepp-logan, cosine, hamming, hann.

        Kak, Slaney, Principles of Computerized Tomographic Imaging, 1988, ch. 3: parallel rays, or a fan, whose rays along one line
        count once together. Views count by the angle that they stand for, so that random, limited and left-out views keep the scale
        of the image.
        """
        rays = self.sinogram(y)
        fan, width = bool(self.source), self.width
        if fan:  # as on a detector through the isocentre
            width *= self.source / (self.source + self.behind)
            u = (torch.arange(self.cells, device=y.device, dtype=rays.dtype) - (self.cells - 1) / 2) * width
            shares = fan_shares(self.angles.cpu().numpy(), torch.atan(u / self.source).cpu().double().numpy())
            rays = rays * shares.to(rays) * self.source / torch.hypot(u, torch.full_like(u, self.source))
            shares = torch.ones(len(rays))
        else:
            shares = shares_of(self.angles.cpu().numpy(), math.pi)
        rays = ramp(rays, width, filter)
        image = rays.new_zeros(self.domain[1:])
        rows, columns = (torch.arange(n, device=y.device, dtype=rays.dtype) - (n - 1) / 2 for n in image.shape)
        px, py = columns[None] * self.pixel, -rows[:, None] * self.pixel
        for view, angle, share in zip(rays, self.angles.tolist(), shares.tolist(), strict=True):
            u = px * math.cos(angle) + py * math.sin(angle)
            if fan:
                near = self.source / (self.source - px * math.sin(angle) + py * math.cos(angle))
                u, share = u * near, share * near.square()
            image += share * between(view, u / width + (self.cells - 1) / 2)
        return image[None]

    def view(self, x):
        """HU, centre crop: float32 (h, w)."""
        (height, width), (h, w) = x.shape[-2:], self.view_shape
        top, left = (height - h) // 2, (width - w) // 2
        return to_hu(x[0, top : top + h, left : left + w])

    def scale_of(self, x):
        """The 99.9th percentile of |x| in 1/mm: HU have no zero to scale about."""
        return percentile(x)

    def spare(self):
        """Every view may be left out."""
        return torch.ones(len(self.angles), dtype=torch.bool, device=self.angles.device)

    def restrict(self, keep):
        other = copy.copy(self)
        other.projector = self.projector.restrict(keep)
        for name in ("angles", "weights", "counts", "likelihood"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value[keep])
        return other

    def deviations(self, y, sigma=0.0):
        """As for any operator; of a ray with N counts √(N + e²)/N, e the electronic noise."""
        if sigma or self.counts is None:
            return super().deviations(y, sigma)
        electronic = self.noise[0] if self.noise else 0.0
        return (self.counts + electronic**2).sqrt() / self.counts / self.length

    def weighted(self, weights):
        """W A; under a preconditioning filter W comes first."""
        other = copy.copy(self)
        other.weights, other.norm = self.weights * weights, self.norm * float(weights.max())
        return other

    def preconditioned(self, y, strength):
        """F^½ A and F^½ y, F the ramp (|ω| + strength) / (1 + strength) along the detector, |ω| being 1 at the highest frequency."""
        self._no_likelihood()
        frequency = torch.linspace(0, 1, self.cells // 2 + 1, device=y.device, dtype=y.dtype)
        if self.cells % 2:
            frequency = frequency * (self.cells - 1) / self.cells
        other = copy.copy(self)
        other.response = ((frequency + strength) / (1 + strength)).sqrt()
        return other, other._filtered(self._filtered(y, -1))

    def data_term(self, kind, y, scale):
        """The operator whose ``residual`` is the data term ``kind``, and its data; y and images divided by ``scale``.

        poisson: 2/(mean(N) (L scale)²) times the negative log-likelihood minus its minimum, Σ N (e^−d − 1 + d), with
        d = L scale (A x − y) and N = I₀ e^−(measured line integral): for small d this is ``weighted``.
        """
        if kind not in DATA_TERMS:
            raise ValueError(f"data_term: found {kind!r}, allowed: {', '.join(DATA_TERMS)}")
        if kind == "least_squares":
            return self, y
        self._no_likelihood()
        counts = torch.exp(-self.sinogram(y) * scale) if self.counts is None else self.counts
        relative = (counts / counts.mean()).to(y.dtype)
        if kind == "weighted":
            other = self.weighted(relative.sqrt())
            return other, other._filtered(self._filtered(y, -1) * relative.sqrt())
        if self.response is not None or bool((self.weights != 1).any()):
            raise ValueError("data_term: poisson counts single rays as they are; leave out precondition and data weights")
        other = copy.copy(self)
        other.likelihood, other.span = relative, self.length * scale
        return other, y

    def _no_likelihood(self):
        if self.likelihood is not None:
            raise ValueError("data_term: poisson is chosen already; precondition first, and choose one data term")

    def residual(self, x, y):
        """The data term, a scalar: ‖A x − y‖², or what :meth:`data_term` chose."""
        return super().residual(x, y) if self.likelihood is None else _Poisson.apply(x, y, self)

    def to(self, device):
        other = super().to(device)
        other.projector = self.projector.to(device)
        return other

    def double(self):
        """A copy in float64; only with the stored matrix."""
        other = copy.copy(self)
        other.projector, other.weights = self.projector.double(), self.weights.double()
        other.response = None if self.response is None else self.response.double()
        return other

    @classmethod
    def example(cls):
        """A small operator on 16x16 images with 9 views, for tests."""
        return cls({
            "angles": np.arange(9) * np.pi / 9, "detector": np.array([23, 1.0]), "distances": np.zeros(2), "pixel": np.ones(1),
            "image_shape": np.array([16, 16]), "view_shape": np.array([16, 16]),
        })  # fmt: skip


class _Poisson(torch.autograd.Function):
    """2/span² Σ n (e^−d − 1 + d) with its gradient 2/span Aᵀ n (1 − e^−d) written out; see ``Tomography.data_term``."""

    @staticmethod
    def forward(ctx, x, y, operator):
        n, span = operator.likelihood, operator.span
        d = span * (operator(x) - y)
        steep = (-d).clamp(max=STEEPEST)
        ctx.save_for_backward(operator.AT(-2 / span * n * torch.expm1(steep)))
        e = steep.double()  # for small d the terms cancel
        return 2 / span**2 * (n * (torch.expm1(e) - e + torch.expm1(e) * (-d - e))).sum().to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None
