"""Total variation, by the primal-dual algorithm of Chambolle and Pock.

    min_x ½‖A x − y‖² + lam (‖D₁x‖₁ + ‖D₂x‖₁)

Rudin, Osher, Fatemi 1992; Chambolle, Pock, JMIV 2011, with SigPy's primal-dual hybrid gradient. It converges slowly: a
baseline stopped early is a baseline beaten unfairly. ``lam`` refers to data scaled to a zero-filled image of about 1.
"""

import sigpy as sp

from dipline.baselines.base import SigpySolver

CLASS = "classical"
CITE = ("rudin1992", "chambolle2011", "ong2019")
RANDOM = False
ITERATIONS = 700
PARAMETERS = {"lam": 0.005}


class TotalVariation(SigpySolver):
    def __init__(self, problem, lam):
        self.lam = lam
        super().__init__(problem)

    def app(self, A, y):
        G = sp.linop.FiniteDifference(self.A.domain, axes=(-2, -1))
        prox = sp.prox.L1Reg(G.oshape, self.lam)
        return sp.app.LinearLeastSquares(A, y, proxg=prox, G=G, max_iter=self.problem.iterations, show_pbar=False)
