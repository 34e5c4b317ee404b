"""Checkpoints, signals and leases: a killed reconstruction goes on, bit for bit, and never has two writers."""

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import Stopper, disc_problem, given_to, small_arm

from dipline import loop, registry, resume, store
from dipline.resume import Keeper, Lease, Lost

METHODS = [m for m, p in registry.plugins("methods").items() if "mri" in p.get("TASKS", ("mri",))]  # CT's: test_ct.py


def fit(arm, keeper=None, seed=0):
    A, y, _ = disc_problem()
    inputs = {name: A.init(y) for name in given_to(arm["method"])}
    said = []
    return loop.fit(y, A, arm, seed, inputs, keeper, said.append), said


WMV = {"window": 7, "patience": 20}
HOLDOUT = {"smooth": 3, "min_iterations": 3, "patience": 9, "refit": True}
SV_ES = {"window": 6, "patience": 30, "batch": 3, "widths": [4, 4]}
ARMS = [
    *(pytest.param({"method": m}, id=m) for m in METHODS if registry.get("methods", m).get("ITERATIONS") != 1),
    pytest.param({"method": "vanilla", "average": 0.9, "params": {"input_noise": 0.05}}, id="noise and average"),
    pytest.param({"method": "vanilla", "stop": {"wmv": WMV}, "watch": [{"emv": {"min_iterations": 3}}]}, id="wmv"),
    pytest.param({"method": "vanilla", "stop": {"holdout": HOLDOUT}}, id="refit"),
    pytest.param({"method": "vanilla", "stop": {"sv_es": SV_ES}, "watch": [{"discrepancy": {"sigma": 0.02}}]}, id="sv_es"),
    pytest.param({"method": "vanilla", "stop": {"discrepancy": {"sigma": 0.02, "tau": 8.0}}, "penalty": {"tv": 0.01}}, id="discrepancy"),
    pytest.param({"method": "vanilla", "stop": "min_loss", "precondition": 0.02}, id="min_loss"),
    pytest.param({"method": "self_guided", "schedule": "cosine"}, id="cosine"),
]


@pytest.mark.parametrize("given", ARMS)
@pytest.mark.parametrize("after", [3, 17, 20])  # 20: where the loop also reads the stop rule
def test_promise_3_a_resumed_reconstruction_has_the_same_bits(tmp_path, given, after):
    loop.set_up("cpu", 1)
    arm = small_arm(**given, iterations=36)
    straight, _ = fit(arm)
    with pytest.raises(loop.Interrupted, match=f"saved at iteration {after}"):
        fit(arm, Stopper(tmp_path / "c.pt", after))
    resumed, said = fit(arm, Stopper(tmp_path / "c.pt", 10**6))
    assert f"resumed from the checkpoint at iteration {after}" in said
    assert store.checksum(resumed.image) == store.checksum(straight.image)
    assert store.checksum(resumed.snapshots) == store.checksum(straight.snapshots)
    for field in ("chosen", "iterations", "watched"):
        assert getattr(resumed, field) == getattr(straight, field)
    assert [k for k, _ in resumed.losses] == [k for k, _ in straight.losses]


def test_a_damaged_checkpoint_costs_its_iterations_only(tmp_path, capsys):
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    keeper = Stopper(tmp_path / "c.pt", 10**6)
    result, _ = fit(small_arm("vanilla", 10), keeper)
    assert result.iterations == 10 and "cannot be read" in capsys.readouterr().out


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"run": Evil()}, tmp_path / "c.pt")
    assert Stopper(tmp_path / "c.pt", 10**6).load() is None
    assert not (tmp_path / "owned").exists()


def test_divergence_is_a_reason_not_an_accident():
    with pytest.raises(loop.Diverged, match=r"diverged at iteration \d+.*lower the learning rate"):
        fit(small_arm("vanilla", 60, params={"lr": 1e12}))


def chosen_at(monkeypatch, best):
    """The held-out error of every step is its distance from ``best``, whatever the images."""
    from dipline.stopping.holdout import Holdout

    update = Holdout.update
    held = lambda self, k, image, output, loss, _: update(self, k, image, output, loss, torch.tensor(abs(k - best) + 0.1))  # noqa: E731
    monkeypatch.setattr(Holdout, "update", held)
    return {"smooth": 1, "min_iterations": 1, "patience": 3}


