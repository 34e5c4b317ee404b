"""Conjugate gradients on the least-squares problem (CGLS), stopped early.

    min_x ‖A x − y‖²,   from x = 0

Hestenes, Stiefel 1952; the form of Björck, Numerical Methods for Least Squares Problems, 1996, sec. 7.4, which never forms AᵀA. The
residual falls in every step; noise and streaks come late, so that the number of iterations regularises. It has no non-negative form.

``data_term: weighted`` (CT) is the same with every ray's counts as its weight, by way of the operator.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("ct",)
CITE = ("hestenes1952", "bjorck1996")
RANDOM = False
ITERATIONS = 20
PARAMETERS = {}
DATA_TERMS = ("least_squares", "weighted")


class CGLS(Method):
    def __init__(self, problem):
        super().__init__(problem)
        s = self.A.AT(self.y)
        for name, value in {"x": torch.zeros_like(s), "r": self.y.clone(), "p": s, "energy": _energy(s)}.items():
            self.register_buffer(name, value)

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        q = self.A(self.p)
        step = _ratio(self.energy, _energy(q))
        self.x, self.r = self.x + step * self.p, self.r - step * q
        s = self.A.AT(self.r)
        before, self.energy = self.energy, _energy(s)
        self.p = s + _ratio(self.energy, before) * self.p
        return _energy(self.r), self.x


def _energy(v):
    return torch.linalg.vector_norm(v).square()


def _ratio(a, b):
    """a / b; 0 where both are nothing: the solution is exact, and stays."""
    return torch.where(b > 0, a / b, 0.0)
