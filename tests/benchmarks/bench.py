"""Time to the same image, ours and others': what `make bench` does; writes tests/benchmarks/results/bench_<device>.{csv,md}.

Every variant is a process of its own with one thread. They take turns, some steps each, A B A B, so that a busy minute hits all of them;
a ratio is of medians of one run, its spread that of the turns. ``BENCH=short`` (--short) is a part within ten minutes.
``--peer NAME=FOLDER`` adds an official code from a checkout of yours (names: peers.py), on the same measurement file.
"""

import argparse
import contextlib
import csv
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from common import RESULTS, write

from dipline import loop, metrics, store, study
from dipline.physics.joint import Joint

SLICES = 3  # of a block
BRAINS = {"MRI 96², 8 coils": (96, 8), "MRI 160², 8 coils": (160, 8), "MRI 320², 15 coils": (320, 15)}
TORSOS = {"CT 256², 30 views": (256, 30), "CT 512², 60 views": (512, 60)}
PAPER, UNET = {"skip": {}}, {"unet": {}}
THIN, SMALL = {"skip": {"widths": [32] * 5}}, {"unet": {"widths": [8, 16, 32, 32], "init": "torch"}}
NOISE = {"input": "uniform", "input_channels": 32, "input_scale": 0.1, "input_noise": 0.033}
OURS = {"method": "vanilla", "network": SMALL, "params": {"lr": 0.02, "input": "least_squares"}, "precondition": 0.2, "average": 0.97}
VARIANTS = {  # {name: (arm, mode of a block)}
    "skip 128 × 5, as published": ({"method": "vanilla", "network": PAPER, "params": {"lr": 0.01} | NOISE}, ""),
    "skip 32 × 5": ({"method": "vanilla", "network": THIN, "params": {"lr": 0.01} | NOISE}, ""),
    "skip 32 × 5, demo's options": ({**OURS, "network": THIN, "params": {"lr": 0.01, "input": "least_squares"}}, ""),
    "demo": (OURS, ""),
    "demo, no preconditioning": ({**OURS, "precondition": 0.0}, ""),
    "demo, no average": ({**OURS, "average": 0.0}, ""),
    "demo, cosine over 900 steps": ({**OURS, "schedule": "cosine", "iterations": 900}, ""),
    "demo, joint": (OURS, "joint"),
    "demo, chain": (OURS, "chain"),
}
REFERENCE = "skip 128 × 5, as published"
SHORT = (REFERENCE, "skip 32 × 5", "demo", "demo, joint", "demo, chain")
ROWS = []


def brain(folder, matrix, coils):
    acq = {"mask": "random", "acceleration": 4, "center_fraction": 0.08, "noise_snr": 15}
    own = {"slices": SLICES, "matrix": matrix, "coils": coils, "contrast": "t1"}
    return common.scan(folder / f"brain_{matrix}_{coils}", "phantom", own, acq, range(SLICES))


def torso(folder, matrix, views):
    return common.scan(folder / f"torso_{matrix}_{views}", "phantom_ct", {"slices": 1, "matrix": matrix}, {"views": views, "photons": 1e5})


def real(folder):
    """A real scan of 16 coils, undersampled in the same way; None where the development data are not there."""
    scan = Path(os.environ.get("DIPLINE_DATA", common.ROOT.parent / "shared" / "data")) / "mri" / "brain_gre_16ch.h5"
    acq = {"mask": "random", "acceleration": 4, "center_fraction": 0.08}
    return common.measured(folder / "real", scan, "fastmri", acq) if scan.exists() else None


class Ours:
    """A runner of one of our arms, a step at a time, without a job around it."""

    def __init__(self, make, folder, arm, mode):
        problem = make(Path(folder))
        middle = len(problem) // 2
        A, y, self.truth, self.range = problem[middle]
        self.slices, start = 1, []
        self.steps = arm.get("iterations", 100000)
        resolved = study.resolve(study.checked_arm({"iterations": 100000} | arm), snapshots=0)
        if mode == "joint":
            self.A, self.slices, self.middle = Joint([p[0] for p in problem]), len(problem), middle
            A, y = self.A, self.A.joined([p[1] for p in problem])
        elif mode == "chain":  # a neighbour's networks after 900 steps
            before = loop.Run(problem[0][1], problem[0][0], resolved, 0, {}, resolved["stop"], 900, (), print)
            for _ in range(900):
                before.step()
            start = [net.state_dict() for net in before.made]
        self.A, self.run = A, loop.Run(y, A, resolved, 0, {}, resolved["stop"], self.steps, start, print)

    def step(self):
        self.run.step()

    def psnr(self):
        view = self.A.view(self.run.last.detach() * self.run.scale).numpy()
        return metrics.psnr(view[self.middle] if self.slices > 1 else view, self.truth, self.range)


