"""Blur as a camera has it: light adds up, grey levels do not.

    A x = [ min(k * x^γ, 1) ]^(1/γ),   γ = 2.2

Grey levels become light, light is blurred (periodically, by a known kernel) and cut off where the sensor is full, and becomes grey
levels again. Values below 0 mirror those above, so that a network's first images have a gradient; light below 1e-3 counts as 1e-3,
where the root's slope would be without limit.
"""

import torch

from dipline.physics.base import told
from dipline.physics.sampled import Sampled, checked, response

REFUSES = [({"precondition": "> 0"}, "0: there is no preconditioner for a blur; leave it out")]

GAMMA, DARK = 2.2, 1e-3


def build(arrays, device="cpu"):
    """Operator and data of one image; ``arrays`` as for ``blur``, the values of images in [0, 1]."""
    y = checked(arrays, "kernel")
    return told(NonlinearBlur(arrays["kernel"], arrays["shape"], arrays["index"]), arrays).to(device), y.to(device)


class NonlinearBlur(Sampled):
    """See the module's docstring."""

    linear = False

    def __init__(self, kernel, shape, index=None):
        super().__init__(shape, index)
        self.response = response(kernel, self.domain[1:])

    def plane(self, x):
        light = x.sign() * x.abs() ** GAMMA
        blurred = torch.fft.irfft2(torch.fft.rfft2(light) * self.response, s=self.domain[1:])
        return (blurred.clamp(DARK, 1) ** (1 / GAMMA)).flatten(1)

    def scale_of(self, x):
        """1: the sensor's limit and γ refer to grey levels as they are."""
        return 1.0

    def init(self, y):
        """The blurred image itself."""
        return self.whole(y).reshape(self.domain)

    @classmethod
    def example(cls):
        kernel = torch.tensor([[0.0, 1.0, 0.0], [2.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
        return cls(kernel / kernel.sum(), (2, 10, 9), [i for i in range(90) if i % 7])
