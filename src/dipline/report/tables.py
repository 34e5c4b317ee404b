"""From the scores of all jobs to ``metrics.csv``, ``failures.csv``, ``statistics.csv`` and ``tables/``.

A table has one row an arm and one column an acquisition: mean ± standard deviation over patients [spread over seeds].
The unit is the patient: the volume's value, then the mean over seeds. The spread over seeds is the mean over patients
of the standard deviation over seeds. What an arm hands over (stopped) and the oracle (peak) are columns of their own.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd

from dipline import store
from dipline.hounsfield import AIR
from dipline.report import statistics, style

COLUMNS = [
    "study",
    "dataset",
    "modality",
    "volume",
    "slice",
    "acq",
    "acceleration",
    "views",
    "arm",
    "seed",
    "metric",
    "which",
    "value",
]
FAILURES = ["dataset", "volume", "acq", "arm", "seed", "slice", "stage", "reason"]
NO_TABLE = {"status", "acceleration_achieved"}
WITHOUT_TRUTH = ("heldout_nmse", "residual", "seed_spread", "seconds")
HEADS = {"stopped": "stopped", "peak": "peak (oracle)", "": ""}
NOTE = (
    "Mean ± standard deviation over {0}s (mean over seeds first) [spread over seeds: mean over {0}s of "
    "the standard deviation over seeds]."
)
SPREAD = "100 × norm of the standard deviation over seeds / norm of the mean over seeds."
STALE = (
    "the result on disk belongs to settings that the study no longer has, and the new one is not there; "
    "see the log of the job"
)
NEVER = (
    "no result on disk: the job did not end (killed, out of time or memory, or not run yet); see logs/{study}/, "
    "then run Snakemake again"
)


def collect(plan):
    """All scores in tidy form, one value a row; for every planned job one row ``status`` (1 or 0)."""
    rows, study = [], plan.study
    heads = {}
    for job in plan.jobs:
        d, acq = job.dataset, job.acq
        if (d, acq) not in heads:
            a = study.acquisition(d, acq)
            heads[d, acq] = study.modality(d), getattr(a, "acceleration_requested", None), getattr(a, "views", None)
        modality, acceleration, views = heads[d, acq]
        scored = scores(plan, job)
        fixed = (study.study, d, modality, job.volume)
        tail = (acq, acceleration, views, job.arm, job.seed)
        rows.append((*fixed, "", *tail, "status", "", float(scored["status"] == "done")))
        for index, metric, which, value in scored["rows"]:
            rows.append((*fixed, str(index), *tail, metric, which, np.nan if value is None else float(value)))
    for d in study.datasets:
        if not has_truth(plan, d):
            rows += _seed_spread(plan, d, heads)
    table = pd.DataFrame(rows, columns=COLUMNS)
    for column in ("acceleration", "views", "value"):
        table[column] = table[column].astype(float)
    return table


def scores(plan, job):
    """The scores of a job.

    A missing or unreadable file, or one that belongs to other settings than the study now has, gives an empty result
    with status ``missing``.
    """
    empty = {
        "status": "missing",
        "reason": NEVER.format(study=plan.study.study),
        "rows": [],
        "curves": {},
        "chosen": {},
        "watched": {},
    }
    file = Path(plan.score(job))
    try:
        found = empty | {"reason": ""} | json.loads(file.read_text())
        wanted = json.loads(plan.reconstruct_spec(job.dataset, job.acq, job.arm))
        if any(spec != wanted for spec in found.get("specs", [])):
            return empty | {"reason": STALE}
        return found
    except FileNotFoundError:
        return empty
    except (ValueError, TypeError, OSError):
        return empty | {"reason": f"{file}: cannot be read; delete the file and run Snakemake again"}


def attributes(file):
    """Attributes of a file of ours, or {} where it is missing or broken."""
    try:
        return store.attributes(file) if Path(file).exists() else {}
    except store.Corrupt:
        return {}


def has_truth(plan, dataset):
    """Whether any volume of the dataset has a reference, as far as the files on disk say."""
    states = {attributes(plan.reference(dataset, v)).get("status") for v in plan.volumes[dataset]} - {None}
    return states != {"none"}


def views(plan, job):
    """{slice: {"view": float32 (h, w), …attributes}} of the slices that worked."""
    found = {}
    for file in plan.recons(job):
        if Path(file).exists():
            try:
                content = store.read(file, names=("view",))[1]
            except store.Corrupt:
                continue
            found |= {s: c for s, c in content.items() if c.get("status") == "done" and "view" in c}
    return found


def _seed_spread(plan, dataset, heads):
    """Rows of how far the images of several seeds lie apart: 100 ‖std over seeds‖ / ‖mean over seeds‖ of a volume.

    HU count from air, so that the number says of CT what it says of MRI: how much of the signal depends on the seed.
    """
    groups, zero = {}, AIR if plan.study.modality(dataset) == "ct" else 0.0
    for job in plan.jobs:
        if job.dataset == dataset:
            groups.setdefault((job.volume, job.acq, job.arm), []).append(job)
    for (volume, acq, arm), jobs in groups.items():
        images = [v for v in (views(plan, j) for j in jobs) if v] if len(jobs) > 1 else []
        slices = set.intersection(*map(set, images)) if len(images) > 1 else set()
        if slices:
            stack = np.array([[i[s]["view"] for s in sorted(slices)] for i in images], np.float64) - zero
            value = 100 * np.linalg.norm(stack.std(0, ddof=1)) / max(np.linalg.norm(stack.mean(0)), 1e-30)
            modality, acceleration, n = heads[dataset, acq]
            yield (
                plan.study.study,
                dataset,
                modality,
                volume,
                "",
                acq,
                acceleration,
                n,
                arm,
                "",
                "seed_spread",
                "",
                value,
            )


def failures(plan):
    """Everything that is missing from the tables, with the stage that failed and the reason."""
    rows = [(d, v, "", "", "", "", "scan", reason) for (d, v), reason in plan.problems.items()]
    rows += [(*job, "", "", "inputs", reason) for job, reason in plan.unfed.items()]
    for d, dataset in plan.study.datasets.items():
        for v in plan.volumes[d]:
            head = attributes(plan.reference(d, v))
            if head.get("status") == "failed":
                rows.append((d, v, "", "", "", "", "reference", head.get("reason", "")))
            for acq in dataset.acquisitions:
                head = attributes(plan.measurement(d, v, acq))
                if head.get("status") == "failed":
                    rows.append((d, v, acq, "", "", "", "measure", head.get("reason", "")))
    for job in plan.jobs:
        scored = scores(plan, job)
        if scored["status"] == "done":
            continue
        at = (job.dataset, job.volume, job.acq, job.arm, job.seed)
        files = plan.recons(job)
        if scored["status"] == "missing":
            rows.append((*at, "", "score" if all(Path(f).exists() for f in files) else "reconstruct", scored["reason"]))
            continue
        failed = [(s, c.get("reason", "")) for f in files for s, c in _slices(f).items() if c.get("status") != "done"]
        rows += [(*at, str(s), "reconstruct", reason) for s, reason in failed] or [(*at, "", "score", scored["reason"])]
    return pd.DataFrame(rows, columns=FAILURES)


def _slices(file):
    try:
        return store.read(file, names=())[1] if Path(file).exists() else {}
    except store.Corrupt:
        return {}


def summary(metrics, dataset, metric, which):
    """arms x (acquisition, quantity): ``mean``, ``std`` over patients, ``seed_std`` over seeds, ``n`` patients."""
    rows = metrics[
        (metrics["dataset"] == dataset)
        & (metrics["metric"] == metric)
        & (metrics["which"] == which)
        & (metrics["slice"] == "")
    ]
    arms = list(dict.fromkeys(metrics.loc[metrics["dataset"] == dataset, "arm"]))
    acqs = list(dict.fromkeys(metrics.loc[metrics["dataset"] == dataset, "acq"]))
    columns = pd.MultiIndex.from_product([acqs, ["mean", "std", "seed_std", "n"]], names=["acq", "quantity"])
    table = pd.DataFrame(np.nan, index=pd.Index(arms, name="arm"), columns=columns)
    for (arm, acq), group in rows[rows["value"].notna()].groupby(["arm", "acq"], sort=False):
        by_patient = group.groupby("volume", sort=False)["value"]
        means = by_patient.mean()
        infinite = np.isinf(means).any()  # identical images
        table.loc[arm, acq] = [
            means.mean(),
            np.nan if infinite else means.std(ddof=1),
            by_patient.std(ddof=1).mean(),
            len(means),
        ]
    return table


def shown_metrics(metrics, dataset, truth=True):
    """Metrics of a dataset that get a table, in the order of ``style.METRICS``."""
    found = list(dict.fromkeys(metrics.loc[(metrics["dataset"] == dataset) & (metrics["slice"] == ""), "metric"]))
    known = list(style.METRICS)
    found = sorted(
        (m for m in found if m not in NO_TABLE), key=lambda m: (known.index(m) if m in known else len(known), m)
    )
    return found if truth else [m for m in found if m in WITHOUT_TRUTH]


def sides(metrics, dataset, metric):
    """The score columns of a table: stopped and, where there is an oracle, peak."""
    rows = metrics[(metrics["dataset"] == dataset) & (metrics["metric"] == metric) & (metrics["slice"] == "")]
    return [w for w in ("stopped", "peak") if (rows["which"] == w).any()] or [""]


def best(table, acq, metric):
    """Arms whose mean is the best as shown in the table."""
    m = style.metric(metric)
    means = table[acq, "mean"].dropna()
    if not m.better or len(means) < 2:
        return set()
    top = m.shown(means.max() if m.better > 0 else means.min())
    return {arm for arm, value in means.items() if m.shown(value) == top}


def cell(row, metric):
    """``31.24 ± 1.20 [0.08]``"""
    m = style.metric(metric)
    text = m.shown(row["mean"])
    if row["std"] == row["std"]:
        text += f" ± {m.shown(row['std'])}"
    if row["seed_std"] == row["seed_std"]:
        text += f" [{m.shown(row['seed_std'])}]"
    return text


def notes(plan, metrics, dataset, metric):
    """What a reader must know of a table, as sentences."""
    table, said = summary(metrics, dataset, metric, sides(metrics, dataset, metric)[0]), []
    counts = table.xs("n", axis=1, level="quantity").fillna(0).astype(int)
    most = int(counts.to_numpy().max()) if counts.size else 0
    kind = style.unit(plan.study.modality(dataset))
    seeds = len({job.seed for job in plan.jobs if job.dataset == dataset})
    said.append(f"n = {style.count(most, kind)} (one volume each), {style.count(seeds, 'seed')}.")
    solves = plan.study.solves
    short = [(arm, acq, n) for arm in counts.index for acq, n in counts.loc[arm].items() if n < most and solves(arm, dataset, acq)]
    fewer = [f"{arm} at {acq}: {n}" for arm, acq, n in short]
    if fewer and metric != "seed_spread":
        said.append(
            f"Fewer {kind}s (see failures.csv; their means are not over the same {kind}s): {', '.join(fewer)}."
        )
    state = metrics[(metrics["dataset"] == dataset) & (metrics["metric"] == "status")]["value"]
    if (state == 0).any():
        said.append(f"{int((state == 0).sum())} of {len(state)} jobs have no complete result; they are in no mean.")
    air = " HU count from air (−1000)." if plan.study.modality(dataset) == "ct" else ""
    said.append(spread_note(plan, dataset) if metric != "seed_spread" else SPREAD + air)
    if "peak" in sides(metrics, dataset, metric):
        said.append(
            "Stopped: what a user without a reference gets. Peak: oracle, the best image of the run by PSNR; no "
            "user can have it."
        )
    if metric == "residual":
        said.append("A small residual is no sign of quality: an overfitted image has the smallest.")
    said.append(protocol(plan, dataset))
    if not has_truth(plan, dataset):
        said.append("This dataset has no truth: nothing here measures the error of an image.")
    return said


def spread_note(plan, dataset):
    """What stands in a cell."""
    return NOTE.format(style.unit(plan.study.modality(dataset)))


def words(acquisition, heads):
    """Phrases on an acquisition and on what its measurements, of these attributes, miss; MRI's captions have words of their own."""
    limits = dict.fromkeys(name for head in heads for name in head.get("limits", []))
    return acquisition.words(limits) if hasattr(acquisition, "words") else []


