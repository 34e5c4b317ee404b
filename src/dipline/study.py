"""The study file: what a user may write, and everything that can be wrong with it, said at once.

The models are the truth; ``config/schema.json`` is made from them. Options of plug-ins are checked against the literals
in the plug-ins' files (``registry``). No torch here: Snakemake imports this on a login node.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dipline import registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SLICES = "all | 3-20 | [4, 9] | middle 5"
PHYSICS = {"mri": "sense"}  # the operator of a modality
Fraction = Annotated[float, Field(gt=0, lt=1)]


class StudyError(Exception):
    """Everything that is wrong with a study, one line each."""

    def __init__(self, problems):
        self.problems = problems
        super().__init__("\n".join(problems))


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class First(Model):
    """The first volumes by name."""

    first: Annotated[int, Field(ge=1)]


class Listed(Model):
    """A text file with one volume name a line."""

    list: str


class Maps(Model):
    """Coil sensitivities: estimated from the acquired data (espirit), or read from a file."""

    method: Literal["espirit", "full", "given"] = Field(
        "espirit", description="espirit: from the acquired data; full: from the complete data, to reproduce a paper; given: from `file` or the reader"
    )
    sets: Literal[1, 2] = 1
    file: str | None = Field(None, description="BART or .npy file; {volume} stands for the volume's name; implies method: given")

    @model_validator(mode="before")
    @classmethod
    def _file(cls, value):
        return {"method": "given", **value} if isinstance(value, dict) and value.get("file") else value


class Cartesian(Model):
    """How a full MRI scan becomes a measurement."""

    mask: Literal[
        "random", "equispaced", "equispaced_fraction", "magic", "magic_fraction", "gaussian", "gaussian_2d", "poisson",
        "file", "full", "as_measured",
    ] = Field(description="fastMRI's five masks, Gaussian or Poisson-disc density, a file, everything, or what the scanner left out")  # fmt: skip
    acceleration: Annotated[float, Field(ge=1)] | None = None
    center_fraction: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="default: 0.32 / acceleration, as fastMRI has it")
    offset: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = Field(None, description="default: from the volume's file name, as fastMRI does")
    file: str | None = Field(None, description="with mask: file")
    noise_snr: float | None = Field(None, description="extra noise, dB below the mean power of the k-space samples")
    coils: Annotated[int, Field(ge=1)] | None = Field(None, description="compress to so many virtual coils")
    holdout: Fraction | None = Field(None, description="part of the acquired samples kept from the arms, to judge by")

    @property
    def acceleration_requested(self):
        return self.acceleration or (1.0 if self.mask == "full" else None)

    def try_on(self, acq, width, maps):
        """ValueError where the mask cannot be drawn on ``width`` columns, or leaves too few centre columns for coil maps."""
        from dipline.acquire import masks

        if self.mask not in masks.KINDS:
            return
        fraction = 0.32 / self.acceleration if self.center_fraction is None else self.center_fraction
        mask = masks.cartesian(self.mask, width, self.acceleration, fraction, self.seed or 0, self.offset)[0]
        if maps == "espirit" and masks.centre_columns(mask) < 4:
            raise ValueError(
                f"acquisition {acq}: center_fraction {fraction:g} of {width} columns leaves {round(fraction * width)} fully sampled "
                "centre columns; coil maps need 4, good ones 8: raise center_fraction, or give maps"
            )

    def faults(self):
        if self.mask in ("file", "full", "as_measured"):
            for key in ("acceleration", "center_fraction", "offset"):
                if getattr(self, key) is not None:
                    yield key, f"means nothing with mask: {self.mask}; leave it out"
        elif self.acceleration is None:
            yield "acceleration", f"missing; mask: {self.mask} needs one, e.g. acceleration: 4"
        elif self.mask in ("equispaced", "magic") and self.acceleration % 1:
            yield "acceleration", f"found {self.acceleration:g}, allowed with mask: {self.mask}: a whole number"
        elif self.mask in ("random", "equispaced_fraction") and (self.center_fraction or 0) * self.acceleration >= 1:
            most = f"less than {1 / self.acceleration:.3g}, or the centre alone is more than acceleration {self.acceleration:g} leaves"
            yield "center_fraction", f"found {self.center_fraction:g}, allowed: {most}"
        if (self.file is None) == (self.mask == "file"):
            yield "file", "goes with mask: file, and only there"


ACQUISITIONS = {"mri": Cartesian}


class Dataset(Model):
    """Scans of one kind, and how they are acquired."""

    reader: str
    path: str | None = Field(None, description="folder or file; may hold $VARIABLES")
    params: dict[str, Any] = {}
    volumes: Literal["all"] | list[str] | First | Listed = "all"
    slices: Literal["all"] | list[Annotated[int, Field(ge=0)]] | str = "all"
    crop: Literal["readout", "full", "image"] = "readout"
    maps: Maps = Maps()
    acquisitions: dict[str, dict[str, Any]] = Field(min_length=1)

    @field_validator("slices")
    @classmethod
    def _slices(cls, value):
        if isinstance(value, str) and not re.fullmatch(r"all|middle [1-9]\d*|\d+-\d+", value):
            raise ValueError(f"found {value!r}, allowed: {SLICES}")
        if isinstance(value, str) and value[0].isdigit() and int(value.split("-")[0]) > int(value.split("-")[1]):
            raise ValueError(f"found {value!r}, allowed: the smaller number first")
        if isinstance(value, list) and len(set(value)) != len(value):
            raise ValueError(f"found {value}, allowed: every slice once")
        return value


class Input(Model):
    """Where an arm's input comes from: another dataset's starting image, another arm, or a file."""

    dataset: str | None = None
    arm: str | None = None
    file: str | None = None
    volume: str = "same"
    slice: Literal["same"] | int = "same"
    acq: str | None = None


class Block(Model):
    slices: Annotated[int, Field(ge=1)] = 1
    mode: Literal["serial"] = "serial"


Choice = str | dict[str, dict[str, Any] | None]


class Arm(Model):
    """A method with its network, stop rule and parameters."""

    method: str
    params: dict[str, Any] = {}
    network: Choice | None = None
    stop: Choice = "fixed"
    watch: list[Choice] = Field([], description="stop rules that only record what they would have chosen")
    iterations: Annotated[int, Field(ge=1)] | None = None
    average: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="decay of the running average of the outputs; 0: none")
    precondition: Annotated[float, Field(ge=0)] = Field(0.0, description="evens out the convergence of centre and periphery; 0: off, smaller is stronger")
    inputs: dict[str, Input] = {}
    datasets: Annotated[list[str], Field(min_length=1)] | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    block: Block | None = None
    per_acquisition: dict[str, dict[str, Any]] = Field({}, description="what differs under an acquisition, e.g. R8: {params: {lam: 0.008}}")


class Study(Model):
    """A study file."""

    study: str
    datasets: dict[str, Dataset] = Field(min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    block: Block = Block()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] = 1
    snapshots: Annotated[int, Field(ge=0)] = Field(60, description="images kept over the iterations, for the oracle curve; 0: no peak column")
    keep_snapshots: bool = True
    read_every: Annotated[int, Field(ge=1)] = Field(20, description="steps between two looks at the stop rule")
    strict: bool = Field(False, description="stop at an unreadable scan instead of leaving it out")
    baseline: str | None = Field(None, description="the arm that others are compared with in the text of the report")

    def modality(self, dataset):
        reader = registry.plugins("readers").get(self.datasets[dataset].reader)
        return reader and reader.get("MODALITY")

    def acquisition(self, dataset, acq):
        return ACQUISITIONS[self.modality(dataset)](**_named(acq, self.datasets[dataset].acquisitions[acq]))

    def solves(self, arm, dataset):
        """Whether the arm runs on the dataset."""
        a = self.arms[arm]
        tasks = registry.get("methods", a.method).get("TASKS")
        return (a.datasets is None or dataset in a.datasets) and (not tasks or self.modality(dataset) in (None, *tasks))

    def arm_seeds(self, arm):
        """The arm's seeds; one where its method knows no chance."""
        seeds = self.arms[arm].seeds or self.seeds
        return seeds if registry.get("methods", self.arms[arm].method).get("RANDOM", True) else seeds[:1]

    def resolved(self, arm, acq):
        """The arm under one acquisition, every default filled in."""
        a = self.arms[arm]
        return resolve(Arm(**variant(a, a.per_acquisition.get(acq, {}))), self.snapshots, self.read_every)


