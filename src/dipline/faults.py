"""Everything that can be wrong with a study, found beyond the models and put in words, said at once.

Options of plug-ins are checked against the literals in the plug-ins' files (``registry``). No torch here.
"""

import copy
import os
import re
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from dipline import acquisitions, registry
from dipline.study import (
    ACQUISITIONS,
    BY_NAME,
    NAME,
    SLICES,
    VARIES,
    Arm,
    Block,
    Dataset,
    Input,
    Listed,
    Maps,
    Penalty,
    Study,
    local,
    named,
    resolve,
    split,
    variant,
)


def of_file(error):
    """What is wrong with a file that cannot be read as YAML, to stand behind its name."""
    if isinstance(error, FileNotFoundError):
        return ": no such file; copy config/config.yaml and change it"
    if isinstance(error, UnicodeDecodeError):
        return f": not a text file in UTF-8 ({error}); save it as UTF-8"
    if isinstance(error, OSError):
        return f": cannot be read ({error.strerror}); name a study file, such as config/config.yaml"
    where = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
    found = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"{where}: not YAML: {found}; correct that line, with spaces, never tabs, in front"


def in_content(data):
    """Problems of what a file holds: none where it is a mapping."""
    if isinstance(data, dict):
        return []
    found = "nothing" if data is None else _shown(data)
    return [f"found {found}, allowed: keys with values, as in config/config.yaml; copy it and change it"]


class _Part(Study):
    """What is left of a study without its faulty entries, so that the rest can be checked as well."""

    study: str = "study"
    datasets: dict[str, Dataset] = {}
    arms: dict[str, Arm] = {}


def in_study(config):
    """(the study, all problems of ``config``); with problems, the study is what is left without the faulty entries."""
    told, rest, model = {}, copy.deepcopy(config), Study
    while True:
        try:
            study = model.model_validate(rest)
            break
        except ValidationError as error:
            found = _said(error, Study, rest)
            if model is Study:
                told, model = dict.fromkeys(found), _Part
            for e in error.errors():
                _drop(rest, e)
    problems, keys = [f"{key}: {text}" for key, text in told], {key for key, _ in told}
    further = [p for p in dict.fromkeys(_problems(study)) if p not in problems]
    return study, problems + [p for p in further if not _follows(p, keys, config, study)]


def sound(study, problems):
    """What is left of a study without the entries that ``problems`` name: its scans can be looked at all the same."""
    if not problems:
        return study
    keys = [p.split(": ")[0] + "." for p in problems]
    faulty = lambda key, *parts: any(k.startswith(f"{key}.{part}") for k in keys for part in parts)  # noqa: E731
    datasets = {}
    for name, dataset in study.datasets.items():
        key = f"datasets.{name}"
        if not faulty(key, "reader.", "path.", "params.", "volumes."):
            acqs = {a: v for a, v in dataset.acquisitions.items() if not faulty(f"{key}.acquisitions.{a}", "")}
            datasets[name] = dataset.model_copy(update={"acquisitions": acqs})
    arms = {n: a for n, a in study.arms.items() if not faulty(f"arms.{n}", "")}
    lost = True
    while lost:  # those that need another that is gone
        needs = {n: {(i.dataset, i.arm) for i in a.inputs.values()} for n, a in arms.items()}
        lost = [n for n in arms if any(d not in (None, *datasets) or a not in (None, *arms) for d, a in needs[n])]
        arms = {n: a for n, a in arms.items() if n not in lost}
    return study.model_copy(update={"datasets": datasets, "arms": arms})


def in_arm(config):
    """(an arm outside a study, all its problems)"""
    try:
        arm = Arm.model_validate(config)
        found = list(_variant_problems(arm, registry.get("methods", arm.method)))
        return arm, found + [f"{key}: {fault}" for key, fault in _refused(arm, None, {})]
    except ValidationError as error:
        return None, [f"{key}: {text}" for key, text in _said(error, Arm, config)]
    except registry.UnknownPlugin as error:
        return None, [str(error)]


def in_acquisition(config, modality):
    """(an acquisition outside a study, all its problems)"""
    model = ACQUISITIONS[modality]
    try:
        found = model.model_validate(config)
        return found, [f"{key}: {fault}" for key, fault in found.faults()]
    except ValidationError as error:
        return None, [f"{key}: {text}" for key, text in _said(error, model, config)]


