"""Plug-ins: one file each, found by file name, and described without being imported.

What a study check needs to know of a plug-in (its docstring, parameters with defaults and allowed values, inputs,
tasks) are literals at the top of its file. They are read from the syntax tree, so that a login node needs no torch:

    PARAMETERS  {"lr": 3e-4, "input": ("uniform", "zero_filled")}; a tuple: the allowed values, the first is the default
    BOUNDS      {"lr": "> 0", "fraction": "> 0, < 1"}, of a number or of the items of a list; without: not negative, and a
                whole number not 0 either, where the default is so
    REFUSES     [({"precondition": "> 0", "modality": "ct"}, "0: …")]: settings that do not go together, of an arm, its stop
                rule (``stop.holdout.refit``), its acquisition (``views`` are those that an arm sees) and the modality, with what
                is allowed of the first;
                ``option.sigma`` is a parameter of the stop rule or network itself, ``params.lr`` one of the method
    EQUAL       lists of one length, e.g. ("widths", "skip_widths")
    CLASS       methods: regularised | early stopping | re-parameterised | pre-trained | classical
    TASKS       modalities, or tasks of photographs, that a method can solve; absent: all
    INPUTS      inputs that a method must be given in the study, e.g. ("prior",)
    OPTIONAL    inputs that it may be given
    MODELS      likewise, each a TorchScript file, e.g. ("denoiser",)
    ARTEFACTS   what a method makes besides the image, kept in its result, e.g. ("mask",)
    REUSES      likewise, each an artefact of that name of another result
    NOT_FOR     stop rules: methods about which the rule says little; WATCHABLE = False: it cannot merely watch
    DATA_TERMS  operators: what they offer; methods: what they fit; absent: least_squares, with a network any that there is
    AMBIGUOUS   operators: True where a measurement leaves open where an image lies; ``aligned(view, truth)`` then serves scores
    PERSONAL_PATHS  readers: their files may be named after a person, and go by other names with these endings (links.py)
    NETWORK     a method's network unless the arm names one; ITERATIONS, AVERAGE: likewise
    RANDOM      False: the result does not depend on the seed, one seed is enough
    CITE        BibTeX keys in report/references.bib
"""

import ast
import difflib
import hashlib
import importlib
import math
import operator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
FOLDERS = {
    "methods": ("methods", "baselines"),
    "networks": ("networks",),
    "stopping": ("stopping",),
    "readers": ("readers",),
    "physics": ("physics",),
}
ENGINE = 2  # raise by hand when loop.py, resume.py or store.py change results; a test on fixed bits watches over it
SHARED = {  # files in a plug-in folder that are no plug-ins
    "__init__", "base", "denoisers", "dicom_file", "dicom_series", "filters", "hdf5", "joint", "matrix", "penalties",
    "personal", "resample", "sampled", "subnetwork",
}  # fmt: skip


class UnknownPlugin(LookupError):
    """No such plug-in; the message names the allowed ones and the nearest."""


@dataclass(frozen=True)
class Plugin:
    kind: str
    name: str
    path: Path
    doc: str
    literals: dict = field(hash=False)

    @property
    def summary(self):
        return self.doc.split("\n\n")[0].replace("\n", " ").strip()

    @property
    def parameters(self):
        return self.literals.get("PARAMETERS", {})

    def get(self, literal, default=None):
        return self.literals.get(literal, default)

    def defaults(self):
        return {k: v[0] if isinstance(v, tuple) else v for k, v in self.parameters.items()}

    def load(self):
        """Import the plug-in's module."""
        return importlib.import_module(".".join(["dipline", *self.path.relative_to(PACKAGE).with_suffix("").parts]))


@cache
def plugins(kind):
    """All plug-ins of a kind by name."""
    found = {}
    for folder in FOLDERS[kind]:
        for path in sorted((PACKAGE / folder).glob("*.py")):
            if path.stem in SHARED:
                continue
            tree = ast.parse(path.read_text())
            literals = {}
            for node in tree.body:
                target = node.targets[0] if isinstance(node, ast.Assign) else None
                if isinstance(target, ast.Name) and target.id.isupper():
                    try:
                        literals[target.id] = ast.literal_eval(node.value)
                    except ValueError:
                        continue  # a constant that is computed: the plug-in's own business
            found[path.stem] = Plugin(kind, path.stem, path, ast.get_docstring(tree) or "", literals)
    return found


