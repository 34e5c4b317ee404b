"""What readers ask beyond the scores, a table each: against the best classical arm, stops against the peak, held-out against true
scores, ours beside published numbers. Each goes to the page and to ``tables/<dataset>_<name>.csv`` and ``.md``.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from dipline.report import answer, cite, statistics, style, tables

STARTS = ("zero_filled", "fbp", "degraded")  # methods that hand over the starting image


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: of its files; heading, note: what it shows; what that means, and what it does not mean.
        frame: its numbers; rows: the same as a reader sees them, in the order of ``columns``.
    """

    name: str
    heading: str
    note: str
    frame: pd.DataFrame
    columns: list
    rows: list


def tables_of(plan, metrics, dataset):
    """The tables that a dataset gives rise to."""
    found = (baseline(plan, metrics, dataset), peaks(plan, dataset), trust(plan, metrics, dataset), published(plan, metrics, dataset))
    return [t for t in found if t is not None]


def markdown(table, dataset):
    md = tables.md
    lines = [f"# {md(dataset)}: {md(table.heading)}", "", f"| {' | '.join(map(md, table.columns))} |", "|:--" * len(table.columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(md, row))} |" for row in table.rows), "", md(table.note), ""])


def baseline(plan, metrics, dataset):
    """Every other arm less the baseline, unit by unit; None where there is nothing to compare."""
    truth = tables.has_truth(plan, dataset)
    metric = "psnr" if truth else "heldout_nmse"
    m, found = style.metric(metric), []
    for acq in plan.study.datasets[dataset].acquisitions:
        values = statistics.patients(metrics, dataset, acq, metric, "stopped")
        base = chosen_baseline(plan, values, m.better)
        pairs = statistics.compare(metrics, dataset, acq, metric) if base else pd.DataFrame()
        rows = []
        for pair in pairs.to_dict("records"):
            names = pair["arm_a"], pair["arm_b"]
            arm = names[names[0] == base] if base in names else base
            if arm == base or not pair["patients"]:
                continue
            sign = m.better if arm == pair["arm_a"] else -m.better
            wins = int((m.better * (values[arm] - values[base]).dropna() > 0).sum())
            low, high = sorted(sign * pair[key] for key in ("smallest_difference", "largest_difference"))
            rows.append({
                "acq": acq, "arm": arm, "baseline": base, "n": pair["patients"], "ahead": wins, "median": sign * pair["median_difference"],
                "smallest": low, "largest": high, "p": pair["p"],
            })  # fmt: skip
        for row, p in zip(rows, statistics.holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = p
        found += rows
    if not found:
        return None
    unit = f" ({m.unit})" if m.unit else ""
    shown = [
        [r["acq"], r["arm"], r["baseline"], f"{r['ahead']} of {r['n']}", m.shown(r["median"]),
         f"{m.shown(r['smallest'])} to {m.shown(r['largest'])}", answer.p_cell(r["p"]), answer.p_cell(r["p_holm"])]
        for r in found
    ]  # fmt: skip
    kind = style.unit(plan.study.modality(dataset))
    named = {r["baseline"] for r in found} == {plan.study.baseline}
    chosen = "The baseline is the one the study names. " if named else (
        "The baseline is the classical arm with the best mean under the same acquisition, chosen on these very "
        f"{kind}s, which favours it. ")  # fmt: skip
    note = (
        f"{m.heading} of what users get, arm less baseline, {kind} by {kind}; positive: the arm is better. {chosen}"
        "p: two-sided Wilcoxon signed-rank test, made with "
        f"{statistics.LEAST} {kind}s or more; Holm over the arms of one acquisition. It means that, with these settings on these {kind}s, "
        "an arm was ahead or behind by so much; a large p does not mean that two arms are equal, and no p says that the order holds for "
        "other scanners, bodies or settings."
    )
    heads = ["acquisition", "arm", "baseline", "ahead in", f"median difference{unit}", "range", "p", "p, Holm"]
    heading = "Against the baseline" if named else "Against the best classical arm"
    return Table("baseline", heading, note, pd.DataFrame(found), heads, shown)


def chosen_baseline(plan, values, better):
    """The arm that others are compared with, of values (unit x arm): the study's, or else the best classical one; None without any."""
    if plan.study.baseline in values:
        return plan.study.baseline
    classical = values[[a for a in values if answer.class_of(plan, a) == "classical"]]
    complete = classical.dropna()
    means = (complete if len(complete) else classical).mean() * better
    return means.idxmax() if len(means.dropna()) else None


def peaks(plan, dataset):
    """How far what every stop rule chose, and the last image, lie from the peak of the same run; None without curves."""
    found = {}
    for job in plan.jobs:
        if job.dataset != dataset or answer.class_of(plan, job.arm) == "classical":
            continue
        scored, own = tables.scores(plan, job), next(iter(plan.study.resolved(job.arm, job.acq)["stop"]))
        exact = {(str(at), which): v for at, metric, which, v in scored["rows"] if metric == "psnr" and v is not None}
        for index, curve in scored["curves"].items():
            steps, psnr = np.array(curve["steps"]) + 1, np.array(curve["psnr"], float)
            if len(steps) < 2 or not np.isfinite(psnr).all():
                continue
            between = lambda k, x=steps, y=psnr: float(np.interp(np.log(k + 1), np.log(x), y))  # noqa: E731
            last = max(scored["iterations"].get(index, 0), int(steps[-1])) - 1
            stops = {"last image": (last, exact.get((index, "last"), psnr[-1]))}
            chosen = scored["chosen"].get(index)
            if own == "fixed":  # a run that another rule ended has not shown the others all
                stops |= {rule: (k, between(k)) for rule, k in scored["watched"].get(index, {}).items() if k is not None}
            elif chosen is not None:
                stops = {own: (chosen, exact.get((index, "stopped"), between(chosen)))} | stops
            seen = [*zip(steps, psnr, strict=True), *((k + 1, v) for k, v in stops.values())]
            at, top = max(seen, key=lambda one: one[1])
            for rule, (k, value) in stops.items():
                found.setdefault((job.acq, job.arm, rule), {}).setdefault(job.volume, []).append((top, at, value - top, k + 1 - at))
    if not found:
        return None
    rows = []
    for (acq, arm, rule), volumes in found.items():
        each = np.array([np.mean(v, axis=0) for v in volumes.values()])
        mean, std = each.mean(0), each.std(0, ddof=1) if len(each) > 1 else np.full(4, np.nan)
        network = "+".join(plan.study.resolved(arm, acq)["network"] or [])
        rows.append({
            "acq": acq, "arm": arm, "network": network, "rule": rule, "n": len(each), "peak": mean[0], "peak_std": std[0],
            "peak_iteration": mean[1], "peak_iteration_std": std[1], "distance": mean[2], "distance_std": std[2], "iterations": mean[3],
            "iterations_std": std[3],
        })  # fmt: skip
    spread = lambda v, digits: f" ± {format(v, digits)}" if v == v else ""  # noqa: E731
    shown = [
        [r["acq"], r["arm"], r["network"], r["rule"], str(r["n"]), f"{r['peak']:.2f}{spread(r['peak_std'], '.2f')}",
         f"{r['peak_iteration']:.0f}{spread(r['peak_iteration_std'], '.0f')}",
         _signed(r["distance"]) + spread(r["distance_std"], ".2f"),
         _signed(r["iterations"], "+.0f") + spread(r["iterations_std"], ".0f")]
        for r in rows
    ]  # fmt: skip
    kind = style.unit(plan.study.modality(dataset))
    note = (
        f"Mean ± standard deviation over {kind}s (mean over slices and seeds first). Peak: the best stored image of the run, which only "
        "the truth shows; PSNR where a watching rule would have stopped is interpolated between stored images. Watching rules all saw the "
        "same images, to the end of the run. Distance 0: the rule found the peak; it says nothing of how good the "
        "peak is, and a run that still rises at its end has its peak there, whatever the rule."
    )
    heads = ["acquisition", "arm", "network", "rule", "n", "peak (dB)", "at iteration", "distance (dB)", "in iterations"]
    return Table("stops", "Stops and the peak of the same run", note, pd.DataFrame(rows), heads, shown)


SAME = {("image", "ssim"): "ssim_wang"}  # what the score of a paper is called here
SURE = 0.8  # rank correlation from which held-out samples are said to rank arms


def trust(plan, metrics, dataset):
    """Rank correlation, over arms, of the score by held-out samples with the true one; None where they do not both exist."""
    rows = []
    for acq in plan.study.datasets[dataset].acquisitions:
        true, kept = (statistics.patients(metrics, dataset, acq, m, "stopped") for m in ("psnr", "heldout_nmse"))
        arms = [a for a in true if a in kept and plan.study.arms[a].method not in STARTS]
        each, picked, loss, counts = [], [], [], []
        for v in (v for v in true.index if v in kept.index):
            here = [a for a in arms if np.isfinite(true.loc[v, a]) and np.isfinite(kept.loc[v, a])]
            if len(here) < 3 or min(true.loc[v, here].nunique(), kept.loc[v, here].nunique()) == 1:
                continue
            each.append(float(stats.spearmanr(-kept.loc[v, here], true.loc[v, here]).statistic))
            picked.append(kept.loc[v, here].idxmin())
            loss.append(true.loc[v, here].max() - true.loc[v, picked[-1]])
            counts.append(len(here))
        if each:
            rows.append({
                "acq": acq, "arms": max(counts), "n": len(each), "rank_correlation": np.mean(each), "smallest": np.min(each),
                "largest": np.max(each), "picked": max(dict.fromkeys(picked), key=picked.count), "loss": np.mean(loss),
                "largest_loss": np.max(loss),
            })  # fmt: skip
    if not rows:
        return None
    shown = [
        [r["acq"], str(r["arms"]), str(r["n"]), _signed(r["rank_correlation"]), f"{_signed(r['smallest'])} to {_signed(r['largest'])}",
         r["picked"], f"{r['loss']:.2f} (at most {r['largest_loss']:.2f})"]
        for r in rows
    ]  # fmt: skip
    kind = style.unit(plan.study.modality(dataset))
    few = min(r["arms"] for r in rows) < 5 or min(r["n"] for r in rows) < 3
    if few:
        verdict = f"Fewer than five arms or three {kind}s say little: three arms agree by chance once in six."
    elif all(r["smallest"] >= SURE for r in rows):
        verdict = f"Here every {kind} had a correlation of {SURE:g} or more: held-out samples may rank these arms where there is no truth."
    else:
        verdict = f"Here a {kind} had a correlation below {SURE:g}: held-out samples alone do not rank these arms safely."
    note = (
        f"Spearman's correlation over the arms, without starting images, for each {kind}, of the PSNR with minus the error on samples that "
        "no arm was given (1: the same order). Loss: PSNR given away by whoever takes the arm that predicts the held-out samples best, "
        "without looking at the truth. "
        f"{verdict} It does not say that the error on held-out samples measures the error of an image."
    )
    heads = ["acquisition", "arms", "n", "rank correlation", "range", "arm picked most", "loss (dB)"]
    return Table("heldout_trust", "May a user without truth trust held-out samples?", note, pd.DataFrame(rows), heads, shown)


def _signed(value, digits=".2f"):
    """A number with a true minus sign, and none in front of nought."""
    return format(round(value, 2) + 0.0, digits).replace("-", "−")


def published(plan, metrics, dataset):
    """Ours beside numbers of papers; None where the study quotes none for the dataset."""
    rows = []
    for quoted in (q for q in plan.study.published if q.dataset == dataset):
        metric = SAME.get((plan.study.modality(dataset), quoted.metric), quoted.metric)
        m, table = style.metric(metric), tables.summary(metrics, dataset, metric, "stopped")
        have = quoted.arm in table.index and quoted.acq in table.columns.unique("acq")
        ours = tables.cell(table.loc[quoted.arm, quoted.acq], metric) if have else "–"
        rows.append({
            "acq": quoted.acq, "method": quoted.arm, "metric": m.heading, "ours": ours,
            "published": m.shown(quoted.value) + (f" ± {m.shown(quoted.spread)}" if quoted.spread is not None else ""),
            "source": source(quoted.source), "differs": " ".join(quoted.differs.split()),
        })  # fmt: skip
    if not rows:
        return None
    note = (
        f"Ours: mean ± standard deviation over {style.unit(plan.study.modality(dataset))}s [over seeds] of what users get; –: no result "
        "here. Data and protocol differ as the last column says, so that only the order of methods and the size of steps "
        "between them can be compared, not single numbers."
    )
    heads = ["acquisition", "method", "score", "ours", "published", "source", "how their protocol differs"]
    return Table("published", "Beside published numbers", note, pd.DataFrame(rows), heads, [list(r.values()) for r in rows])


def source(text):
    """``Alkhouri et al. 2024`` of a key of references.bib; any other text stays."""
    return cite.short(text) if text in cite.entries() else text

