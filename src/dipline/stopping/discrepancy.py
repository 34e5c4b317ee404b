"""Morozov's discrepancy principle: stop as soon as the output fits the measurement no worse than the truth would.

    stop at the first t with   mean_i |(A x_t − y)_i / σ_i|² ≤ τ²,   σ_i the standard deviation of the noise of y_i

Morozov 1966: the truth misses the data by about the norm of the noise, and what fits them more closely fits noise. With equal σ_i this
is ‖A x − y‖ ≤ τ √(Σσ_i²); with others every value counts by its own. x is the output (the average where the arm averages), A and y
are plain, whatever the arm's data term, preconditioning or penalty. If the bound is never reached, the last output is handed over.

σ is what the measurement file tells: of MRI the noise that the acquisition adds (``noise_snr``), of CT √(N + e²)/N for N counts and
electronic noise e, of photographs ``sigma`` and √(y/``peak``). The parameter ``sigma`` replaces it, in the measurement's own units (a
k-space sample, of which √E|noise|² counts; a line integral; white = 1). A scan's own noise is in none of them: give ``sigma`` for
real scans, else the bound is too low and the run goes to its end. τ = 1 is the principle; larger values stop earlier. It costs one more
projection a step. σ of photons follows the noisy counts: with a dozen of them the mean of the truth is about 1.1, not 1.

It says little where the residual is not that of one image of the noise model: of sgld (a mean of samples, and only after burn-in) and
dop (the corruption stays in A x − y).
"""

import torch

from dipline.stopping.base import Rule

CITE = ("morozov1966",)
NOT_FOR = ("sgld", "dop")
PARAMETERS = {"tau": 1.0, "sigma": 0.0, "min_iterations": 0}
BOUNDS = {"tau": "> 0"}
REFUSES = [
    ({"option.sigma": 0.0, "noise_snr": None}, "more than 0, the noise of a k-space sample: nobody knows it without noise_snr"),
    ({"option.sigma": 0.0, "photons": None}, "more than 0, the noise of a line integral: nobody knows it without photons"),
    ({"option.sigma": 0.0, "sigma": 0.0, "peak": None}, "more than 0, the noise where white is 1: the acquisition names none"),
    ({"option.sigma": 0.0, "impulse": "> 0"}, "more than 0, or another rule: with impulse the noise has no one deviation"),
    ({"option.sigma": 0.0, "task": "phase"}, "more than 0, the noise of a magnitude: cut off at 0, it is not that of the acquisition"),
]


class Discrepancy(Rule):
    def __init__(self, iterations, tau, sigma, min_iterations):
        super().__init__(iterations)
        self.tau, self.sigma, self.min_iterations = tau, sigma, min_iterations

    def measured(self, A, y, scale):
        self.A, self.y, self.scale, self.deviations = A, y, scale, A.deviations(y, self.sigma)
        if self.deviations is None:
            raise ValueError(
                "stop rule discrepancy: the measurement does not tell its noise; give it, e.g. stop: {discrepancy: {sigma: 0.01}}"
            )

    def start(self, image, output):
        super().start(image, output)
        self.register_buffer("stopped", torch.zeros((), dtype=torch.bool, device=image.device))

    def misfit(self, output):
        """The mean of the squared residual in units of the noise, 0-dim."""
        return ((self.A(output * self.scale) - self.y) / self.deviations).abs().square().mean()

    def update(self, k, image, output, loss, held_loss):
        self.keep(~self.stopped, k, output)
        if k >= self.min_iterations:
            self.stopped |= self.misfit(output) <= self.tau**2

    def verdict(self):
        return bool(self.stopped), int(self.k_chosen)
