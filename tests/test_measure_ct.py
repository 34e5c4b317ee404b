"""What a CT measurement holds, row by row: views and their angles, photons and electronic noise, held-out views, scores."""

import numpy as np
import pytest

from dipline import measure_ct, score, study
from dipline.acquire import views
from dipline.hounsfield import AIR, to_mu
from dipline.physics import ct
from dipline.readers.base import Scan

N, PIXEL = 24, 8.0
CLEAN = {"views": 15, "range": 180}


def scan(slices=(3, 7), lowest=-1000.0):
    """A body of water with a bone, in as many slices that differ in the bone's place; the corners are below air."""
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    images = []
    for s in slices:
        hu = np.where(x**2 + y**2 < 0.5, 0.0, lowest)
        hu[(x - 0.05 * s) ** 2 + (y + 0.2) ** 2 < 0.04] = 800
        images.append(hu.astype(np.float32))
    return Scan("ct", np.stack(images), list(slices), (N, N), voxel=(PIXEL, PIXEL, 5.0))


def measured(volume="patient", given=None, **acquisition):
    acq = study.Projections(**(CLEAN | acquisition)).model_dump()
    return measure_ct.measured(given or scan(), "scan.dcm", volume, {"acq": acq})


def clean(hu, angles, oversample=2, **acquisition):
    """The line integrals of an image at given angles."""
    g = views.geometry(hu.shape, PIXEL, **study.Projections(**(CLEAN | acquisition)).model_dump())
    return views.project(to_mu(np.maximum(hu, AIR)), g | {"angles": np.asarray(angles)}, oversample)


FAN = {"geometry": "fanflat", "scanner": "aapm", "range": 360, "start": 20}


@pytest.mark.parametrize("more", [{}, FAN, {"layout": "random", "seed": 4}], ids=["parallel", "fan", "random"])
def test_rows_are_the_projections_at_their_angles(more):
    """The kept views were replaced by the first ones and no test saw it: rows that do not belong to their angles."""
    content, shared, (kept, held), found = measured(holdout=0.2, **more)
    every = views.geometry((N, N), PIXEL, **study.Projections(**(CLEAN | more)).model_dump())["angles"]
    assert len(shared["angles"]) == 12 and len(held["angles"]) == 3
    assert sorted([*shared["angles"], *held["angles"]]) == sorted(every)
    assert sorted(held["angles"]) not in (sorted(every[:3]), sorted(every[-3:])), "drawn, not taken from an end"
    for s, hu in zip((3, 7), scan().data, strict=True):
        assert np.allclose(content[s]["sinogram"], clean(hu, shared["angles"], **more), atol=1e-5)
        assert np.allclose(kept[s]["sinogram"], clean(hu, held["angles"], **more), atol=1e-5)
        A, y = ct.build(shared | content[s])
        assert y.shape[0] == 12 and set(content[s]) == {"sinogram"}
    assert found["views"] == 15 and found["pixel_mm"] == PIXEL and found["units"] == "HU"


def test_held_out_rows_come_with_their_counts():
    content, shared, (kept, held), _ = measured(holdout=0.2, photons=1e6)
    for s, hu in zip((3, 7), scan().data, strict=True):
        for rows, angles in ((content[s], shared["angles"]), (kept[s], held["angles"])):
            assert np.allclose(rows["counts"], 1e6 * np.exp(-clean(hu, angles)), rtol=0.02)
            assert np.allclose(rows["sinogram"], -np.log(rows["counts"] / 1e6), atol=1e-5)


def test_without_holdout_nothing_is_kept():
    _, shared, (kept, held), _ = measured()
    assert len(shared["angles"]) == 15 and kept == held == {}


@pytest.mark.parametrize("photons, electronic", [(1e4, 0.0), (1e4, 60.0), (1e5, 0.0)])
def test_noise_has_the_variance_of_its_photons(photons, electronic):
    """Var(ln counts) = 1/N + σ²/N² with N = I₀ e^−p: ten times the photons, and electronic noise that was left out, passed unseen."""
    content, shared, _, found = measured(views=400, photons=photons, electronic_noise=electronic)
    for s, hu in zip((3, 7), scan().data, strict=True):
        p = clean(hu, shared["angles"], views=400).astype(float)
        n = photons * np.exp(-p)
        z = (content[s]["sinogram"] - p) / np.sqrt(1 / n + electronic**2 / n**2)
        assert z.size > 10_000 and z.std() == pytest.approx(1, rel=0.03) and abs(z.mean()) < 0.1
    assert found["photons"] == photons


def test_every_slice_has_noise_of_its_own():
    """One slice, three times over: equal noise would make neighbours agree where they should differ."""
    one = scan((3,)).data[0]
    same = Scan("ct", np.stack([one, one, one]), [3, 7, 8], (N, N), voxel=(PIXEL, PIXEL, 5.0))
    content, shared, *_ = measured(given=same, views=100, photons=1e4)
    errors = [(content[s]["sinogram"] - clean(one, shared["angles"], views=100)).ravel() for s in (3, 7, 8)]
    assert np.abs(np.corrcoef(errors) - np.eye(3)).max() < 0.05


