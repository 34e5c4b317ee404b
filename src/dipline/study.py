"""The study file: what a user may write, and everything that can be wrong with it, said at once.

The models are the truth; ``config/schema.json`` is made from them. Options of plug-ins are checked against the literals
in the plug-ins' files (``registry``). No torch here: Snakemake imports this on a login node.
"""

import copy
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dipline import registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PHYSICS = {"mri": "sense"}  # the operator of a modality
Positive = Annotated[float, Field(gt=0)]
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
    file: str | None = Field(None, description="BART or .npy file; {volume} stands for the volume's name")


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

    def faults(self):
        if self.mask in ("file", "full", "as_measured"):
            for key in ("acceleration", "center_fraction", "offset"):
                if getattr(self, key) is not None:
                    yield key, f"means nothing with mask: {self.mask}; leave it out"
        elif self.acceleration is None:
            yield "acceleration", f"missing; mask: {self.mask} needs one, e.g. acceleration: 4"
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
            raise ValueError(f'found "{value}", allowed: all | 3-20 | [4, 9] | middle 5')
        if isinstance(value, list) and len(set(value)) != len(value):
            raise ValueError("the same slice twice")
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
    datasets: list[str] | None = None
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
        return registry.get("readers", self.datasets[dataset].reader).get("MODALITY")

    def acquisition(self, dataset, acq):
        return ACQUISITIONS[self.modality(dataset)](**_named(acq, self.datasets[dataset].acquisitions[acq]))

    def solves(self, arm, dataset):
        """Whether the arm runs on the dataset."""
        a = self.arms[arm]
        tasks = registry.get("methods", a.method).get("TASKS")
        return (a.datasets is None or dataset in a.datasets) and (not tasks or self.modality(dataset) in tasks)

    def arm_seeds(self, arm):
        """The arm's seeds; one where its method knows no chance."""
        seeds = self.arms[arm].seeds or self.seeds
        return seeds if registry.get("methods", self.arms[arm].method).get("RANDOM", True) else seeds[:1]

    def resolved(self, arm, acq):
        """The arm under one acquisition, every default filled in."""
        a = self.arms[arm]
        return resolve(Arm(**_merge(a.model_dump(exclude_unset=True), a.per_acquisition.get(acq, {}))), self.snapshots, self.read_every)


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
        arm = Arm(**config)
        method = registry.get("methods", arm.method)
    except ValidationError as error:
        raise StudyError([f"arm: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from None
    except registry.UnknownPlugin as error:
        raise StudyError([f"arm: {error}"]) from None
    problems = list(_variant_problems(arm, method, None))
    if problems:
        raise StudyError([f"arm: {p}" for p in problems])
    return arm


def _named(name, acquisition):
    """An acquisition called as_measured needs no mask of its own."""
    return {"mask": "as_measured", **acquisition} if name == "as_measured" else acquisition


def _merge(base, over):
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _split(choice):
    """``name`` or ``{name: params}`` -> (name, params)."""
    if isinstance(choice, str):
        return choice, {}
    ((name, params),) = choice.items()
    return name, params or {}


def _choice(kind, choice):
    name, params = _split(choice)
    return {name: registry.check_parameters(registry.get(kind, name), params)[0]}


def read(path):
    """The YAML of a study file as a dict."""
    try:
        data = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise StudyError([f"{path}: no such file; copy config/config.yaml and change it"]) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise StudyError([f"{path}: not a YAML file: {' '.join(str(error).split())}"]) from None
    if not isinstance(data, dict):
        raise StudyError([f"{path}: empty or not a mapping; copy config/config.yaml and change it"])
    return data


def load(config, source="study"):
    """Build and check a study.

    Args:
        config: the mapping as read.
        source: the file's name, for messages.

    Raises:
        StudyError: all problems, each with file, key, what was found, what is allowed and the nearest name.
    """
    problems, first = [], True
    while True:
        try:
            study = Study(**config)
            break
        except ValidationError as error:
            if first:
                problems, first = [_said(e, config) for e in error.errors()], False
            rest = copy.deepcopy(config)
            if not all([_drop(rest, e["loc"]) for e in error.errors()]):
                raise StudyError([f"{source}: {p}" for p in problems]) from None
            config = rest
    problems += [p for p in _problems(study) if p not in problems]
    if problems:
        raise StudyError([f"{source}: {p}" for p in problems])
    return study


def _drop(config, where):
    """Take the faulty entry out, so that the rest can be checked as well; False where the study cannot stand without it."""
    path, node = [], config
    for part in where:
        if isinstance(node, dict) and part in node or isinstance(node, list) and isinstance(part, int) and part < len(node):
            path.append(part)
            node = node[part]
    if len(path) < len(where) and path and path[-1] in ("study", "datasets", "arms") or not path:
        return False
    for part in path[:-1]:
        config = config[part]
    del config[path[-1]]
    return True


def _said(error, config):
    """One pydantic error in our words."""
    path = [str(p) for p in error["loc"] if not re.match(r"(literal|list|dict|str|First|Listed|constrained|function)\b", str(p))]
    key, found = ".".join(path), error["input"]
    if error["type"] == "extra_forbidden":
        allowed = _fields(path[:-1])
        return f"{key}: unknown{registry.nearest(path[-1], allowed)} (allowed: {', '.join(allowed)})"
    if error["type"] == "missing":
        return f"{key}: missing; it is required"
    return f"{key}: found {found!r}; {error['msg'].removeprefix('Value error, ')}"


def _fields(path):
    """Names allowed below a key path."""
    model = Study
    for part in path:
        if part in getattr(model, "model_fields", {}):
            model = {"datasets": Dataset, "arms": Arm, "block": Block, "inputs": Input, "maps": Maps, "volumes": First}.get(part, model)
    return list(model.model_fields)


def _problems(study):
    """What the models alone cannot see."""
    for kind, names in (("study", [study.study]), ("datasets", study.datasets), ("arms", study.arms)):
        for name in names:
            if not NAME.fullmatch(name):
                yield f'{kind}: the name "{name}" becomes a folder; allowed: letters, digits, ".", "_", "-", a letter or digit first'
        folded = [n.casefold() for n in names]
        for name in sorted({n for n in folded if folded.count(n) > 1}):
            yield f'{kind}: "{name}" twice when upper and lower case are not told apart; rename one'
    if len(set(study.seeds)) != len(study.seeds):
        yield f"seeds: {study.seeds} names a seed twice"
    for name, dataset in study.datasets.items():
        yield from (f"datasets.{name}.{p}" for p in _dataset_problems(study, name, dataset))
    acqs = {a for d in study.datasets.values() for a in d.acquisitions}
    for name, arm in study.arms.items():
        yield from (f"arms.{name}.{p}" for p in _arm_problems(study, name, arm, acqs))
    yield from _cycles(study)
    if study.baseline and study.baseline not in study.arms:
        yield f'baseline: no arm "{study.baseline}"{registry.nearest(study.baseline, study.arms)}'


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
        yield f"path: reader {dataset.reader} makes its own scans; leave path out"
    if isinstance(dataset.volumes, Listed) and not Path(dataset.volumes.list).is_file():
        yield f'volumes.list: no such file "{dataset.volumes.list}"'
    modality, seen = reader.get("MODALITY"), {}
    model = ACQUISITIONS[modality]
    for acq, given in dataset.acquisitions.items():
        if not NAME.fullmatch(acq):
            yield f'acquisitions: the name "{acq}" becomes a folder; allowed: letters, digits, ".", "_", "-"'
        foreign = [m for m, other in ACQUISITIONS.items() if m != modality and set(given) & set(other.model_fields) - set(model.model_fields)]
        if foreign:
            yield f"acquisitions.{acq}: an acquisition of {foreign[0]}, but reader {dataset.reader} gives {modality}"
            continue
        try:
            parsed = model(**_named(acq, given))
        except ValidationError as error:
            for e in error.errors():
                key = ".".join(str(p) for p in e["loc"])
                if e["type"] == "extra_forbidden":
                    yield f"acquisitions.{acq}.{key}: unknown{registry.nearest(key, model.model_fields)} (allowed: {', '.join(model.model_fields)})"
                else:
                    yield f"acquisitions.{acq}.{key}: found {e['input']!r}; {e['msg']}"
            continue
        yield from (f"acquisitions.{acq}.{key}: {fault}" for key, fault in parsed.faults())
        if parsed.file and (faults := list(_path_problems(parsed.file))):
            yield f"acquisitions.{acq}.file: {faults[0]}"
        if parsed in seen:
            yield f"acquisitions.{acq}: the same as acquisitions.{seen[parsed]}; leave one out"
        seen[parsed] = acq
    if dataset.maps.method == "given" and dataset.maps.file and "{volume}" not in dataset.maps.file:
        yield from (f"maps.file: {p}" for p in _path_problems(dataset.maps.file))


def _path_problems(path):
    if path is None:
        yield "missing; name the folder of the scans"
        return
    unset = [v for v in re.findall(r"\$\{?(\w+)\}?", path) if v not in os.environ]
    if unset:
        yield f'"{path}": the environment variable {unset[0]} is not set; export {unset[0]}=/where/the/data/lie'
    elif not Path(os.path.expandvars(path)).expanduser().exists():
        yield f'no such file or folder "{os.path.expandvars(path)}"'


def _arm_problems(study, name, arm, acqs):
    try:
        method = registry.get("methods", arm.method)
    except registry.UnknownPlugin as error:
        yield f"method: {error}"
        return
    for key in arm.per_acquisition:
        if key not in acqs:
            yield f'per_acquisition: no acquisition "{key}"{registry.nearest(key, acqs)} (allowed: {", ".join(sorted(acqs))})'
    for acq in [None, *arm.per_acquisition]:
        where = f"per_acquisition.{acq}." if acq else ""
        over = arm.per_acquisition.get(acq, {})
        try:
            variant = Arm(**_merge(arm.model_dump(exclude_unset=True), over))
        except ValidationError as error:
            yield from (f"{where}{_said(e, over)}" for e in error.errors())
            continue
        yield from (f"{where}{p}" for p in _variant_problems(variant, method, over if acq else None))
    for d in arm.datasets or []:
        if d not in study.datasets:
            yield f'datasets: no dataset "{d}"{registry.nearest(d, study.datasets)} (allowed: {", ".join(study.datasets)})'
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
        yield ": name a dataset, an arm (with or without its dataset), or a file"
        return
    if given.file is not None:
        yield from (f".file: {p}" for p in _path_problems(given.file))
    if given.dataset is not None:
        if given.dataset not in study.datasets:
            yield f'.dataset: no dataset "{given.dataset}"{registry.nearest(given.dataset, study.datasets)}'
            return
        acqs = study.datasets[given.dataset].acquisitions
        if given.acq is None and len(acqs) > 1:
            yield f".acq: dataset {given.dataset} has several acquisitions; name one of {', '.join(acqs)}"
        elif given.acq is not None and given.acq not in acqs:
            yield f'.acq: no acquisition "{given.acq}" in {given.dataset} (allowed: {", ".join(acqs)})'
        scored = [d for d in study.datasets if study.solves(name, d)]
        if given.arm is None and given.volume == "same":
            source = study.datasets[given.dataset]
            for d in scored:
                same_scans = (study.datasets[d].reader, study.datasets[d].path, study.datasets[d].params) == (source.reader, source.path, source.params)
                if same_scans:
                    yield (
                        f".dataset: {given.dataset} holds the very scans that {name} is scored on ({d}): a prior from a scan's own full data "
                        "is refused; name another contrast or time point, and narrow the arm with `datasets:`"
                    )
    if given.arm is not None and given.arm not in study.arms:
        yield f'.arm: no arm "{given.arm}"{registry.nearest(given.arm, study.arms)}'


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
