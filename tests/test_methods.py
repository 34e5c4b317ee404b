"""Methods: finite, falling loss, deterministic, resumed = straight; and what the papers' equations demand."""

import numpy as np
import pytest
import torch
from problems import disc_problem, small_arm

from dipline import loop, registry
from dipline.methods.base import Method
from dipline.physics.sense import build

METHODS = list(registry.plugins("methods"))


@pytest.fixture(scope="module")
def problem():
    loop.set_up("cpu", 1)
    return disc_problem()


def inputs(method, problem):
    """A prior for the methods that need one: the starting image, smoothed."""
    A, y, _ = problem
    return {name: A.init(y) for name in registry.get("methods", method).get("INPUTS", ())}


def run_of(problem, arm, seed=0, **given):
    A, y, _ = problem
    return loop.Run(y, A, arm, seed, given, arm["stop"], arm["iterations"])


def fit(problem, arm, seed=0, keeper=None):
    A, y, _ = problem
    return loop.fit(y, A, arm, seed, inputs(arm["method"], problem), keeper, say=lambda line: None)


@pytest.mark.parametrize("method", METHODS)
def test_finite_falling_deterministic(problem, method):
    arm = small_arm(method)
    first, second = fit(problem, arm), fit(problem, arm)
    assert (first.image == second.image).all(), "two runs, same bits"
    losses = [loss for _, loss in first.losses]
    # over the whole run all must fall; of a classical solver we see the data term alone, which regularisation may raise a little
    assert (
        losses[-1] <= (1.02 if registry.get("methods", method).get("CLASS") == "classical" else 1.0) * losses[0]
        and abs(first.image).max() > 0.1
    )
    assert first.iterations == arm["iterations"] or registry.get("methods", method).get("ITERATIONS") == 1


@pytest.mark.parametrize("method", [m for m in METHODS if registry.get("methods", m).get("RANDOM", True)])
def test_another_seed_another_image(problem, method):
    arm = small_arm(method, 10)
    assert (fit(problem, arm, 0).image != fit(problem, arm, 1).image).any()


@pytest.mark.parametrize("method", [m for m in METHODS if registry.get("methods", m).get("RANDOM", True)])
def test_beats_zero_filled(problem, method):
    """A sanity bound, not a claim: 400 steps of a small network on discs."""
    A, y, truth = problem
    lr = (
        {"lr": 5e-3}
        | ({"inner": 20, "lam": 0.1} if method == "aseq" else {})
        | ({"input": "zero_filled", "z_lr": 0.01} if method == "self_guided" else {})
        | ({"input": "zero_filled"} if method == "vanilla" else {})
    )
    result = fit(problem, small_arm(method, 400, params=lr))
    error = lambda x: float((A.view(x) - torch.from_numpy(truth)).norm())  # noqa: E731
    assert error(torch.from_numpy(result.image)) < 0.8 * error(A.init(y))


def test_aseq_input_follows_the_output(problem):
    """z_k = f_φk(z_{k−1}) after every ``inner`` steps, and only then (eq. 15)."""
    run = run_of(problem, small_arm("aseq", 6, params={"inner": 3}))
    z0 = run.method.z.clone()
    for _ in range(2):
        run.step()
    assert torch.equal(run.method.z, z0)
    run.step()
    with torch.no_grad():
        net_of_z0 = run.method.as_image(run.method.net(z0))
    assert torch.allclose(run.method.as_image(run.method.z), net_of_z0, atol=1e-6)


def test_aseq_with_huge_lambda_copies_its_input(problem):
    arm = small_arm("aseq", 400, params={"lam": 1e6, "inner": 1000, "lr": 5e-3})
    run = run_of(problem, arm)
    for _ in range(400):
        run.step()
    z = run.method.as_image(run.method.z)
    assert float((run.last - z).norm() / z.norm()) < 0.25


def test_aseq_without_penalty_and_update_is_vanilla(problem):
    """λ = 0 and an input that never moves: vanilla DIP with the zero-filled input, bit for bit."""
    aseq = fit(problem, small_arm("aseq", 30, params={"lam": 0.0, "inner": 1000, "lr": 1e-3}))
    vanilla = fit(problem, small_arm("vanilla", 30, params={"lr": 1e-3, "input": "zero_filled"}, network="unet"))
    assert (aseq.image == vanilla.image).all()


