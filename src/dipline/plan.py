"""What a study comes to: its jobs, their files, their identity, their cost. What the Snakefile asks is a look-up here.

results/<study>/
    scans/{dataset}/{volume}.h5                                  embedded patients
    reference/{dataset}/{volume}.h5                              the truth
    measurement/{dataset}/{volume}/{acq}.h5, {acq}.heldout.h5    what an arm sees; what is kept from it
    recon/{dataset}/{volume}/{acq}/{arm}/seed{seed}/{block}.h5, {block}.snapshots.h5
    scores/{dataset}/{volume}/{acq}/{arm}/seed{seed}.json
    study.resolved.yaml                                          the study with all defaults and scans: itself a study file
    .scans/                                                      the scans that were found, and where they lie: private
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

from dipline import faults, inputs, links, measure_mri, registry
from dipline import index as indexing
from dipline import study as studies
from dipline.study import StudyError

Job = namedtuple("Job", "dataset volume acq arm seed")
HERE = registry.PACKAGE
RESOLVED = "study.resolved.yaml"
SWEPT = ("acceleration", "noise_snr", "views", "photons", "sigma", "missing", "factor", "rate")  # what a figure may stand against


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
    plan = Plan.load(config, " + ".join(map(str, sources)) or "config", fresh=main)
    if main:
        indexing.write(plan.root / RESOLVED, plan.resolved_yaml())
        plan.write_lists()
        for line in plan.missing():
            print(f"left out: {line}", file=sys.stderr)
    return plan


class Plan:
    """A study together with the scans that were found for it.

    Attributes:
        volumes: {dataset: {volume: entry of the index, with the slices "chosen"}}.
        problems: {(dataset, volume): why the scan is left out}.
        unmade: {(dataset, volume, acq): why that scan cannot be measured so}.
        unfed: {(dataset, volume, acq, arm): why these jobs are left out}: their scan cannot be measured so, or one that
            their inputs need is not there.
        faults: of the study, which only the scans show.
    """

    def __init__(self, study, index, root, look=True):
        """``look``: for the user's own files, too."""
        self.study, self.root, self._look = study, Path(root), look
        self.volumes, self.problems, self.faults, self._names = {}, {}, [], {}
        for name, dataset in study.datasets.items():
            entries = index[name]["volumes"]
            self.faults += [f"datasets.{name}.volumes: {p}" for p in indexing.name_problems(dataset, entries)]
            self.volumes[name], self._names[name] = {}, indexing.chosen_volumes(dataset, entries)
            for volume in self._names[name]:
                entry = entries[volume]
                try:
                    if "problem" in entry:
                        raise ValueError(entry["problem"])
                    self._has_maps(name, volume)
                    slices = indexing.chosen_slices(dataset, entry["slices"])
                except ValueError as error:
                    self.problems[name, volume] = str(error)
                else:
                    self.volumes[name][volume] = {**entry, "chosen": slices}
        self.unmade, faults = inputs.unmade(self)
        for (d, v), why in inputs.useless(self).items():
            self.problems[d, v] = why
            del self.volumes[d][v]
        if study.strict:
            self.faults += [f"datasets.{d}: {v}: {p}" for (d, v), p in self.problems.items()]
            self.faults += [f"datasets.{d}: {v}: {p}" for (d, v, _), p in self.unmade.items() if v in self.volumes[d]]
        check = inputs.Check(self)
        self.faults += faults + check.faults
        self.unfed = check.unfed

    @classmethod
    def load(cls, config, source="study", fresh=True):
        """The plan of a study; StudyError with all that is wrong with the study, and then with its scans as well.

        Args:
            fresh: look at the folders of scans, and keep what is found; False: take what was found before.
        """
        study, problems = studies.examined(config)
        root, study = Path("results") / study.study, faults.sound(study, problems)
        index, lost = indexing.load(study, root, fresh)
        plan = cls(faults.sound(study, lost), index, root)
        problems += lost + plan.faults
        if problems:
            left_out = [] if study.strict else [f"left out: {line}" for line in plan.missing()]
            raise StudyError([f"{source}: {p}" for p in problems + left_out])
        if fresh:
            indexing.keep(root, index)
        return plan

    @classmethod
    def open(cls, root):
        """The plan of a results folder, from ``study.resolved.yaml`` and the index; its scans need not be there any more."""
        file = Path(root) / RESOLVED
        study, problems = studies.examined(studies.read(file))
        index, lost = indexing.load(study, Path(root), fresh=False)
        if problems := lost + [p for p in problems if not re.match(r"\S+\.(path|file|list): ", p)]:
            raise StudyError([f"{file}: {p}" for p in problems])
        return cls(study, index, root, look=False)

    def _has_maps(self, dataset, volume):
        """ValueError where the user's file of coil maps is not there."""
        for acq in self.study.datasets[dataset].acquisitions if self._look else ():
            for file in self.given_files(dataset, volume, acq):
                if not Path(file).exists():
                    raise ValueError(f"{file}: no such file of coil maps; put it there, or leave the volume out")

    def missing(self):
        """What is left out and why, one line each."""
        jobs = dict.fromkeys(f"{d}/{v}: {reason}" for (d, v, *_), reason in self.unfed.items())
        return [*(f"{d}/{v}: {problem}" for (d, v), problem in self.problems.items()), *jobs]

    # the jobs

    @cached_property
    def jobs(self):
        """One :class:`Job` for each volume, acquisition, arm and seed, in the study's order, that has its inputs."""
        return [job for job in self.possible if job[:4] not in self.unfed]

    @cached_property
    def possible(self):
        """The same, if no input were missing."""
        return [
            Job(d, v, acq, arm, seed)
            for d, dataset in self.study.datasets.items()
            for v in self.volumes[d]
            for acq in dataset.acquisitions
            for arm in self.study.arms
            if self.study.solves(arm, d, acq)
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

    def pattern(self, wildcard, gpu=None):
        """A regular expression for the names that a wildcard may have; ``gpu``: of arms, those that ask for a card, or the others."""
        names = {
            "dataset": self.volumes, "arm": [a for a in self.study.arms if gpu in (None, bool(self.gpus(a)))],
            "volume": {v for volumes in self.volumes.values() for v in volumes},
            "acq": {a for d in self.study.datasets.values() for a in d.acquisitions},
        }[wildcard]  # fmt: skip
        return "|".join(sorted(map(re.escape, names))) or "(?!)"

    @cached_property
    def identity(self):
        """A short hash of the study and of the volumes that were found: what tables and pages depend on."""
        text = json.dumps([self.resolved(), self.missing(), self.jobs])
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

    MANY = 16  # files of a scan that a command line takes by name

    def scan_words(self, dataset, volume):
        """The files of a scan as the command line takes them: by name, or, of a long series, as the name of a list."""
        files = self.scans(dataset, volume)
        return files if len(files) <= self.MANY else f"@{self._list(dataset, volume)}"

    def _list(self, dataset, volume):
        return f"{self.root}/{links.FOLDER}/{dataset}/{volume}.files"

    def write_lists(self):
        """Write the lists that :meth:`scan_words` names."""
        for dataset, volumes in self.volumes.items():
            for volume, entry in volumes.items():
                if len(entry["files"]) > self.MANY:
                    indexing.write(Path(self._list(dataset, volume)), "\n".join(entry["files"]) + "\n")

    def given_files(self, dataset, volume, acq):
        """The user's own files that a measurement is made with: a mask, coil maps, a blur kernel, a model of a blur."""
        a, maps = self.study.acquisition(dataset, acq), self.study.datasets[dataset].maps
        if self.study.modality(dataset) != "mri":
            return [str(studies.local(a.file))] if getattr(a, "file", None) else []
        return [str(file) for file in measure_mri.given_files(a.model_dump(), maps.model_dump(), volume)]

    def inputs(self, dataset, volume, acq, arm, seed, block):
        """{name: {"file", "slice", "kind"}} of what the arm is given besides the measurement."""
        if reason := self.unfed.get((dataset, volume, acq, arm)):
            raise StudyError([reason])
        return inputs.given(self, Job(dataset, volume, acq, arm, seed), block)

    # figures

    SHOWN = 3  # volumes of a dataset that get a panel of their own

    def shown(self):
        """[(dataset, acq, volume, window)] of the panels."""
        return [
            (d, acq, v, window)
            for d, dataset in self.study.datasets.items()
            for acq in dataset.acquisitions
            for v in list(self.volumes[d])[: self.SHOWN]
            for window in studies.WINDOWS[self.study.modality(d)]
            if any(self.study.solves(a, d, acq) for a in self.study.arms)
        ]

    def panel(self, dataset, acq, volume, window=""):
        return f"{self.root}/figures/panels/{dataset}/{acq}/{volume}{'_' * bool(window)}{window}.png"

    def curves(self):
        """[(dataset, acq)] of the curves."""
        return list(dict.fromkeys((d, acq) for d, acq, *_ in self.shown()))

    def curve(self, dataset, acq):
        return f"{self.root}/figures/curves/{dataset}/{acq}.png"

    def sweeps(self, dataset):
        """[(key, [acquisitions by its value], title)]: series of three acquisitions or more that differ in one number alone;
        with the acceleration the fully sampled centre may shrink in proportion."""
        acqs = self.study.datasets[dataset].acquisitions
        solved = [acq for acq in acqs if any(self.study.solves(arm, dataset, acq) for arm in self.study.arms)]
        acquired = {acq: self.study.acquisition(dataset, acq).model_dump() for acq in solved}
        found = []
        for key, share in [*((key, False) for key in SWEPT), ("acceleration", True)]:
            series = {}
            for name, values in acquired.items():
                rest = {k: v for k, v in values.items() if k != key}
                if share and values.get(key):  # the fully sampled part as fastMRI has it, smaller as the acceleration is larger
                    rest["center_fraction"] = round((rest["center_fraction"] or 0.32 / values[key]) * values[key], 2)
                if values.get(key) is not None:
                    series.setdefault(json.dumps(rest, sort_keys=True), {}).setdefault(values[key], name)
            varying = [k for k in next(iter(acquired.values()), ()) if k != key and len({str(v[k]) for v in acquired.values()}) > 1]
            for rest, names in series.items():
                acqs = [names[v] for v in sorted(names)]
                if len(acqs) >= 3 and acqs not in (old for _, old, _ in found):
                    said = {k: json.loads(rest)[k] for k in varying if not (share and k == "center_fraction")}
                    said = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in said.items() if v is not None]
                    found.append((key, acqs, ", ".join(said).replace("_", " ") or dataset))
        order = list(acquired)
        return sorted(found, key=lambda sweep: (SWEPT.index(sweep[0]), min(map(order.index, sweep[1]))))

    def swept(self):
        """The datasets that have any."""
        return [d for d in self.study.datasets if self.sweeps(d)]

    def sweep(self, dataset):
        return f"{self.root}/figures/sweeps/{dataset}.png"

    # identity: what a job's result depends on, as one JSON string

    @cached_property
    def _specs(self):
        return {}

    def measure_spec(self, dataset, acq):
        """The ``--spec`` of ``measure``, the same for all volumes."""
        d, modality = self.study.datasets[dataset], self.study.modality(dataset)
        code = self._measuring(modality) | {*(HERE / "acquire").glob("*.py"), *(HERE / "calibrate").glob("*.py")}
        return self._cached(("measure", dataset, acq), lambda: {
            **self.reader_spec(dataset), "physics": self.study.acquisition(dataset, acq).physics,
            **({"crop": d.crop, "maps": d.maps.model_dump()} if modality == "mri" else {}),
            "acq": self.study.acquisition(dataset, acq).model_dump(),
            "code": registry.code_hash(code | self._reader_code(dataset)),
        })  # fmt: skip

    def _measuring(self, modality):
        return {HERE / "measure.py", HERE / f"measure_{modality}.py", HERE / "hounsfield.py"}

    def reader_spec(self, dataset):
        d = self.study.datasets[dataset]
        plugin = registry.get("readers", d.reader)
        made = plugin.get("READS_AS")
        return {"reader": made or d.reader, "params": {} if made else registry.check_parameters(plugin, d.params)[0]}

    def _reader_code(self, dataset):
        return registry.code_files(("readers", self.reader_spec(dataset)["reader"]))

    def reference_spec(self, dataset):
        return self._cached(("reference", dataset), lambda: {
            **self.reader_spec(dataset),
            "code": registry.code_hash(self._measuring(self.study.modality(dataset)) | self._reader_code(dataset)),
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
            used = [("methods", resolved["method"]), ("physics", self.study.acquisition(dataset, acq).physics)]
            used += [("networks", n) for n in resolved["network"] or {}]
            used += [("stopping", n) for rule in (resolved["stop"], *resolved["watch"]) for n in rule]
            return {
                "arm": resolved, "device": self.device(arm), "threads": self.study.threads, "engine": registry.ENGINE,
                "code": registry.code_hash(registry.code_files(*used)),
            }  # fmt: skip

        return self._cached(("reconstruct", dataset, acq, arm), make)

    def code(self, *modules):
        """The code hash of verbs without a spec, of modules or whole folders: ``"score.py"``, ``"report/*"``."""
        files = {file for m in modules for file in HERE.glob(m) if file.is_file()}
        return self._cached(("code", *modules), lambda: registry.code_hash(files))

    def _cached(self, key, make):
        if key not in self._specs:
            self._specs[key] = json.dumps(make(), sort_keys=True)
        return self._specs[key]

    # cost

    def cost(self, dataset, volume, acq, arm):
        """(seconds, megabytes) that one slice is likely to need on a CPU thread: an estimate, no promise.

        One machine takes a third of the time of the same one when it is busy; the seconds are those between.
        """
        key = dataset, volume, acq, arm
        if key not in self._costs:
            self._costs[key] = self._cost(*key)
        return self._costs[key]

    @cached_property
    def _costs(self):
        return {}

    def _cost(self, dataset, volume, acq, arm):
        entry = self.volumes[dataset][volume]
        resolved = json.loads(self.reconstruct_spec(dataset, acq, arm))["arm"]
        coils, height, width = (entry.get("shape") or [12, 256, 256])[-3:]
        rows = entry.get("recon_shape", [height, width])[0] if self.study.datasets[dataset].crop != "full" else height
        pixels = rows * width
        views = getattr(self.study.acquisition(dataset, acq), "views", None)
        # seconds of one operator and its adjoint: FFTs of all coils, or two products with about 3 entries a ray and column
        entries = 3 * (views or 0) * pixels
        step = 1.8e-3 + (1.3e-9 * entries if views else 40e-9 * coils * pixels)
        memory = 400 + 16e-6 * entries + 8e-5 * coils * pixels + resolved["snapshots"] * pixels * 2e-6
        for name, params in (resolved["network"] or {}).items():
            widths = params.get("widths", [64] * 4)
            level0 = 0 if name == "unet" else 1
            flops = sum(216 * w * w * pixels / 4 ** (i + level0) for i, w in enumerate(widths))
            draws = resolved["params"].get("draws", 1)
            step += draws * (8e-3 + flops / 60e9 + 4e-3 * pixels / 128**2)
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

    def device(self, arm):
        """What an arm runs on: auto, cpu or cuda."""
        return studies.device(self.study.device, self.study.arms[arm].method)

    def gpus(self, arm):
        """Cards that a reconstruction asks for."""
        return int(self.device(arm) != "cpu")

    def scan_memory(self, dataset, volume):
        """MB for ``measure``: the scan several times over."""
        entry = self.volumes[dataset][volume]
        return int(1000 + 6e-6 * entry.get("bytes", 5e7) * len(entry["chosen"]) / entry["slices"])

    @property
    def cohort_memory(self):
        """MB for the rules that read every score; far more than ``simulate`` needs."""
        return 2000 + len(self.jobs) // 2

    # the resolved study

    def resolved(self):
        """The study with every default filled in and every scan named: itself a study, of the same jobs.

        Embedded patients are named by the options of their reader.
        """
        study = self.study.model_dump(exclude_none=True)
        for name, dataset in self.study.datasets.items():
            plugin, d = registry.get("readers", dataset.reader), study["datasets"][name]
            d["params"] = registry.check_parameters(plugin, dataset.params)[0]
            if dataset.listed is not None or not plugin.get("READS_AS"):
                d["volumes"] = self._names[name]
            if self.study.modality(name) != "mri":
                del d["crop"], d["maps"]
            for acq in dataset.acquisitions:
                d["acquisitions"][acq] = self.study.acquisition(name, acq).model_dump(exclude_none=True)
        for name, arm in self.study.arms.items():
            base = self._varying(name, None)
            varied = {acq: self._varying(name, acq) for acq in arm.per_acquisition}
            over = {acq: {k: v[k] for k in v if v[k] != base.get(k)} for acq, v in varied.items()}
            a = study["arms"][name] | base | {"per_acquisition": {acq: keys for acq, keys in over.items() if keys}}
            study["arms"][name] = {key: a[key] for key in type(arm).model_fields if key in a}
        return study

    def _varying(self, arm, acq):
        """What may differ between acquisitions, of an arm under one of them (None: of the arm as it stands)."""
        resolved = self.study.resolved(arm, acq)
        resolved["penalty"] = dict.fromkeys(studies.Penalty.model_fields, 0.0) | resolved.get("penalty", {})
        return {k: resolved[k] for k in studies.VARIES if resolved[k] is not None}

    def resolved_yaml(self):
        """:meth:`resolved` as YAML: equal text for equal studies."""
        plain = json.loads(json.dumps(self.resolved()))  # YAML would write what two arms share as an anchor
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
