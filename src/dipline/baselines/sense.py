"""Iterative SENSE: least squares with Tikhonov regularisation by conjugate gradients.

    min_x ½‖A x − y‖² + ½ lam ‖x‖²

Pruessmann et al., MRM 2001, with SigPy's conjugate gradients. ``lam`` refers to data scaled to a zero-filled image of
about 1.
"""

import sigpy as sp

from dipline.baselines.base import SigpySolver

CLASS = "classical"
TASKS = ("mri",)
CITE = ("pruessmann2001", "ong2019")
RANDOM = False
ITERATIONS = 30
PARAMETERS = {"lam": 0.01}


class Sense(SigpySolver):
    def __init__(self, problem, lam):
        self.lam = lam
        super().__init__(problem)

    def app(self, A, y):
        return sp.app.LinearLeastSquares(A, y, lamda=self.lam, max_iter=self.problem.iterations, show_pbar=False)
