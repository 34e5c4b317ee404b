"""Run config/studies/methods.yaml and write tests/benchmarks/results/methods.md: what `make methods` does."""

import sys

import common
from common import RESULTS, shown, table, value, write

BASES = {"mri": "zero_filled", "ct": "fbp", "image": "degraded"}  # what needs no iteration
REFERENCE = "vanilla"  # of the costs
WITHOUT = {  # methods and networks without an arm in the study, and why
    "unet": "all arms have the same small network, so that the costs of an iteration can be compared",
    "self_deblur": "it solves blind deblurring alone: `make tasks`",
    "video_prior": "it fits several frames as one problem; the problems here are single images",
}


def page(plan, m):
    """The lines of the tables, one for each dataset with a truth to find, and of the arms that lose to the simplest reconstruction."""
    m, lines, losers = m[m.slice == ""], [], []
    for (dataset, acq), rows in m.groupby(["dataset", "acq"], sort=False):
        arms = [arm for arm in plan.study.arms if (rows.arm == arm).any()]
        if not arms:
            continue
        base = BASES[plan.study.modality(dataset)]
        words = getattr(plan.study.acquisition(dataset, acq), "words", lambda: [])()
        lines += [f"## {dataset}, {', '.join([acq, *words])}", "", *of_dataset(rows, arms)]
        untrained = [arm for arm in common.untrained(plan) if arm in arms]
        losers += [f"{line} dB ({acq}, {base})" for line in common.below(rows, untrained, base, 0.0) if line.startswith("-")]
    return [*lines, "## Untrained arms that lose to zero-filled, FBP or the degraded image", "", *(losers or ["None."]), ""]


def of_dataset(rows, arms):
    """One table; means over the seeds."""
    of = lambda arm: rows[rows.arm == arm]  # noqa: E731
    cost = {arm: value(of(arm), "seconds") / value(of(arm), "iterations") for arm in arms}
    psnr = {which: lambda arm, which=which: shown(value(of(arm), "psnr", which), ".2f") for which in ("stopped", "peak", "last")}
    return table(arms, psnr | {
        "iterations": lambda arm: shown(value(of(arm), "iterations"), ".0f"),
        "seconds": lambda arm: shown(value(of(arm), "seconds"), ".1f"),
        "iteration / vanilla's": lambda arm: shown(cost[arm] / cost[REFERENCE], ".2f"),
    })  # fmt: skip


if __name__ == "__main__":
    status, plan, metrics = common.run("methods")
    head = f"`make methods` (config/studies/methods.yaml). PSNR in dB and times, means over {len(plan.study.seeds)} seeds; times on CPU."
    write(RESULTS / "methods.md", [head, "", *common.unfinished(plan, metrics), *page(plan, metrics)])
    sys.exit(status)
