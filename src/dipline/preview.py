"""What people ask before and after a run: what would run, what a file holds, what failed."""

import json
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from dipline import links, registry, store
from dipline.study import StudyError

MASKS = {
    "random": "every line kept independently, fastMRI's knee challenges",
    "equispaced": "every R-th line, with the centre on top",
    "equispaced_fraction": "evenly spaced such that R holds with the centre, fastMRI's brain challenges",
    "magic": "equispaced lines shifted so that conjugate symmetry adds new ones",
    "magic_fraction": "the same with R holding with the centre",
    "gaussian": "lines of Gaussian density",
    "gaussian_2d": "points of Gaussian density",
    "poisson": "points, variable-density Poisson disc",
    "file": "a mask of yours (.npy, .npz, .h5, .csv, .txt)",
    "full": "everything",
    "as_measured": "what an undersampled scan holds",
}


def text(plan):
    """The answer of ``dipline check``."""
    study, lines = plan.study, []
    for d, volumes in plan.volumes.items():
        slices = sum(len(v["chosen"]) for v in volumes.values())
        lines.append(f"{d}: {len(volumes)} volume(s), {slices} slice(s), {', '.join(study.datasets[d].acquisitions)}")
        lines += [f"  note: {v}: {w}" for v, entry in volumes.items() for w in entry.get("warnings", [])]
        lines += [f"  note: {note}" for note in (*_unjudged(plan, d), *_limited(plan, d))]
    lines += [f"left out: {links.resolved(line, plan.root)}" for line in plan.missing()]
    for d in plan.volumes:
        arms = [arm for arm, other in plan.left_out if other == d]
        if arms:
            why = "their methods do not solve it, or `datasets:` leaves it out"
            lines.append(f"not run on {d}: {', '.join(arms)} ({why})")
    blocks = [
        (job, block, recon)
        for job in plan.jobs
        for block, recon in zip(plan.blocks(job.dataset, job.volume, job.arm), plan.recons(job), strict=True)
    ]
    seconds, disk = 0.0, 0.0
    for job in plan.jobs:
        n = len(plan.volumes[job.dataset][job.volume]["chosen"])
        seconds += n * plan.cost(job.dataset, job.volume, job.acq, job.arm)[0]
        pixels = np.prod(plan.volumes[job.dataset][job.volume].get("recon_shape", [256, 256]))
        disk += n * pixels * (16 + 2 * study.snapshots * study.keep_snapshots)
    lines.append(f"jobs: {len(blocks)} reconstructions of {len(plan.jobs)} volumes (volume x acquisition x arm x seed)")
    files = 4 * len(blocks) + len(plan.jobs)
    lines.append(f"about {seconds / 3600:.2g} hours on one CPU thread, {disk / 1e9:.2g} GB, {files} files")
    lines += _again(plan, blocks)
    return "\n".join(lines)


def _unjudged(plan, dataset):
    """Acquisitions without truth from which no samples are kept either."""
    undersampled = any(entry.get("undersampled") for entry in plan.volumes[dataset].values())
    for acq in plan.study.datasets[dataset].acquisitions if undersampled else ():
        wanted = plan.study.acquisition(dataset, acq)
        if wanted.mask == "as_measured" and wanted.holdout is None:
            yield f"{acq}: neither truth nor held-out samples, so no number will tell the arms apart; add holdout: 0.05"


def _limited(plan, dataset):
    """What the rays of a CT acquisition miss of its scans; equal words once."""
    for acq in plan.study.datasets[dataset].acquisitions if plan.study.modality(dataset) == "ct" else ():
        wanted, said = plan.study.acquisition(dataset, acq), Counter()
        for entry in plan.volumes[dataset].values():
            with suppress(ValueError):  # cannot be projected so: left out
                said.update(f"{name}: {words}" for name, words in wanted.limits(entry.get("shape"), entry.get("voxel")).items())
        yield from (f"{acq}: {words} ({n} volume(s))" for words, n in said.items())


def _again(plan, blocks):
    """How much is new, how much a change computes again, and why."""
    states = {recon: _state(plan, job, block, recon) for job, block, recon in blocks}
    sources = {
        recon: {
            "measurement": {plan.measurement(*job[:3])},
            "inputs": {given["file"] for given in plan.inputs(*job, block).values()},
        }
        for job, block, recon in blocks
    }
    used = {file for found in sources.values() for files in found.values() for file in files}
    again = {
        file
        for d, volumes in plan.volumes.items() for v in volumes for acq in plan.study.datasets[d].acquisitions
        if (file := plan.measurement(d, v, acq)) in used and _measured_otherwise(plan, d, v, acq)
    }  # fmt: skip
    spread = True
    while spread:  # what is made again is made again for those that are given it
        again |= {recon for recon, (state, _) in states.items() if state in ("new", "changed", "unreadable")}
        spread = False
        for recon, (state, changed) in states.items():
            more = [what for what, files in sources[recon].items() if files & again and what not in changed]
            if more and state not in ("new", "unreadable"):
                states[recon], spread = ("changed", changed + more), True
    state = Counter(state for state, _ in states.values())
    why = Counter(f"{job.arm} (changed: {', '.join(states[r][1])})" for job, _, r in blocks if states[r][0] == "changed")
    order = ("new", "changed", "unreadable", "failed", "done")
    lines = ["to compute: " + ", ".join(f"{state[what]} {what}" for what in order if state[what])]
    lines += [f"  again: {n} of {reason}" for reason, n in why.items()]
    if state["failed"]:
        lines.append("  failed results stay as they are; `dipline retry` removes them, the next run makes them again")
    found = [p for p in plan.root.glob("recon/*/*/*/*/*/s*.h5") if not p.name.endswith(".snapshots.h5")]
    if orphans := [p for p in found if str(p) not in states]:
        other = "belong to other blocks, arms or volumes than the study now names"
        lines.append(f"{len(orphans)} finished result(s) {other}; they stay and are not used")
    return lines


