"""What a GPU makes of one slice and of many; writes tests/benchmarks/results/gpu_<device>.{csv,md}: what `make gpu` does.

A synthetic 320² slice of 15 coils, undersampled four times. Times are medians over rounds in which all variants take turns; every
ratio is inside one run. ``--data FOLDER`` keeps the measurement, ``--part NAME`` runs one part (several times if given several times).
"""

import argparse
import csv
import platform
import statistics
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dipline import loop, metrics, study

NETWORKS = {
    "skip 16 x 5": {"skip": {"widths": [16] * 5, "skip_widths": [4] * 5}},
    "skip 32 x 5": {"skip": {"widths": [32] * 5, "skip_widths": [4] * 5}},
    "skip 128 x 5 (Ulyanov)": {"skip": {}},
    "unet 64-256 (papers)": {"unet": {}},
}
ROUNDS, STEPS = 3, 40
ROWS, DEVICE = [], torch.device("cuda")


def scan(folder, matrix, coils):
    """(operator, y, truth, range) of a synthetic slice on the CPU; the measurement stays in the folder."""
    acq = {"mask": "equispaced_fraction", "acceleration": 4, "center_fraction": 0.08, "noise_snr": 15}
    own = {"slices": 1, "matrix": matrix, "coils": coils, "contrast": "t1"}
    return common.scan(folder / f"brain_{matrix}_{coils}", "phantom", own, acq)[0]


def arm(network, iterations=100000, **more):
    network = NETWORKS[network] if isinstance(network, str) else network
    base = {"method": "vanilla", "network": network, "params": {"lr": 0.01, "input": "least_squares"}, "average": 0.98, "snapshots": 0}
    snapshots = more.pop("snapshots", 0)
    given = {k: v for k, v in (base | more).items() if k != "snapshots"} | {"iterations": iterations}
    return study.resolve(study.checked_arm(given), snapshots=snapshots)


class Lanes:
    """Runs side by side, each on a stream of its own."""

    def __init__(self, problem, arm, count, record=True, whole=True, first=6):
        A, y = problem[0].to(DEVICE), problem[1].to(DEVICE)
        self.tf32 = arm.get("precision") != "single"
        self.streams, self.runs, self.whole = [torch.cuda.Stream() for _ in range(count)], [], whole
        torch.backends.cudnn.allow_tf32 = arm.get("precision") != "single"
        torch.cuda.synchronize()
        for seed, stream in enumerate(self.streams):
            with torch.cuda.stream(stream):
                self.runs.append(loop.Run(y, A, arm, seed, {}, arm["stop"], arm["iterations"], (), print))
                self.runs[-1].advance.possible = record
        torch.cuda.synchronize()
        self.steps(first)

    def steps(self, count):
        torch.backends.cudnn.allow_tf32 = self.tf32
        for _ in range(count):
            for run, stream in zip(self.runs, self.streams, strict=True):
                with torch.cuda.stream(stream):
                    run.step() if self.whole else run.advance(run.k)

    def milliseconds(self, count=STEPS):
        """Per step and run."""
        torch.cuda.synchronize()
        started = time.perf_counter()
        self.steps(count)
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / count / len(self.runs) * 1e3


def compare(part, variants, count=STEPS):
    """Time variants in turn, {name: maker of Lanes}; one row each: median, least and most of the rounds, memory."""
    made, times = {}, {}
    for name, make in variants.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            made[name] = make()
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
            print(f"{part} | {name}: {str(error).splitlines()[0]}", flush=True)
            continue
        times[name] = [made[name].milliseconds(count), torch.cuda.max_memory_allocated() - before]
    for name in times:
        times[name] = [[made[name].milliseconds(count) for _ in range(ROUNDS)], times[name][1]]
    for name, (rounds, memory) in times.items():
        row(part, name, "ms a step and slice", statistics.median(rounds), min(rounds), max(rounds), memory / 1e6)
    made.clear()
    torch.cuda.empty_cache()
    return {name: statistics.median(rounds) for name, (rounds, _) in times.items()}


