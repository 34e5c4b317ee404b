"""The study file: what a user may write, how it is read, and what an arm comes to when every default is filled in.

The models are the truth; ``config/schema.json`` is made from them. What can be wrong beyond them, and the words for all
of it, stand in ``faults`` and ``acquisitions``, which are imported late. No torch here: Snakemake imports this on a
login node.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dipline import registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SLICES = "all | 3-20 | [4, 9] | middle 5"
WINDOWS = {  # how images are shown: {name: (black, white)}; None: from 0 to the brightest tissue
    "mri": {"": None},
    "image": {"": (0.0, 1.0)},
    "ct": {"40_400": (-160.0, 240.0), "-600_1500": (-1350.0, 150.0), "300_1500": (-450.0, 1050.0)},  # centre_width, HU
}
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[float, Field(gt=0)]
Photons = Annotated[float, Field(gt=0, le=1e15)]  # far more than any tube gives; beyond 1e18 no Poisson number can be drawn
Seeds = Annotated[list[Count], Field(min_length=1)]


class StudyError(Exception):
    """Everything that is wrong with a study, one line each."""

    def __init__(self, problems):
        self.problems = problems
        super().__init__("\n".join(problems))


def local(path):
    """Where a path of the study points: with its $VARIABLES and ``~``."""
    return Path(os.path.expandvars(path)).expanduser()


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class First(Model):
    """The first volumes by name."""

    first: Positive


class Listed(Model):
    """A text file with one volume name a line."""

    list: str


class Maps(Model):
    """Coil sensitivities: estimated from the acquired data (espirit), or read from a file."""

    method: Literal["espirit", "full", "given"] = Field(
        "espirit",
        description="espirit: from the acquired data; full: from the complete data, to reproduce a paper; "
        "given: from `file` or the reader",
    )
    sets: Literal[1, 2] = 1
    file: str | None = Field(
        None, description="BART or .npy file; {volume} stands for the volume's name; implies method: given"
    )

    @model_validator(mode="before")
    @classmethod
    def _file(cls, value):
        return {"method": "given", **value} if isinstance(value, dict) and value.get("file") else value


class Cartesian(Model):
    """How a full MRI scan becomes a measurement."""

    mask: Literal[
        "random", "equispaced", "equispaced_fraction", "magic", "magic_fraction", "gaussian", "gaussian_2d", "poisson",
        "file", "full", "as_measured",
    ] = Field(
        description="fastMRI's five masks, Gaussian or Poisson-disc density, a file, everything, "
        "or what the scanner left out"
    )  # fmt: skip
    acceleration: Annotated[float, Field(ge=1)] | None = None
    center_fraction: Share | None = Field(None, description="default: 0.32 / acceleration, as fastMRI has it")
    offset: Count | None = None
    seed: Count | None = Field(None, description="default: from the volume's file name, as fastMRI does")
    file: str | None = Field(None, description="with mask: file")
    noise_snr: float | None = Field(None, description="extra noise, dB below the mean power of the k-space samples")
    coils: Positive | None = Field(None, description="compress to so many virtual coils")
    holdout: Fraction | None = Field(None, description="part of the acquired samples kept from the arms, to judge by")

    task: ClassVar = "mri"
    physics: ClassVar = "sense"

    @property
    def acceleration_requested(self):
        return self.acceleration or (1.0 if self.mask == "full" else None)

    def try_on(self, scan, dataset):
        """ValueError, key first, where a scan (an entry of the index) of the dataset cannot be undersampled so."""
        from dipline import acquisitions

        acquisitions.try_mask(self, scan, dataset)

    def faults(self):
        """(key, what is wrong) of settings that do not go together."""
        from dipline import acquisitions

        return acquisitions.of_mask(self)


class Projections(Model):
    """How a CT volume becomes a sinogram."""

    views: Positive
    geometry: Literal["parallel", "fanflat"] = "parallel"
    scanner: Literal["none", "aapm"] = Field("none", description="fan beam: the distances of a known scanner")
    source_mm: Length | None = Field(None, description="fan beam: source to rotation axis")
    detector_mm: Length | None = Field(None, description="fan beam: rotation axis to detector")
    detectors: Positive | None = Field(None, description="cells; default: as many as cover the image's diagonal")
    detector_width: Length | None = Field(None, description="of a cell in mm; default: about a pixel, at the rotation axis")
    range: Annotated[float, Field(gt=0, le=360)] | None = Field(
        None, description="degrees that the views are spread over; default 180 (parallel) or 360 (fan)"
    )
    start: float = Field(0.0, description="degrees, of the first view")
    layout: Literal["equispaced", "random", "limited"] = "equispaced"
    limited_to: Annotated[float, Field(gt=0, lt=360)] | None = Field(None, description="degrees; with layout: limited")
    seed: Count = 0
    photons: Photons | None = Field(None, description="I0, photons per ray; default: no noise")
    electronic_noise: Annotated[float, Field(ge=0)] = Field(0.0, description="standard deviation in counts")
    inverse_crime: bool = Field(False, description="project with the operator's own grid, as some papers do")
    holdout: Fraction | None = Field(None, description="part of the views kept from the arms, to judge by")

    task: ClassVar = "ct"
    physics: ClassVar = "ct"

    def words(self, limits=()):
        """What a table's caption says of the acquisition, as phrases; ``limits``: of its measurements."""
        fan = f"fan beam, flat detector{', AAPM scanner' if self.scanner == 'aapm' else ''}"
        spread = {"equispaced": "equispaced", "random": "drawn at random", "limited": f"within {self.limited_to} degrees"}
        noise = f"{self.photons:g} photons per ray" if self.photons else "noiseless"
        if self.electronic_noise:
            noise += f", electronic noise of {self.electronic_noise:g} counts"
        grid = "projected with the operator's own grid (inverse crime)" if self.inverse_crime else "projected on a finer grid"
        beam = fan if self.geometry == "fanflat" else "parallel beam"
        return [f"{self.views} views {spread[self.layout]}", beam, noise, grid, *limits]

    def limits(self, shape, voxel):
        """{name: words}: what the rays miss of a volume, such as ``truncated``; nothing where its voxels are not known."""
        from dipline import acquisitions

        return acquisitions.limits(self, shape[-2:], voxel[0]) if voxel else {}

    def try_on(self, scan, dataset):
        """ValueError, key first, where a scan (an entry of the index) of the dataset cannot be projected so."""
        from dipline import acquisitions

        acquisitions.try_rays(self, scan)

    def faults(self):
        """(key, what is wrong) of settings that do not go together."""
        from dipline import acquisitions

        return acquisitions.of_projections(self)


