"""What the scripts for real scans share: run a study, make tables of its metrics.csv, keep what people wrote about them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from dipline import measure, registry, store
from dipline import study as studies
from dipline.plan import Plan

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"


def main(name, folder, page):
    """Run config/studies/<name>.yaml on $DIPLINE_DATA/<folder> and write results/<name>.md, of an unfinished run as well.

    ``page(plan, metrics, data)`` gives the lines of that file; ends with Snakemake's own status.
    """
    data = Path(os.environ.setdefault("DIPLINE_DATA", str(ROOT.parent / "shared" / "data")))
    if not (data / folder).is_dir():
        sys.exit(f"{data / folder}: no such folder; export DIPLINE_DATA=/where/the/data/lie")
    status, plan, metrics = run(name)
    head = f"`make real` (config/studies/{name}.yaml; nothing was chosen on these scans). PSNR in dB / SSIM of the whole volume."
    write(RESULTS / f"{name}.md", [head, "", *unfinished(plan, metrics), *page(plan, metrics, data)])
    sys.exit(status)


def run(name):
    """(Snakemake's status, plan, metrics.csv) of config/studies/<name>.yaml after a run, the metrics of an unfinished one as well."""
    os.chdir(ROOT)
    study = ["--configfile", f"config/studies/{name}.yaml", "--cores", os.environ.get("CORES", "2")]
    done = subprocess.run([Path(sys.executable).with_name("snakemake"), *study, "--quiet", "rules", *sys.argv[1:]])
    subprocess.run([sys.executable, "-m", "dipline", "tables", f"results/{name}"], check=True)
    plan = Plan.open(f"results/{name}")
    return done.returncode, plan, pd.read_csv(plan.root / "metrics.csv", keep_default_na=False)


def scan(folder, reader, own, acq, slices=(0,), patient="patient_201"):
    """:func:`measured` of an embedded patient."""
    plugin = registry.get("readers", reader)
    own = {k: v for k, v in (plugin.defaults() | own).items() if k not in plugin.get("COHORT", ())}
    scanned = folder / (patient + plugin.get("SUFFIX", ".h5"))
    if not scanned.exists():
        folder.mkdir(parents=True, exist_ok=True)
        measure.simulate(scanned, {"reader": reader, "params": own})
    return measured(folder, scanned, plugin.get("READS_AS"), acq, slices)


def measured(folder, scanned, reader, acq, slices=(0,)):
    """[(operator, y, truth, range)], a slice each, of a scan on the CPU; what was measured stays in the folder."""
    modality, reading = registry.get("readers", reader).get("MODALITY"), {"reader": reader, "params": {}}
    acquired = studies.checked_acquisition(acq, modality)
    spec = reading | {"physics": acquired.physics, "acq": acquired.model_dump()}
    if modality == "mri":
        spec |= {"crop": "readout", "maps": studies.Maps().model_dump()}
    file, truth = folder / "measurement.h5", folder / "truth.h5"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        measure.measure([scanned], file, folder / "held.h5", "bench", scanned.stem, "acq", list(slices), spec)
        measure.reference([scanned], truth, scanned.stem, list(slices), reading)
    head, content = store.read(truth)
    build = registry.get("physics", acquired.physics).load().build
    return [(*build(store.arrays(file, s)), content[s]["view"], head["range"]) for s in slices]


def write(file, lines):
    """The table, and below it what people wrote about it, in <name>_notes.md beside it."""
    notes = file.with_name(f"{file.stem}_notes.md")
    kept = ["## Notes", "", notes.read_text().strip()] if notes.exists() else []
    store.write_text(file, "\n".join([f"# {file.stem}", "", *lines, *kept]).rstrip() + "\n")
    print(file)


def unfinished(plan, metrics):
    """Lines about what has no result."""
    state = metrics[metrics.metric == "status"].value.astype(float)
    lines = [f"{d}/{v} could not be used: {reason}" for (d, v), reason in plan.problems.items()]
    if (state == 0).any():
        lines.append(f"Unfinished or failed: {int((state == 0).sum())} of {len(state)} jobs have no result (failures.csv).")
    return [line for found in lines for line in (found, "")]


def untrained(plan):
    """The arms that fit a network to the scan."""
    return [name for name, arm in plan.study.arms.items() if registry.get("methods", arm.method).get("NETWORK")]


def value(rows, metric, which="stopped"):
    """Mean over the rows of a metric, over seeds that is; nan where there are none."""
    found = rows[(rows.metric == metric) & (rows.which == which)].value
    return pd.to_numeric(found).mean() if len(found) else np.nan


def shown(number, digits):
    return "no result" if number != number else format(number, digits)


def scores(rows, which="stopped"):
    psnr = value(rows, "psnr", which)
    return shown(psnr, ".2f") + (f" / {value(rows, 'ssim', which):.3f}" if psnr == psnr else "")


def above(part, arm, base):
    """PSNR of what an arm hands over less that of another arm."""
    return value(part[part.arm == arm], "psnr") - value(part[part.arm == base], "psnr")


def table(arms, columns):
    """Lines of a table of arms; ``columns``: {head: function of an arm's name that gives the text}."""
    lines = [f"| arm | {' | '.join(columns)} |", f"|:--|{'--:|' * len(columns)}"]
    return lines + [f"| {arm} | {' | '.join(text(arm) for text in columns.values())} |" for arm in arms] + [""]


def below(part, arms, base, least):
    """Lines: the arms that are not so many dB above ``base``, by volume, whatever lacks a result included."""
    lines = []
    for volume, rows in part.groupby("volume", sort=False):
        gains = {arm: above(rows, arm, base) for arm in arms}
        lines += [f"- {volume}, {arm}: {shown(gain, '+.2f')}" for arm, gain in gains.items() if not gain >= least]
    return [*(lines or ["None."]), ""]


def pictures(plan, dataset, volume):
    """A line that names the panels of a volume; none where there are none."""
    found = [plan.panel(d, acq, v, window) for d, acq, v, window in plan.shown() if (d, v) == (dataset, volume)]
    return ["Pictures: " + ", ".join(f"`{f}`" for f in found if Path(f).exists()), ""] if any(map(os.path.exists, found)) else []