def _drop(config, error):
    """Take out of ``config`` what stands behind the key of a fault, or, where a key is missing, what should hold it."""
    where = _place(error["loc"], Study)[0]
    if error["type"] == "missing" or where[-1] == "[key]":
        where = where[:-1]
    holder, key, node = None, None, config
    for part in where:
        if not isinstance(node, dict):
            break
        if part not in node:
            return  # gone already
        holder, key, node = node, part, node[part]
    if holder is not None:
        del holder[key]


def _follows(problem, keys, config, study):
    """Whether a problem only follows from entries that were taken out because of a fault that is told already."""
    key = problem.split(": ")[0]
    if key in keys or key.count(".") > 1 and any(k.startswith(key + ".") for k in keys):
        return True
    written = config.get("datasets")
    if 'no acquisition "' in problem and not (isinstance(written, dict) and written.keys() == study.datasets.keys()):
        return True
    for word, section in (("dataset", "datasets"), ("arm", "arms")):
        written = config.get(section)
        lost = [f'{n}"' for n in written if n not in getattr(study, section)] if isinstance(written, dict) else [""]
        if any(f'no {word} "{name}' in problem for name in lost):
            return True
    return False


BELOW = {
    Study: {"datasets": Dataset, "arms": Arm, "block": Block},
    Dataset: {"maps": Maps},
    Arm: {"inputs": Input, "block": Block, "penalty": Penalty},
}
FORMS = {  # keys that may be written in several ways
    (Dataset, "volumes"): "all | [patient_001, patient_002] | {first: 20} | {list: file.txt}",
    (Dataset, "slices"): SLICES,
    (Input, "slice"): "same | the number of a slice",
    (Arm, "network"): "the name of a network | {name: {option: value}}",
    (Arm, "stop"): "the name of a stop rule | {name: {option: value}}",
    (Arm, "watch"): "[stop rule, …], each a name or {name: {option: value}}",
}
EXAMPLES = {
    "study": "study: knee4x", "datasets": "datasets: {knee: {reader: fastmri, path: …, acquisitions: …}}",
    "reader": "reader: fastmri", "acquisitions": "acquisitions: {R4: {mask: random, acceleration: 4}}",
    "mask": "mask: random", "views": "views: 30", "task": "task: denoise",
    "arms": "arms: {dip: {method: vanilla}}", "method": "method: vanilla",
}  # fmt: skip
KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list",
    "dict": "{name: …}", "finite": "a finite number",
}  # fmt: skip
BOUNDS = {
    "greater_than_equal": "{ge:g} or more", "greater_than": "more than {gt:g}", "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
}  # fmt: skip
ALIASES = {"device": {"gpu": "cuda"}}  # {key: {what people write: what it is called}}


def _said(error, model, config):
    """[(key path, what was found and what is allowed)]: pydantic's errors in ``config``, a ``model``, in our words."""
    return list(dict.fromkeys(_fault(e, *_place(e["loc"], model), config) for e in error.errors()))


def _place(where, model):
    """(path of a key, the forms that it may have, model that holds it); members of a union are no keys."""
    i = 0
    while i < len(where):
        if (model, where[i]) in FORMS:
            return where[: i + 1], FORMS[model, where[i]], model
        if where[i] not in BELOW.get(model, {}):
            break
        i, model = i + (1 if where[i] in ("block", "maps", "penalty") else 2), BELOW[model][where[i]]
    return where, None, model


def _fault(e, where, forms, model, config):
    kind, found, context = e["type"], e["input"], e.get("ctx", {})
    key = ".".join(map(str, where))
    if kind == "value_error":
        return key, e["msg"].removeprefix("Value error, ")
    if forms:
        for part in where:
            config = config[part]
        return key, f"found {_shown(config)}, allowed: {forms}"
    if kind == "extra_forbidden":
        keys = ", ".join(model.model_fields)
        return key, f"unknown{registry.nearest(where[-1], model.model_fields)} (allowed: {keys})"
    if kind == "missing":
        return key, f"missing; write one, e.g. {EXAMPLES[where[-1]]}"
    if where[-1] == "[key]":
        text = f'found {_shown(found)} as a name, allowed: text; put it in quotes: "{_shown(found)}"'
        return key.removesuffix(".[key]"), text
    if kind == "literal_error":
        names = re.findall(r"[^\s',]+", context["expected"].replace(" or ", " "))
        meant = ALIASES.get(where[-1], {}).get(str(found).lower(), found)
        allowed = ", ".join(names) + registry.nearest(meant, names)
    elif kind in BOUNDS:
        allowed = BOUNDS[kind].format(**context)
    elif kind == "too_short":
        allowed = "at least one"
    elif kind == "model_type":
        allowed = f"{{key: value}} with the keys {', '.join(model.model_fields)}"
    else:
        allowed = KINDS.get(kind.split("_")[0], e["msg"])
        if kind == "string_type" and isinstance(found, int | float):
            allowed += f'; put it in quotes: "{_shown(found)}"'
        if kind == "list_type" and isinstance(found, str | int | float):
            allowed += f", as in [{_shown(found)}]"
    return key, f"found {_shown(found)}, allowed: {allowed}"


