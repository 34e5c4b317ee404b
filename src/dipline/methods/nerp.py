"""NeRP: a coordinate network that first learns a prior image of the patient, then fits the measurement from there.

    1.  φ* = argmin_φ ½ mean_r |M_φ(r) − x_prior(r)|²   (Adam, weight decay)
    2.  min_φ ‖A M_φ − y‖²,   φ from φ*, the same Fourier features

Shen, Pauly, Xing, IEEE TNNLS 2024 (eq. 4 to 6). The prior is another image of the patient: an earlier scan, another contrast or phase, a
neighbouring slice (``inputs: {prior: …}``). Without one there is the second stage alone, from random weights: a plain implicit
neural representation.

``iterations`` count both stages, ``prior_share`` of them is the first, which is not scored. ``lr: 0`` stands for the paper's 1e-5 with a
prior, so that little of it is lost, and 1e-4 without.

Defaults: the paper's for a slice: 1000 and 1000 steps, weight decay 1e-4 in the first stage; network ``mlp``. Deviations: the prior is
divided by its own 99.9th percentile, as the data are by that of the starting image; ``phase: zero_filled`` gives its magnitude the phase
of the zero-filled image, because two MRI scans rarely share theirs. Nothing is published for complex images.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("shen2024",)
OPTIONAL = ("prior",)
NETWORK = {"mlp": {}}
ITERATIONS = 2000
PARAMETERS = {"lr": 0.0, "prior_lr": 1e-4, "prior_share": 0.5, "weight_decay": 1e-4, "phase": ("zero_filled", "prior")}
BOUNDS = {"prior_lr": "> 0", "prior_share": "> 0, < 1"}
REFUSES = [({"mode": "chain"}, "serial or joint: a prior is learnt from random weights, not from the neighbour's")]


class Nerp(Method):
    def __init__(self, problem, lr, prior_lr, prior_share, weight_decay, phase):
        super().__init__(problem)
        self.register_buffer("z", self.first_input("coordinates"))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        prior = problem.inputs.get("prior")
        if prior is not None and phase == "zero_filled" and prior.is_complex():
            prior = torch.polar(prior.abs(), problem.x0.angle())
        self.prior, self.embedding = prior, False
        self.lr = lr or (1e-4 if prior is None else 1e-5)
        self.prior_lr, self.prior_share, self.weight_decay = prior_lr, prior_share, weight_decay

    def stages(self):
        steps, weights = self.problem.iterations, self.net.parameters()
        if self.prior is None:
            return [Stage("fit", steps, [{"params": weights, "lr": self.lr}])]
        first, weights = min(max(round(self.prior_share * steps), 1), steps - 1), list(weights)
        learn = [{"params": weights, "lr": self.prior_lr, "weight_decay": self.weight_decay}]
        return [Stage("prior", first, learn, scored=False), Stage("fit", steps - first, [{"params": weights, "lr": self.lr}])]

    def enter(self, stage):
        self.embedding = stage.name == "prior"

    def loss(self, k):
        x = self.as_image(self.net(self.z))
        return (x - self.prior).abs().square().mean() / 2 if self.embedding else self.misfit(x), x
