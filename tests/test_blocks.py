"""Blocks and the Python interface: the same loop, the same bits; and the engine's own fingerprint."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from problems import disc_problem, small_arm

import dipline
from dipline import blocks, loop, registry, store
from dipline.acquire import views
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


TOGETHER = [{"slices": 3, "mode": "joint"}, {"slices": 3, "mode": "chain", "warm": 0.3}]


def test_joint_slices_share_a_network(measurement, tmp_path):
    """One fit of three slices; each has its own image, curve of snapshots and residual, and a third of the time."""
    arm = small_arm("vanilla", 20, block=TOGETHER[0])
    joint = block(measurement, tmp_path / "a", [0, 1, 2], arm)[1]
    alone = block(measurement, tmp_path / "b", [0, 1, 2], small_arm("vanilla", 20))[1]
    assert len({joint[s]["checksum"] for s in joint} | {alone[s]["checksum"] for s in alone}) == 6
    assert (joint[0]["losses"] == joint[2]["losses"]).all() and joint[1]["image"].shape == (1, 32, 32)
    shots = store.read(tmp_path / "a" / "s.h5")[1]
    assert shots[1]["views"].shape == store.read(tmp_path / "b" / "s.h5")[1][1]["views"].shape
    last = shots[1]["views"][-1].astype(np.float32) * shots[1]["scale"]
    assert np.allclose(last, joint[1]["last_view"], atol=2e-3 * shots[1]["scale"])
    A, y = registry.get("physics", "sense").load().build(store.arrays(measurement, 1))
    assert joint[1]["residual"] == pytest.approx(float(A.residual(torch.from_numpy(joint[1]["image"]), y) / y.abs().square().sum()))


def test_a_chain_starts_from_its_neighbours_network(measurement, tmp_path, capsys):
    """The first slice as alone; the second from the first one's weights, and in fewer iterations."""
    arm = small_arm("vanilla", 20, block=TOGETHER[1])
    chain = block(measurement, tmp_path / "a", [0, 1], arm)[1]
    alone = block(measurement, tmp_path / "b", [0, 1], small_arm("vanilla", 20))[1]
    assert chain[0]["checksum"] == alone[0]["checksum"] and chain[1]["checksum"] != alone[1]["checksum"]
    assert (chain[0]["iterations"], chain[1]["iterations"]) == (20, 6) and "its neighbour's network" in capsys.readouterr().out
    operators = [registry.get("physics", "sense").load().build(store.arrays(measurement, s)) for s in (0, 1)]
    first = loop.fit(operators[0][1], operators[0][0], arm, say=lambda line: None)
    second = loop.fit(operators[1][1], operators[1][0], arm | {"iterations": 6}, start=first.networks, say=lambda line: None)
    assert store.checksum(second.image) == chain[1]["checksum"]


@pytest.mark.parametrize("together", TOGETHER, ids=lambda t: t["mode"])
@pytest.mark.parametrize("after", [13, 23])  # of a chain: in the first slice, in the second
def test_promise_3_slices_that_depend_on_each_other_resume_to_the_same_bits(measurement, tmp_path, monkeypatch, together, after):
    arm = small_arm("self_guided", 20, block=together)
    straight = block(measurement, tmp_path / "a", [0, 1, 2], arm)[1]
    steps = iter(range(1, 10**6))
    monkeypatch.setattr(blocks.Keeper, "leaving", lambda self: next(steps) == (after if together["mode"] == "chain" else after - 5))
    with pytest.raises(loop.Interrupted):
        block(measurement, tmp_path / "b", [0, 1, 2], arm)
    resumed = block(measurement, tmp_path / "b", [0, 1, 2], arm)[1]
    assert {s: r["checksum"] for s, r in resumed.items()} == {s: r["checksum"] for s, r in straight.items()}


def test_classical_arms_have_no_block_mode():
    assert "mode" not in small_arm("tv", block=TOGETHER[0]) and "mode" not in small_arm("vanilla", block={"slices": 3})


def test_video_prior_feeds_every_frame_to_one_network(measurement):
    from dipline.methods.base import Problem
    from dipline.methods.video_prior import VideoPrior
    from dipline.physics.joint import Joint

    operators, parts = zip(*(registry.get("physics", "sense").load().build(store.arrays(measurement, s)) for s in (0, 1)), strict=True)
    A = Joint(operators)
    y = A.joined(parts)
    made = []
    network = lambda i, o: made.append((i, o)) or torch.nn.Conv2d(i, o, 1)  # noqa: E731
    method = VideoPrior(Problem(y, A, A.init(y), network, None, 5), 1e-3)
    loss, x = method.loss(0)
    assert made == [(2, 2)] and x.shape == (2, 32, 32)
    frame = operators[1].init(parts[1])
    alone = method.net(method.channels(frame))
    assert torch.allclose(x[1], torch.complex(alone[0, 0], alone[0, 1]) * operators[1].support)
    each = [B.residual(image[None], part) for B, image, part in zip(operators, x, parts, strict=True)]
    assert torch.allclose(loss, sum(each))


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


