"""Wiener deconvolution: the linear filter that balances blur and noise.

    X = conj(K) Y / (|K|² + balance |Λ|²),   Λ the Laplacian, K and Y the transforms of kernel and image

Orieux, Giovannelli, Rodet, JOSA A 2010, with a fixed balance.
"""

import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("deblur",)
CITE = ("orieux2010",)
RANDOM = False
ITERATIONS = 1
PARAMETERS = {"balance": 0.01}
BOUNDS = {"balance": "> 0"}


class Wiener(Method):
    def __init__(self, problem, balance):
        super().__init__(problem)
        rows, columns = self.A.domain[1:]
        laplacian = torch.zeros(rows, columns, device=self.y.device)
        laplacian[0, 0] = 4
        for at in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            laplacian[at] -= 1
        K, L = self.A.response, torch.fft.rfft2(laplacian)
        Y = torch.fft.rfft2(self.A.init(self.y))
        X = K.conj() * Y / (K.abs().square() + balance * L.abs().square())
        self.register_buffer("x", torch.fft.irfft2(X, s=(rows, columns)))

    def stages(self):
        return [Stage("deconvolve", 1, [])]

    def step(self, k, optimiser, clip):
        return self.misfit(self.x), self.x
