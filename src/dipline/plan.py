"""What a study comes to: its jobs, their files, their identity, their cost. What the Snakefile asks is a look-up here.

results/<study>/
    scans/{dataset}/{volume}.h5                                  embedded patients
    reference/{dataset}/{volume}.h5                              the truth
    measurement/{dataset}/{volume}/{acq}.h5, {acq}.heldout.h5    what an arm sees; what is kept from it
    recon/{dataset}/{volume}/{acq}/{arm}/seed{seed}/{block}.h5, {block}.snapshots.h5
    scores/{dataset}/{volume}/{acq}/{arm}/seed{seed}.json
    study.resolved.yaml                                          the study as it was read: itself a study file
    index.json                                                   the scans that were found
"""

import hashlib
import json
import os
import re
import sys
from collections import namedtuple
from functools import cached_property
from pathlib import Path

import yaml

from dipline import index as indexing
from dipline import registry, store
from dipline import study as studies
from dipline.study import PHYSICS, StudyError

Job = namedtuple("Job", "dataset volume acq arm seed")
HERE = registry.PACKAGE


def use_checkout(folder):
    """What runs is the checkout in ``folder``, with the Python that runs Snakemake, activated environment or not."""
    path, source = os.environ.get("PATH", ""), os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), path])
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.join(folder, "src"), *([source] if source else [])])


def prepare(config, sources, main=True):
    """The plan for a run of Snakemake.

    The main process looks at the scans and writes ``study.resolved.yaml``; jobs read what it found. It also reads the
    files in ``sources`` once more: Snakemake takes the second of two equal keys without a word.
    """
    for source in filter(os.path.isfile, sources if main else ()):
        studies.read(source)
    try:
        plan = Plan.load(config, " + ".join(map(str, sources)) or "config", fresh=main)
        file, text = plan.root / "study.resolved.yaml", plan.resolved_yaml()
        if main and (not file.exists() or file.read_text() != text):
            store.write_text(file, text)
    except OSError as error:
        advice = "run Snakemake in a folder that you own, with space left"
        raise StudyError([f"the folder results/ cannot be written ({error}); {advice}"]) from None
    if main:
        for (dataset, volume), problem in plan.problems.items():
            print(f"left out: {dataset}/{volume}: {problem}", file=sys.stderr)
    return plan


