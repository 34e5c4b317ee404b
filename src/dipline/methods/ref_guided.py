"""Reference-Guided DIP: vanilla DIP whose input is an earlier or differently weighted image of the same patient.

    min_θ ‖A f_θ(x_prior) − y‖²,   x_prior fixed

Zhao et al. 2020, in the form that Liang et al. (2025) compare with: U-Net, Adam 3e-4, 2500 steps, the prior scan registered and in
the same scaling. The study names the prior (``inputs: {prior: …}``); one made from the scored scan's own full data is refused.

Deviations: the optional structure term of the original paper is left out, as in the survey. ``phase: zero_filled`` gives the prior's
magnitude the phase of the zero-filled image, because two scans rarely share their phase.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("zhao2020",)
INPUTS = ("prior",)
NETWORK = {"unet": {}}
ITERATIONS = 2500
PARAMETERS = {"lr": 3e-4, "phase": ("zero_filled", "prior")}
BOUNDS = {"lr": "> 0"}


class RefGuided(Method):
    def __init__(self, problem, lr, phase):
        super().__init__(problem)
        prior = problem.inputs["prior"]
        if phase == "zero_filled" and prior.is_complex():
            prior = torch.polar(prior.abs(), problem.x0.angle())
        self.register_buffer("z", self.channels(prior))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.lr = lr

    def stages(self):
        return [Stage("fit", self.problem.iterations, [{"params": self.net.parameters(), "lr": self.lr}])]

    def loss(self, k):
        x = self.as_image(self.net(self.z))
        return self.misfit(x), x