def resolve(arm, snapshots=60, read_every=20):
    """An :class:`Arm` with every default filled in: what ``loop.fit`` takes, and what a job's identity holds."""
    method = registry.get("methods", arm.method)
    network = arm.network if arm.network is not None else method.get("NETWORK")
    return {
        "method": arm.method, "params": registry.check_parameters(method, arm.params)[0],
        "network": _choice("networks", network) if method.get("NETWORK") else None,
        "stop": _choice("stopping", arm.stop), "watch": [_choice("stopping", w) for w in arm.watch],
        "iterations": arm.iterations or method.get("ITERATIONS", 1000),
        "average": method.get("AVERAGE", 0.0) if arm.average is None else arm.average,
        "precondition": arm.precondition, "snapshots": snapshots, "read_every": read_every,
    }  # fmt: skip


def checked_arm(config):
    """An :class:`Arm` from a mapping, outside a study; StudyError with all its problems."""
    try:
        arm = Arm.model_validate(_numbers(config))
        method = registry.get("methods", arm.method)
    except ValidationError as error:
        raise StudyError([f"arm: {key}: {text}" for key, text in _said(error, Arm, config)]) from None
    except registry.UnknownPlugin as error:
        raise StudyError([f"arm: {error}"]) from None
    problems = list(_variant_problems(arm, method, None))
    if problems:
        raise StudyError([f"arm: {p}" for p in problems])
    return arm


