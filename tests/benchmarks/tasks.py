"""Run config/studies/task_*.yaml and write tests/benchmarks/results/tasks.md: what `make tasks` does."""

import sys

import common
from common import RESULTS, ROOT, shown, value, write

STUDIES = sorted(f.stem for f in (ROOT / "config" / "studies").glob("task_*.yaml"))
STARTS = ("degraded", "zero_filled")  # what the measurement shows by itself
DIP, STOPPED = "dip", "es_dip"  # vanilla to its last step, and stopped by WMV
HEAD = ["task", "measurement", "untouched", "tv", "other baselines", "dip (peak)", "es_dip", "dip − untouched, by image"]


def rows_of(plan, m):
    """A row of the table for each dataset and acquisition; PSNR, means over images."""
    found, m = [], m[m.slice == ""]
    for (dataset, acq), rows in m.groupby(["dataset", "acq"], sort=False):
        arms = [arm for arm in plan.study.arms if (rows.arm == arm).any()]
        if not arms:
            continue
        of = lambda arm, which="stopped", rows=rows: value(rows[rows.arm == arm], "psnr", which)  # noqa: E731
        start = next(arm for arm in STARTS if arm in arms)
        words = getattr(plan.study.acquisition(dataset, acq), "words", lambda acq=acq: [acq])()
        others = [arm for arm in arms if arm not in (start, "tv", DIP, STOPPED)]
        gains = [common.above(image, DIP, start) for _, image in rows.groupby("volume", sort=False)]
        found.append([
            plan.study.name.removeprefix("task_"), f"{dataset}: {', '.join(words)}", shown(of(start), ".2f"),
            shown(of("tv"), ".2f") if "tv" in arms else "", ", ".join(f"{arm} {shown(of(arm), '.2f')}" for arm in others),
            f"{shown(of(DIP), '.2f')} ({shown(of(DIP, 'peak'), '.2f')})", shown(of(STOPPED), ".2f"),
            ", ".join(shown(gain, "+.2f") for gain in gains),
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
