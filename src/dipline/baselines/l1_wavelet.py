"""Compressed sensing with sparse wavelet coefficients, by FISTA.

    min_x ½‖A x − y‖² + lam ‖Ψ x‖₁,   Ψ a Daubechies-4 wavelet transform

Lustig, Donoho, Pauly, MRM 2007, with SigPy's accelerated proximal gradient. ``lam`` refers to data scaled to a
zero-filled image of about 1. ``data_term: weighted`` (CT): every ray counts by its photons, which the operator holds.
"""

import sigpy as sp

from dipline.baselines.base import Shrink, SigpySolver

CLASS = "classical"
TASKS = ("mri", "ct", "denoise", "inpaint", "superres", "deblur", "gaussian")  # whose operators are linear
CITE = ("lustig2007", "ong2019")
RANDOM = False
ITERATIONS = 150
PARAMETERS = {"lam": 0.003}
DATA_TERMS = ("least_squares", "weighted")


class L1Wavelet(SigpySolver):
    def __init__(self, problem, lam):
        self.lam = lam
        super().__init__(problem)

    def app(self, A, y):
        parts, height, width = self.A.domain
        W = sp.linop.Wavelet((parts, height, width), wave_name="db4", axes=(-2, -1))
        prox = sp.prox.UnitaryTransform(Shrink(W.oshape, self.lam), W)
        return sp.app.LinearLeastSquares(A, y, proxg=prox, max_iter=self.problem.iterations, show_pbar=False)