def _state(plan, job, block, recon):
    """(new | unreadable | changed | failed | done, what changed of its own settings)"""
    if not Path(recon).exists():
        return "new", []
    try:
        head = store.attributes(recon)
        wanted, found = json.loads(plan.reconstruct_spec(job.dataset, job.acq, job.arm)), head["provenance"]
        changed = sorted(k for k in wanted if wanted[k] != found["spec"].get(k))
        given = plan.inputs(*job, block)
        changed += ["inputs"] if found.get("given", given) != given else []
        return "changed" if changed else "failed" if head["status"] == "failed" else "done", changed
    except (OSError, KeyError, TypeError, AttributeError):
        return "unreadable", []


def _measured_otherwise(plan, dataset, volume, acq):
    """Whether a measurement, and all that stands on it, will be made again: it is gone, its spec or slices changed."""
    try:
        head, slices = store.read(plan.measurement(dataset, volume, acq), names=())
        other = head["provenance"]["spec"] != json.loads(plan.measure_spec(dataset, acq))
    except (OSError, KeyError, TypeError):
        return True
    return other or head["status"] == "done" and list(slices) != plan.volumes[dataset][volume]["chosen"]


def listing(kind):
    """One line a plug-in; of methods a paragraph: class, tasks, papers, idea, parameters."""
    if kind == "methods":
        return "\n".join(_of_method(p) for p in registry.plugins(kind).values())
    if kind == "masks":
        rows = [(name, "", doc) for name, doc in MASKS.items()]
    else:
        rows = [(n, p.get("MODALITY") or "", p.summary) for n, p in registry.plugins(kind).items()]
    width, second = (max(len(r[i]) for r in rows) for i in (0, 1))
    return "\n".join(f"{n:{width}}  {c:{second}}  {doc}" if second else f"{n:{width}}  {doc}" for n, c, doc in rows)


def _of_method(plugin):
    """Lines of at most 120 characters; a parameter stands with its default, or its allowed values, the default first."""
    tasks, papers = (", ".join(plugin.get(key, ())) for key in ("TASKS", "CITE"))
    needs = [f"needs inputs: {name}" for name in plugin.get("INPUTS", ())]
    needs += [f"takes inputs: {name}" for name in plugin.get("OPTIONAL", ())]
    needs += [f"takes inputs: {name} (TorchScript)" for name in plugin.get("MODELS", ())]
    needs += [f"takes inputs: {name} (of another result)" for name in plugin.get("REUSES", ())]
    parameters = ", ".join(f"{k} {' | '.join(v) if isinstance(v, tuple) else v}" for k, v in plugin.parameters.items())
    head = "; ".join([plugin.get("CLASS"), tasks or "all tasks", *filter(None, [papers]), *needs])
    about = [f"{plugin.name:<15}  {head}", f"  {plugin.summary}", *([f"  {parameters}"] if parameters else [])]
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="    ", break_on_hyphens=False) for line in about)


def of_file(path):
    """Attributes, arrays and provenance of one of our files."""
    if not Path(path).is_file():
        raise store.Corrupt(f"{path}: no such file; name a measurement, reconstruction or reference file")
    try:
        return "\n".join(_of_file(path))
    except store.Corrupt:
        advice = "a result that is deleted is made anew by Snakemake, a scan must be copied again"
        raise store.Corrupt(f"{path}: no HDF5 file, or half of one; {advice}") from None


def _of_file(path):
    lines = [str(path)]
    with store.opened(path) as f:
        provenance = {}
        for key, value in store.decoded(f).items():
            if key == "provenance":
                provenance = value
            else:
                lines.append(f"  {key}: {value}")

        def visit(name, node):
            if hasattr(node, "shape"):
                lines.append(f"  {name}: {node.dtype} {node.shape}")
            for key, value in store.decoded(node).items():
                lines.append(f"    {name}.{key}: {value}")

        f.visititems(visit)
    lines.append("  provenance")
    lines += [f"    {k}: {json.dumps(v) if isinstance(v, dict) else v}" for k, v in provenance.items()]
    return lines


def remove_failed(plan, dataset=None, volume=None, acq=None, arm=None):
    """Delete failed measurements, reconstructions and scores that match; the list of what was deleted."""
    known = zip(("dataset", "volume", "acq", "arm"), zip(*plan.jobs, strict=True), strict=False)
    problems = [
        f'no {kind} "{name}" in this study{registry.nearest(name, set(names))}'
        for (kind, names), name in zip(known, (dataset, volume, acq, arm), strict=True)
        if name is not None and name not in names
    ]
    if problems:
        raise StudyError(problems)
    removed = []
    for job in plan.jobs:
        wanted = ((dataset, job.dataset), (volume, job.volume), (acq, job.acq), (arm, job.arm))
        if any(w is not None and w != have for w, have in wanted):
            continue
        made = [plan.measurement(job.dataset, job.volume, job.acq), plan.reference(job.dataset, job.volume)]
        for file in map(Path, [*made, *plan.recons(job)]):
            if file.exists() and _failed(file):
                file.unlink()
                removed.append(str(file))
        score = Path(plan.score(job))
        if score.exists() and not _scored(score):
            score.unlink()
            removed.append(str(score))
    return removed


def _failed(file):
    try:
        return store.attributes(file).get("status") == "failed"
    except OSError:
        return True


def _scored(file):
    try:
        return json.loads(file.read_text())["status"] == "done"
    except (OSError, ValueError, KeyError, TypeError):
        return False