def test_a_stop_rule_ends_the_run(monkeypatch):
    result, _ = fit(small_arm("vanilla", 40, stop={"holdout": chosen_at(monkeypatch, 6)}))
    assert (result.chosen, result.iterations) == (6, 10), "asked every 10 steps"


def test_a_refit_runs_as_long_as_was_chosen_and_counts_both_fits(monkeypatch, tmp_path):
    """The table of times gave an arm with `refit: true` the seconds of its second fit alone.
    It looked as cheap as an arm that fits once, and cheaper after a resume."""
    arm = small_arm("vanilla", 40, stop={"holdout": chosen_at(monkeypatch, 6) | {"refit": True}})
    runs, iterate = [], loop.iterate
    monkeypatch.setattr(loop, "iterate", lambda run, *more: runs.append(run) or iterate(run, *more))
    straight, said = fit(arm)
    assert [run.k for run in runs] == [10, 7] and runs[1].held is None
    assert "fitting all samples for the 7 iterations that the held-out samples chose" in said
    assert straight.chosen == 6 and straight.iterations == 17
    assert straight.seconds == sum(run.seconds for run in runs) > runs[1].seconds > 0
    with pytest.raises(loop.Interrupted):
        fit(arm, Stopper(tmp_path / "c.pt", 9 + 3))  # the last step of a fit asks nobody
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert saved["before"][0] > 0 and saved["before"][1] == 10 and saved["run"]["k"] == 3
    resumed, _ = fit(arm, Stopper(tmp_path / "c.pt", 10**6))
    assert resumed.iterations == 17 and resumed.seconds > saved["before"][0] + saved["run"]["seconds"]


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_a_checkpoint_is_loaded_to_the_device_of_the_run():
    """On a GPU, a resumed run kept its average and its last image on the CPU.
    The first step after the resume mixed devices and ended every attempt."""
    A, y, _ = disc_problem()
    arm = small_arm("vanilla", 12, average=0.9, stop={"wmv": WMV})
    state, resumed = (loop.Run(y, A, arm, 0, {}, arm["stop"], 12) for _ in range(2))
    for _ in range(4):
        state.step()
    resumed.device = torch.device("meta")  # stands for any other than the checkpoint's
    resumed.load(state.state())
    tensors = [resumed.average, resumed.last, *resumed.rule.buffers(), *(view for _, view in resumed.snapshots)]
    assert len(resumed.snapshots) > 1 and {t.device.type for t in tensors} == {"meta"}


def test_one_slow_save_does_not_make_checkpoints_rare_for_ever(tmp_path, monkeypatch):
    """The file server hung once for ten seconds, and the interval between checkpoints grew to 500 s for the rest of the job.
    A job that was killed hours later lost eight minutes instead of one."""
    clock = iter([0, 0, 10, 20, 20.5, 30, 32])
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    keeper = Keeper(tmp_path / "c.pt", SimpleNamespace(mine=lambda: True), SimpleNamespace(seen=[]), every=60)
    intervals = []
    for _ in range(3):
        keeper.save({"k": 1})
        intervals.append(keeper.every)
    assert intervals == [500, 60, 100]


# the progress line


def test_a_line_a_minute_says_where_the_run_is(monkeypatch):
    clock, said, step = [0.0], [], loop.Run.step
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(run):
        clock[0] += 7.0
        return step(run)

    monkeypatch.setattr(loop.Run, "step", slow)
    A, y, _ = disc_problem()
    loop.fit(y, A, small_arm("vanilla", 30), say=lambda line: said.append((clock[0], line)))
    times = [0.0, *(t for t, _ in said)]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= 60 and times[-1] == 210.0
    assert all(re.fullmatch(r"step \d+/30  loss \d\.\d{3}e[+-]\d\d  0\.1 it/s  eta \d+\.\d min", line) for _, line in said)
    first = re.match(r"step (\d+)/30 .* eta (.*) min", said[0][1])
    assert float(first[2]) == pytest.approx((30 - int(first[1])) * 7 / 60, abs=0.1)


# the lease


