"""What methods that train a sparse part of a network share: a mask over all its weights, and which weights it keeps.

    min_θ ‖A f_{θ∘m}(z) − y‖² / ‖y‖²,   m ∈ {0, 1}ⁿ over every parameter: kernels, biases, scales and shifts of norms

Pruned weights are set to 0. The gradient of θ is that of θ∘m times m, so theirs is 0 and so are Adam's moments: they stay exactly 0.
A mask is a vector over ``net.parameters()`` in their order; it means something for one network, and for the random start (the seed) that
it was found at.
"""

import torch
from torch.func import functional_call

from dipline.methods.base import Method, Stage


def top(scores, count, rng):
    """The mask of the ``count`` largest scores; among equal ones chance decides."""
    order = torch.randperm(len(scores), generator=rng, device=rng.device)
    best = order[scores[order].sort(descending=True, stable=True).indices[:count]]
    return torch.zeros_like(scores).index_fill_(0, best, 1.0)


class Subnetwork(Method):
    """Subclasses say in ``enter`` which weights a stage begins with (:meth:`keep`)."""

    def __init__(self, problem, lr, input, input_channels, input_scale, input_noise):
        super().__init__(problem)
        self.register_buffer("z", self.first_input(input, input_channels, input_scale))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.register_buffer("mask", torch.ones_like(self.weights()))
        with torch.no_grad():  # of the measurement, as the data term counts it
            self.register_buffer("energy", self.misfit(torch.zeros_like(problem.x0)).clamp(min=1e-12))
        self.lr, self.input_noise, self.noise = lr, input_noise, problem.rng("input noise")

    def fit(self, steps, name="fit", scored=True):
        """A stage that trains the weights."""
        return Stage(name, steps, [{"params": self.net.parameters(), "lr": self.lr}], scored=scored)

    def weights(self):
        """All parameters of the network as one vector (n,)."""
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])

    def parts(self, vector):
        """[(name, parameter, its part of a vector (n,))]"""
        names, parameters = zip(*self.net.named_parameters(), strict=True)
        parts = vector.split([p.numel() for p in parameters])
        return [(n, p, part.view(p.shape)) for n, p, part in zip(names, parameters, parts, strict=True)]

    @torch.no_grad()
    def keep(self, mask, start=None):
        """Prune by a mask (n,), from the weights as they are or from ``start`` (n,)."""
        self.mask.copy_(mask)
        for (_, p, m), (_, _, first) in zip(self.parts(self.mask), self.parts(self.weights() if start is None else start), strict=True):
            p.copy_(first * m)

    def output(self, mask):
        """The image of the masked network; ``mask`` may hold any numbers."""
        z = self.z
        if self.input_noise:
            z = z + self.input_noise * torch.randn(z.shape, generator=self.noise, device=z.device)
        return self.as_image(functional_call(self.net, {name: p * m for name, p, m in self.parts(mask)}, (z,)))

    def loss(self, k):
        x = self.output(self.mask)
        return self.misfit(x) / self.energy, x

    def artefacts(self):
        return {"mask": self.mask.to(torch.uint8)}
