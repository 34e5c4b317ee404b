"""``report.html``: one self-contained page (pictures inside, no script, no network), built from whatever is on disk.

Names and reasons come from the files of others: the template escapes all of them. Only the style sheet and the links to
the references are marked as safe; the text around those links is escaped first.
"""

import base64
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dipline import registry, store
from dipline.report import answer, cite, provenance, questions, statistics, style, tables

MAIN = ("psnr", "ssim", "ssim_wang", "heldout_nmse", "rmse_hu", "psnr_40_400")  # tables shown unfolded
MOST = 200  # rows of a long list; the rest is in the CSV files


def write(plan):
    """Write report.html and CITATION.md; returns the path of the report."""
    cite.write(plan)
    out = plan.root / "report.html"
    store.write_text(out, page(plan))
    return out


def page(plan):
    """The page as text."""
    metrics, failures, facts = tables.collect(plan), tables.failures(plan), provenance.study_provenance(plan)
    paragraphs, keys = cite.methods_text(plan, facts)
    state = metrics[metrics["metric"] == "status"]["value"]
    environment = Environment(
        loader=PackageLoader("dipline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"p": answer.p_cell, "duration": duration}
    return environment.get_template("report.html.j2").render(
        css=Markup(Path(__file__).with_name("report.css").read_text()),
        study=plan.study.study, planned=len(state), done=int((state == 1).sum()),
        answers=answer.answers(plan, metrics), datasets=[_dataset(plan, metrics, d) for d in plan.study.datasets],
        failures=failures.head(MOST).astype(str).to_dict("records"), more_failures=max(0, len(failures) - MOST),
        left_out=plan.left_out, facts=facts, jobs=facts["jobs"][:MOST], more_jobs=max(0, len(facts["jobs"]) - MOST),
        warnings=_warnings(facts["warnings"]) + _cautions(plan),
        methods=[linked(p) for p in paragraphs], references=[cite.reference(k) for k in keys], bibtex=cite.bibtex(keys),
        commit=max(facts["commit"], key=facts["commit"].get, default="").removesuffix("-dirty"), root=str(plan.root),
    )  # fmt: skip


def linked(text):
    """Text with its ``[1, 2]`` marks as links to the references; everything else escaped."""
    link = lambda m: "[" + ", ".join(f'<a href="#ref{n}">{n}</a>' for n in m[1].split(", ")) + "]"  # noqa: E731
    return Markup(re.sub(r"\[(\d+(?:, \d+)*)\]", link, str(escape(text))))


def duration(seconds):
    """``2 h 05 min``"""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _picture(path, title):
    """A picture as a data address; ``src`` is "" where it was not made."""
    file = Path(path)
    src = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode() if file.exists() else ""
    return {"title": title, "path": path, "src": src}


def _panel(plan, dataset, acq, volume, window, first):
    """One panel; ``first``: shown unfolded, the first volume in the first window."""
    title = f"{volume}, {acq}" + (f", window {style.window(window)}" if window else "")
    return _picture(plan.panel(dataset, acq, volume, window), title) | {"first": first}


def _dataset(plan, metrics, name):
    truth = tables.has_truth(plan, name)
    found = [_table(plan, metrics, name, m) for m in tables.shown_metrics(metrics, name, truth)]
    shown = [key[1:] for key in plan.shown() if key[0] == name]
    tested = ("psnr", "ssim", "ssim_wang") if truth else ("heldout_nmse",)
    return {
        "name": name, "unit": style.unit(plan.study.modality(name)), "truth": truth, "protocol": tables.protocol(plan, name),
        "main": [t for t in found if t["metric"] in MAIN], "further": [t for t in found if t["metric"] not in MAIN],
        "panels": [_panel(plan, name, *key, first=key[1:] == shown[0][1:]) for key in shown],
        "curves": [_picture(plan.curve(name, acq), acq) for acq in plan.study.datasets[name].acquisitions],
        "sweep": _picture(plan.sweep(name), name) if plan.sweeps(name) else None,
        "questions": questions.tables_of(plan, metrics, name),
        "statistics": [s for m in tested for s in _statistics(plan, metrics, name, m)],
    }  # fmt: skip


def _table(plan, metrics, dataset, metric):
    """One table: ``sides`` [(which, [acquisitions])] and ``rows`` [(arm, colour, [(text, bold, oracle)])]."""
    sides = tables.sides(metrics, dataset, metric)
    found = {w: tables.summary(metrics, dataset, metric, w) for w in sides}
    acqs = list(next(iter(found.values())).columns.unique("acq"))
    top = {acq: tables.best(found[sides[0]], acq, metric) for acq in acqs}
    looks, said_once = style.looks(plan.study), (tables.protocol(plan, dataset), tables.spread_note(plan, dataset))
    rows = [
        (
            arm,
            looks[arm][0],
            [
                (tables.cell(found[w].loc[arm, acq], metric), w == sides[0] and arm in top[acq], w == "peak")
                for w in sides
                for acq in acqs
            ],
        )
        for arm in found[sides[0]].index
    ]
    return {
        "metric": metric, "heading": style.metric(metric).heading, "better": style.metric(metric).better,
        "sides": sides, "acqs": acqs, "rows": rows,
        "notes": [n for n in tables.notes(plan, metrics, dataset, metric) if n not in said_once],
    }  # fmt: skip


def _statistics(plan, metrics, dataset, metric):
    """Tables of the pairs of arms, one for each acquisition that has any."""
    m = style.metric(metric)
    for acq in plan.study.datasets[dataset].acquisitions:
        pairs = statistics.compare(metrics, dataset, acq, metric)
        if len(pairs):
            rows = [
                r | {k: m.shown(r[k]) for k in ("median_difference", "smallest_difference", "largest_difference")}
                for r in pairs.to_dict("records")
            ]
            tested = bool(pairs["p"].notna().any())
            yield {
                "heading": f"{m.heading}, {acq}",
                "rows": rows,
                "tested": tested,
                "least": statistics.LEAST,
                "n": int(pairs["patients"].max()),
            }


def _cautions(plan):
    """[(text, [arm])]: arms whose stop rules mean little."""
    arms = {(job.arm, job.acq): plan.study.resolved(job.arm, job.acq) for job in plan.jobs}
    found = {}
    for (arm, _), resolved in arms.items():
        for text in registry.cautions(resolved):
            found.setdefault(text, {})[arm] = None
    return [(text, list(names)) for text, names in found.items()]


def _warnings(found):
    """[(text, [where])]: equal warnings once."""
    out = {}
    for (dataset, volume, acq), texts in found.items():
        for text in texts:
            out.setdefault(str(text), []).append(f"{dataset}/{volume}/{acq}")
    return list(out.items())
