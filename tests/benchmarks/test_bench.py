"""The benchmark's arithmetic, and its runners on small problems; no time is judged here."""

import bench
import numpy as np
import pytest

from dipline import store


def variant(turns, curve, name="a"):
    made = object.__new__(bench.Variant)
    made.__dict__.update(name=name, turns=turns, curve=curve, k=curve[-1][0], memory=100.0, slices=1)
    return made


def test_steps_to_a_level_are_interpolated():
    v = variant([(10, 9)], [(10, 20.0), (20, 24.0), (30, 23.0)])
    assert v.reaches(22.0) == 15 and v.reaches(19.0) == 10 and v.reaches(25.0) is None


def test_the_first_turn_is_a_warm_up():
    assert variant([(99, 9), (3, 2), (5, 4), (4, 3)], [(1, 1.0)]).milliseconds() == (4, 3, 5, 3)


def test_time_to_the_peak_of_vanilla(monkeypatch):
    monkeypatch.setattr(bench, "ROWS", [])
    slow = variant([(100, 9)] * 2, [(50, 20.0), (100, 25.0)], bench.REFERENCE)
    fast = variant([(10, 9)] * 2, [(40, 25.0), (80, 26.0)], "fast")
    for v in (slow, fast):
        v.most, v.seconds, v.close = v.k, 0.0, lambda: None
    bench.compare("time to quality", [slow, fast], {bench.REFERENCE}, 0.0)
    rows = {r["variant"]: r for r in bench.ROWS}
    assert rows[bench.REFERENCE]["to"] == pytest.approx(10.0) and rows["fast"]["to"] == pytest.approx(0.4)
    assert rows["fast"]["ratio"] == pytest.approx(25.0) and rows["fast"]["target"] == 25.0
    assert rows["fast"]["near"] == pytest.approx(0.76), "0.1 dB below its own peak of 26, between steps 40 and 80"


def tiny(folder):
    return bench.brain(folder, 32, 4)


@pytest.mark.parametrize("mode", ["", "joint", "chain"])
def test_a_runner_of_ours(tmp_path, mode):
    arm = bench.OURS | {"network": {"unet": {"widths": [4, 4], "init": "torch"}}}
    runner = bench.Ours(tiny, tmp_path, arm, mode)
    for _ in range(3):
        runner.step()
    assert 5 < runner.psnr() < 45 and runner.slices == (bench.SLICES if mode == "joint" else 1)


def test_a_runner_of_an_official_code(tmp_path):
    """A folder with a module of theirs in it; the adaptor's operator is that of the measurement."""
    tiny(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "skip.py").write_text("import torch\ndef skip(i, o, *a, **k):\n    return torch.nn.Conv2d(i, o, 3, padding=1)\n")
    runner = bench.Theirs(bench.Make(bench.brain, (32, 4)), tmp_path, "ulyanov", tmp_path)
    peer = runner.peer
    held = store.arrays(tmp_path / "brain_32_4" / "measurement.h5", 1)
    assert peer.forward(peer.zero_filled()).shape == held["kspace"].shape
    A, y, _, _ = tiny(tmp_path)[1]
    ours = A.view(A.init(y)).numpy()
    np.testing.assert_allclose(peer.zero_filled().abs().numpy(), ours, atol=1e-5 * ours.max())
    for _ in range(30):
        runner.step()
    assert peer.losses[-1] < peer.losses[0] and 5 < runner.psnr() < 45
