"""Blind Richardson-Lucy deconvolution: image and kernel take turns in climbing the likelihood of counted photons.

    k ← k ⊙ corr(x, y / (k * x)) / Σ x,  within its frame, Σ k = 1;   x ← x ⊙ corr(k, y / (k * x))

Fish, Brinicombe, Pike, Walker, JOSA A 1995, with ``inner`` updates of the kernel, then of the image, in every iteration; from the
blurred image and a kernel that falls from the middle of its frame to its border. Noise grows with the iterations, whose number regularises.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("deblur_blind",)
CITE = ("fish1995", "richardson1972", "lucy1974")
RANDOM = False
ITERATIONS = 10
PARAMETERS = {"inner": 5}
BOUNDS = {"inner": ">= 1"}
LEAST = 1e-6


class BlindRichardsonLucy(Method):
    def __init__(self, problem, inner):
        super().__init__(problem)
        self.inner = inner
        rows, columns = (1 - torch.linspace(-1, 1, n + 2, device=self.y.device)[1:-1].abs() for n in self.A.frame)
        kernel = torch.outer(rows, columns)
        self.register_buffer("kernel", kernel / kernel.sum())
        self.register_buffer("x", problem.x0.clamp(min=LEAST))
        self.register_buffer("plane", self.A.whole(self.y).reshape(self.A.domain).clamp(min=0))

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        for _ in range(self.inner):
            self.kernel = self.kernel * self.correlated(self.ratio()) / self.x.sum()
            self.kernel = self.kernel / self.kernel.sum()
        for _ in range(self.inner):
            self.x = self.x * self.A.convolved(self.ratio(), self.kernel, adjoint=True).clamp(min=0)
        return (self.A.blurred(self.x, self.kernel) - self.y).square().sum(), self.x

    def ratio(self):
        return self.plane / self.A.convolved(self.x, self.kernel).clamp(min=LEAST)

    def correlated(self, ratio):
        """What each place of the kernel's frame (kh, kw) is multiplied by, times Σ x: the sum of ratio(p + q) x(p)."""
        found = torch.fft.irfft2((torch.fft.rfft2(ratio) * torch.fft.rfft2(self.x).conj()).sum(0), s=self.A.domain[1:])
        kh, kw = self.A.frame
        return found.roll(((kh - 1) // 2, (kw - 1) // 2), (0, 1))[:kh, :kw].clamp(min=0)