def test_noise_and_held_out_views_follow_volume_and_seed_alone():
    """Not the slices that happen to be chosen: slice 7 is the same with and without slice 3."""
    noisy = {"photons": 1e4, "holdout": 0.2}
    both, alone = measured(**noisy), measured(given=scan((7,)), **noisy)
    assert (both[0][7]["sinogram"] == alone[0][7]["sinogram"]).all() and (both[1]["angles"] == alone[1]["angles"]).all()
    for other in (measured("another", **noisy), measured(seed=1, **noisy)):
        assert not np.array_equal(other[0][7]["sinogram"], both[0][7]["sinogram"])


@pytest.mark.parametrize(
    "more, seen",
    [({"detectors": 10}, 80), ({"detectors": 10, "detector_width": 20.0}, 200), (FAN | {"detectors": 40, "detector_width": 4.0}, 87.46)],
)
def test_a_detector_that_does_not_cover_the_image_is_told(more, seen):
    """One cell was taken without a word, and filtered back-projection gave −1001 HU everywhere."""
    found = measured(**more)[3]
    assert found["limits"] == ["truncated"]
    assert found["warnings"] == [f"truncated: the detector sees a circle of {seen:g} mm, the image has a diagonal of 271.5 mm"]
    assert study.Projections(**(CLEAN | more)).words(found["limits"])[-1] == "truncated"
    assert measured(**(more | {"detectors": 160}))[3]["limits"] == []
    assert measured()[3]["limits"] == measured(**FAN)[3]["limits"] == [], "the default covers the diagonal"


@pytest.mark.parametrize(
    "more, said",
    [
        ({"range": 90}, "within 90 degrees, every line is seen from 180 on"),
        ({"layout": "limited", "limited_to": 120}, "within 120 degrees, every line is seen from 180 on"),
        (FAN | {"range": 200}, "within 200 degrees, every line is seen from 206.4 on"),
        (FAN | {"range": None, "layout": "limited", "limited_to": 200}, "within 200 degrees, every line is seen from 206.4 on"),
        (FAN | {"range": 207}, ""), (FAN | {"range": None}, ""), ({"range": None}, ""), ({"range": 270}, ""),
    ],
)  # fmt: skip
def test_limited_angles_are_told(more, said):
    """A fan over less than 180 degrees and its own angle was reconstructed as if it were complete. 206.4: 180 + 2 asin(135.8 / 595)."""
    found = measured(**more)[3]
    assert found["warnings"] == [f"limited angle: the views lie {said}"] * bool(said) and found["limits"] == ["limited angle"] * bool(said)


def test_inverse_crime_is_the_operators_own_grid():
    for crime in (True, False):
        content, shared, _, found = measured(inverse_crime=crime)
        own, fine = (clean(scan().data[0], shared["angles"], n) for n in (1, 2))
        assert np.allclose(content[3]["sinogram"], own if crime else fine, atol=1e-5) and np.abs(own - fine).max() > 0.01
        assert ["inverse crime" in w for w in found["warnings"]] == [True] * crime


def test_nothing_is_less_than_air():
    content, shared, *_ = measured(given=scan(lowest=-3000.0))
    assert np.allclose(content[3]["sinogram"], measured()[0][3]["sinogram"], atol=1e-6)
    assert min(v.min() for v in measure_ct.truth(scan(lowest=-3000.0))) == AIR == -1000


def test_pixels_that_are_not_square_are_refused():
    flat = scan()
    flat.voxel = (8.0, 9.0, 5.0)
    with pytest.raises(ValueError, match="scan.dcm: pixels of 8 x 9 mm, allowed: square ones"):
        measured(given=flat)


def test_scores_by_a_known_image():
    """HU from air upwards; again in the window 40/400, from −160 to 240, with its width as range. 840 in place of 240 passed unseen."""
    truth = np.full((16, 16), 0.0)
    truth[:4], truth[4:8], truth[8:12] = -1000, 200, 700
    image = truth + np.array([-50.0, 30.0] * 8)
    image[:4] -= 500  # below air, where both sides are cut
    values = score._values(image, truth, measure_ct.SCORES, 2000.0)
    every = np.where(image < -1000, -1000.0, image) - truth
    assert values["psnr"] == pytest.approx(10 * np.log10(2000.0**2 / np.mean(every**2)), abs=1e-6)
    assert values["rmse_hu"] == pytest.approx(np.sqrt(np.mean(every**2)), abs=1e-6)
    bands = [0, (50**2 + 30**2) / 2, 0, (50**2 + 30**2) / 2]  # mean squared errors within the window: -1000 and 700 lie outside
    assert values["psnr_40_400"] == pytest.approx(10 * np.log10(400**2 / np.mean(bands)), abs=1e-6)
    assert set(values) == {"psnr", "ssim", "rmse_hu", "hfen", "psnr_40_400", "ssim_40_400"}
    assert 0 < values["ssim_40_400"] < 1 and measure_ct.extent(truth) == (-1000, 700)