def _shown(value):
    """A value, not longer than a line."""
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) < 80 else text[:76] + " …"


def _problems(study):
    """What the models alone cannot see."""
    for kind, names in (("study", [study.study]), ("datasets", study.datasets), ("arms", study.arms)):
        yield from _name_problems(kind, names)
    if len(set(study.seeds)) != len(study.seeds):
        yield f"seeds: found {study.seeds}, allowed: every seed once"
    for name, dataset in study.datasets.items():
        yield from (f"datasets.{name}.{p}" for p in _dataset_problems(study, name, dataset))
    acqs = {a for d in study.datasets.values() for a in d.acquisitions}
    for name, arm in study.arms.items():
        yield from (f"arms.{name}.{p}" for p in _arm_problems(study, name, arm, acqs))
        yield from (f"arms.{name}.{p}" for p in _refusals(study, name, arm))
    yield from _cycles(study)
    if study.baseline and study.baseline not in study.arms:
        yield f"baseline: {_no('arm', study.baseline, study.arms)}"
    for i, quoted in enumerate(study.published):
        if quoted.dataset not in study.datasets:
            yield f"published[{i}].dataset: {_no('dataset', quoted.dataset, study.datasets)}"
        elif quoted.acq not in (allowed := study.datasets[quoted.dataset].acquisitions):
            yield f"published[{i}].acq: {_no('acquisition', quoted.acq, allowed)}"


def _no(kind, name, allowed):
    return f'no {kind} "{name}"{registry.nearest(name, allowed)} (allowed: {", ".join(allowed)})'


def _name_problems(key, names):
    for name in names:
        if not NAME.fullmatch(name):
            allowed = 'letters, digits, ".", "_", "-", a letter or digit first'
            yield f'{key}: the name "{name}" becomes a folder, allowed: {allowed}'
    folded = {}
    for name in names:
        if folded.setdefault(name.casefold(), name) != name:
            both = f'"{folded[name.casefold()]}" and "{name}"'
            yield f"{key}: {both} are one folder where upper and lower case are not told apart; rename one"


def _dataset_problems(study, name, dataset):
    try:
        reader = registry.get("readers", dataset.reader)
    except registry.UnknownPlugin as error:
        yield f"reader: {error}"
        return
    for key, fault in registry.check_parameters(reader, dataset.params)[1]:
        yield f"params.{key}: {fault}"
    if reader.get("READS_AS") is None:
        yield from (f"path: {p}" for p in _path_problems(dataset.path))
    elif dataset.path is not None:
        yield f"path: found {dataset.path!r}, but reader {dataset.reader} makes its own scans; leave path out"
    if isinstance(dataset.volumes, Listed) and _listed(dataset) is None:
        fault = "no text file" if Path(dataset.volumes.list).exists() else "no such file"
        yield f'volumes.list: {fault} "{dataset.volumes.list}"; write one, with one name of a volume a line'
    modality, seen = reader.get("MODALITY"), {}
    model = ACQUISITIONS[modality]
    others = {m: set(other.model_fields) - set(model.model_fields) for m, other in ACQUISITIONS.items()}
    yield from _name_problems("acquisitions", dataset.acquisitions)
    for acq, given in dataset.acquisitions.items():
        if foreign := [m for m, keys in others.items() if keys & set(given)]:
            keys = ", ".join(k for k in given if k not in model.model_fields)
            yield (
                f"acquisitions.{acq}: found {keys}, of {foreign[0]} acquisitions, "
                f"but reader {dataset.reader} gives {modality} (allowed: {', '.join(model.model_fields)})"
            )
            continue
        try:
            parsed = model(**named(acq, given))
        except ValidationError as error:
            yield from (f"acquisitions.{acq}.{key}: {text}" for key, text in _said(error, model, given))
            continue
        faults = [*parsed.faults(), *(_mask_file_problems(parsed.file) if modality == "mri" else [])]
        yield from (f"acquisitions.{acq}.{key}: {fault}" for key, fault in faults)
        same = acq if faults else seen.setdefault(acquisitions.essence(parsed), acq)
        if same != acq:
            yield f"acquisitions.{acq}: the same as acquisitions.{same}; leave one out"
    if modality != "mri":
        for key in {"crop", "maps"} & dataset.model_fields_set:
            yield f"{key}: means nothing for {modality}, which reader {dataset.reader} gives; leave it out"
    if dataset.maps.file and dataset.maps.method != "given":
        yield f"maps.file: goes with method: given, not with {dataset.maps.method}; leave one out"
    elif dataset.maps.file:
        yield from (f"maps.file: {p}" for p in _path_problems(dataset.maps.file, pattern="{volume}"))