def checked_acquisition(config, modality="mri"):
    """An acquisition from a mapping, outside a study; StudyError with all its problems."""
    model = ACQUISITIONS[modality]
    try:
        parsed = model.model_validate(config)
    except ValidationError as error:
        raise StudyError([f"acquisition: {key}: {text}" for key, text in _said(error, model, config)]) from None
    if problems := [f"acquisition: {key}: {fault}" for key, fault in parsed.faults()]:
        raise StudyError(problems)
    return parsed


def _named(name, acquisition):
    """An acquisition called as_measured needs no mask of its own."""
    return {"mask": "as_measured", **acquisition} if name == "as_measured" else acquisition


def merged(base, over):
    """Two mappings as one, level by level; ``over`` wins."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


VARIES = ("params", "network", "stop", "watch", "iterations", "average", "precondition")  # may differ by acquisition


def variant(arm, over):
    """The arm as a mapping, with what differs under an acquisition; another network or stop rule replaces the first."""
    base = arm.model_dump(exclude_unset=True)
    for key in ("network", "stop"):
        if isinstance(base.get(key), dict) and isinstance(over.get(key), dict) and set(base[key]) != set(over[key]):
            del base[key]
    return merged(base, over)


def _split(choice):
    """``name`` or ``{name: params}`` -> (name, params)."""
    if isinstance(choice, str):
        return choice, {}
    ((name, params),) = choice.items()
    return name, params or {}


def _choice(kind, choice):
    name, params = _split(choice)
    return {name: registry.check_parameters(registry.get(kind, name), params)[0]}


class _Loader(yaml.SafeLoader):
    """YAML in which a key cannot stand twice: the second would silently win."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<" and seen.setdefault(key.value, key) is not key:
                raise yaml.constructor.ConstructorError(None, None, f'the key "{key.value}" stands twice', key.start_mark)
        return node


def read(path):
    """The YAML of a study file as a dict."""
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise StudyError([f"{path}: no such file; copy config/config.yaml and change it"]) from None
    except UnicodeDecodeError as error:
        raise StudyError([f"{path}: not a text file in UTF-8 ({error}); save it as UTF-8"]) from None
    except OSError as error:
        raise StudyError([f"{path}: cannot be read ({error.strerror}); name a study file, such as config/config.yaml"]) from None
    except yaml.YAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise StudyError([f"{path}{where}: not YAML: {said}; correct that line, with spaces, never tabs, in front"]) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else _shown(data)
        raise StudyError([f"{path}: found {found}, allowed: keys with values, as in config/config.yaml; copy it and change it"])
    return data


SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _numbers(node, inside=False):
    """A copy in which options that YAML 1.1 takes for text, such as 1e-3 without a dot, are numbers."""
    if isinstance(node, dict):
        options = ("params", "network", "stop", "watch")
        return {key: _numbers(value, inside or key in options) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers(value, inside) for value in node]
    return float(node) if inside and isinstance(node, str) and SCIENTIFIC.fullmatch(node) else node


class _Part(Study):
    """What is left of a study without its faulty entries, so that the rest can be checked as well."""

    study: str = "study"
    datasets: dict[str, Dataset] = {}
    arms: dict[str, Arm] = {}


def load(config, source="study"):
    """Build and check a study.

    Args:
        config: the mapping as read.
        source: the file's name, for messages.

    Raises:
        StudyError: all problems, each with file, key, what was found, what is allowed and the nearest name.
    """
    said, rest, model = {}, _numbers(config), Study
    while True:
        try:
            study = model.model_validate(rest)
            break
        except ValidationError as error:
            found = _said(error, Study, rest)
            if model is Study:
                said, model = dict.fromkeys(found), _Part
            for e in error.errors():
                _drop(rest, e)
    problems = [f"{key}: {text}" for key, text in said]
    keys = {key for key, _ in said}
    problems += [p for p in dict.fromkeys(_problems(study)) if p not in problems and not _follows(p, keys, config, study)]
    if problems:
        raise StudyError([f"{source}: {p}" for p in problems])
    return study


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


BELOW = {Study: {"datasets": Dataset, "arms": Arm, "block": Block}, Dataset: {"maps": Maps}, Arm: {"inputs": Input, "block": Block}}
FORMS = {  # keys that may be written in several ways
    (Dataset, "volumes"): "all | [patient_001, patient_002] | {first: 20} | {list: file.txt}",
    (Dataset, "slices"): SLICES,
    (Input, "slice"): "same | the number of a slice",
    (Arm, "network"): "the name of a network | {name: {option: value}}",
    (Arm, "stop"): "the name of a stop rule | {name: {option: value}}",
    (Arm, "watch"): "[stop rule, …], each a name or {name: {option: value}}",
}
EXAMPLES = {
    "study": "study: knee4x", "datasets": "datasets: {knee: {reader: fastmri, path: …, acquisitions: …}}", "reader": "reader: fastmri",
    "acquisitions": "acquisitions: {R4: {mask: random, acceleration: 4}}", "mask": "mask: random", "arms": "arms: {dip: {method: vanilla}}",
    "method": "method: vanilla",
}  # fmt: skip
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list", "dict": "{name: …}"}
BOUNDS = {"greater_than_equal": "{ge:g} or more", "greater_than": "more than {gt:g}", "less_than": "less than {lt:g}", "less_than_equal": "{le:g} or less"}


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
        i, model = i + (1 if where[i] in ("block", "maps") else 2), BELOW[model][where[i]]
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
        return key, f"unknown{registry.nearest(where[-1], model.model_fields)} (allowed: {', '.join(model.model_fields)})"
    if kind == "missing":
        return key, f"missing; write one, e.g. {EXAMPLES[where[-1]]}"
    if where[-1] == "[key]":
        return key.removesuffix(".[key]"), f'found {_shown(found)} as a name, allowed: text; put it in quotes: "{_shown(found)}"'
    if kind == "literal_error":
        names = re.findall(r"[^\s',]+", context["expected"].replace(" or ", " "))
        allowed = ", ".join(names) + registry.nearest(found, names)
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
    yield from _cycles(study)
    if study.baseline and study.baseline not in study.arms:
        yield f"baseline: {_no('arm', study.baseline, study.arms)}"


def _no(kind, name, allowed):
    return f'no {kind} "{name}"{registry.nearest(name, allowed)} (allowed: {", ".join(allowed)})'