def protocol(plan, dataset):
    """How a dataset was measured, in one sentence: crop, maps, masks, acceleration; views, geometry, photons, grid."""
    d = plan.study.datasets[dataset]
    parts = [f"Reader {d.reader}"]
    if plan.study.modality(dataset) == "mri":
        parts += [f"crop: {d.crop}", f"maps: {d.maps.method}" + (f", {d.maps.sets} sets" if d.maps.sets > 1 else "")]
        parts += ["the range of scores is the maximum of the reference volume"] if has_truth(plan, dataset) else []
    heads = [attributes(plan.reference(dataset, v)) for v in plan.volumes[dataset]]
    if plan.study.modality(dataset) == "image":
        parts.append("scores on all colours, values cut off at black and white, which are the range; SSIM with an 11 × 11 Gaussian window")
    elif clip := next((h["scores"][0].get("clip") for h in heads if "scores" in h), None):
        low = f"{clip[0]:g}".replace("-", "−")
        parts.append(f"scores on HU from {low} upwards with the range of the reference volume; in a window, with its limits")
    for acq in d.acquisitions:
        a = plan.study.acquisition(dataset, acq)
        heads = [h for h in (attributes(plan.measurement(dataset, v, acq)) for v in plan.volumes[dataset]) if h]
        achieved = sorted(h["acceleration_achieved"] for h in heads if "acceleration_achieved" in h)
        mask = next((str(h["mask"]) for h in heads if "mask" in h), getattr(a, "mask", ""))
        requested = getattr(a, "acceleration_requested", None)
        said = [f"mask {mask}"] if mask else words(a, heads)
        said += [f"crop made: {crop}" for crop in sorted({h["crop"] for h in heads if "crop" in h} - {d.crop})]
        if getattr(a, "center_fraction", None) is not None:
            said.append(f"centre fraction {a.center_fraction:g}")
        if mask and a.seed is not None:
            said.append(f"mask seed {a.seed}")
        if getattr(a, "noise_snr", None) is not None:
            said.append(f"noise added at {a.noise_snr:g} dB")
        if getattr(a, "holdout", None) is not None:
            said.append(f"{100 * a.holdout:g} % of the {'views' if hasattr(a, 'views') else 'samples'} held out")
        if requested:
            said.append(f"acceleration requested {requested:g}")
        if achieved:
            low, high = f"{achieved[0]:.2f}", f"{achieved[-1]:.2f}"
            said.append(f"achieved {low if low == high else f'{low} to {high}'}")
        parts.append(f"{acq}: {', '.join(said) or 'as stored'}")
    return "; ".join(parts) + "."


