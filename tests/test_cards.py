"""Cards of a machine without a scheduler, pretended: names in CUDA_VISIBLE_DEVICES."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dipline import cards
from dipline import study as studies
from dipline.plan import Plan

JOB = """
import sys, time
from dipline import cards
card = cards.claim(sys.argv[1], say=lambda line: print(line, flush=True))
import os
print(f"{time.monotonic():.3f} {card} {os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
time.sleep(float(sys.argv[2]))
print(f"{time.monotonic():.3f} over", flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Start a job that takes a card and keeps it for so many seconds."""
    started = []

    def start(seconds, device="auto", **env):
        env = os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"} | env
        job = subprocess.Popen([sys.executable, "-c", JOB, device, str(seconds)], env=env, stdout=subprocess.PIPE, text=True)
        started.append(job)
        return job

    yield start
    for job in started:
        job.kill()
        job.communicate()


def test_never_two_jobs_on_one_card(start):
    held = {"0": [], "1": []}
    for job in [start(0.4) for _ in range(5)]:
        taken, over = [line for line in job.communicate(timeout=60)[0].splitlines() if not line.startswith("all cards")]
        since, card, seen = taken.split()
        assert seen == card, "the other card must be out of sight"
        held[card].append((float(since), float(over.split()[0])))
    assert sum(map(len, held.values())) == 5 and all(held.values()), "both cards are used"
    for spans in map(sorted, held.values()):
        assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


def test_a_killed_job_frees_its_card(start):
    first = [start(60), start(60)]
    taken = [job.stdout.readline().split()[1] for job in first]
    assert sorted(taken) == ["0", "1"]
    waiting = start(0)
    assert waiting.stdout.readline().startswith("all cards (0, 1) are taken; waiting")
    first[0].send_signal(signal.SIGKILL)
    assert waiting.stdout.readline().split()[1] == taken[0]


def test_other_slurm_jobs_count_their_own_cards(start):
    jobs = [start(60, SLURM_JOB_ID=name) for name in ("7", "8")]
    assert [job.stdout.readline().split()[1] for job in jobs] == ["0", "0"]


@pytest.mark.parametrize(("device", "seen"), [("cpu", "0,1"), ("cuda:1", "0,1"), ("auto", "3"), ("auto", "")])
def test_nothing_to_choose(start, device, seen):
    job = start(0, device, CUDA_VISIBLE_DEVICES=seen)
    assert job.communicate(timeout=60)[0].splitlines()[0].split(" ", 1)[1] == f"None {seen}"


def test_cards_that_nvidia_smi_lists(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.visible() == []
    tool = tmp_path / "nvidia-smi"
    listed = ["GPU 0: NVIDIA A100 (UUID: GPU-5c)", "  MIG 1g.5gb Device 0: (UUID: MIG-c)", "GPU 1: NVIDIA A100 (UUID: GPU-7d)"]
    tool.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in listed)]))
    tool.chmod(0o755)
    assert cards.visible() == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert cards.visible() == []


def reconstruct(folder, *more):
    """The verb itself, whose measurement is missing: by then it has chosen."""
    env = os.environ | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": "0,1"}
    verb = [sys.executable, "-m", "dipline", "reconstruct", str(folder / "none.h5"), "--out", str(folder / "r.h5"), "--slices", "0"]
    subprocess.run([*verb, *more], env=env, capture_output=True)


def test_a_job_without_a_network_claims_no_card(tmp_path):
    """TV waited for a card that a network computed on, and kept one from the next network."""
    reconstruct(tmp_path, "--arm", "tv")
    assert not list(tmp_path.glob("dipline-cards-*"))
    spec = {"arm": studies.resolve(studies.checked_arm({"method": "tv"})), "device": studies.device("cuda", "tv"), "threads": 1}
    reconstruct(tmp_path, "--spec", json.dumps(spec))
    assert list(tmp_path.glob("dipline-cards-*/0.lock")), "unless the study says so"


@pytest.mark.parametrize(
    ("device", "tv", "dip"),
    [("auto", ("cpu", 0), ("auto", 1)), ("cpu", ("cpu", 0), ("cpu", 0)), ("cuda", ("cuda", 1), ("cuda", 1))],
)
def test_a_job_asks_for_the_card_that_it_claims(tmp_path, monkeypatch, device, tv, dip):
    """With `device: cuda` classical arms asked Slurm for no card, and then ended because there was none."""
    monkeypatch.chdir(tmp_path)
    data = {"reader": "phantom", "params": {"patients": 1, "matrix": 32}, "acquisitions": {"all": {"mask": "full"}}}
    arms = {"tv": {"method": "tv"}, "dip": {"method": "vanilla"}}
    plan = Plan.load({"study": "s", "device": device, "datasets": {"d": data}, "arms": arms})
    for arm, wanted in (("tv", tv), ("dip", dip)):
        assert (json.loads(plan.reconstruct_spec("d", "all", arm))["device"], plan.gpus(arm)) == wanted


def test_a_job_claims_its_card_before_torch(tmp_path):
    began = time.time()
    reconstruct(tmp_path)
    (lock,) = tmp_path.glob("dipline-cards-*/0.lock")
    assert lock.stat().st_mtime >= began - 1
