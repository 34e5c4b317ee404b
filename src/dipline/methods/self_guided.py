"""Self-Guided DIP: the network denoises its own input, which is optimised together with the weights.

    min_{θ,z} ‖A x̄ − y‖ + α ‖x̄ − z‖,   x̄ = E_η f_θ(z + η), the mean over a few draws of η

Liang et al., IEEE TCI 2025 (eq. 14): J = 3 draws, η ~ U[0, max(z)/2), Adam 3e-4 on θ and 0.1 on z, z₀ ~ U[0, 1), 4000 steps, average of the
outputs with decay 0.99 (the arm's ``average``). The code's α = 2 belongs to an un-normalised FFT; here it is 2/√(HW), which is 6e-3 for
320 x 320 pixels (4e-3 for 640 x 372): a conversion of ours.

``norms: squared`` is the paper's equation; the default, ``norms: unsquared``, is the released code's, to which α belongs.
Deviations from the released code: the range of η follows max|z|, the code's max(z), since z has negative values too; real and imaginary
parts are stacked where the code broadcasts a complex image against two real channels; the scale comes from the zero-filled image, not
from fully sampled data; ``noise: gaussian`` and ``centred`` have zero mean, ``noise: uniform`` is the code's. Draws pass the network one
at a time, as there, so that batch statistics stay those of one image.
"""

import torch
from torch import nn

from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("liang2025",)
NETWORK = {"unet": {}}
ITERATIONS = 4000
AVERAGE = 0.99
PARAMETERS = {
    "lr": 3e-4,
    "z_lr": 0.1,
    "alpha": 6e-3,
    "draws": 3,
    "noise": ("uniform", "gaussian", "centred"),
    "noise_scale": 0.5,
    "input": ("uniform", "normal", "zero_filled", "least_squares"),
    "norms": ("unsquared", "squared"),
}
BOUNDS = {"lr": "> 0"}


class SelfGuided(Method):
    def __init__(self, problem, lr, z_lr, alpha, draws, noise, noise_scale, input, norms):
        super().__init__(problem)
        self.z = nn.Parameter(self.first_input(input, size=self.A.domain[1:]))  # compared with images
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.lr, self.z_lr, self.alpha, self.draws = lr, z_lr, alpha, draws
        self.noise, self.noise_scale, self.squared = noise, noise_scale, norms == "squared"
        self.rng = problem.rng("input noise")

    def stages(self):
        groups = [{"params": self.net.parameters(), "lr": self.lr}]
        if self.z_lr:
            groups.append({"params": [self.z], "lr": self.z_lr})
        return [Stage("fit", self.problem.iterations, groups)]

    def perturbation(self):
        """η, of the size of the input: its range follows max|z|."""
        scale = self.noise_scale * self.z.detach().abs().max()
        if self.noise == "gaussian":
            return scale * torch.randn(self.z.shape, generator=self.rng, device=self.z.device)
        return scale * (
            torch.rand(self.z.shape, generator=self.rng, device=self.z.device) - 0.5 * (self.noise == "centred")
        )

    def loss(self, k):
        out = self.net(self.z + self.perturbation())
        for _ in range(self.draws - 1):
            out = out + self.net(self.z + self.perturbation())
        out = out / self.draws
        x = self.as_image(out)
        data, guide = self.misfit(x), (out - self.z).square().sum()
        if not self.squared:
            data, guide = data.sqrt(), (guide + 1e-12).sqrt()
        return data + self.alpha * guide, x
