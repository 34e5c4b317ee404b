"""Regularisation by denoising: the data term, and a pull to images that a denoiser leaves as they are; no network.

    min_x ½‖A x − y‖² + (β/2) xᵀ(x − D(x)),   x ← x − (Aᴴ(A x − y) + β (x − D(x))) / (‖A‖² + β)

Romano, Elad, Milanfar, SIAM J. Imaging Sciences 2017 (steepest descent). x − D(x) is the gradient of the term where D is locally
homogeneous and has a symmetric Jacobian; with other denoisers there is a fixed point but no objective (Reehorst, Schniter 2019). D is
computed anew every ``refresh`` steps; a learnt one: ``inputs: {denoiser: {file: d.pt}}`` (methods/denoisers.py).

Defaults: ours. The step is the largest that descends for every ‖A‖, where the paper's is that of a known noise level.
"""

import torch

from dipline.methods import denoisers
from dipline.methods.base import Method, Stage

CLASS = "classical"
CITE = ("romano2017", "reehorst2019", "vanderwalt2014")
RANDOM = False
MODELS = ("denoiser",)
ITERATIONS = 200
PARAMETERS = {"beta": 0.1, "refresh": 1, "denoiser": ("nlm", "wavelet", "tv"), "sigma": 0.03}
BOUNDS = {"sigma": "> 0"}


class Red(Method):
    def __init__(self, problem, beta, refresh, denoiser, sigma):
        super().__init__(problem)
        self.register_buffer("x", problem.x0.clone())
        self.register_buffer("denoised", torch.zeros_like(problem.x0))
        self.denoise = denoisers.of(denoiser, sigma, problem.inputs.get("denoiser"))
        self.beta, self.refresh = beta, refresh

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        if k % self.refresh == 0:
            self.denoised = self.denoise(self.x)
        x = self.x.detach().requires_grad_()
        misfit = self.misfit(x)
        (gradient,) = torch.autograd.grad(misfit / 2, x)
        pull = self.x - self.denoised
        term = torch.vdot(self.x.flatten(), pull.flatten()).real
        self.x = self.x - (gradient + self.beta * pull) / (self.A.norm**2 + self.beta)
        return (misfit + self.beta * term).detach(), self.x
