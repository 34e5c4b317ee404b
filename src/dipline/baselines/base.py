"""Classical solvers under the same contract as the methods: SigPy's iterations, driven step by step by the loop."""

import contextlib

import numpy as np
import sigpy as sp
import torch

from dipline.methods.base import Method, Stage


class AsLinop(sp.linop.Linop):
    """Our operator as a SigPy linear operator on arrays (parts, H, W)."""

    def __init__(self, A, y, adjoint=False):
        self.A, self.example, self.is_adjoint = A, y, adjoint
        shapes = [list(y.shape), list(A.domain)]
        super().__init__(*(shapes[::-1] if adjoint else shapes), repr_str="A")

    def _apply(self, input):
        image = torch.from_numpy(np.ascontiguousarray(input)).to(self.example.device)
        return (self.A.AT(image) if self.is_adjoint else self.A(image)).cpu().numpy()

    def _adjoint_linop(self):
        return AsLinop(self.A, self.example, not self.is_adjoint)


class Shrink(sp.prox.Prox):
    """Soft thresholding, the proximal map of lam ‖x‖₁; SigPy's own turns real images complex in a process that has met complex ones."""

    def __init__(self, shape, lam):
        self.lam = lam
        super().__init__(shape)

    def _prox(self, alpha, input):
        size = np.maximum(np.abs(input), np.finfo(np.float32).tiny)
        return (input * np.maximum(1 - float(alpha) * self.lam / size, 0)).astype(input.dtype, copy=False)


class SigpySolver(Method):
    """A SigPy app whose ``alg.update()`` is one step. Subclasses build the app in ``app(A, y)``."""

    def __init__(self, problem):
        super().__init__(problem)
        with _numpy_seed():  # SigPy estimates step sizes by a power iteration that starts from numpy's global generator
            self.solver = self.app(AsLinop(self.A, self.y), self.y.cpu().numpy())

    def app(self, A, y):
        """The SigPy app for ``A`` (a Linop) and ``y`` (an array); ``max_iter`` is the study's ``iterations``."""
        raise NotImplementedError

    def solution(self):
        """The current image as an array (parts, H, W)."""
        return self.solver.x

    def stages(self):
        return [Stage("solve", self.problem.iterations, [])]

    def step(self, k, optimiser, clip):
        if not self.solver.alg.done():
            self.solver.alg.update()
        image = torch.from_numpy(np.ascontiguousarray(self.solution())).to(self.y.device, self.A.dtype)
        return self.misfit(image), image

    def get_extra_state(self):
        """The algorithm's arrays and numbers, for a checkpoint."""
        state = {}
        for name, value in vars(self.solver.alg).items():
            if isinstance(value, np.ndarray):
                state[name] = torch.from_numpy(value.copy())
            elif isinstance(value, int | float | np.number):
                state[name] = value if isinstance(value, int | float) else value.item()
        return state

    def set_extra_state(self, state):
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                getattr(self.solver.alg, name)[...] = value.cpu().numpy()
            else:
                setattr(self.solver.alg, name, value)


@contextlib.contextmanager
def _numpy_seed(seed=0):
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
