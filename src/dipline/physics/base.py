"""Forward operators: what every one of them offers to methods, stop rules and the loop.

An operator file holds one subclass of :class:`Operator` and ``build(arrays, **options) -> (operator, y)``, which makes the
operator of one slice and its measurement from the arrays of a measurement file.

A measurement ``y`` is kept in the operator's own order (only the samples that were acquired, already transformed as far
as possible), so that ``A(x)`` costs little. Samples come in *units*: phase-encode columns, k-space points, views. Units
are what a stop rule leaves out and what data weights refer to.
"""

import copy

import torch

DATA_TERMS = ("least_squares",)  # what an operator's file says of its data terms where it says nothing


def told(operator, arrays):
    """The operator with what a measurement file tells of the noise, ``noise`` (standard deviation, photons), each 0 where there is none."""
    if "noise" in arrays:
        operator.noise = tuple(float(value) for value in arrays["noise"])
    return operator


def percentile(image):
    """The 99.9th percentile of |image|, or 1 where that is 0."""
    return float(torch.quantile(image.abs().float().flatten(), 0.999)) or 1.0


class Operator:
    """A forward operator ``y = A x`` on images of shape ``domain = (parts, H, W)``.

    Attributes:
        domain: (parts, H, W); parts are map sets or colours. Images are complex where ``complex`` is True.
        linear: whether ``AT`` exists.
        complete: whether the image is all that the measurement depends on.
        norm: an upper bound of the operator's spectral norm; operators are built such that it is about 1.
        support: bool (H, W), the pixels that the measurement depends on at all, or None; images are zero elsewhere.
        unit_axis: axis of ``y`` along which the units lie.
        frames: how many slices or frames of a series the image holds, one after the other.
        length: y is the measurement in its own units divided by this number.
        noise: (standard deviation, photons) of the measurement in its own units, or None: see :func:`told`.
    """

    domain: tuple[int, int, int]
    frames = 1
    complex = False
    linear = True
    complete = True
    norm = 1.0
    support = None
    unit_axis = -1
    length = 1.0
    noise = None

    def __call__(self, x):
        """Measure the image ``x`` (parts, H, W)."""
        raise NotImplementedError

    def AT(self, y):
        """The adjoint of ``__call__``; only where ``linear``."""
        raise NotImplementedError

    def init(self, y):
        """The starting image: adjoint, filtered back-projection or pseudo-inverse of ``y``."""
        return self.AT(y)

    def view(self, x):
        """The image (h, w) as it is shown and scored, real-valued."""
        raise NotImplementedError

    def spare(self):
        """Bool (units,): the units that a stop rule may leave out."""
        raise NotImplementedError

    def restrict(self, keep):
        """The same operator on the units ``keep``, bool (units,)."""
        raise NotImplementedError

    def select(self, y, keep):
        """The part of ``y`` that belongs to ``restrict(keep)``."""
        return y.index_select(self.unit_axis % y.ndim, keep.nonzero()[:, 0])

    def deviations(self, y, sigma=0.0):
        """√E|noise|² of every entry of ``y``, a number or a tensor that broadcasts with it; None where nobody knows.

        Args:
            sigma: what a user knows, in the units of the measurement: k-space, line integrals, white = 1; 0: what the file tells.
        """
        if not sigma and self.noise is None:
            return None
        sigma, photons = (sigma, 0.0) if sigma else self.noise
        if not photons:
            return sigma / self.length
        return (sigma**2 + (y * self.length).clamp(min=1 / photons) / photons).sqrt() / self.length

    def weighted(self, weights):
        """The operator ``W A``, weights broadcastable to ``y``."""
        raise NotImplementedError

    def preconditioned(self, y, strength):
        """(operator, y) whose residual evens out how fast coarse and fine parts of an image are fitted; smaller is stronger.

        The norm stays at most 1, and ``init`` of both gives the starting image of the plain ones.
        """
        raise NotImplementedError

    def data_term(self, kind, y, scale):
        """(operator, y) whose ``residual`` is the data term ``kind``, one of the file's DATA_TERMS.

        Args:
            y: the measurement divided by ``scale``; images are divided by it as well.
        """
        if kind != "least_squares":
            raise ValueError(f"data_term: found {kind!r}, allowed for {type(self).__name__}: least_squares")
        return self, y

    def view_scale(self, x):
        """The 99.9th percentile of |view(x)|, or 1 where that is 0."""
        return percentile(self.view(x))

    def scale_of(self, x):
        """The number that images are divided by, so that a network's output is about 1; here :meth:`view_scale`.

        This is for a view that grows with the image, view(s x) = s view(x). An operator that shows other units has its own.
        """
        return self.view_scale(x)

    def to(self, device):
        """A copy whose tensors live on ``device``."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(other, name, value.to(device))
        return other

    @property
    def dtype(self):
        return torch.complex64 if self.complex else torch.float32

    @property
    def channels(self):
        """Real channels that a network needs for one image."""
        return self.domain[0] * (2 if self.complex else 1)

    def residual(self, x, y):
        """``‖A x − y‖²``, a scalar, differentiable in ``x`` and in ``y``."""
        if not self.linear:
            return (self(x) - y).abs().square().sum()
        return _SquaredResidual.apply(x, y, self)


class _SquaredResidual(torch.autograd.Function):
    """‖A x − y‖² with its gradient 2 Aᴴ(A x − y) written out: one forward, one adjoint, no graph through the operator."""

    @staticmethod
    def forward(ctx, x, y, operator):
        r = operator(x) - y
        ctx.save_for_backward(operator.AT(r), r if ctx.needs_input_grad[1] else None)
        return torch.vdot(r.reshape(-1), r.reshape(-1)).real

    @staticmethod
    def backward(ctx, grad):
        of_x, r = ctx.saved_tensors
        return 2 * grad * of_x, None if r is None else -2 * grad * r, None