def _name_problems(key, names):
    for name in names:
        if not NAME.fullmatch(name):
            yield f'{key}: the name "{name}" becomes a folder, allowed: letters, digits, ".", "_", "-", a letter or digit first'
    folded = {}
    for name in names:
        if folded.setdefault(name.casefold(), name) != name:
            first = folded[name.casefold()]
            yield f'{key}: "{first}" and "{name}" are one folder where upper and lower case are not told apart; rename one'


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
    if isinstance(dataset.volumes, Listed) and not Path(dataset.volumes.list).is_file():
        yield f'volumes.list: no such file "{dataset.volumes.list}"; write one, with one name of a volume a line'
    modality, seen = reader.get("MODALITY"), {}
    model = ACQUISITIONS[modality]
    yield from _name_problems("acquisitions", dataset.acquisitions)
    for acq, given in dataset.acquisitions.items():
        foreign = [m for m, other in ACQUISITIONS.items() if m != modality and set(given) & set(other.model_fields) - set(model.model_fields)]
        if foreign:
            keys = ", ".join(k for k in given if k not in model.model_fields)
            yield (
                f"acquisitions.{acq}: found {keys}, of {foreign[0]} acquisitions, but reader {dataset.reader} gives {modality} "
                f"(allowed: {', '.join(model.model_fields)})"
            )
            continue
        try:
            parsed = model(**_named(acq, given))
        except ValidationError as error:
            yield from (f"acquisitions.{acq}.{key}: {text}" for key, text in _said(error, model, given))
            continue
        yield from (f"acquisitions.{acq}.{key}: {fault}" for key, fault in parsed.faults())
        if file := getattr(parsed, "file", None):
            yield from (f"acquisitions.{acq}.file: {fault}" for fault in _path_problems(file))
        if parsed in seen:
            yield f"acquisitions.{acq}: the same as acquisitions.{seen[parsed]}; leave one out"
        seen[parsed] = acq
    if dataset.maps.file and dataset.maps.method != "given":
        yield f"maps.file: goes with method: given, not with {dataset.maps.method}; leave one out"
    elif dataset.maps.file:
        yield from (f"maps.file: {p}" for p in _path_problems(dataset.maps.file, pattern="{volume}"))


def _path_problems(path, pattern=None):
    if path is None:
        yield "missing; write one, e.g. path: $FASTMRI/multicoil_val"
        return
    unset = [v for v in re.findall(r"\$\{?(\w+)\}?", path) if v not in os.environ]
    if unset:
        yield f'"{path}": the environment variable {unset[0]} is not set; export {unset[0]}=/where/the/data/lie'
    elif not (pattern and pattern in path) and not Path(os.path.expandvars(path)).expanduser().exists():
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
            yield f"{where}{key}: cannot differ between acquisitions (allowed: {', '.join(VARIES)}); make it an arm of its own"
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
    for d in arm.datasets or []:
        if d not in study.datasets:
            yield f"datasets: {_no('dataset', d, study.datasets)}"
        elif not study.solves(name, d):
            yield f"datasets: {arm.method} does not solve {study.modality(d)} (dataset {d}); allowed: {', '.join(method.get('TASKS'))}"
    known = [d for d in study.datasets if study.datasets[d].reader in registry.plugins("readers")]
    if not arm.datasets and known and not any(study.solves(name, d) for d in known):
        yield f"method: {arm.method} solves {', '.join(method.get('TASKS'))}, and no dataset is of that kind; leave the arm out"
    for needed in method.get("INPUTS", ()):
        if needed not in arm.inputs:
            yield f"inputs.{needed}: missing; {arm.method} needs it, e.g. inputs: {{{needed}: {{dataset: t1, volume: same, slice: same}}}}"
    for key, given in arm.inputs.items():
        if key not in method.get("INPUTS", ()):
            yield f"inputs.{key}: {arm.method} takes no such input (allowed: {', '.join(method.get('INPUTS', ())) or 'none'})"
        yield from (f"inputs.{key}{p}" for p in _input_problems(study, name, given))


