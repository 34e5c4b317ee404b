"""Photographs: readers, every task's measurement against an independent implementation, faults, scores, a study of all tasks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
from PIL import Image
from skimage import metrics as skimage_metrics

import dipline
from dipline import loop, metrics, registry, score, store
from dipline import study as studies
from dipline.acquire import degrade
from dipline.measure_image import measured
from dipline.physics import phase, pixels
from dipline.plan import Plan
from dipline.readers import images, samples
from dipline.readers.base import ReadError, Scan
from dipline.study import StudyError

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
IMAGE = RNG.random((3, 24, 20)).astype(np.float32)
TASKS = {
    "noisy": {"task": "denoise", "sigma": 25}, "half": {"task": "inpaint", "missing": 0.5},
    "holes": {"task": "inpaint", "boxes": [[2, 3, 6, 8], [15, 1, 4, 4]]}, "small": {"task": "superres", "factor": 2},
    "soft": {"task": "deblur", "width": 1.2}, "moved": {"task": "deblur", "kernel": "motion", "length": 7, "angle": 30},
    "camera": {"task": "blur_nonlinear", "width": 1.2}, "phase": {"task": "phase"}, "gauss": {"task": "gaussian", "rate": 0.3},
}  # fmt: skip


def measurement(acq, image=IMAGE, **more):
    """(operator, y, arrays of the measurement, of what was held out) of one image."""
    acquired = studies.checked_acquisition(acq, "image")
    spec = {"acq": acquired.model_dump() | more}
    content, _, (kept, _), _ = measured(Scan("image", image[None], [0], recon_shape=image.shape[1:]), "x.png", "x", spec)
    A, y = registry.get("physics", acquired.physics).load().build(content[0])
    return A, y, content[0], kept.get(0)


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize("name", TASKS)
def test_the_operator_gives_what_was_measured(name):
    """Measured in NumPy and SciPy, fitted in torch: without noise both must agree on the true image."""
    A, y, arrays, held = measurement(TASKS[name], sigma=0.0, holdout=0.1)
    assert torch.allclose(A(torch.from_numpy(IMAGE)), y, atol=2e-6)
    B, z = registry.get("physics", studies.checked_acquisition(TASKS[name], "image").physics).load().build(held)
    assert torch.allclose(B(torch.from_numpy(IMAGE)), z, atol=2e-6)
    assert not set(arrays["index"]) & set(held["index"]) and len(held["index"]) == pytest.approx(0.1 * (len(y[0]) + len(z[0])), abs=1)


def test_blur_is_a_periodic_convolution():
    kernel = RNG.random((5, 4)).astype(np.float32)
    kernel /= kernel.sum()
    # SciPy's convolution of a tiled image, whose middle is periodic
    tiled = np.tile(IMAGE[0], (3, 3))
    whole = scipy.signal.convolve(tiled, kernel, mode="full")[24 + 2 : 48 + 2, 20 + 1 : 40 + 1]
    assert np.allclose(degrade.blurred(IMAGE, kernel)[0], whole, atol=1e-5)


@pytest.mark.parametrize("n, m", [(24, 6), (24, 12), (25, 10), (6, 24)])
def test_bicubic_is_pillows(n, m):
    column = RNG.random((n, 1)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(np.repeat(column, 4, 1)).resize((4, m), Image.BICUBIC))[:, :1]
    assert np.allclose(degrade.resampling(n, m, "bicubic") @ column, theirs, atol=1e-6)


def test_lanczos_keeps_grey_and_does_not_alias():
    weights = degrade.resampling(64, 16, "lanczos")
    assert np.allclose(weights.sum(1), 1) and (np.count_nonzero(np.abs(weights) > 1e-7, axis=1) <= 17).all()
    stripes = np.where(np.arange(64) % 2, 1.0, 0.0)
    assert np.allclose((weights @ stripes)[4:-4], 0.5, atol=0.01), "the finest stripes become grey"


def test_kernels():
    gauss = degrade.kernel("gaussian", width=2.0)
    middle = len(gauss) // 2
    assert gauss.sum() == pytest.approx(1, abs=1e-6)
    assert gauss[middle, middle + 2] / gauss[middle, middle] == pytest.approx(np.exp(-0.5), rel=1e-5)
    moved = degrade.kernel("motion", length=9, angle=0)
    assert np.count_nonzero(moved) == 9 and np.allclose(moved[moved > 0], 1 / 9, atol=0.01), "nine pixels of one row"
    steep = degrade.kernel("motion", length=9, angle=90)
    assert np.allclose(steep, moved.T, atol=0.01)


def test_noise_is_of_the_size_asked_for():
    grey = np.full((1, 200, 200), 0.5)
    of = lambda **given: degrade.noisy(grey, np.random.default_rng(0), **given)  # noqa: E731
    assert (of(sigma=25) - 0.5).std() == pytest.approx(25 / 255, rel=0.02)
    assert (of(peak=30.0) - 0.5).std() == pytest.approx((0.5 / 30) ** 0.5, rel=0.02)
    hit = of(impulse=0.2)
    assert (hit != 0.5).mean() == pytest.approx(0.2, abs=0.01) and set(np.unique(hit)) == {0.0, 0.5, 1.0}


def test_the_gaussian_matrix_is_the_theorems():
    """Entries N(0, 1/m), the same when drawn again, another for another seed."""
    A, y, arrays, _ = measurement({"task": "gaussian", "rate": 0.5})
    G = A.matrix * A.length
    assert float(G.std()) == pytest.approx(len(G) ** -0.5, rel=0.02) and abs(float(G.mean())) < 1e-3
    B = measurement({"task": "gaussian", "rate": 0.5})[0]
    assert torch.equal(A.matrix, B.matrix)
    assert not torch.equal(A.matrix, measurement({"task": "gaussian", "rate": 0.5, "seed": 1})[0].matrix)


def test_magnitudes_do_not_change_when_the_image_is_turned():
    A, y, _, _ = measurement({"task": "phase"})
    x = torch.from_numpy(IMAGE)
    assert torch.allclose(A(x.flip((-2, -1))), y, atol=1e-5) and torch.allclose(A(-x), y, atol=1e-5)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x[..., ::-1, ::-1], lambda x: -np.roll(x, (3, -5), (-2, -1))])
def test_aligned_undoes_what_magnitudes_leave_open(change):
    assert np.allclose(phase.aligned(np.ascontiguousarray(change(IMAGE)), IMAGE), IMAGE, atol=1e-5)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("acq, said", [
    ({"task": "denoise"}, "sigma: missing; task: denoise needs noise"),
    ({"task": "denoise", "sigma": 25, "factor": 4}, "factor: means nothing with task: denoise (allowed with superres)"),
    ({"task": "denoise", "sigma": -1}, "sigma: found -1, allowed: 0 or more"),
    ({"task": "inpaint"}, "missing: task: inpaint needs one of missing"),
    ({"task": "inpaint", "missing": 0.5, "boxes": [[0, 0, 2, 2]]}, "needs one of"),
    ({"task": "superres"}, "factor: missing; task: superres needs one, e.g. factor: 4"),
    ({"task": "superres", "factor": 3}, "factor: found 3, allowed: 2, 4, 8"),
    ({"task": "gaussian"}, "rate: missing"),
    ({"task": "deblur", "kernel": "motion"}, "length: missing; kernel: motion needs one"),
    ({"task": "deblur", "kernel": "motion", "length": 5, "width": 2.0}, "width: goes with kernel: gaussian"),
    ({"task": "deblur", "kernel": "file"}, "file: missing; kernel: file needs one"),
    ({"task": "deblur", "kernel": "file", "file": "nowhere.npy"}, "file: no such file nowhere.npy"),
    ({"task": "denoize", "sigma": 25}, 'did you mean "denoise"'),
    ({"sigma": 25}, "task: missing; write one, e.g. task: denoise"),
])  # fmt: skip
def test_faults_of_an_acquisition(acq, said):
    with pytest.raises(StudyError) as error:
        studies.checked_acquisition(acq, "image")
    assert said in "\n".join(error.value.problems)


@pytest.mark.parametrize("acq, said", [
    ({"task": "inpaint", "boxes": [[20, 0, 6, 4]]}, "boxes: found [20, 0, 6, 4], allowed within 24 x 20 pixels"),
    ({"task": "deblur", "width": 5.0}, "kernel: found 31 x 31 pixels, allowed at most those of the image, 24 x 20 pixels"),
])  # fmt: skip
def test_what_does_not_fit_an_image(acq, said):
    acquired = studies.checked_acquisition(acq, "image")
    with pytest.raises(ValueError) as error:
        acquired.try_on({"shape": [3, 24, 20]}, None)
    assert said in str(error.value)


@pytest.mark.parametrize("acq, shape, said", [
    ({"task": "superres", "factor": 8}, (3, 12, 40), "factor: found 8, allowed for 12 x 40 pixels: 6 or less"),
    ({"task": "gaussian", "rate": 0.5}, (3, 256, 256), "rate: 0.5 of 256 x 256 pixels is a matrix of more than 2 GB, allowed about 178"),
])  # fmt: skip
def test_sizes_that_a_task_cannot_have(acq, shape, said):
    with pytest.raises(ValueError) as error:
        studies.checked_acquisition(acq, "image").try_on({"shape": shape}, None)
    assert said in str(error.value)


def test_masks_and_kernels_of_files(tmp_path):
    Image.fromarray(np.uint8([[255, 0], [255, 255]])).save(tmp_path / "mask.png")
    assert degrade.mask_file(tmp_path / "mask.png").tolist() == [[True, False], [True, True]]
    np.save(tmp_path / "kernel.npy", np.ones((3, 3)))
    assert degrade.kernel_file(tmp_path / "kernel.npy").sum() == pytest.approx(1)
    np.save(tmp_path / "bad.npy", -np.ones((3, 3)))
    (tmp_path / "text.png").write_text("no image")
    for name, said in (("bad.npy", "numbers of 0 or more"), ("text.png", "cannot be read as a kernel")):
        with pytest.raises(StudyError) as error:
            studies.checked_acquisition({"task": "deblur", "kernel": "file", "file": str(tmp_path / name)}, "image")
        assert said in str(error.value)
    wrong = studies.checked_acquisition({"task": "inpaint", "file": str(tmp_path / "mask.png")}, "image")
    with pytest.raises(ValueError, match="mask.png has 2 x 2 pixels, the image 24 x 20 pixels"):
        wrong.try_on({"shape": [3, 24, 20]}, None)


class Smooth(torch.nn.Module):
    """A stand-in for a learnt blur: a bent mean of every pixel and its neighbour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh((x + x.roll(1, -1)) / 2)


