"""ES-DIP with an exponential window: variance of the iterates about their running mean, in O(1) memory.

    δ = x − m;  m ← m + α δ;  v ← (1 − α)(v + α ‖δ‖²);  stop when the minimum of v has not fallen for ``patience`` iterations

Wang et al., TMLR 2023 (EMV), α = 0.1, patience 1000, tested from iteration 100 on. v is exactly the weighted variance Σ w_t ‖x_t − m‖²
with weights falling by 1 − α.

Deviation: the released code hands over the running mean m, here the arm's output is, so that *stopped*, *last* and *peak* are
scores of the same output. ``average: 0.9`` on the arm gives all three of them the mean. With ``hand_over: mean`` *stopped* alone is
of the mean: compare it with the other two columns as one compares two methods. The code cuts the mean off at 0 and 1, here nothing is.
Says little for methods whose iterates do not settle and drift again (aSeqDIP, Self-Guided) or that jitter by intent (sgld).
"""

import torch

from dipline.stopping.base import Patient

CITE = ("wang2023",)
NOT_FOR = ("aseq", "self_guided", "sgld")
PARAMETERS = {"alpha": 0.1, "patience": 1000, "min_iterations": 100, "margin": 0.0, "hand_over": ("output", "mean")}
BOUNDS = {"alpha": "> 0, < 1", "margin": ">= 0, < 1"}


class Emv(Patient):
    def __init__(self, iterations, alpha, patience, min_iterations, margin, hand_over):
        super().__init__(iterations, patience, min_iterations, margin)
        self.alpha, self.hand_over = alpha, hand_over

    def start(self, image, output):
        super().start(image, output)
        self.register_buffer("mean", image.clone())
        self.register_buffer("variance", torch.zeros((), dtype=torch.float64, device=image.device))

    def update(self, k, image, output, loss, held_loss):
        delta = image - self.mean
        self.mean += self.alpha * delta
        self.variance.copy_((1 - self.alpha) * (self.variance + self.alpha * delta.abs().square().sum().double()))
        self.judge(self.variance, k, self.mean if self.hand_over == "mean" else output)
