"""Blind deblurring: the operator of image and kernel, SelfDeblur and blind Richardson-Lucy."""

import numpy as np
import pytest
import torch
from problems import Stopper

from dipline import loop, study
from dipline.acquire import degrade
from dipline.measure_image import measured
from dipline.physics import blur_blind
from dipline.readers.base import Scan
from dipline.study import StudyError

RNG = np.random.default_rng(0)
KERNEL = degrade.kernel("motion", length=5, angle=30)
YY, XX = np.mgrid[:32, :32]
IMAGE = np.stack([0.2 + 0.6 * ((XX - 14) ** 2 + (YY - 17) ** 2 < 70) - 0.15 * (XX > 20), 0.2 + 0.5 * (abs(XX - YY) < 6)]).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    loop.set_up("cpu", 1)


def problem(sigma=0.0):
    acquired = study.checked_acquisition({"task": "deblur_blind", "kernel": "motion", "length": 5, "angle": 30, "sigma": sigma}, "image")
    scan = Scan("image", IMAGE[None], [0], recon_shape=IMAGE.shape[1:])
    content, *_ = measured(scan, "x.png", "x", {"acq": acquired.model_dump()})
    assert "kernel" not in content[0], "no arm may read it"
    return blur_blind.build(content[0])


def run_of(A, y, method, iterations, **more):
    arm = study.resolve(study.checked_arm({"method": method, "iterations": iterations} | more), snapshots=4, read_every=5)
    return loop.Run(y, A, arm, 0, {}, arm["stop"], iterations), arm


NET = {"network": {"unet": {"widths": [8, 8], "init": "torch", "output": "sigmoid"}}, "params": {"input_noise": 0.01}}


def test_the_true_pair_gives_the_measurement():
    """Measured by SciPy, fitted in torch."""
    A, y = problem()
    assert torch.allclose(A.blurred(torch.from_numpy(IMAGE), torch.from_numpy(KERNEL)), y, atol=2e-6)
    assert torch.equal(A.init(y).reshape(2, -1), y) and A.frame == KERNEL.shape


def test_gradients_in_image_and_kernel():
    A = blur_blind.BlindBlur.example()
    x, k = torch.rand(A.domain, dtype=torch.float64, requires_grad=True), torch.rand(A.frame, dtype=torch.float64, requires_grad=True)
    A.weights = A.weights.double()
    assert torch.autograd.gradcheck(A.blurred, (x, k))


def test_the_adjoint_in_the_image():
    A = blur_blind.BlindBlur.example()
    x, v, k = (torch.rand(s, dtype=torch.float64) for s in (A.domain, A.domain, A.frame))
    left, right = (A.convolved(x, k) * v).sum(), (x * A.convolved(v, k, adjoint=True)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)


def test_images_are_scored_where_the_truth_lies():
    moved = np.roll(IMAGE, (3, -2), (1, 2))
    assert (blur_blind.aligned(moved, IMAGE) == IMAGE).all()
    turned = np.ascontiguousarray(IMAGE[:, ::-1, ::-1])
    assert np.abs(blur_blind.aligned(turned, IMAGE) - IMAGE).max() > 0.1, "what is turned is another image here"


def test_self_deblur_is_its_equation():
    A, y = problem()
    run, _ = run_of(A, y, "self_deblur", 10, **NET | {"params": {"input_noise": 0.0}})
    m, kernel = run.method, run.method.kernel().detach()
    assert float(kernel.min()) > 0 and float(kernel.sum()) == pytest.approx(1, abs=1e-5) and kernel.shape == KERNEL.shape
    loss, x = m.loss(0)
    assert float(x.detach().min()) >= 0 and float(x.detach().max()) <= 1
    by_hand = degrade.blurred(x.detach().numpy(), kernel.numpy()).reshape(2, -1) - y.numpy()
    assert float(loss.detach()) == pytest.approx(float((by_hand**2).sum()), rel=1e-4)
    assert [g["lr"] for g in run.stages[0].groups] == [0.01, 1e-4]
    before = [p.detach().clone() for p in m.parameters()]
    run.step()
    assert all((p != q).any() for p, q in zip(m.parameters(), before, strict=True)), "both networks are trained"


