"""Wavelet denoising: small wavelet coefficients are noise, and shrunk by a threshold for each scale.

Chang, Yu, Vetterli, IEEE TIP 2000 (BayesShrink), scikit-image's form. The noise is estimated from the finest wavelets; several
small shifts of the image are denoised and averaged (Coifman, Donoho 1995), colours as luminance and differences.
"""

import numpy as np
import torch

from dipline.methods.base import Method, Stage

CLASS = "classical"
TASKS = ("denoise",)
CITE = ("chang2000", "vanderwalt2014")
RANDOM = False
ITERATIONS = 1
PARAMETERS = {"wavelet": ("db2", "db1", "sym4"), "shifts": 3}
BOUNDS = {"shifts": ">= 0, <= 8"}


class Wavelet(Method):
    def __init__(self, problem, wavelet, shifts):
        super().__init__(problem)
        from skimage.restoration import cycle_spin, denoise_wavelet

        image = problem.x0.permute(1, 2, 0).cpu().numpy().astype(np.float64)
        low, span = image.min(), np.ptp(image) or 1.0  # it takes images for numbers from 0 to 1
        how = {"wavelet": wavelet, "convert2ycbcr": image.shape[-1] == 3, "channel_axis": -1, "rescale_sigma": True}
        found = cycle_spin((image - low) / span, denoise_wavelet, shifts, channel_axis=-1, func_kw=how, workers=1)
        self.register_buffer("x", torch.from_numpy(found * span + low).permute(2, 0, 1).to(problem.x0))

    def stages(self):
        return [Stage("denoise", 1, [])]

    def step(self, k, optimiser, clip):
        return self.misfit(self.x), self.x