class Theirs:
    """A runner of an official code, on the same measurement file."""

    slices = 1

    def __init__(self, make, folder, name, checkout):
        import peers

        _, _, self.truth, self.range = (problem := make(Path(folder)))[len(problem) // 2]
        held = store.arrays(make.file(Path(folder)), len(problem) // 2)
        self.peer = peers.PEERS[name](checkout, held["kspace"], held["mask"], np.asarray(held["maps"])[0])

    def step(self):
        self.peer.step()

    def psnr(self):
        return metrics.psnr(self.peer.image().astype(np.float32), self.truth, self.range)


def serve(pipe, kind, args):
    """A process: so many steps for every number that comes in."""
    torch.set_num_threads(1)
    loop.set_up("cpu", 1)
    runner = kind(*args)
    pipe.send((runner.slices, getattr(runner, "steps", 100000)))
    for count in iter(pipe.recv, None):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            runner.step()
        took = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send((*took, float(runner.psnr()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))


class Variant:
    """A process that takes turns; what it has done so far."""

    def __init__(self, name, kind, args):
        self.name, (self.pipe, other) = name, multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(other, kind, args), daemon=True)
        self.process.start()
        other.close()  # or a process that died would be waited for
        self.slices, self.most = self.pipe.recv()
        self.k, self.seconds, self.memory, self.turns, self.curve = 0, 0.0, 0.0, [], []

    def turn(self, count):
        """So many steps more, or all that are left."""
        count = min(count, self.most - self.k)
        try:
            self.pipe.send(count)
            wall, cpu, psnr, self.memory = self.pipe.recv()
        except (EOFError, OSError):
            print(f"{self.name}: died after step {self.k}", flush=True)
            self.most = self.k
            return
        self.k += count
        self.seconds += wall
        self.turns.append((wall / count / self.slices * 1e3, cpu / count / self.slices * 1e3))
        self.curve.append((self.k, psnr))

    def steps_of(self, seconds):
        """How many steps take so long."""
        return max(1, round(seconds / (self.seconds / self.k))) if self.k else 2

    def close(self):
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join()

    def milliseconds(self):
        """(median, least, most) of the turns but the first, of a step and slice; and the median of CPU time."""
        wall, cpu = zip(*(self.turns[1:] or self.turns), strict=True)
        return statistics.median(wall), min(wall), max(wall), statistics.median(cpu)

    def reaches(self, level):
        """Steps until the PSNR is ``level``, interpolated; None: never."""
        before = (0, -np.inf)
        for k, psnr in self.curve:
            if psnr >= level:
                share = (level - before[1]) / (psnr - before[1]) if np.isfinite(before[1]) else 1.0
                return before[0] + share * (k - before[0])
            before = (k, psnr)
        return None


def made(name, kind, args):
    try:
        return Variant(name, kind, args)
    except EOFError:
        print(f"{name}: did not start", flush=True)
        return None


def steps(folder, short, peers):
    """Milliseconds of a step for every size, the papers' networks beside the small ones."""
    problems = {name: (brain, size) for name, size in BRAINS.items()} | {name: (torso, size) for name, size in TORSOS.items()}
    if short:
        problems = dict(list(problems.items())[:2] + list(problems.items())[3:4])
    networks = {"skip 128 × 5": PAPER, "unet 64-256": UNET, "skip 32 × 5": THIN, "unet 8-32": SMALL}
    for problem, (make, size) in problems.items():
        plain = {"method": "vanilla", "params": {"lr": 0.01, "input": "zero_filled"}}
        arms = {name: plain | {"network": network} for name, network in networks.items()}
        found = [v for name, arm in arms.items() if (v := made(name, Ours, (Make(make, size), folder, arm, "")))]
        for _ in range(4):
            for v in found:
                v.turn(v.steps_of(1.5) if v.k else 1)
        base = found[0].milliseconds()[0]
        for v in found:
            row(problem, v, ratio=base / v.milliseconds()[0])
            v.close()


class Make:
    """A maker of problems that another process can be handed."""

    def __init__(self, make, size):
        self.make, self.size = make, size

    def __call__(self, folder):
        return self.make(folder, *self.size)

    def file(self, folder):
        return folder / f"{self.make.__name__}_{'_'.join(map(str, self.size))}" / "measurement.h5"


def allowed(short):
    """Seconds of a variant; four times as many for published networks and codes."""
    return float(os.environ.get("BENCH_SECONDS", 40 if short else 100))


def quality(folder, short, peers):
    """PSNR over time of all variants, official codes among them, on one measurement; then ours alone on a real scan."""
    seconds = allowed(short)
    chosen = {n: v for n, v in VARIANTS.items() if not short or n in SHORT}
    make = Make(brain, BRAINS["MRI 96², 8 coils"])
    make(folder)
    found = [made(name, Ours, (make, folder, *variant)) for name, variant in chosen.items()]
    found += [made(f"{name}, official code", Theirs, (make, folder, name, checkout)) for name, checkout in peers.items()]
    compare("time to quality, MRI 96², 8 coils", [v for v in found if v], {REFERENCE} | {f"{p}, official code" for p in peers}, seconds)
    if not short and (problem := real(folder)):
        own = {n: v for n, v in VARIANTS.items() if not v[1]}
        found = [made(name, Ours, (real, folder, *variant)) for name, variant in own.items()]
        compare(f"time to quality, real scan {problem[0][2].shape[0]}², 16 coils", [v for v in found if v], {REFERENCE}, seconds)


def compare(part, found, slow, seconds):
    """Let the variants take turns until each has had its time (those of ``slow`` four times as much), then write a row each."""
    going = lambda v: v.k < v.most and v.seconds < seconds * (4 if v.name in slow else 1)  # noqa: E731
    while any(map(going, found)):
        for v in filter(going, found):
            v.turn(v.steps_of(max(0.3, 0.06 * v.seconds)))
    vanilla = next((v for v in found if v.name.startswith("ulyanov")), next(v for v in found if v.name == REFERENCE))
    found = [v for v in found if v.curve]
    target = max(psnr for _, psnr in vanilla.curve)
    fastest = min((v.reaches(target) * v.milliseconds()[0] for v in found if v.name in slow and v.reaches(target)), default=np.nan)
    for v in found:
        own = max(psnr for _, psnr in v.curve)
        ms = v.milliseconds()[0]
        to, near = v.reaches(target), v.reaches(own - 0.1)
        time_to = to * ms / 1e3 if to else np.nan
        row(part, v, ratio=fastest / time_to / 1e3 if to else np.nan, target=target, to=time_to, own=own, near=near * ms / 1e3)
        v.close()


def engine(folder, short, peers):
    """What the loop costs beside network and operator; a job's start; the command line's."""
    loop.set_up("cpu", 1)
    A, y, _, _ = brain(folder, 96, 8)[1]
    for stop in ("fixed", "wmv", "emv"):
        resolved = study.resolve(study.checked_arm(OURS | {"iterations": 100000, "stop": stop}), snapshots=0)
        run = loop.Run(y, A, resolved, 0, {}, resolved["stop"], 100000, (), print)
        for _ in range(20):
            run.step()
        pairs = []
        for _ in range(5):
            times = []
            for work in (run.step, lambda run=run: run.advance(run.k)):
                started = time.perf_counter()
                for _ in range(60):
                    work()
                times.append(time.perf_counter() - started)
            pairs.append(100 * (times[0] - times[1]) / times[0])
        several(f"loop, average and stop rule {stop}: % of a step", pairs)
    file = folder / "brain_96_8" / "measurement.h5"
    arm = "{method: vanilla, network: {unet: {widths: [8, 16, 32, 32]}}, iterations: 1}"
    out = ["--out", folder / "r.h5", "--snapshots", folder / "s.h5", "--state", folder / "state"]
    job = ["reconstruct", file, *out, "--slices", "1", "--arm", arm]
    for name, words in {"dipline --help: s": ["--help"], "a job of one step, start to end: s": job}.items():
        times = []
        for _ in range(5):
            (folder / "r.h5").unlink(missing_ok=True)
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "dipline", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - started)
        several(name, times)


def several(name, values):
    """A row of the engine's table."""
    ROWS.append({"part": "engine", "variant": name, "value": statistics.median(values), "least": min(values), "most": max(values)})


def row(part, v, **more):
    ms, least, most, cpu = v.milliseconds()
    peak = max(v.curve, key=lambda at: at[1])
    ROWS.append({
        "part": part, "variant": v.name, "value": ms, "least": least, "most": most, "cpu": cpu, "memory": v.memory, "steps": v.k,
        "last": v.curve[-1][1], "peak": peak[1], "peak_at": peak[0], **more,
    })  # fmt: skip
    print(" | ".join(f"{k} {x:.4g}" if isinstance(x, float) else str(x) for k, x in ROWS[-1].items()), flush=True)


TABLES = {  # {kind of part: (heads, function of a row)}
    "engine": (["engine", "median", "range of five"], lambda r: [r["variant"], f"{r['value']:.3g}", spread(r)]),
    "time": (
        ["variant", "ms a step and slice", "range", "steps", "peak (dB) at", "last (dB)", "s to vanilla's peak", "times faster",
         "s to own peak − 0.1 dB", "MB"],
        lambda r: [
            r["variant"], f"{r['value']:.3g}", spread(r), str(r["steps"]), f"{r['peak']:.2f} @ {r['peak_at']}",
            f"{r['last']:.2f}", shown(r["to"]), shown(r["ratio"]), shown(r["near"]), f"{r['memory']:.0f}",
        ],
    ),
    "step": (
        ["network", "ms a step", "range", "CPU ms", "MB", "times faster than skip 128 × 5"],
        lambda r: [r["variant"], f"{r['value']:.3g}", spread(r), f"{r['cpu']:.3g}", f"{r['memory']:.0f}", shown(r["ratio"])],
    ),
}  # fmt: skip


def shown(value):
    return "–" if value != value else f"{value:.3g}"


def spread(r):
    return f"{r['least']:.3g} to {r['most']:.3g}"


def written(out, about, peers):
    """The rows so far: for programs, and for people."""
    name = "bench_cpu"
    keys = ["part", "variant", "value", "least", "most", "cpu", "memory", "steps", "peak", "peak_at", "last"]
    keys += ["target", "to", "ratio", "own", "near"]
    with (out / f"{name}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, keys, restval="")
        table.writeheader()
        table.writerows(ROWS)
    lines = [f"`make bench`, {about}. One thread a process; processes take turns; medians and ranges are over turns.", ""]
    lines += [f"Official codes, from checkouts: {', '.join(peers)}." if peers else "Without official codes (`--peer NAME=FOLDER`).", ""]
    for part in dict.fromkeys(r["part"] for r in ROWS):
        heads, cells = TABLES[part.split()[0] if part.split()[0] in TABLES else "step"]
        rows = [r for r in ROWS if r["part"] == part]
        said = "That is the best within its time. Times faster: seconds to that peak of the fastest published code or setting, "
        said += "over this variant's."
        target = f"Vanilla's peak: {rows[0]['target']:.2f} dB. {said}" if "target" in rows[0] else ""
        lines += [f"## {part}", "", *([target, ""] if target else [])]
        lines += [f"| {' | '.join(c)} |" for c in (heads, [":--"] + ["--:"] * (len(heads) - 1), *map(cells, rows))] + [""]
    write(out / f"{name}.md", lines)


PARTS = {"engine": engine, "quality": quality, "steps": steps}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", default=os.environ.get("BENCH") == "short")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    checkouts = dict(p.split("=", 1) for p in options.peer)
    about = f"{platform.processor() or platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}"
    about += time.strftime(", %Y-%m-%d") + f"; {allowed(options.short):g} s a variant, four times as many for published ones"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in options.part or PARTS:
            PARTS[part](folder, options.short, checkouts)
            written(options.out, about, checkouts)
