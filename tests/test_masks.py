"""Masks, hold-out, noise and coil compression: how a full scan becomes a measurement."""

import json
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
import pytest

from dipline.acquire import masks, noise

VECTORS = json.loads((Path(__file__).parent / "reference" / "fastmri_masks.json").read_text())


def sampled(vector):
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(vector["hex"]), np.uint8))
    return bits[:vector["width"]].astype(bool)


def drawn(vector, seed):
    mask, n_low = masks.cartesian(vector["mask_type"], vector["width"], vector["accelerations"],
                                  vector["center_fractions"], seed, vector.get("offset"),
                                  vector.get("allow_any_combination", False))
    if "padding" in vector:  # columns that the scanner never measured
        first, last = vector["padding"]
        mask &= (np.arange(len(mask)) >= first) & (np.arange(len(mask)) < last)
    return mask, n_low


@pytest.mark.parametrize("kind", masks.KINDS)
def test_equals_fastmri_bit_for_bit(kind):
    chosen = [v for v in VECTORS if v["mask_type"] == kind and "constructor_seed" not in v]
    assert len(chosen) > 60 and any("padding" in v for v in chosen)
    for vector in chosen:
        mask, n_low = drawn(vector, vector["seed"] if "seed" in vector else masks.seed_of(vector["filename"]))
        assert np.array_equal(mask, sampled(vector)) and n_low == vector["num_low_frequencies"], vector


def test_one_generator_drawn_from_repeatedly_equals_fastmri():
    series = [v for v in VECTORS if "constructor_seed" in v]

    def start(vector):
        return [vector[k] for k in ("mask_type", "width", "accelerations", "center_fractions", "constructor_seed")]

    assert {v["call_number"] for v in series} == {0, 1, 2}
    for _, calls in groupby(series, start):
        calls = list(calls)
        rng = np.random.RandomState(calls[0]["constructor_seed"])
        for number, vector in enumerate(calls):
            assert vector["call_number"] == number
            assert np.array_equal(drawn(vector, rng)[0], sampled(vector)), vector


def test_masks_leave_the_global_generator_alone():
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    for kind in masks.KINDS:
        masks.cartesian(kind, 128, 4, 0.08, 0)
    masks.gaussian((32, 32), 4, 0.1, 0)
    masks.poisson((32, 32), 4, (4, 4), 0)
    assert np.random.random() == expected


@pytest.mark.parametrize(("arguments", "message"), [
    (("randm", 128, 4, 0.08, 0), "'randm', allowed: random, equispaced"),
    (("random", 128, 0.5, 0.08, 0), "found 0.5"),
    (("equispaced", 128, 2.5, 0.08, 0), "found 2.5"),
    (("equispaced_fraction", 128, 8, 0.2, 0), "lower center_fraction"),
    (("random", 128, [4, 8], 0.08, 0), "2 and 1 values"),
])
def test_cartesian_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        masks.cartesian(*arguments)


