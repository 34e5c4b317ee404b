"""A study on the throw-away Slurm: start Snakemake, wait for a moment, break something, look at what is left."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from dipline import profile, store

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STEPS = 800
STUDY = {
    "study": "cohort",
    "datasets": {"brain": {
        "reader": "phantom", "params": {"patients": 2, "first_seed": 41, "slices": 2, "matrix": 48, "coils": 4},
        "acquisitions": {"R2": {"mask": "equispaced_fraction", "acceleration": 2, "center_fraction": 0.25, "noise_snr": 20}},
    }},
    "arms": {
        "tv": {"method": "tv", "iterations": 30},
        "dip": {
            "method": "vanilla", "network": {"unet": {"widths": [8, 16], "init": "torch"}},
            "params": {"lr": 0.01, "input": "zero_filled"}, "iterations": STEPS,
        },
    },
    "block": {"slices": 2}, "snapshots": 5,
}  # fmt: skip
RECON = "results/cohort/recon/brain/{}/R2/{}/seed0/s000-001.h5"
DIP = RECON.format("patient_041", "dip")


def until(true, seconds, what):
    """The first true value of a function."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


def checksums(folder, recon):
    return [image["checksum"] for image in store.read(folder / recon, names=())[1].values()]


class Cluster:
    """The throw-away Slurm of ``mini``, in a folder."""

    def __init__(self, folder):
        self.folder, conf = folder, folder / "etc" / "slurm.conf"
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"SLURM_CONF": str(conf), "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, *line):
        done = subprocess.run([str(word) for word in line], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def states(self, job):
        return set(self.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", job).split())

    def said_of(self, job, key):
        return re.search(rf"\b{key}=(\S+)", self.run("scontrol", "show", "job", job))[1]

    def begin_now(self, job):
        """Slurm lets a requeued job wait for two minutes; an operator, and a test, can say: now."""
        until(lambda: self.states(job) == {"PENDING"}, 30, f"job {job} waits to begin again")
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now")


class Run:
    """The study in a folder of its own: what Snakemake and its jobs did there."""

    def __init__(self, cluster, folder, partition="gpu"):
        self.cluster, self.folder, self.masters = cluster, folder, []
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
        profile.write("slurm", {"--partition": partition, "--cpu-partition": "cpu"}, folder / "slurm", force=True)
        # The tests wait for Snakemake's looks at the queue most of all, and their file system is local.
        self.adjust({"slurm-init-seconds-before-status-checks": 1, "latency-wait": 5})
        self.environment = cluster.environment | {
            "PYTHONPATH": str(HERE / "spy"), "SPY_JOURNAL": str(folder / "journal"), "DIPLINE_CHECKPOINT_SECONDS": "1",
        }  # fmt: skip

    def adjust(self, changes):
        """Change lines of the profile, as its owner would."""
        file = self.folder / "slurm" / "config.yaml"
        content = yaml.safe_load(file.read_text()) | changes
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    # Snakemake

    def line(self, *more):
        snakemake = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(ROOT / "Snakefile")]
        return [*snakemake, "--profile", "slurm", *more, "--configfile", "study.yaml"]

    def snakemake(self, *more):
        """Snakemake to its end."""
        return subprocess.run(self.line(*more), cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def start(self, *more):
        """Snakemake in the background; what it says is in ``said``."""
        with open(self.folder / f"master{len(self.masters)}.log", "w") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            master = subprocess.Popen(self.line(*more), cwd=self.folder, env=self.environment, start_new_session=True, **streams)
        self.masters.append(master)
        return master

    def said(self, number=0):
        return (self.folder / f"master{number}.log").read_text()

    def submitted(self, number=0):
        """Ids of Slurm jobs that a Snakemake submitted, in order."""
        return re.findall(r"SLURM job ?id (\d+)", self.said(number), re.IGNORECASE)

    def status(self):
        """What `dipline status --json` says."""
        line = [sys.executable, "-m", "dipline", "status", "study.yaml", "--json"]
        environment = self.cluster.environment | {"PYTHONPATH": str(ROOT / "src")}
        return json.loads(subprocess.run(line, cwd=self.folder, env=environment, capture_output=True, text=True, check=True).stdout)

    def finish(self, number=0, status=0):
        found = self.masters[number].wait(600)
        assert found == status, f"{self.said(number)[-3000:]}"

    def stop(self):
        """Whatever still runs when a test is over, or has failed."""
        for master in self.masters:
            if master.poll() is None:
                os.killpg(master.pid, signal.SIGKILL)
                master.wait()
        own = [line.split("|") for line in self.cluster.run("squeue", "-h", "-o", "%i|%Z").splitlines()]
        for job, folder in own:
            if folder == str(self.folder):
                self.cluster.run("scancel", job)

    # the reconstruction that is broken

    def words(self):
        """What all attempts said in their logs, line by line, one attempt after the other: two may speak at the same time."""
        said = {}
        for e in self.journal():
            if "said" in e:
                said.setdefault(e["pid"], []).append(e["said"])
        return [line for lines in said.values() for line in lines]

    def leaves(self):
        """Wait for the words with which a job leaves."""
        return until(lambda: [line for line in self.words() if line.startswith("leaving")], 60, "the job leaves")[0]

    def state(self, pattern, volume="patient_041"):
        found = list(self.folder.glob(f"results/cohort/.state/brain/{volume}/R2/dip/seed0/s000-001/*/{pattern}"))
        return found[0] if found else None

    def half_done(self):
        """Wait until the first slice is finished and the second has a checkpoint: (id of the job, iteration of the checkpoint)."""
        master = self.masters[-1]
        until(lambda: self.state("s001.pt") or master.poll() is not None, 240, "a checkpoint of the second slice")
        assert master.poll() is None, self.said()[-3000:]
        return self.owner()["job"], self.saved()

    def contested(self):
        """Wait until another job asks for the reconstruction, or has taken it."""
        first = self.lives()[0][0], self.journal()[0]["pid"]

        def others():
            with contextlib.suppress(AttributeError, FileNotFoundError, ValueError):  # it may be changing hands
                return self.state("takeover") or (self.owner()["job"], self.owner()["pid"]) != first

        until(others, 240, f"another job\n{self.said(len(self.masters) - 1)[-1000:]}")

    def saved(self):
        return torch.load(self.state("s001.pt"), weights_only=True)["run"]["k"]

    def owner(self):
        return json.loads(self.state("owner.json").read_text())

    @contextlib.contextmanager
    def slow(self):
        """The program stands still, as on a file system that hangs: what must happen while it runs happens now, on a slow machine too."""
        pid = self.owner()["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def journal(self):
        return [json.loads(line) for line in (self.folder / "journal").read_text().splitlines()]

    def lives(self, volume="patient_041"):
        """[(job, node)] of the processes that worked on it, in the order of their beginnings."""
        return [(e["job"], e["node"]) for e in self.journal() if "began" in e and any(volume in word for word in e["began"])]

    def check(self, want, saved):
        """What must hold after every failure: same bits, nothing done twice, one writer at a time, resumed from the checkpoint."""
        assert checksums(self.folder, DIP) == want
        writes = [e for e in self.journal() if "wrote" in e and re.search(r"/dip/.*/s\d{3}(-\d{3})?\.(pt|h5)$", e["wrote"])]
        finished = [Path(e["wrote"]).name for e in writes if re.search(r"/s\d{3}\.h5$", e["wrote"])]
        assert sorted(finished) == ["s000.h5", "s001.h5"], "each slice was finished once"
        writers = [e["pid"] for n, e in enumerate(writes) if n == 0 or e["pid"] != writes[n - 1]["pid"]]
        assert len(writers) == len(set(writers)) > 1, "who has been followed by another writes no more"
        said = "\n".join(self.words())
        assert re.search(r"^slice 0: finished before.*\nslice 1: vanilla.*\nresumed from the checkpoint at", said, re.MULTILINE)
        resumed = [int(k) for k in re.findall(r"resumed from the checkpoint at iteration (\d+)", said)]
        assert saved <= resumed[0] and resumed == sorted(resumed) and resumed[-1] < STEPS
        return resumed[0]


def without_reconstructions(source, folder):
    """A copy of the undisturbed study as it was before its reconstructions."""
    later = {"recon", ".state", "logs"}
    shutil.copytree(source, folder, symlinks=True, ignore=lambda _, names: later & set(names))
    return folder
