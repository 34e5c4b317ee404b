"""DeepRED: a network fits the data, a denoiser pulls its image to what it does not change, and ADMM makes both agree.

    min_{θ,x} ½‖A f_θ(z) − y‖² + (β/2) xᵀ(x − D(x))   so that   x = f_θ(z)

    θ: ``inner`` Adam steps on ‖A f_θ(z) − y‖² + μ ‖f_θ(z) − (x − u)‖²
    x ← (β D(x) + μ (f_θ(z) + u)) / (β + μ),   u ← u + f_θ(z) − x

Mataev, Milanfar, Elad, ICCV Workshops 2019 (algorithm 1, fixed-point form of the x-step), RED's term by Romano, Elad, Milanfar 2017: its
gradient is x − D(x) where D is locally homogeneous and has a symmetric Jacobian, which non-local means and a learnt D only nearly have.

Defaults: the released notebooks' for denoising (β = μ = 0.5, Adam 0.008, 6000 steps, σ of the denoiser 3/255, noise 0.033 on the input, z
~ U[0, 0.1) with 32 channels, skip network, outputs averaged with decay 0.99). Deblurring there: β 0.02, μ 0.04; super-resolution: β 0.05,
μ 0.06. D is computed anew every ``refresh`` iterations of x, as in the released code, but in turn with the fit, not beside it, so that
bits repeat. ``inputs: {denoiser: {file: d.pt}}`` puts a learnt D in the place of ``denoiser`` and ``sigma`` (methods/denoisers.py).

Deviations from the released code: f in the steps of x and u is that of the new θ without input noise, where the code takes what the last
loss saw; β and μ stay, where its denoising raises them whenever PSNR(f, y) passes a rising threshold; x is not cut off at 0 and 1, which
are no bounds of a scan. Real and imaginary parts of MRI are denoised apart.
"""

import torch

from dipline.methods import denoisers
from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("mataev2019", "romano2017", "vanderwalt2014")
MODELS = ("denoiser",)
NETWORK = {"skip": {}}
ITERATIONS = 6000
AVERAGE = 0.99
PARAMETERS = {
    "lr": 8e-3,
    "beta": 0.5,
    "mu": 0.5,
    "inner": 1,
    "refresh": 10,
    "denoiser": ("nlm", "wavelet", "tv"),
    "sigma": 0.012,
    "input": ("uniform", "normal", "zero_filled", "least_squares"),
    "input_channels": 32,
    "input_scale": 0.1,
    "input_noise": 0.033,
}
BOUNDS = {"lr": "> 0", "mu": "> 0", "sigma": "> 0", "input_channels": ">= 0", "input_scale": "> 0"}


class DeepRed(Method):
    def __init__(
        self, problem, lr, beta, mu, inner, refresh, denoiser, sigma, input, input_channels, input_scale, input_noise
    ):
        super().__init__(problem)
        self.register_buffer("z", self.first_input(input, input_channels, input_scale))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.register_buffer("x", problem.x0.clone())
        self.register_buffer("u", torch.zeros_like(problem.x0))
        self.register_buffer("denoised", torch.zeros_like(problem.x0))
        self.denoise = denoisers.of(denoiser, sigma, problem.inputs.get("denoiser"))
        self.lr, self.beta, self.mu, self.inner, self.refresh = lr, beta, mu, inner, refresh
        self.input_noise, self.noise = input_noise, problem.rng("input noise")

    def stages(self):
        return [Stage("fit", self.problem.iterations, [{"params": self.net.parameters(), "lr": self.lr}])]

    def loss(self, k):
        z = self.z
        if self.input_noise:
            z = z + self.input_noise * torch.randn(z.shape, generator=self.noise, device=z.device)
        f = self.as_image(self.net(z))
        return self.misfit(f) + self.mu * (f - self.x + self.u).abs().square().sum(), f

    def form(self, k):
        if (k + 1) % self.inner:
            return 0
        return None if k // self.inner % self.refresh == 0 else 1  # a denoiser of a library works on the host

    def after(self, k):
        if (k + 1) % self.inner == 0:
            self.agree(self.as_image(self.net(self.z)), k // self.inner)

    def agree(self, f, n):
        """The n-th step of x and of the dual u."""
        if n % self.refresh == 0:
            self.denoised.copy_(self.denoise(self.x))
        self.x.copy_((self.beta * self.denoised + self.mu * (f + self.u)) / (self.beta + self.mu))
        self.u += f - self.x
