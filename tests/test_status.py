"""`dipline status`: every state a reconstruction can be in, from files alone; Slurm by a pretended squeue; --watch; a real job."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fabricated import study

from dipline import cli, lease, status, store
from dipline.plan import Plan

ROOT = Path(__file__).parent.parent
RULE = (ROOT / "workflow" / "rules" / "reconstruct.smk").read_text()
HERE = socket.gethostname()
STEPS = "slice 1: vanilla, seed 0, on cpu, 1 threads\nstep 200/2000  loss 3.1e-02  12.5 it/s  eta 2.4 min\n"
TRACE = 'Traceback (most recent call last):\n  File "loop.py", line 3, in fit\n    x = y\n'
OLD = time.time() - 1000


class Folder:
    """The results of three patients with two arms, in blocks of two slices, before anything ran."""

    BLOCK = "s001-002"

    def __init__(self):
        arms = {"tv": {"method": "tv"}, "dip": {"method": "vanilla", "iterations": 2000}}
        knee = study()["datasets"]["knee"]
        knee["acquisitions"] = {"R4": knee["acquisitions"]["R4"]}
        self.study = study(datasets={"knee": knee}, arms=arms, seeds=[0], block={"slices": 2})
        self.plan = Plan.load(self.study)
        store.write_text(self.plan.root / "study.resolved.yaml", self.plan.resolved_yaml())
        self.jobs = {f"{job.volume[-1]}{job.arm}": job for job in self.plan.jobs}  # "1dip": patient_001, arm dip

    def place(self, what, name):
        """Where the rule puts its log or its state."""
        pattern = {"log": r'log:\n\s+f"(.*)"', "state": r'state=f"(.*)"'}[what]
        path = re.search(pattern, RULE)[1].replace("{ROOT}", str(self.plan.root)).replace("{LOGS}", "logs/fabricated")
        return Path(path.replace("{{", "{").replace("}}", "}").format(**self.jobs[name]._asdict(), block=self.BLOCK))

    def name(self, name):
        job = self.jobs[name]
        return f"{job.dataset}/{job.volume}/{job.acq}/{job.arm}/seed0/{self.BLOCK}"

    def measured(self, volume=1, **more):
        key = "knee", f"patient_00{volume}", "R4"
        spec = json.loads(self.plan.measure_spec(key[0], key[2]))
        head = {"kind": "measurement", "status": "done", "reason": "", "provenance": {"spec": spec}}
        store.write(self.plan.measurement(*key), {}, head | more)

    def made(self, name, reasons=("", "")):
        job = self.jobs[name]
        slices = {s: {"status": "failed" if reason else "done", "reason": reason} for s, reason in zip((1, 2), reasons, strict=True)}
        spec = json.loads(self.plan.reconstruct_spec(job.dataset, job.acq, job.arm))
        head = {"kind": "recon", "provenance": {"spec": spec}, "status": "failed" if any(reasons) else "done"}
        (recon,) = self.plan.recons(job)
        store.write(recon, slices, head)
        return spec

    def scored(self, name, state="done", spec=None):
        job = self.jobs[name]
        spec = spec or json.loads(self.plan.reconstruct_spec(job.dataset, job.acq, job.arm))
        store.write_text(self.plan.score(job), json.dumps({"status": state, "reason": "", "specs": [spec], "rows": []}))

    def said(self, name, words, when=None):
        log = self.place("log", name)
        store.write_text(log, words)
        os.utime(log, (when or time.time(),) * 2)
        return str(log)

    def kept(self, name, *files, settings="0123456789abcdef"):
        for file in files:
            store.write_text(self.place("state", name) / settings / file, "")

    def held(self, name, pid=None, host=HERE, job=None, silent=0.0, settings="0123456789abcdef"):
        owner = self.place("state", name) / settings / "owner.json"
        store.write_text(owner, json.dumps({"token": "t", "born": 1.0, "job": job, "host": host, "pid": pid or os.getpid()}))
        os.utime(owner, (time.time() - silent,) * 2)

    def look(self):
        return status.Survey(Plan.open(self.plan.root)).look()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    squeue(tmp_path, "", status=1)  # a cluster that the tests happen to run on must not be asked
    return Folder()


def squeue(folder, text, status=0):
    """A squeue that answers so, and keeps what it was asked."""
    tool = folder / "bin" / "squeue"
    tool.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\ncat << "END"\n{text}\nEND\nexit {status}\n')
    tool.chmod(0o755)


def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def said(capsys, *arguments):
    capsys.readouterr()
    cli.main(["status", "results/fabricated", *arguments])
    return capsys.readouterr().out


# the states


def test_nothing_has_begun(folder):
    found = folder.look()
    assert found["counts"] == {"total": 6, "done": 0, "running": 0, "stopped": 0, "failed": 0, "waiting": 6, "outdated": 0}
    assert found["measurements"] == {"total": 3, "done": 0, "failed": 0} and found["scores"] == {"total": 6, "done": 0, "failed": 0}
    assert found["report"] is None and found["running"] == found["stopped"] == found["failed"] == []


WHERE = {"iteration": 200, "of": 2000, "slice": 1, "slices": 2}
PACE = {"speed": 12.5, "minutes_left": 2.4}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (STEPS, WHERE | PACE),
        (STEPS + "step 450/2000  loss 1.0e-02  0.0 it/s  eta 90.0 min\n", WHERE | {"iteration": 450, "speed": 0.0, "minutes_left": 90.0}),
        ("slice 1: vanilla, seed 0\nresumed from the checkpoint at iteration 320\n", WHERE | {"iteration": 320, "of": None}),
        (STEPS.replace("slice 1", "slice 1: finished before\nslice 2"), WHERE | PACE | {"slice": 2}),
        (STEPS + "slice 2: vanilla, seed 0, on cpu, 1 threads\n", WHERE | {"iteration": None, "of": None, "slice": 2}),
        (STEPS + "fitting all samples for the 70 iterations that the held-out samples chose\n", WHERE | {"iteration": None, "of": None}),
        ("x" * 20000 + "\n" + STEPS.split("\n", 1)[1], WHERE | PACE),
    ],
    ids=["step", "slow", "resumed", "second", "just begun", "refit", "long"],
)
def test_running(folder, words, expected):
    folder.held("1dip", job="77")
    folder.kept("1dip", "s001.pt", *(["s001.h5", "s001.snapshots.h5"] if expected["slice"] == 2 else []))
    log = folder.said("1dip", words)
    found = folder.look()
    assert found["counts"]["running"] == 1 and found["counts"]["waiting"] == 5
    owner = {"recon": folder.name("1dip"), "log": log, "host": HERE, "job": "77"}
    assert found["running"] == [{"speed": None, "minutes_left": None} | expected | owner]


def test_running_elsewhere_and_just_started(folder):
    folder.held("1dip", pid=ended(), host="node7", silent=lease.STALE - 10)  # of another host the kernel knows nothing
    folder.said("2dip", "")
    found = folder.look()
    assert {(item["recon"], item["host"]) for item in found["running"]} == {(folder.name("1dip"), "node7"), (folder.name("2dip"), None)}


@pytest.mark.parametrize("how", ["pid", "silent", "released"])
@pytest.mark.parametrize("kept", [["s001.pt"], ["s001.h5", "s001.snapshots.h5"]], ids=["checkpoint", "slice"])
def test_stopped(folder, how, kept):
    """Nobody holds the state: its process ended, or it has been silent for long, or it left in good order."""
    folder.kept("1dip", *kept)
    if how != "released":
        folder.held("1dip", **({"pid": ended()} if how == "pid" else {"host": "node7", "silent": lease.STALE + 10}))
    words = STEPS + ("leaving: saved at iteration 231; run again to continue\n" if how == "released" else "")
    log = folder.said("1dip", words)
    found = folder.look()
    where = WHERE | {"iteration": 231 if how == "released" else 200, "slice": 2 if "s001.h5" in kept else 1, "log": log}
    assert found["stopped"] == [{"recon": folder.name("1dip")} | where] and found["counts"]["stopped"] == 1
    assert not found["running"] and not found["failed"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (STEPS + TRACE + "MemoryError\n", "MemoryError"),
        (STEPS + TRACE + "KeyError: 1\n\nDuring it:\n\n" + TRACE + "RuntimeError: CUDA error\nmore about it\n", "RuntimeError: CUDA error"),
        (STEPS + TRACE + "ValueError: x\nslice 1 failed: x\nr.h5: disk full; free space\n", "r.h5: disk full; free space"),
        ("Killed\n", "Killed"),
        (STEPS, status.KILLED),
        (STEPS + "/lib/x.py:3: UserWarning: y\n  warn(y)\n", status.KILLED),
        ("", status.KILLED),
    ],
)
def test_died_without_a_result(folder, words, reason):
    folder.held("1dip", pid=ended())
    log = folder.said("1dip", words, OLD)
    found = folder.look()
    assert found["failed"] == [{"count": 1, "recon": folder.name("1dip"), "reason": reason, "log": log}]
    assert found["counts"]["failed"] == 1


def test_waiting_where_a_log_is_left_but_nothing_else(folder):
    """`dipline retry` removed a failed result; its log ends as that of a job that ended well."""
    folder.said("1dip", STEPS + "slice 1 failed: diverged\n", OLD)
    folder.said("2dip", "all cards (0, 1) are taken; waiting (--resources gpu=2 starts no more jobs than cards)\n")
    assert folder.look()["counts"]["waiting"] == 6


def test_results_with_and_without_scores(folder):
    for volume in (1, 2):
        folder.measured(volume)
    folder.measured(3, status="failed", reason="the scan is broken")
    for name in ("1dip", "1tv", "2dip"):
        folder.made(name)
    folder.made("2tv", ("", "diverged at iteration 31"))
    folder.made("3tv", ("no measurement: the scan is broken",) * 2)
    for name, state in (("1dip", "done"), ("2tv", "failed"), ("3tv", "failed")):
        folder.scored(name, state)
    found = folder.look()
    assert found["counts"] == {"total": 6, "done": 3, "running": 0, "stopped": 0, "failed": 2, "waiting": 1, "outdated": 0}
    assert [group["reason"] for group in found["failed"]] == ["diverged at iteration 31", "no measurement: the scan is broken"]
    assert found["failed"][0]["log"] == str(folder.place("log", "2tv"))
    assert found["measurements"] == {"total": 3, "done": 2, "failed": 1} and found["scores"] == {"total": 6, "done": 1, "failed": 2}


def test_half_written_files_are_named(folder):
    folder.made("1dip")
    Path(folder.plan.recons(folder.jobs["1dip"])[0]).write_bytes(b"half")
    folder.made("1tv")
    folder.scored("1tv")
    Path(folder.plan.score(folder.jobs["1tv"])).write_text('{"status": "do')
    found = folder.look()
    assert [group["reason"] for group in found["failed"]] == [status.BROKEN]
    assert found["counts"]["done"] == 1 and found["scores"]["done"] == 0


def test_results_of_other_settings_wait_until_they_are_made_again(folder):
    """Right after an arm was changed, everything would still count as done."""
    folder.measured()
    for name in ("1dip", "1tv"):
        folder.made(name)
        folder.scored(name)
        folder.said(name, STEPS, OLD)
    assert folder.look()["counts"]["done"] == 2
    folder.study["arms"]["dip"]["iterations"] = 3000
    store.write_text(folder.plan.root / "study.resolved.yaml", Plan.load(folder.study).resolved_yaml())
    found = folder.look()
    assert found["counts"] | {"done": 1, "waiting": 5, "outdated": 1} == found["counts"] and found["scores"]["done"] == 1
    Path(folder.plan.recons(folder.jobs["1dip"])[0]).unlink()  # as Snakemake does when it begins
    folder.held("1dip")
    folder.said("1dip", STEPS)
    assert folder.look()["counts"]["running"] == 1


@pytest.mark.parametrize("how", ["made again", "of another acquisition"])
def test_results_of_an_older_measurement_are_outdated(folder, how):
    folder.measured()
    folder.made("1dip")
    folder.scored("1dip")
    assert folder.look()["counts"]["done"] == 1
    if how == "made again":
        later = time.time() + 5
        os.utime(folder.plan.measurement("knee", "patient_001", "R4"), (later, later))
    else:
        folder.study["datasets"]["knee"]["acquisitions"]["R4"]["acceleration"] = 5
        store.write_text(folder.plan.root / "study.resolved.yaml", Plan.load(folder.study).resolved_yaml())
    found = folder.look()
    assert found["counts"]["outdated"] == 1 and found["counts"]["done"] == found["scores"]["done"] == 0


def test_a_new_result_beside_an_old_score(folder):
    folder.made("1dip")
    folder.scored("1dip")
    os.utime(folder.plan.score(folder.jobs["1dip"]), (OLD, OLD))
    found = folder.look()
    assert found["counts"]["done"] == 1 and found["scores"]["done"] == 0


def test_of_two_states_the_living_one_counts(folder):
    """Changed settings leave a state behind, whose time may be the newer one."""
    folder.held("1dip", settings="aaaa")
    folder.kept("1dip", "s001.h5", "s002.pt", settings="bbbb")
    os.utime(folder.place("state", "1dip") / "bbbb", (time.time() + 9,) * 2)
    (item,) = folder.look()["running"]
    assert item["slice"] == 1


def test_the_report(folder, capsys):
    page = folder.plan.root / "report.html"
    store.write_text(page, "")
    assert folder.look()["report"] == {"file": str(page), "current": True}
    folder.scored("1tv")
    os.utime(page, (OLD, OLD))
    assert folder.look()["report"]["current"] is False
    assert f"report           {page} (older than the scores)" in said(capsys)


def test_what_was_read_is_read_again_only_when_it_has_changed(folder, monkeypatch):
    """And where a score says that all went well, the reconstruction is not opened at all."""
    folder.measured()
    folder.made("1tv")
    folder.scored("1tv")
    folder.made("1dip")
    opened, peek = [], store.peek
    monkeypatch.setattr(store, "peek", lambda file, *names: opened.append(Path(file).name + Path(file).parts[-3]) or peek(file, *names))
    survey = status.Survey(folder.plan)
    assert survey.look()["counts"]["done"] == 2 and opened == ["R4.h5knee", f"{folder.BLOCK}.h5dip"]
    assert survey.look()["counts"]["done"] == 2 and len(opened) == 2
    folder.made("1dip", ("", "diverged"))
    assert survey.look()["counts"]["failed"] == 1 and len(opened) == 3


# what is printed


def test_the_text_is_short_and_says_it_all(folder, capsys):
    folder.measured()
    folder.held("1dip", job="77", host="node7")
    folder.kept("1dip", "s001.h5")
    folder.said("1dip", STEPS)
    folder.kept("2dip", "s001.pt")
    folder.said("2dip", STEPS)
    folder.made("3tv", ("diverged at iteration 31", ""))
    log = folder.place("log", "3tv")
    lines = said(capsys).splitlines()
    assert lines[:4] == [
        "reconstructions  6: 1 running, 1 stopped, 1 failed, 3 waiting",
        "measurements     1 of 3 done",
        "scores           0 of 6 done",
        "report           not yet",
    ]
    where = "knee/patient_001/R4/dip/seed0/s001-002  200/2000  12.5 it/s  2.4 min left  slice 2 of 2  node7, job 77"
    assert "  " + where in lines and max(map(len, lines)) <= 105
    assert "  knee/patient_002/R4/dip/seed0/s001-002  200/2000  slice 1 of 2" in lines
    assert lines[-2:] == ["  1 x diverged at iteration 31", f"      {log}"]


def test_equal_reasons_are_one_line_and_long_lists_are_cut():
    """A thousand slices diverged, each at its own iteration: the list filled the screen and hid a full disk."""
    running = [{"recon": f"r{n}", "iteration": None, "of": None, "slices": 1, "host": None} for n in range(25)]
    found = {
        "counts": {"total": 25, "done": 0, "running": 25, "stopped": 0, "failed": 0, "waiting": 0, "outdated": 0}, "running": running,
        "stopped": [], "failed": [], "measurements": {"total": 1, "done": 1, "failed": 1}, "scores": {"total": 1, "done": 0, "failed": 0},
        "report": None, "slurm": None,
    }  # fmt: skip
    lines = status.text(found).splitlines()
    assert lines[-2:] == ["  r19  begun", "  … 5 more"] and "measurements     1 of 1 done, 1 failed" in lines


def test_equal_reasons_are_grouped(folder):
    folder.made("1dip", ("", "diverged at iteration 31: the loss is 2.5e+07"))
    folder.made("2dip", ("diverged at iteration 7: the loss is nan", ""))
    folder.made("3dip", ("diverged at iteration 800: the loss is 1e+09", ""))
    folder.made("2tv", ("diverged at iteration 9: the loss is 3e+08",) * 2)
    first, second = folder.look()["failed"]
    assert (first["count"], first["recon"]) == (3, folder.name("1dip")) and first["log"] == str(folder.place("log", "1dip"))
    assert first["reason"] == "diverged at iteration 31: the loss is 2.5e+07"
    assert (second["count"], second["recon"]) == (1, folder.name("2dip"))


def test_json(folder, capsys):
    folder.held("1dip")
    folder.said("1dip", STEPS)
    printed = said(capsys, "--json")
    assert printed.count("\n") == 1 and json.loads(printed) == folder.look()
    expected = {"study", "counts", "running", "stopped", "failed", "measurements", "scores", "report", "slurm"}
    assert set(json.loads(printed)) == expected, "what scripts rely on"


def test_a_study_file_will_do_as_well(folder, capsys):
    Path("study.yaml").write_text(yaml.safe_dump(folder.study))
    cli.main(["status", "study.yaml"])
    assert capsys.readouterr().out == said(capsys)


def test_the_folder_may_be_elsewhere(folder, tmp_path, monkeypatch, capsys):
    folder.held("1dip")
    folder.said("1dip", STEPS)
    monkeypatch.chdir("/")
    cli.main(["status", str(tmp_path / "results/fabricated")])
    assert "200/2000" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["0", "-3", "often", "nan"])
def test_a_wrong_interval(folder, word, capsys):
    with pytest.raises(SystemExit):
        cli.main(["status", "results/fabricated", f"--watch={word}"])
    assert f"found '{word}', allowed: seconds, e.g. 10" in capsys.readouterr().err


# Slurm


def test_slurm_is_asked_for_the_jobs_of_this_folder(folder, tmp_path, capsys):
    run = "dipline_5c1d"
    rows = [
        f"9|{run}|{tmp_path}|FAILED|rule_reconstruct_gpu_wildcards_knee_3",
        f"10|{run}|{tmp_path}|PREEMPTED|rule_reconstruct_gpu_wildcards_knee_1",
        f"11|{run}|{tmp_path}|RUNNING|rule_score_wildcards_knee_2",
        f"12|{run}|{tmp_path}|PENDING|rule_reconstruct_gpu_wildcards_knee_3",
        f"13|{run}|{tmp_path}|PREEMPTED|rule_reconstruct_gpu_wildcards_knee_4",
        f"104|dipline_77aa|{tmp_path}|PENDING|rule_reconstruct_gpu_wildcards_knee_4",
        f"14|{run}|{tmp_path}/other|RUNNING|rule_score_wildcards_knee_2",
        f"15|bash|{tmp_path}|RUNNING|(null)",
    ]
    squeue(tmp_path, "\n".join(rows))
    preempted = [{"id": "10", "job": "reconstruct_gpu_wildcards_knee_1"}]
    assert folder.look()["slurm"] == {"running": 1, "pending": 2, "preempted": preempted}, "13 was submitted again, as 104"
    assert (tmp_path / "asked").read_text() == "--me -h -t all -o %i|%j|%Z|%T|%k\n"
    lines = said(capsys).splitlines()
    assert "Slurm            1 job(s) running, 2 pending" in lines
    assert lines[5] == (
        "job 10 (reconstruct_gpu_wildcards_knee_1) was preempted and will not come back: "
        "press Ctrl-C in Snakemake's terminal and start it again; it resumes"
    )


def test_no_slurm_or_no_answer(folder, monkeypatch, capsys):
    assert folder.look()["slurm"] is None and "Slurm" not in said(capsys)
    monkeypatch.setenv("PATH", "/nowhere")
    assert folder.look()["slurm"] is None


def test_jobs_are_called_as_the_profile_says():
    profile = yaml.safe_load((ROOT / "config/slurm/config.yaml").read_text())
    assert profile["slurm-jobname-prefix"] == status.JOBS


# --watch


def finish(folder):
    for name in folder.jobs:
        folder.made(name)
        folder.scored(name)


def test_watch_prints_changes_and_ends_by_itself(folder, monkeypatch, capsys):
    looks, slept = [], []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            finish(folder)

    monkeypatch.setattr(status, "time", SimpleNamespace(time=time.time, sleep=sleep))  # subprocess sleeps as well
    survey = status.Survey(folder.plan)
    status.watch(lambda: looks.append(1) or survey.look(), status.text, 7.0)
    assert slept == [7.0, 7.0] and len(looks) == 3
    out = capsys.readouterr().out
    assert re.findall("reconstructions .*", out) == ["reconstructions  6: 6 waiting", "reconstructions  6: 6 done"], "what changed, once"


def test_watch_waits_for_jobs_that_slurm_still_has(folder, tmp_path, monkeypatch, capsys):
    finish(folder)
    squeue(tmp_path, f"10|dipline_1|{tmp_path}|PENDING|rule_tables")
    monkeypatch.setattr(status, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: squeue(tmp_path, "")))
    queues = re.findall("Slurm .*", said(capsys, "--watch"))
    assert queues == ["Slurm            0 job(s) running, 1 pending", "Slurm            0 job(s) running, 0 pending"]


def watching(*more, **streams):
    line = [sys.executable, "-m", "dipline", "status", "results/fabricated", "--watch", "0.2", *more]
    return subprocess.Popen(line, stderr=subprocess.PIPE, **streams)


def test_ctrl_c_ends_it_quietly(folder):
    process = watching("--json", stdout=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["counts"]["waiting"] == 6
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_on_a_terminal_it_stays_in_its_place(folder):
    mine, its = pty.openpty()
    process = watching(stdout=its, env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"})
    os.close(its)
    seen = os.read(mine, 4096)
    while b"6: 6 waiting" not in seen:
        seen += os.read(mine, 4096)
    finish(folder)
    while b"6: 6 done" not in seen:
        seen += os.read(mine, 4096)
    assert process.wait(30) == 0 and b"\x1b[1A" in seen, "the cursor went back up"


# a real job


def test_a_real_reconstruction_that_is_interrupted(tmp_path, monkeypatch):
    from dipline import measure

    monkeypatch.chdir(tmp_path)
    acquisition = {"R2": {"mask": "equispaced", "acceleration": 2, "center_fraction": 0.4}}
    params = {"patients": 1, "slices": 2, "matrix": 32, "coils": 4}
    arm = {"method": "vanilla", "iterations": 10**6, "network": {"skip": {"widths": [4], "skip_widths": [2]}}}
    plan = Plan.load({
        "study": "real", "datasets": {"brain": {"reader": "phantom", "params": params, "acquisitions": acquisition}},
        "arms": {"dip": arm}, "device": "cpu", "block": {"slices": 2},
    })  # fmt: skip
    store.write_text(plan.root / "study.resolved.yaml", plan.resolved_yaml())
    (job,) = plan.jobs
    (scan,), (recon,) = plan.scans(*job[:2]), plan.recons(job)
    measure.simulate(scan, json.loads(plan.simulate_spec("brain")))
    files = plan.measurement(*job[:3]), plan.heldout(*job[:3])
    measure.measure([scan], *files, *job[:3], [0, 1], json.loads(plan.measure_spec("brain", "R2")))
    path = "brain/patient_001/R2/dip/seed0/s000-001"
    log = Path(f"logs/real/reconstruct/{path}.log")
    log.parent.mkdir(parents=True)
    line = [sys.executable, "-m", "dipline", "reconstruct", files[0], "--out", recon, "--slices", "0,1"]
    line += ["--state", f"results/real/.state/{path}", "--spec", plan.reconstruct_spec("brain", "R2", "dip")]
    survey = status.Survey(plan)

    def begin():
        with open(log, "w") as words:
            return subprocess.Popen(line, stdout=words, stderr=words, env=os.environ | {"DIPLINE_CHECKPOINT_SECONDS": "0.2"})

    def until(true):
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)

    first = begin()
    try:
        until(lambda: survey.look()["running"])
        until(lambda: list(plan.root.glob(".state/**/s000.pt")))
        (item,) = survey.look()["running"]
        assert item["recon"] == path and item["host"] == HERE and (item["slice"], item["slices"]) == (1, 2)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == store.AGAIN
        (item,) = survey.look()["stopped"]
        assert f"saved at iteration {item['iteration']};" in log.read_text()
        first = begin()
        until(lambda: any(item["iteration"] for item in survey.look()["running"]))
        first.kill()
        first.wait()
        found = survey.look()
        assert found["counts"]["stopped"] == 1 and found["stopped"][0]["iteration"] >= item["iteration"], "at once, not after a minute"
        assert found["measurements"] == {"total": 1, "done": 1, "failed": 0}
    finally:
        first.kill()
        first.wait()
