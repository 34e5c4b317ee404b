"""Coarse-to-fine DIP: the network first explains the measurement through a Gaussian blur that shrinks, then without it.

    min_θ ‖A G_σ f_θ(z) − y‖²,   z fixed
    coarse: σ falls by the same factor in every step, from blur to END;   fine: σ = 0, G_0 the identity

The first steps have to be explained by low frequencies, whatever the network and its learning rate prefer.
The image is G_σ f_θ(z). Stop rules see both stages.

No paper: an example of a file that a user adds (README, "Add your method in one file"); Ulyanov et al., CVPR 2018, with a blur.
Defaults: lr and input as `dipline new method` writes them; blur (pixels) and share (of the iterations that are coarse) were not tuned.
Deviations: none; there is no authors' code.
"""

import torch
from torch.nn import functional as F

from dipline.methods.base import Method, Stage

CLASS = "early stopping"
CITE = ("ulyanov2018",)
NETWORK = {"unet": {}}
ITERATIONS = 2000
PARAMETERS = {"lr": 1e-3, "blur": 2.0, "share": 0.5, "input": ("uniform", "zero_filled")}
BOUNDS = {"lr": "> 0", "blur": "> 0", "share": "> 0, < 1"}

END = 0.3  # pixels: the neighbours' weight is 0.4 % here
RADIUS = 3  # standard deviations


class CoarseToFine(Method):
    def __init__(self, problem, lr, blur, share, input):
        super().__init__(problem)
        self.register_buffer("z", self.first_input(input))
        self.register_buffer("sigma", torch.full((), float(blur), device=self.z.device))
        self.register_buffer("distance", torch.arange(-round(RADIUS * blur), round(RADIUS * blur) + 1.0, device=self.z.device))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.lr = lr
        self.coarse = min(max(round(share * problem.iterations), 1), problem.iterations - 1)
        self.factor = (END / blur) ** (1 / self.coarse)

    def stages(self):
        groups = [{"params": self.net.parameters(), "lr": self.lr}]
        return [Stage("coarse", self.coarse, groups), Stage("fine", self.problem.iterations - self.coarse, groups)]

    def enter(self, stage):
        if stage.name == "fine":
            self.sigma.zero_()

    def loss(self, k):
        x = self.as_image(self.smooth(self.net(self.z)))
        return self.misfit(x), x

    def after(self, k):
        self.sigma.mul_(self.factor)

    def smooth(self, out):
        """Gaussian blur of every channel, edges mirrored; σ = 0 gives the identity by the same graph."""
        weight = torch.exp(-0.5 * (self.distance / self.sigma.clamp_min(0.01)).square())
        weight = (weight / weight.sum()).expand(out.shape[1], 1, 1, -1)
        pad = self.distance.numel() // 2
        out = F.pad(out, (pad,) * 4, mode="reflect")
        out = F.conv2d(out, weight, groups=out.shape[1])
        return F.conv2d(out, weight.transpose(2, 3), groups=out.shape[1])
