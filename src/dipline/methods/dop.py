"""DOP, double over-parameterisation: a second set of weights takes the sparse corruption of the measurement.

    min_{θ,g,h} mean |A f_θ(z + η) + g∘g − h∘h − y|²,   η ~ N(0, σ_p²), drawn anew at every step

You, Zhu, Qu, Ma, NeurIPS 2020, with A in front of the network. Nothing in the loss asks for sparsity: plain gradient
descent from a small start favours it. The rates of the two sets differ: their ratio α = ``lr_corruption``/``lr`` acts as an ℓ1 weight
1/α on the corruption. One g and h for every measured number, for a complex sample two of each.

Defaults: the paper's and its code's, for pixels of which half are replaced: skip network of width 128, z ~ U[0, 0.1) with 32
channels, σ_p = 1/30, SGD without momentum, rate 500 for g and h ~ 1e-5 N(0, 1), 150,000 steps, the *mean* square as loss. Deviation:
lr is 0.03 where the paper has 1. Its network ends in a sigmoid, whose slope is at most 1/4; with the identity that complex images need,
width 128 diverged within five steps at 1 and at 0.3, on 64 x 64 pixels at 0.1 as well. For photographs in [0, 1] the paper's pair is
``lr: 1`` with ``network: {skip: {output: sigmoid}}``.

A value of g grows at a pace ∝ ``lr_corruption``/n, n the number of measured values, 786,432 in the paper: fewer values need fewer steps,
and ``lr_corruption`` has to stay below about n/4 (over the largest corruption), or g and h diverge: lower it below 2000 values.

``optimiser: adam`` is what the survey of untrained networks (arXiv 2502.18612) ran; Adam divides the rates' ratio out, so that
the theory no longer holds, and it needs rates below those of SGD.

For impulses, spikes, dead detector pixels; about Gaussian noise it says nothing. Samples of column-wise MRI masks are kept transformed
along the readout: a spike in one k-space point is a whole line there, not one value, and ``dop`` is not made for it.
"""

import torch
from torch import nn

from dipline.methods.base import Method, Stage

CLASS = "re-parameterised"
CITE = ("you2020",)
ARTEFACTS = ("corruption",)
NETWORK = {"skip": {}}
ITERATIONS = 150000
PARAMETERS = {
    "optimiser": ("sgd", "adam"),
    "lr": 0.03,
    "lr_corruption": 500.0,
    "start": 1e-5,
    "input_channels": 32,
    "input_scale": 0.1,
    "input_noise": 0.0333,
}
BOUNDS = {"lr": "> 0", "lr_corruption": "> 0", "start": "> 0", "input_scale": "> 0"}
DATA_TERMS = ("least_squares", "weighted")
REFUSES = [
    ({"precondition": "> 0"}, "0: corruption is sparse in the measurement as it is; leave it out"),
    ({"params.lr_corruption": "> 0.1", "params.optimiser": "adam"}, "0.1 or less with optimiser: adam, e.g. 0.01"),
]


class DoubleOverParameterisation(Method):
    def __init__(self, problem, optimiser, lr, lr_corruption, start, input_channels, input_scale, input_noise):
        super().__init__(problem)
        self.register_buffer("z", self.first_input("uniform", input_channels, input_scale))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        shape, rng = self.reals(self.y).shape, problem.rng("corruption")
        self.g, self.h = (nn.Parameter(start * torch.randn(shape, generator=rng, device=rng.device)) for _ in "gh")
        self.optimiser, self.lr, self.lr_corruption = optimiser, lr, lr_corruption
        self.input_noise, self.noise = input_noise, problem.rng("input noise")

    def stages(self):
        groups = [{"params": self.net.parameters(), "lr": self.lr}, {"params": [self.g, self.h], "lr": self.lr_corruption}]
        return [Stage("fit", self.problem.iterations, groups, optimiser=self.optimiser)]

    def reals(self, y):
        return torch.view_as_real(y) if y.is_complex() else y

    def corruption(self):
        """What g and h say of the measurement, in y's shape."""
        s = self.g.square() - self.h.square()
        return torch.view_as_complex(s) if self.y.is_complex() else s

    def loss(self, k):
        z = self.z
        if self.input_noise:
            z = z + self.input_noise * torch.randn(z.shape, generator=self.noise, device=z.device)
        x = self.as_image(self.net(z))
        return self.A.residual(x, self.y - self.corruption()) / self.y.numel(), x

    def artefacts(self):
        return {"corruption": self.corruption().detach()}
