"""IMP, iterative magnitude pruning: train, prune the smallest weights, begin again from the random start; and once more.

    ``rounds`` times:  θ ← argmin_θ ‖A f_{θ∘m}(z) − y‖²/‖y‖² from θ₀∘m,   m ← the (1 − ``fraction``) of m's weights of largest |θ|
    then the sub-network that is left is trained from θ₀∘m, and scored

Frankle, Carbin, ICLR 2019 (the lottery ticket), as the comparator of Optimal Eye Surgeon (Ghosh et al., ICML 2024), whose authors find
that its masks fit the noise of their image, where masks found at the random start transfer.

``iterations`` count everything; each of the ``rounds`` + 1 trainings takes an equal part, the last alone is scored. Weights are ranked
over all parameters jointly, exactly (1 − fraction)^r·n are left after r rounds. Its mask serves ``oes`` as ``inputs: {mask: …}``.

Defaults: the code's of the latter: 14 rounds of 20 % (0.044 are left), Adam 0.01, 40,000 steps a round, z ~ U[0, 0.1) with 32 channels and
the network of ``oes``. Deviations: 14 rounds prune 14 times, where the code's first round prunes nothing; a weight that happens to be 0
is not taken for pruned.
"""

import torch

from dipline.methods.subnetwork import Subnetwork, top

CLASS = "re-parameterised"
CITE = ("frankle2019", "ghosh2024")
ARTEFACTS = ("mask",)
NETWORK = {"skip": {"widths": [16, 32, 64, 128, 128, 128], "skip_widths": [0, 0, 0, 0, 0, 0], "upsampling": "nearest"}}
ITERATIONS = 600000
PARAMETERS = {
    "rounds": 14,
    "fraction": 0.2,
    "lr": 0.01,
    "input": ("uniform", "normal", "zero_filled", "least_squares"),
    "input_channels": 32,
    "input_scale": 0.1,
    "input_noise": 0.0,
}
BOUNDS = {"fraction": "> 0, < 1", "lr": "> 0", "input_channels": ">= 0", "input_scale": "> 0"}
REFUSES = [
    ({"mode": "chain"}, "serial or joint: a mask is for a network's random start, not for its neighbour's weights"),
    ({"stop.holdout.refit": True}, "false: the steps that it chooses are those of the last training alone"),
]


class MagnitudePruning(Subnetwork):
    def __init__(self, problem, rounds, fraction, **training):
        super().__init__(problem, **training)
        self.register_buffer("start", self.weights())
        self.rounds, self.fraction, self.ties = rounds, fraction, problem.rng("ties")

    def stages(self):
        """With fewer iterations than rounds, several rounds prune at once."""
        ends = [i * self.problem.iterations // (self.rounds + 1) for i in range(self.rounds + 2)]
        found = [self.fit(ends[i + 1] - ends[i], f"round {i}", scored=i == self.rounds) for i in range(self.rounds + 1)]
        return [stage for stage in found if stage.steps]

    def enter(self, stage):
        left = (1 - self.fraction) ** int(stage.name.removeprefix("round "))
        scores = torch.where(self.mask > 0, self.weights().abs(), -1.0)
        self.keep(top(scores, round(left * len(scores)), self.ties), self.start)