class Plan:
    """A study together with the scans that were found for it."""

    def __init__(self, study, index):
        self.study = study
        self.root = Path("results") / study.study
        self.volumes, self.problems = {}, {}
        for name, dataset in study.datasets.items():
            self.volumes[name] = {}
            for volume in indexing.chosen_volumes(dataset, index[name]):
                entry = index[name][volume]
                try:
                    if "problem" in entry:
                        raise ValueError(entry["problem"])
                    self._fits(name, entry)
                    slices = indexing.chosen_slices(dataset, entry["slices"])
                except ValueError as error:
                    self.problems[name, volume] = str(error)
                else:
                    self.volumes[name][volume] = {**entry, "chosen": slices}
        if study.strict and self.problems:
            raise StudyError([f"datasets.{d}: {v}: {p}" for (d, v), p in self.problems.items()])

    @classmethod
    def load(cls, config, source="study", fresh=True):
        study = studies.load(config, source)
        try:
            return cls(study, indexing.load(study, fresh))
        except StudyError as error:
            raise StudyError([f"{source}: {p}" for p in error.problems]) from None

    @classmethod
    def open(cls, root):
        """The plan of a results folder, from ``study.resolved.yaml`` and ``index.json``."""
        file = Path(root) / "study.resolved.yaml"
        study = studies.load(studies.read(file), str(file))
        return cls(study, indexing.load(study, fresh=False))

    def _fits(self, dataset, entry):
        """Every acquisition must be possible on the scan."""
        for acq in self.study.datasets[dataset].acquisitions:
            wanted = self.study.acquisition(dataset, acq)
            if "shape" in entry and not entry.get("undersampled"):
                wanted.try_on(acq, entry["shape"][-1], self.study.datasets[dataset].maps.method)
            if entry.get("undersampled") and wanted.mask != "as_measured":
                raise ValueError(
                    f"{entry['files'][0]}: is undersampled already, so acquisition {acq} cannot be made from it; "
                    "use acquisitions: {as_measured: {holdout: 0.05}}"
                )

    # the jobs

    @cached_property
    def jobs(self):
        """One :class:`Job` for each volume, acquisition, arm and seed, in the study's order."""
        return [
            Job(d, v, acq, arm, seed)
            for d, dataset in self.study.datasets.items()
            for v in self.volumes[d]
            for acq in dataset.acquisitions
            for arm in self.study.arms
            if self.study.solves(arm, d)
            for seed in self.study.arm_seeds(arm)
        ]

    @property
    def left_out(self):
        """Pairs (arm, dataset) that do not go together."""
        return [(a, d) for a in self.study.arms for d in self.study.datasets if not self.study.solves(a, d)]

    def blocks(self, dataset, volume, arm):
        """{block name: [slices]}"""
        slices, size = self.volumes[dataset][volume]["chosen"], (self.study.arms[arm].block or self.study.block).slices
        chunks = [slices[i : i + size] for i in range(0, len(slices), size)]
        return {f"s{c[0]:03d}" if len(c) == 1 else f"s{c[0]:03d}-{c[-1]:03d}": c for c in chunks}

    def slices(self, dataset, volume):
        """The chosen slices as the command line takes them."""
        return ",".join(map(str, self.volumes[dataset][volume]["chosen"]))

    def block_slices(self, job, block):
        return ",".join(map(str, self.blocks(job.dataset, job.volume, job.arm)[block]))

    def pattern(self, wildcard):
        """A regular expression for the names that a wildcard may have."""
        names = {
            "dataset": self.volumes, "arm": self.study.arms,
            "volume": {v for volumes in self.volumes.values() for v in volumes},
            "acq": {a for d in self.study.datasets.values() for a in d.acquisitions},
        }[wildcard]  # fmt: skip
        return "|".join(sorted(map(re.escape, names))) or "(?!)"

    @cached_property
    def identity(self):
        """A short hash of the study and of the volumes that were found: what tables and pages depend on."""
        text = self.resolved_yaml() + json.dumps([list(map(str, self.problems.items())), self.jobs])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    as_json = staticmethod(json.dumps)

    # files

    def reference(self, dataset, volume):
        return f"{self.root}/reference/{dataset}/{volume}.h5"

    def measurement(self, dataset, volume, acq):
        return f"{self.root}/measurement/{dataset}/{volume}/{acq}.h5"

    def heldout(self, dataset, volume, acq):
        return f"{self.root}/measurement/{dataset}/{volume}/{acq}.heldout.h5"

    def recons(self, job, suffix=".h5"):
        folder = f"{self.root}/recon/{job.dataset}/{job.volume}/{job.acq}/{job.arm}/seed{job.seed}"
        return [f"{folder}/{block}{suffix}" for block in self.blocks(job.dataset, job.volume, job.arm)]

    def score(self, job):
        return f"{self.root}/scores/{job.dataset}/{job.volume}/{job.acq}/{job.arm}/seed{job.seed}.json"

    @cached_property
    def scores(self):
        return [self.score(job) for job in self.jobs]

    def scans(self, dataset, volume):
        return self.volumes[dataset][volume]["files"]

    def inputs(self, dataset, volume, acq, arm, seed, block):
        """{name: {"file", "slice", "kind"}} of what the arm is given besides the measurement."""
        given = {}
        for name, i in self.study.arms[arm].inputs.items():
            key = f"arms.{arm}.inputs.{name}"
            d, v = i.dataset or dataset, volume if i.volume == "same" else i.volume
            if i.file:
                given[name] = {"kind": "file", "file": os.path.expandvars(i.file), "slice": i.slice}
                continue
            if v not in self.volumes[d]:
                raise StudyError([f"{key}: dataset {d} has no readable volume {v} (needed by {dataset}/{volume})"])
            needed = self.blocks(dataset, volume, arm)[block] if i.slice == "same" else [i.slice]
            missing = [s for s in needed if s not in self.volumes[d][v]["chosen"]]
            if missing:
                fault = f"slice {missing[0]} of {d}/{v} is not among its chosen slices"
                raise StudyError([f"{key}: {fault}; widen slices: of dataset {d}"])
            first = next(iter(self.study.datasets[d].acquisitions))
            if i.arm is None:
                source = i.acq or first
                given[name] = {"kind": "measurement", "file": self.measurement(d, v, source), "slice": i.slice}
            else:
                source = i.acq or (acq if d == dataset else first)
                seeds = self.study.arm_seeds(i.arm)
                job = Job(d, v, source, i.arm, seed if seed in seeds else seeds[0])
                holder = [b for b, s in self.blocks(d, v, i.arm).items() if set(needed) <= set(s)]
                if not holder:
                    fault = f"the blocks of {arm} are larger than those of {i.arm}"
                    raise StudyError([f"{key}: {fault}; give both the same block"])
                file = dict(zip(self.blocks(d, v, i.arm), self.recons(job), strict=True))[holder[0]]
                given[name] = {"kind": "recon", "file": file, "slice": i.slice}
        return given

    # figures

    SHOWN = 3  # volumes of a dataset that get a panel of their own

    def shown(self):
        """[(dataset, acq, volume)] of the panels."""
        return [
            (d, acq, v)
            for d, dataset in self.study.datasets.items()
            for acq in dataset.acquisitions
            for v in list(self.volumes[d])[: self.SHOWN]
            if any(self.study.solves(a, d) for a in self.study.arms)
        ]

    def panel(self, dataset, acq, volume):
        return f"{self.root}/figures/panels/{dataset}/{acq}/{volume}.png"

    def curves(self):
        """[(dataset, acq)] of the curves."""
        return list(dict.fromkeys((d, acq) for d, acq, _ in self.shown()))

    def curve(self, dataset, acq):
        return f"{self.root}/figures/curves/{dataset}/{acq}.png"

    # identity: what a job's result depends on, as one JSON string

    @cached_property
    def _specs(self):
        return {}

    def measure_spec(self, dataset, acq):
        """The ``--spec`` of ``measure``, the same for all volumes."""
        d, modality = self.study.datasets[dataset], self.study.modality(dataset)
        code = {HERE / "measure.py", *(HERE / "acquire").glob("*.py"), *(HERE / "calibrate").glob("*.py")}
        return self._cached(("measure", dataset, acq), lambda: {
            **self.reader_spec(dataset), "crop": d.crop, "maps": d.maps.model_dump(), "physics": PHYSICS[modality],
            "acq": self.study.acquisition(dataset, acq).model_dump(), "threads": self.study.threads,
            "code": registry.code_hash(code | self._reader_code(dataset)),
        })  # fmt: skip

    def reader_spec(self, dataset):
        d = self.study.datasets[dataset]
        plugin = registry.get("readers", d.reader)
        made = plugin.get("READS_AS")
        return {"reader": made or d.reader, "params": {} if made else registry.check_parameters(plugin, d.params)[0]}

    def _reader_code(self, dataset):
        return registry.code_files(("readers", self.reader_spec(dataset)["reader"]))

    def reference_spec(self, dataset):
        return self._cached(("reference", dataset), lambda: {
            **self.reader_spec(dataset), "crop": self.study.datasets[dataset].crop,
            "code": registry.code_hash({HERE / "measure.py", *self._reader_code(dataset)}),
        })  # fmt: skip

    def simulate_spec(self, dataset):
        d, plugin = self.study.datasets[dataset], registry.get("readers", self.study.datasets[dataset].reader)
        params, cohort = registry.check_parameters(plugin, d.params)[0], plugin.get("COHORT", ())
        return self._cached(("simulate", dataset), lambda: {
            "reader": d.reader,
            "params": {k: v for k, v in params.items() if k not in cohort},
            "code": registry.code_hash(registry.code_files(("readers", d.reader))),
        })  # fmt: skip

    def reconstruct_spec(self, dataset, acq, arm):
        """The ``--spec`` of ``reconstruct``, without slices, seed and files, which the command line names."""

        def make():
            resolved = self.study.resolved(arm, acq)
            used = [("methods", resolved["method"]), ("physics", PHYSICS[self.study.modality(dataset)])]
            used += [("networks", n) for n in resolved["network"] or {}]
            used += [("stopping", n) for rule in (resolved["stop"], *resolved["watch"]) for n in rule]
            files = registry.code_files(*used) | {HERE / "methods" / "base.py"}
            return {
                "arm": resolved, "device": self.study.device, "threads": self.study.threads, "engine": registry.ENGINE,
                "code": registry.code_hash(files),
            }  # fmt: skip

        return self._cached(("reconstruct", PHYSICS[self.study.modality(dataset)], acq, arm), make)

    def code(self, *modules):
        """The code hash of verbs without a spec."""
        return self._cached(("code", *modules), lambda: registry.code_hash({HERE / m for m in modules}))

    def _cached(self, key, make):
        if key not in self._specs:
            self._specs[key] = json.dumps(make(), sort_keys=True)
        return self._specs[key]

    # cost

    def cost(self, dataset, volume, acq, arm):
        """(seconds, megabytes) that one slice is likely to need on a CPU thread: an estimate, no promise."""
        entry = self.volumes[dataset][volume]
        resolved = json.loads(self.reconstruct_spec(dataset, acq, arm))["arm"]
        coils, height, width = (entry.get("shape") or [12, 256, 256])[-3:]
        rows = entry.get("recon_shape", [height, width])[0] if self.study.datasets[dataset].crop != "full" else height
        pixels = rows * width
        step = 60e-9 * coils * pixels + 2e-3  # seconds of one operator and its adjoint
        memory = 400 + 100 * coils * pixels * 8e-6 / 10 + resolved["snapshots"] * pixels * 2e-6
        for name, params in (resolved["network"] or {}).items():
            widths = params.get("widths", [64] * 4)
            level0 = 0 if name == "unet" else 1
            flops = sum(216 * w * w * pixels / 4 ** (i + level0) for i, w in enumerate(widths))
            draws = resolved["params"].get("draws", 1)
            step += draws * (flops / 50e9 + 15e-3 * pixels / 128**2)
            memory += sum(40 * w * pixels * 4e-6 / 4**i for i, w in enumerate(widths)) * draws
        return resolved["iterations"] * step, memory

    def memory(self, job):
        """MB for Snakemake's ``mem_mb``."""
        return int(self.cost(job.dataset, job.volume, job.acq, job.arm)[1] * 1.5 + 1000)

    def minutes(self, job, block):
        """Minutes for Snakemake's ``runtime``: a GPU is taken to be 20 times a CPU thread."""
        slices = len(self.blocks(job.dataset, job.volume, job.arm)[block])
        speed = 20 if self.gpus(job.arm) else self.study.threads
        seconds = slices * self.cost(job.dataset, job.volume, job.acq, job.arm)[0] / speed
        return int(10 + 2 * seconds / 60)

    def gpus(self, arm):
        """Cards that a reconstruction asks for: one, unless the study is for the CPU or the arm has no network."""
        method = registry.get("methods", self.study.arms[arm].method)
        return int(self.study.device != "cpu" and bool(method.get("NETWORK")))

    def scan_memory(self, dataset, volume):
        """MB for ``measure``: the scan several times over."""
        entry = self.volumes[dataset][volume]
        return int(1000 + 6e-6 * entry.get("bytes", 5e7) * len(entry["chosen"]) / entry["slices"])

    # the resolved study

    def resolved_yaml(self):
        """The study as it was read, without the defaults, as YAML: itself a study; equal text for equal studies."""
        return yaml.safe_dump(self.study.model_dump(exclude_unset=True), sort_keys=False, allow_unicode=True)