def test_self_deblur_finds_image_and_kernel():
    A, y = problem(sigma=1)
    arm = run_of(A, y, "self_deblur", 500, average=0.95, **NET | {"params": {"kernel_lr": 5e-4, "input_channels": 8}})[1]
    found = loop.fit(y, A, arm, 0, {}, None, lambda line: None)
    error = lambda x: float(((blur_blind.aligned(x, IMAGE) - IMAGE) ** 2).mean())  # noqa: E731
    assert error(found.image) < 0.5 * error(A.init(y).numpy())
    match = lambda k: float(np.fft.ifft2(np.fft.fft2(k, (32, 32)) * np.fft.fft2(KERNEL, (32, 32)).conj()).real.max())  # noqa: E731
    likeness = lambda k: match(k) / np.sqrt((k**2).sum() * (KERNEL**2).sum())  # noqa: E731
    assert likeness(found.artefacts["kernel"].numpy()) > max(0.8, likeness(np.ones_like(KERNEL)) + 0.1)


@pytest.mark.parametrize("after", [3, 9])
def test_promise_3_resumed(tmp_path, after):
    A, y = problem(sigma=1)
    arm = run_of(A, y, "self_deblur", 12, **NET)[1]
    fit = lambda keeper: loop.fit(y, A, arm, 0, {}, keeper, lambda line: None)  # noqa: E731
    straight = fit(None)
    with pytest.raises(loop.Interrupted):
        fit(Stopper(tmp_path / "c.pt", after))
    resumed = fit(Stopper(tmp_path / "c.pt", 10**6))
    assert (resumed.image == straight.image).all() and torch.equal(resumed.artefacts["kernel"], straight.artefacts["kernel"])


def test_blind_lucy_climbs_the_likelihood():
    """Σ (k * x) − y log(k * x) falls in every update of either, and the kernel stays one."""
    A, y = problem(sigma=1)
    run, _ = run_of(A, y, "blind_lucy", 5, params={"inner": 2})
    m = run.method
    deviance = []
    for _ in range(5):
        mean = A.convolved(m.x, m.kernel).clamp(min=1e-6)
        deviance.append(float((mean - m.plane * mean.log()).double().sum()))
        run.step()
        assert float(m.kernel.sum()) == pytest.approx(1, abs=1e-5) and float(m.kernel.min()) >= 0
    assert all(b < a for a, b in zip(deviance, deviance[1:], strict=False))


def test_blind_lucy_rests_at_the_true_pair():
    A, y = problem()
    run, _ = run_of(A, y, "blind_lucy", 1)
    m = run.method
    m.x, m.kernel = torch.from_numpy(IMAGE).clone(), torch.from_numpy(KERNEL).clone()
    run.step()
    assert np.allclose(m.x, IMAGE, atol=1e-4) and np.allclose(m.kernel, KERNEL, atol=1e-4)


def of(arm, **acquisition):
    photos = {"reader": "samples", "acquisitions": {"blind": {"task": "deblur_blind"} | acquisition}}
    return studies_of({"study": "s", "datasets": {"photos": photos}, "arms": {"x": {"method": "self_deblur"} | arm}})


def studies_of(raw):
    try:
        study.load(raw)
    except StudyError as error:
        return error.problems
    return []


@pytest.mark.parametrize("arm, acquisition, said", [
    ({"stop": "holdout"}, {}, "without the kernel an image does not tell"), ({"precondition": 0.1}, {}, "allowed"),
    ({"block": {"slices": 2, "mode": "joint"}}, {}, "a kernel of its own"), ({}, {"holdout": 0.1}, "means nothing with task: deblur_blind"),
    ({"stop": {"discrepancy": {"sigma": 0.01}}}, {}, "without the kernel an image does not tell"),
])  # fmt: skip
def test_what_needs_the_kernel_is_refused(arm, acquisition, said):
    assert of({}) == []
    found = of(arm, **acquisition)
    assert len(found) == 1 and said in found[0], found
