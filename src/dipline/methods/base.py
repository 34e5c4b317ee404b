"""The contract between a method and the loop: Problem, Stage, Method.

A method fits an image to one measurement. The loop owns iterations, stop rules, averages, snapshots, checkpoints and the log; a method
says what is optimised, with which loss, and what happens after a step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Problem:
    """All that a method may see, held-out samples removed, in units in which the starting image x0 is about 1 where it is brightest.

    Attributes:
        y: the measurement, in the operator's own order.
        A: the operator (``physics.base.Operator``), data weights included.
        x0: the starting image (parts, H, W): zero-filled, back-projected.
        network: ``network(in_channels, out_channels)`` makes the arm's network; a second call makes an independent one.
        rng: ``rng(purpose)`` makes a generator on the device, seeded by (seed, purpose) alone.
        iterations: optimiser steps that the study asks for.
        inputs: what the method declares in INPUTS, e.g. ``prior`` (parts, H, W) in the same units as x0; of OPTIONAL, MODELS and
            REUSES what is given.
        penalty: what the arm adds to the loss, a function of the image (``penalties.of``), or None.
        grid: (h, w) of the noise that the network takes; None: the image's.
    """

    y: torch.Tensor
    A: object
    x0: torch.Tensor
    network: Callable
    rng: Callable
    iterations: int
    inputs: dict = field(default_factory=dict)
    penalty: Callable | None = None
    grid: tuple | None = None


@dataclass
class Stage:
    """A stretch of optimiser steps, one or more; a stage begins with a new optimiser. All stages together take ``problem.iterations``.

    Attributes:
        groups: torch parameter groups, with any number of learning rates; empty: no optimiser (classical solvers).
        scored: False (mask learning, prior embedding): no stop rule, no snapshots.
    """

    name: str
    steps: int
    groups: list
    optimiser: str = "adam"
    clip: float = 0.0
    scored: bool = True


class Method(nn.Module):
    """Base class. State is parameters and buffers: a checkpoint holds state_dict, optimiser, generators and k."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem
        self.A, self.y = problem.A, problem.y

    def stages(self):
        """The list of :class:`Stage`; most methods have one."""
        raise NotImplementedError

    def enter(self, stage):
        """Called at the start of a stage: threshold a mask, freeze, re-initialise."""

    def loss(self, k):
        """(loss, image estimate (parts, H, W) or None) at step k, which counts from 0 over all stages. Stages may have graphs of their
        own (``enter`` says which it is); within one the graph is the same for every k, so that it can be recorded. The arm's penalty is
        added to it, where there is an estimate: one that is detached from the weights needs a refusal of penalties in REFUSES."""
        raise NotImplementedError

    def form(self, k):
        """Which of a few forms step k has, where ``after`` does not do the same at every step. On a GPU each form is recorded once and
        replayed (``recorded.py``); None: the step cannot be recorded, since the host takes part in it."""
        return 0

    def after(self, k):
        """Called without gradient after the optimiser's step k: move the input, update a dual variable."""

    def image(self):
        """The current image; asked only where ``loss`` gives none."""
        raise NotImplementedError

    def artefacts(self):
        """Tensors kept for other jobs (masks, weights) by name: those of ARTEFACTS."""
        return {}

    def step(self, k, optimiser, clip):
        """One optimiser step. Returns (loss, estimate), detached. Classical solvers override this alone."""
        optimiser.zero_grad(set_to_none=True)
        loss, estimate = self.loss(k)
        if self.problem.penalty and estimate is not None:
            loss = loss + self.problem.penalty(estimate)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], clip)
        optimiser.step()
        with torch.no_grad():
            self.after(k)
        return loss.detach(), (self.image() if estimate is None else estimate).detach()

    # what most methods share

    def misfit(self, x):
        """Data term Σ|A x − y|² over all acquired entries (methods differ in what they add to it)."""
        return self.A.residual(x, self.y)

    def channels(self, x):
        """An image (parts, H, W) as real network channels (1, C, H, W)."""
        if x.is_complex():
            x = torch.view_as_real(x).permute(0, 3, 1, 2).flatten(0, 1)
        return x[None]

    def as_image(self, out):
        """Network channels (1, C, H, W), or (frames, C, H, W), as an image (parts, H, W), zero outside the operator's support, where
        nothing ties the network to the data."""
        x = out.flatten(0, 1).float()  # a network may work in half precision
        if self.A.complex:
            parts, height, width = self.A.domain
            x = torch.view_as_complex(x.view(parts, 2, height, width).permute(0, 2, 3, 1).contiguous())
        return x if self.A.support is None else x * self.A.support

    def least_squares(self, lam=0.01, steps=20):
        """Conjugate gradients on (AᴴA + lam) x = Aᴴy: to MRI what filtered back-projection is to CT, an input without the
        worst aliasing."""
        b = self.A.AT(self.y)
        x, r, p = torch.zeros_like(b), b, b
        energy = torch.linalg.vector_norm(r).square()
        for _ in range(steps):
            q = self.A.AT(self.A(p)) + lam * p
            step = energy / torch.vdot(p.flatten(), q.flatten()).real
            x, r = x + step * p, r - step * q
            before, energy = energy, torch.linalg.vector_norm(r).square()
            p = r + energy / before * p
        return x

    def first_input(self, kind, channels=0, scale=1.0, size=None):
        """The network's first input (1, C, H, W): ``zero_filled`` (the starting image), ``least_squares`` (:meth:`least_squares`),
        ``coordinates`` (rows and columns from 0 to 1), ``uniform`` U[0, scale) or ``normal`` N(0, scale²) with ``channels`` channels (0: as
        many as the image has), of ``size`` (H, W) (None: as the network takes it)."""
        if kind == "zero_filled":
            return self.channels(self.problem.x0)
        if kind == "coordinates":
            places = [torch.linspace(0, 1, n, device=self.y.device) for n in self.A.domain[1:]]
            return torch.stack(torch.meshgrid(*places, indexing="ij"))[None]
        if kind == "least_squares":
            return self.channels(self.least_squares())
        shape = (1, channels or self.A.channels, *(size or self.problem.grid or self.A.domain[1:]))
        draw = torch.rand if kind == "uniform" else torch.randn
        rng = self.problem.rng("input")
        return scale * draw(shape, generator=rng, device=rng.device)