def _listed(dataset):
    """The names of volumes that a dataset lists; None: it lists none, or its file cannot be read."""
    try:
        return dataset.listed
    except (OSError, UnicodeDecodeError):
        return None


def _mask_file_problems(path):
    """(key, what is wrong) of a mask file, whatever the scan."""
    from dipline.acquire import masks

    if path is not None:
        missing = list(_path_problems(path))
        yield from (("file", fault) for fault in missing)
        try:
            if not missing:
                masks.from_file(local(path))
        except ValueError as error:
            yield "file", str(error)


def _path_problems(path, pattern=None):
    if path is None:
        yield "missing; write one, e.g. path: $FASTMRI/multicoil_val"
        return
    unset = [v for v in re.findall(r"\$\{?(\w+)\}?", path) if v not in os.environ]
    if unset:
        yield f'"{path}": the environment variable {unset[0]} is not set; export {unset[0]}=/where/the/data/lie'
    elif not (pattern and pattern in path) and not local(path).exists():
        yield f'no such file or folder "{os.path.expandvars(path)}"; correct the path'


def _arm_problems(study, name, arm, acqs):
    try:
        method = registry.get("methods", arm.method)
    except registry.UnknownPlugin as error:
        yield f"method: {error}"
        return
    for key in arm.per_acquisition:
        if key not in acqs:
            yield f"per_acquisition: {_no('acquisition', key, sorted(acqs))}"
    for acq in [None, *arm.per_acquisition]:
        where = f"per_acquisition.{acq}." if acq else ""
        over = arm.per_acquisition.get(acq, {})
        for key in set(over) & set(Arm.model_fields) - set(VARIES):
            allowed = ", ".join(VARIES)
            yield f"{where}{key}: cannot differ between acquisitions (allowed: {allowed}); make it an arm of its own"
        over = {k: v for k, v in over.items() if k in VARIES or k not in Arm.model_fields}
        try:
            changed = Arm(**variant(arm, over))
        except ValidationError as error:
            yield from (f"{where}{key}: {text}" for key, text in _said(error, Arm, over))
            over = {k: v for k, v in over.items() if k not in {e["loc"][0] for e in error.errors()}}
            changed = Arm(**variant(arm, over))
        yield from (f"{where}{p}" for p in _variant_problems(changed, method, over if acq else None))
    if arm.seeds and len(set(arm.seeds)) != len(arm.seeds):
        yield f"seeds: found {arm.seeds}, allowed: every seed once"
    every = f"all but {', '.join(BY_NAME)}"
    tasks, takes, models = ", ".join(method.get("TASKS", ())) or every, method.get("INPUTS", ()), method.get("MODELS", ())
    for d in arm.datasets or []:
        if d not in study.datasets:
            yield f"datasets: {_no('dataset', d, study.datasets)}"
        elif not study.solves(name, d):
            yield f"datasets: {arm.method} does not solve {study.modality(d)} (dataset {d}); allowed: {tasks}"
    known = [d for d in study.datasets if study.datasets[d].reader in registry.plugins("readers")]
    terms = {over.get("data_term", arm.data_term) for over in ({}, *arm.per_acquisition.values())}
    usual = ("least_squares",)
    fitted = method.get("DATA_TERMS", tuple(terms) if method.get("NETWORK") else usual)
    if lost := terms - set(fitted):
        yield f"data_term: found {', '.join(sorted(lost))}, allowed with {arm.method}: {', '.join(fitted)}"
    for d in known if terms - set(usual) else []:
        offered = [registry.get("physics", operator).get("DATA_TERMS", usual) for operator in _operators(study, d)]
        allowed = [term for term in (offered or [terms])[0] if all(term in some for some in offered)]
        if study.solves(name, d) and (found := terms & set(fitted) - set(allowed)):
            words = f"found {', '.join(sorted(found))}, allowed on dataset {d}: {', '.join(allowed)}"
            yield f"data_term: {words}; narrow the arm with `datasets:`"
    if not arm.datasets and known and not any(study.solves(name, d) for d in known):
        yield f"method: {arm.method} solves {tasks}, and no dataset is of that kind; leave the arm out"
    reuses, optional = method.get("REUSES", ()), method.get("OPTIONAL", ())
    for needed in takes:
        if needed not in arm.inputs:
            example = f"inputs: {{{needed}: {{dataset: t1, volume: same, slice: same}}}}"
            yield f"inputs.{needed}: missing; {arm.method} needs it, e.g. {example}"
    for key, given in arm.inputs.items():
        if key not in (allowed := (*takes, *optional, *models, *reuses)):
            yield f"inputs.{key}: {arm.method} takes no such input (allowed: {', '.join(allowed) or 'none'})"
            continue
        if key in reuses:
            yield from (f"inputs.{key}{p}" for p in _artefact_problems(study, name, key, given))
            continue
        yield from (f"inputs.{key}{p}" for p in (_model_problems(given) if key in models else _input_problems(study, name, given)))


