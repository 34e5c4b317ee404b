"""Run config/studies/task_*.yaml and write tests/benchmarks/results/tasks.md: what `make tasks` does."""

import sys

import common
from common import RESULTS, ROOT, shown, value, write

STUDIES = sorted(f.stem for f in (ROOT / "config" / "studies").glob("task_*.yaml"))
STARTS = ("degraded", "zero_filled")  # what the measurement shows by itself
STOPPED = "es_dip"  # the same arm stopped by WMV
HEAD = ["task", "measurement", "untouched", "tv", "other baselines", "untrained (peak)", STOPPED, "untrained − untouched, by image"]


def rows_of(plan, m):
    """A row of the table for each dataset and acquisition; PSNR, means over images. The first arm with a network runs to its end."""
    found, m, untrained = [], m[m.slice == ""], common.untrained(plan)
    for (dataset, acq), rows in m.groupby(["dataset", "acq"], sort=False):
        arms = [arm for arm in plan.study.arms if (rows.arm == arm).any()]
        if not arms:
            continue
        of = lambda arm, which="stopped", rows=rows: shown(value(rows[rows.arm == arm], "psnr", which), ".2f")  # noqa: E731
        start, dip = next(arm for arm in STARTS if arm in arms), untrained[0]
        words = getattr(plan.study.acquisition(dataset, acq), "words", lambda acq=acq: [acq])()
        others = [arm for arm in arms if arm not in (start, "tv", *untrained)]
        gains = [common.above(image, dip, start) for _, image in rows.groupby("volume", sort=False)]
        found.append([
            plan.study.study.removeprefix("task_"), f"{dataset}: {', '.join(words)}", of(start), of("tv") if "tv" in arms else "",
            ", ".join(f"{arm} {of(arm)}" for arm in others), f"{dip} {of(dip)} ({of(dip, 'peak')})",
            of(STOPPED) if STOPPED in arms else "", ", ".join(shown(gain, "+.2f") for gain in gains),
        ])  # fmt: skip
    return found


def lines(rows):
    """The table; a row of :func:`rows_of` each."""
    return [f"| {' | '.join(cells)} |" for cells in (HEAD, [":--"] * len(HEAD), *rows)] + [""]


if __name__ == "__main__":
    worst, table, lacking = 0, [], []
    for name in STUDIES:
        status, plan, metrics = common.run(name)
        worst = max(worst, status)
        table += rows_of(plan, metrics)
        lacking += common.unfinished(plan, metrics)
    head = "`make tasks` (config/studies/task_*.yaml). PSNR in dB of the whole image, means over the images; *peak* is an oracle's choice."
    write(RESULTS / "tasks.md", [head, "", *lacking, *lines(table)])
    sys.exit(worst)
