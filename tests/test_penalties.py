"""Penalties that an arm adds to its method's loss: the formulas, what they do to every method, and TV-DIP beside DIP."""

import numpy as np
import pytest
import torch
from problems import disc_problem, given_to, small_arm

from dipline import loop, registry, study
from dipline.methods import penalties
from dipline.physics.pixels import Pixels

METHODS = [m for m, p in registry.plugins("methods").items() if p.get("NETWORK") and "mri" in p.get("TASKS", ("mri",))]
TERMS = ("tv", "tv_isotropic")


def by_hand(name, x):
    """The term and its gradient, with which ⟨gradient, d⟩ is its change in direction d, pixel by pixel."""
    x = np.asarray(x, np.complex128)
    value, gradient = 0.0, np.zeros_like(x)
    height, width = x.shape[1:]
    for p, i, j in np.ndindex(x.shape):
        below = x[p, i + 1, j] - x[p, i, j] if i + 1 < height else 0
        right = x[p, i, j + 1] - x[p, i, j] if j + 1 < width else 0
        if name == "tv":
            value += sum(abs(np.real(d)) + abs(np.imag(d)) for d in (below, right))
            slopes = [np.sign(np.real(d)) + 1j * np.sign(np.imag(d)) for d in (below, right)]
        else:
            root = np.sqrt(abs(below) ** 2 + abs(right) ** 2 + 1e-6)
            value += root
            slopes = [below / root, right / root]
        for slope, (di, dj) in zip(slopes, ((1, 0), (0, 1)), strict=True):
            if i + di < height and j + dj < width:
                gradient[p, i + di, j + dj] += slope
                gradient[p, i, j] -= slope
    return value, gradient


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("complex_", [True, False])
def test_term_and_gradient_are_the_formula(name, complex_):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 6)) + 1j * complex_ * rng.standard_normal((2, 5, 6))
    x[1, 2:4, 1:4] = 0.5  # flat parts, where |.| has no slope
    t = torch.from_numpy(x if complex_ else x.real.copy()).requires_grad_()
    found = penalties.of({name: 0.3})(t)
    found.backward()
    value, gradient = by_hand(name, x)
    assert float(found.detach()) == pytest.approx(0.3 * value, rel=1e-9)
    assert np.allclose(t.grad.numpy(), 0.3 * gradient, atol=1e-9)


def test_isotropic_does_not_see_a_constant_phase_and_weights_add_up():
    x = torch.randn(1, 6, 7, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    turned = x * np.exp(0.7j)
    assert float(penalties.tv_isotropic(turned)) == pytest.approx(float(penalties.tv_isotropic(x)), rel=1e-12)
    assert float(penalties.tv(turned)) != pytest.approx(float(penalties.tv(x)), rel=1e-3)
    both = penalties.of({"tv": 2.0, "tv_isotropic": 3.0})(x)
    assert float(both) == pytest.approx(2 * float(penalties.tv(x)) + 3 * float(penalties.tv_isotropic(x)), rel=1e-12)
    assert penalties.of({"tv": 0.0}) is None is penalties.of(None)


@pytest.mark.parametrize("method", METHODS)
def test_penalty_reaches_the_weights_of_every_method_or_is_refused(method):
    """A method that hands over an image which its weights do not move says so in REFUSES."""
    given = {"method": method, "iterations": 4, "penalty": {"tv": 0.05}}
    if registry.refusals(registry.get("methods", method), {"penalty.tv": 0.05}):
        with pytest.raises(study.StudyError, match=r"penalty\.tv: found 0\.05, allowed: 0"):
            study.checked_arm(given)
        return
    if method == "prune_at_init":  # of a network this small, the default leaves too little for any gradient
        given["params"] = {"sparsity": 0.5, "criterion": "random"}
    A, y, _ = disc_problem()
    inputs = {name: A.init(y) for name in given_to(method)}
    plain, with_tv = small_arm(**{k: v for k, v in given.items() if k != "penalty"}), small_arm(**given)
    assert "penalty" not in plain and with_tv == plain | {"penalty": {"tv": 0.05}}
    run, ref = (loop.Run(y, A, arm, 0, inputs, arm["stop"], 4) for arm in (with_tv, plain))
    loss, image = run.method.step(0, run.optimiser, 0.0)
    before, _ = ref.method.step(0, ref.optimiser, 0.0)
    assert float(loss - before) == pytest.approx(0.05 * float(penalties.tv(image)), rel=1e-3)
    grads = [[p.grad for p in r.method.parameters() if p.grad is not None] for r in (run, ref)]
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(*grads, strict=True))


def test_absent_and_zero_penalties_are_the_same_job():
    plain = small_arm("vanilla", 10)
    assert small_arm("vanilla", 10, penalty={"tv": 0}) == plain


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    loop.set_up("cpu", 1)


def noisy_discs():
    """(A, y, truth): 32² discs in white noise, to be denoised."""
    _, _, truth = disc_problem()
    A = Pixels((1, 32, 32), range(32 * 32))
    y = truth.reshape(1, -1) + 0.15 * np.random.default_rng(0).standard_normal((1, 32 * 32))
    return A, torch.from_numpy(y.astype(np.float32)), truth


def test_tv_dip_beats_dip():
    """Discs in noise: DIP fits the noise, with the penalty it stays out. Measured: 0.098 and 0.057."""
    A, y, truth = noisy_discs()
    error = {}
    for weight in (0.0, 0.08):
        arm = small_arm("vanilla", 250, network="skip", params={"lr": 0.03}, penalty={"tv": weight})
        image = loop.fit(y, A, arm, say=lambda line: None).image[0]
        error[weight] = float(np.sqrt(np.mean((image - truth) ** 2)))
    assert error[0.08] < 0.75 * error[0.0], error