def _operators(study, dataset):
    """Names of the operators of a dataset, of faulty acquisitions none."""
    for acq in study.datasets[dataset].acquisitions:
        with suppress(ValidationError):
            yield study.acquisition(dataset, acq).physics


def _variant_problems(arm, method, over=None):
    """Faults of one arm (as it stands, or under one acquisition: then only of what ``over`` changes)."""
    if over is None or "params" in over:
        for key, fault in registry.check_parameters(method, arm.params)[1]:
            yield f"params.{key}: {fault}"
    if arm.network is not None and not method.get("NETWORK"):
        yield f"network: {arm.method} has no network; leave it out"
    if any(arm.penalty.model_dump().values()) and not method.get("NETWORK"):
        yield f"penalty: is for methods with a network, which {arm.method} has not; leave it out"
    choices = [("network", "networks", arm.network)] if arm.network is not None and method.get("NETWORK") else []
    choices += [("stop", "stopping", arm.stop), *((f"watch[{i}]", "stopping", w) for i, w in enumerate(arm.watch))]
    iterations = arm.iterations or method.get("ITERATIONS", 1000)
    for key, kind, choice in choices:
        if over is not None and key.split("[")[0] not in over and "iterations" not in over:
            continue
        if isinstance(choice, dict) and len(choice) != 1:
            yield f"{key}: found {len(choice)} names, allowed: one, as in {key}: {{name: {{option: value}}}}"
            continue
        chosen, params = split(choice)
        try:
            values, faults = registry.check_parameters(registry.get(kind, chosen), params)
        except registry.UnknownPlugin as error:
            yield f"{key}: {error}"
            continue
        if key.startswith("watch") and not registry.get(kind, chosen).get("WATCHABLE", True):
            yield f"{key}: {chosen} takes samples away from the arm, so it cannot merely watch; use it as stop: {chosen}"
        yield from (f"{key}.{chosen}.{k}: {fault}" for k, fault in faults)
        window = 1 if faults else max(values.get(k, 1) for k in ("window", "min_iterations", "smooth"))
        if window > iterations:
            yield f"iterations: found {iterations}, but {key} {chosen} looks at {window}; allowed: {window} or more"


