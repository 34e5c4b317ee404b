"""The plain answer at the top of the report, made from the numbers, whichever way they point."""

from dipline import registry
from dipline.report import statistics, style, tables

LEVEL = 0.1  # dB between peak and last from which a run counts as overfitted
OTHERS = ("classical", "pre-trained")


def answers(plan, metrics):
    """[(dataset, lead sentence, [(acquisition, text)])]"""
    run = {job.dataset for job in plan.jobs}
    return [(d, _lead(plan, metrics, d), [(acq, _acquisition(plan, metrics, d, acq)) for acq in dataset.acquisitions if d in run])
            for d, dataset in plan.study.datasets.items()]  # fmt: skip


def class_of(plan, arm):
    return registry.get("methods", plan.study.arms[arm].method).get("CLASS", "untrained")


def _lead(plan, metrics, dataset):
    rows = metrics[metrics["dataset"] == dataset]
    state = rows[rows["metric"] == "status"]["value"]
    volumes, seeds = len(plan.volumes[dataset]), len({j.seed for j in plan.jobs if j.dataset == dataset})
    left = sum(d == dataset for d, _ in plan.problems)
    if not volumes:
        return f"No scan could be used: {style.count(left, 'scan')} left out; the reasons stand under What is missing."
    if not len(state):
        return "No arm runs on this dataset."
    text = f"{style.count(volumes, style.unit(plan.study.modality(dataset)))}, {style.count(seeds, 'seed')}"
    text += f", {style.count(left, 'scan')} left out" if left else ""
    missing = int((state == 0).sum())
    text += f"; {missing} of {len(state)} jobs have no complete result." if missing else "; all jobs have a result."
    if not tables.has_truth(plan, dataset):
        text += (
            " There is no truth: arms are judged by samples that were kept from them, which says how well they "
            "predict the measurement."
        )
    return text


def _acquisition(plan, metrics, dataset, acq):
    truth, kind = tables.has_truth(plan, dataset), style.unit(plan.study.modality(dataset))
    metric = "psnr" if truth else "heldout_nmse"
    values = statistics.patients(metrics, dataset, acq, metric, "stopped")
    if values.empty:
        return (
            "No scores yet."
            if truth
            else "No held-out samples were scored, so nothing can be said about which arm is better."
        )
    complete = values.dropna()
    fair = len(complete) > 0
    means = (complete if fair else values).mean()
    order = means.sort_values(ascending=style.metric(metric).better < 0, kind="stable")
    untrained = [a for a in order.index if class_of(plan, a) not in OTHERS]
    classical = [a for a in order.index if class_of(plan, a) == "classical"]
    if plan.study.baseline in order.index:
        classical = [plan.study.baseline]
        untrained = [a for a in untrained if a != plan.study.baseline]
    if not untrained or not classical:
        return (
            f"The best arm (stopped) is {order.index[0]} with {_value(order.iloc[0], metric)}; there is nothing "
            "of the other kind to compare it with."
        )
    best, base = untrained[0], classical[0]
    text = [f"The best untrained arm (stopped) is {best} with {_value(means[best], metric)}; "]
    text.append(
        f"the {'baseline' if plan.study.baseline else 'best classical baseline'} is {base} with "
        f"{_value(means[base], metric)}"
    )
    if fair and len(complete) < len(values):
        text.append(f" (means over the {len(complete)} of {len(values)} {kind}s that every arm has)")
    elif not fair:
        text.append(f" (no {kind} has results of all arms, so these means are over different {kind}s)")
    text.append(". " + _difference(kind, metrics, dataset, acq, metric, best, base))
    if truth:
        text += [
            _other_metric(plan, metrics, dataset, acq, best, base),
            _stopping(metrics, dataset, acq, best),
            _overfitting(plan, metrics, dataset, acq),
        ]
    return "".join(text)


def _value(value, metric):
    """``31.24 dB``, or ``an NMSE of 0.0123``"""
    m = style.metric(metric)
    return f"{m.shown(value)} {m.unit}" if m.unit else f"an {m.label} of {m.shown(value)}"