class Degraded(Model):
    """How a photograph becomes a measurement. Grey levels are those of 8 bits, white is 255."""

    task: Literal["denoise", "inpaint", "superres", "deblur", "deblur_blind", "blur_nonlinear", "blur_neural", "phase", "gaussian"]
    sigma: Annotated[float, Field(ge=0)] = Field(0.0, description="Gaussian noise: standard deviation in grey levels")
    peak: Photons | None = Field(None, description="Poisson noise: photons where the image is white")
    impulse: Fraction | None = Field(None, description="part of the values that are black or white by chance")
    missing: Fraction | None = Field(None, description="inpaint: part of the pixels that are missing, drawn at random")
    boxes: Annotated[list[tuple[Count, Count, Positive, Positive]], Field(min_length=1)] | None = Field(
        None, description="inpaint: missing rectangles [top, left, height, width] in pixels"
    )
    file: str | None = Field(None, description="mask, 0 where pixels are missing, or kernel: .npy or grey image; blur_neural: TorchScript")
    factor: Literal[2, 4, 8] | None = Field(None, description="superres: how much smaller each side is")
    filter: Literal["lanczos", "bicubic"] = Field("lanczos", description="superres: what small images are made with")
    kernel: Literal["gaussian", "motion", "file"] = Field("gaussian", description="deblur, deblur_blind, blur_nonlinear")
    width: Length | None = Field(None, description="kernel: gaussian: standard deviation in pixels; default 1.6")
    length: Length | None = Field(None, description="kernel: motion: in pixels")
    angle: float = Field(0.0, description="kernel: motion: degrees from the rows upwards")
    oversampling: Annotated[float, Field(ge=1, le=8)] = Field(2.0, description="phase: of the Fourier transform, each side")
    rate: Fraction | None = Field(None, description="gaussian: measurements for each pixel")
    seed: Count = 0
    holdout: Fraction | None = Field(None, description="part of the measured values kept from the arms, to judge by")

    @property
    def physics(self):
        return {"denoise": "pixels", "inpaint": "pixels", "deblur": "blur", "deblur_blind": "blur_blind"}.get(self.task, self.task)

    def words(self, limits=()):
        """What a table's caption says of the acquisition, as phrases."""
        from dipline import acquisitions

        return acquisitions.words(self)

    def try_on(self, scan, dataset):
        """ValueError, key first, where an image (an entry of the index) of the dataset cannot be measured so."""
        from dipline import acquisitions

        acquisitions.try_image(self, scan)

    def faults(self):
        """(key, what is wrong) of settings that do not go together."""
        from dipline import acquisitions

        return acquisitions.of_task(self)


