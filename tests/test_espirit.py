"""ESPIRiT against BART and SigPy, and the policy for narrow centres on a real scan."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dipline.acquire import masks
from dipline.calibrate.espirit import calibrate, espirit

HERE = Path(__file__).parent / "reference"
SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="full set of reference vectors not here")


def deviation(maps, reference, where):
    """Per pixel of `where` the largest difference of a coil, after the common phase is aligned."""
    product = np.sum(maps * reference.conj(), axis=0)
    aligned = reference * np.exp(1j * np.angle(product))
    return np.abs(maps - aligned).max(axis=0)[where]


def support(maps):
    return np.any(maps != 0, axis=-3)


def span(maps):
    return np.einsum("scrw,sdrw->cdrw", maps, maps.conj())


@pytest.fixture(scope="module")
def bart():
    """name -> (k-space that holds only its 24 x 24 centre, stored BART results)."""
    found = {}
    for path in HERE.glob("espirit_*.npz"):
        with np.load(path) as file:
            stored = dict(file)
        shape = tuple(stored["shape"])
        kspace = np.zeros(shape, np.complex64)
        kspace[:, shape[1] // 2 - 12:shape[1] // 2 + 12, shape[2] // 2 - 12:shape[2] // 2 + 12] = stored["centre"]
        found[path.stem.removeprefix("espirit_")] = kspace, stored
    return found


@pytest.fixture(scope="module")
def brain():
    with h5py.File(SHARED / "data/mri/brain_gre_16ch.h5") as file:
        return file["kspace"][0]


# name, bound of the 99th percentile: where eigenvalues nearly coincide BART's 30 iterations have not converged
@pytest.mark.parametrize(("name", "tail"), [("brain_gre_16ch", 1e-5), ("synthetic_8ch_64", 0.15)])
def test_equals_bart(bart, name, tail):
    kspace, stored = bart[name]
    maps, eigenvalues = espirit(kspace, (24, 24), sets=2)
    step = int(stored["step"])
    maps, eigenvalues, reference = maps[:, :, ::step, ::step], eigenvalues[:, ::step, ::step], stored["maps"]
    inside = support(reference)
    assert np.array_equal(support(maps[0]), inside)
    found = deviation(maps[0], reference, inside)
    assert np.median(found) <= 1e-6 and np.percentile(found, 99) <= tail
    clear = inside & (eigenvalues[0] - eigenvalues[1] > 0.3)
    assert clear.sum() > 0.9 * inside.sum() and deviation(maps[0], reference, clear).max() < 3e-4
    assert np.abs(maps[0] - reference)[:, clear].max() < 3e-4  # phase of coil 0 is taken as zero in both
    assert np.percentile(np.abs(eigenvalues[0] - stored["eigenvalue"])[clear], 99) < 1e-5


def test_two_sets_span_what_barts_two_sets_span(bart):
    kspace, stored = bart["synthetic_8ch_64"]
    maps, eigenvalues = espirit(kspace, (24, 24), sets=2)
    step = int(stored["step"])
    maps, reference = maps[:, :, ::step, ::step], stored["maps2"]
    assert np.array_equal(support(maps), support(reference))
    second = support(reference)[1]
    assert second.sum() >= 5
    assert np.abs(span(maps) - span(reference)).max(axis=(0, 1))[second].max() < 1e-5
    assert np.abs(np.sum(maps[0].conj() * maps[1], axis=0)).max() < 1e-6
    found = np.abs(eigenvalues[:, ::step, ::step] - stored["eigenvalue2"])
    assert np.median(found) < 1e-6 and np.percentile(found, 98) < 2e-3


@needs_shared
@pytest.mark.parametrize(("name", "tail"), [("brain_poisson_8ch", 1e-2), ("brain_gre_16ch", 1e-5)])
def test_equals_bart_on_whole_scans(name, tail):
    with h5py.File(SHARED / f"data/mri/{name}.h5") as file:
        kspace = file["kspace"][0]
        mask = file["mask"][()] > 0 if "mask" in file else np.ones(kspace.shape[1:], bool)
    with np.load(SHARED / f"reference/espirit_{name}.npz") as stored:
        reference, step = stored["maps_P"], int(stored["decimation"])
    maps, info = calibrate(kspace, mask)
    assert (info["kernel"], info["rows"], info["columns"], info["crop"], info["warnings"]) == (6, 24, 24, 0.8, [])
    inside = support(reference)
    assert np.mean(support(maps[0])[::step, ::step] != inside) < 1e-3
    found = deviation(maps[0, :, ::step, ::step], reference, inside & support(maps[0])[::step, ::step])
    assert np.median(found) <= 1e-6 and np.percentile(found, 99) <= tail


def test_equals_sigpy_at_matched_settings(bart):
    app = pytest.importorskip("sigpy.mri.app")
    kspace, _ = bart["synthetic_8ch_64"]
    theirs = app.EspiritCalib(kspace, calib_width=24, thresh=0.001 ** 0.5, kernel_width=6, crop=0.8, max_iter=100,
                              show_pbar=False).run()
    ours, _ = espirit(kspace, (24, 24))
    inside = support(theirs)
    assert np.mean(support(ours[0]) != inside) < 1e-3
    found = deviation(ours[0], theirs, inside & support(ours[0]))
    assert np.median(found) <= 2e-7 and np.percentile(found, 99) <= 1e-2


def test_maps_have_unit_norm_inside_and_are_zero_outside(bart):
    kspace, _ = bart["synthetic_8ch_64"]
    maps, eigenvalues = espirit(kspace, (24, 24), crop=0.9, sets=2)
    assert maps.dtype == np.complex64 and maps.shape == (2, 8, 64, 64) and eigenvalues.shape == (2, 64, 64)
    norm = np.sum(np.abs(maps) ** 2, axis=1)
    inside = eigenvalues >= 0.9
    assert 0 < inside[1].sum() < inside[0].sum() < inside[0].size
    assert np.allclose(norm[inside], 1, atol=1e-5) and not norm[~inside].any()
    assert eigenvalues.max() < 1 + 1e-5 and eigenvalues.min() >= -1e-6
    assert np.abs(maps[:, 0].imag).max() < 1e-6 and maps[:, 0].real.min() >= 0


def test_scale_and_global_phase_of_the_scan_do_not_matter(bart):
    kspace, _ = bart["synthetic_8ch_64"]
    expected, _ = espirit(kspace, (24, 24))
    found, _ = espirit(kspace * np.complex64(1e-6j), (24, 24))
    inside = support(expected[0]) & support(found[0])
    assert inside.mean() > 0.7
    assert np.median(deviation(found[0], expected[0], inside)) < 1e-6


def unexplained(kspace, maps):
    """Share (amplitude) of the coil images of the full scan that the maps cannot describe, in the foreground."""
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (1, 2))), (1, 2))
    rss = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    rest = images - maps * np.sum(maps.conj() * images, axis=0)
    foreground = rss > 0.1 * np.percentile(rss, 99)
    return np.linalg.norm(rest[:, foreground]) / np.linalg.norm(rss[foreground])


def narrow_mask(width, n):
    """An equispaced_fraction mask, acceleration 4, of exactly n centre columns (no sampled column beside them)."""
    for offset in range(12):
        mask, _ = masks.cartesian("equispaced_fraction", width, 4, n / width, 0, offset=offset)
        if masks.centre_columns(mask) == n:
            return mask
    raise AssertionError(n)


# n and the share allowed; the full 24 x 24 centre leaves 0.103, a blind 24 x 24 cut 0.17 at n = 10 and 0.32 at n = 5
@needs_shared
@pytest.mark.parametrize(("n", "allowed"), [(14, 0.106), (10, 0.108), (8, 0.112), (6, 0.125), (4, 0.18)])
def test_narrow_centres_of_a_real_scan(brain, n, allowed):
    mask = narrow_mask(brain.shape[2], n)
    maps, info = calibrate(brain * mask, mask)
    found = unexplained(brain, maps[0])
    blind, _ = espirit(brain * mask, (24, 24), crop=0)
    assert found <= allowed and found < 0.95 * unexplained(brain, blind[0])
    assert (info["rows"], info["columns"], info["kernel"]) == (64, n, 6 if n >= 12 else 4)
    assert (info["crop"] == 0.8 and info["coverage"] > 0.9) if n >= 12 else info["coverage"] >= 0.99
    assert bool(info["warnings"]) == (n < 8)
    assert all(f"only {n} " in text for text in info["warnings"])


@pytest.fixture(scope="module")
def smooth_scan():
    """A disc seen by six smooth coils: k-space (6, 96, 80) with a little noise, and the true maps of unit norm."""
    rng = np.random.default_rng(0)
    y, x = (np.arange(96) - 48)[:, None] / 48, (np.arange(80) - 40)[None] / 40
    angles = 2 * np.pi * np.arange(6)[:, None, None] / 6
    coils = np.exp(-((y - np.sin(angles)) ** 2 + (x - np.cos(angles)) ** 2) / 1.5 + 1j * (angles + y * np.cos(angles)))
    coils = coils / np.linalg.norm(coils, axis=0)
    disc = (y ** 2 + x ** 2 < 0.6) * (1 + 0.5 * np.cos(9 * x) * np.cos(7 * y))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coils * disc, (1, 2)), norm="ortho"), (1, 2))
    kspace = kspace + 0.005 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return kspace.astype(np.complex64), coils, disc > 0


@pytest.mark.parametrize(("n", "allowed"), [(24, 0.02), (16, 0.02), (10, 0.03), (8, 0.04), (6, 0.08), (4, 0.3)])
def test_narrow_centres_find_the_true_maps(smooth_scan, n, allowed):
    kspace, truth, disc = smooth_scan
    mask = np.zeros(80, bool)
    mask[40 - n // 2:40 + n // 2] = True
    maps, info = calibrate(kspace * mask, mask)
    assert support(maps[0])[disc].mean() > 0.98
    assert np.median(deviation(maps[0], truth, disc & support(maps[0]))) < allowed
    assert info["columns"] == n and info["rows"] == (24 if n >= 24 else 64)


def test_the_centre_of_a_point_mask_is_a_block_both_ways(smooth_scan):
    kspace, truth, disc = smooth_scan
    mask = masks.poisson(kspace.shape[1:], 6, (16, 10), 0)
    rows, columns = masks.centre_columns(mask)
    maps, info = calibrate(kspace * mask, mask)
    assert (info["rows"], info["columns"]) == (rows, columns) and info["kernel"] == 4
    assert np.median(deviation(maps[0], truth, disc & support(maps[0]))) < 0.04


def test_data_outside_the_centre_are_not_used(smooth_scan):
    kspace, _, _ = smooth_scan
    mask = masks.cartesian("equispaced_fraction", 80, 4, 0.125, 0)[0]
    maps, _ = calibrate(kspace * mask, mask)
    centre = np.zeros(80, bool)
    centre[masks.centre_block(mask)[1]] = True
    assert np.array_equal(maps, calibrate(kspace * centre, mask)[0])


def test_what_cannot_be_calibrated_is_an_error_that_says_what_to_do(smooth_scan):
    kspace, _, _ = smooth_scan
    mask = np.zeros(80, bool)
    mask[39:42] = True
    with pytest.raises(ValueError, match="found 3 .* at least 4 .* center_fraction"):
        calibrate(kspace, mask)
    with pytest.raises(ValueError, match="found 0 "):
        calibrate(kspace, ~mask)
    with pytest.raises(ValueError, match="zero or holds NaN"):
        calibrate(0 * kspace, np.ones(80, bool))
    with pytest.raises(ValueError, match="zero or holds NaN"):
        calibrate(kspace * np.nan, np.ones(80, bool))
    with pytest.raises(ValueError, match="24x5, needed: at least 6"):
        espirit(kspace, (24, 5))
    with pytest.raises(ValueError, match="7 sets, allowed: 1 to 6"):
        espirit(kspace, (24, 24), sets=7)