def _refusals(study, name, arm):
    """Settings that a plug-in refuses, each alone allowed, on the datasets and under the acquisitions where the arm runs."""
    known = [d for d, dataset in study.datasets.items() if dataset.reader in registry.plugins("readers")]
    for d in known if arm.method in registry.plugins("methods") else []:
        for acq in study.datasets[d].acquisitions if study.solves(name, d) else []:
            over = arm.per_acquisition.get(acq, {})
            with suppress(ValidationError):  # faults of their own, which are told
                acquired = study.acquisition(d, acq)
                about = acquisitions.facts(acquired) | {"modality": study.modality(d), "physics": acquired.physics, "mode": "serial"}
                for key, fault in _refused(Arm(**variant(arm, over)), study.block, about, f" on dataset {d}", f" at {acq}"):
                    first, _, option = key.partition(".")
                    own = first in over and (not option or first not in ("params", "penalty") or option in over[first])
                    yield f"{f'per_acquisition.{acq}.' * own}{key}: {fault}"


def _refused(arm, block, about, dataset="", acq=""):
    """[(key of the arm, what was found and what is allowed)] of what its plug-ins refuse.

    Args:
        block: the study's, or None.
        about: what is known of acquisition, operator and modality; words for both stand where the refusal depends on them.
    """
    try:
        resolved = resolve(arm, block=block)
    except (registry.UnknownPlugin, ValueError):
        return []  # told elsewhere
    params = {f"{of}.{key}": value for of in ("params", "penalty") for key, value in resolved.get(of, {}).items()}
    params |= {f"stop.{rule}.{key}": value for rule, options in resolved["stop"].items() for key, value in options.items()}
    context = about | resolved | params | ({"mode": "serial"} if resolved.get("mode") == "batch" else {})
    used = [("method", "methods", resolved["method"], {})]
    used += [("stop", "stopping", *rule) for rule in resolved["stop"].items()]
    used += [(f"watch[{i}]", "stopping", *item) for i, rule in enumerate(resolved["watch"]) for item in rule.items()]
    used += [("network", "networks", *net) for net in (resolved["network"] or {}).items()]
    used += [("method", "physics", about["physics"], {})] if "physics" in about else []
    found = []
    for place, kind, name, options in used:
        own = {f"option.{key}": value for key, value in options.items()}
        for keys, allowed in registry.refusals(registry.get(kind, name), context | own):
            key, foreign = keys[0], set(keys) - resolved.keys() - params.keys() - own.keys()
            where = dataset * bool(foreign or kind == "physics") + acq * bool(foreign - {"modality"})
            value = name if key in foreign else _shown((context | own)[key])
            key = place if key in foreign else key.replace("option", f"{place}.{name}") if key in own else key
            found.append((key, f"found {value}, allowed{where}: {allowed}"))
    return found


def _model_problems(given):
    """What is wrong with a learnt model, as far as its file tells without torch."""
    if given.file is None or given.arm is not None or given.dataset is not None:
        found = ", ".join(s for s in ("dataset", "arm", "file") if getattr(given, s) is not None)
        yield f": found {found or 'nothing'}, allowed: a TorchScript file, e.g. file: denoiser.pt"
        return
    missing = [f".file: {p}" for p in _path_problems(given.file)]
    yield from missing
    if missing:
        return
    if not acquisitions.torchscript(given.file):
        advice = 'write one with torch.jit.script(model).save("denoiser.pt")'
        yield f'.file: "{given.file}" is no such model, allowed: a TorchScript file; {advice}'


def _artefact_problems(study, name, key, given):
    """What is wrong with an artefact of another result, such as a mask: it is made for one network, and for the start that a seed draws."""
    sources = [s for s in ("dataset", "arm", "file") if getattr(given, s) is not None]
    if sources == ["file"]:
        missing = [f".file: {p}" for p in _path_problems(given.file)]
        yield from missing or _result_problems(study, name, key, given)
        return
    if "arm" not in sources or "file" in sources:
        yield f": found {' and '.join(sources) or 'nothing'}, allowed: an arm (with or without its dataset), or the file of a result"
        return
    found = list(_input_problems(study, name, given))
    yield from found
    if found or study.arms[given.arm].method not in registry.plugins("methods"):
        return
    source = study.arms[given.arm]
    if key not in registry.get("methods", source.method).get("ARTEFACTS", ()):
        yield f".arm: {given.arm} ({source.method}) makes no {key}, allowed: an arm with method {_makers(key)}"
        return
    seeds = study.arm_seeds(given.arm)
    if lost := [s for s in study.arm_seeds(name) if s not in seeds]:
        wanted = f"{_shown(study.arm_seeds(name))}, the seeds of {name}"
        yield f".arm: {given.arm} has no seed {lost[0]}, allowed: {wanted}: a {key} is for the start that its seed draws"
    with suppress(registry.UnknownPlugin, ValueError):  # told elsewhere
        for d in (d for d in study.datasets if study.solves(name, d)):
            for acq in study.datasets[d].acquisitions:
                at = given.dataset or d
                theirs = study.resolved(given.arm, given.acq or (acq if at == d else next(iter(study.datasets[at].acquisitions))))
                if fault := _other_network(theirs, study.resolved(name, acq)):
                    yield f".arm: {given.arm} has {fault}, as {name} has: a {key} is made for one network"
                    return