class Grey(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True)


def test_a_learnt_blur_travels_in_the_measurement_and_is_fitted_through(tmp_path):
    file = tmp_path / "blur.pt"
    torch.jit.script(Smooth()).save(str(file))
    acq = {"task": "blur_neural", "file": str(file), "sigma": 2.0, "holdout": 0.1}
    spec = {"acq": studies.checked_acquisition(acq, "image").model_dump()}
    content, common, (kept, of_kept), _ = measured(Scan("image", IMAGE[None], [0], recon_shape=IMAGE.shape[1:]), "x.png", "x", spec)
    file.unlink()
    module = registry.get("physics", "blur_neural").load()
    A, y = module.build(common | content[0])
    wanted = Smooth()(torch.from_numpy(IMAGE)[None])[0].flatten(1)
    assert torch.equal(A(torch.from_numpy(IMAGE)), wanted[:, A.index]) and (A(torch.from_numpy(IMAGE)) - y).std() < 3 / 255
    assert set(of_kept) == {"model"} and len(kept[0]["index"]) == 48
    arm = {"method": "vanilla", "network": {"unet": {"widths": [8, 16]}}, "params": {"lr": 0.01}, "iterations": 150, "average": 0.9}
    image = dipline.reconstruct(y, A, arm).image
    assert metrics.psnr(A(torch.from_numpy(image)).numpy(), A(torch.from_numpy(IMAGE)).numpy(), 1.0) > 15


