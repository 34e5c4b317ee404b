"""What the readers found: volumes, numbers of slices, shapes, problems; kept in ``results/<study>/.scans/index.json``.

Entries are keyed by the reader (its options and its code), path, size and time, so that only new or changed scans are
opened, and only by the main process; jobs on a cluster read the file and open no scan but their own. Scans whose files may be named
after a person are found under other names (:mod:`links`); this file alone has their paths.
"""

import json
import re
from contextlib import contextmanager
from itertools import count

from dipline import links, registry, store
from dipline.study import NAME, First, StudyError, local

NUMBERED = re.compile(r"series_\d+")  # a volume whose own name would tell who or when
FILE = f"{links.FOLDER}/index.json"


def load(study, root, fresh=True):
    """({dataset: {"key", "volumes": {name: entry}}}, problems of paths).

    An entry holds ``files`` (as jobs are given them), ``slices`` (number) and more, or ``problem``.

    Args:
        root: the results folder.
        fresh: look at the folders and open what changed; False: take the file as it is, if it holds what the study names.
    """
    known, index, problems = _known(root / FILE), {}, []
    if not fresh and all(d in known and set(s.listed or ()) <= set(known[d]["volumes"]) for d, s in study.datasets.items()):
        return known, []
    for name, dataset in study.datasets.items():
        try:
            index[name] = _dataset(root, name, dataset, known.get(name, {}))
        except ValueError as error:
            problems.append(f"datasets.{name}.path: {error}")
    return index, problems


def _known(file):
    """What the file says; nothing where it is missing or none of ours."""
    try:
        known = json.loads(_text(file))
        entries = [entry for d in known.values() for entry in d["volumes"].values() if d["key"]]
        return known if all("problem" in e or (e["files"] and e["slices"]) for e in entries) else {}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}


def _text(file):
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


def keep(root, index):
    """Write the index where it is new."""
    with _writing():
        links.private(root)
    write(root / FILE, json.dumps(index, indent=1))


def write(file, text):
    """Write a small file of the results where it is new; StudyError where that cannot be."""
    if _text(file) != text:
        with _writing():
            store.write_text(file, text)


@contextmanager
def _writing():
    try:
        yield
    except OSError as error:
        fault, advice = error.__cause__ or error, "work in a folder that you own, with space left"
        raise StudyError([f"the folder results/ cannot be written ({fault}); {advice}"]) from None


def _dataset(root, name, dataset, known):
    plugin = registry.get("readers", dataset.reader)
    params = registry.check_parameters(plugin, dataset.params)[0]
    code = registry.code_hash(registry.code_files(("readers", dataset.reader)))
    key = {"reader": dataset.reader, "path": dataset.path, "params": params, "code": code}
    old = known.get("volumes", {}) if known.get("key") == key else {}
    if plugin.get("READS_AS"):
        if not old:
            suffix, about = plugin.get("SUFFIX", ".h5"), plugin.load().describe(**params) | {"simulated": True}
            folder = root / "scans" / name
            old = {v: {"files": [str(folder / f"{v}{suffix}")], **about} for v in plugin.load().names(**params)}
        return {"key": key, "volumes": old}
    reader, endings = plugin.load(), plugin.get("PERSONAL_PATHS")
    volumes = {}
    listed = reader.list_volumes(local(dataset.path), **params)
    before = known.get("volumes", {}) if known.get("key", {}).get("path") == dataset.path else {}
    for volume, files in (_steady(listed, before) if endings else listed).items():
        stamp = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.exists()]
        fits, where = NAME.fullmatch(volume), f"{files[0]}: " if not endings else ""
        if endings:
            with _writing():
                files = links.link(root, name, volume, files, endings) if fits else []
        entry = old.get(volume)
        if entry is None or entry.get("stamp") != stamp:
            entry = {"files": [str(f) for f in files], "stamp": stamp}
            try:
                if not fits:
                    said = f'{where}the volume name "{volume}" becomes a folder'
                    raise ValueError(f'{said}; rename the file to letters, digits, ".", "_", "-"')
                entry |= reader.inspect(files, **params)
            except ValueError as error:
                entry["problem"] = str(error)
        volumes[volume] = entry
    with _writing():
        links.prune(root, name, volumes)
    return {"key": key, "volumes": volumes}


def _steady(listed, before):
    """The volumes listed; one that had a number for its name keeps it when others come or go.

    Otherwise a new scan, seen while jobs run, would make their links lead to another patient.
    """
    had = {path: name for name, entry in before.items() if NUMBERED.fullmatch(name) for path, *_ in entry.get("stamp", ())}
    names = {volume: had.get(str(files[0])) for volume, files in listed.items() if NUMBERED.fullmatch(volume)}
    taken = {*(volume for volume in listed if volume not in names), *before, *filter(None, names.values())}
    out, kept = {}, set()
    for volume, files in listed.items():
        name = names.get(volume, volume)
        if name is None or name in kept:
            free = (f"series_{i:02d}" for i in count(1) if f"series_{i:02d}" not in taken)
            name = volume if volume not in taken else next(free)
        taken.add(name), kept.add(name)
        out[name] = files
    return dict(sorted(out.items()))


def chosen_volumes(dataset, entries):
    """Names of the volumes that the study asks for and that are there, in order."""
    if dataset.listed is not None:
        return [name for name in dict.fromkeys(dataset.listed) if name in entries]
    names = list(entries)
    return names[: dataset.volumes.first] if isinstance(dataset.volumes, First) else names


def name_problems(dataset, entries):
    """Names that the study lists and no scan has, or that it lists twice."""
    listed = dataset.listed or []
    for name in dict.fromkeys(listed):
        if name not in entries:
            where, hint = dataset.path or dataset.reader, registry.nearest(name, entries)
            if not NAME.fullmatch(name):
                hint = '; allowed: letters, digits, ".", "_", "-", a letter or digit first'
            yield f'no volume "{name}" in {where}{hint}'
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
