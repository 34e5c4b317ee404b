"""DeepRED and RED: their equations against computations of their own, the denoisers, and a learnt one from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from problems import disc_problem, small_arm
from skimage import restoration

from dipline import blocks, loop
from dipline import study as studies
from dipline.methods import denoisers
from dipline.study import StudyError


class Blur(torch.nn.Module):
    """A linear denoiser: zero-padded convolution. With a symmetric kernel its matrix is symmetric."""

    def __init__(self, symmetric=True):
        super().__init__()
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        kernel[0, 0] += 0.0 if symmetric else 0.3
        self.register_buffer("kernel", kernel[None, None])

    def forward(self, x):
        return torch.nn.functional.conv2d(x, self.kernel, padding=1)


def matrix(n):
    """The matrix of :class:`Blur` on n x n pixels."""
    basis = torch.eye(n * n).reshape(n * n, 1, n, n)
    return Blur()(basis).reshape(n * n, n * n).T.numpy().astype(float)


def run_of(method, denoiser=None, iterations=5, **params):
    loop.set_up("cpu", 1)
    A, y, _ = disc_problem()
    given = {} if denoiser is None else {"denoiser": denoiser}
    arm = small_arm(method, iterations, params=params, average=0.0)
    return loop.Run(y, A, arm, 0, given, arm["stop"], iterations)


def complex_noise(shape, seed=0):
    return torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed)).view(*shape, 2).mul(0.5).unbind(-1)


def random_image(like, seed):
    real, imaginary = complex_noise(like.shape, seed)
    return torch.complex(real, imaginary)


@pytest.mark.parametrize("symmetric", [True, False])
def test_red_goes_down_the_gradient_of_its_objective_where_D_is_symmetric(symmetric):
    """½‖Ax − y‖² + (β/2) xᵀ(x − D(x)) by autograd, against the step; with a Jacobian that is not symmetric they must differ."""
    D = Blur(symmetric)
    method = run_of("red", D, beta=0.7).method
    A, y = method.A, method.y
    x = (method.problem.x0 + random_image(method.problem.x0, 1)).requires_grad_()
    parts = torch.view_as_real(x).movedim(-1, 1).reshape(2, 1, *x.shape[-2:])
    objective = (A(x) - y).abs().square().sum() / 2 + 0.35 * (parts * (parts - D(parts))).sum()
    (gradient,) = torch.autograd.grad(objective, x)
    method.x = x.detach().clone()
    loss, after = method.step(0, None, 0)
    assert float(loss) == pytest.approx(2 * float(objective.detach()), rel=1e-5)
    error = (after - (x.detach() - gradient / 1.7)).norm() / gradient.norm()
    assert error < 1e-5 if symmetric else error > 0.01


def test_red_ends_at_the_solution_of_its_normal_equations():
    """(AᴴA + β(I − W)) x = Aᴴy for a linear symmetric D = W."""
    run = run_of("red", Blur(), iterations=300, beta=0.5)
    A, y, x0 = run.method.A, run.method.y, run.method.problem.x0
    D = denoisers.of("nlm", 0.1, Blur())
    rest = lambda x: float((A.AT(A(x) - y) + 0.5 * (x - D(x))).norm())  # noqa: E731
    while not run.finished:
        run.step()
    assert rest(run.last) < 1e-3 * rest(x0)


def test_deepred_x_step_solves_its_problem():
    """For fixed f and u its fixed point is the minimiser of (β/2) xᵀ(x − Wx) + (μ/2)‖x − f − u‖², by a dense solve."""
    method = run_of("deepred", Blur(), beta=0.8, mu=0.3, refresh=1).method
    f, u = random_image(method.x, 1), random_image(method.x, 2)
    for n in range(60):
        method.u.copy_(u)
        method.agree(f, n)
    W = matrix(32)
    want = np.linalg.solve(0.8 * (np.eye(32 * 32) - W) + 0.3 * np.eye(32 * 32), 0.3 * (f + u).numpy().reshape(-1))
    assert np.allclose(method.x.numpy().reshape(-1), want, atol=1e-4)
    assert torch.allclose(method.u, u + f - method.x, atol=1e-6), "the dual takes up what f and x do not agree on"


def test_deepred_loss_is_its_equation():
    method = run_of("deepred", mu=0.3, input_noise=0.0).method
    x, u = random_image(method.x, 1), random_image(method.x, 2)
    method.x.copy_(x)
    method.u.copy_(u)
    loss, f = method.loss(0)
    data, tie = (method.A(f) - method.y).abs().square().sum(), 0.3 * (f - (x - u)).abs().square().sum()
    assert float(loss.detach()) == pytest.approx(float((data + tie).detach()), rel=1e-5)
    assert min(float(data), float(tie)) > 0.01 * float(loss.detach()), "both count"


def test_deepred_takes_its_steps_when_it_says():
    """x and u move every ``inner`` iterations, with the new weights and without input noise; D is asked every ``refresh`` of those."""
    run = run_of("deepred", inner=2, refresh=3, iterations=20, beta=0.5, mu=0.5)
    method, asked = run.method, []
    plain = method.denoise
    method.denoise = lambda x: asked.append(run.k) or plain(x)
    x0 = method.x.clone()
    run.step()
    assert torch.equal(method.x, x0) and not method.u.any()
    run.step()
    with torch.no_grad():
        f = method.as_image(method.net(method.z))
    x = 0.5 * plain(x0) + 0.5 * f
    assert torch.allclose(method.x, x, atol=1e-6) and torch.allclose(method.u, f - x, atol=1e-6)
    while not run.finished:
        run.step()
    assert asked == [1, 7, 13, 19]


def test_deepred_network_and_denoised_image_come_to_agree():
    run = run_of("deepred", iterations=150, lr=5e-3, sigma=0.05, input_noise=0.0)
    while not run.finished:
        run.step()
    assert float((run.last - run.method.x).norm() / run.last.norm()) < 0.05


def test_deepred_takes_away_what_red_takes_away():
    """A sanity bound: the error against the truth falls by both, and TV is asked for by its name."""
    A, y, truth = disc_problem(acceleration=1, noise=0.1)
    start = A.init(y)
    error = lambda x: float((A.view(x) - torch.from_numpy(truth)).norm())  # noqa: E731
    red = small_arm("red", 30, params={"sigma": 0.1, "beta": 1.0, "denoiser": "tv", "refresh": 2})
    assert error(torch.from_numpy(loop.fit(y, A, red, say=lambda line: None).image)) < 0.8 * error(start)


@pytest.mark.parametrize("kind", denoisers.KINDS)
def test_denoisers_denoise_real_and_imaginary_part_apart(kind):
    _, _, truth = disc_problem()
    noisy = torch.from_numpy(truth) + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(3))
    D = denoisers.of(kind, 0.1)
    assert float((D(noisy[None])[0] - torch.from_numpy(truth)).norm()) < 0.8 * float((noisy - torch.from_numpy(truth)).norm())
    both = torch.stack([torch.complex(noisy, 2 - noisy), torch.complex(noisy.T.contiguous(), noisy)])
    want = [torch.complex(D(part.real[None])[0], D(part.imag[None])[0]) for part in both]
    assert torch.allclose(D(both), torch.stack(want), atol=1e-6)
    colours = torch.stack([noisy, noisy.flip(0), noisy.flip(1)])
    assert D(colours).shape == colours.shape
    apart = torch.cat([D(c[None]) for c in colours])
    assert torch.allclose(D(colours), apart, atol=1e-6) == (kind != "nlm"), "non-local means alone compares all colours"


def test_nlm_is_the_one_of_the_paper():
    """h = 0.6 σ, patches of 5, within 6 pixels."""
    _, _, truth = disc_problem()
    noisy = truth + 0.1 * np.random.default_rng(0).standard_normal(truth.shape)
    want = restoration.denoise_nl_means(noisy, h=0.06, sigma=0.1, patch_size=5, patch_distance=6, fast_mode=True)
    assert np.allclose(denoisers.of("nlm", 0.1)(torch.from_numpy(noisy)[None])[0], want, atol=1e-6)


# ---------------------------------------------------------------- a learnt denoiser


def test_a_learnt_denoiser_takes_the_place_of_the_plain_one(tmp_path):
    """By a file in a study's job, and as a module in Python: the same image, and another one than without."""
    torch.jit.script(Blur()).save(str(tmp_path / "d.pt"))
    A, y, _ = disc_problem()
    arm = {"method": "red", "iterations": 5, "params": {"beta": 1.0}}
    results = [blocks.reconstruct(y, A, arm, inputs=given).image for given in (
        {"denoiser": Blur()}, {"denoiser": blocks._model(tmp_path / "d.pt", "cpu")}, None)]  # fmt: skip
    assert (results[0] == results[1]).all() and not np.allclose(results[0], results[2], atol=1e-3)
    (tmp_path / "broken.pt").write_bytes((tmp_path / "d.pt").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"broken.pt: no TorchScript file that this version of torch reads"):
        blocks._model(tmp_path / "broken.pt", "cpu")