def test_models_that_cannot_be_a_blur(tmp_path):
    (tmp_path / "text.pt").write_text("no model")
    for given, said in (
        ({}, "missing; task: blur_neural needs a model"), ({"file": "nowhere.pt"}, "no such file nowhere.pt"),
        ({"file": str(tmp_path / "text.pt")}, "is no model, allowed: a TorchScript file"),
    ):  # fmt: skip
        with pytest.raises(StudyError) as error:
            studies.checked_acquisition({"task": "blur_neural", **given}, "image")
        assert f"file: {said}" in str(error.value) or said in str(error.value)
    torch.jit.script(Grey()).save(str(tmp_path / "grey.pt"))
    with pytest.raises(ValueError, match="made .1, 1, 24, 20. of .1, 3, 24, 20.; give a model that keeps shapes"):
        measurement({"task": "blur_neural", "file": str(tmp_path / "grey.pt")})


# ---------------------------------------------------------------- readers


def saved(path, array, **how):
    Image.fromarray(array).save(path, **how)
    return path


GREY, COLOUR = RNG.integers(0, 256, (6, 5), np.uint8), RNG.integers(0, 256, (6, 5, 3), np.uint8)


def test_eight_and_sixteen_bits(tmp_path):
    deep = (GREY.astype(np.uint16) * 257)
    for name, array in (("a.png", GREY), ("b.tif", deep), ("c.png", deep), ("d.png", COLOUR), ("e.tiff", COLOUR)):
        scan = images.load([saved(tmp_path / name, array)], [0])
        want = COLOUR.transpose(2, 0, 1) if array.ndim == 3 else GREY[None]
        assert scan.data.dtype == np.float32 and np.allclose(scan.data[0], want / 255, atol=1e-6), name
        about = images.inspect([tmp_path / name])
        assert about["shape"] == list(want.shape) and about["slices"] == 1
    assert list(images.list_volumes(tmp_path)) == ["a", "b", "c", "d", "e"]


