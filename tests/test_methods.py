"""Methods: finite, falling loss, deterministic, resumed = straight; and what the papers' equations demand."""

import numpy as np
import pytest
import sigpy
import torch
from problems import disc_problem, given_to, small_arm

from dipline import loop, registry
from dipline.methods.base import Method
from dipline.physics.sense import build

METHODS = [m for m, p in registry.plugins("methods").items() if "mri" in p.get("TASKS", ("mri",))]  # CT's: test_ct.py


@pytest.fixture(scope="module")
def problem():
    loop.set_up("cpu", 1)
    return disc_problem()


def inputs(method, problem):
    """A prior for the methods that need one: the starting image, smoothed."""
    A, y, _ = problem
    return {name: A.init(y) for name in given_to(method)}


def run_of(problem, arm, seed=0, **given):
    A, y, _ = problem
    return loop.Run(y, A, arm, seed, given, arm["stop"], arm["iterations"])


def fit(problem, arm, seed=0, keeper=None):
    A, y, _ = problem
    return loop.fit(y, A, arm, seed, inputs(arm["method"], problem), keeper, say=lambda line: None)


SHORT = {"imp": {"rounds": 2}, "nerp": {"prior_share": 0.1}}  # so that each training has some of 40 steps, and losses are of one stage


@pytest.mark.parametrize("method", METHODS)
def test_finite_falling_deterministic(problem, method):
    arm = small_arm(method, params=SHORT.get(method, {}))
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


QUICK = {  # settings with which a small network gets somewhere in 400 steps; a new method is free to join
    "vanilla": {"lr": 5e-3, "input": "zero_filled"},
    "ref_guided": {"lr": 5e-3},
    "self_guided": {"lr": 5e-3, "input": "zero_filled", "z_lr": 0.01},
    "aseq": {"lr": 5e-3, "inner": 20, "lam": 0.1},
}


@pytest.mark.parametrize("method", QUICK)
def test_beats_zero_filled(problem, method):
    """A sanity bound, not a claim: 400 steps of a small network on discs."""
    A, y, truth = problem
    result = fit(problem, small_arm(method, 400, params=QUICK[method]))
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
    """J = 1, σ = 0, α = 0, z frozen, squared norms: vanilla's trajectory, up to rounding (gradients are summed in another order)."""
    params = {"draws": 1, "noise_scale": 0.0, "alpha": 0.0, "z_lr": 0.0, "norms": "squared", "lr": 1e-3}
    guided = fit(problem, small_arm("self_guided", 6, params=params, average=0.0))
    vanilla = fit(problem, small_arm("vanilla", 6, params={"lr": 1e-3}, network="unet"))
    assert np.allclose(guided.image, vanilla.image, atol=1e-4)
    for other in ({"noise_scale": 0.5}, {"alpha": 1.0}, {"z_lr": 0.1}, {"norms": "unsquared"}):
        guided = fit(problem, small_arm("self_guided", 6, params=params | other, average=0.0))
        assert not np.allclose(guided.image, vanilla.image, atol=1e-3), other


def test_self_guided_moves_its_input_and_noise_is_centred_where_it_says_so(problem):
    for noise, mean in (("uniform", 0.25), ("gaussian", 0.0), ("centred", 0.0)):
        run = run_of(problem, small_arm("self_guided", 5, params={"noise": noise}))
        draws = torch.stack([run.method.perturbation() for _ in range(200)])
        scale = float(run.method.z.detach().abs().max())
        assert float(draws.mean()) == pytest.approx(mean * scale, abs=0.01 * scale)
    before = run.method.z.detach().clone()
    run.step()
    assert (run.method.z.detach() - before).abs().max() > 0.05, "Adam moves z by its learning rate 0.1"


@pytest.mark.parametrize("norms", ["unsquared", "squared"])
def test_self_guided_loss_is_its_equation(problem, norms):
    params = {"draws": 1, "noise_scale": 0.0, "alpha": 0.3, "norms": norms}
    method = run_of(problem, small_arm("self_guided", 5, params=params)).method
    loss, x = method.loss(0)
    x = x.detach()
    data = float((method.A(x) - method.y).abs().square().sum())
    guide = float((method.channels(x) - method.z.detach()).square().sum())
    want = data + 0.3 * guide if norms == "squared" else data**0.5 + 0.3 * guide**0.5
    assert float(loss.detach()) == pytest.approx(want, rel=1e-4)
    assert 0.3 * min(guide, guide**0.5) > 0.01 * want, "the second term counts"


def inputs_of(method, steps):
    """What the network was fed with in so many steps."""
    seen = []
    handle = method.net.register_forward_pre_hook(lambda net, given: seen.append(given[0].detach().clone()))
    for k in range(steps):
        method.loss(k)
    handle.remove()
    return seen


def test_vanilla_input_noise_is_drawn_anew_at_every_step(problem):
    method = run_of(problem, small_arm("vanilla", 5, params={"input_noise": 0.05})).method
    one, two = (z - method.z for z in inputs_of(method, 2))
    assert float(one.std()) == pytest.approx(0.05, rel=0.1) == float(two.std())
    assert abs(float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])) < 0.1
    quiet = run_of(problem, small_arm("vanilla", 5)).method
    assert all(torch.equal(z, quiet.z) for z in inputs_of(quiet, 2))


