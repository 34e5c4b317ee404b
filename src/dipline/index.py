"""What the readers found: volumes, numbers of slices, shapes, problems; kept in ``results/<study>/index.json``.

Entries are keyed by path, size and time, so that only new or changed scans are opened, and only by the main process;
jobs on a cluster read the file and open no scan but their own.
"""

import json
import os
from pathlib import Path

from dipline import registry, store
from dipline.study import NAME, First, Listed, StudyError


def path_of(study):
    return Path("results") / study.study / "index.json"


def load(study, fresh=True):
    """{dataset: {volume: entry}}; an entry holds ``files``, ``slices`` (number) and more, or ``problem``.

    Args:
        fresh: look at the folders and open what changed; False: take the file as it is (jobs on a cluster).
    """
    file = path_of(study)
    known = json.loads(file.read_text()) if file.exists() else {}
    if not fresh and known:
        return {d: entries["volumes"] for d, entries in known.items()}
    index, problems = {}, []
    for name, dataset in study.datasets.items():
        try:
            index[name] = _dataset(study, name, dataset, known.get(name, {}))
        except ValueError as error:
            problems.append(f"datasets.{name}.path: {error}")
        else:
            problems += [f"datasets.{name}.volumes: {p}" for p in _name_problems(dataset, index[name]["volumes"])]
    if problems:
        raise StudyError(problems)
    if index != known:
        store.write_text(file, json.dumps(index, indent=1))
    return {d: entries["volumes"] for d, entries in index.items()}


def _dataset(study, name, dataset, known):
    plugin = registry.get("readers", dataset.reader)
    params = registry.check_parameters(plugin, dataset.params)[0]
    key = {"reader": dataset.reader, "path": dataset.path, "params": params}
    old = known.get("volumes", {}) if known.get("key") == key else {}
    if plugin.get("READS_AS"):
        folder = Path("results") / study.study / "scans" / name
        if not old:
            suffix, about = plugin.get("SUFFIX", ".h5"), plugin.load().describe(**params) | {"simulated": True}
            old = {v: {"files": [str(folder / f"{v}{suffix}")], **about} for v in plugin.load().names(**params)}
        return {"key": key, "volumes": old}
    reader = plugin.load()
    volumes = {}
    for volume, files in reader.list_volumes(Path(os.path.expandvars(dataset.path)).expanduser(), **params).items():
        stamp = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.exists()]
        entry = old.get(volume)
        if entry is None or entry["stamp"] != stamp:
            entry = {"files": [str(f) for f in files], "stamp": stamp}
            try:
                if not NAME.fullmatch(volume):
                    said = f'{files[0]}: the volume name "{volume}" becomes a folder'
                    raise ValueError(f'{said}; rename the file to letters, digits, ".", "_", "-"')
                entry |= reader.inspect(files, **params)
            except ValueError as error:
                entry["problem"] = str(error)
        volumes[volume] = entry
    return {"key": key, "volumes": volumes}


def chosen_volumes(dataset, entries):
    """Names of the volumes that the study asks for, in order."""
    names, wanted = list(entries), dataset.volumes
    if wanted == "all":
        return names
    return names[: wanted.first] if isinstance(wanted, First) else _listed(wanted)


def _listed(wanted):
    if isinstance(wanted, Listed):
        return [line.strip() for line in Path(wanted.list).read_text().splitlines() if line.strip()]
    return wanted


def _name_problems(dataset, entries):
    """Names that the study lists and no scan has, or that it lists twice."""
    listed = [] if dataset.volumes == "all" or isinstance(dataset.volumes, First) else _listed(dataset.volumes)
    for name in dict.fromkeys(listed):
        if name not in entries:
            yield f'no volume "{name}" in {dataset.path or dataset.reader}{registry.nearest(name, entries)}'
        elif listed.count(name) > 1:
            yield f'"{name}" stands there twice; leave one out'


def chosen_slices(dataset, count):
    """Indices of the slices that the study asks for in a volume of ``count``; ValueError where it has none of them."""
    wanted = dataset.slices
    if wanted == "all":
        return list(range(count))
    if isinstance(wanted, str) and wanted.startswith("middle"):
        n = min(int(wanted.split()[1]), count)
        return list(range((count - n) // 2, (count - n) // 2 + n))
    if isinstance(wanted, str):
        first, last = map(int, wanted.split("-"))
        wanted = range(first, last + 1)
    inside = [s for s in sorted(wanted) if s < count]
    if len(inside) < len(wanted):
        raise ValueError(f"slices: found {dataset.slices}, but the volume has slices 0 to {count - 1}")
    return inside
