"""Data preparation: crops, masks, noise, held-out samples, coil compression, maps; and the scores of what comes out."""

import json

import h5py
import numpy as np
import pytest

from dipline import measure, measure_mri, metrics, score, store, study
from dipline.acquire import masks
from dipline.physics import sense
from dipline.readers import cfl, phantom

PARAMETERS = {"patients": 1, "first_seed": 5, "slices": 2, "matrix": 48, "coils": 6, "contrast": "t1", "time_point": 0, "noise": 0.007}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    file = tmp_path_factory.mktemp("scan") / "patient_005.h5"
    phantom.write("patient_005", file, **PARAMETERS)
    return file


def spec(crop="readout", maps=None, **acquisition):
    given = {"mask": "equispaced", "acceleration": 2, "center_fraction": 0.25} | acquisition
    return {
        "reader": "fastmri", "params": {}, "crop": crop, "maps": study.Maps(**(maps or {})).model_dump(), "physics": "sense",
        "acq": study.Cartesian(**{k: v for k, v in given.items() if v is not None}).model_dump(),
    }  # fmt: skip


def made(scan, folder, slices=(0, 1), **given):
    """(attributes, {slice: arrays}) of a measurement."""
    out = folder / "m.h5"
    measure.measure([scan], out, folder / "m.heldout.h5", "brain", "patient_005", "R", list(slices), spec(**given))
    head = store.attributes(out)
    return head, {s: store.arrays(out, s) for s in slices} if head["status"] == "done" else {}


def raw(scan):
    with h5py.File(scan) as f:
        return f["kspace"][()], f["reconstruction_rss"][()]


def test_readout_crop_is_lossless(scan, tmp_path):
    """The complete k-space after the crop gives the file's own RSS; masks act on phase-encode columns, which it leaves alone."""
    _, arrays = made(scan, tmp_path, mask="full", acceleration=None, center_fraction=None)
    _, rss = raw(scan)
    for s in (0, 1):
        assert arrays[s]["kspace"].shape == (6, 48, 48)
        images = measure_mri._ifft(arrays[s]["kspace"], (-2, -1))
        assert np.allclose(np.sqrt((np.abs(images) ** 2).sum(0)), rss[s], atol=1e-5 * rss.max())


@pytest.mark.parametrize("crop, shape", [("readout", (48, 48)), ("full", (96, 48)), ("image", (48, 48))])
def test_crops(scan, tmp_path, crop, shape):
    head, arrays = made(scan, tmp_path, crop=crop)
    assert arrays[0]["kspace"].shape[1:] == shape and head["crop"] == crop and list(arrays[0]["view_shape"]) == [48, 48]
    A, y = sense.build(arrays[0])
    assert A.view(A.init(y)).shape == (48, 48)


def test_only_acquired_samples_are_kept_and_maps_know_no_others(scan, tmp_path):
    _, arrays = made(scan, tmp_path)
    mask = arrays[0]["mask"]
    assert mask.shape == (48,) and not arrays[0]["kspace"][..., ~mask].any() and arrays[0]["kspace"][..., mask].any()
    again = measure_mri.espirit.calibrate(arrays[0]["kspace"], mask)[0]
    assert np.array_equal(again.astype(np.complex64), arrays[0]["maps"])


def test_a_mask_keeps_its_seed_by_file_name_and_slices_do_not_matter(scan, tmp_path):
    _, both = made(scan, tmp_path, mask="random", noise_snr=20)
    _, one = made(scan, tmp_path, slices=(1,), mask="random", noise_snr=20)
    assert np.array_equal(both[1]["kspace"], one[1]["kspace"]) and np.array_equal(both[1]["maps"], one[1]["maps"])
    _, other = made(scan, tmp_path, mask="random", seed=3)
    assert not np.array_equal(other[0]["mask"], both[0]["mask"])


@pytest.mark.parametrize("mask", ["random", "equispaced_fraction", "gaussian"])
def test_the_file_name_seeds_the_mask(scan, tmp_path, mask):
    """fastMRI's convention, which makes a mask comparable with other people's: the characters of the file's name, ending included."""
    _, arrays = made(scan, tmp_path, mask=mask, acceleration=4, center_fraction=0.125)
    named = masks.drawn(mask, (48, 48), 4, 0.125, tuple(map(ord, "patient_005.h5")))
    assert np.array_equal(arrays[0]["mask"], named)
    assert not np.array_equal(named, masks.drawn(mask, (48, 48), 4, 0.125, tuple(map(ord, "patient_005"))))