def test_orientation_palette_grey_and_size(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned to the right
    file = saved(tmp_path / "turned.jpg", np.repeat(np.repeat(COLOUR, 8, 0), 8, 1), exif=exif, quality=100, subsampling=0)
    assert images.inspect([file])["shape"] == [3, 40, 48]
    upright = images.load([file], [0]).data[0]
    assert upright.shape == (3, 40, 48)
    assert np.abs(upright[:, 4::8, 4::8] - np.rot90(COLOUR.transpose(2, 0, 1), -1, (1, 2)) / 255).max() < 0.1
    Image.fromarray(COLOUR).quantize(30).save(tmp_path / "palette.png")
    assert np.abs(images.load([tmp_path / "palette.png"], [0]).data[0] - COLOUR.transpose(2, 0, 1) / 255).max() < 0.15
    file = saved(tmp_path / "colour.png", COLOUR)
    assert images.load([file], [0], colour="grey").data.shape == (1, 1, 6, 5)
    assert images.load([file], [0], size=4).data.shape == (1, 3, 4, 4)
    assert images.inspect([file], size=4)["shape"] == [3, 4, 4]


def test_bad_images_say_what_is_wrong(tmp_path):
    alpha = np.concatenate([COLOUR, RNG.integers(0, 255, (6, 5, 1), np.uint8)], 2)
    opaque = np.concatenate([COLOUR, np.full((6, 5, 1), 255, np.uint8)], 2)
    assert images.load([saved(tmp_path / "opaque.png", opaque)], [0]).warnings == [
        "opaque.png: an alpha channel, opaque everywhere, was left out"
    ]
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "cmyk.jpg")
    pages = [Image.fromarray(GREY)] * 2
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "cut.png").write_bytes(saved(tmp_path / "whole.png", COLOUR).read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    for file, said in (
        (saved(tmp_path / "alpha.png", alpha), "transparent pixels"), (tmp_path / "cmyk.jpg", "CMYK"), (tmp_path / "pages.tif", "2 pages"),
        (tmp_path / "cut.png", "cannot be read"), (tmp_path / "text.jpg", "cannot be read"),
        (saved(tmp_path / "flat.png", np.zeros((4, 4), np.uint8)), "every pixel is 0"),
    ):  # fmt: skip
        with pytest.raises(ReadError) as error:
            images.load([file], [0])
        assert said in str(error.value) and str(file) in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="holds no image"):
        images.list_volumes(tmp_path / "empty")


def test_embedded_images(tmp_path):
    """Of both sets, none in both; the reader of photographs reads what is written."""
    assert not set(samples.SETS["reported"]) & set(samples.SETS["tuning"])
    for name in (*samples.SETS["reported"], *samples.SETS["tuning"]):
        samples.write(name, tmp_path / name, size=32, colour="keep")
        scan = images.load([tmp_path / name], [0])
        assert scan.data.shape[2:] == (32, 32) and 0.02 < scan.data.std() < 0.5, "a picture, no plain field"