@pytest.mark.parametrize("make", [
    lambda seed: masks.poisson((48, 40), 6, (8, 6), seed),
    lambda seed: masks.gaussian((48, 40), 6, 0.2, seed),
    lambda seed: masks.gaussian(192, 4, 0.08, seed),
], ids=["poisson", "gaussian points", "gaussian columns"])
def test_variable_density(make):
    mask, again, other = make(3), make(3), make(4)
    assert np.array_equal(mask, again) and not np.array_equal(mask, other)
    assert mask.sum() == round(mask.size / (4 if mask.ndim == 1 else 6))
    offsets = [(i - n // 2) / n for i, n in zip(np.indices(mask.shape), mask.shape, strict=True)]
    distance = np.linalg.norm(offsets, axis=0)
    near, far = (mask[(distance > a) & (distance < b)].mean() for a, b in ((0.15, 0.28), (0.35, 0.48)))
    assert near > 1.3 * far
    assert np.all(np.array(masks.centre_columns(mask)) >= ([8, 6] if mask.ndim == 2 else 15))


def test_poisson_points_keep_their_distance():
    mask = masks.poisson((64, 64), 10, (8, 8), 0)
    mask[26:38, 26:38] = False
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns) + 100 * np.eye(len(rows))
    assert distance.min() > 1  # no two neighbours; a random mask of this density has hundreds
    assert np.median(distance.min(0)) > 2


def test_poisson_32_at_acceleration_12_returns():
    """SigPy's search for the density never ends here (32 x 32, acceleration 12). A job would hang to its time limit."""
    assert masks.poisson((32, 32), 12, (4, 4), 0).sum() == round(32 * 32 / 12)


def test_unreachable_accelerations_are_errors():
    with pytest.raises(ValueError, match="asks for 51 samples, possible are 64"):
        masks.poisson((32, 32), 20, (8, 8), 0)
    with pytest.raises(ValueError, match="asks for 1024 samples"):
        masks.poisson((32, 32), 1, (8, 8), 0)
    with pytest.raises(ValueError, match="the centre alone has 40"):
        masks.gaussian(200, 8, 0.2, 0)


def write(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, mask=values)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["mask"] = values
    else:
        np.savetxt(path, values, fmt="%d", delimiter="," if path.suffix == ".csv" else " ")
    return path


@pytest.mark.parametrize("suffix", masks.SUFFIXES)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_mask_from_file(tmp_path, suffix, dtype):
    columns, points = masks.cartesian("random", 20, 4, 0.2, 0)[0], masks.gaussian((12, 20), 3, 0.2, 0)
    for mask in (columns, points):
        read = masks.from_file(write(tmp_path / f"m{suffix}", mask.astype(dtype)), (12, 20))
        assert read.dtype == bool and np.array_equal(read, mask)
    whole_columns = write(tmp_path / f"w{suffix}", np.tile(columns, (12, 1)).astype(dtype))
    assert np.array_equal(masks.from_file(whole_columns, (12, 20)), columns)


def test_mask_from_file_names_file_found_and_allowed(tmp_path):
    ones = np.ones(20)
    (tmp_path / "words.csv").write_text("yes,no\n")
    np.savez(tmp_path / "key.npz", sampling=ones)
    with h5py.File(tmp_path / "key.h5", "w") as file:
        file["kspace"] = ones
    cases = {
        write(tmp_path / "shape.npy", np.ones(12)): r"shape \(12,\), allowed: \(20,\) or \(12, 20\)",
        write(tmp_path / "value.npy", ones * 0.5): "value 0.5, allowed: 0 and 1",
        write(tmp_path / "nan.npy", ones * np.nan): "value nan",
        write(tmp_path / "zero.npy", ones * 0): "0 everywhere",
        tmp_path / "words.csv": "not readable",
        tmp_path / "key.npz": r"\['sampling'\], allowed: one named mask",
        tmp_path / "key.h5": r"\['kspace'\], allowed: one named mask",
        tmp_path / "absent.npy": "absent.npy",
        tmp_path / "mask.mat": r"'.mat', allowed: .npy, .npz",
        tmp_path / "half.npz": "not readable",
        tmp_path / "group.h5": "not readable",
    }
    (tmp_path / "half.npz").write_bytes((tmp_path / "key.npz").read_bytes()[:60])
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("mask")
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            masks.from_file(path, (12, 20))
        assert str(path) in str(caught.value)


def test_a_mask_file_is_checked_without_a_scan(tmp_path):
    masks.from_file(write(tmp_path / "columns.npy", np.arange(20) % 2))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\), allowed: \(columns,\) or \(rows, columns\)"):
        masks.from_file(write(tmp_path / "cube.npy", np.ones((2, 3, 4))))
    with pytest.raises(ValueError, match="0 everywhere"):
        masks.from_file(write(tmp_path / "zero.npy", np.zeros(20)))


@pytest.mark.parametrize("width", [128, 187, 320])
@pytest.mark.parametrize("seed", range(3))
def test_centre_columns_holds_the_requested_centre(width, seed):
    mask, n_low = masks.cartesian("equispaced_fraction", width, 8, 0.04, seed)
    found = masks.centre_block(mask)[1]
    start = (width - n_low + 1) // 2
    assert found.start <= start and found.stop >= start + n_low and mask[found].all()
    assert not mask[found.start - 1] and not mask[found.stop]
    assert masks.centre_columns(mask) == found.stop - found.start
    assert masks.centre_columns(np.tile(mask, (30, 1))) == (30, found.stop - found.start)


def test_centre_columns_of_points_and_of_nothing():
    mask = np.zeros((40, 31), bool)
    mask[14:26, 12:19] = True
    mask[13, 15] = True
    assert masks.centre_columns(mask) == (12, 7)
    mask[20, 15] = False
    assert masks.centre_columns(mask) == (0, 0)
    assert masks.centre_columns(np.zeros(8, bool)) == 0
    assert masks.centre_columns(np.ones(8, bool)) == 8


