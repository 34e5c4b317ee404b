"""Blur by a known kernel, the image continued periodically.

    A x = (k * x)[index],   (k * x)(p) = Σ_q k(q) x(p − q),   Σ k = 1, k ≥ 0, so that ‖A‖ = 1

The convolution is a product in Fourier space, and its adjoint the product with the conjugate.
"""

import torch

from dipline.physics.base import told
from dipline.physics.sampled import Sampled, checked, response

REFUSES = [({"precondition": "> 0"}, "0: there is no preconditioner for a blur; leave it out")]


def build(arrays, device="cpu"):
    """Operator and data of one image.

    Args:
        arrays: ``data``, ``shape``, ``index`` as for pixels; ``kernel`` (kh, kw).

    Returns:
        (operator, y), y float32 (colours, units).
    """
    y = checked(arrays, "kernel")
    return told(Blur(arrays["kernel"], arrays["shape"], arrays["index"]), arrays).to(device), y.to(device)


class Blur(Sampled):
    """See the module's docstring.

    Args:
        kernel: (kh, kw), not larger than the image.
    """

    def __init__(self, kernel, shape, index=None):
        super().__init__(shape, index)
        self.response = response(kernel, self.domain[1:])

    def plane(self, x):
        return self.convolved(x, self.response).flatten(1)

    def back(self, values):
        return self.convolved(values.reshape(self.domain), self.response.conj())

    def convolved(self, x, response):
        return torch.fft.irfft2(torch.fft.rfft2(x) * response, s=self.domain[1:])

    def init(self, y):
        """The blurred image itself."""
        return self.whole(y).reshape(self.domain)

    @classmethod
    def example(cls):
        kernel = torch.tensor([[0.0, 1.0, 0.0], [2.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
        return cls(kernel / kernel.sum(), (2, 10, 9), [i for i in range(90) if i % 7])
