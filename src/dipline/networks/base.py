"""Pieces that networks share: norms, output activations, padding to a size that halves evenly, inputs for a coarse grid.

A network whose noise has fewer pixels than the image says how many: ``grid(shape, **params)`` in its file, (H, W) -> (h, w). It takes
inputs of that size and of the image's.
"""

from torch import nn
from torch.nn import functional as F


def norm(kind, channels):
    """A normalisation layer. ``batch`` always uses the statistics of the one image at hand, as the DIP papers do."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    if kind == "group":
        return nn.GroupNorm(4 if channels % 4 == 0 else 1, channels)
    return nn.Identity()


def activation(kind):
    return {"identity": nn.Identity, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus}[kind]()


def shrunk(z, size):
    """An input on a coarse grid; one that is larger, such as an image, as the means over the grid's cells."""
    return z if z.shape[-2:] == size else F.interpolate(z, size, mode="area")


class Cropped(nn.Module):
    """Runs ``net`` on an input padded to a multiple of ``step``, and crops back.

    At least two steps, for the norms at the deepest scale.
    """

    def __init__(self, net, step):
        super().__init__()
        self.net, self.step = net, step

    def forward(self, z):
        height, width = z.shape[-2:]
        bottom, right = (max(-n % self.step, 2 * self.step - n) for n in (height, width))
        if not (bottom or right):
            return self.net(z)
        mode = "reflect" if bottom < height and right < width else "replicate"
        return self.net(F.pad(z, (0, right, 0, bottom), mode=mode))[..., :height, :width]