def test_points_of_a_scanner_keep_the_readout(scan, tmp_path):
    """A scan with a 2-D mask cannot lose its oversampling without losing its mask. The file said `crop: readout` all the same."""
    own, points = tmp_path / "points.h5", masks.poisson((96, 48), 3, (12, 12), 0)
    with h5py.File(scan) as f, h5py.File(own, "w") as h:
        h["kspace"], h["mask"], h["ismrmrd_header"] = f["kspace"][()] * points, points, f["ismrmrd_header"][()]
    head, arrays = made(own, tmp_path, mask="as_measured", acceleration=None, center_fraction=None)
    assert arrays[0]["kspace"].shape == (6, 96, 48) and head["crop"] == "full"
    assert any("oversampling was kept" in w for w in head["warnings"])


def test_noise_has_the_snr_that_was_asked_for(scan, tmp_path):
    clean = made(scan, tmp_path, mask="full", acceleration=None, center_fraction=None)[1][0]["kspace"]
    noisy = made(scan, tmp_path, mask="full", acceleration=None, center_fraction=None, noise_snr=15)[1][0]["kspace"]
    snr = 10 * np.log10((np.abs(clean) ** 2).mean() / (np.abs(noisy - clean) ** 2).mean())
    assert snr == pytest.approx(15, abs=0.3)


def test_coil_compression(scan, tmp_path):
    head, arrays = made(scan, tmp_path, coils=3)
    assert arrays[0]["kspace"].shape[0] == 3 and arrays[0]["maps"].shape[1] == 3 and head["coils"] == 6


def test_two_sets_of_maps(scan, tmp_path):
    _, arrays = made(scan, tmp_path, maps={"sets": 2})
    A, y = sense.build(arrays[0])
    assert A.domain == (2, 48, 48) and A.view(A.init(y)).shape == (48, 48)


def test_given_maps_and_their_faults(scan, tmp_path):
    np.save(tmp_path / "maps.npy", np.ones((6, 40, 48), np.complex64))
    head, _ = made(scan, tmp_path, maps={"method": "given", "file": str(tmp_path / "maps.npy")})
    assert head["status"] == "failed" and "found shape (6, 40, 48), allowed: (6, 48, 48)" in head["reason"]
    head, _ = made(scan, tmp_path, maps={"method": "given"})
    assert "the scan brings none" in head["reason"]


@pytest.fixture(scope="module")
def estimated(scan, tmp_path_factory):
    """ESPIRiT's maps (slices, coils, H, W) of the scan."""
    arrays = made(scan, tmp_path_factory.mktemp("maps"))[1]
    return np.stack([arrays[s]["maps"][0] for s in (0, 1)])


@pytest.mark.parametrize("factor", [1, 3])
def test_given_maps_are_of_unit_norm(scan, tmp_path, estimated, factor):
    """Maps of three times the norm were taken as they came: the step sizes no longer fitted, and 23 dB were lost without a word."""
    np.save(tmp_path / "maps.npy", factor * estimated)
    _, arrays = made(scan, tmp_path, maps={"file": str(tmp_path / "maps.npy")})
    for s in (0, 1):
        assert np.allclose(arrays[s]["maps"][0], estimated[s], atol=1e-6)
        sums = (np.abs(arrays[s]["maps"]) ** 2).sum((0, 1))
        assert sums.max() < 1 + 1e-5 and np.isin(sums.round(5), (0, 1)).all() and (sums == 0).any()
    info = store.read(tmp_path / "m.h5", 0)[1][0]["calibration"]
    assert info["norm"] == pytest.approx([factor, factor], rel=1e-3)


def test_two_given_sets_keep_their_relation(scan, tmp_path, estimated):
    """Two orthonormal sets stay as they are: divided by their common root sum of squares, folded tissue would shine √2 too bright."""
    other = np.roll(estimated[0], 1, axis=0)
    other -= estimated[0] * (estimated[0].conj() * other).sum(0)
    other /= np.maximum(np.linalg.norm(other, axis=0), 1e-3)
    np.save(tmp_path / "maps.npy", 2 * np.stack([estimated[0], other])[None])
    maps = made(scan, tmp_path, maps={"file": str(tmp_path / "maps.npy")})[1][0]["maps"]
    assert maps.shape == (2, 6, 48, 48) and np.allclose(maps, [estimated[0], other], atol=1e-4)


def test_given_maps_belong_to_their_slice(scan, tmp_path, estimated):
    """A file of maps of all slices was counted by the chosen ones: slice 1 alone got the maps of slice 0."""
    assert np.abs(estimated[0] - estimated[1]).max() > 0.05
    for name in ("maps.npy", "maps_patient_005.cfl"):
        if name.endswith(".npy"):
            np.save(tmp_path / name, estimated)
        else:
            cfl.write_cfl(tmp_path / name, estimated)
        file = str(tmp_path / name.replace("patient_005", "{volume}"))
        head, arrays = made(scan, tmp_path, slices=(1,), maps={"file": file})
        assert np.allclose(arrays[1]["maps"][0], estimated[1], atol=1e-6)
        assert list(head["given"]) == [str(tmp_path / name.replace(".cfl", end)) for end in ([".hdr", ".cfl"] if "cfl" in name else [""])]
    np.save(tmp_path / "maps.npy", np.concatenate([estimated, estimated])[:1])
    assert made(scan, tmp_path, slices=(1,), maps={"file": str(tmp_path / "maps.npy")})[1], "one for all slices"


