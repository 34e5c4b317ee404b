"""Operators: adjoint, linearity, norm, restriction, weights, the written-out gradient; SENSE against BART."""

import copy
import json

import numpy as np
import pytest
import torch
from problems import disc_problem

from dipline import loop, registry, study
from dipline.calibrate import espirit
from dipline.physics import ct
from dipline.physics.base import DATA_TERMS, Operator
from dipline.physics.joint import Joint
from dipline.physics.sense import Sense


def operators(linear=True):
    for name in registry.plugins("physics"):
        A = loop.plugin_class("physics", name, Operator).example()
        if A.linear == linear:
            yield pytest.param(A, id=name)
    if linear:
        yield pytest.param(Sense.example(by_column=False), id="sense-points")
        yield from (pytest.param(joint(kind.example()), id=f"joint-{kind.__name__}") for kind in (Sense, ct.Tomography))


def joint(A):
    """Two slices, each with samples of its own."""
    keep = torch.ones(len(A.spare()), dtype=torch.bool)
    keep[:2] = False
    return Joint([A, A.restrict(keep)])


def draw(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=operators())
def A(request):
    return request.param


def name_of(A):
    """The plug-in that an operator is of, or that of a joint one's slices."""
    return type(A.each[0] if isinstance(A, Joint) else A).__module__.split(".")[-1]


def test_adjoint(A):
    x = draw(A.domain, A.dtype)
    y = draw(A(x).shape, A(x).dtype, 1)
    left, right = torch.vdot(y.flatten(), A(x).flatten()), torch.vdot(A.AT(y).flatten(), x.flatten())
    assert abs(left - right) < 1e-6 * A(x).norm() * y.norm(), "the products themselves may nearly cancel"


def test_linear(A):
    x, z = draw(A.domain, A.dtype), draw(A.domain, A.dtype, 1)
    assert torch.allclose(A(2 * x - 3 * z), 2 * A(x) - 3 * A(z), atol=1e-5)


def test_norm_is_at_most_one(A):
    x = draw(A.domain, A.dtype)
    for _ in range(50):
        x = A.AT(A(x / x.norm()))
    assert 0.5 < float(x.norm()) <= 1 + 1e-5


def test_gradient_equals_autograd_through_the_operator(A):
    """Of the image and, where a method asks, of the measurement."""
    x = draw(A.domain, A.dtype).requires_grad_()
    y = A(draw(A.domain, A.dtype, 1)).requires_grad_()
    ours = torch.autograd.grad(A.residual(x, y), (x, y))
    theirs = torch.autograd.grad((A(x) - y).abs().square().sum(), (x, y))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_restrict_keeps_exactly_the_samples(A):
    x = draw(A.domain, A.dtype)
    y = A(x)
    keep = torch.rand(y.shape[A.unit_axis], generator=torch.Generator().manual_seed(2)) < 0.6
    assert torch.equal(A.restrict(keep)(x), A.select(y, keep))
    assert A.select(y, ~keep).shape[A.unit_axis] == int((~keep).sum())


def test_weights(A):
    x = draw(A.domain, A.dtype)
    y = A(x)
    w = torch.rand(y.shape[A.unit_axis], generator=torch.Generator().manual_seed(3)) * 0.9 + 0.1
    w = w.view([-1 if axis == A.unit_axis % y.ndim else 1 for axis in range(y.ndim)])
    B = A.weighted(w)
    assert torch.allclose(B(x), w * y, atol=1e-6)
    assert torch.allclose(B.init(w * y), A.init(y), atol=1e-4), "the starting image does not depend on the weights"


def test_preconditioned(A):
    """The data go with the operator, which stays adjoint and within its norm; the starting image stays."""
    if {"precondition": "> 0"} in [settings for settings, _ in registry.get("physics", name_of(A)).get("REFUSES", ())]:
        with pytest.raises(NotImplementedError):
            A.preconditioned(A(draw(A.domain, A.dtype)), 0.1)
        return
    x = draw(A.domain, A.dtype)
    B, y = A.preconditioned(A(x), 0.1)
    assert torch.allclose(B(x), y, atol=1e-5) and not torch.allclose(y, A(x), atol=1e-2)
    z = draw(y.shape, y.dtype, 1)
    left, right = torch.vdot(z.flatten(), B(x).flatten()), torch.vdot(B.AT(z).flatten(), x.flatten())
    assert abs(left - right) < 1e-6 * B(x).norm() * z.norm()
    assert torch.allclose(B.init(y), A.init(A(x)), atol=1e-4)
    for _ in range(50):
        x = B.AT(B(x / x.norm()))
    assert float(x.norm()) <= 1 + 1e-5


