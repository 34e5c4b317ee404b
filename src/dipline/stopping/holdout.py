"""Leave out a small part of the acquired samples; stop where their error is smallest.

    min over t of the trailing mean (``smooth`` steps) of ‖A_held x_t − y_held‖²

In the manner of zero-shot self-supervised learning (Yaman et al., ICLR 2022): whole phase-encode columns outside the calibration centre, or
k-space points of a 2-D mask, or views. It measures generalisation directly and needs no calibration to the architecture; it costs the
samples. ``refit: true`` then fits all samples for as many iterations as were chosen.
"""

import torch

from dipline.stopping.base import Patient

CITE = ("yaman2022",)
WATCHABLE = False  # it takes samples away from the arm
PARAMETERS = {"fraction": 0.05, "smooth": 21, "patience": 200, "min_iterations": 50, "margin": 0.0, "refit": False}
REFUSES = [
    ({"schedule": "cosine", "option.refit": True}, "constant: the second fit would cool within fewer steps than the first"),
    ({"views": "< 2"}, "another rule: of one view none can be left out"),
    ({"mask": "full"}, "another rule: with mask: full every sample lies in the calibration centre, and none can be left out"),
]
BOUNDS = {"fraction": "> 0, < 1", "margin": ">= 0, < 1"}


class Holdout(Patient):
    def __init__(self, iterations, fraction, smooth, patience, min_iterations, margin, refit):
        super().__init__(iterations, patience, max(min_iterations, smooth - 1), margin)
        self.fraction, self.smooth, self.refit = fraction, smooth, refit

    def split(self, A, y, rng):
        spare = A.spare().nonzero()[:, 0]
        count = max(1, round(self.fraction * y.shape[A.unit_axis]))
        if y.shape[A.unit_axis] < 2:
            raise ValueError("stop rule holdout: nothing can be left out of a measurement of one view or column; use another rule")
        if len(spare) < 2:
            raise ValueError(
                "stop rule holdout: nothing can be left out, every sample lies in the calibration centre; use another rule"
            )
        order = torch.randperm(len(spare), generator=rng, device=rng.device).to(spare.device)
        keep = torch.ones(y.shape[A.unit_axis], dtype=torch.bool, device=y.device)
        keep[spare[order[: min(count, len(spare) - 1)]]] = False
        return keep

    def start(self, image, output):
        super().start(image, output)
        self.register_buffer("recent", torch.zeros(self.smooth, dtype=torch.float64, device=image.device))

    def update(self, k, image, output, loss, held_loss):
        self.recent[k % self.smooth] = held_loss
        self.judge(self.recent.mean(), k, output)
