"""The discrepancy principle: what is known of the noise, the bound, the study's errors."""

import numpy as np
import pytest
import torch
from problems import disc_problem, small_arm
from test_penalties import noisy_discs
from test_stopping import make

from dipline import loop, trial
from dipline.acquire import degrade, noise, views
from dipline.physics import ct, pixels
from dipline.physics.joint import Joint


def normalised(A, x, y, sigma=0.0):
    return float((((A(x) - y) / A.deviations(y, sigma)).abs() ** 2).mean())


@pytest.mark.parametrize("sigma, peak", [(25, None), (0, 600), (10, 200)])
def test_deviations_of_photographs_are_those_of_the_draws(sigma, peak):
    """At the truth the squared residual is that of the noise: 1 in units of its deviation."""
    rng = np.random.default_rng(0)
    x = 0.2 + 0.6 * rng.random((3, 40, 40))
    y = degrade.noisy(x.reshape(3, -1), rng, sigma, peak)
    arrays = {"data": y, "shape": x.shape, "index": np.arange(1600), "noise": np.array([sigma / 255, peak or 0])}
    A, y = pixels.build(arrays)
    assert normalised(A, torch.from_numpy(x).float(), y) == pytest.approx(1, abs=0.06)
    other = A.restrict(torch.arange(1600) % 2 == 0)
    assert normalised(other, torch.from_numpy(x).float(), y[:, ::2]) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("electronic", [0.0, 20.0])
def test_deviations_of_rays_are_those_of_counted_photons(electronic):
    geometry = views.geometry((24, 24), 1.0, 20)
    x = 0.02 * torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(0))
    clean = ct.Tomography(geometry)
    sinogram, counts = views.noisy((clean(x) * clean.length).numpy(), 2e3, electronic, np.random.default_rng(0))
    more = {"noise": np.array([electronic, 0.0])} if electronic else {}
    A, y = ct.build(geometry | {"sinogram": sinogram, "counts": counts} | more)
    assert normalised(A, x, y) == pytest.approx(1, abs=0.08)
    two = Joint([A, A])
    assert normalised(two, torch.cat([x, x]), two.joined([y, y])) == pytest.approx(normalised(A, x, y), rel=1e-4)
    B, z = ct.build(geometry | {"sinogram": sinogram})
    assert B.deviations(z) is None and Joint([A, B]).deviations(two.joined([y, z])) is None
    assert B.deviations(z, 0.01) == pytest.approx(0.01 / B.length), "in line integrals"


def test_measurements_tell_their_noise(tmp_path, monkeypatch):
    """mri, superres, gaussian, … by way of the workflow's own files."""
    A, y, *_ = trial.problem("mri", tmp_path)
    kspace = A.kspace(y)  # 10 dB below the mean power of the complete k-space: every part of it far from the centre is noise
    corner = kspace[:, :20].abs().square().sum() / (kspace[:, :20] != 0).sum()
    assert A.deviations(y) == pytest.approx(float(corner) ** 0.5, rel=0.2)
    for task in ("superres", "denoise"):
        small = trial.TASKS[task] | {"params": {"size": 48}, "acq": trial.TASKS[task]["acq"] | {"sigma": 12}}
        monkeypatch.setitem(trial.TASKS, task, small)
        (tmp_path / task).mkdir()
        A, y, truth, *_ = trial.problem(task, tmp_path / task)
        assert normalised(A, torch.from_numpy(truth).reshape(A.domain), y) == pytest.approx(1, abs=0.15), task
    assert pixels.Pixels.example().deviations(torch.zeros(3, 48)) is None


def test_deviation_is_what_add_noise_adds():
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((4, 64, 64)) + 1j * rng.standard_normal((4, 64, 64))
    added = noise.add_noise(kspace, 12, rng) - kspace
    assert np.sqrt(np.mean(abs(added) ** 2)) == pytest.approx(noise.deviation(kspace, 12), rel=0.02)


