"""What large studies cost besides reconstructing, on this machine; writes tests/benchmarks/results/scale.md: what `make scale` does.

Plans of three studies with blocks of several sizes (dry runs on an empty folder), the start of one job of the largest, and
the files that a reconstruction leaves.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import common
import yaml

SNAKEMAKE = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(common.ROOT / "Snakefile")]
NET = {"unet": {"widths": [4]}}
ARMS = {
    "zero_filled": {"method": "zero_filled"}, "sense": {"method": "sense"}, "l1_wavelet": {"method": "l1_wavelet"}, "tv": {"method": "tv"},
    "dip": {"method": "vanilla", "network": NET, "iterations": 20}, "es_dip": {"method": "vanilla", "network": NET, "stop": "wmv"},
    "emv_dip": {"method": "vanilla", "network": NET, "stop": "emv"},
    "holdout_dip": {"method": "vanilla", "network": NET, "stop": "holdout"},
    "self_guided": {"method": "self_guided", "network": NET}, "aseq_dip": {"method": "aseq", "network": NET},
}  # fmt: skip
SMALL, MIDDLE, LARGE = (5, 1, 2, 10), (63, 4, 4, 10), (200, 16, 4, 10)  # volumes, slices, acquisitions, arms
PLANS = [(SMALL, 1), (MIDDLE, 1), (MIDDLE, 4), (LARGE, 8), (LARGE, 16)]  # LARGE in smaller blocks: more than PLAN_SECONDS
PLAN_SECONDS, PLAN_MB, START_SECONDS = 180.0, 4000.0, 6.0  # what the largest may take


def study(volumes, slices, acquisitions, arms, block=1):
    """A study of so many embedded patients."""
    masks = {f"R{r}": {"mask": "random", "acceleration": r, "center_fraction": 0.15} for r in range(2, 2 + acquisitions)}
    params = {"patients": volumes, "slices": slices, "matrix": 32, "coils": 2}
    return {
        "study": "scale", "datasets": {"brain": {"reader": "phantom", "params": params, "acquisitions": masks}},
        "arms": dict(list(ARMS.items())[:arms]), "block": {"slices": block}, "device": "cuda", "snapshots": 5,
    }  # fmt: skip


def written(folder, content):
    file = Path(folder) / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def run(words, folder):
    """(wall seconds, CPU seconds, peak MB) of a command."""
    started = time.monotonic()
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{said[-2000:]}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def plans():
    """Rows of the first table."""
    for sizes, block in PLANS:
        with tempfile.TemporaryDirectory() as folder:
            file = written(folder, study(*sizes, block))
            wall, cpu, memory = run([*SNAKEMAKE, "--configfile", file, "--dry-run", "--quiet", "all"], folder)
            reconstructions = sizes[0] * sizes[1] * sizes[2] * sizes[3]
            print(f"{reconstructions} in blocks of {block}: {wall:.0f} s", flush=True)
            yield f"{reconstructions:,}", block, f"{reconstructions // block:,}", f"{wall:.1f}", f"{cpu:.1f}", f"{memory:.0f}"


def start():
    """(seconds of one Snakemake in a job, seconds of the program until it begins), in the study with the largest plan; medians of five."""
    with tempfile.TemporaryDirectory() as folder:
        small = study(*LARGE) | {"device": "cpu"}
        file, root = written(folder, small), Path(folder)
        measurement, cell = "results/scale/measurement/brain/patient_001/R2.h5", "brain/patient_001/R2/dip/seed0"
        run([*SNAKEMAKE, "--configfile", file, "--cores", "1", "--quiet", "all", "--", measurement], folder)
        wildcards = ",".join(f"{k}={v}" for k, v in zip(("dataset", "volume", "acq", "arm"), cell.split("/"), strict=False))
        job = ["--target-jobs", f"reconstruct:{wildcards},seed=0,block=s000", "--mode", "subprocess", "--cores", "1", "--force", "--nolock"]
        log, parse, begin = root / f"logs/scale/reconstruct/{cell}/s000.log", [], []
        for _ in range(5):
            log.unlink(missing_ok=True)
            started = time.time()
            process = subprocess.Popen(
                [*SNAKEMAKE, "--configfile", file, *job], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            opened = _when(log.exists, process)
            parse.append(opened - started)
            begin.append(_when(lambda: "slice 0" in log.read_text(), process) - opened)
            process.communicate()
        return sorted(parse)[2], sorted(begin)[2]


def _when(true, process):
    while not true():
        if process.poll():
            sys.exit(process.stderr.read()[-2000:])
        time.sleep(0.01)
    return time.time()


def files():
    """Rows of the third table: files in results and logs for a reconstruction of a slice."""
    for block, keep in ((1, True), (8, True), (8, False)):
        with tempfile.TemporaryDirectory() as folder:
            content = study(2, 8, 1, 5, block) | {"device": "cpu", "keep_snapshots": keep}
            del content["arms"]["l1_wavelet"]
            file = written(folder, content)
            run([*SNAKEMAKE, "--configfile", file, "--cores", "2", "--quiet", "all"], folder)
            n = 2 * 8 * len(content["arms"])
            left = [f for top in ("results", "logs", ".snakemake") for f in (Path(folder) / top).rglob("*") if f.is_file()]
            of = {top: sum(f.relative_to(folder).parts[0] == top for f in left) for top in ("results", "logs", ".snakemake")}
            recon = len([f for f in left if "recon" in f.parts])
            yield block, "yes" if keep else "no", *(f"{x / n:.2f}" for x in (recon, of["results"], of["logs"], of[".snakemake"]))


def markdown(heads, rows):
    return [f"| {' | '.join(heads)} |", f"|{'--:|' * len(heads)}", *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def page(rows, parse, begin, counted):
    """The lines of the table."""
    slowest, most, one = max(float(r[3]) for r in rows), max(float(r[5]) for r in rows), parse + begin
    judged = lambda value, limit: "holds" if value <= limit else "does not hold"  # noqa: E731
    return [
        f"`make scale` on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch')}.", "",
        "## Planning", "", "A dry run on an empty folder; reconstructions are single slices, a job is a block of them.", "",
        *markdown(("reconstructions", "block", "reconstruct jobs", "wall s", "CPU s", "peak MB"), rows),
        f"At most {PLAN_SECONDS:.0f} s: {judged(slowest, PLAN_SECONDS)}; at most {PLAN_MB:.0f} MB: {judged(most, PLAN_MB)}.", "",
        "## Start of one job of the largest study", "",
        "Snakemake (its import, the plan, the job), then the program (its imports, its measurement, its first line). Medians of five.",
        "In a job of its own on Slurm the executor plugin starts a second Snakemake in front.", "",
        *markdown(("Snakemake s", "program s", "both s", "a Slurm job s"), [[f"{s:.2f}" for s in (parse, begin, one, one + parse)]]),
        f"Both at most {START_SECONDS:.0f} s: {judged(one, START_SECONDS)}; a Slurm job: {judged(one + parse, START_SECONDS)}.", "",
        "## Files for one reconstruction of a slice", "",
        "Everything that a small finished study left, shared by its reconstructions; `recon`: what grows with their number alone.", "",
        *markdown(("block", "keep_snapshots", "recon", "results", "logs", ".snakemake"), counted),
    ]  # fmt: skip


if __name__ == "__main__":
    common.write(common.RESULTS / "scale.md", page(list(plans()), *start(), list(files())))
