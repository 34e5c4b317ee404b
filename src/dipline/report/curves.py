"""PSNR over the iterations: how high every arm climbs, where it stops, and how far it falls afterwards.

Thick: mean over volumes; thin: one line a volume (mean over its slices and seeds), its peak a cross, of more than four volumes a band of
one standard deviation. A run that stopped earlier than others keeps its last value. A filled disc marks what the arm's stop rule chose,
open symbols what watched rules would have chosen. Classical arms are horizontal lines, named at their ends: the image they hand over.
"""

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from dipline import registry, store
from dipline.report import style, tables

WATCHED = "^sDvPX*"
MANY = 4  # volumes from which on a band of one standard deviation stands for the lines of single volumes


def write(plan):
    """Write all curves; returns their files."""
    return [draw(plan, d, acq) for d, dataset in plan.study.datasets.items() for acq in dataset.acquisitions]


def collect(plan, dataset, acq):
    """What is drawn of every arm.

    Returns:
        {arm: {"lines": {volume: (steps, psnr)}, "level": mean PSNR of what was handed over,
        "chosen": {rule: [(step, psnr)]}}}; ``chosen`` has one point a volume, the arm's own rule is called "".
    """
    found = {}
    for job in plan.jobs:
        if (job.dataset, job.acq) != (dataset, acq):
            continue
        scored = tables.scores(plan, job)
        arm = found.setdefault(job.arm, {"curves": {}, "levels": {}, "stops": {}})
        values = [
            v
            for at, metric, which, v in scored["rows"]
            if metric == "psnr" and which == "stopped" and str(at) != "" and v is not None
        ]
        arm["levels"].setdefault(job.volume, []).extend(values)
        for index, curve in scored["curves"].items():
            if not curve["steps"]:
                continue
            arm["curves"].setdefault(job.volume, []).append(
                (np.array(curve["steps"]) + 1, np.array(curve["psnr"], float))
            )
            steps, psnr = arm["curves"][job.volume][-1]
            for rule, k in {"": scored["chosen"].get(index), **scored["watched"].get(index, {})}.items():
                if k is not None:
                    point = np.log(k + 1), np.interp(np.log(k + 1), np.log(steps), psnr)
                    arm["stops"].setdefault(rule, {}).setdefault(job.volume, []).append(point)
    return {arm: _means(**parts) for arm, parts in found.items()}


def _means(curves, levels, stops):
    lines = {volume: mean(several)[:2] for volume, several in curves.items()}
    chosen = {}
    for rule, volumes in stops.items():
        for points in volumes.values():
            log_k, psnr = np.mean(points, axis=0)
            chosen.setdefault(rule, []).append((float(np.exp(log_k)), float(psnr)))
    finite = [np.mean(v) for v in levels.values() if v and np.all(np.isfinite(v))]
    return {"lines": lines, "level": float(np.mean(finite)) if finite else None, "chosen": chosen}


def mean(lines):
    """(steps, mean, standard deviation) of several (steps, psnr), on the steps of all; a shorter one keeps its last value."""
    grid = np.unique(np.concatenate([s for s, _ in lines]))
    values = [np.interp(np.log(grid), np.log(s), p) for s, p in lines]
    return grid, np.mean(values, axis=0), np.std(values, axis=0, ddof=min(1, len(values) - 1))


