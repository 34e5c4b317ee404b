"""Steps recorded as a CUDA graph, and fits side by side; what needs a GPU skips itself where there is none."""

import numpy as np
import pytest
import torch
from problems import Stopper, disc_problem, given_to, small_arm

from dipline import loop, recorded, registry

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
METHODS = [
    m for m, p in registry.plugins("methods").items() if p.get("NETWORK") and "mri" in p.get("TASKS", ("mri",)) and m != "video_prior"
]


def fitted(arm, seed=0, device="cuda", keeper=None, say=print):
    loop.set_up(device, 1)
    A, y, _ = disc_problem()
    inputs = {name: A.init(y) for name in given_to(arm["method"])}
    return loop.fit(y.to(device), A.to(device), arm, seed, inputs, keeper, say)


@needs_gpu
@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_give_the_bits_of_launched_ones(method, monkeypatch):
    arm, said = small_arm(method, iterations=30), []
    replayed = fitted(arm, say=said.append).image
    assert not [line for line in said if "CUDA graph" in line]
    monkeypatch.setattr(recorded, "WARM_UP", 10**9)
    np.testing.assert_array_equal(replayed, fitted(arm).image)


@needs_gpu
def test_a_schedule_reaches_recorded_steps(monkeypatch):
    arm = small_arm("vanilla", iterations=30, schedule="cosine")
    replayed = fitted(arm).image
    monkeypatch.setattr(recorded, "WARM_UP", 10**9)
    np.testing.assert_array_equal(replayed, fitted(arm).image)
    assert not np.array_equal(replayed, fitted(small_arm("vanilla", iterations=30)).image)


@needs_gpu
@pytest.mark.parametrize("after", [3, 17])
def test_promise_3_on_a_gpu(tmp_path, after):
    arm = small_arm("vanilla", 36, params={"input_noise": 0.05}, average=0.9)
    straight = fitted(arm)
    with pytest.raises(loop.Interrupted):
        fitted(arm, keeper=Stopper(tmp_path / "c.pt", after))
    np.testing.assert_array_equal(straight.image, fitted(arm, keeper=Stopper(tmp_path / "c.pt", 10**6)).image)


@needs_gpu
def test_fits_side_by_side_are_those_of_single_ones():
    arm = small_arm("vanilla", 30)
    A, y, _ = disc_problem()
    A, y = A.to("cuda"), y.to("cuda")
    together = loop.together([loop.fitting(y, A, arm, seed) for seed in range(3)], y.device)
    for seed, result in enumerate(together):
        np.testing.assert_array_equal(result.image, fitted(arm, seed).image)


def test_fits_in_turn_are_those_of_single_ones():
    loop.set_up("cpu", 1)
    A, y, _ = disc_problem()
    arm = small_arm("vanilla", 12)
    results = loop.together([loop.fitting(y, A, arm, seed) for seed in range(3)], y.device)
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result.image, fitted(arm, seed, "cpu").image)
    assert not np.array_equal(results[0].image, results[1].image)


def test_all_fits_in_turn_save_their_state_before_a_job_leaves(tmp_path):
    loop.set_up("cpu", 1)
    A, y, _ = disc_problem()
    keepers = [Stopper(tmp_path / f"{seed}.pt", 5) for seed in range(3)]
    fits = [loop.fitting(y, A, small_arm("vanilla", 12), seed, keeper=keeper) for seed, keeper in enumerate(keepers)]
    with pytest.raises(loop.Interrupted, match="iteration 5"):
        loop.together(fits, y.device)
    assert [torch.load(k.file, weights_only=True)["run"]["k"] for k in keepers] == [5, 5, 5]


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is(monkeypatch):
    said, taken = [], []
    step = recorded.Recorded(lambda k: taken.append(k) or (k, None), lambda k: 0, {}, said.append)
    monkeypatch.setattr(step, "record", lambda k: (_ for _ in ()).throw(RuntimeError("operation not permitted")))
    assert [step(k)[0] for k in range(8)] == list(range(8)) == taken
    assert said == ["note: steps are not recorded as a CUDA graph: operation not permitted"]


def test_each_form_of_a_step_is_recorded_once(monkeypatch):
    forms, made, replayed = {0: "a", 1: "b", 2: None}, [], []
    step = recorded.Recorded(lambda k: ("taken", k), lambda k: forms[k % 3], {}, print)

    def record(k):
        made.append(k)
        return type("Graph", (), {"replay": lambda self, k=k: replayed.append(k)})(), ("recorded", k)

    monkeypatch.setattr(step, "record", record)
    found = [step(k) for k in range(15)]
    assert made == [9, 10] and replayed == [9, 10, 9, 10]  # three steps of each form as they are
    assert found[11] == ("taken", 11) and found[13] == ("recorded", 10)