def test_a_denoiser_that_changes_the_size_is_an_error():
    with pytest.raises(ValueError, match=r"inputs.denoiser: it made \(1, 1, 4, 4\) of \(1, 1, 8, 8\); give one that keeps shapes"):
        denoisers.of("nlm", 0.1, torch.nn.AvgPool2d(2))(torch.zeros(1, 8, 8))


def study_with(denoiser):
    brain = {"reader": "phantom", "params": {"patients": 1, "slices": 1, "matrix": 32}}
    brain["acquisitions"] = {"R2": {"mask": "equispaced", "acceleration": 2, "center_fraction": 0.25}}
    arms = {"red": {"method": "red", "inputs": denoiser}, "deep": {"method": "deepred"}, "tv": {"method": "tv"}}
    return studies.load({"study": "ok", "datasets": {"brain": brain}, "arms": arms})


def test_the_study_check_knows_a_model_from_another_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Blur()).save("d.pt")
    torch.save(Blur().state_dict(), "weights.pt")
    Path("text.pt").write_text("no archive")
    assert study_with({"denoiser": {"file": "d.pt"}}).arms["red"].inputs["denoiser"].file == "d.pt"
    assert not study_with({}).arms["red"].inputs, "none is needed"
    key = "study: arms.red.inputs.denoiser"
    no_model = 'is no such model, allowed: a TorchScript file; write one with torch.jit.script(model).save("denoiser.pt")'
    for given, message in (
        ({"file": "gone.pt"}, f'{key}.file: no such file or folder "gone.pt"; correct the path'),
        ({"file": "weights.pt"}, f'{key}.file: "weights.pt" {no_model}'),
        ({"file": "text.pt"}, f'{key}.file: "text.pt" {no_model}'),
        ({"file": "."}, f'{key}.file: "." {no_model}'),
        ({"arm": "tv"}, f"{key}: found arm, allowed: a TorchScript file, e.g. file: denoiser.pt"),
        ({}, f"{key}: found nothing, allowed: a TorchScript file, e.g. file: denoiser.pt"),
    ):
        with pytest.raises(StudyError) as error:
            study_with({"denoiser": given})
        assert error.value.problems == [message]
    with pytest.raises(StudyError, match=r"inputs.prior: red takes no such input \(allowed: denoiser\)"):
        study_with({"prior": {"file": "d.pt"}})