def test_data_terms(A):
    """Those that the file names work, are 0 at the data and grow away from them; another is refused."""
    x = draw(A.domain, A.dtype).abs().to(A.dtype)
    y = A(x)
    kinds = registry.get("physics", name_of(A)).get("DATA_TERMS", DATA_TERMS)
    for kind in kinds:
        B, z = A.data_term(kind, y / 2, 2.0)
        assert float(B.residual(x / 2, z)) == pytest.approx(0, abs=1e-6) and float(B.residual(x, z)) > 1e-3
    with pytest.raises(ValueError, match="data_term: found 'huber', allowed.*least_squares"):
        A.data_term("huber", y, 1.0)


def test_scales(A):
    """99.9 % of the pixels of an image are below its scale; nothing has scale 1."""
    x = draw(A.domain, A.dtype)
    assert A.scale_of(3 * x) == pytest.approx(3 * A.scale_of(x), rel=1e-5)
    assert float((x.abs() > A.scale_of(x)).float().mean()) < 0.01 and A.scale_of(0 * x) == 1
    assert float((A.view(x).abs() > A.view_scale(x)).float().mean()) < 0.01


@pytest.fixture(params=operators(linear=False))
def nonlinear(request):
    return request.param


def test_nonlinear_gradient_is_that_of_finite_differences(nonlinear):
    """Along random directions, in double precision, of ‖A x − y‖²."""
    A = copy.deepcopy(nonlinear)
    A.weights, A.response = A.weights.double(), getattr(A, "response", torch.zeros(0)).to(torch.complex128)
    if hasattr(A, "model"):
        A.model.double()
    x = (draw(A.domain, torch.float64).abs() * 0.2 + 0.2).requires_grad_()
    y = A(x.detach().flip(-1)) * 0.9
    (gradient,) = torch.autograd.grad(A.residual(x, y), x)
    for seed in range(5):
        d = draw(A.domain, torch.float64, seed)
        with torch.no_grad():
            change = (A.residual(x + 1e-5 * d, y) - A.residual(x - 1e-5 * d, y)) / 2e-5
        assert float(change) == pytest.approx(float((gradient * d).sum()), rel=1e-5)


def test_nonlinear_restrict_keeps_exactly_the_samples(nonlinear):
    x = draw(nonlinear.domain, torch.float32).abs()
    y = nonlinear(x)
    keep = torch.rand(y.shape[-1], generator=torch.Generator().manual_seed(2)) < 0.6
    assert torch.equal(nonlinear.restrict(keep)(x), nonlinear.select(y, keep))


def test_view_is_real_and_of_the_shown_size(A):
    v = A.view(draw(A.domain, A.dtype))
    assert v.ndim == 2 or v.shape == A.domain, "one plane, or the colours of a photograph"
    assert not v.is_complex()


def test_joint_slices_are_those_of_their_operators():
    first, second = Sense.example(), Sense.example().restrict(torch.arange(Sense.example().index.numel()) % 2 == 0)
    A, x = Joint([first, second]), draw((2, 12, 15), torch.complex64)
    y = A(x)
    parts = A.parted(y)
    assert torch.equal(parts[0], first(x[:1])) and torch.equal(parts[1], second(x[1:]))
    assert torch.equal(A.init(y)[1:], second.init(parts[1])) and torch.equal(A.view(x)[1], second.view(x[1:]))
    assert torch.equal(A.consistent(x, y)[:1], first.consistent(x[:1], parts[0]))
    assert not hasattr(Joint([ct.Tomography.example()]), "consistent")
    z = draw(y.shape, y.dtype, 1)
    left = first.residual(x[:1], A.parted(z)[0]) + second.residual(x[1:], A.parted(z)[1])
    assert torch.allclose(A.residual(x, z), left) and A.frames == 2 and A.channels == 4


def naive(x, maps, mask):
    """The definition, shifts and all."""
    images = np.asarray(maps) * np.asarray(x)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images.sum(0), (-2, -1)), norm="ortho"), (-2, -1)) * mask


