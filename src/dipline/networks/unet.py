"""The U-Net of the MRI and CT papers of the DIP family: double convolutions, max-pooling, bilinear upsampling, skips.

    down: DoubleConv, then (max-pool 2, DoubleConv) per further width
    up:   bilinear x2, concatenate, DoubleConv(i -> i/2 -> o)

Ronneberger et al. 2015, in the form of Self-Guided DIP (Liang et al. 2025) and aSeqDIP (Alkhouri et al. 2024). The
default widths give their "medium" network: 4,283,842 parameters from 2 to 2 channels. Their initialisation (weights
N(0, 0.02²), biases 0, norm scales N(1, 0.02²)) is ``init: papers``. Deviation: odd sizes are padded by reflection at
the input and cropped at the output, where the released code pads inside.
"""

import torch
from torch import nn
from torch.nn import functional as F

from dipline.networks.base import Cropped, activation, norm
from dipline.networks.resample import Conv, upsample

CITE = ("ronneberger2015",)
PARAMETERS = {
    "widths": [64, 128, 256, 256],
    "norm": ("batch", "group", "none"),
    "padding": ("zeros", "reflect"),
    "upsampling": ("bilinear", "nearest"),
    "init": ("papers", "torch"),
    "output": ("identity", "sigmoid", "softplus"),
}
BOUNDS = {"widths": ">= 1"}


def build(in_channels, out_channels, shape, widths, norm, padding, upsampling, init, output):
    """The network, (1, in_channels, H, W) -> (1, out_channels, H, W)."""
    net = Cropped(UNet(in_channels, out_channels, widths, norm, padding, upsampling, output), 2 ** (len(widths) - 1))
    if init == "papers":
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, 0, 0.02)
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(m.weight, 1, 0.02)
                nn.init.zeros_(m.bias)
    return net


def double_conv(i, mid, o, norm_kind, padding):
    layers = []
    for a, b in ((i, mid), (mid, o)):
        layers += [Conv(a, b, 3, padding=padding), norm(norm_kind, b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, in_channels, out_channels, widths, norm_kind, padding, upsampling, output):
        super().__init__()
        self.upsampling = upsampling
        pairs = zip([in_channels, *widths[:-1]], widths, strict=True)
        self.down = nn.ModuleList(double_conv(a, b, b, norm_kind, padding) for a, b in pairs)
        self.up = nn.ModuleList()
        channels = widths[-1]
        for level in range(len(widths) - 2, -1, -1):
            both, out = channels + widths[level], widths[max(level - 1, 0)]
            self.up.append(double_conv(both, both // 2, out, norm_kind, padding))
            channels = out
        self.last = nn.Sequential(nn.Conv2d(channels, out_channels, 1), activation(output))

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            corners = True if self.upsampling == "bilinear" else None
            x = upsample(x, [2 * n for n in x.shape[-2:]], self.upsampling, corners)
            x = block(torch.cat([skips.pop(), x], 1))
        return self.last(x)
