"""ConvDecoder: 3x3 convolutions, each after nearest-neighbour upsampling, from a small grid to the image.

Per width: norm of ReLU of conv3x3 of the upsampled; the last of the widths without upsampling; then conv1x1 to the image.

Darestani, Heckel, IEEE TCI 2021. Defaults: those of their code for knees: seven widths of 256, biases, noise on a grid of 8x4,
4,141,854 parameters from 256 to 30 channels; their comparison has eight widths of 160 without biases, 1,850,560. Sizes grow by the same
factor from the grid to the image, rounded up. In an arm ``params: {input: uniform, input_channels: 256, input_scale: 0.1, lr: 0.01}``
(0.008 in the comparison), 20,000 steps.

Deviations: one complex image, where they fit the image of every coil and combine those; no hard data consistency at the end, no weights
of the step of least loss (``stop: min_loss``). An input of the image's size is averaged down to the grid.
"""

import math

from torch import nn
from torch.nn import functional as F

from dipline.networks.base import activation, norm, shrunk

CITE = ("darestani2021",)
PARAMETERS = {
    "widths": [256, 256, 256, 256, 256, 256, 256],
    "grid_height": 8,
    "grid_width": 4,
    "bias": True,
    "norm": ("batch", "group", "none"),
    "output": ("identity", "sigmoid", "softplus"),
}
BOUNDS = {"widths": ">= 1"}


def sizes(shape, widths, grid_height, grid_width):
    """(h, w) of the input and after every upsampling: n (g/n)^(k/ups), k = ups, …, 0, rounded up."""
    ups = len(widths) - 1
    size = lambda n, g, k: math.ceil(n * min(1.0, g / n) ** (k / max(ups, 1)) - 1e-6)  # noqa: E731
    return [(size(shape[0], grid_height, k), size(shape[1], grid_width, k)) for k in range(ups, -1, -1)]


def grid(shape, widths, grid_height, grid_width, **_):
    """(h, w) of the noise that the network takes for an image of ``shape``."""
    return sizes(shape, widths, grid_height, grid_width)[0]


def build(in_channels, out_channels, shape, widths, grid_height, grid_width, bias, norm, output):
    """The network, (1, in_channels, h, w) -> (1, out_channels, H, W); ``shape`` is (H, W), (h, w) that or :func:`grid`."""
    return ConvDecoder(in_channels, out_channels, sizes(shape, widths, grid_height, grid_width), widths, bias, norm, output)


class ConvDecoder(nn.Module):
    def __init__(self, in_channels, out_channels, sizes, widths, bias, norm_kind, output):
        super().__init__()
        self.sizes = sizes
        pairs = zip([in_channels, *widths[:-1]], widths, strict=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=bias), nn.ReLU(inplace=True), norm(norm_kind, o)) for i, o in pairs
        )
        self.last = nn.Sequential(nn.Conv2d(widths[-1], out_channels, 1, bias=bias), activation(output))

    def forward(self, z):
        h = shrunk(z, self.sizes[0])
        for block, size in zip(self.blocks, [*self.sizes[1:], self.sizes[-1]], strict=True):
            h = block(F.interpolate(h, size, mode="nearest") if h.shape[-2:] != size else h)
        return self.last(h)