def draw(plan, dataset, acq):
    """Draw the curves of one acquisition to ``plan.curve(dataset, acq)``."""
    found, looks = collect(plan, dataset, acq), style.looks(plan.study)
    with rc_context(style.FONT):
        figure = Figure((5.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        if not any(f["lines"] or f["level"] is not None for f in found.values()):
            axes.set_axis_off()
            why = "no PSNR without a reference" if not tables.has_truth(plan, dataset) else "no scores yet"
            axes.text(0.5, 0.5, f"{dataset} · {acq}: {why}", ha="center", va="center", fontsize=10, color=style.GREY)
            figure.set_size_inches(5.2, 0.8)
        else:
            _plot(axes, plan.study, found, looks)
            volumes = {v for f in found.values() for v in f["lines"]}
            axes.set_title(f"{dataset} · {acq}", loc="left", fontweight="bold")
            axes.set_title(f"n = {style.count(len(volumes), 'volume')}", loc="right", fontsize=8, color=style.GREY)
        out = plan.curve(dataset, acq)
        with store.written(out) as part:
            figure.savefig(
                part, format="png", dpi=200, bbox_inches="tight", pad_inches=0.06, metadata={"Software": None}
            )
    return out


def _names(axes, levels):
    """The names of horizontal lines at their right ends, moved apart where they would cover each other."""
    low, high = axes.get_ylim()
    gap, at = (high - low) / 24, -np.inf
    for level, arm, colour in sorted(levels):
        at = max(level, at + gap)
        if level >= low:
            axes.annotate(
                arm, (1, level), (1.015, at), xycoords=("axes fraction", "data"), textcoords=("axes fraction", "data"), fontsize=7,
                color=colour, va="center", annotation_clip=False,
            )  # fmt: skip


def _plot(axes, study, found, looks):
    legend, levels, values, rules, peaks = [], [], [], {}, False
    for arm, f in found.items():
        colour, line = looks[arm]
        classical = registry.get("methods", study.arms[arm].method).get("CLASS") == "classical"
        if classical or not f["lines"]:
            if f["level"] is not None:
                axes.axhline(f["level"], zorder=1, color=colour, linestyle=(0, (1, 1.5)), linewidth=1.1)
                levels.append((f["level"], arm, colour))
                values.append(f["level"])
            continue
        steps, psnr, spread = mean(list(f["lines"].values()))
        if len(f["lines"]) > MANY:
            axes.fill_between(steps, psnr - spread, psnr + spread, color=colour, alpha=0.3 / len(found), linewidth=0, zorder=1)
            for edge in (psnr - spread, psnr + spread):
                axes.plot(steps, edge, color=colour, linestyle=line, linewidth=0.4, alpha=0.4, zorder=1)
        for several in f["lines"].values() if len(f["lines"]) <= MANY else ():
            axes.plot(*several, color=colour, linestyle=line, linewidth=0.5, alpha=0.35, zorder=2)
            top = int(np.argmax(several[1]))
            axes.plot(several[0][top], several[1][top], "+", color=colour, markersize=4.5, markeredgewidth=0.7, zorder=3)
            values.append(several[1][top])
            peaks = True
        axes.plot(steps, psnr, color=colour, linestyle=line, linewidth=1.8, zorder=3)
        values += list(psnr)
        legend.append(Line2D([], [], color=colour, linestyle=line, linewidth=1.8, label=arm))
        for rule, points in f["chosen"].items():
            mark = rules.setdefault(rule, WATCHED[len(rules) % len(WATCHED)]) if rule else "o"
            how = {"color": colour, "marker": mark, "linestyle": "", "markerfacecolor": "white" if rule else colour}
            ks, heights = zip(*points, strict=True)
            axes.plot(ks, heights, markersize=2.6, markeredgewidth=0.5, alpha=0.6, zorder=4, **how)
            edge, order = (colour, 6) if rule else ("black", 5)
            middle = [float(np.exp(np.mean(np.log(ks))))], [float(np.mean(heights))]
            axes.plot(*middle, markersize=7.5, markeredgecolor=edge, markeredgewidth=1.0, zorder=order, **how)
    how = {"linestyle": "", "color": style.GREY, "markersize": 6.5}
    if any(f["chosen"].get("") for f in found.values()):
        legend.append(Line2D([], [], marker="o", markeredgecolor="black", label="chosen", **how))
    if peaks:
        legend.append(Line2D([], [], marker="+", label="peak of a volume", **how))
    for rule, mark in rules.items():
        legend.append(Line2D([], [], marker=mark, markerfacecolor="white", label=f"{rule} would choose", **how))
    values = np.array([v for v in values if np.isfinite(v)])
    if values.size:
        low, high = max(values.min(), values.max() - 16), values.max()
        axes.set_ylim(low - 0.04 * (high - low + 1), high + 0.06 * (high - low + 1))
    _names(axes, levels)
    axes.set(xscale="log", xlabel="iteration (optimiser steps)", ylabel="PSNR (dB), mean over slices")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.figure.legend(
        handles=legend, loc="outside lower center", ncols=4, frameon=False, handlelength=2.4, columnspacing=1.4
    )