def row(part, variant, what, value, low="", high="", memory=""):
    ROWS.append([part, variant, what, value, low, high, memory])
    print(" | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in ROWS[-1]), flush=True)


def ceilings(problem):
    """What the card does at its best: matrix products and copies."""
    for name, dtype, tf32 in (("bf16", torch.bfloat16, False), ("tf32", torch.float32, True), ("fp32", torch.float32, False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=dtype) for _ in range(2))
        row("ceilings", f"matrix product 8192, {name}", "TFLOP/s", 2 * 8192**3 / timed(lambda a=a, b=b: a @ b) / 1e12)
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.randn(1 << 29, device=DEVICE)
    b = torch.empty_like(a)
    row("ceilings", "copy of 2 GiB", "TB/s read and written", 2 * a.nbytes / timed(lambda: b.copy_(a)) / 1e12)


def timed(work, count=10):
    """Seconds of one call, median of several by the device's clock."""
    work()
    found = []
    for _ in range(count):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return statistics.median(found)


def steps(problem):
    """One slice: recorded against launched one by one, whole step against the method's part of it, for every network."""
    for network in NETWORKS:
        a, part = arm(network), f"step, {network}"
        times = compare(part, {
            "launched": lambda a=a: Lanes(problem, a, 1, record=False), "recorded": lambda a=a: Lanes(problem, a, 1),
            "recorded, without average and stop rule": lambda a=a: Lanes(problem, a, 1, whole=False),
            "recorded, with wmv": lambda n=network: Lanes(problem, arm(n, stop="wmv"), 1),
        })  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            Lanes(problem, a, 1, record=False, first=1)
        row(part, "recorded", "TFLOP/s of convolutions", counter.get_total_flops() / times["recorded"] / 1e9)


def precision(problem):
    """One slice: what the options of the arithmetic change."""
    for network in ("skip 32 x 5", "unet 64-256 (papers)"):
        names = ("tf32", "single", "bf16")
        compare(f"precision, {network}", {p: lambda n=network, p=p: Lanes(problem, arm(n) | {"precision": p}, 1) for p in names})
        torch.set_deterministic_debug_mode(0)
        compare(f"precision, {network}", {"tf32, in any order of sums": lambda n=network: Lanes(problem, arm(n), 1)})
        loop.set_up("cuda", 1)


def batch(problem):
    """Slices side by side."""
    for network, counts in {"skip 32 x 5": (1, 4, 16, 64), "unet 64-256 (papers)": (1, 4, 16)}.items():
        compare(f"batch, {network}", {f"{c} slices": lambda n=network, c=c: Lanes(problem, arm(n), c) for c in counts}, count=12)


def agreement(small):
    """The same fit on CPU and GPU: PSNR of one image against the other after 50 steps, and of both against the truth at the end."""
    A, y, truth, span = small
    for network in ({"skip": {"widths": [16] * 5, "skip_widths": [4] * 5}}, {"unet": {"widths": [8, 16, 32, 32], "init": "torch"}}):
        for iterations in (50, 600):
            a, part = arm(network, iterations), f"agreement, {next(iter(network))}, {iterations} steps"
            images = {}
            for threads in (8, 1):  # how far two CPU fits are apart, for comparison
                loop.set_up("cpu", threads)
                images[f"cpu, {threads} threads"] = A.view(torch.from_numpy(loop.fit(y, A, a, say=lambda line: None).image)).numpy()
            loop.set_up("cuda", 8)
            row(part, "cpu", "dB, 8 threads against 1", float(metrics.psnr(*images.values(), span)))
            for p in ("single", "tf32", "bf16"):
                found = loop.fit(y.to(DEVICE), A.to(DEVICE), a | {"precision": p}, say=print)
                images[p] = A.view(torch.from_numpy(found.image)).numpy()
                row(part, p, "dB, GPU against CPU", float(metrics.psnr(images[p], images["cpu, 8 threads"], span)))
            for p, image in images.items():
                row(part, p, "dB against the truth", float(metrics.psnr(image, truth, span)))


def whole(problem):
    """Whole reconstructions of the slice."""
    A, y, truth, span = problem
    for name, a in {
        "skip 32 x 5, lr 0.01, 1000 steps": arm("skip 32 x 5", 1000, snapshots=60),
        "skip 128 x 5 (Ulyanov), lr 0.01, 1500 steps": arm("skip 128 x 5 (Ulyanov)", 1500, snapshots=60),
        "unet 64-256 (papers), lr 3e-4, 3000 steps": arm("unet 64-256 (papers)", 3000, snapshots=60, params={"lr": 3e-4}, average=0.0),
    }.items():
        result = loop.fit(y.to(DEVICE), A.to(DEVICE), a, say=print)
        curve = [metrics.psnr(s.astype(np.float32) * result.view_scale, truth, span) for s in result.snapshots]
        row("whole slice", name, "s", result.seconds)
        row("whole slice", name, "dB peak", float(max(curve)))
        row("whole slice", name, "dB last", float(curve[-1]))
    row("whole slice", "zero-filled", "dB", float(metrics.psnr(A.view(A.init(y)).numpy(), truth, span)))


def written(folder, card, about):
    """The rows so far, as a table for programs and one for people."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"gpu_{card}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "variant", "unit", "value", "least", "most", "memory_mb"])
        writer.writerows(ROWS)
    number = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)  # noqa: E731
    span = lambda low, high: f"{low:.4g} to {high:.4g}" if low else ""  # noqa: E731
    head = ["part", "variant", "value", "unit", f"{ROUNDS} rounds", "memory, MB"]
    lines = [[p, v, number(x), unit, span(low, high), f"{mb:.0f}" if mb else ""] for p, v, unit, x, low, high, mb in ROWS]
    table = [f"| {' | '.join(cells)} |" for cells in (head, [":--"] * len(head), *lines)]
    common.write(folder / f"gpu_{card}.md", [f"`make gpu`, {about}. One slice of 320² and 15 coils.", "", *table, ""])


PARTS = ("ceilings", "steps", "batch", "precision", "whole", "agreement")

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=common.RESULTS)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--prepare", action="store_true", help="write the measurements alone, which needs no GPU")
    options = parser.parse_args()
    folder = options.data or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    problem, small = scan(folder, 320, 15), scan(folder, 96, 8)
    if options.prepare:
        raise SystemExit
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: this benchmark needs one")
    card = torch.cuda.get_device_name()
    about = f"{card}, torch {torch.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    for part in options.part or PARTS:
        loop.set_up("cuda", 1)
        started = time.perf_counter()
        try:
            globals()[part](*{"agreement": (small,)}.get(part, (problem,)))
        except RuntimeError as error:
            row(part, "", f"failed: {str(error).splitlines()[0]}", "")
        print(f"-- {part}: {time.perf_counter() - started:.0f} s", flush=True)
        written(options.out, card.lower().replace(" ", "_"), about)
