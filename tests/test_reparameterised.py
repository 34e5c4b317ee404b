"""Double over-parameterisation, Deep Random Projector and Langevin dynamics: what their equations demand."""

import pytest
import torch
import yaml
from problems import disc_problem, small_arm
from test_study import BASE, problems

from dipline import loop, study
from dipline.physics.pixels import Pixels

SKIP = {"skip": {"widths": [16, 16], "skip_widths": [4, 4]}}


@pytest.fixture(scope="module")
def problem():
    loop.set_up("cpu", 1)
    return disc_problem()


def run_of(problem, method, steps=5, network=None, **more):
    A, y, *_ = problem
    arm = small_arm(method, steps, **more)
    if network:
        arm["network"] = study.resolve(study.checked_arm({"method": method, "network": network}))["network"]
    return loop.Run(y, A, arm, 0, {}, arm["stop"], steps)


def impulses(n=32, share=0.1):
    """(operator, y, image): every tenth pixel of a smooth image replaced by 0 or 1."""
    loop.set_up("cpu", 1)
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    truth = (0.5 + 0.3 * torch.sin(2 * xx) * torch.cos(1.5 * yy))[None]
    rng = torch.Generator().manual_seed(0)
    hit, value = (torch.rand(truth.shape, generator=rng) < p for p in (share, 0.5))
    return Pixels(truth.shape), torch.where(hit, value.float(), truth).flatten(1), truth


# dop


def test_dop_loss_is_its_formula_and_so_are_its_gradients(problem):
    method = run_of(problem, "dop", params={"input_noise": 0.0, "start": 0.3}).method
    loss, x = method.loss(0)
    ours = torch.autograd.grad(loss, [method.g, method.h, *method.net.parameters()])
    g, h = (torch.view_as_complex(p) for p in (method.g, method.h))
    s = torch.complex(g.real**2 - h.real**2, g.imag**2 - h.imag**2)
    want = (method.A(method.as_image(method.net(method.z))) + s - method.y).abs().square().mean()
    theirs = torch.autograd.grad(want, [method.g, method.h, *method.net.parameters()])
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5) and float(s.detach().abs().mean()) > 0.05
    for some in (slice(0, 1), slice(1, 2), slice(2, None)):  # biases ahead of a batch norm: gradient 0, here and there rounding
        a, b = (torch.cat([g.flatten() for g in grads[some]]) for grads in (ours, theirs))
        assert float((a - b).norm() / b.norm()) < 1e-4


def test_dop_descends_at_two_rates(problem):
    """Plain gradient descent: every weight moves by its rate times its gradient."""
    run = run_of(problem, "dop", params={"lr": 0.01, "lr_corruption": 3.0, "start": 0.1})
    method = run.method
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    run.step()
    for name, p in method.named_parameters():
        rate = 3.0 if name in "gh" else 0.01
        assert torch.allclose(p.detach(), before[name] - rate * p.grad, atol=1e-6), name
    adam = run_of(problem, "dop", params={"optimiser": "adam", "lr": 1e-3, "lr_corruption": 1e-2})
    assert [g["lr"] for g in adam.optimiser.param_groups] == [1e-3, 1e-2] and isinstance(adam.optimiser, torch.optim.Adam)


def test_dop_finds_the_sparse_corruption_that_vanilla_fits():
    A, y, truth = impulses()
    impulse = (y - truth.flatten(1)).norm()
    params = {"lr": 0.3, "lr_corruption": 120.0, "input_noise": 0.0}
    dop = run_of((A, y), "dop", 180, network=SKIP, params=params)
    vanilla = run_of((A, y), "vanilla", 180, network=SKIP, params={"lr": 0.01, "input_channels": 32, "input_scale": 0.1})
    for run in (dop, vanilla):
        for _ in range(180):
            run.step()
    error = lambda run: float((run.last * run.scale - truth).norm() / impulse)  # noqa: E731
    assert error(dop) < 0.25 and error(vanilla) > 0.8
    s = dop.method.artefacts()["corruption"] * dop.scale
    assert float((s - (y - truth.flatten(1))).norm() / impulse) < 0.25


def test_dop_with_adam_wants_another_rate():
    given = "arms: {dip: {method: dop, params: {optimiser: adam}}}"
    assert problems(given) == [
        "arms.dip.params.lr_corruption: found 500.0, allowed: 0.1 or less with optimiser: adam, e.g. 0.01",
    ]
    config = study.merged(yaml.safe_load(BASE), yaml.safe_load(given))
    config["arms"]["dip"]["params"]["lr_corruption"] = 0.01
    study.load(config, "my.yaml")


# drp