# ---------------------------------------------------------------- scores


def test_scores_of_colours_are_scikit_images():
    noisy = np.clip(IMAGE + 0.1 * RNG.standard_normal(IMAGE.shape), 0, 1).astype(np.float32)
    assert metrics.psnr(noisy, IMAGE, 1.0) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(IMAGE, noisy, data_range=1))
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    theirs = skimage_metrics.structural_similarity(IMAGE.astype(float), noisy.astype(float), channel_axis=0, **how)
    assert metrics.ssim(noisy, IMAGE, 1.0, gaussian=True) == pytest.approx(theirs, rel=1e-6)


# ---------------------------------------------------------------- a study of them


STUDY = {
    "study": "tasks",
    "datasets": {"photos": {"reader": "samples", "params": {"images": 1, "size": 32}, "acquisitions": TASKS}},
    "arms": {
        "degraded": {"method": "degraded"}, "tv": {"method": "tv", "iterations": 200},
        "nlm": {"method": "nlm"}, "wavelet": {"method": "wavelet"}, "wiener": {"method": "wiener"},
        "lucy": {"method": "richardson_lucy", "iterations": 5}, "hio": {"method": "hio", "iterations": 20},
        "dip": {"method": "vanilla", "network": {"unet": {"widths": [8, 8]}}, "iterations": 20, "params": {"lr": 0.01}},
    },
    "device": "cpu", "snapshots": 4,
}  # fmt: skip


BLIND = {"blind": {"task": "deblur_blind", "width": 1.2}}  # what an image alone does not answer


def test_an_arm_runs_where_its_method_solves_the_task():
    study = studies.load(STUDY)
    where = {arm: {acq for acq in TASKS if study.solves(arm, "photos", acq)} for arm in study.arms}
    assert where["nlm"] == where["wavelet"] == {"noisy"} and where["wiener"] == where["lucy"] == {"soft", "moved"}
    assert where["hio"] == {"phase"} and where["tv"] == set(TASKS) - {"camera", "phase"}
    assert where["dip"] == where["degraded"] == set(TASKS)
    blind = {"photos": STUDY["datasets"]["photos"] | {"acquisitions": BLIND}}
    arms = {"degraded": {"method": "degraded"}, "found": {"method": "self_deblur"}, "lucy": {"method": "blind_lucy"}}
    study = studies.load(STUDY | {"datasets": blind, "arms": arms})
    assert all(study.solves(arm, "photos", "blind") for arm in arms)
    with pytest.raises(StudyError, match="method: vanilla solves all but deblur_blind, and no dataset is of that kind; leave the arm out"):
        studies.load(STUDY | {"datasets": blind, "arms": {"dip": STUDY["arms"]["dip"]}})


def test_preconditioning_a_photograph_is_a_fault():
    arms = {"dip": STUDY["arms"]["dip"] | {"precondition": 0.1}}
    with pytest.raises(StudyError, match="precondition: found 0.1, allowed.*: 0"):
        studies.load(STUDY | {"arms": arms})


