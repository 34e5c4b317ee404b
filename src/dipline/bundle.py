"""One zip with what it takes to reproduce or to publish a study; no scan, no image of one, no path to one.

What goes in is named here, file by file: tables, curves, methods text, the study, versions, a checksum of every image.
A path of the study stays where it begins with a $VARIABLE; any other becomes ``$SCANS/<names of its keys>``. The same results
give the same bytes. Volumes keep their names, as everywhere in the results.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from dipline import registry, store
from dipline import study as studies
from dipline.plan import RESOLVED
from dipline.report import provenance

KEY = ("dataset", "volume", "acq", "arm", "seed", "slice")
COLUMNS = (*KEY, "image", "device", "threads", "commit", "code")  # of checksums.csv; image: SHA-256 of its values
TABLES = ("metrics.csv", "statistics.csv", "failures.csv", "CITATION.md")
VERSIONS = ("dipline", "commit", "python", "device", "threads", "versions")
REQUIREMENTS = registry.PACKAGE.parents[1] / "envs" / "requirements.txt"
ENDING = re.compile(r"\.(nii\.gz|nii|h5|dcm|cfl|hdr|npy|npz|csv|txt)$")  # others may be a part of a name
MOST = 20  # lines of a comparison


def write(plan, out):
    """Write the bundle; returns what its reader must be warned of. StudyError where the file is there already."""
    if out.exists():
        raise studies.StudyError([f"{out}: is there already; remove it, or name another file by --out"])
    files, cautions = contents(plan)
    files["SHA256SUMS"] = "".join(f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n" for n in sorted(files)).encode()
    with store.written(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as z:
        for name in sorted(files):
            info = zipfile.ZipInfo(f"{plan.study.study}_bundle/{name}")  # of 1980: no time of today
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            z.writestr(info, files[name])
    return cautions


def contents(plan):
    """({name: bytes} of the bundle without its sums, [what its reader must be warned of])"""
    rows, lacking = images(plan)
    facts, paths = provenance.study_provenance(plan), {}
    study = _masked(studies.read(plan.root / RESOLVED), (), paths)
    tables = (file for d in plan.study.datasets for file in sorted(plan.root.glob(f"tables/{d}_*.*")))
    found = [*(plan.root / name for name in TABLES), *tables, *(Path(plan.curve(*key)) for key in plan.curves())]
    files = {str(f.relative_to(plan.root)): f.read_bytes() for f in found if f.is_file()}
    if "failures.csv" in files:
        files["failures.csv"] = _unnamed(files["failures.csv"].decode(), paths).encode()
    if REQUIREMENTS.is_file():
        files["requirements.txt"] = REQUIREMENTS.read_bytes()
    files[RESOLVED] = yaml.safe_dump(study, sort_keys=False, allow_unicode=True).encode()
    files["versions.json"] = (json.dumps({k: facts[k] for k in VERSIONS}, indent=1, sort_keys=True) + "\n").encode()
    files["checksums.csv"] = _csv(rows).encode()
    cautions = [*_commits(facts), *_missing(plan, len(rows), lacking, files)]
    environment = Environment(loader=PackageLoader("dipline.report", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    commit = max(facts["commit"], key=facts["commit"].get, default="COMMIT").removesuffix("-dirty")
    files["README.md"] = environment.get_template("bundle.md.j2").render(
        study=plan.study.study, images=len(rows), jobs=len(plan.jobs), facts=facts, commit=commit, cautions=cautions,
        paths=sorted({shown for shown in paths.values() if shown.startswith("$SCANS/")}), files=sorted(files),
    ).encode()  # fmt: skip
    return files, cautions


def images(plan):
    """([a row of COLUMNS for every image on disk, in the plan's order], Counter of why the others are missing)"""
    rows, lacking = [], Counter()
    for job in plan.jobs:
        wanted = _settings(json.loads(plan.reconstruct_spec(job.dataset, job.acq, job.arm)))
        for file, slices in zip(plan.recons(job), plan.blocks(job.dataset, job.volume, job.arm).values(), strict=True):
            head, held = provenance.read(file)
            made = head.get("provenance") or {"spec": {}}
            for s in slices:
                if s not in held:
                    lacking["without a result"] += 1
                elif "checksum" not in held[s]:
                    lacking["failed"] += 1
                elif _settings(made["spec"]) != wanted:
                    lacking["of settings that the study no longer has"] += 1
                else:
                    by = [str(made.get(k, "")) for k in ("device", "threads", "commit")]
                    rows.append((*map(str, (*job, s)), held[s]["checksum"], *by, made["spec"].get("code", "")))
    return rows, lacking


def _settings(spec):
    """What a user chose; the code is told by commit and code of each image."""
    return {key: value for key, value in spec.items() if key not in ("code", "engine")}


def _csv(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def _masked(node, keys, paths):
    """A copy of the study without literal paths; ``paths`` takes {path as typed: path as shown}."""
    if isinstance(node, dict):
        return {key: _masked(value, (*keys, str(key)), paths) for key, value in node.items()}
    if not isinstance(node, str) or not (keys[-1] in ("path", "file") or node.startswith(("/", "~"))):
        return node
    name = "_".join(k for k in keys if k not in ("datasets", "acquisitions", "arms", "inputs", "params", "path", "file"))
    ending = ENDING.search(node.lower())
    shown = f"$SCANS/{name}{'_{volume}' * ('{volume}' in node)}{ending[0] if ending else ''}"
    paths[node] = node if node.startswith("$") else shown
    return paths[node]


def _unnamed(text, paths):
    """A text whose messages name scans by their paths, with those as the bundle's study has them and without subfolders."""
    for typed in sorted(paths, key=lambda p: -len(str(studies.local(p)))):
        real, shown = studies.local(typed), paths[typed]
        if "{volume}" in typed:  # messages have the volume's name there
            real, shown = real.parent, shown.rpartition("/")[0]
        alone = r"(?![\w.-])" if "/" in str(real) else "(?=:)"  # a folder called `data` is a word, too
        pattern = rf"(?<![\w./-]){re.escape(str(real))}(/[^:\n]*/|/|{alone})"
        text = re.sub(pattern, lambda m, shown=shown: shown + "/" * m[1].endswith("/"), text)
    return re.sub(r"(?<![\w$.})/])/(?=\S)[^:\n]*/", "…/", text)


def _commits(facts):
    """Why no one commit is the code behind the results."""
    found, unknown = facts["commit"], sum(facts["python"].values()) - sum(facts["commit"].values())
    listed, writer = ", ".join(f"{c} ({n} files)" for c, n in sorted(found.items())), store.commit()
    if len(found) > 1:
        yield f"The results come from several commits: {listed}. No one of them reproduces all."
    if dirty := [c for c in sorted(found) if c.endswith("-dirty")]:
        yield f"Results come from an uncommitted tree ({', '.join(dirty)}): no commit holds the code that made them."
    if unknown:
        yield f"{unknown} files name no commit: they were made outside a git checkout."
    if set(found) != {writer}:
        yield f"requirements.txt is that of the checkout that wrote this bundle (commit {writer or 'unknown'}); versions.json has what ran."


def _missing(plan, n, lacking, files):
    """What the study names and the bundle lacks."""
    if lacking:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(lacking.items()))
        yield f"Incomplete: {sum(lacking.values())} of {n + sum(lacking.values())} images are missing ({why}); see failures.csv."
    if left := len(plan.problems) + len(plan.unfed):
        yield f"Incomplete: {left} scans or jobs were left out; see failures.csv."
    curves = [str(Path(plan.curve(*key)).relative_to(plan.root)) for key in plan.curves()]
    if absent := [name for name in (*TABLES, *curves, "requirements.txt") if name not in files]:
        yield f"Not there: {', '.join(absent)}; `dipline report` makes tables, curves and CITATION.md from what is on disk."


def compare(plan, bundle):
    """(the images that differ from those of a bundle, lines that say so). StudyError where the file is no bundle."""
    try:
        with zipfile.ZipFile(bundle) as z:
            (name,) = (n for n in z.namelist() if n.endswith("_bundle/checksums.csv"))
            there = {tuple(r[k] for k in KEY): r for r in csv.DictReader(io.StringIO(z.read(name).decode()))}
    except (zipfile.BadZipFile, ValueError):
        raise studies.StudyError([f"{bundle}: no bundle of dipline; name a file that `dipline export-bundle` wrote"]) from None
    here = {row[: len(KEY)]: dict(zip(COLUMNS, row, strict=True)) for row in images(plan)[0]}
    both = [key for key in here if key in there]
    differ = [key for key in both if here[key]["image"] != there[key]["image"]]
    lines = []
    for key in differ[:MOST]:
        ran = [f"{r['device']}, {r['threads']} threads, commit {r['commit'] or 'unknown'}" for r in (here[key], there[key])]
        lines.append(f"differs: {'/'.join(key)}" + (f" (here {ran[0]}; there {ran[1]})" if ran[0] != ran[1] else ""))
    lines += [f"… and {len(differ) - MOST} more"] if len(differ) > MOST else []
    lines += [f"only {w}: {n} image(s)" for w, n in (("here", len(here) - len(both)), ("there", len(there) - len(both))) if n]
    return differ, [*lines, f"{len(differ)} of {len(both)} images differ" if differ or not both else f"all {len(both)} images are equal"]