def _makers(artefact):
    return ", ".join(name for name, plugin in registry.plugins("methods").items() if artefact in plugin.get("ARTEFACTS", ()))


def _other_network(found, wanted):
    """Where the network of one resolved arm is another than that of the second: the first difference, or nothing."""

    def about(arm):
        ((network, options),) = (arm["network"] or {"none": {}}).items()
        drawn = arm["params"].get("input") in ("uniform", "normal")
        channels = drawn and arm["params"].get("input_channels") or "as many as the image"
        mode = arm.get("mode", "serial").replace("batch", "serial")
        return {"network": network, **options, "input_channels": channels, "block mode": mode}

    theirs, own = about(found), about(wanted)
    return next((f"{k} {_shown(theirs[k])}, allowed: {_shown(v)}" for k, v in own.items() if theirs.get(k) != v), "")


def _result_problems(study, name, key, given):
    """What is wrong with a result file as the source of an artefact, as far as the file tells."""
    from dipline import store

    try:
        with store.opened(local(given.file)) as f:
            head = store.checked(given.file, store.decoded(f), "recon")
            held = [int(n) for n, group in f["slices"].items() if f"artefact_{key}" in group]
    except (store.Corrupt, KeyError):
        yield f'.file: "{given.file}" is no result, allowed: a file of recon/ that an arm with method {_makers(key)} wrote'
        return
    if not held:
        yield f'.file: "{given.file}" holds no {key}, allowed: the result of an arm with method {_makers(key)}'
        return
    if given.slice not in held:
        yield f'.slice: found {given.slice}, allowed: {", ".join(map(str, held))}, of which "{given.file}" holds a {key}'
    if lost := [s for s in study.arm_seeds(name) if s != head["seed"]]:
        advice = f"give the arm seeds: [{head['seed']}], or one arm for each seed"
        yield f'.file: "{given.file}" is of seed {head["seed"]}, but {name} runs with seed {lost[0]}; {advice}'
    made = head["provenance"]["spec"]["arm"]
    with suppress(registry.UnknownPlugin, ValueError):
        for acq in (a for d in study.datasets if study.solves(name, d) for a in study.datasets[d].acquisitions):
            if fault := _other_network(made, study.resolved(name, acq)):
                yield f'.file: "{given.file}" was made with {fault}, as {name} has: a {key} is made for one network'
                return


def _input_problems(study, name, given):
    sources = [s for s in ("dataset", "arm", "file") if getattr(given, s) is not None]
    if not sources or "file" in sources and len(sources) > 1:
        allowed = "a dataset, an arm (with or without its dataset), or a file"
        yield f": found {' and '.join(sources) or 'nothing'}, allowed: {allowed}"
        return
    if given.file is not None:
        missing = [f".file: {p}" for p in _path_problems(given.file)]
        yield from missing or (f".file: {p}" for p in _image_problems(study, name, given.file))
        return
    if given.arm is not None and given.arm not in study.arms:
        yield f".arm: {_no('arm', given.arm, study.arms)}"
        return
    if given.dataset is not None and given.dataset not in study.datasets:
        yield f".dataset: {_no('dataset', given.dataset, study.datasets)}"
        return
    scored = [d for d in study.datasets if study.solves(name, d)]
    known = given.arm is not None and study.arms[given.arm].method in registry.plugins("methods")
    for source in [given.dataset] if given.dataset else scored:
        dataset, acqs = study.datasets[source], study.datasets[source].acquisitions
        if given.acq is not None and given.acq not in acqs:
            yield f".acq: {_no('acquisition', given.acq, acqs)} in dataset {source}"
        elif given.acq is None and len(acqs) > 1 and (given.arm is None or source not in scored):
            yield f".acq: missing, dataset {source} has several acquisitions; name one of {', '.join(acqs)}"
        if known and not study.solves(given.arm, source):
            advice = f"name an arm that does, or narrow {name} with `datasets:`"
            yield f".arm: {given.arm} does not run on dataset {source}; {advice}"
    for d in scored if given.dataset else []:
        if None not in (kinds := (study.modality(given.dataset), study.modality(d))) and kinds[0] != kinds[1]:
            yield (
                f".dataset: {given.dataset} is {kinds[0]}, but {name} runs on {d}, which is {kinds[1]}: images of one say nothing in the "
                "units of the other; name a dataset of the same modality, or narrow the arm with `datasets:`"
            )
    for d in scored:
        for source, volume in _origins(study, given, d, given.volume):
            dataset, own = study.datasets[source], study.datasets[d]
            if _same_scans(dataset, own) and _same_volume(dataset, own, volume):
                yield (
                    f".dataset: {source} holds the very scans that {name} is scored on ({d}): "
                    "a prior from a scan's own full data is refused; "
                    "name another contrast or time point, and narrow the arm with `datasets:`"
                )


