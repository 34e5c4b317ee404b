"""Ulyanov's skip network: an hourglass of strided convolutions whose scales are joined by thin 1x1 skip connections.

Per scale: skip = act(norm(conv1x1)); down = two act(norm(conv3x3)), the first with stride 2; up x2; norm of the
concatenation; act(norm(conv3x3)); act(norm(conv1x1)). A final 1x1 convolution.

Ulyanov, Vedaldi, Lempitsky, CVPR 2018. Defaults: five scales of 128 channels, 4 skip channels, LeakyReLU 0.2,
reflection padding, biases everywhere: 2,217,831 parameters from 32 to 3 channels. Deviation: sizes that do not halve
evenly are padded by reflection at the input and cropped at the output, where the released code crops at every
concatenation.
"""

import torch
from torch import nn

from dipline.networks.base import Cropped, activation, norm
from dipline.networks.resample import Conv, upsample

CITE = ("ulyanov2018",)
PARAMETERS = {
    "widths": [128, 128, 128, 128, 128],
    "skip_widths": [4, 4, 4, 4, 4],
    "norm": ("batch", "group", "none"),
    "padding": ("reflect", "zeros"),
    "upsampling": ("bilinear", "nearest"),
    "output": ("identity", "sigmoid", "softplus"),
}
BOUNDS = {"widths": ">= 1"}
EQUAL = ("widths", "skip_widths")


def build(in_channels, out_channels, shape, widths, skip_widths, norm, padding, upsampling, output):
    """The network, (1, in_channels, H, W) -> (1, out_channels, H, W)."""
    if len(skip_widths) != len(widths):
        found = f"skip_widths has {len(skip_widths)} entries, widths has {len(widths)}"
        raise ValueError(f"network skip: {found}; give as many")
    net = nn.Sequential(
        Scale(in_channels, widths, skip_widths, norm, padding, upsampling),
        nn.Conv2d(widths[0], out_channels, 1),
        activation(output),
    )
    return Cropped(net, 2 ** len(widths))


def conv(i, o, size, norm_kind, padding, stride=1):
    return nn.Sequential(
        Conv(i, o, size, stride, padding if size > 1 else "zeros"),
        norm(norm_kind, o),
        nn.LeakyReLU(0.2, inplace=True),
    )


class Scale(nn.Module):
    """One scale of the hourglass; holds the next one."""

    def __init__(self, channels, widths, skip_widths, norm_kind, padding, upsampling):
        super().__init__()
        width, thin = widths[0], skip_widths[0]
        self.upsampling = upsampling
        self.skip = conv(channels, thin, 1, norm_kind, padding) if thin else None
        self.down = nn.Sequential(
            conv(channels, width, 3, norm_kind, padding, stride=2), conv(width, width, 3, norm_kind, padding)
        )
        deeper = len(widths) > 1
        self.next = Scale(width, widths[1:], skip_widths[1:], norm_kind, padding, upsampling) if deeper else None
        joined = thin + (widths[1] if deeper else width)
        self.up = nn.Sequential(
            norm(norm_kind, joined),
            conv(joined, width, 3, norm_kind, padding),
            conv(width, width, 1, norm_kind, padding),
        )

    def forward(self, x):
        d = self.down(x)
        if self.next is not None:
            d = self.next(d)
        corners = False if self.upsampling == "bilinear" else None
        d = upsample(d, [2 * n for n in d.shape[-2:]], self.upsampling, corners)
        return self.up(d if self.skip is None else torch.cat([self.skip(x), d], 1))
