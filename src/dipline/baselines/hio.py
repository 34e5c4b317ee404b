"""Hybrid input-output and error reduction: the classical way from Fourier magnitudes to an image.

    u = F⁻¹(y · phase of F x);   x ← u inside the frame where u ≥ 0, elsewhere x − β u (hybrid) or 0 (error reduction)

Fienup, Applied Optics 1982: the last tenth of the iterations is error reduction, from a random start. The magnitudes of the
measured places are those of the data, elsewhere what the image has.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("phase",)
CITE = ("fienup1982",)
ITERATIONS = 1000
PARAMETERS = {"beta": 0.9}
BOUNDS = {"beta": "> 0, <= 1"}


class HybridInputOutput(Method):
    def __init__(self, problem, beta):
        super().__init__(problem)
        A, self.beta = self.A, beta
        rng = problem.rng("start")
        x = torch.rand((len(problem.x0), *A.padded), generator=rng, device=rng.device)
        self.register_buffer("frame", torch.zeros(A.padded, dtype=torch.bool, device=rng.device))
        self.frame[: A.domain[1], : A.domain[2]] = True
        self.register_buffer("measured", A.placed(torch.ones_like(self.y)).reshape(x.shape) > 0)
        self.register_buffer("magnitudes", A.placed(self.y / A.weights).reshape(x.shape))
        self.register_buffer("x", x * self.frame * float(self.magnitudes.square().mean().sqrt()))

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        X = torch.fft.fft2(self.x, norm="ortho")
        size = X.abs().clamp(min=1e-12)
        u = torch.fft.ifft2(torch.where(self.measured, X / size * self.magnitudes, X), norm="ortho").real
        good = self.frame & (u >= 0)
        reduce = k >= 0.9 * self.problem.iterations
        self.x = torch.where(good, u, torch.zeros_like(u) if reduce else self.x - self.beta * u)
        inside = self.x[:, : self.A.domain[1], : self.A.domain[2]].clamp(min=0)
        return self.misfit(inside), inside
