"""Non-local means: every pixel becomes a mean of pixels whose surroundings look alike.

Buades, Coll, Morel, CVPR 2005, scikit-image's form with the noise's variance taken off the distances. The noise is estimated from the
image by wavelets (Donoho, Johnstone 1994); ``h`` counts in its standard deviations.
"""

import numpy as np
import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("denoise",)
CITE = ("buades2005", "vanderwalt2014")
RANDOM = False
ITERATIONS = 1
PARAMETERS = {"h": 0.7, "patch": 5, "distance": 6}


class NonLocalMeans(Method):
    def __init__(self, problem, h, patch, distance):
        super().__init__(problem)
        from skimage.restoration import denoise_nl_means, estimate_sigma

        image = problem.x0.permute(1, 2, 0).cpu().numpy().astype(np.float64)
        sigma = float(np.mean(estimate_sigma(image, channel_axis=-1)))
        size = {"patch_size": patch, "patch_distance": distance, "fast_mode": True, "channel_axis": -1}
        found = denoise_nl_means(image, h=max(h * sigma, 1e-6), sigma=sigma, **size).reshape(image.shape)  # of one colour it drops the axis
        self.register_buffer("x", torch.from_numpy(found).permute(2, 0, 1).to(problem.x0))

    def stages(self):
        return [Stage("denoise", 1, [])]

    def step(self, k, optimiser, clip):
        return self.misfit(self.x), self.x
