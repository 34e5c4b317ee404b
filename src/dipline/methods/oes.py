"""OES, Optimal Eye Surgeon: learn which few weights of a random network to keep, then train those alone.

    1.  min_p  E_{m~Ber(p)} ‖A f_{θ₀∘m}(z) − y‖²/‖y‖² + (λ/n) Σᵢ KL(Ber(pᵢ) ‖ Ber(s)),   θ₀ stays as it was drawn
    2.  m = the s·n weights of largest p;   min_θ ‖A f_{θ∘m}(z) − y‖²,   θ from θ₀

Ghosh, Zhang, Sun, Qu, Ravishankar, Wang, ICML 2024 (eq. 17). p = σ(ℓ) from ℓ = 0; m is relaxed to the Gumbel-softmax of two classes,
σ((ℓ + g₁ − g₀)/T) (Jang, Gu, Poole, ICLR 2017). ``sparsity`` s is the part that is *kept*, of all parameters jointly; ties are drawn.
A network with so few weights can hardly fit noise, so that late iterations do little harm.

``iterations`` count both stages, ``mask_share`` of them is the first, which is not scored. ``inputs: {mask: …}`` re-uses the mask of
another result instead (``{arm: …, dataset: …, volume: …, slice: …}``, or ``{file: recon/…/s000.h5, slice: 0}``) of the same network
and seed: then all iterations train it, and ``sparsity`` is the mask's.

Defaults: the code's: Adam 0.01 in both stages, 60,000 and 40,000 steps, T = 0.2, s = 0.05, z ~ U[0, 0.1) with 32 channels, six scales of
16 to 128 channels without skips. Its λ of 1e-9 multiplies the sum over 3,008,867 parameters beside a mean square; ``lam`` multiplies
the *mean* over parameters, which is 3.0e-3 there, beside the *relative* square, which is about 4 times the mean square of a photograph in
[0, 1] (mean of x² near 1/4): 0.012. So it holds for any network, scaling and operator; KL alone costs 0.83 nats a weight at p = 1/2.

Deviations: network ``skip`` has strided 3x3 convolutions and 1x1 ones where the code averages, with kernels of 5 and 3, and no sigmoid at
the end; the code's g₁ − g₀ of two draws is one logistic draw, which has the same law. Nothing is published for MRI and CT.
"""

import math

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from dipline.methods.base import Stage
from dipline.methods.subnetwork import Subnetwork, top

CLASS = "re-parameterised"
CITE = ("ghosh2024", "jang2017")
REUSES = ("mask",)
ARTEFACTS = ("mask",)
NETWORK = {"skip": {"widths": [16, 32, 64, 128, 128, 128], "skip_widths": [0, 0, 0, 0, 0, 0], "upsampling": "nearest"}}
ITERATIONS = 100000
PARAMETERS = {
    "sparsity": 0.05,
    "mask_share": 0.6,
    "mask_lr": 0.01,
    "lam": 0.012,
    "temperature": 0.2,
    "lr": 0.01,
    "input": ("uniform", "normal", "zero_filled", "least_squares"),
    "input_channels": 32,
    "input_scale": 0.1,
    "input_noise": 0.0,
}
BOUNDS = {
    "sparsity": "> 0, < 1", "mask_share": "> 0, < 1", "mask_lr": "> 0", "temperature": "> 0", "lr": "> 0",
    "input_channels": ">= 0", "input_scale": "> 0",
}  # fmt: skip
REFUSES = [
    ({"mode": "chain"}, "serial or joint: a mask is for a network's random start, not for its neighbour's weights"),
    ({"stop.holdout.refit": True}, "false: the steps that it chooses are those of the second stage alone"),
]


class OptimalEyeSurgeon(Subnetwork):
    def __init__(self, problem, sparsity, mask_share, mask_lr, lam, temperature, **training):
        super().__init__(problem, **training)
        self.given = problem.inputs.get("mask")
        if self.given is None:
            self.logits = nn.Parameter(torch.zeros_like(self.mask))
        elif self.given.shape != self.mask.shape:
            found, allowed = (f"{m.numel():,}" for m in (self.given, self.mask))
            raise ValueError(
                f"inputs.mask: found a mask of {found} weights, allowed: {allowed}, as many as the network has; "
                "name a result of an arm with the same network and input"
            )
        self.sparsity, self.mask_share, self.mask_lr = sparsity, mask_share, mask_lr
        self.lam, self.temperature = lam, temperature
        self.learning, self.rng, self.ties = False, problem.rng("mask"), problem.rng("ties")

    def stages(self):
        steps = self.problem.iterations
        first = 0 if self.given is not None else min(round(self.mask_share * steps), steps - 1)
        learn = [Stage("mask", first, [{"params": [self.logits], "lr": self.mask_lr}], scored=False)] if first else []
        return [*learn, self.fit(steps - first)]

    def enter(self, stage):
        self.learning = stage.name == "mask"
        self.net.requires_grad_(not self.learning)
        if self.learning:
            return
        mask = self.given
        if mask is None:  # of p, whose order ℓ has without rounding
            mask = top(self.logits.detach(), round(self.sparsity * len(self.logits)), self.ties)
        self.keep(mask)

    def sample(self):
        """A soft mask (n,), differentiable in ℓ."""
        u = torch.rand(self.logits.shape, generator=self.rng, device=self.logits.device)
        return torch.sigmoid((self.logits + torch.logit(u, eps=1e-7)) / self.temperature)

    def divergence(self):
        """Σ KL(Ber(σ(ℓ)) ‖ Ber(s))"""
        p, s = torch.sigmoid(self.logits), self.sparsity
        return (p * (logsigmoid(self.logits) - math.log(s)) + (1 - p) * (logsigmoid(-self.logits) - math.log(1 - s))).sum()

    def loss(self, k):
        if not self.learning:
            return super().loss(k)
        x = self.output(self.sample())
        return self.misfit(x) / self.energy + self.lam * self.divergence() / len(self.logits), x
