"""SGLD: Langevin noise on the weights turns descent into sampling; the image is the posterior mean.

    θ_{k+1} = θ_k − ε/2 ∇U(θ_k) + N(0, ε),   U = ‖A f_θ(z + η) − y‖²/(2σ²) + prior(θ),   x̄ = mean of f_{θ_k} after burn-in

Cheng, Gadelha, Maji, Sheldon, CVPR 2019, with the dynamics of Welling and Teh, ICML 2011. One fit follows the noise in the end; the
mean of many samples, so the paper, does not, and nobody has to stop early.

``update: adam`` is the released code's, to which the published values belong: an Adam step on the mean square with weight decay, then
N(0, (``noise``·lr)²) on the convolutions' weights alone. ``update: langevin`` is the equation: a plain gradient step of rate lr on the
same mean square over n measured values, which is ε/2 ∇U for ε = 4σ²lr/n, and N(0, ε) on all weights; ``sigma`` is the standard
deviation of the measurement's noise in the units of the scaled data, of a complex sample that of each of its two parts. ``noise``
counts with adam alone, ``sigma`` with langevin alone; no lr is published for langevin.

The first ``burn_in`` of all steps shows the current image, then every ``thin``-th one joins the mean, which is what stop rules,
snapshots and the result show from there on; the arm's ``average`` stays 0.

Defaults: the code's for denoising: skip network, z ~ U[0, 0.1) with 32 channels, η ~ N(0, 1/30²), lr 0.01, weight decay 5e-8,
``noise`` 2, 20,000 steps of which 7000 are burn-in, every 50th kept. Deviations: no return to earlier weights when the fit worsens
suddenly (the code's guard, which compares PSNRs to the noisy image).
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "regularised"
CITE = ("cheng2019", "welling2011")
NETWORK = {"skip": {}}
ITERATIONS = 20000
PARAMETERS = {
    "update": ("adam", "langevin"),
    "lr": 0.01,
    "noise": 2.0,
    "sigma": 0.1,
    "weight_decay": 5e-8,
    "burn_in": 0.35,
    "thin": 50,
    "input_channels": 32,
    "input_scale": 0.1,
    "input_noise": 0.0333,
}
BOUNDS = {"lr": "> 0", "sigma": "> 0", "burn_in": ">= 0, < 1", "input_scale": "> 0"}
REFUSES = [
    ({"average": "> 0"}, "0: the method has its own mean, over samples after burn-in; leave it out"),
    ({"penalty.tv": "> 0"}, "0: the posterior that is sampled has no such prior; leave it out"),
    ({"penalty.tv_isotropic": "> 0"}, "0: the posterior that is sampled has no such prior; leave it out"),
    ({"schedule": "cosine"}, "constant: the noise of a step belongs to its rate; leave it out"),
]


class Langevin(Method):
    def __init__(
        self, problem, update, lr, noise, sigma, weight_decay, burn_in, thin, input_channels, input_scale, input_noise
    ):
        super().__init__(problem)
        self.register_buffer("z", self.first_input("uniform", input_channels, input_scale))
        self.net = problem.network(self.z.shape[1], self.A.channels)
        self.optimiser, self.lr, self.weight_decay = ("adam" if update == "adam" else "sgd"), lr, weight_decay
        weights = list(self.net.parameters())
        if update == "adam":
            self.noisy, self.deviation = [p for p in weights if p.ndim == 4], noise * lr
        else:
            self.noisy, self.deviation = weights, 2 * sigma * (lr / self.y.numel()) ** 0.5
        self.first, self.thin = int(burn_in * problem.iterations), thin
        self.register_buffer("mean", torch.zeros_like(problem.x0))
        self.register_buffer("samples", torch.zeros((), device=problem.x0.device))
        self.input_noise, self.rng_input, self.rng = input_noise, problem.rng("input noise"), problem.rng("langevin")

    def stages(self):
        group = {"params": self.net.parameters(), "lr": self.lr, "weight_decay": self.weight_decay}
        return [Stage("fit", self.problem.iterations, [group], optimiser=self.optimiser)]

    def loss(self, k):
        z = self.z
        if self.input_noise:
            z = z + self.input_noise * torch.randn(z.shape, generator=self.rng_input, device=z.device)
        x = self.as_image(self.net(z))
        self.current = x.detach()
        return self.misfit(x) / self.y.numel(), None

    def after(self, k):
        for p in self.noisy:
            p.add_(torch.randn(p.shape, generator=self.rng, device=p.device), alpha=self.deviation)
        if self.form(k):
            self.samples += 1
            self.mean += (self.current - self.mean) / self.samples

    def form(self, k):
        return int(k >= self.first and (k - self.first) % self.thin == 0)

    def image(self):
        return torch.where(self.samples > 0, self.mean, self.current)
