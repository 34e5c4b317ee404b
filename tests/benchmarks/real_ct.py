"""Run config/studies/real_ct.yaml and write tests/benchmarks/results/real_ct.md: what `make real` does."""

import common
from common import above, scores, shown, table, value

BASE, LEAST = "fbp", 3.0  # dB that every untrained arm should be above it with the fewest views


def page(plan, m, data):
    """The lines of the table."""
    m, lines, arms = m[m.slice == ""], ["Images in HU, nothing below −1000.", ""], list(plan.study.arms)
    for (dataset, volume), part in m.groupby(["dataset", "volume"], sort=False):
        lines += [f"## {volume}", ""]
        for acq, rows in part.groupby("acq", sort=False):
            lines += [f"### {acq}: {', '.join(plan.study.acquisition(dataset, acq).words())}", "", *of_acquisition(rows, arms)]
        lines += common.pictures(plan, dataset, volume)
    fewest = m[m.views == m.views.min()]
    lines += [f"## Untrained arms below {BASE} + {LEAST:g} dB with {fewest.views.iloc[0]:g} views", ""]
    return lines + common.below(fewest, common.untrained(plan), BASE, LEAST)


def of_acquisition(rows, arms):
    """One table: what arms hand over, their peak, what they are above FBP, the error in HU, PSNR in the soft-tissue window."""
    of = lambda arm: rows[rows.arm == arm]  # noqa: E731
    return table(arms, {
        "stopped": lambda arm: scores(of(arm)), "peak": lambda arm: scores(of(arm), "peak"),
        "stopped − FBP": lambda arm: shown(above(rows, arm, BASE), "+.2f"),
        "RMSE (HU)": lambda arm: shown(value(of(arm), "rmse_hu"), ".1f"),
        "PSNR in 40/400": lambda arm: shown(value(of(arm), "psnr_40_400"), ".2f"),
    })  # fmt: skip


if __name__ == "__main__":
    common.main("real_ct", "ct", page)