def write(plan):
    """Write metrics.csv, failures.csv, statistics.csv, tables/<dataset>_<metric>.{csv,md,tex} and those of ``questions``."""
    from dipline.report import questions

    metrics = collect(plan)
    (plan.root / "tables").mkdir(parents=True, exist_ok=True)  # there even if no scan could be used
    _csv(plan.root / "metrics.csv", metrics)
    _csv(plan.root / "failures.csv", failures(plan))
    _csv(plan.root / "statistics.csv", statistics.table(metrics))
    for dataset in plan.study.datasets:
        for metric in shown_metrics(metrics, dataset, has_truth(plan, dataset)):
            name, said = f"{dataset}_{metric}", notes(plan, metrics, dataset, metric)
            tables = {w: summary(metrics, dataset, metric, w) for w in sides(metrics, dataset, metric)}
            _csv(plan.root / "tables" / f"{name}.csv", _long(tables))
            store.write_text(plan.root / "tables" / f"{name}.md", markdown(tables, dataset, metric, said))
            store.write_text(plan.root / "tables" / f"{name}.tex", latex(tables, dataset, metric, said))
        for table in questions.tables_of(plan, metrics, dataset):
            _csv(plan.root / "tables" / f"{dataset}_{table.name}.csv", table.frame)
            store.write_text(plan.root / "tables" / f"{dataset}_{table.name}.md", questions.markdown(table, dataset))


