"""ES-DIP: stop where the windowed moving variance of the iterates is smallest.

    VAR(t) = (1/W) Σ_{w<W} ‖x_{t−w} − mean‖²;  stop when its running minimum has not fallen for ``patience`` iterations

Wang et al., TMLR 2023 (eq. 16), window 100, patience 1000. The window ends at the current iteration, as in the released code (the paper
labels it by its start). ``min_iterations`` skips the false minimum of the warm-up.

The variance costs two additions and two inner products a step: running sums of x and ‖x‖² over a ring of the last W images, taken
relative to a fixed shift so that nothing cancels, and summed up afresh every W steps.
Says little for methods whose iterates do not settle and drift again (aSeqDIP, Self-Guided), that jitter by intent (sgld) or with
input noise. The variance is that of the raw iterates, never of the arm's running average; ``min_iterations`` is 0 by default, with
which a false minimum of the warm-up can be chosen.
"""

import torch

from dipline.stopping.base import Patient

CITE = ("wang2023",)
NOT_FOR = ("aseq", "self_guided", "sgld")
PARAMETERS = {"window": 100, "patience": 1000, "min_iterations": 0, "margin": 0.0}
BOUNDS = {"window": ">= 2", "margin": ">= 0, < 1"}


class Wmv(Patient):
    def __init__(self, iterations, window, patience, min_iterations, margin):
        super().__init__(iterations, patience, max(min_iterations, window - 1), margin)
        self.window = window

    def start(self, image, output):
        super().start(image, output)
        self.register_buffer("shift", image.clone())
        self.register_buffer("ring", torch.zeros((self.window, *image.shape), dtype=image.dtype, device=image.device))
        self.register_buffer("total", torch.zeros_like(image))
        self.register_buffer("squares", torch.zeros((), dtype=torch.float64, device=image.device))

    def update(self, k, image, output, loss, held_loss):
        if k % self.window == 0:  # near the iterates, so that the sums stay small; exact in any case
            self._restart(image)
        new, slot = image - self.shift, self.ring[k % self.window]
        self.total += new - slot
        self.squares += _energy(new) - _energy(slot)
        slot.copy_(new)
        variance = (self.squares - _energy(self.total) / self.window) / self.window
        self.judge(variance, k, output)

    def _restart(self, image):
        """Shift the ring to the current image and sum it up afresh."""
        self.ring += self.shift - image
        self.shift.copy_(image)
        torch.sum(self.ring, 0, out=self.total)
        self.squares.copy_(_energy(self.ring))


def _energy(x):
    flat = torch.view_as_real(x).flatten() if x.is_complex() else x.flatten()
    return torch.dot(flat, flat).double()