@pytest.mark.parametrize("shape", [(12, 15), (9, 8), (7, 7)])
@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("by_column", [True, False])
def test_sense_is_the_centred_orthonormal_fourier_transform(shape, sets, by_column):
    rng = np.random.default_rng(0)
    maps = (rng.standard_normal((sets, 3, *shape)) + 1j * rng.standard_normal((sets, 3, *shape))).astype(np.complex64)
    x = (rng.standard_normal((sets, *shape)) + 1j * rng.standard_normal((sets, *shape))).astype(np.complex64)
    mask = rng.random(shape[1] if by_column else shape) < 0.5
    A = Sense(torch.from_numpy(maps), torch.from_numpy(mask))
    kspace = naive(x[:, None], maps, mask)
    y = A(torch.from_numpy(x))
    assert np.allclose(A.kspace(y).numpy(), kspace, atol=1e-5)
    assert torch.allclose(A.samples(torch.from_numpy(kspace.astype(np.complex64))), y, atol=1e-5)


def test_data_consistency_returns_the_measured_samples():
    """With one coil of sensitivity 1 the acquired samples of the result are the measured ones, exactly."""
    mask = torch.arange(16) % 3 == 0
    A = Sense(torch.ones(1, 1, 12, 16, dtype=torch.complex64), mask)
    x, y = draw(A.domain, A.dtype), draw((1, 12, int(mask.sum())), torch.complex64, 1)
    assert torch.allclose(A(A.consistent(x, y)), y, atol=1e-5)
    unmeasured = A.restrict(~mask[A.index])  # nothing: all units are measured
    assert unmeasured(x).numel() == 0
    B, z = A.preconditioned(y, 0.1)
    assert torch.allclose(B.consistent(x, z), A.consistent(x, y), atol=1e-4)


def test_spare_leaves_the_centre_alone():
    A, y, _ = disc_problem(n=32)
    spare = A.spare()
    columns = A.index[~spare]
    assert set(range(12, 20)) <= set(columns.tolist()) and len(spare) == y.shape[-1]


@pytest.mark.parametrize("name", ["brain_gre_16ch", "synthetic_8ch_64"])
def test_tikhonov_solution_equals_bart_pics(name, shared):
    """The baseline ``sense`` on our operator against `bart pics -l2`."""
    vectors = np.load(shared / "reference" / f"espirit_{name}.npz")
    settings = json.loads((shared / "reference" / "espirit.json").read_text())["sets"][name]
    if "kspace" in vectors:
        kspace = vectors["kspace"]  # stored as it was solved
    else:
        import h5py

        with h5py.File(shared / "data" / "mri" / f"{name}.h5") as f:
            kspace = f["kspace"][0]
        kspace = kspace / np.abs(kspace).max()
    mask = vectors["mask_columns"].astype(bool)
    maps = vectors["maps_P"]
    if maps.shape != kspace.shape:  # stored decimated; test_espirit compares ours with them
        maps = espirit.espirit(kspace, (24, 24))[0][0]
    A = Sense(torch.from_numpy(maps)[None].to(torch.complex64), torch.from_numpy(mask))
    y = A.samples(torch.from_numpy((kspace * mask).astype(np.complex64)))
    given = {"method": "sense", "params": {"lam": settings["pics"]["lam"]}, "iterations": 100}
    arm = study.resolve(study.checked_arm(given))
    x = torch.from_numpy(loop.fit(y, A, arm, say=lambda line: None).image)
    theirs = torch.from_numpy(vectors["pics_l2"])
    phase = torch.vdot(x.flatten(), theirs.flatten())
    error = (x[0] * phase / phase.abs() - theirs).norm() / theirs.norm()
    assert error < 1e-4


def test_preconditioning_of_sense_by_formula():
    """√(s / (e + s)), e the energy of the ring of k-space relative to the largest."""
    A, y, _ = disc_problem(n=32)
    B, z = A.preconditioned(y, 0.05)
    ring = np.rint(abs(A.index.numpy() - 16) / 2).astype(int)
    energy = (y.abs() ** 2).mean((0, 1)).numpy()
    e = np.array([energy[ring == r].mean() for r in ring])
    weights = np.sqrt(0.05 / (e / e.max() + 0.05))
    assert np.allclose(B.weights, weights, rtol=1e-5) and np.allclose(z, y.numpy() * weights, atol=1e-6)