def test_python_leaves_torch_as_it_was():
    """A notebook that called dipline.reconstruct had torch's deterministic mode on for good.
    The user's own network, which has no deterministic form, then stopped with an error."""
    A, y, _ = disc_problem()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    threads = torch.get_num_threads()
    try:
        dipline.reconstruct(y, A, small(iterations=2))
        with pytest.raises(StudyError):
            dipline.reconstruct(y, A, "ref_guided")
        assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True, warn_only=True)
        dipline.reconstruct(y, A, small(iterations=2))
        assert torch.is_deterministic_algorithms_warn_only_enabled() and torch.get_num_threads() == threads
    finally:
        torch.backends.cudnn.benchmark = False
        loop.set_up("cpu", 1)


def test_python_takes_numpy_arrays():
    """An array was met with "numpy.ndarray has no attribute device"."""
    A, y, _ = disc_problem()
    arm = {"method": "ref_guided", "network": small()["network"], "iterations": 3}
    prior = A.init(y)
    tensor = dipline.reconstruct(y, A, arm, inputs={"prior": prior})
    array = dipline.reconstruct(y.numpy().astype(complex), A, arm, inputs={"prior": prior.numpy().astype(complex)})
    assert (tensor.image == array.image).all()
    with pytest.raises(TypeError, match="y: found list, allowed: a torch tensor or a numpy array"):
        dipline.reconstruct(y.tolist(), A, arm, inputs={"prior": prior})
    with pytest.raises(TypeError, match="inputs: prior: found str, allowed"):
        dipline.reconstruct(y, A, arm, inputs={"prior": "prior.npy"})
    with pytest.raises(StudyError, match="arm: ref_guided needs inputs: prior"):
        dipline.reconstruct(y, A, arm)


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
    assert set(image["watched"]) == {"emv"} and head["provenance"]["inputs"][str(measurement)] == store.file_hash(measurement)


def test_a_prior_comes_from_another_measurement(measurement, tmp_path):
    given = {"prior": {"kind": "measurement", "file": str(measurement), "slice": 2}}
    one = block(measurement, tmp_path / "a", [0], small_arm("ref_guided", 10), given=given)[1][0]
    given["prior"]["slice"] = 1
    two = block(measurement, tmp_path / "b", [0], small_arm("ref_guided", 10), given=given)[1][0]
    assert one["status"] == two["status"] == "done" and one["checksum"] != two["checksum"]


def test_another_slice_of_the_prior_is_another_job(measurement, tmp_path):
    """The identity of a state folder did not hold which slice of a prior an arm is given, only which file.
    With another slice the finished image of the first was handed over again."""
    given = {"prior": {"kind": "measurement", "file": str(measurement), "slice": 2}}
    one = block(measurement, tmp_path, [0], small_arm("ref_guided", 5), given=given)[1][0]
    given["prior"]["slice"] = 1
    two = block(measurement, tmp_path, [0], small_arm("ref_guided", 5), given=given)[1][0]
    assert one["checksum"] != two["checksum"]


def test_two_inputs_of_one_name_are_two_inputs(measurement, tmp_path):
    """A scan and its prior are often both called R4.h5, and the hashes of inputs were kept by file name: one hid the other.
    A scan that was measured again, with the same prior, got its old image."""
    scan, prior = tmp_path / "t2" / "R4.h5", tmp_path / "t1" / "R4.h5"
    for file in (scan, prior):
        file.parent.mkdir()
        shutil.copy(measurement, file)
    given = {"prior": {"kind": "measurement", "file": str(prior), "slice": 2}}
    head, before = block(scan, tmp_path, [0], small_arm("ref_guided", 5), given=given)
    assert set(head["provenance"]["inputs"]) == {str(scan), str(prior)}
    content, attributes = store.read(scan)[1], store.attributes(scan)
    again = {0: {"kspace": 2 * content[1]["kspace"], "maps": content[1]["maps"]}}
    with h5py.File(scan) as f:
        shared = {k: v[()] for k, v in f["shared"].items()}
    store.write(scan, again, attributes, shared)
    after = block(scan, tmp_path, [0], small_arm("ref_guided", 5), given=given)[1]
    assert after[0]["checksum"] != before[0]["checksum"]


def test_an_edited_method_is_computed_again_by_hand(measurement, tmp_path, monkeypatch):
    """By hand nothing but the arm was in the identity: after an edit of the method's file its old image was handed over."""
    first = block(measurement, tmp_path, [0], small_arm("vanilla", 5))[1][0]
    monkeypatch.setattr(registry, "code_hash", lambda files: "edited")
    monkeypatch.setattr(loop, "seed_of", lambda seed, purpose: 12345)
    assert block(measurement, tmp_path, [0], small_arm("vanilla", 5))[1][0]["checksum"] != first["checksum"]