ACQUISITIONS = {"mri": Cartesian, "ct": Projections, "image": Degraded}


class Dataset(Model):
    """Scans of one kind, and how they are acquired."""

    reader: str
    path: str | None = Field(None, description="folder or file; may hold $VARIABLES")
    params: dict[str, Any] = {}
    volumes: Literal["all"] | list[str] | First | Listed = "all"
    slices: Literal["all"] | list[Count] | str = "all"
    crop: Literal["readout", "full", "image"] = "readout"
    maps: Maps = Maps()
    acquisitions: dict[str, dict[str, Any]] = Field(min_length=1)

    @property
    def listed(self):
        """The names of volumes that the study lists; None: it takes all, or the first."""
        if isinstance(self.volumes, Listed):
            lines = Path(self.volumes.list).read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
        return self.volumes if isinstance(self.volumes, list) else None

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
    slice: Literal["same"] | Count = "same"
    acq: str | None = None


class Block(Model):
    slices: Positive = 1
    mode: Literal["serial", "batch", "chain", "joint"] = Field(
        "serial",
        description="batch: side by side on a GPU; chain: a slice starts from its neighbour's network; joint: one network for all "
        "slices of the block",
    )
    warm: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="chain: iterations of the following slices, as a share")


class Penalty(Model):
    """What is added to the loss of a method with a network, by weight: total variation of the image in the scaled data's units."""

    tv: Annotated[float, Field(ge=0)] = Field(0.0, description="anisotropic, of real and imaginary parts apart")
    tv_isotropic: Annotated[float, Field(ge=0)] = Field(0.0, description="of the modulus of complex images")


Choice = str | dict[str, dict[str, Any] | None]


class Arm(Model):
    """A method with its network, stop rule and parameters."""

    method: str
    params: dict[str, Any] = {}
    network: Choice | None = None
    stop: Choice = "fixed"
    watch: list[Choice] = Field([], description="stop rules that only record what they would have chosen")
    iterations: Positive | None = None
    average: Share | None = Field(None, description="decay of the running average of the outputs; 0: none")
    precondition: Annotated[float, Field(ge=0)] = Field(
        0.0, description="evens out the convergence of centre and periphery; 0: off, smaller is stronger"
    )
    precision: Literal["tf32", "single", "bf16"] = Field(
        "tf32", description="of convolutions on a GPU; bf16 also on a CPU: half the digits for a little speed"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of the learning rates over the steps of each stage; cosine: from their values to 0"
    )
    penalty: Penalty = Penalty()
    inputs: dict[str, Input] = {}
    data_term: Literal["least_squares", "weighted", "poisson"] = Field(
        "least_squares", description="CT: weighted by the counts of every ray, or the likelihood of the counts themselves"
    )
    datasets: Annotated[list[str], Field(min_length=1)] | None = None
    seeds: Seeds | None = None
    block: Block | None = None
    per_acquisition: dict[str, dict[str, Any]] = Field(
        {}, description="what differs under an acquisition, e.g. R8: {params: {lam: 0.008}}"
    )


