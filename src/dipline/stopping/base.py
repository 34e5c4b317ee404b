"""The contract of stop rules: what the loop tells them at every step, and what it asks."""

import torch
from torch import nn


class Rule(nn.Module):
    """Base class. All state is buffers, so that a checkpoint holds it.

    ``update`` runs at every scored step on the device, without host synchronisation; ``verdict`` is read every few steps.
    """

    def __init__(self, iterations):
        super().__init__()
        self.iterations = iterations

    def start(self, image, output):
        """Called with the first image and output (parts, H, W): allocate buffers like them."""
        self.register_buffer("kept", output.clone())
        self.register_buffer("k_chosen", torch.zeros((), dtype=torch.int64, device=image.device))

    def split(self, A, y, rng):
        """Bool (units,): the samples that the method may see; None: all. Called before the method exists."""
        return None

    def measured(self, A, y, scale):
        """Told, before the method exists, what it is to fit: operator and measurement without held-out samples, preconditioning or
        scaling; an image of :meth:`update` times ``scale`` is in the operator's units."""

    def update(self, k, image, output, loss, held_loss):
        """Told after step k, counted from the first scored step: the method's image, what would be handed over (the average where
        the arm averages), the loss, and the error on the held-out samples (None without)."""
        raise NotImplementedError

    def keep(self, better, k, output):
        """Where the 0-dim bool tensor ``better`` is true, make ``output`` of step k the chosen one."""
        torch.where(better, output, self.kept, out=self.kept)
        torch.where(better, torch.full_like(self.k_chosen, k), self.k_chosen, out=self.k_chosen)

    def verdict(self):
        """(stop now, iteration chosen so far); counted as in :meth:`update`, the loop makes it the step of the whole run."""
        return False, int(self.k_chosen)

    def chosen(self):
        """The image that this rule hands over."""
        return self.kept


class Patient(Rule):
    """A rule that keeps the step with the smallest value of some statistic and stops when it has not fallen for ``patience`` steps."""

    def __init__(self, iterations, patience, min_iterations=0, margin=0.0):
        super().__init__(iterations)
        self.patience, self.min_iterations, self.margin = patience, min_iterations, margin

    def start(self, image, output):
        super().start(image, output)
        self.register_buffer("best", torch.full((), torch.inf, dtype=torch.float64, device=image.device))
        self.register_buffer("wait", torch.zeros((), dtype=torch.int64, device=image.device))
        self.register_buffer("stopped", torch.zeros((), dtype=torch.bool, device=image.device))

    def judge(self, value, k, output):
        """Compare a 0-dim statistic of step k with the best so far. A confirmed minimum is frozen."""
        if k < self.min_iterations:
            self.keep(torch.ones((), dtype=torch.bool, device=self.best.device), k, output)
            return
        value = value.to(self.best.dtype)
        better = (value < self.best * (1 - self.margin)) & ~self.stopped
        self.keep(better, k, output)
        torch.where(better, value, self.best, out=self.best)
        torch.where(better, torch.zeros_like(self.wait), self.wait + 1, out=self.wait)
        self.stopped |= self.wait >= self.patience

    def verdict(self):
        return bool(self.stopped), int(self.k_chosen)