def _difference(kind, metrics, dataset, acq, metric, best, base):
    pairs, m = statistics.compare(metrics, dataset, acq, metric), style.metric(metric)
    pair = pairs[pairs.apply(lambda r: {r["arm_a"], r["arm_b"]} == {best, base}, axis=1)].iloc[0]
    n = pair["patients"]
    if not n:
        return f"They have no {kind} in common."
    sign = (1 if pair["arm_a"] == best else -1) * m.better
    middle = sign * pair["median_difference"]
    low, high = sorted(sign * pair[k] for k in ("smallest_difference", "largest_difference"))
    unit = f" {m.unit}" if m.unit else ""
    verdict = "ahead by" if middle > 0 else "behind by" if middle < 0 else "level with it:"
    text = f"{best} is {verdict} {m.shown(abs(middle))}{unit} in the median of {style.count(n, kind)}"
    text += f" (range {m.shown(low)} to {m.shown(high)}{unit}; positive: {best} better)" if n > 1 else ""
    if pair["p"] != pair["p"]:
        return f"{text}. With {style.count(n, kind)}, fewer than {statistics.LEAST}, no test was made."
    tested = int(pairs["p"].notna().sum())
    text += (
        f"; Wilcoxon {p_value(pair['p'])}, after Holm's correction over {style.count(tested, 'pair')} "
        f"{p_value(pair['p_holm'])}"
    )
    text += ", which is no evidence of a difference." if pair["p_holm"] >= 0.05 else "."
    floor = statistics.smallest_p(n, tested)
    return text + (
        f" So few {kind}s cannot give less than {p_value(floor).removeprefix('p = ')} here." if floor >= 0.05 else ""
    )


def p_value(p):
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def p_cell(value):
    """A p value as a cell of a table."""
    return "–" if value != value else p_value(value).removeprefix("p ").removeprefix("= ")


def _other_metric(plan, metrics, dataset, acq, best, base):
    values = statistics.patients(metrics, dataset, acq, "ssim", "stopped").dropna()
    if values.empty or not {best, base} <= set(values):
        return ""
    top = values.mean().drop([a for a in values if class_of(plan, a) == "pre-trained"]).idxmax()
    a, b = values[best].mean(), values[base].mean()
    if top not in (best, base):
        return f" By SSIM the best arm is {top} ({values[top].mean():.4f}; {best} {a:.4f}, {base} {b:.4f})."
    return (
        f" SSIM {'agrees' if (a > b) == _ahead(metrics, dataset, acq, best, base) else 'disagrees'}: {best} "
        f"{a:.4f}, {base} {b:.4f}."
    )


def _ahead(metrics, dataset, acq, best, base):
    values = statistics.patients(metrics, dataset, acq, "psnr", "stopped").dropna()
    return bool(values[best].mean() > values[base].mean()) if len(values) else False


def _gap(metrics, dataset, acq, arm, high, low):
    """Mean over patients of PSNR(high) - PSNR(low) of one arm, or None."""
    pair = [statistics.patients(metrics, dataset, acq, "psnr", which) for which in (high, low)]
    if any(arm not in p for p in pair):
        return None
    d = (pair[0][arm] - pair[1][arm]).dropna()
    return float(d.mean()) if len(d) else None


def _stopping(metrics, dataset, acq, best):
    gap = _gap(metrics, dataset, acq, best, "peak", "stopped")
    return "" if gap is None else f" An oracle that stops {best} at its best image would gain {max(gap, 0):.2f} dB."


def _overfitting(plan, metrics, dataset, acq):
    vanilla = [a for a, arm in plan.study.arms.items() if arm.method == "vanilla"]
    fixed = [a for a in vanilla if "fixed" in plan.study.resolved(a, acq)["stop"]]
    said = []
    for arm in fixed or vanilla:
        gap = _gap(metrics, dataset, acq, arm, "peak", "last")
        if gap is not None:
            known = f"its last image lies {max(gap, 0):.2f} dB below its peak"
            said.append(
                f" Vanilla DIP ({arm}) "
                f"{'overfits' if gap >= LEVEL else 'does not overfit within its iterations'}: {known}."
            )
    return "".join(said)
