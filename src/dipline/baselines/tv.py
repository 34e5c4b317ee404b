"""Total variation, by the primal-dual algorithm of Chambolle and Pock.

    min_x ½‖A x − y‖² + lam (‖D₁x‖₁ + ‖D₂x‖₁),   with ``nonneg`` over x ≥ 0

Rudin, Osher, Fatemi 1992; Chambolle, Pock, JMIV 2011, with SigPy's primal-dual hybrid gradient. Its dual variables lie
within ``lam``, so the dual step is 10 lam: with SigPy's step of 1 the image was 1 dB away from its limit after 700 iterations,
and a baseline stopped early is a baseline beaten unfairly. ``lam`` refers to data scaled to a starting image of about 1.
``data_term: weighted`` (CT): every ray counts by its photons, which the operator holds; ``lam`` then wants another value.
"""

import numpy as np
import sigpy as sp

from dipline.baselines.base import Shrink, SigpySolver

CLASS = "classical"
TASKS = ("mri", "ct", "denoise", "inpaint", "superres", "deblur", "gaussian")  # whose operators are linear
CITE = ("rudin1992", "chambolle2011", "ong2019")
RANDOM = False
ITERATIONS = 300
PARAMETERS = {"lam": 0.003, "nonneg": False}
DATA_TERMS = ("least_squares", "weighted")
REFUSES = [({"params.nonneg": True, "modality": "mri"}, "false: images are complex; leave it out, or narrow the arm with `datasets:`")]


class TotalVariation(SigpySolver):
    def __init__(self, problem, lam, nonneg):
        if nonneg and problem.A.complex:
            raise ValueError("tv: nonneg: found true, allowed for complex images: false; leave nonneg out")
        self.lam, self.nonneg = lam, nonneg
        super().__init__(problem)

    def app(self, A, y):
        G = sp.linop.FiniteDifference(self.A.domain, axes=(-2, -1))
        prox = Shrink(G.oshape, self.lam)
        if self.nonneg:
            G = sp.linop.Vstack([G, sp.linop.Identity(self.A.domain)])
            prox = sp.prox.Stack([prox, NonNegative(self.A.domain)])
        return sp.app.LinearLeastSquares(A, y, proxg=prox, G=G, max_iter=self.problem.iterations, show_pbar=False, sigma=10 * self.lam)

    def solution(self):
        """The solver enforces x ≥ 0 on a dual variable, which x itself meets in the limit alone."""
        return np.maximum(self.solver.x, 0) if self.nonneg else self.solver.x


class NonNegative(sp.prox.Prox):
    """The projection onto x ≥ 0."""

    def _prox(self, alpha, input):
        return np.maximum(input, 0)
