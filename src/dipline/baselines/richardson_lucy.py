"""Richardson-Lucy deconvolution: the likelihood of counted photons, climbed by multiplications.

    x ← x ⊙ Aᵀ(y / A x) / Aᵀ1

Richardson, JOSA 1972; Lucy, Astronomical Journal 1974; from a grey image. Noise grows with the iterations, whose number
regularises.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("deblur",)
CITE = ("richardson1972", "lucy1974")
RANDOM = False
ITERATIONS = 30
PARAMETERS = {}


class RichardsonLucy(Method):
    def __init__(self, problem):
        super().__init__(problem)
        self.register_buffer("x", torch.full_like(problem.x0, float(problem.x0.mean().clamp(min=1e-3))))
        self.register_buffer("sums", self.A.AT(torch.ones_like(self.y)).clamp(min=1e-6))

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        ratio = self.y.clamp(min=0) / self.A(self.x).clamp(min=1e-6)
        self.x = self.x * (self.A.AT(ratio) / self.sums).clamp(min=0)
        return self.misfit(self.x), self.x