def test_the_newest_job_wins(tmp_path):
    old = Lease(tmp_path)
    old.acquire()
    assert old.mine()
    new = Lease(tmp_path)
    new.me["host"] = "elsewhere"  # so that the kernel cannot tell whether the old one lives
    old.me["host"] = "here"
    taken = []
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=lambda: (new.acquire(), os._exit(0 if new.mine() else 1)))
    process.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not taken:
        old.last = 0.0
        if old.beat():
            taken.append(True)
            old.release()
        time.sleep(0.05)
    process.join(10)
    assert taken and process.exitcode == 0, "the old one was asked and left, the new one owns the folder"


def test_an_older_job_does_not_push_out_a_newer_one(tmp_path):
    old = Lease(tmp_path)
    new = Lease(tmp_path)
    new.me["born"] = old.me["born"] + 1
    new.acquire()
    with pytest.raises(Lost, match="newer job"):
        old.acquire()
    assert new.mine()


def test_a_dead_owner_is_replaced_at_once(tmp_path):
    dead = multiprocessing.get_context("fork").Process(target=lambda: (Lease(tmp_path).acquire(), os._exit(9)))
    dead.start()
    dead.join()
    began = time.monotonic()
    lease = Lease(tmp_path)
    lease.acquire()
    assert lease.mine() and time.monotonic() - began < 5


def test_a_silent_owner_elsewhere_is_replaced_when_stale(tmp_path):
    silent = Lease(tmp_path)
    silent.me["host"] = "elsewhere"
    silent.acquire()
    os.utime(silent.owner, (1, 1))
    lease = Lease(tmp_path)
    lease.acquire()
    assert lease.mine()
    silent.last = 0.0
    with pytest.raises(Lost):
        silent.beat()


def test_a_signal_ends_the_wait_for_the_lease(tmp_path):
    """A job that waited for another to leave took no notice of a signal, because only the loop looked for one.
    Slurm killed it after the grace period, and Ctrl-C seemed to do nothing."""
    owner = Lease(tmp_path)
    owner.acquire()
    waiting = Lease(tmp_path)
    waiting.me["host"], waiting.me["born"] = "elsewhere", owner.me["born"] + 1
    began = time.monotonic()
    with pytest.raises(loop.Interrupted, match="a signal came while another job held"):
        waiting.acquire(SimpleNamespace(seen=[signal.SIGTERM]))
    assert time.monotonic() - began < 5 and owner.mine()
    assert not list(tmp_path.glob(f".{waiting.me['token']}*")), "its card is gone"


def test_a_keeper_without_the_lease_writes_nothing(tmp_path):
    lease = Lease(tmp_path)
    lease.acquire()
    keeper = Keeper(tmp_path / "c.pt", lease, SimpleNamespace(seen=[]))
    keeper.save({"k": 1})
    before = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "owner.json").write_text(json.dumps({"token": "another", "born": time.time()}))
    with pytest.raises(Lost):
        keeper.save({"k": 2})
    assert (tmp_path / "c.pt").read_bytes() == before


