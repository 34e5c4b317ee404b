"""Double DIP: magnitude and phase from two networks of their own, for MRI and for Fourier magnitudes."""

import numpy as np
import pytest
import torch
from problems import Stopper, disc_problem, small_arm

from dipline import loop, study
from dipline.physics.phase import Magnitudes
from dipline.study import StudyError


def magnitudes():
    """(A, y) of the disc's Fourier magnitudes."""
    _, _, truth = disc_problem()
    A = Magnitudes((64, 64), (1, 32, 32))
    return A, A(torch.from_numpy(truth)[None])


def run_of(A, y, iterations=5, **params):
    loop.set_up("cpu", 1)
    arm = small_arm("double_dip", iterations, params=params)
    return loop.Run(y, A, arm, 0, {}, arm["stop"], iterations)


def by_numpy(method):
    """m exp(iφ) from what the two networks put out."""
    with torch.no_grad():
        a, b = method.magnitude(method.z_magnitude)[0].numpy(), method.phase(method.z_phase)[0].numpy()
    return np.log1p(np.exp(a)) * np.exp(1j * np.pi * np.tanh(b))


def test_image_is_m_exp_i_phi():
    A, y, _ = disc_problem()
    run = run_of(A, y, lr=0.01)
    for _ in range(3):
        run.step()
    loss, x = run.method.loss(3)
    want = by_numpy(run.method) * run.A.support.numpy()
    assert np.allclose(x.detach().numpy(), want, atol=1e-5) and np.ptp(np.angle(want)) > 0.01
    assert float(loss.detach()) == pytest.approx(float((run.method.A(x) - run.method.y).abs().square().sum().detach()), rel=1e-5)


def test_fourier_magnitudes_are_those_of_the_complex_image_and_m_is_handed_over():
    A, y = magnitudes()
    run = run_of(A, y, lr=0.01)
    run.step()
    loss, m = run.method.loss(1)
    x = by_numpy(run.method)
    transform = np.abs(np.fft.fft2(x, (64, 64), norm="ortho")).reshape(1, -1)
    assert float(loss.detach()) == pytest.approx(((transform - run.method.y.numpy()) ** 2).sum(), rel=1e-4)
    assert not m.is_complex() and np.allclose(m.detach().numpy(), np.abs(x), atol=1e-5)


def test_networks_and_inputs_are_independent_and_both_are_fitted():
    A, y = magnitudes()
    method = (run := run_of(A, y)).method
    pairs = list(zip(method.magnitude.parameters(), method.phase.parameters(), strict=True))
    drawn = [(a, b) for a, b in pairs if a.ndim == 4 and a.shape[0] > 1]  # biases and norms may begin alike
    assert len(drawn) > 3 and all(abs(np.corrcoef(a.detach().flatten(), b.detach().flatten())[0, 1]) < 0.9 for a, b in drawn)
    assert abs(float(torch.corrcoef(torch.stack([method.z_magnitude.flatten(), method.z_phase.flatten()]))[0, 1])) < 0.1
    before = [p.detach().clone() for pair in pairs for p in pair]
    run.step()
    after = [p for pair in pairs for p in pair]
    assert sum(bool((p != q).any()) for p, q in zip(before, after, strict=True)) > 0.9 * len(before)


def test_phase_retrieval_falls_and_resumes_to_the_same_bits(tmp_path):
    A, y = magnitudes()
    arm = small_arm("double_dip", 60, params={"lr": 0.01})
    fit = lambda keeper=None: loop.fit(y, A, arm, 0, {}, keeper, lambda line: None)  # noqa: E731
    straight = fit()
    assert straight.losses[-1][1] < 0.5 * straight.losses[0][1]
    with pytest.raises(loop.Interrupted):
        fit(Stopper(tmp_path / "c.pt", 23))
    assert (fit(Stopper(tmp_path / "c.pt", 10**6)).image == straight.image).all()


def test_real_images_have_no_phase_to_find():
    photos = {"reader": "samples", "params": {"size": 32}, "acquisitions": {"noisy": {"task": "denoise", "sigma": 25}}}
    with pytest.raises(StudyError, match="double_dip solves phase, mri, and no dataset is of that kind"):
        study.load({"study": "no", "datasets": {"photos": photos}, "arms": {"double": {"method": "double_dip"}}})
