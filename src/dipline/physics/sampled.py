"""What the operators of photographs share: a measured plane of values, of which some may be missing.

    y = w ⊙ (B x)[index]

B maps an image (colours, H, W) to a plane of values (colours, n), the same for every colour. Units are places of the plane, all
colours together. Nothing here is complex.
"""

import copy

import torch

from dipline.physics.base import Operator


class Sampled(Operator):
    """See the module's docstring. Subclasses give :meth:`plane` and, where they are linear, its adjoint :meth:`back`.

    Args:
        shape: (colours, H, W).
        index: int64 (units,), the places of the plane that were measured; None: all ``size`` of them.
        size: number of places; default H W.
    """

    def __init__(self, shape, index=None, size=None):
        self.domain = tuple(int(n) for n in shape)
        self.size = size or self.domain[1] * self.domain[2]
        self.index = torch.arange(self.size) if index is None else torch.as_tensor(index).long()
        self.weights = torch.ones(len(self.index))

    dtype = property(lambda self: self.weights.dtype)

    def plane(self, x):
        """(colours, n) of an image (colours, H, W)."""
        raise NotImplementedError

    def back(self, values):
        """The adjoint of :meth:`plane`."""
        raise NotImplementedError

    def __call__(self, x):
        return self.plane(x).index_select(-1, self.index) * self.weights

    def AT(self, y):
        return self.back(self.placed(y * self.weights))

    def placed(self, values, fill=0.0):
        """Measured values (colours, units) in their places of the plane; ``fill``: a number or (colours, 1) elsewhere."""
        whole = values.new_zeros(len(values), self.size) + fill
        return whole.index_copy(-1, self.index, values)

    def whole(self, y):
        """The plane behind ``y``, whatever the weights; missing places have the mean of what is there."""
        values = y / self.weights
        return self.placed(values, values.mean(-1, keepdim=True))

    def view(self, x):
        """The image: (H, W) of one colour, else (colours, H, W)."""
        return x[0] if len(x) == 1 else x

    def spare(self):
        """Every measured value may be left out."""
        return torch.ones(len(self.index), dtype=torch.bool, device=self.index.device)

    def restrict(self, keep):
        other = copy.copy(self)
        other.index, other.weights = self.index[keep], self.weights[keep]
        return other

    def weighted(self, weights):
        other = copy.copy(self)
        other.weights, other.norm = self.weights * weights.reshape(-1), self.norm * float(weights.max())
        return other


def checked(arrays, *names):
    """(colours, units) float32 of ``data``; ValueError where an array is missing."""
    missing = [name for name in ("data", "shape", "index", *names) if name not in arrays]
    if missing:
        raise ValueError(f"measurement of an image: {', '.join(missing)} missing; measure it again")
    return torch.as_tensor(arrays["data"], dtype=torch.float32)


def response(kernel, shape):
    """The real Fourier transform of a kernel (kh, kw) on a periodic image of ``shape`` (H, W), the kernel's middle,
    ((kh − 1) // 2, (kw − 1) // 2), at the origin."""
    kernel = torch.as_tensor(kernel)
    kh, kw = kernel.shape
    whole = torch.zeros(shape, dtype=torch.float64)
    whole[:kh, :kw] = kernel
    return torch.fft.rfft2(whole.roll((-((kh - 1) // 2), -((kw - 1) // 2)), (0, 1))).to(torch.complex64)
