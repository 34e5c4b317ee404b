"""Vanilla Deep Image Prior: fit a randomly initialised network to the measurement alone.

    min_θ ‖A f_θ(z) − y‖²,   z fixed (optionally z + σ_p·N(0, 1), drawn anew at every step)

Ulyanov, Vedaldi, Lempitsky, CVPR 2018 (eq. 2); for MRI in the form that Liang et al. (2025) compare with: U-Net, z ~ U[0, 1) with two
channels, Adam 3e-4, 3000 steps. The image overfits after its peak: pair it with a stop rule (ES-DIP is ``stop: wmv``).

Defaults: those of the MRI papers. ``input: zero_filled`` feeds the zero-filled image instead of noise, which suits small networks.
Deviations: none in the objective; data are scaled by the zero-filled image, never by fully sampled data.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "early stopping"
CITE = ("ulyanov2018",)
NETWORK = {"unet": {}}
ITERATIONS = 3000
PARAMETERS = {
    "lr": 3e-4,
    "input": ("uniform", "normal", "zero_filled", "least_squares", "coordinates"),
    "input_channels": 0,
    "input_scale": 1.0,
    "input_noise": 0.0,
    "clip": 0.0,
}
BOUNDS = {"lr": "> 0", "input_scale": "> 0"}


class Vanilla(Method):
    def __init__(self, problem, lr, input, input_channels, input_scale, input_noise, clip):
        super().__init__(problem)
        self.register_buffer("z", self.first_input(input, input_channels, input_scale))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.lr, self.clip, self.input_noise = lr, clip, input_noise
        self.noise = problem.rng("input noise")

    def stages(self):
        return [
            Stage("fit", self.problem.iterations, [{"params": self.net.parameters(), "lr": self.lr}], clip=self.clip)
        ]

    def loss(self, k):
        z = self.z
        if self.input_noise:
            z = z + self.input_noise * torch.randn(z.shape, generator=self.noise, device=z.device)
        x = self.as_image(self.net(z))
        return self.misfit(x), x
