"""Projection and back-projection as a pair of exact adjoints: a stored sparse matrix, or ASTRA's projectors above a bound.

Both kinds offer ``forward(image (H, W)) -> (views, detectors)`` and ``adjoint``, in mm, ``restrict(keep)`` to part of the views,
``to(device)``, ``double()``, ``norm`` and ``adjoint_error``. :func:`applied` makes either direction differentiable.
"""

import copy
import warnings
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse
import torch

from dipline.acquire import views

MATRIX_BYTES = 2 << 30  # of matrix and transpose together; 512², 60 views: 0.45 GB; building takes twice as much for a moment


class _Applied(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, there, back):
        ctx.pair = there, back
        return there(x.detach())

    @staticmethod
    def backward(ctx, grad):
        there, back = ctx.pair
        return _Applied.apply(grad, back, there), None, None


def applied(x, there, back):
    """``there(x)``; its gradient is ``back``, so that autograd never goes through a sparse product, which is 100 times slower."""
    return _Applied.apply(x, there, back)


class Pair:
    @cached_property
    def norm(self):
        """‖A‖ in mm by power iteration. No entry is negative: from a constant image a few steps suffice."""
        x, norm = torch.ones(self.image_shape, device=self.device), 0.0
        for _ in range(100):
            x = self.adjoint(self.forward(x / x.norm()))
            before, norm = norm, float(x.norm()) ** 0.5
            if not norm:
                raise ValueError("CT geometry: no ray meets the image; check pixel, detector width and distances")
            if abs(norm - before) < 1e-6 * norm:
                break
        return norm


class Matrix(Pair):
    """The projector's matrix (float32, int32 indices) and its transpose, both stored by rows: neither direction scatters.

    On the CPU scipy's product, which gives the same bits for a view whatever other views there are; on a GPU torch's.
    """

    adjoint_error = 0.0

    def __init__(self, rows, image_shape, cells):
        self.image_shape, self.cells, self.device = image_shape, cells, torch.device("cpu")
        self.pair = rows, rows.T.tocsr()
        self.on_gpu = None

    def forward(self, image):
        return self._product(0, image).view(-1, self.cells)

    def adjoint(self, sinogram):
        return self._product(1, sinogram).view(self.image_shape)

    def _product(self, which, x):
        if self.on_gpu:
            return self.on_gpu[which] @ x.reshape(-1)
        return torch.from_numpy(self.pair[which] @ x.numpy().ravel())

    def restrict(self, keep):
        rays = np.flatnonzero(np.repeat(keep.cpu().numpy(), self.cells))
        return Matrix(self.pair[0][rays], self.image_shape, self.cells).to(self.device)

    def to(self, device):
        other = copy.copy(self)
        other.device, other.on_gpu = torch.device(device), None
        if other.device.type != "cpu":
            other.on_gpu = tuple(_as_torch(m).to(device) for m in self.pair)
        return other

    def double(self):
        other = copy.copy(self)
        other.pair = tuple(m.astype(np.float64) for m in self.pair)
        return other.to(self.device)


def _as_torch(m):
    parts = (torch.from_numpy(a) for a in (m.indptr, m.indices, m.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the format beta, once
        return torch.sparse_csr_tensor(*parts, size=m.shape)


class Projectors(Pair):
    """ASTRA's projectors, computed anew at every call; on a GPU its CUDA kernels, which are adjoint only nearly."""

    def __init__(self, geometry, device="cpu"):
        import astra

        self.geometry, self.device, self.astra = geometry, torch.device(device), astra.projector
        self.image_shape = tuple(int(n) for n in geometry["image_shape"])
        self.shape = len(geometry["angles"]), int(geometry["detector"][0])
        self.id = views.projector(geometry, gpu=self.device.type == "cuda")
        self.adjoint_error = self._adjoint_error()

    def __del__(self):
        if hasattr(self, "id"):
            self.astra.delete(self.id)

    def forward(self, image):
        return self.astra.direct_FP(self.id, image.contiguous(), out=image.new_zeros(self.shape))

    def adjoint(self, sinogram):
        return self.astra.direct_BP(self.id, sinogram.contiguous(), out=sinogram.new_zeros(self.image_shape))

    def _adjoint_error(self):
        """|⟨A x, y⟩ − ⟨x, Aᵀ y⟩| / ⟨A x, y⟩ for one pair of uniform random x and y."""
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.rand(shape, generator=generator).to(self.device) for shape in (self.image_shape, self.shape))
        left, right = ((a.double() * b.double()).sum() for a, b in ((self.forward(x), y), (x, self.adjoint(y))))
        return float(abs(left - right) / left)

    def restrict(self, keep):
        return Projectors(self.geometry | {"angles": self.geometry["angles"][keep.cpu().numpy()]}, self.device)

    def to(self, device):
        return self if torch.device(device) == self.device else Projectors(self.geometry, device)

    def double(self):
        raise ValueError(f"float64 needs the stored matrix, and this geometry's would be above {MATRIX_BYTES >> 20} MiB; use fewer views")


def projector(geometry):
    """A :class:`Matrix` where it fits MATRIX_BYTES, else :class:`Projectors`. The last two are kept: slices share their geometry."""
    return _projector(tuple((k, v.dtype.str, v.shape, v.tobytes()) for k, v in geometry.items() if k != "view_shape"), MATRIX_BYTES)


@lru_cache(maxsize=2)
def _projector(key, bound):
    geometry = {k: np.frombuffer(data, dtype).reshape(shape) for k, dtype, shape, data in key}
    if 16 * entries(geometry) > bound:
        return Projectors(geometry)
    import astra

    chosen = views.projector(geometry)
    matrix = None
    try:
        matrix = astra.projector.matrix(chosen)
        found = astra.matrix.get(matrix)
    finally:
        astra.projector.delete(chosen)
        if matrix is not None:
            astra.matrix.delete(matrix)
    rows = scipy.sparse.csr_array((found.data.astype(np.float32), found.indices, found.indptr), shape=found.shape)
    return Matrix(rows, tuple(int(n) for n in geometry["image_shape"]), int(geometry["detector"][0]))


def entries(geometry):
    """An upper bound of the matrix's entries: two for every ray and every row or column of pixels that it crosses."""
    source, detector = geometry["distances"]
    width = geometry["detector"][1] * (source / (source + detector) if source else 1.0)
    return 2 * len(geometry["angles"]) * int(np.prod(geometry["image_shape"])) * float(geometry["pixel"][0] / width)