def test_a_study_of_every_task(tmp_path):
    """From embedded images to the page: every task measured, fitted, scored, shown and exported."""
    photos, arms = STUDY["datasets"]["photos"], STUDY["arms"]
    datasets = {  # the second with a network alone: jobs cost seconds
        d: photos | {"acquisitions": {name: (TASKS | BLIND)[name] for name in names}}
        for d, names in (("photos", ("noisy", "holes", "soft", "phase", "blind")), ("more", ("small", "camera", "gauss")))
    }
    arms = arms | {"lucy_blind": {"method": "blind_lucy"}, "found": arms["dip"] | {"method": "self_deblur", "datasets": ["photos"]}}
    arms = {name: arm if name == "dip" else arm | {"datasets": ["photos"]} for name, arm in arms.items()}
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY | {"datasets": datasets, "arms": arms}))
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", "study.yaml"]
    line += ["--cores", "2", "--quiet", "all"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    root = tmp_path / "results/tasks"
    table = pd.read_csv(root / "metrics.csv", keep_default_na=False)
    assert (table[table.metric == "status"].value == 1).all()
    rows = table[(table.metric == "psnr") & (table.which == "stopped") & (table.slice == "")]
    assert set(rows.acq) == {acq for d in datasets.values() for acq in d["acquisitions"]} and set(rows.volume) == {"astronaut"}
    psnr = rows.groupby(["acq", "arm"]).value.mean()
    for acq, arm in (("noisy", "nlm"), ("noisy", "wavelet"), ("soft", "wiener"), ("holes", "tv"), ("phase", "hio")):
        assert psnr[acq, arm] > psnr[acq, "degraded"], (acq, arm)
    head, _ = store.read(root / "reference/photos/astronaut.h5")
    assert head["range"] == 1.0, "white, not the brightest pixel"
    assert np.asarray(Image.open(root / "volumes/tv/photos/holes/seed0/astronaut.png")).shape == (32, 32, 3)
    page = (root / "report.html").read_text()
    assert "1 image" in page and "photographs" in page and "patient_" not in page
    assert len(list(root.glob("figures/panels/*/*/*.png"))) == 8
    (recon,) = (f for f in root.glob("recon/photos/*/blind/found/seed0/s*.h5") if "snapshots" not in f.name)
    kernel = store.read(recon)[1][0]["artefact_kernel"]
    assert kernel.shape == (9, 9) and kernel.sum() == pytest.approx(1, abs=1e-5)


def test_phase_retrieval_is_scored_where_the_truth_lies(tmp_path):
    """A turned and moved image, which the magnitudes cannot tell from the truth, is worth as much as the truth."""
    truth = IMAGE[0]
    turned = np.ascontiguousarray(np.roll(truth[::-1, ::-1], (2, 3), (0, 1)))
    found = {0: {"status": "done", "reason": "", "image": turned[None], "view": turned, "last_view": turned, "chosen": 0, "watched": {}}}
    found[0] |= {"iterations": 1, "seconds": 1.0, "memory_mb": 1.0, "residual": 0.0}
    files = {name: str(tmp_path / f"{name}.h5") for name in ("recon", "shots", "reference", "measurement", "heldout")}
    store.write(files["recon"], found, {"kind": "recon", "status": "done", "provenance": {"spec": {}}})
    shots = {"views": turned[None].astype(np.float16), "steps": np.array([0]), "scale": 1.0}
    store.write(files["shots"], {0: shots}, {"kind": "snapshots"})
    scores = [{"clip": [0.0, 1.0], "metrics": ["psnr"]}]
    store.write(files["reference"], {0: {"view": truth}}, {"kind": "reference", "status": "done", "range": 1.0, "scores": scores})
    store.write(files["measurement"], {}, {"kind": "measurement", "status": "done", "physics": "phase"})
    store.write(files["heldout"], {}, {"kind": "heldout", "status": "none"})
    truths = files["reference"], files["measurement"], files["heldout"]
    score.score([files["recon"]], [files["shots"]], *truths, tmp_path / "score.json")
    rows = json.loads((tmp_path / "score.json").read_text())["rows"]
    assert min(v for s, m, which, v in rows if m == "psnr" and which in ("stopped", "peak")) > 60


def test_the_plan_knows_every_job():
    entry = {"files": ["a"], "slices": 1, "shape": [3, 32, 32]}
    plan = Plan(studies.load(STUDY), {"photos": {"key": {}, "volumes": {"a": entry}}}, "results/tasks")
    assert len(plan.jobs) == sum(plan.study.solves(arm, "photos", acq) for arm in STUDY["arms"] for acq in TASKS)


@pytest.mark.parametrize("name", ["nlm", "wavelet"])
def test_denoisers_take_one_colour(name):
    """Non-local means handed a grey image back without its axis of colours."""
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:24, 8:24] = 1
    A = pixels.Pixels((1, 32, 32), range(32 * 32))
    y = A(truth) + 0.1 * torch.randn(truth.numel(), generator=torch.Generator().manual_seed(0))
    found = loop.fit(y, A, studies.resolve(studies.checked_arm({"method": name})), 0, {}, None, lambda line: None)
    assert found.image.shape == (1, 32, 32) and abs(found.image - truth.numpy()).mean() < 0.75 * float(abs(A.init(y) - truth).mean())
