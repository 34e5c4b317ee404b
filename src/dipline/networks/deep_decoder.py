"""The Deep Decoder: 1x1 convolutions and bilinear upsampling alone, with fewer weights than the image has pixels.

Per width: ReLU and norm of the doubled conv1x1; the last of the widths without doubling; then conv1x1 to the image. No biases.

Heckel, Hand, ICLR 2019. Defaults: theirs, six widths of 128: 100,224 parameters from 128 to 3 channels; the input is noise U[0, 0.1)
with 128 channels on a grid of 1/32 of the image (512² pixels: 16²), in an arm ``params: {input: uniform, input_channels: 128,
input_scale: 0.1}``; learning rate 0.01. More width fits more noise: small widths, or a stop rule, where noise is strong.

Deviations: ``output`` is the identity, theirs a sigmoid, which complex images cannot have. Sizes are halved and rounded up from the
image's, so that any size will do, and none is below 4 pixels. An input of the image's size is averaged down to the grid.
"""

import torch
from torch import nn

from dipline.networks.base import activation, norm, shrunk
from dipline.networks.resample import upsample

CITE = ("heckel2019",)
PARAMETERS = {
    "widths": [128, 128, 128, 128, 128, 128],
    "norm": ("batch", "group", "none"),
    "output": ("identity", "sigmoid", "softplus"),
}
BOUNDS = {"widths": ">= 1"}


def sizes(shape, widths):
    """(h, w) of the input and after every doubling."""
    return [tuple(min(n, max(4, -(-n // 2**k))) for n in shape) for k in reversed(range(len(widths)))]


def grid(shape, widths, **_):
    """(h, w) of the noise that the network takes for an image of ``shape``."""
    return sizes(shape, widths)[0]


def build(in_channels, out_channels, shape, widths, norm, output):
    """The network, (1, in_channels, h, w) -> (1, out_channels, H, W); ``shape`` is (H, W), (h, w) that or :func:`grid`."""
    return DeepDecoder(in_channels, out_channels, sizes(shape, widths), widths, norm, output)


class DeepDecoder(nn.Module):
    def __init__(self, in_channels, out_channels, sizes, widths, norm_kind, output):
        super().__init__()
        self.sizes = sizes
        pairs = zip([in_channels, *widths[:-1]], widths, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 1, bias=False) for i, o in pairs)
        self.norms = nn.ModuleList(norm(norm_kind, o) for o in widths)
        self.last = nn.Sequential(nn.Conv2d(widths[-1], out_channels, 1, bias=False), activation(output))

    def forward(self, z):
        h = shrunk(z, self.sizes[0])
        for conv, size, after in zip(self.convs, [*self.sizes[1:], None], self.norms, strict=True):
            h = conv(h)
            if size:
                h = upsample(h, size, "bilinear", False)
            h = after(torch.relu(h))
        return self.last(h)