def _image_problems(study, name, file):
    """What is wrong with an image in a file, whatever the scan."""
    import numpy as np

    advice = "write one with numpy.save, (rows, columns)"
    try:
        image = np.load(local(file), mmap_mode="r", allow_pickle=False)  # the header alone
        kind, axes = image.dtype, image.ndim
    except (ValueError, EOFError, OSError, AttributeError):  # no .npy, a folder, an archive of several
        yield f'"{file}" is no array, allowed: a .npy file of numbers; {advice}'
        return
    if kind.kind not in "biufc" or axes < 2:
        yield f'"{file}" holds {kind} with {axes} axes, allowed: numbers with 2 axes or more; {advice}'
    ct = [d for d in study.datasets if study.solves(name, d) and study.modality(d) == "ct"]
    if kind.kind == "c" and ct:
        yield (
            f'"{file}" is complex (MRI), but {name} runs on {ct[0]}, which is CT, allowed: real numbers; give a real image, '
            "or narrow the arm with `datasets:`"
        )


def _origins(study, given, at, volume, away=False, seen=()):
    """(dataset, volume) of all other scans behind an input of an arm on dataset ``at``, by way of other arms too.

    What an arm makes of the very measurement that is at hand (the same dataset and acquisition) is no other scan.
    """
    source, acqs = given.dataset or at, study.datasets[at].acquisitions
    away |= source != at or given.arm is None or given.acq is not None and set(acqs) != {given.acq}
    if away and source in study.datasets:
        yield source, volume
    if given.arm in study.arms and given.arm not in seen and source in study.datasets:
        for i in study.arms[given.arm].inputs.values():
            if i.dataset or i.arm:
                further = volume if i.volume == "same" else i.volume
                yield from _origins(study, i, source, further, away, (*seen, given.arm))


def _same_volume(source, scored, volume):
    """Whether a volume of ``source`` may be one that is scored, as far as lists of names tell."""
    names = [{volume}] if volume != "same" else []
    names += [set(listed) for d in (source, scored) if (listed := _listed(d)) is not None]
    return not names or bool(set.intersection(*names))


# parameters of an embedded patient that make another scan of it; "mixed" may be any of them
APART = ("contrast", "time_point", "body")


def _same_scans(a, b):
    """Whether two datasets may hold the same scans: one folder in the other, or patients in one contrast and time."""
    if a.path is not None and b.path is not None:
        one, other = (local(d.path).resolve() for d in (a, b))
        return one == other or one in other.parents or other in one.parents
    if a.path is not None or b.path is not None or a.reader != b.reader:
        return False
    reader = registry.plugins("readers").get(a.reader)
    p, q = (reader.defaults() | d.params if reader else d.params for d in (a, b))
    return all(p.get(k) == q.get(k) or "mixed" in (p.get(k), q.get(k)) for k in APART)


def _cycles(study):
    """Arms that need each other's results."""
    needs = {n: {i.arm for i in a.inputs.values() if i.arm in study.arms} for n, a in study.arms.items()}
    for start in needs:
        seen, todo = set(), set(needs[start])
        while todo:
            arm = todo.pop()
            if arm == start:
                yield f"arms.{start}.inputs: a cycle: {start} needs, in the end, its own result"
                break
            if arm not in seen:
                seen.add(arm)
                todo |= needs[arm]
