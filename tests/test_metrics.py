"""Metrics: fastMRI's evaluate.py decides the first three, hand-made cases the rest."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dipline import metrics

HERE = Path(__file__).parent / "reference"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference"
CASES = json.loads((HERE / "fastmri_metrics.json").read_text())


def check(image, reference, expected):
    ranges = [(reference.max(), expected), (expected["with_maxval"]["maxval"], expected["with_maxval"])]
    assert metrics.nmse(image, reference) == pytest.approx(expected["nmse"], rel=1e-5)
    for data_range, values in ranges:
        psnr = float("inf") if values["psnr"] is None else values["psnr"]
        assert metrics.psnr(image, reference, data_range) == pytest.approx(psnr, rel=1e-5)
        assert metrics.ssim(image, reference, data_range) == pytest.approx(values["ssim"], rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_equals_fastmri(name):
    with np.load(HERE / "fastmri_metrics.npz") as arrays:
        check(arrays[CASES[name]["pred"]], arrays[CASES[name]["gt"]], CASES[name])


@pytest.mark.skipif(not SHARED.exists(), reason="full set of reference vectors not here")
@pytest.mark.parametrize("name", ["structured_noise_float64", "tiny_scale", "identical"])
def test_equals_fastmri_full_set(name):
    expected = json.loads((SHARED / "fastmri_metrics.json").read_text())["results"][name]
    with np.load(SHARED / "fastmri_metrics.npz") as arrays:
        check(arrays[f"{name}_pred"], arrays[f"{name}_gt"], expected)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    reference = rng.random((3, 40, 36))
    return reference + 0.1 * rng.standard_normal(reference.shape), reference


def test_volume_is_not_the_mean_of_slices_but_slices_work_alone(pair):
    image, reference = pair
    image[0] += 0.5
    slices = [metrics.psnr(x, r, 1.0) for x, r in zip(image, reference, strict=True)]
    assert metrics.psnr(image, reference, 1.0) < np.mean(slices) - 1
    assert metrics.psnr(image, reference, 1.0) == pytest.approx(-10 * np.log10(np.mean(10 ** (-np.array(slices) / 10))))
    assert metrics.ssim(image, reference, 1.0) == pytest.approx(
        np.mean([metrics.ssim(x, r, 1.0) for x, r in zip(image, reference, strict=True)]))


def test_identical_images(pair):
    _, reference = pair
    assert metrics.psnr(reference, reference, 1.0) == float("inf")
    assert metrics.ssim(reference, reference, 1.0) == pytest.approx(1)
    assert all(metric(reference, reference) == 0 for metric in (metrics.nmse, metrics.hfen, metrics.rmse))


def test_rmse_keeps_the_unit():
    assert metrics.rmse(np.full((8, 8), -990.0), np.full((8, 8), -1000.0)) == pytest.approx(10)


def test_log_kernel_is_a_laplacian():
    """A Laplacian gives 4 on x^2 + y^2 (up to the removed mean) and 0 on a plane and a constant."""
    kernel, axis = metrics.log_kernel(), np.arange(15) - 7
    assert kernel.shape == (15, 15)
    assert kernel.sum() == pytest.approx(0, abs=1e-15)
    assert np.array_equal(kernel, kernel.T) and np.allclose(kernel, kernel[::-1])
    assert np.argmin(kernel) == 7 * 15 + 7
    assert (kernel * (axis[:, None] ** 2 + axis ** 2)).sum() == pytest.approx(4, rel=0.01)
    assert (kernel * axis).sum() == pytest.approx(0, abs=1e-12)


def test_hfen_follows_its_formula(pair):
    from scipy.signal import convolve2d
    image, reference = pair

    def log(x):
        return convolve2d(np.pad(x, 7, mode="edge"), metrics.log_kernel(), mode="valid")

    expected = np.linalg.norm(log(image[0]) - log(reference[0])) / np.linalg.norm(log(reference[0]))
    assert metrics.hfen(image[0], reference[0]) == pytest.approx(expected)


def test_hfen_sees_edges_not_offsets(pair):
    from scipy.ndimage import gaussian_filter
    _, reference = pair
    assert metrics.hfen(reference + 1000, reference) == pytest.approx(0, abs=1e-9)
    assert metrics.hfen(0 * reference, reference) == pytest.approx(1)
    assert metrics.hfen(gaussian_filter(reference, (0, 2, 2)), reference) > 0.5


def test_undefined_is_nan_and_misuse_is_an_error(pair):
    image, reference = pair
    assert np.isnan(metrics.nmse(image, 0 * reference)) and np.isnan(metrics.hfen(image, 0 * reference))
    with pytest.raises(ValueError, match="equal shapes"):
        metrics.psnr(image[0], reference, 1.0)
    with pytest.raises(ValueError, match="magnitude"):
        metrics.nmse(image + 0j, reference)
    with pytest.raises(ValueError, match="data_range: found 0"):
        metrics.ssim(image, reference, 0)


def test_modules_import_neither_torch_nor_skimage():
    code = ("import sys, dipline.metrics, dipline.acquire.masks, dipline.acquire.noise, dipline.calibrate.espirit;"
            "sys.exit('torch' in sys.modules or 'skimage' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
