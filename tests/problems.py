"""Small inverse problems for the tests of methods, stop rules and the loop."""

import numpy as np
import torch

from dipline import registry, study
from dipline.physics import sense
from dipline.resume import Keeper


def disc_problem(n=32, coils=4, acceleration=3, noise=0.02, seed=0):
    """(A, y, truth (n, n)): discs under smooth coils, every third column and a full centre acquired."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    image = 1.0 * (xx**2 + yy**2 < 0.6) + 0.5 * ((xx - 0.2) ** 2 + yy**2 < 0.1)
    image -= 0.6 * ((xx + 0.3) ** 2 + (yy - 0.2) ** 2 < 0.04)
    angles = 2 * np.pi * np.arange(coils) / coils
    away = [(xx - 1.2 * np.cos(a)) ** 2 + (yy - 1.2 * np.sin(a)) ** 2 for a in angles]
    maps = np.stack([np.exp(-d / 2 + 1j * a * xx) for d, a in zip(away, angles, strict=True)])
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    x = image * np.exp(0.5j * xx)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * x, (-2, -1)), norm="ortho"), (-2, -1))
    kspace = kspace + noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)) / np.sqrt(2)
    mask = np.zeros(n, bool)
    mask[::acceleration] = True
    mask[n // 2 - 4 : n // 2 + 4] = True
    A, y = sense.build({"kspace": kspace * mask, "mask": mask, "maps": maps[None], "view_shape": (n, n)})
    return A, y, np.abs(x).astype(np.float32)


SMALL = {"skip": {"widths": [8, 8], "skip_widths": [2, 2]}, "unet": {"widths": [8, 16, 16], "init": "torch"},
         "mlp": {"widths": [32, 32], "frequencies": 32}}  # fmt: skip


def given_to(method):
    """Names of the images that a method needs or may be given."""
    plugin = registry.get("methods", method)
    return (*plugin.get("INPUTS", ()), *plugin.get("OPTIONAL", ()))


def small_arm(method, iterations=40, **more):
    """A resolved arm with a network that a test can afford."""
    given = {"method": method, "iterations": iterations, **more}
    resolved = study.resolve(study.checked_arm(given), snapshots=8, read_every=10)
    for name in resolved["network"] or {}:
        resolved["network"][name].update(SMALL.get(name, {}))
    return resolved


class Stopper(Keeper):
    """A keeper that makes the job leave after so many iterations."""

    def __init__(self, file, after):
        self.file, self.after, self.saves = file, after, 0

    def leaving(self):
        self.after -= 1
        return self.after == 0

    def due(self):
        return False

    def save(self, state):
        torch.save(state, self.file)
        self.saves += 1