def test_vanilla_clips_the_gradient(problem):
    for clip, low, high in ((0.0, 1.0, np.inf), (0.01, 0.0099, 0.0101)):
        run = run_of(problem, small_arm("vanilla", 5, params={"clip": clip}))
        run.step()
        assert low < float(torch.stack([p.grad.norm() for p in run.method.net.parameters()]).norm()) < high


def test_least_squares_input_fits_the_data_better_than_zero_filled(problem):
    zero, least = (run_of(problem, small_arm("vanilla", 5, params={"input": kind})).method for kind in ("zero_filled", "least_squares"))
    error = lambda m: float(m.misfit(m.as_image(m.z)))  # noqa: E731
    assert torch.equal(zero.as_image(zero.z), zero.problem.x0 * zero.A.support)
    assert error(least) < 0.2 * error(zero)


def test_average_is_what_last_and_snapshots_show(problem):
    """The bias-corrected running mean of the iterates, x̄_t = Σ w_i x_i / Σ w_i, w_i = 0.8^(t−i)."""
    run, images = run_of(problem, small_arm("vanilla", 8, average=0.8)), []
    update = run.rule.update
    run.rule.update = lambda k, image, *more: (images.append(image), update(k, image, *more))
    wanted = []
    while not run.finished:
        run.step()
        w = torch.tensor([0.8 ** (len(images) - 1 - i) for i in range(len(images))])
        wanted.append((w[:, None, None, None] * torch.stack(images)).sum(0) / w.sum())
        assert torch.allclose(run.last, wanted[-1], atol=1e-5)
    assert (wanted[-1] - images[-1]).abs().max() > 1e-2
    assert len(run.snapshots) > 4
    for k, view in run.snapshots:
        assert torch.allclose(view.float(), run.A.view(wanted[k]), atol=2e-3)


@pytest.mark.parametrize("method, total", [
    ("tv", lambda x: abs(np.diff(x, axis=-1)).sum() + abs(np.diff(x, axis=-2)).sum()),
    ("l1_wavelet", lambda x: abs(sigpy.wavelet.fwt(x, wave_name="db4", axes=(-2, -1))).sum()),
])  # fmt: skip
def test_lam_is_the_weight_of_what_is_kept_small(problem, method, total):
    weak, strong = (fit(problem, small_arm(method, 60, params={"lam": lam})).image for lam in (1e-4, 0.2))
    assert total(strong) < 0.6 * total(weak)


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


@pytest.mark.parametrize("precondition", [0.0, 0.1])
def test_ref_guided_correction_puts_the_measured_samples_back(precondition):
    """One coil that sees everything: NumPy's k-space of the image is the measured one where acquired, the plain image's elsewhere."""
    rng = np.random.default_rng(0)
    kspace, mask = rng.standard_normal((1, 16, 16)) + 1j * rng.standard_normal((1, 16, 16)), np.arange(16) % 3 != 1
    A, y = build({"kspace": kspace * mask, "mask": mask, "maps": np.ones((1, 1, 16, 16)), "view_shape": (16, 16)})
    found = {}
    for correction in (False, True):
        arm = small_arm("ref_guided", 3, params={"correction": correction}, precondition=precondition)
        found[correction] = loop.fit(y, A, arm, 0, {"prior": A.init(y)}, say=lambda line: None)
    assert found[True].losses == found[False].losses, "the fit is the same"
    full = {c: np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(r.image[0]), norm="ortho")) for c, r in found.items()}
    assert np.allclose(full[True][:, mask], kspace[0][:, mask], atol=1e-4)
    assert np.allclose(full[True][:, ~mask], full[False][:, ~mask], atol=1e-4)
    assert not np.allclose(full[False][:, mask], kspace[0][:, mask], atol=0.1)


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


@pytest.mark.parametrize("network", ["deep_decoder", "conv_decoder"])
def test_noise_has_the_size_that_the_network_takes(problem, network):
    """Noise of a decoder lies on its grid; what a method compares with images has the image's size."""
    arm = small_arm("vanilla", 3, network={network: {"widths": [8, 8, 8]}}, params={"input_channels": 5, "input_noise": 0.1})
    assert run_of(problem, arm).method.z.shape == (1, 5, 8, {"deep_decoder": 8, "conv_decoder": 4}[network])
    assert fit(problem, arm).image.shape == (1, 32, 32)
    for method in ("self_guided", "aseq"):
        assert run_of(problem, small_arm(method, 3, network={network: {"widths": [8, 8]}})).method.z.shape[2:] == (32, 32)
        fit(problem, small_arm(method, 3, network={network: {"widths": [8, 8]}}))


@pytest.mark.parametrize("method", ["vanilla", "self_guided", "oes"])
def test_a_cosine_schedule_takes_every_rate_to_nought(method):
    """Half a cosine over the steps of each stage, of each group's own rate."""
    A, y, _ = disc_problem()
    arm = small_arm(method, 10, schedule="cosine")
    run, fresh = (loop.Run(y, A, arm, 0, {}, arm["stop"], 10) for _ in range(2))
    rates = [[g["lr"] for g in stage.groups] for stage in fresh.stages]
    seen = []
    while not run.finished:
        if run.k == run.stage_end:
            run.next_stage()
        starts, stage, k = rates[run.stage], run.stages[run.stage], run.k
        run.step()
        done = (k - (run.stage_end - stage.steps)) / stage.steps
        seen.append(done)
        assert [g["lr"] for g in run.optimiser.param_groups] == pytest.approx([s * 0.5 * (1 + np.cos(np.pi * done)) for s in starts])
    assert seen[0] == 0 and max(seen) >= 0.75