class Published(Model):
    """A number of a paper, which the report prints beside ours."""

    dataset: str
    acq: str
    arm: str = Field(description="the arm that it stands beside, or the name of a method that has none here")
    metric: Literal["psnr", "ssim", "nmse"] = "psnr"
    value: float
    spread: float | None = Field(None, description="standard deviation, where the paper gives one")
    source: str = Field(description="a key of src/dipline/report/references.bib, or words")
    differs: str = Field(description="how that protocol differs from this study's")


BY_NAME = ("deblur_blind",)  # tasks of which an image alone is no answer: for the methods that name them


def takes(tasks, modality, task):
    """Whether a method with these TASKS (None: all) solves a task of a modality."""
    return task in (tasks or ()) if task in BY_NAME else not tasks or modality in tasks or task in tasks


class Study(Model):
    """A study file."""

    study: str
    datasets: dict[str, Dataset] = Field(min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)
    seeds: Seeds = [0]
    block: Block = Block()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 1
    snapshots: Count = Field(60, description="images kept over the iterations, for the oracle curve; 0: no peak column")
    keep_snapshots: bool = True
    read_every: Positive = Field(20, description="steps between two looks at the stop rule")
    strict: bool = Field(False, description="stop at an unreadable scan instead of leaving it out")
    baseline: str | None = Field(None, description="the arm that others are compared with in the text of the report")
    published: list[Published] = Field([], description="numbers of papers, which the report prints beside ours")

    def modality(self, dataset):
        reader = registry.plugins("readers").get(self.datasets[dataset].reader)
        return reader and reader.get("MODALITY")

    def acquisition(self, dataset, acq):
        return ACQUISITIONS[self.modality(dataset)](**named(acq, self.datasets[dataset].acquisitions[acq]))

    def solves(self, arm, dataset, acq=None):
        """Whether the arm runs on the dataset: under an acquisition, or under any."""
        a, modality = self.arms[arm], self.modality(dataset)
        tasks = registry.get("methods", a.method).get("TASKS")
        if a.datasets is not None and dataset not in a.datasets:
            return False
        acqs = self.datasets[dataset].acquisitions if acq is None else [acq]
        return modality is None or any(takes(tasks, modality, self._task(dataset, name)) for name in acqs)

    def _task(self, dataset, acq):
        """The task of an acquisition, also where the rest of it is at fault."""
        model = ACQUISITIONS[self.modality(dataset)]
        return self.datasets[dataset].acquisitions[acq].get("task", getattr(model, "task", None))

    def arm_seeds(self, arm):
        """The arm's seeds; one where its method knows no chance."""
        seeds = self.arms[arm].seeds or self.seeds
        return seeds if registry.get("methods", self.arms[arm].method).get("RANDOM", True) else seeds[:1]

    def resolved(self, arm, acq):
        """The arm under one acquisition, every default filled in."""
        a = self.arms[arm]
        return resolve(Arm(**variant(a, a.per_acquisition.get(acq, {}))), self.snapshots, self.read_every, self.block)


def resolve(arm, snapshots=60, read_every=20, block=None):
    """An :class:`Arm` with every default filled in: what ``loop.fit`` takes, and what a job's identity holds.

    ``block``: the study's, where the arm has none of its own. Its mode is for networks alone, and in a job's identity only where
    it is not serial; so are precision, schedule and penalties, where they are set.
    """
    method = registry.get("methods", arm.method)
    network = arm.network if arm.network is not None else method.get("NETWORK")
    block, found = arm.block or block, {}
    if block and block.mode != "serial" and method.get("NETWORK"):
        found = {"mode": block.mode} | ({"warm": block.warm} if block.mode == "chain" else {})
    if arm.precision != "tf32" and method.get("NETWORK"):
        found |= {"precision": arm.precision}
    if arm.schedule != "constant" and method.get("NETWORK"):
        found |= {"schedule": arm.schedule}
    if penalty := {name: weight for name, weight in arm.penalty.model_dump().items() if weight}:
        found |= {"penalty": penalty}
    return found | {
        "method": arm.method, "params": registry.check_parameters(method, arm.params)[0],
        "network": _choice("networks", network) if method.get("NETWORK") else None,
        "stop": _choice("stopping", arm.stop), "watch": [_choice("stopping", w) for w in arm.watch],
        "iterations": arm.iterations or method.get("ITERATIONS", 1000),
        "average": method.get("AVERAGE", 0.0) if arm.average is None else arm.average,
        "precondition": arm.precondition, "data_term": arm.data_term, "snapshots": snapshots, "read_every": read_every,
    }  # fmt: skip