def _csv(path, table):
    store.write_text(path, table.to_csv(index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n"))


def _long(tables):
    """A table's numbers, unrounded: arm, acq, which, mean, std, seed_std, n."""
    rows = [
        (arm, acq, which, *table.loc[arm, acq][["mean", "std", "seed_std"]], int(table.fillna(0).loc[arm, (acq, "n")]))
        for which, table in tables.items() for arm in table.index for acq in table.columns.unique("acq")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "acq", "which", "mean", "std", "seed_std", "n"])


def _columns(tables):
    """[(acq, which)] in the order of the printed table."""
    acqs = next(iter(tables.values())).columns.unique("acq")
    return [(acq, which) for acq in acqs for which in tables]


def grid(tables, metric):
    """(columns, [(arm, [(text, bold)])]) of a printed table; bold: the best of what users get."""
    columns = _columns(tables)
    first = next(iter(tables))
    top = {acq: best(tables[first], acq, metric) for acq, _ in columns}
    arms = next(iter(tables.values())).index
    return columns, [
        (arm, [(cell(tables[w].loc[arm, acq], metric), w == first and arm in top[acq]) for acq, w in columns])
        for arm in arms
    ]


def markdown(tables, dataset, metric, said):
    columns, rows = grid(tables, metric)
    heads = [md(acq) + (f", {HEADS[w]}" if len(tables) > 1 else "") for acq, w in columns]
    lines = [f"# {md(dataset)}: {md(style.metric(metric).heading)}", ""]
    lines += [f"| arm | {' | '.join(heads)} |", f"|:--|{'--:|' * len(columns)}"]
    for arm, cells in rows:
        lines.append(f"| {md(arm)} | {' | '.join(f'**{t}**' if bold else t for t, bold in cells)} |")
    return "\n".join([*lines, "", *(f"{md(s)}  " for s in said), ""])


def md(text):
    """Text with Markdown's and HTML's own characters taken literally."""
    for character in "\\`*_|<[":
        text = text.replace(character, f"\\{character}")
    return text


TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "–": "--", "×": r"$\times$", 
    "‖": r"$\|$",     "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def tex(text):
    """Text with LaTeX's own characters taken literally."""
    return "".join(TEX.get(c, c) for c in str(text))


def latex(tables, dataset, metric, said):
    """A booktabs table; needs ``\\usepackage{booktabs}``."""
    columns, rows = grid(tables, metric)
    acqs, width = list(dict.fromkeys(a for a, _ in columns)), len(tables)
    lines = [
        "% needs \\usepackage{booktabs}", "\\begin{table}", "  \\centering", "  \\footnotesize",
        "  \\setlength{\\tabcolsep}{4pt}",
        f"  \\caption{{{tex(dataset)}: {tex(style.metric(metric).heading)}. {tex(' '.join(said))}}}",
        f"  \\label{{tab:{''.join(c if c.isalnum() else '-' for c in f'{dataset}-{metric}')}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(columns)}}}", "    \\toprule",
    ]  # fmt: skip
    if width > 1:
        lines.append("    " + "".join(f" & \\multicolumn{{{width}}}{{c}}{{{tex(a)}}}" for a in acqs) + r" \\")
        lines.append(
            "    " + " ".join(f"\\cmidrule(lr){{{2 + i * width}-{1 + (i + 1) * width}}}" for i in range(len(acqs)))
        )
        lines.append("    arm" + "".join(f" & {tex(HEADS[w])}" for _, w in columns) + r" \\")
    else:
        lines.append("    arm" + "".join(f" & {tex(a)}" for a, _ in columns) + r" \\")
    lines.append("    \\midrule")
    for arm, cells in rows:
        lines.append(
            f"    {tex(arm)}"
            + "".join(f" & \\textbf{{{tex(t)}}}" if bold else f" & {tex(t)}" for t, bold in cells)
            + r" \\"
        )
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])