def test_drp_moves_the_input_and_the_norms_alone(problem):
    run = run_of(problem, "drp")
    before = {n: v.clone() for n, v in run.method.state_dict().items()}
    norms = {n for n, m in run.method.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    for _ in range(3):
        run.step()
    moved = {n for n, v in run.method.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"z", *(f"{n}.{part}" for n in norms for part in ("weight", "bias"))} and len(norms) > 4
    assert all(p.grad is None for n, p in run.method.named_parameters() if n not in moved), "a step costs no gradient of a convolution"


def test_drp_has_the_numbers_of_weights_of_the_paper():
    """656 of 82,979 for three colours at one scale of width 64; the input's norm comes on top."""
    method = run_of(impulses(8)[:2], "drp").method
    assert sum(p.numel() for p in method.norm.parameters()) == 2, "one colour"
    A = Pixels((3, 8, 8))
    arm = study.resolve(study.checked_arm({"method": "drp"}))
    net = loop.Run(torch.rand(3, 64), A, arm, 0, {}, arm["stop"], 5).method.net
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 656
    assert sum(p.numel() for p in net.parameters()) == 82979


def test_drp_total_variation_and_loss_are_their_formulas(problem):
    method = run_of(problem, "drp", params={"lam": 0.7}).method
    image = torch.tensor([[[[1.0, 3.0, 2.0], [0.0, 5.0, 5.0]]]])
    assert float(method.total_variation(image)) == pytest.approx((2 + 1 + 5 + 0 + 1 + 2 + 3) / 6)
    with torch.no_grad():
        loss, x = method.loss(0)
        flat = (method.z - method.z.mean((2, 3), keepdim=True)) / (method.z.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        assert torch.allclose(method.as_image(method.net(flat)), x, atol=1e-4), "z is normalised before it enters"
        real = torch.view_as_real(x[0]).double()
        steps = sum(float(real.diff(dim=axis).abs().sum()) for axis in (0, 1)) / real.numel()
        rms = float((method.A(x) - method.y).abs().square().mean().sqrt())
    assert float(loss) == pytest.approx(rms + 0.7 * steps, rel=1e-4) and 0.7 * steps > 0.01 * rms


def test_drp_weight_flattens_the_image():
    A, y, _ = impulses(24)
    total = {}
    for lam in (0.0, 0.45):
        run = run_of((A, y), "drp", 60, params={"lam": lam})
        for _ in range(60):
            run.step()
        total[lam] = float(run.method.total_variation(run.last[None]))
    assert total[0.45] < 0.5 * total[0.0]


# sgld


def moves(run):
    """What one step added to every weight, and the gradients of that step."""
    before = {n: p.detach().clone() for n, p in run.method.net.named_parameters()}
    run.step()
    return {n: p.detach() - before[n] for n, p in run.method.net.named_parameters()}, run.method.net


def test_sgld_langevin_step_is_its_equation(problem):
    """θ − ε/2 ∇U + N(0, ε), with the U of a Gaussian likelihood and prior, differentiated here."""
    sigma, lr, decay = 0.01, 0.05, 0.2
    params = {"update": "langevin", "lr": lr, "sigma": sigma, "weight_decay": decay, "input_noise": 0.0}
    run = run_of(problem, "sgld", params=params)
    method, n = run.method, run.method.y.numel()
    epsilon, weights = 4 * sigma**2 * lr / n, list(method.net.parameters())
    U = (method.A(method.as_image(method.net(method.z))) - method.y).abs().square().sum() / (2 * sigma**2)
    U = U + n * decay / (4 * sigma**2) * sum(p.square().sum() for p in weights)
    drift = [-epsilon / 2 * g for g in torch.autograd.grad(U, weights)]
    added, _ = moves(run)
    noise = torch.cat([(a - d).flatten() for a, d in zip(added.values(), drift, strict=True)])
    assert float(noise.var()) == pytest.approx(epsilon, rel=0.1) and abs(float(noise.mean())) < 0.1 * epsilon**0.5
    assert float(torch.cat([d.flatten() for d in drift]).std()) > 2 * epsilon**0.5, "a wrong drift would be seen"


def test_sgld_adam_noise_is_the_rate_times_two_on_convolutions_alone(problem):
    quiet, noisy = (run_of(problem, "sgld", params={"noise": noise}) for noise in (0.0, 2.0))
    without, _ = moves(quiet)
    added, net = moves(noisy)
    noise = {n: added[n] - without[n] for n in added}
    four = {n for n, p in net.named_parameters() if p.ndim == 4}
    assert all(float(noise[n].abs().max()) == 0 for n in noise if n not in four)
    drawn = torch.cat([noise[n].flatten() for n in four])
    assert float(drawn.var()) == pytest.approx((2 * 0.01) ** 2, rel=0.1) and abs(float(drawn.mean())) < 2e-3
    assert not torch.equal(*(noise[n].flatten()[:9] for n in sorted(four)[:2]))


def test_sgld_shows_the_mean_of_the_samples_after_burn_in(problem):
    run, samples = run_of(problem, "sgld", 12, params={"burn_in": 0.5, "thin": 2}), []
    for k in range(12):
        run.step()
        if k >= 6 and k % 2 == 0:
            samples.append(run.method.current.clone())
        want = torch.stack(samples).mean(0) if samples else run.method.current
        assert torch.allclose(run.last, want, atol=1e-6), k
    assert len(samples) == 3 and (samples[0] - samples[2]).abs().max() > 0.01


def test_sgld_takes_no_average_on_top():
    said = "arms.dip.average: found 0.9, allowed: 0: the method has its own mean, over samples after burn-in; leave it out"
    assert problems("arms: {dip: {method: sgld, average: 0.9}}") == [said]