def test_aseq_dc_output_returns_measured_samples(problem):
    run = run_of(problem, small_arm("aseq", 4, params={"inner": 2, "z_update": "dc_output"}))
    z0 = run.method.z.clone()
    run.step()
    run.step()
    with torch.no_grad():
        x = run.method.as_image(run.method.net(z0))
        want = run.A.consistent(x, run.method.y)
    assert torch.allclose(run.method.as_image(run.method.z), want, atol=1e-6)


def test_self_guided_reduces_to_vanilla(problem):
    """J = 1, σ = 0, α = 0, z frozen, squared norms: vanilla's trajectory, bit for bit."""
    params = {"draws": 1, "noise_scale": 0.0, "alpha": 0.0, "z_lr": 0.0, "norms": "squared", "lr": 1e-3}
    guided = fit(problem, small_arm("self_guided", 30, params=params, average=0.0))
    vanilla = fit(problem, small_arm("vanilla", 30, params={"lr": 1e-3}, network="unet"))
    assert (guided.image == vanilla.image).all()


def test_self_guided_moves_its_input_and_noise_is_centred_where_it_says_so(problem):
    for noise, mean in (("uniform", 0.25), ("gaussian", 0.0), ("centred", 0.0)):
        run = run_of(problem, small_arm("self_guided", 5, params={"noise": noise}))
        draws = torch.stack([run.method.perturbation() for _ in range(200)])
        scale = float(run.method.z.detach().abs().max())
        assert float(draws.mean()) == pytest.approx(mean * scale, abs=0.01 * scale)
    before = run.method.z.detach().clone()
    run.step()
    assert (run.method.z.detach() - before).abs().max() > 0.05, "Adam moves z by its learning rate 0.1"


def test_ref_guided_feeds_the_prior(problem):
    A, y, truth = problem
    prior = torch.polar(torch.from_numpy(truth), torch.zeros_like(torch.from_numpy(truth)))[None]
    run = run_of(problem, small_arm("ref_guided", 2, params={"phase": "prior"}), prior=3 * prior)
    shown = run.method.as_image(run.method.z)
    assert float(torch.quantile(shown.abs().flatten(), 0.999)) == pytest.approx(1, rel=1e-3), (
        "in the units of the scaled data"
    )
    turned = run_of(problem, small_arm("ref_guided", 2), prior=prior).method
    x0 = turned.problem.x0
    image = turned.as_image(turned.z)
    strong = (image.abs() > 0.2) & (x0.abs() > 0.2)
    assert torch.allclose((image / x0)[strong].angle(), torch.zeros(int(strong.sum())), atol=1e-4), "zero-filled phase"


def test_weighted_data_do_not_change_the_input(problem):
    """Preconditioning changes the residual only: x0, and with it the scale, stay those of the plain data."""
    plain, weighted = (run_of(problem, small_arm("aseq", 2, precondition=p)) for p in (0.0, 0.05))
    assert torch.allclose(plain.method.z, weighted.method.z, atol=1e-5)


def test_image_is_zero_where_no_coil_sees_it():
    """Cropped maps leave pixels that the data do not depend on; a network fills them with anything. 12 dB were lost to that once."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((1, 3, 16, 16)) + 1j * rng.standard_normal((1, 3, 16, 16))
    maps[..., :5, :] = 0
    B, v = build(
        {
            "kspace": rng.standard_normal((3, 16, 16)) + 0j,
            "mask": np.arange(16) % 2 == 0,
            "maps": maps / 3,
            "view_shape": (16, 16),
        }
    )
    result = loop.fit(v, B, small_arm("vanilla", 5, network="skip"), say=lambda line: None)
    assert abs(result.image[..., :5, :]).max() == 0 and abs(result.image).max() > 0


def test_every_method_has_one_class():
    for method in METHODS:
        assert issubclass(loop.plugin_class("methods", method, Method), Method)