@pytest.mark.parametrize("ending", [".cfl", ".hdr", ""])
def test_given_maps_as_bart_writes_them(scan, tmp_path, estimated, ending):
    """BART's files, which the manual names first, ended with a Python error: the function that reads them did not exist."""
    cfl.write_cfl(tmp_path / "maps.v2.cfl", estimated[:1])
    _, arrays = made(scan, tmp_path, slices=(0,), maps={"file": str(tmp_path / f"maps.v2{ending}")})
    assert np.allclose(arrays[0]["maps"][0], estimated[0], atol=1e-6)


def test_given_maps_that_are_wrong(scan, tmp_path, estimated):
    file = tmp_path / "maps.npy"
    cases = [
        (np.concatenate([estimated] * 2)[[0, 0, 0]], 5, "needed: slice 5"), (estimated * np.nan, 0, "NaN"), (0 * estimated, 0, "zeros"),
        (np.array([{}]), 0, "give a .npy or a BART .cfl file"), (estimated[0, 0], 0, "found shape"),
    ]  # fmt: skip
    for maps, s, said in cases:
        np.save(file, maps, allow_pickle=True)
        with pytest.raises(ValueError, match=said):
            measure_mri._maps({"method": "given", "file": str(file)}, None, s, np.ones((6, 48, 48)), None, None, "v")
    file.write_bytes(b"")
    assert "give a .npy" in made(scan, tmp_path, maps={"file": str(file)})[0]["reason"]
    assert "no_one.hdr" in made(scan, tmp_path, maps={"file": str(tmp_path / "no_one")})[0]["reason"]


def test_too_few_centre_columns(scan, tmp_path):
    head, _ = made(scan, tmp_path, center_fraction=0.04, acceleration=4)
    assert head["status"] == "failed" and "needed: at least 4" in head["reason"]
    head, _ = made(scan, tmp_path, center_fraction=0.13, acceleration=4)
    assert head["status"] == "done" and any("fully sampled centre columns" in w for w in head["warnings"])


def test_a_mask_of_ones_own(scan, tmp_path):
    mask = np.zeros(48, int)
    mask[18:30], mask[::3] = 1, 1
    np.save(tmp_path / "mask.npy", mask)
    own = {"mask": "file", "file": str(tmp_path / "mask.npy"), "acceleration": None, "center_fraction": None}
    head, arrays = made(scan, tmp_path, **own)
    assert np.array_equal(arrays[0]["mask"], mask.astype(bool))
    assert head["given"] == {str(tmp_path / "mask.npy"): store.file_hash(tmp_path / "mask.npy")}
    np.save(tmp_path / "mask.npy", np.zeros(48))
    head, _ = made(scan, tmp_path, **own)
    assert head["status"] == "failed" and "0 everywhere" in head["reason"]


def test_heldout_samples_are_in_a_file_of_their_own(scan, tmp_path):
    """5 % of the acquired samples: in the held-out file, not in the measurement, never in the calibration centre."""
    head, arrays = made(scan, tmp_path, holdout=0.1)
    kept, held = arrays[0], store.arrays(tmp_path / "m.heldout.h5", 0)
    assert held["mask"].sum() >= 1 and not (held["mask"] & kept["mask"]).any() and not held["mask"][18:30].any()
    everything = made(scan, tmp_path)[1][0]["kspace"]
    assert np.array_equal(kept["kspace"] + held["kspace"], everything)
    assert head["acceleration_achieved"] == pytest.approx(48 / (kept["mask"] | held["mask"]).sum())


def test_2d_masks(scan, tmp_path):
    head, arrays = made(scan, tmp_path, mask="poisson", acceleration=4, center_fraction=0.25)
    assert arrays[0]["mask"].shape == (48, 48) and head["acceleration_achieved"] == pytest.approx(4, rel=0.02)
    A, y = sense.build(arrays[0])
    assert not A.by_column and y.shape == (6, int(arrays[0]["mask"].sum()))


def test_a_scan_that_cannot_be_used_is_a_result(tmp_path, scan):
    head, _ = made(tmp_path / "missing.h5", tmp_path)
    assert head["status"] == "failed" and "missing.h5" in head["reason"]


