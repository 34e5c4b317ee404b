"""Run config/studies/*_small.yaml and write tests/benchmarks/results/study_<name>.md and studies/: what `make studies` does.

Studies of the data beside the checkout are left out, and named, where $DIPLINE_DATA is no folder. Names on the command line run these
studies alone: tests/benchmarks/studies.py robustness
"""

import os
import re
import shutil
import sys

import common
from common import RESULTS, ROOT, write

from dipline import study as studies
from dipline.report import cite, questions, tables

FIGURES = RESULTS / "studies"
SMALL = "_small"
MAIN = ("psnr", "heldout_nmse")  # tables printed beside those of ``questions``


def needed(name):
    """Whether the study's scans are there: embedded, or in $DIPLINE_DATA."""
    datasets = studies.read(ROOT / "config" / "studies" / f"{name}.yaml")["datasets"].values()
    return all(studies.local(d["path"]).exists() for d in datasets if "path" in d)


def title(name):
    """The first sentence of the study file."""
    words = [line[2:] for line in (ROOT / "config" / "studies" / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    return " ".join(words).split(". ")[0].split("; make")[0] + "."


def page(plan, metrics):
    """The lines of one study: its tables, with what they mean, and its figures."""
    lines = []
    for dataset in plan.study.datasets:
        found = [plan.root / "tables" / f"{dataset}_{metric}.md" for metric in MAIN]
        found += [plan.root / "tables" / f"{dataset}_{t.name}.md" for t in questions.tables_of(plan, metrics, dataset)]
        for file in found:
            if file.exists():
                lines += [re.sub(r"^# ", "### ", file.read_text().rstrip(), count=1), ""]
        lines += figures(plan, dataset)
    return [*lines, *cite.methods_text(plan)[0][:1], ""]


def figures(plan, dataset):
    """Copies of the figures beside the page, and the lines that show them."""
    found = [(plan.curve(dataset, acq), f"{dataset}_{acq}") for acq in plan.study.datasets[dataset].acquisitions]
    found = [] if plan.sweeps(dataset) or not tables.has_truth(plan, dataset) else found
    found += [(plan.sweep(dataset), f"{dataset}_sweeps")] if plan.sweeps(dataset) else []
    found += [(plan.panel(*key), f"{dataset}_pictures") for key in plan.shown() if key[0] == dataset][:1]
    lines = []
    for file, name in found:
        if os.path.exists(file):
            FIGURES.mkdir(exist_ok=True)
            out = FIGURES / f"{plan.study.study.removesuffix(SMALL)}_{name}.png"
            shutil.copyfile(file, out)
            lines += [f"![{out.stem.replace('_', ' ')}](studies/{out.name})", ""]
    return lines


if __name__ == "__main__":
    os.environ.setdefault("DIPLINE_DATA", str(ROOT.parent / "shared" / "data"))
    every = sorted(f.stem for f in (ROOT / "config" / "studies").glob(f"*{SMALL}.yaml"))
    names = [n.removesuffix(SMALL) for n in every]
    if unknown := set(sys.argv[1:]) - set(names):
        sys.exit(f"no small study {', '.join(sorted(unknown))} (allowed: {', '.join(names)})")
    chosen = [f"{name}{SMALL}" for name in sys.argv[1:] or names]
    del sys.argv[1:]
    worst = 0
    for name in chosen:
        file = RESULTS / f"study_{name.removesuffix(SMALL)}.md"
        if not needed(name):
            print(f"{name}: left out, its scans are not in $DIPLINE_DATA ({os.environ['DIPLINE_DATA']})")
            continue
        status, plan, metrics = common.run(name)
        worst = max(worst, status)
        head = f"{title(name)} `make studies` (config/studies/{name}.yaml); tables and figures are those of its report."
        write(file, [head, "", *common.unfinished(plan, metrics), *page(plan, metrics)])
    sys.exit(worst)