# a real process


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(command of a reconstruction of some seconds, its output), on a measurement of discs."""
    folder = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((4, 48, 48)) + 1j * rng.standard_normal((4, 48, 48))).astype(np.complex64)
    mask = np.arange(48) % 2 == 0
    mask[20:28] = True
    attributes = {"kind": "measurement", "status": "done", "reason": "", "physics": "sense"}
    maps = np.full((1, 4, 48, 48), 0.5, np.complex64)
    content = {s: {"kspace": kspace * mask * (s + 1), "maps": maps} for s in (0, 1)}
    store.write(folder / "m.h5", content, attributes, {"mask": mask, "view_shape": np.array([48, 48])})
    arm = small_arm("vanilla", 700, network="skip")
    spec = json.dumps({"arm": arm, "device": "cpu", "threads": 1})

    def command(name):
        out, state = folder / f"{name}.h5", folder / f"{name}.state"
        line = [sys.executable, "-m", "dipline", "reconstruct", str(folder / "m.h5"), "--out", str(out)]
        return [*line, "--slices", "0,1", "--spec", spec, "--state", str(state)], out

    straight, out = command("straight")
    subprocess.run(straight, check=True, capture_output=True)
    return command, [i["checksum"] for i in store.read(out)[1].values()]


def start(command):
    environment = os.environ | {"DIPLINE_CHECKPOINT_SECONDS": "0.3", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(path, pattern, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if list(path.glob(pattern)):
            return
        time.sleep(0.02)
    pytest.fail(f"{pattern} did not appear")


def test_kill_9_in_the_middle_then_again_same_bits(job):
    command, want = job
    line, out = command("killed")
    first = start(line)
    wait_for(out.with_suffix(".state"), "*/s*.pt")
    first.kill()
    first.wait()
    assert not out.exists()
    second = subprocess.run(line, capture_output=True, text=True)
    assert second.returncode == 0 and "resumed from the checkpoint at iteration" in second.stdout
    assert [i["checksum"] for i in store.read(out)[1].values()] == want


def test_signals_are_noted():
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        signals = resume.Signals()
        for number in before:
            os.kill(os.getpid(), number)
        assert sorted(signals.seen) == sorted(before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_75(job, number):
    command, want = job
    line, out = command(f"signal{int(number)}")
    first = start(line)
    wait_for(out.with_suffix(".state"), "*/s*.pt")
    first.send_signal(number)
    said, _ = first.communicate(timeout=30)
    assert first.returncode == store.AGAIN == 75, said
    assert "saved at iteration" in said or "is finished and kept" in said
    second = subprocess.run(line, capture_output=True, text=True)
    assert "resumed from the checkpoint" in second.stdout or "finished before" in second.stdout
    assert [i["checksum"] for i in store.read(out)[1].values()] == want


def test_two_jobs_on_one_reconstruction_hand_over(job):
    """The second one waits until the first has saved, and goes on from there."""
    command, want = job
    line, out = command("twice")
    first = start(line)
    wait_for(out.with_suffix(".state"), "*/s*.pt")
    second = start(line)
    said_first, _ = first.communicate(timeout=120)
    said_second, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said_second
    assert first.returncode in (0, 75), said_first
    assert [i["checksum"] for i in store.read(out)[1].values()] == want


def test_a_finished_block_is_handed_over_again_in_no_time(job):
    """A finished output can still be deleted by Snakemake; the state makes it again without computing."""
    command, want = job
    line, out = command("killed")
    if not out.exists():
        subprocess.run(line, check=True, capture_output=True)
    out.unlink()
    again = subprocess.run(line, capture_output=True, text=True)
    assert again.stdout.count("finished before") == 2 and "it/s" not in again.stdout
    assert [i["checksum"] for i in store.read(out)[1].values()] == want


def test_full_disk_is_said_and_leaves_no_half_file(job, tmp_path):
    """On a real file system of 200 kB, HDF5 broke down in the middle of a file: 70 lines of trace and a segmentation fault.
    The user had to find "No space left" in them, and the scheduler took it for a fault of the program."""
    command, want = job
    line, _ = command("straight")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        (small / "ballast").write_bytes(bytes(150_000))
        line[line.index("--out") + 1] = str(small / "r.h5")
        run = subprocess.run(line, capture_output=True, text=True)
        full = f"{small}/r.snapshots.h5: disk full; free space and run again; what was finished is kept"
        assert run.returncode == store.AGAIN and run.stderr.splitlines() == [full] and "Traceback" not in run.stdout
        keeper = Keeper(small / "c.pt", SimpleNamespace(mine=lambda: True), SimpleNamespace(seen=[]))
        with pytest.raises(store.Unwritable, match="c.pt: disk full"):
            keeper.save({"x": torch.zeros(50_000)})
        assert [p.name for p in small.iterdir()] == ["ballast"], "no half file under the final name"
        (small / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=20M", str(small)], check=True)
        again = subprocess.run(line, capture_output=True, text=True)
        assert again.returncode == 0 and "finished before" in again.stdout, "nothing that was computed is lost"
        assert [i["checksum"] for i in store.read(small / "r.h5")[1].values()] == want
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_disk_full_while_writing_loses_nothing(tmp_path, monkeypatch):
    """A write that fails leaves the old file and no half one."""
    store.write_text(tmp_path / "x.json", "old")

    def full(*a, **k):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(store.Unwritable, match="x.json: disk full; free space and run again"):
        store.write_text(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]
