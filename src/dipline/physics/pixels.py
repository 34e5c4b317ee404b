"""Pixels themselves: all of them, with noise (denoising), or some of them (inpainting).

    A x = x[index]
"""

from dipline.physics.base import told
from dipline.physics.sampled import Sampled, checked

REFUSES = [({"precondition": "> 0"}, "0: pixels are fitted evenly as they are; leave it out")]


def build(arrays, device="cpu"):
    """Operator and data of one image.

    Args:
        arrays: ``data`` float (colours, units), ``shape`` (colours, H, W), ``index`` (units,), places of an image read row by row.

    Returns:
        (operator, y), y float32 (colours, units).
    """
    y = checked(arrays)
    return told(Pixels(arrays["shape"], arrays["index"]), arrays).to(device), y.to(device)


class Pixels(Sampled):
    """See the module's docstring."""

    def plane(self, x):
        return x.flatten(1)

    def back(self, values):
        return values.reshape(self.domain)

    def init(self, y):
        """The pixels that are there; 0 elsewhere."""
        return self.back(self.placed(y / self.weights))

    @classmethod
    def example(cls):
        return cls((3, 9, 8), [i for i in range(72) if i % 3])