def device(wanted, method):
    """What a method runs on, from the study's ``device``: under ``auto`` a card is for networks alone."""
    return "cpu" if wanted == "auto" and not registry.get("methods", method).get("NETWORK") else wanted


def checked_arm(config):
    """An :class:`Arm` from a mapping, outside a study; StudyError with all its problems."""
    from dipline import faults

    return _sound(*faults.in_arm(_numbers(config)), "arm")


def checked_acquisition(config, modality="mri"):
    """An acquisition from a mapping, outside a study; StudyError with all its problems."""
    from dipline import faults

    return _sound(*faults.in_acquisition(config, modality), "acquisition")


def _sound(found, problems, source):
    if problems:
        raise StudyError([f"{source}: {p}" for p in problems])
    return found


def named(name, acquisition):
    """An acquisition called as_measured needs no mask of its own."""
    return {"mask": "as_measured", **acquisition} if name == "as_measured" else acquisition


def merged(base, over):
    """Two mappings as one, level by level; ``over`` wins."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


# what may differ by acquisition
VARIES = ("params", "network", "stop", "watch", "iterations", "average", "precondition", "penalty", "data_term")


def variant(arm, over):
    """The arm as a mapping, with what differs under an acquisition; another network or stop rule replaces the first."""
    base = arm.model_dump(exclude_unset=True)
    for key in ("network", "stop"):
        if isinstance(base.get(key), dict) and isinstance(over.get(key), dict) and set(base[key]) != set(over[key]):
            del base[key]
    return merged(base, over)


def split(choice):
    """``name`` or ``{name: params}`` -> (name, params)."""
    if isinstance(choice, str):
        return choice, {}
    ((name, params),) = choice.items()
    return name, params or {}


def _choice(kind, choice):
    name, params = split(choice)
    return {name: registry.check_parameters(registry.get(kind, name), params)[0]}


class _Loader(yaml.SafeLoader):
    """YAML in which a key cannot stand twice: the second would silently win."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<" and seen.setdefault(key.value, key) is not key:
                raise yaml.MarkedYAMLError(None, None, f'the key "{key.value}" stands twice', key.start_mark)
        return node


def read(path):
    """The YAML of a study file as a dict."""
    from dipline import faults

    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError([f"{path}{faults.of_file(error)}"]) from None
    return _sound(data, faults.in_content(data), path)


SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _numbers(node, inside=False):
    """A copy in which options that YAML 1.1 takes for text, such as 1e-3 without a dot, are numbers."""
    if isinstance(node, dict):
        options = ("params", "network", "stop", "watch")
        return {key: _numbers(value, inside or key in options) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers(value, inside) for value in node]
    return float(node) if inside and isinstance(node, str) and SCIENTIFIC.fullmatch(node) else node


def load(config, source="study"):
    """Build and check a study.

    Args:
        config: the mapping as read.
        source: the file's name, for messages.

    Raises:
        StudyError: all problems, each with file, key, what was found, what is allowed and the nearest name.
    """
    from dipline import faults

    return _sound(*faults.in_study(_numbers(config)), source)


def examined(config):
    """(the study, all its problems without the file's name); what pydantic refuses is not in the study."""
    from dipline import faults

    return faults.in_study(_numbers(config))


def schema():
    """JSON schema of a study file, for editors."""
    return {**Study.model_json_schema(), "title": "dipline study"}
