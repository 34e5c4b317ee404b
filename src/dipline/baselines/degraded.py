"""The measurement of a photograph as an image, before anything is done about it.

Denoising, deblurring: the noisy, the blurred image; inpainting: black where pixels are missing; super-resolution: bicubic
interpolation; compressed sensing: Aᵀy; phase retrieval: the image of the magnitudes with phases of 0.
"""

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("image", "deblur_blind")
RANDOM = False
ITERATIONS = 1
PARAMETERS = {}


class Degraded(Method):
    def stages(self):
        return [Stage("start", 1, [])]

    def step(self, k, optimiser, clip):
        x = self.problem.x0
        return self.misfit(x), x
