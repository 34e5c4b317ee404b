"""A coordinate network: every pixel's place, as Fourier features, through a multi-layer perceptron with sines (SIREN).

    γ(r) = [sin 2πBr, cos 2πBr],  B ~ N(0, frequency_scale²);   h ← sin(omega (W h + b));   the last layer is linear

Tancik et al., NeurIPS 2020 (features); Sitzmann et al., NeurIPS 2020 (layers and their first weights: U(±1/n) in the first, then
U(±√(6/n)/omega), n inputs). Defaults: NeRP's (Shen, Pauly, Xing, TNNLS 2024): 256 frequencies of scale 4, eight layers: 526,337 parameters
from places to one channel. No pixel knows its neighbours: what is smooth is what B allows.

The channels of the input are the places: an arm of ``vanilla`` says ``params: {input: coordinates}`` (two channels, r in [0, 1]²), and
``nerp`` does so by itself. It takes noise, or an image, as well, and is then a function of one pixel's values: no image prior at all.
Deviations: none; complex images are two channels.
"""

import math

import torch
from torch import nn

from dipline.networks.base import activation

CITE = ("tancik2020", "sitzmann2020")
PARAMETERS = {
    "widths": [256, 256, 256, 256, 256, 256, 256],
    "frequencies": 256,
    "frequency_scale": 4.0,
    "omega": 30.0,
    "output": ("identity", "sigmoid", "softplus"),
}
BOUNDS = {"widths": ">= 1", "frequencies": ">= 1", "frequency_scale": "> 0", "omega": "> 0"}


def build(in_channels, out_channels, shape, widths, frequencies, frequency_scale, omega, output):
    """The network, (1, in_channels, H, W) -> (1, out_channels, H, W)."""
    return CoordinateNetwork(in_channels, out_channels, widths, frequencies, frequency_scale, omega, output)


class CoordinateNetwork(nn.Module):
    def __init__(self, in_channels, out_channels, widths, frequencies, frequency_scale, omega, output):
        super().__init__()
        self.register_buffer("B", frequency_scale * torch.randn(frequencies, in_channels))
        sizes = [2 * frequencies, *widths, out_channels]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))
        for n, layer in enumerate(self.layers):
            bound = math.sqrt(6 / layer.in_features) / omega if n else 1 / layer.in_features
            nn.init.uniform_(layer.weight, -bound, bound)
        self.omega, self.output = omega, activation(output)

    def features(self, z):
        """γ of an input (1, C, H, W): (H W, 2 frequencies)."""
        phase = 2 * math.pi * z[0].flatten(1).T @ self.B.T
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    def forward(self, z):
        h = self.features(z)
        for layer in self.layers[:-1]:
            h = torch.sin(self.omega * layer(h))
        return self.output(self.layers[-1](h)).T.reshape(1, -1, *z.shape[-2:])
