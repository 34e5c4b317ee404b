"""Double DIP for phase retrieval: one network for the magnitude of a complex image, another for its phase.

    min_{θ₁,θ₂} ‖A(m ⊙ exp(iφ)) − y‖²,   m = softplus(f_θ₁(z₁)),   φ = π tanh(f_θ₂(z₂))

Zhuang, Yang, Hofmann, Barmherzig, Sun, 2023, after the pairs of networks of Gandelsman, Shocher, Irani, CVPR 2019: with one network for
the complex image the fit ends between the image and its twins (moved, turned, of another phase), which have the same Fourier magnitudes.

No code is public, and the settings are not all in the paper: skip networks, Adam 1e-3, 10 000 steps, z ~ U[0, 0.1) with 32 channels are
ours. No support is estimated (shrink-wrap).

Magnitudes of photographs (``task: phase``): the image that is fitted is complex, as in the paper, though the true one is not; handed over
is m, so that its measurement fits the data as far as φ is constant. MRI: the image is m exp(iφ). Other measurements of real images have
no phase.
"""

import torch
from torch.nn import functional as F

from dipline.methods.base import Method, Stage

CLASS = "re-parameterised"
CITE = ("zhuang2023", "gandelsman2019")
TASKS = ("phase", "mri")
NETWORK = {"skip": {}}
ITERATIONS = 10000
PARAMETERS = {"lr": 1e-3, "input": ("uniform", "normal"), "input_channels": 32, "input_scale": 0.1}
BOUNDS = {"lr": "> 0", "input_scale": "> 0"}


class DoubleDip(Method):
    def __init__(self, problem, lr, input, input_channels, input_scale):
        super().__init__(problem)
        parts = self.A.domain[0]
        self.register_buffer("z_magnitude", self.first_input(input, input_channels, input_scale))
        self.register_buffer("z_phase", self.first_input(input, input_channels, input_scale))
        self.magnitude, self.phase = (problem.network(input_channels, parts) for _ in range(2))
        self.lr = lr

    def stages(self):
        return [Stage("fit", self.problem.iterations, [{"params": self.parameters(), "lr": self.lr}])]

    def pair(self):
        """(m, φ), each (parts, H, W), m zero outside the operator's support."""
        m, phi = F.softplus(self.magnitude(self.z_magnitude)[0]), torch.pi * torch.tanh(self.phase(self.z_phase)[0])
        return m if self.A.support is None else m * self.A.support, phi

    def loss(self, k):
        m, phi = self.pair()
        x = torch.polar(m, phi)
        return self.misfit(x), x if self.A.complex else m
