"""Filtered back-projection.

The ramp filter |ω| along the detector times a window, then back-projection (Kak, Slaney 1988, ch. 3); views count by the angle that
they stand for. ``filter: ram-lak`` is the plain ramp, the sharpest and noisiest; ``hann``, the smoothest, suits few views.
"""

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("ct",)
CITE = ("kak1988",)
RANDOM = False
ITERATIONS = 1
PARAMETERS = {"filter": ("hann", "hamming", "cosine", "shepp-logan", "ram-lak"), "nonneg": False}


class FBP(Method):
    def __init__(self, problem, filter, nonneg):
        super().__init__(problem)
        x = self.A.filtered_back_projection(self.y, filter)
        self.register_buffer("x", x.clamp(min=0) if nonneg else x)

    def stages(self):
        return [Stage("back-project", 1, [])]

    def step(self, k, optimiser, clip):
        return self.misfit(self.x), self.x