def test_an_error_of_the_program_leaves_its_trace_in_the_log(measurement, tmp_path, monkeypatch, capsys):
    """An author's broken method gave failed slices with nothing but "could not broadcast": a ValueError of numpy.
    Where it came from was in no log."""
    from dipline.methods.vanilla import Vanilla

    monkeypatch.setattr(Vanilla, "loss", lambda self, k: np.zeros(3) + np.zeros(4))
    head, images = block(measurement, tmp_path, [0], small_arm("vanilla", 5))
    assert head["status"] == "failed" and "could not be broadcast" in images[0]["reason"]
    out = capsys.readouterr().out
    assert "Traceback" in out and "test_blocks.py" in out and "slice 0 failed: operands" in out


def ct_measurement(file, n=32):
    """A CT measurement of three slices, of the size of the MRI one."""
    g = views.geometry((n, n), 1.0, 6)
    content = {s: {"sinogram": np.full((6, int(g["detector"][0])), 0.3, np.float32)} for s in (0, 1, 2)}
    store.write(file, content, {"kind": "measurement", "status": "done", "reason": "", "physics": "ct"}, g)
    return file


@pytest.mark.parametrize("kind", ["measurement", "recon", "file"])
def test_a_complex_prior_on_ct_is_a_failed_slice(measurement, tmp_path, kind):
    """An MRI image as the prior of a CT run lost its imaginary part, with nothing but a warning of torch's in the log."""
    prior = {"measurement": measurement, "recon": tmp_path / "r.h5", "file": tmp_path / "p.npy"}[kind]
    scan = ct_measurement(tmp_path / "c.h5")
    if kind == "recon":
        block(measurement, tmp_path, [0], small_arm("zero_filled"))
    np.save(tmp_path / "p.npy", np.full((32, 32), 1 + 1j, np.complex64))
    given = {"prior": {"kind": kind, "file": str(prior), "slice": 0}}
    (tmp_path / "out").mkdir()
    image = block(scan, tmp_path / "out", [0], small_arm("ref_guided", 3), given=given)[1][0]
    assert image["reason"].startswith(f"{prior}: found an image that is complex (MRI), needed: real (CT); give one of the same")


def test_a_ct_prior_on_mri(measurement, tmp_path):
    """A measurement of CT is refused; of a file nobody knows where it comes from, and a real image may be the magnitude of an MRI one."""
    given = {"prior": {"kind": "measurement", "file": str(ct_measurement(tmp_path / "c.h5")), "slice": 0}}
    image = block(measurement, tmp_path, [0], small_arm("ref_guided", 3), given=given)[1][0]
    assert "found an image that is real (CT), needed: complex (MRI)" in image["reason"]
    np.save(tmp_path / "p.npy", np.ones((32, 32), np.float32))
    given = {"prior": {"kind": "file", "file": str(tmp_path / "p.npy"), "slice": 0}}
    assert block(measurement, tmp_path, [0], small_arm("ref_guided", 3), given=given)[1][0]["status"] == "done"


def test_python_refuses_a_complex_prior_on_ct():
    A, y = registry.get("physics", "ct").load().build(views.geometry((32, 32), 1.0, 6) | {"sinogram": np.full((6, 46), 0.3)})
    arm = {"method": "ref_guided", "network": small()["network"], "iterations": 2}
    with pytest.raises(ValueError, match=r"inputs: prior: found an image that is complex \(MRI\), needed: real"):
        dipline.reconstruct(y, A, arm, inputs={"prior": np.ones((1, 32, 32), np.complex64)})
    assert dipline.reconstruct(y, A, arm, inputs={"prior": np.ones((1, 32, 32), np.float32)}).iterations == 2


def test_a_prior_without_that_slice_is_a_failed_slice(measurement, tmp_path, capsys):
    given = {"prior": {"kind": "measurement", "file": str(measurement), "slice": 7}}
    _, images = block(measurement, tmp_path, [0], small_arm("ref_guided", 5), given=given)
    assert images[0]["reason"] == f"{measurement}: holds no slice 7 (has 0, 1, 2); choose among them"
    assert "Traceback" not in capsys.readouterr().out


def test_a_job_runs_with_its_threads_and_the_same_bits(measurement, tmp_path):
    torch.use_deterministic_algorithms(False)
    try:
        spec = json.dumps({"arm": small_arm("zero_filled"), "device": "cpu", "threads": 2})
        blocks.block(measurement, tmp_path / "r.h5", tmp_path / "s.h5", [0], spec, 0, tmp_path / "state", {})
        assert torch.get_num_threads() == 2 and torch.are_deterministic_algorithms_enabled()
    finally:
        loop.set_up("cpu", 1)
    assert store.attributes(tmp_path / "r.h5")["provenance"]["threads"] == 2


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
