"""Blocks and the Python interface: the same loop, the same bits; and the engine's own fingerprint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import disc_problem, small_arm

import dipline
from dipline import blocks, loop, registry, store
from dipline.study import StudyError

FINGERPRINT = Path(__file__).parent / "reference" / "engine.json"


@pytest.fixture(scope="module")
def measurement(tmp_path_factory):
    folder = tmp_path_factory.mktemp("block")
    rng = np.random.default_rng(0)
    mask = np.arange(32) % 2 == 0
    mask[12:20] = True
    content = {}
    for s in (0, 1, 2):
        kspace = rng.standard_normal((3, 32, 32)) + 1j * rng.standard_normal((3, 32, 32))
        content[s] = {"kspace": (kspace * mask).astype(np.complex64), "maps": np.full((1, 3, 32, 32), 0.57, np.complex64)}
    attributes = {"kind": "measurement", "status": "done", "reason": "", "physics": "sense"}
    store.write(folder / "m.h5", content, attributes, {"mask": mask, "view_shape": np.array([32, 32])})
    return folder / "m.h5"


def block(measurement, folder, slices, arm, seed=0, given=None):
    spec = json.dumps({"arm": arm, "device": "cpu", "threads": 1})
    blocks.block(measurement, folder / "r.h5", folder / "s.h5", slices, spec, seed, folder / "state", given or {})
    return store.read(folder / "r.h5")


@pytest.mark.parametrize("method", ["vanilla", "self_guided", "tv"])
def test_an_image_does_not_depend_on_its_block(measurement, tmp_path, method):
    arm = small_arm(method, 20)
    together = block(measurement, tmp_path / "a", [0, 1, 2], arm)[1]
    alone = block(measurement, tmp_path / "b", [1], arm)[1]
    assert together[1]["checksum"] == alone[1]["checksum"] != together[0]["checksum"]


def test_python_gives_the_bits_of_the_job(measurement, tmp_path):
    arm = small_arm("vanilla", 20)
    job = block(measurement, tmp_path, [1], arm, seed=3)[1][1]
    A, y = registry.get("physics", "sense").load().build(store.arrays(measurement, 1))
    given = {"method": "vanilla", "iterations": 20, "network": {"unet": arm["network"]["unet"]}}
    result = dipline.reconstruct(y, A, given, seed=3)
    assert store.checksum(result.image) == job["checksum"]


def test_python_says_what_is_wrong_with_an_arm():
    A, y, _ = disc_problem()
    with pytest.raises(StudyError, match='no such plug-in.*did you mean "vanilla"'):
        dipline.reconstruct(y, A, "vanila")
    with pytest.raises(StudyError, match='unknown; did you mean "lr"'):
        dipline.reconstruct(y, A, {"method": "vanilla", "params": {"lrr": 1}})


def test_scale_of_the_data_does_not_matter():
    """Raw fastMRI units are 1e-6: the image must come out in them, and no float16 snapshot may lose it."""
    A, y, _ = disc_problem()
    plain = dipline.reconstruct(y, A, small(iterations=15))
    tiny = dipline.reconstruct(y * 2.0**-20, A, small(iterations=15))
    assert np.array_equal(tiny.image, plain.image * np.float32(2.0**-20))
    assert np.isfinite(tiny.snapshots).all() and tiny.snapshots.max() > 0.1


def small(**more):
    return {"method": "vanilla", "network": {"skip": {"widths": [8, 8], "skip_widths": [2, 2]}}} | more


def test_what_a_recon_file_holds(measurement, tmp_path):
    head, images = block(measurement, tmp_path, [0], small_arm("vanilla", 20, watch=[{"emv": {"min_iterations": 2}}]))
    image = images[0]
    assert {"status", "reason", "iterations", "chosen", "seconds", "scale", "residual", "memory_mb", "checksum", "watched"} <= set(image)
    assert image["image"].dtype == np.complex64 and image["image"].shape == (1, 32, 32) and image["view"].dtype == np.float32
    assert set(image["watched"]) == {"emv"} and head["provenance"]["inputs"]["m.h5"] == store.file_hash(measurement)


def test_a_prior_comes_from_another_measurement(measurement, tmp_path):
    given = {"prior": {"kind": "measurement", "file": str(measurement), "slice": 2}}
    one = block(measurement, tmp_path / "a", [0], small_arm("ref_guided", 10), given=given)[1][0]
    given["prior"]["slice"] = 1
    two = block(measurement, tmp_path / "b", [0], small_arm("ref_guided", 10), given=given)[1][0]
    assert one["status"] == two["status"] == "done" and one["checksum"] != two["checksum"]


def test_a_failed_measurement_passes_its_reason_on(tmp_path):
    store.write(tmp_path / "m.h5", {}, {"kind": "measurement", "status": "failed", "reason": "NaN in coil 3", "physics": "sense"})
    head, images = block(tmp_path / "m.h5", tmp_path, [0, 4], small_arm("vanilla", 10))
    assert head["status"] == "failed" and all("NaN in coil 3" in i["reason"] for i in images.values()) and set(images) == {0, 4}


def test_engine_fingerprint():
    """Results that change without a new registry.ENGINE would be mixed with old ones. Compared to 1e-3: processors differ in the last bits.

    After a wanted change: raise ENGINE and write this file anew with `python tests/test_blocks.py`.
    """
    known = json.loads(FINGERPRINT.read_text())
    assert known["engine"] == registry.ENGINE
    for name, values in fingerprint().items():
        assert np.allclose(values, known[name], rtol=2e-3, atol=2e-3), f"{name} gives other results: raise registry.ENGINE"


def fingerprint():
    loop.set_up("cpu", 1)
    A, y, _ = disc_problem()
    arms = {
        "vanilla": small_arm("vanilla", 6, network="skip", average=0.9, precondition=0.1),
        "holdout": small_arm("vanilla", 12, network="skip", stop={"holdout": {"smooth": 2, "min_iterations": 4, "patience": 5}}),
        "tv": small_arm("tv", 10),
    }
    images = {name: loop.fit(y, A, arm, say=lambda line: None) for name, arm in arms.items()}
    return {name: [float(v) for v in np.abs(r.image[0, ::8, ::8]).ravel()] for name, r in images.items()}


if __name__ == "__main__":
    FINGERPRINT.write_text(json.dumps({"engine": registry.ENGINE} | fingerprint()))
    print(FINGERPRINT, torch.__version__)