def nearest(name, allowed):
    """`` did you mean "x"?`` or nothing."""
    close = difflib.get_close_matches(str(name), [str(a) for a in allowed], 1, 0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def get(kind, name):
    known = plugins(kind)
    if name not in known:
        allowed = ", ".join(known) + nearest(name, known)
        raise UnknownPlugin(f'no such plug-in among {kind}: "{name}"; allowed: {allowed}')
    return known[name]


def check_parameters(plugin, given):
    """(all parameters with defaults filled in, list of (key, message)). Types follow from the defaults."""
    values, problems = plugin.defaults(), []
    for key, value in given.items():
        if key not in values:
            problems.append((key, f"unknown{nearest(key, values)} (allowed: {', '.join(values) or 'none'})"))
            continue
        fault = _fault(value, plugin.parameters[key], plugin.get("BOUNDS", {}).get(key))
        if fault:
            problems.append((key, fault))
        elif isinstance(values[key], float):
            values[key] = float(value)
        else:
            values[key] = value
    first, *others = plugin.get("EQUAL", ()) or (None,)
    for key in others:
        have, wanted = len(values[key]), len(values[first])
        if have != wanted and not problems:
            problems.append((key, f"found {have} entries, allowed: {wanted}, as many as {first} has"))
    return values, problems


def _fault(value, default, bounds=None):
    """What is wrong with ``value`` where ``default`` stands, or None. Bounds: see BOUNDS."""
    if isinstance(default, tuple):
        allowed = ", ".join(map(str, default)) + nearest(value, default)
        return None if value in default else f"found {value!r}, allowed: {allowed}"
    if isinstance(default, bool) or isinstance(value, bool):
        ok = isinstance(value, bool) and isinstance(default, bool)
        kind = "true or false" if isinstance(default, bool) else "a number"
    elif isinstance(default, int):
        ok, kind = isinstance(value, int), "a whole number"
    elif isinstance(default, float):
        ok, kind = isinstance(value, int | float) and math.isfinite(value), "a number"
    elif isinstance(default, list):
        items = value if isinstance(value, list) else []
        bad = [f"; item {i}: {m}" for i, v in enumerate(items, 1) if (m := _fault(v, type(default[0])(), bounds))]
        ok, kind = items and not bad, f"a list like {default}{''.join(bad[:1])}"
    else:
        ok, kind = isinstance(value, type(default)), "text"
    if not ok:
        return f"found {value!r}, allowed: {kind}"
    if bounds is None and isinstance(default, int | float) and not isinstance(default, bool) and default >= 0:
        bounds = ">= 1" if isinstance(default, int) and default > 0 else ">= 0"
    return None if isinstance(default, list) else _outside(value, bounds)


def refusals(plugin, context):
    """[(keys, what is allowed of the first)] of the plug-in's REFUSES of which all conditions hold in ``context``, {key: value}."""
    return [
        (list(conditions), allowed)
        for conditions, allowed in plugin.get("REFUSES", ())
        if all(key in context and _meets(context[key], wanted) for key, wanted in conditions.items())
    ]


def _meets(value, wanted):
    """Whether a value is the one that is wanted or, where that is a bound such as ``"> 0"``, within it."""
    if isinstance(wanted, str) and wanted[:1] in ("<", ">"):
        return value is not None and _outside(value, wanted) is None
    return value == wanted


COMPARED = {
    ">=": (operator.ge, "{} or more"), ">": (operator.gt, "more than {}"), "<": (operator.lt, "less than {}"),
    "<=": (operator.le, "{} or less"),
}  # fmt: skip


def _outside(value, bounds):
    """What is wrong with a number under bounds such as ``"> 0, < 1"``, or None."""
    conditions = [condition.split() for condition in bounds.split(",")] if bounds else []
    if all(COMPARED[sign][0](value, float(limit)) for sign, limit in conditions):
        return None
    return f"found {value!r}, allowed: {' and '.join(COMPARED[sign][1].format(limit) for sign, limit in conditions)}"


def cautions(arm):
    """Sentences about a resolved arm whose stop rules say little about its method."""
    names = [name for rule in (arm["stop"], *arm["watch"]) for name in rule]
    cooling = [name for name in names if name in ("wmv", "emv") and arm.get("schedule") == "cosine"]
    settled = "schedule: cosine settles the iterates whatever they show, so that their variance says little"
    return [f"stop rule {name}: {settled}" for name in cooling] + [
        f"stop rule {name} says little about {arm['method']}; its description says why"
        for name in names
        if arm["method"] in get("stopping", name).get("NOT_FOR", ())
    ]


def code_files(*used):
    """The source files behind plug-ins, given as ``(kind, name)``: their own and what their folders share."""
    files = set()
    for kind, name in used:
        path = get(kind, name).path
        folders = {path.parent, path.parents[1] / FOLDERS[kind][0]}  # baselines use what methods share
        files |= {path, *(f / f"{s}.py" for f in folders for s in SHARED if (f / f"{s}.py").exists())}
    return files


def code_hash(files):
    """A short hash of the sources, for a job's identity."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
