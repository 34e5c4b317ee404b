"""A score against what the acquisitions of a dataset vary: acceleration, noise, views.

One panel for every series of three or more acquisitions that differ in one number alone (``Plan.sweeps``). Lines: mean over volumes of
what users get; bars: standard deviation over volumes. Without a truth the score is the error on held-out samples.
"""

import textwrap

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from dipline import store
from dipline.report import style, tables

COLUMNS = 3  # panels a row
NAMES = {
    "acceleration": "acceleration", "views": "views", "noise_snr": "signal to noise of the samples (dB)", "photons": "photons per ray",
    "sigma": "standard deviation of the noise (of 255)", "missing": "part of the pixels missing", "factor": "times fewer pixels a side",
    "rate": "values a pixel",
}  # fmt: skip
MARKERS = "osD^vPX*"
LOGARITHMIC = ("views", "photons", "factor")


def write(plan):
    """Draw the sweeps of all datasets that have any; returns their files."""
    metrics = tables.collect(plan)
    return [draw(plan, metrics, dataset) for dataset in plan.study.datasets if plan.sweeps(dataset)]


def draw(plan, metrics, dataset):
    """Draw the panels of one dataset to ``plan.sweep(dataset)``."""
    sweeps, looks = plan.sweeps(dataset), style.looks(plan.study)
    metric = "psnr" if tables.has_truth(plan, dataset) else "heldout_nmse"
    table = tables.summary(metrics, dataset, metric, "stopped")
    columns = min(COLUMNS, len(sweeps))
    rows = -(-len(sweeps) // columns)
    arms = [a for a in table.index if table.loc[a].xs("mean", level="quantity").notna().any()]
    with rc_context(style.FONT):
        figure = Figure((2.9 * columns + 0.5, 2.7 * rows + 0.3 + 0.2 * -(-len(arms) // (2 * columns))), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, (key, acqs, title) in zip(grid, sweeps, strict=False):
            _panel(axes, table, plan, dataset, key, acqs, looks, arms)
            axes.set_title(textwrap.fill(title, 36), loc="left", fontsize=8)
        for axes in grid[len(sweeps) :]:
            axes.set_axis_off()
        for axes in grid[: len(sweeps) : columns]:
            axes.set_ylabel(style.metric(metric).heading)
        how = [{"color": looks[a][0], "linestyle": looks[a][1], "marker": MARKERS[i % len(MARKERS)]} for i, a in enumerate(arms)]
        lines = [Line2D([], [], markersize=3.2, label=a, **h) for a, h in zip(arms, how, strict=True)]
        figure.legend(handles=lines, loc="outside lower center", ncols=2 * columns, frameon=False, handlelength=2.4)
        out = plan.sweep(dataset)
        with store.written(out) as part:
            figure.savefig(part, format="png", dpi=200, bbox_inches="tight", pad_inches=0.06, metadata={"Software": None})
    return out


def _panel(axes, table, plan, dataset, key, acqs, looks, arms):
    at = [getattr(plan.study.acquisition(dataset, acq), key) for acq in acqs]
    for i, arm in enumerate(arms):
        means = [table.loc[arm, (acq, "mean")] for acq in acqs]
        spread = [table.loc[arm, (acq, "std")] for acq in acqs]
        colour, line = looks[arm]
        axes.plot(at, means, color=colour, linestyle=line, marker=MARKERS[i % len(MARKERS)], markersize=3.2, linewidth=1.4)
        if any(s == s for s in spread):
            axes.errorbar(at, means, spread, color=colour, linestyle="", elinewidth=0.6, capsize=1.5 + 0.2 * i, alpha=0.6)
    if key in LOGARITHMIC:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(NAMES[key])
    axes.grid(True, color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