def test_reference_range_is_the_maximum_of_all_slices(scan, tmp_path):
    _, rss = raw(scan)
    faint = int(np.argmin(rss.max((1, 2))))
    measure.reference([scan], tmp_path / "r.h5", "patient_005", [faint], {"reader": "fastmri", "params": {}})
    head, slices = store.read(tmp_path / "r.h5")
    assert head["range"] == pytest.approx(rss.max(), rel=1e-5)
    assert np.allclose(slices[faint]["view"], rss[faint], atol=1e-5 * rss.max())


def fake_recon(folder, views, images=None, status="done"):
    content, shots = {}, {}
    for s, view in views.items():
        image = (images or {}).get(s, view[None].astype(np.complex64))
        content[s] = {
            "status": status, "reason": "", "image": image, "view": view, "last_view": 0.5 * view, "iterations": 3, "chosen": 1,
            "watched": {}, "scale": 2.0, "residual": 0.1, "seconds": 1.0, "memory_mb": 5.0,
        }  # fmt: skip
        shots[s] = {"views": np.stack([0 * view, view / 2]).astype(np.float16), "steps": np.array([0, 1]), "scale": 2.0}
    store.write(folder / "r.h5", content, {"kind": "recon", "provenance": {"spec": {}}})
    store.write(folder / "r.snapshots.h5", shots, {"kind": "snapshots"})


def scored(folder):
    files = [[str(folder / "r.h5")], [str(folder / "r.snapshots.h5")], folder / "t.h5", folder / "m.h5", folder / "m.heldout.h5"]
    score.score(*files, folder / "s.json")
    return json.loads((folder / "s.json").read_text())


def test_scores_by_hand(scan, tmp_path):
    """Stopped, last and peak of a volume, against the formulas."""
    made(scan, tmp_path)
    measure.reference([scan], tmp_path / "t.h5", "patient_005", [0, 1], {"reader": "fastmri", "params": {}})
    head, truth = store.read(tmp_path / "t.h5")
    views = {s: (0.9 * truth[s]["view"]).astype(np.float32) for s in (0, 1)}
    fake_recon(tmp_path, views)
    rows = {(r[1], r[2]): r[3] for r in scored(tmp_path)["rows"] if r[0] == ""}
    gt = np.stack([truth[s]["view"] for s in (0, 1)])
    assert rows["nmse", "stopped"] == pytest.approx(0.01, rel=1e-3)
    assert rows["psnr", "stopped"] == pytest.approx(metrics.psnr(0.9 * gt, gt, head["range"]), abs=1e-3)
    assert rows["psnr", "last"] == pytest.approx(metrics.psnr(0.45 * gt, gt, head["range"]), abs=1e-3)
    assert rows["psnr", "peak"] == pytest.approx(rows["psnr", "stopped"], abs=0.02), "the better of the two snapshots"
    assert rows["seconds", "stopped"] == 2.0 and rows["iterations", "stopped"] == 3


def test_heldout_nmse_by_hand(scan, tmp_path):
    """‖A_held x − y_held‖² / ‖y_held‖², zero for the image that made the samples."""
    made(scan, tmp_path, slices=(0,), holdout=0.2)
    store.write(tmp_path / "t.h5", {}, {"kind": "reference", "status": "none"})
    held = store.arrays(tmp_path / "m.heldout.h5", 0)
    A, y = sense.build(held)
    fake_recon(tmp_path, {0: np.zeros((48, 48), np.float32)}, {0: np.zeros((1, 48, 48), np.complex64)})
    rows = {(r[0], r[1]): r[3] for r in scored(tmp_path)["rows"]}
    assert rows["", "heldout_nmse"] == pytest.approx(1.0) and not any(m == "psnr" for _, m in rows)
    x = A.AT(y)
    fake_recon(tmp_path, {0: np.zeros((48, 48), np.float32)}, {0: x.numpy()})
    rows = {(r[0], r[1]): r[3] for r in scored(tmp_path)["rows"]}
    want = float((A(x) - y).abs().square().sum() / y.abs().square().sum())
    assert rows["", "heldout_nmse"] == pytest.approx(want, rel=1e-5) and want < 1


def test_a_failed_slice_gives_no_volume_score(scan, tmp_path):
    made(scan, tmp_path)
    measure.reference([scan], tmp_path / "t.h5", "patient_005", [0, 1], {"reader": "fastmri", "params": {}})
    _, truth = store.read(tmp_path / "t.h5")
    fake_recon(tmp_path, {0: truth[0]["view"]})
    _, content = store.read(tmp_path / "r.h5")
    content[1] = {"status": "failed", "reason": "it diverged"}
    store.write(tmp_path / "r.h5", content, {"kind": "recon", "provenance": {"spec": {}}})
    result = scored(tmp_path)
    assert result["status"] == "failed" and "it diverged" in result["reason"] and result["failed_slices"] == [1]
    assert not [r for r in result["rows"] if r[0] == "" and r[1] == "psnr"] and [r for r in result["rows"] if r[0] == 0 and r[1] == "psnr"]

