"""The starting image itself: acquired samples, zeros elsewhere, coil-combined."""

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("mri",)
RANDOM = False
ITERATIONS = 1
PARAMETERS = {}


class ZeroFilled(Method):
    def stages(self):
        return [Stage("adjoint", 1, [])]

    def step(self, k, optimiser, clip):
        x = self.problem.x0
        return self.misfit(x), x