def approach(A, y, n=40):
    """Images that near the measured one, in units of twice the scan's."""
    x = A.AT(y)
    return [x * (1 - 0.9**k) / 2 for k in range(n)]


@pytest.mark.parametrize("tau", [1.5, 4.0])
def test_stops_at_the_first_step_within_the_bound(tau):
    """‖A x − y‖ ≤ τ √(m σ²), NumPy's norm; what comes later changes nothing."""
    A, y, _ = disc_problem()
    images, sigma = approach(A, y), 0.05
    rule = make("discrepancy", tau=tau, sigma=sigma, min_iterations=2)
    rule.measured(A, y, 2.0)
    rule.start(images[0], images[0])
    residuals = [np.linalg.norm((A(2 * x) - y).numpy()) for x in images]
    want = next(k for k, r in enumerate(residuals) if k >= 2 and r <= tau * np.sqrt(y.numel()) * sigma)
    said = []
    for k, x in enumerate(images):
        rule.update(k, 0 * x, x, None, None)  # of the output alone
        said.append(rule.verdict())
    assert 2 < want < 38 and said[want - 1] == (False, want - 1) and said[want] == (True, want) == said[-1]
    assert torch.equal(rule.chosen(), images[want])


def test_never_within_the_bound_hands_over_the_last():
    A, y, _ = disc_problem()
    images = approach(A, y, 5)
    rule = make("discrepancy", sigma=1e-9)
    rule.measured(A, y, 2.0)
    rule.start(images[0], images[0])
    for k, x in enumerate(images):
        rule.update(k, x, x, None, None)
    assert rule.verdict() == (False, 4) and torch.equal(rule.chosen(), images[4])


def test_unknown_noise_is_said():
    A, y, _ = disc_problem()
    with pytest.raises(ValueError, match=r"does not tell its noise; give it, e\.g\. stop: \{discrepancy: \{sigma: 0\.01\}\}"):
        make("discrepancy").measured(A, y, 1.0)


def test_bound_is_in_the_scans_units_whatever_the_arm_does_to_the_data():
    """Scaling, preconditioning and penalty change the loss, not the residual that is judged."""
    A, y, _ = disc_problem()
    stop = {"discrepancy": {"sigma": 0.02}}
    arm = small_arm("vanilla", 3, network="skip", precondition=0.05, penalty={"tv": 0.1}, average=0.5, stop=stop)
    run = loop.Run(y, A, arm, 0, {}, arm["stop"], 3)
    for _ in range(3):
        run.step()
    want = float((A(run.last * run.scale) - y).abs().square().mean()) / 0.02**2
    assert float(run.rule.misfit(run.last)) == pytest.approx(want, rel=1e-4)


def test_rules_stop_denoising_near_its_peak():
    """Discs in noise: DIP peaks and falls. ES-DIP and the discrepancy principle must hand over what is within 1 dB of the peak."""
    loop.set_up("cpu", 1)
    A, y, truth = noisy_discs()
    A.noise = (0.15, 0.0)
    watch = [{"emv": {"patience": 100, "min_iterations": 60}}, "discrepancy"]
    stop = {"wmv": {"window": 20, "patience": 100, "min_iterations": 60}}
    arm = small_arm("vanilla", 400, network="skip", params={"lr": 0.02}, stop=stop, watch=watch)
    run, psnr = loop.Run(y, A, arm, 0, {}, arm["stop"], 400), []
    while not run.finished:
        run.step()
        psnr.append(-10 * np.log10(np.mean((run.last[0].numpy() * run.scale - truth) ** 2)))
    peak = max(psnr)
    assert peak - psnr[-1] > 1.5, "it overfits"
    found = {"wmv": run.chosen(run.rule), **{name: run.chosen(rule) for name, rule in run.watched.items()}}
    assert all(peak - psnr[k] < 1 for k in found.values()), (peak, psnr[-1], {n: (k, psnr[k]) for n, k in found.items()})
