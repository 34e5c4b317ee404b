"""Reference-Guided DIP: vanilla DIP whose input is an earlier or differently weighted image of the same patient.

    min_θ ‖A f_θ(x_prior) − y‖²,   x_prior fixed

Zhao et al. 2020, in the form that Liang et al. (2025) compare with: U-Net, Adam 3e-4, 2500 steps, the prior scan registered and in
the same scaling. The study names the prior (``inputs: {prior: …}``); one made from the scored scan's own full data is refused.

``correction: true`` adds the last step of Zhao et al., which the survey leaves out: the image that is handed over has its acquired
samples replaced by the measured ones, coil-combined; the fit is the same. Their structural prior is the input itself. MRI alone.

Deviations: the prior is divided by its own 99.9th percentile, as the data are by that of the zero-filled image, which makes scales of
two scans alike only roughly. ``phase: zero_filled`` gives the prior's magnitude the phase of the zero-filled image, because two scans
rarely share their phase. The correction is made at every step, so that stop rules and snapshots see what is handed over.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("zhao2020",)
INPUTS = ("prior",)
NETWORK = {"unet": {}}
ITERATIONS = 2500
PARAMETERS = {"lr": 3e-4, "phase": ("zero_filled", "prior"), "correction": False}
BOUNDS = {"lr": "> 0"}
REFUSES = [
    ({"params.correction": True, "modality": "ct"}, "false: rays are no samples that can be replaced in an image; leave it out"),
    ({"params.correction": True, "modality": "image"}, "false: samples are replaced in MRI alone; leave it out"),
]


class RefGuided(Method):
    def __init__(self, problem, lr, phase, correction):
        super().__init__(problem)
        prior = problem.inputs["prior"]
        if phase == "zero_filled" and prior.is_complex():
            prior = torch.polar(prior.abs(), problem.x0.angle())
        self.register_buffer("z", self.channels(prior))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.lr, self.correction = lr, correction
        if correction and not hasattr(self.A, "consistent"):
            raise ValueError("ref_guided: correction: true needs an operator whose samples can be replaced (MRI); leave it out")

    def stages(self):
        return [Stage("fit", self.problem.iterations, [{"params": self.net.parameters(), "lr": self.lr}])]

    def loss(self, k):
        x = self.as_image(self.net(self.z))
        return self.misfit(x), self.A.consistent(x, self.y) if self.correction else x