@pytest.mark.parametrize("mask", [masks.cartesian("random", 187, 4, 0.08, 1)[0], masks.gaussian((50, 41), 4, 0.2, 1)],
                         ids=["columns", "points"])
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.3])
def test_hold_out(mask, fraction):
    kept, held = masks.hold_out(mask, fraction, np.random.default_rng(0))
    assert np.array_equal(kept | held, mask) and not (kept & held).any()
    centre = masks.centre_block(mask)[-mask.ndim:]
    assert kept[centre].all()
    assert held.sum() == max(1, round(fraction * mask.sum()))
    assert np.array_equal(held, masks.hold_out(mask, fraction, np.random.default_rng(0))[1])
    assert not np.array_equal(held, masks.hold_out(mask, fraction, np.random.default_rng(1))[1])


def test_five_percent_are_of_all_acquired_samples():
    """The share was taken of the samples outside the centre alone. With a wide centre, "5 % of the acquired samples" were 2 %."""
    mask = np.arange(200) % 4 == 0
    mask[70:130] = True
    assert mask.sum() == 95 and masks.hold_out(mask, 0.1, np.random.default_rng(0))[1].sum() == 10


def test_hold_out_with_nothing_to_take_is_an_error():
    mask = np.zeros(64, bool)
    mask[27:37] = True
    with pytest.raises(ValueError, match="none can be held out"):
        masks.hold_out(mask, 0.1, np.random.default_rng(0))
    mask[::8] = True
    with pytest.raises(ValueError, match="0.9 of the acquired samples are 15, but only 7 lie outside"):
        masks.hold_out(mask, 0.9, np.random.default_rng(0))
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            masks.hold_out(mask, fraction, np.random.default_rng(0))


@pytest.fixture
def kspace():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((2, 8, 64, 60)) * 10.0 ** rng.uniform(-7, -5, (8, 64, 60))
    return ((values[0] + 1j * values[1]) * (rng.random(60) < 0.4)).astype(np.complex64)


@pytest.mark.parametrize("snr", [5, 30])
def test_noise_has_the_requested_snr(kspace, snr):
    noisy = noise.add_noise(kspace, snr, np.random.default_rng(0))
    added, acquired = (noisy - kspace), kspace != 0
    assert noisy.dtype == kspace.dtype and not noisy[~acquired].any()
    power = np.mean(np.abs(kspace[acquired]) ** 2)
    assert 10 * np.log10(power / np.mean(np.abs(added[acquired]) ** 2)) == pytest.approx(snr, abs=0.1)
    assert np.mean(added[acquired].real ** 2) == pytest.approx(np.mean(added[acquired].imag ** 2), rel=0.05)
    assert abs(np.mean(added[acquired] ** 2)) < 0.05 * np.mean(np.abs(added[acquired]) ** 2)  # circular


def test_a_mask_does_not_change_the_noise(kspace):
    """At equal power of the samples: noise is drawn for every position, acquired or not."""
    full = np.exp(1j * np.angle(kspace + 1e-5)).astype(np.complex64)
    mask = np.arange(60) % 3 == 0
    a = noise.add_noise(full, 20, np.random.default_rng(0)) - full
    b = noise.add_noise(full * mask, 20, np.random.default_rng(0)) - full * mask
    assert np.allclose(a * mask, b, rtol=0, atol=1e-6) and np.abs(a).max() > 0.1
    with pytest.raises(ValueError, match="no acquired"):
        noise.add_noise(0 * full, 20, np.random.default_rng(0))


def test_coil_compression(kspace):
    mixing = np.random.default_rng(2).standard_normal((8, 8)) * 0.3 ** np.arange(8)
    kspace = np.einsum("cd,drw->crw", mixing, kspace).astype(np.complex64)
    samples = kspace.reshape(8, -1)
    singular = np.linalg.svd(samples.astype(complex), compute_uv=False)
    energies = []
    for n in range(1, 9):
        matrix = noise.compression_matrix(samples, n)
        assert np.allclose(matrix @ matrix.conj().T, np.eye(n), atol=1e-12)
        compressed = noise.compress_coils(kspace, matrix)
        assert compressed.shape == (n, 64, 60) and compressed.dtype == np.complex64
        energies.append(np.linalg.norm(compressed) ** 2)
        assert energies[-1] == pytest.approx(np.sum(singular[:n] ** 2), rel=1e-5)  # no matrix of n rows keeps more
    restored = noise.compress_coils(compressed, matrix.conj().T)
    assert np.allclose(restored, kspace, rtol=0, atol=1e-6 * np.abs(kspace).max())
    assert np.array_equal(noise.compress_coils(kspace[None], matrix)[0], compressed)
    for n in (0, 9):
        with pytest.raises(ValueError, match="allowed: 1 to 8"):
            noise.compression_matrix(samples, n)
