"""Where the numbers of a study come from: what the result files say of their making. Reads, never writes."""

from collections import Counter
from pathlib import Path

from dipline import store
from dipline.report.tables import attributes

KEPT = ("commit", "dipline", "python", "host", "device", "threads")


def study_provenance(plan):
    """Everything the files on disk say.

    Returns:
        dict: ``jobs`` (one entry a job: job, seconds, memory_mb, iterations, device, host, checksums {slice: sha256}),
        ``versions`` {package: {version: files}}, one counter {value: files} for each of commit, dipline, python, host,
        device, threads, ``seeds``, ``first`` and ``last`` (time of the oldest and newest result), ``seconds`` (all
        slices together), ``warnings`` {(dataset, volume, acq): [text]}.
    """
    out = {"jobs": [], "versions": {}, "warnings": {}, "seconds": 0.0, "seeds": sorted({job.seed for job in plan.jobs})}
    out |= {key: Counter() for key in KEPT}
    times = []
    for job in plan.jobs:
        entry = {
            "job": job,
            "seconds": 0.0,
            "memory_mb": 0.0,
            "iterations": 0,
            "device": "",
            "host": "",
            "checksums": {},
        }
        for file in plan.recons(job):
            head, slices = read(file)
            made = head.get("provenance") or {}
            _count(out, made)
            times += [made["time"]] if made.get("time") else []
            entry |= {key: str(made.get(key) or entry[key]) for key in ("device", "host")}
            for index, content in slices.items():
                entry["seconds"] += content.get("seconds", 0.0)
                entry["memory_mb"] = max(entry["memory_mb"], content.get("memory_mb", 0.0))
                entry["iterations"] += content.get("iterations", 0)
                if "checksum" in content:
                    entry["checksums"][index] = content["checksum"]
        out["seconds"] += entry["seconds"]
        out["jobs"].append(entry)
    for d, dataset in plan.study.datasets.items():
        for volume in plan.volumes[d]:
            for acq in dataset.acquisitions:
                head = attributes(plan.measurement(d, volume, acq))
                _count(out, head.get("provenance") or {})
                if head.get("warnings"):
                    out["warnings"][d, volume, acq] = head["warnings"]
    return out | {"first": min(times, default=""), "last": max(times, default="")}


def _count(out, made):
    for key in KEPT:
        if made.get(key) not in (None, ""):
            out[key][str(made[key])] += 1
    for package, version in (made.get("versions") or {}).items():
        out["versions"].setdefault(package, Counter())[str(version)] += 1


def read(file):
    """(attributes, {slice: attributes}) of a result file; both empty where it is missing or broken."""
    try:
        return store.read(file, names=()) if Path(file).exists() else ({}, {})
    except store.Corrupt:
        return {}, {}