def _variant_problems(arm, method, over):
    """Faults of one arm (as it stands, or under one acquisition: then only of what ``over`` changes)."""
    if over is None or "params" in over:
        for key, fault in registry.check_parameters(method, arm.params)[1]:
            yield f"params.{key}: {fault}"
    if arm.network is not None and not method.get("NETWORK"):
        yield f"network: {arm.method} has no network; leave it out"
    choices = [("network", "networks", arm.network)] if arm.network is not None and method.get("NETWORK") else []
    choices += [("stop", "stopping", arm.stop), *((f"watch[{i}]", "stopping", w) for i, w in enumerate(arm.watch))]
    iterations = arm.iterations or method.get("ITERATIONS", 1000)
    for key, kind, choice in choices:
        if over is not None and key.split("[")[0] not in over and "iterations" not in over:
            continue
        if isinstance(choice, dict) and len(choice) != 1:
            yield f"{key}: found {len(choice)} names, allowed: one, as in {key}: {{name: {{option: value}}}}"
            continue
        chosen, params = _split(choice)
        try:
            values, faults = registry.check_parameters(registry.get(kind, chosen), params)
        except registry.UnknownPlugin as error:
            yield f"{key}: {error}"
            continue
        yield from (f"{key}.{chosen}.{k}: {fault}" for k, fault in faults)
        window = max(values.get("window", 1), values.get("min_iterations", 1), values.get("smooth", 1)) if not faults else 1
        if window > iterations:
            yield f"iterations: found {iterations}, but {key} {chosen} looks at {window}; allowed: {window} or more"


def _input_problems(study, name, given):
    sources = [s for s in ("dataset", "arm", "file") if getattr(given, s) is not None]
    if not sources or "file" in sources and len(sources) > 1:
        yield f": found {' and '.join(sources) or 'nothing'}, allowed: a dataset, an arm (with or without its dataset), or a file"
        return
    if given.file is not None:
        yield from (f".file: {p}" for p in _path_problems(given.file))
        return
    if given.arm is not None and given.arm not in study.arms:
        yield f".arm: {_no('arm', given.arm, study.arms)}"
        return
    if given.dataset is not None and given.dataset not in study.datasets:
        yield f".dataset: {_no('dataset', given.dataset, study.datasets)}"
        return
    scored = [d for d in study.datasets if study.solves(name, d)]
    for source in [given.dataset] if given.dataset else scored:
        acqs = study.datasets[source].acquisitions
        if given.acq is not None and given.acq not in acqs:
            yield f".acq: {_no('acquisition', given.acq, acqs)} in dataset {source}"
        elif given.acq is None and len(acqs) > 1 and (given.arm is None or source not in scored):
            yield f".acq: missing, dataset {source} has several acquisitions; name one of {', '.join(acqs)}"
        if given.arm is not None and study.arms[given.arm].method in registry.plugins("methods") and not study.solves(given.arm, source):
            yield f".arm: {given.arm} does not run on dataset {source}; name an arm that does, or narrow {name} with `datasets:`"
        for d in scored:
            other = given.arm is None or given.acq is not None and set(study.datasets[d].acquisitions) != {given.acq}
            if other and _may_hold(study.datasets[source], given.volume) and _same_scans(study.datasets[source], study.datasets[d]):
                yield (
                    f".dataset: {source} holds the very scans that {name} is scored on ({d}): a prior from a scan's own full data is refused; "
                    "name another contrast or time point, and narrow the arm with `datasets:`"
                )


def _may_hold(dataset, volume):
    return volume == "same" or not isinstance(dataset.volumes, list) or volume in dataset.volumes


APART = ("contrast", "time_point")  # parameters of an embedded patient that make another scan of it; "mixed" may be any contrast


def _same_scans(a, b):
    """Whether two datasets may hold the same scans: one folder in the other, or patients in one contrast and time."""
    if a.path is not None and b.path is not None:
        one, other = (Path(os.path.expandvars(d.path)).expanduser().resolve() for d in (a, b))
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


def schema():
    """JSON schema of a study file, for editors."""
    properties = Study.model_json_schema()
    properties["title"] = "dipline study"
    return properties
