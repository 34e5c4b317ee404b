"""Simultaneous iterative reconstruction (SIRT): gradient steps scaled by the sums of rows and columns.

    x ← x + C Aᵀ R (y − A x),   R = 1 / (A 1),   C = 1 / (Aᵀ 1)

Gilbert, J. Theor. Biol. 1972, in the form of Gregor, Benson, IEEE TMI 2008, from x = 0; it converges to the minimum of the residual
weighted by R. Coarse structure comes first, so that the number of iterations regularises. ``nonneg`` cuts negative values off in every
step. R is a weight of its own, of which weights by counts would leave the root: for these take cgls or tv.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("ct",)
CITE = ("gilbert1972", "gregor2008")
RANDOM = False
ITERATIONS = 200
PARAMETERS = {"nonneg": True}
REFUSES = [({"precondition": "> 0"}, "0: sirt needs rays without negative weights; leave it out, or use cgls")]


class Sirt(Method):
    def __init__(self, problem, nonneg):
        super().__init__(problem)
        self.nonneg = nonneg
        rows = self.A(torch.ones_like(problem.x0))
        if float(rows.min()) < -1e-6 * float(rows.max()):
            raise ValueError("sirt: needs rays without negative weights; leave out precondition, or use cgls")
        self.register_buffer("R", _inverse(rows))
        self.register_buffer("C", _inverse(self.A.AT(torch.ones_like(self.y))))
        self.register_buffer("x", torch.zeros_like(problem.x0))
        self.register_buffer("r", self.y.clone())

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        x = self.x + self.C * self.A.AT(self.R * self.r)
        self.x = x.clamp(min=0) if self.nonneg else x
        self.r = self.y - self.A(self.x)
        return self.r.square().sum(), self.x


def _inverse(sums):
    """1 / sums; 0 for what no ray or no pixel meets, which would divide by nothing."""
    return torch.where(sums > 1e-6 * sums.max(), 1 / sums, 0.0)
