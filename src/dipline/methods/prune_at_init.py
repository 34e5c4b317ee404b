"""Pruning at initialisation: a sub-network chosen without training, by the size of the random weights or by chance, is trained.

    m = the s·n weights of largest |θ₀|, or s·n of them drawn;   min_θ ‖A f_{θ∘m}(z) − y‖²/‖y‖²,   θ from θ₀

The two simplest of the comparators in Frankle, Dziugaite, Roy, Carbin, ICLR 2021, and of Optimal Eye Surgeon (Ghosh et al., ICML 2024):
what a mask of ``oes`` has to beat at the same ``sparsity`` s, the part that is kept. Weights are ranked over all parameters jointly; as
scales of norms are near 1, magnitudes keep those first and then the layers of small fan-in.

Defaults: those of the second stage of ``oes``. Deviations: none of the criteria that look at gradients (SNIP, GraSP, SynFlow).
"""

import torch

from dipline.methods.subnetwork import Subnetwork, top

CLASS = "re-parameterised"
CITE = ("frankle2021", "ghosh2024")
ARTEFACTS = ("mask",)
NETWORK = {"skip": {"widths": [16, 32, 64, 128, 128, 128], "skip_widths": [0, 0, 0, 0, 0, 0], "upsampling": "nearest"}}
ITERATIONS = 40000
PARAMETERS = {
    "sparsity": 0.05,
    "criterion": ("magnitude", "random"),
    "lr": 0.01,
    "input": ("uniform", "normal", "zero_filled", "least_squares"),
    "input_channels": 32,
    "input_scale": 0.1,
    "input_noise": 0.0,
}
BOUNDS = {"sparsity": "> 0, <= 1", "lr": "> 0", "input_channels": ">= 0", "input_scale": "> 0"}
REFUSES = [({"mode": "chain"}, "serial or joint: a mask is for a network's random start, not for its neighbour's weights")]


class PruneAtInit(Subnetwork):
    def __init__(self, problem, sparsity, criterion, **training):
        super().__init__(problem, **training)
        self.sparsity, self.criterion, self.ties = sparsity, criterion, problem.rng("ties")

    def stages(self):
        return [self.fit(self.problem.iterations)]

    def enter(self, stage):
        scores = self.weights().abs() if self.criterion == "magnitude" else torch.zeros_like(self.mask)
        self.keep(top(scores, round(self.sparsity * len(scores)), self.ties))
