"""The study file: what ships loads, and everything wrong is said at once, in words that help."""

import copy
import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from dipline import registry
from dipline import study as studies
from dipline.study import StudyError

ROOT = Path(__file__).parent.parent
SHIPPED = sorted([*ROOT.glob("config/*.yaml"), *ROOT.glob("config/studies/*.yaml")])
BASE = """
study: ok
datasets:
  brain:
    reader: phantom
    params: {patients: 2, slices: 2, matrix: 32, coils: 4}
    acquisitions:
      R2: {mask: equispaced, acceleration: 2, center_fraction: 0.25}
      R4: {mask: random, acceleration: 4, center_fraction: 0.17}
  t1:
    reader: phantom
    params: {patients: 2, slices: 2, matrix: 32, coils: 4, contrast: t1}
    acquisitions: {full: {mask: full}}
arms:
  tv: {method: tv, datasets: [brain]}
  dip: {method: vanilla, iterations: 30}
  ref: {method: ref_guided, datasets: [brain], inputs: {prior: {dataset: t1}}}
"""


def changed(*texts):
    """The good study above with every text (YAML) merged into it."""
    config = yaml.safe_load(BASE)
    for text in texts:
        config = studies.merged(config, yaml.safe_load(text))
    return config


def problems(*texts):
    """What is wrong with the changed study, without the file's name."""
    with pytest.raises(StudyError) as error:
        studies.load(changed(*texts), "my.yaml")
    assert all(p.startswith("my.yaml: ") for p in error.value.problems)
    return [p.removeprefix("my.yaml: ") for p in error.value.problems]


def only(*texts):
    found = problems(*texts)
    assert len(found) == 1, found
    return found[0]


# ---------------------------------------------------------------- what ships


def paths_exist(config, monkeypatch, folder):
    """Set every variable that the paths of a study name; make the folders."""
    for name in set(re.findall(r"\$\{?(\w+)\}?", json.dumps(config))):
        monkeypatch.setenv(name, str(folder))
    for dataset in config["datasets"].values():
        path = dataset.get("path", "")
        if "$" in path:
            (folder / Path(*Path(path).parts[1:])).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_shipped_study_loads(file, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    config = studies.read(file)
    paths_exist(config, monkeypatch, tmp_path)
    for dataset in config["datasets"].values():  # scans beside the checkout need not be there
        if "path" in dataset and "$" not in dataset["path"]:
            dataset["path"] = str(tmp_path)
    study = studies.load(config, file.name)
    for arm in study.arms:
        for acq in {a for d in study.datasets if study.solves(arm, d) for a in study.datasets[d].acquisitions}:
            assert study.resolved(arm, acq)["iterations"] > 0


def uncommented():
    """The manual of keys with its alternatives switched on, as text: what stands behind ``# key:`` counts as well."""
    return (ROOT / "config" / "config.yaml").read_text()


def test_the_manual_names_every_key_with_a_comment():
    text = uncommented()
    models = [studies.Study, studies.Dataset, studies.Maps, studies.Cartesian, studies.Arm, studies.Input, studies.Block]
    keys = {key for model in models for key in model.model_fields}
    missing = [key for key in sorted(keys) if not re.search(rf"(^|[\s{{,#]){key}:[^#\n]*(\n|#)?", text, re.MULTILINE)]
    assert not missing, f"config/config.yaml says nothing of {missing}"


def test_the_manual_has_an_arm_for_every_method():
    config = studies.read(ROOT / "config" / "config.yaml")
    assert {arm["method"] for arm in config["arms"].values()} == set(registry.plugins("methods"))


def test_the_commented_datasets_of_the_manual_are_right(monkeypatch, tmp_path):
    text = uncommented()
    block = text[text.index("  # knee:") : text.index("# -----", text.index("  # knee:"))]
    more = yaml.safe_load(re.sub(r"(?m)^  # ?", "", block))
    assert {d["reader"] for d in more.values()} == {"fastmri", "ismrmrd", "cfl"}
    config = yaml.safe_load(text)
    config["datasets"] |= more
    paths_exist(config, monkeypatch, tmp_path)
    study = studies.load(config)
    assert study.acquisition("trial", "as_measured").holdout == 0.05


def test_schema_is_up_to_date():
    shipped = (ROOT / "config" / "schema.json").read_text().strip()
    made = json.dumps(studies.schema(), indent=1)
    drift = "\n".join(list(difflib.unified_diff(shipped.splitlines(), made.splitlines(), "shipped", "models", lineterm="", n=1))[:40])
    assert shipped == made, f"the models changed; run: python -m dipline schema > config/schema.json\n{drift}"


# ---------------------------------------------------------------- one fault, one message

METHODS = ", ".join(registry.plugins("methods"))
ARM_KEYS = ", ".join(studies.Arm.model_fields)

ONE = {  # name: (change, the whole message, or a part of it that ends with "…")
    "unknown key": ("seedz: [1]", 'seedz: unknown; did you mean "seeds"? (allowed: study, datasets, arms, seeds, …'),
    "unknown key of an arm": ("arms: {dip: {iteration: 3}}", f'arms.dip.iteration: unknown; did you mean "iterations"? (allowed: {ARM_KEYS})'),
    "unknown key of a dataset": ("datasets: {brain: {slces: all}}", 'datasets.brain.slces: unknown; did you mean "slices"? (allowed: reader, …'),
    "unknown key of an acquisition": (
        "datasets: {brain: {acquisitions: {R2: {aceleration: 3}}}}",
        'datasets.brain.acquisitions.R2.aceleration: unknown; did you mean "acceleration"? (allowed: mask, acceleration, …',
    ),
    "unknown key of an input": (
        "arms: {ref: {inputs: {prior: {datset: t1}}}}",
        'arms.ref.inputs.prior.datset: unknown; did you mean "dataset"? (allowed: dataset, arm, file, volume, slice, acq)',
    ),
    "unknown method": (
        "arms: {dip: {method: vanila}}",
        f'arms.dip.method: no such plug-in among methods: "vanila"; allowed: {METHODS}; did you mean "vanilla"?',
    ),
    "unknown reader": ("datasets: {brain: {reader: fantom}}", 'datasets.brain.reader: no such plug-in among readers: "fantom"; allowed: …'),
    "unknown network": ("arms: {dip: {network: unett}}", 'arms.dip.network: no such plug-in among networks: "unett"; allowed: …'),
    "unknown stop rule": ("arms: {dip: {stop: wvm}}", 'arms.dip.stop: no such plug-in among stopping: "wvm"; allowed: …'),
    "unknown watch": ("arms: {dip: {watch: [fixed, wvm]}}", 'arms.dip.watch[1]: no such plug-in among stopping: "wvm"; allowed: …'),
    "unknown parameter": (
        "arms: {dip: {params: {lrr: 1}}}",
        'arms.dip.params.lrr: unknown; did you mean "lr"? (allowed: lr, input, input_channels, input_scale, input_noise, clip)',
    ),
    "wrong type": ("arms: {dip: {params: {lr: fast}}}", "arms.dip.params.lr: found 'fast', allowed: a number"),
    "wrong whole number": ("arms: {dip: {params: {input_channels: 2.5}}}", "arms.dip.params.input_channels: found 2.5, allowed: a whole number"),
    "wrong sign": ("arms: {dip: {params: {clip: -1}}}", "arms.dip.params.clip: found -1, allowed: 0 or more"),
    "wrong value": (
        "arms: {dip: {params: {input: zerofilled}}}",
        "arms.dip.params.input: found 'zerofilled', allowed: uniform, normal, zero_filled; did you mean \"zero_filled\"?",
    ),
    "wrong bool": ("arms: {dip: {stop: {holdout: {refit: 1, smooth: 5, min_iterations: 5}}}}", "arms.dip.stop.holdout.refit: found 1, …"),
    "wrong option of a network": ("arms: {dip: {network: {unet: {norm: bach}}}}", "arms.dip.network.unet.norm: found 'bach', allowed: batch, …"),
    "wrong list": ("arms: {dip: {network: {unet: {widths: [8, -8]}}}}", "arms.dip.network.unet.widths: found [8, -8], allowed: a list …"),
    "wrong option of a reader": ("datasets: {brain: {params: {coils: 0}}}", "datasets.brain.params.coils: found 0, allowed: 1 or more"),
    "network of a classical arm": ("arms: {tv: {network: unet}}", "arms.tv.network: tv has no network; leave it out"),
    "two networks": ("arms: {dip: {network: {unet: {}, skip: {}}}}", "arms.dip.network: found 2 names, allowed: one, as in …"),
    "options without a name": (
        "arms: {dip: {network: {name: unet, widths: [4]}}}",
        "arms.dip.network: found {'name': 'unet', 'widths': [4]}, allowed: the name of a network | {name: {option: value}}",
    ),
    "names that fold": (
        "arms: {DIP: {method: vanilla}}",
        'arms: "dip" and "DIP" are one folder where upper and lower case are not told apart; rename one',
    ),
    "name with a space": (
        "arms: {my dip: {method: vanilla}}",
        'arms: the name "my dip" becomes a folder, allowed: letters, digits, ".", "_", "-", a letter or digit first',
    ),
    "name that leaves results/": ("study: ../x", 'study: the name "../x" becomes a folder, allowed: …'),
    "name that is a number": ("arms: {3: {method: vanilla}}", 'arms.3: found 3 as a name, allowed: text; put it in quotes: "3"'),
    "study that is a number": ("study: 4", 'study: found 4, allowed: text; put it in quotes: "4"'),
    "empty seeds": ("seeds: []", "seeds: found [], allowed: at least one"),
    "empty seeds of an arm": ("arms: {dip: {seeds: []}}", "arms.dip.seeds: found [], allowed: at least one"),
    "seeds without a list": ("seeds: 3", "seeds: found 3, allowed: a list, as in [3]"),
    "a seed twice": ("arms: {dip: {seeds: [1, 1]}}", "arms.dip.seeds: found [1, 1], allowed: every seed once"),
    "a negative seed": ("seeds: [-1]", "seeds.0: found -1, allowed: 0 or more"),
    "window": ("arms: {dip: {stop: wmv}}", "arms.dip.iterations: found 30, but stop wmv looks at 100; allowed: 100 or more"),
    "window of a watched rule": ("arms: {dip: {watch: [emv]}}", "arms.dip.iterations: found 30, but watch[0] emv looks at 100; allowed: 100 or more"),
    "window by acquisition": (
        "arms: {dip: {iterations: 200, stop: wmv, per_acquisition: {R4: {iterations: 50}}}}",
        "arms.dip.per_acquisition.R4.iterations: found 50, but stop wmv looks at 100; allowed: 100 or more",
    ),
    "no iterations": ("arms: {dip: {iterations: 0}}", "arms.dip.iterations: found 0, allowed: 1 or more"),
    "average of one": ("arms: {dip: {average: 1}}", "arms.dip.average: found 1, allowed: less than 1"),
    "arm without a method": ("arms: {x: {iterations: 3}}", "arms.x.method: missing; write one, e.g. method: vanilla"),
    "arm that is a word": ("arms: {x: vanilla}", f"arms.x: found 'vanilla', allowed: {{key: value}} with the keys {ARM_KEYS}"),
    "arm of nothing": ("arms: {x: null}", "arms.x: found nothing, allowed: {key: value} with the keys …"),
    "no arms": ("arms: null", "arms: found nothing, allowed: {name: …}"),
    "unknown acquisition": ("arms: {dip: {per_acquisition: {R3: {}}}}", 'arms.dip.per_acquisition: no acquisition "R3"…'),
    "method by acquisition": (
        "arms: {dip: {per_acquisition: {R4: {method: tv}}}}",
        "arms.dip.per_acquisition.R4.method: cannot differ between acquisitions (allowed: params, network, stop, …",
    ),
    "no path": ("datasets: {x: {reader: fastmri, acquisitions: {R4: {mask: full}}}}", "datasets.x.path: missing; write one, e.g. …"),
    "unset path variable": (
        "datasets: {x: {reader: fastmri, path: $NOT_SET/val, acquisitions: {R4: {mask: full}}}}",
        'datasets.x.path: "$NOT_SET/val": the environment variable NOT_SET is not set; export NOT_SET=/where/the/data/lie',
    ),
    "missing path": (
        "datasets: {x: {reader: fastmri, path: /no/where, acquisitions: {R4: {mask: full}}}}",
        'datasets.x.path: no such file or folder "/no/where"; correct the path',
    ),
    "path that is a number": (
        "datasets: {x: {reader: fastmri, path: 4, acquisitions: {R4: {mask: full}}}}",
        'datasets.x.path: found 4, allowed: text; put it in quotes: "4"',
    ),
    "path of the phantom": ("datasets: {brain: {path: /tmp}}", "datasets.brain.path: found '/tmp', but reader phantom makes its own scans; …"),
    "the same mask twice": (
        "datasets: {brain: {acquisitions: {R5: {mask: random, acceleration: 4, center_fraction: 0.17}}}}",
        "datasets.brain.acquisitions.R5: the same as acquisitions.R4; leave one out",
    ),
    "unknown mask": (
        "datasets: {brain: {acquisitions: {R2: {mask: randm}}}}",
        "datasets.brain.acquisitions.R2.mask: found 'randm', allowed: random, equispaced, …",
    ),
    "mask without acceleration": (
        "datasets: {brain: {acquisitions: {R3: {mask: magic}}}}",
        "datasets.brain.acquisitions.R3.acceleration: missing; mask: magic needs one, e.g. acceleration: 4",
    ),
    "acceleration below one": (
        "datasets: {brain: {acquisitions: {R2: {acceleration: 0.5}}}}",
        "datasets.brain.acquisitions.R2.acceleration: found 0.5, allowed: 1 or more",
    ),
    "missing mask file": (
        "datasets: {brain: {acquisitions: {mine: {mask: file, file: no.npy}}}}",
        'datasets.brain.acquisitions.mine.file: no such file or folder "no.npy"; correct the path',
    ),
    "missing file of maps": ("datasets: {brain: {maps: {file: no.npy}}}", 'datasets.brain.maps.file: no such file or folder "no.npy"; …'),
    "unset variable in a pattern of maps": (
        "datasets: {brain: {maps: {file: '$NOT_SET/{volume}.npy'}}}",
        'datasets.brain.maps.file: "$NOT_SET/{volume}.npy": the environment variable NOT_SET is not set; …',
    ),
    "file of maps beside espirit": ("datasets: {brain: {maps: {method: espirit, file: a.npy}}}", "datasets.brain.maps.file: goes with method: given…"),
    "missing list of volumes": ("datasets: {brain: {volumes: {list: no.txt}}}", 'datasets.brain.volumes.list: no such file "no.txt"; …'),
    "volumes that are a word": (
        "datasets: {brain: {volumes: patient_001}}",
        "datasets.brain.volumes: found 'patient_001', allowed: all | [patient_001, patient_002] | {first: 20} | {list: file.txt}",
    ),
    "volumes of a wrong form": ("datasets: {brain: {volumes: {first: two}}}", "datasets.brain.volumes: found {'first': 'two'}, allowed: all | …"),
    "slices that are a word": ("datasets: {brain: {slices: middle}}", "datasets.brain.slices: found 'middle', allowed: all | 3-20 | [4, 9] | middle 5"),
    "slices below zero": ("datasets: {brain: {slices: [-1]}}", "datasets.brain.slices: found [-1], allowed: all | 3-20 | [4, 9] | middle 5"),
    "slices backwards": ("datasets: {brain: {slices: 9-3}}", "datasets.brain.slices: found '9-3', allowed: the smaller number first"),
    "crop": ("datasets: {brain: {crop: readoot}}", "datasets.brain.crop: found 'readoot', allowed: readout, full, image; did you mean \"readout\"?"),
    "unknown dataset": ("arms: {dip: {datasets: [brian]}}", 'arms.dip.datasets: no dataset "brian"; did you mean "brain"? (allowed: brain, t1)'),
    "no dataset of an arm": ("arms: {dip: {datasets: []}}", "arms.dip.datasets: found [], allowed: at least one"),
    "missing input": ("arms: {x: {method: ref_guided}}", "arms.x.inputs.prior: missing; ref_guided needs it, e.g. …"),
    "missing input file": (
        "arms: {x: {method: ref_guided, inputs: {prior: {file: weights.npy}}}}",
        'arms.x.inputs.prior.file: no such file or folder "weights.npy"; correct the path',
    ),
    "input of nothing": ("arms: {x: {method: ref_guided, inputs: {prior: {}}}}", "arms.x.inputs.prior: found nothing, allowed: a dataset, an arm …"),
    "input of an unknown dataset": (
        "arms: {ref: {inputs: {prior: {dataset: t2}}}}",
        'arms.ref.inputs.prior.dataset: no dataset "t2" (allowed: brain, t1)',
    ),
    "input of an unknown arm": (
        "arms: {x: {method: ref_guided, inputs: {prior: {arm: dipp}}}}",
        'arms.x.inputs.prior.arm: no arm "dipp"; did you mean "dip"? (allowed: tv, dip, ref, x)',
    ),
    "input of an arm that does not run": (
        "arms: {x: {method: ref_guided, datasets: [t1], inputs: {prior: {arm: tv}}}}",
        "arms.x.inputs.prior.arm: tv does not run on dataset t1; name an arm that does, or narrow x with `datasets:`",
    ),
    "input nobody asked for": ("arms: {dip: {inputs: {mask: {arm: tv, dataset: brain, acq: R2}}, datasets: [t1]}}", "arms.dip.inputs.mask: vanilla …"),
    "cycle of one": ("arms: {x: {method: ref_guided, inputs: {prior: {arm: x}}}}", "arms.x.inputs: a cycle: x needs, in the end, its own result"),
    "baseline": ("baseline: dipp", 'baseline: no arm "dipp"; did you mean "dip"?'),
    "block mode": ("block: {mode: chained}", "block.mode: found 'chained', allowed: serial"),
    "bool": ("strict: maybe", "strict: found 'maybe', allowed: true or false"),
}  # fmt: skip


def test_the_base_of_these_tests_is_right():
    studies.load(changed())


@pytest.mark.parametrize("name", ONE)
def test_message(name, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    change, expected = ONE[name]
    message = only(change)
    if expected.endswith("…"):
        assert message.startswith(expected.removesuffix("…"))
    else:
        assert message == expected
    assert not re.search(r"\b(Input|pydantic|valid|instance|should|None|dict|str)\b", message), f"the library speaks here: {message}"


def test_cycle_of_two():
    found = problems("arms: {a: {method: ref_guided, inputs: {prior: {arm: b}}}, b: {method: ref_guided, inputs: {prior: {arm: a}}}}")
    assert found == [f"arms.{x}.inputs: a cycle: {x} needs, in the end, its own result" for x in "ab"]


@pytest.mark.parametrize(
    "prior, more",
    [
        ("{dataset: brain, acq: R2}", ""),  # more of the very samples that are scored
        ("{arm: tv, acq: R2}", ""),  # the same by way of an arm
        ("{dataset: t1}", "datasets: {t1: {params: {contrast: t2}}}"),  # the same patients under another name
        ("{dataset: t1}", "datasets: {t1: {params: {contrast: t2, slices: 4, noise: 0.001, patients: 5}}}"),
        ("{dataset: t1}", "datasets: {t1: {params: {contrast: mixed}}}"),
        ("{dataset: t1, volume: patient_001}", "datasets: {t1: {params: {contrast: t2}}}"),
    ],
)
def test_prior_of_the_scored_scan_is_refused(prior, more):
    config = changed(more or "{}")
    config["arms"]["ref"]["inputs"]["prior"] = yaml.safe_load(prior)
    with pytest.raises(StudyError, match="holds the very scans that ref is scored on .brain.: a prior from a scan's own full data is refused"):
        studies.load(config)


@pytest.mark.parametrize("inner", [".", "sub"])
def test_prior_from_the_same_folder_is_refused(inner, tmp_path):
    (tmp_path / "sub").mkdir()
    config = changed()
    acquisitions = {"R4": {"mask": "random", "acceleration": 4}}
    config["datasets"]["brain"] = {"reader": "fastmri", "path": str(tmp_path), "acquisitions": acquisitions}
    config["datasets"]["t1"] = {"reader": "fastmri", "path": str(tmp_path / inner), "acquisitions": {"full": {"mask": "full"}}}
    with pytest.raises(StudyError, match="a prior from a scan's own full data is refused"):
        studies.load(config)


@pytest.mark.parametrize("prior", ["{dataset: t1, volume: patient_001}", "{arm: tv}", "{arm: tv, dataset: brain}"])
def test_priors_that_are_allowed(prior):
    config = changed()
    config["arms"]["ref"]["inputs"]["prior"] = yaml.safe_load(prior)
    studies.load(config)


# ---------------------------------------------------------------- another modality


class Projections(studies.Model):
    """Stands for CT, until it is here."""

    views: Annotated[int, Field(ge=1)]
    noise: Literal["poisson"] = "poisson"

    def faults(self):
        return iter(())


@pytest.fixture
def ct(monkeypatch):
    """A second modality, with a reader of its own."""
    scans = registry.Plugin("readers", "scans", Path("scans.py"), "CT.", {"MODALITY": "ct", "PARAMETERS": {}, "READS_AS": "scans"})
    known = {kind: dict(registry.plugins(kind)) for kind in registry.FOLDERS}
    known["readers"]["scans"] = scans
    monkeypatch.setattr(registry, "plugins", lambda kind: known[kind])
    monkeypatch.setitem(studies.ACQUISITIONS, "ct", Projections)


def test_acquisition_of_another_modality(ct):
    assert only("datasets: {brain: {acquisitions: {V60: {views: 60}}}}") == (
        "datasets.brain.acquisitions.V60: found views, of ct acquisitions, but reader phantom gives mri "
        f"(allowed: {', '.join(studies.Cartesian.model_fields)})"
    )
    found = problems("datasets: {chest: {reader: scans, acquisitions: {R4: {mask: random, acceleration: 4}}}}")
    assert found[0].startswith("datasets.chest.acquisitions.R4: found mask, acceleration, of mri acquisitions, but reader scans gives ct")


def test_arm_that_fits_no_dataset(ct):
    config = changed("{datasets: {chest: {reader: scans, acquisitions: {V60: {views: 60}}}}, arms: {sense: {method: sense}}}")
    assert studies.load(config).solves("sense", "brain") and not studies.load(config).solves("sense", "chest")
    named = copy.deepcopy(config)
    named["arms"]["sense"]["datasets"] = ["chest"]
    with pytest.raises(StudyError, match=r"arms.sense.datasets: sense does not solve ct \(dataset chest\); allowed: mri"):
        studies.load(named)
    config["datasets"] = {"chest": config["datasets"]["chest"]}
    config["arms"] = {"sense": {"method": "sense"}}
    with pytest.raises(StudyError, match="arms.sense.method: sense solves mri, and no dataset is of that kind; leave the arm out"):
        studies.load(config)


# ---------------------------------------------------------------- many faults at once


def test_promise_6_every_problem_at_once():
    """Design section 6, promise 6: structural and semantic faults in one message, none hidden behind another."""
    found = problems(
        """
study: two words
seedz: [1]
device: gpu
datasets:
  brain: {crop: 3, slices: middle, acquisitions: {R5: {mask: random, acceleration: 4, center_fraction: 0.17}, R6: {mask: rndom}}}
  knee: {reader: fastmri, path: $NOT_SET, acquisitions: {R4: {mask: magic}}}
  bare: {path: /tmp}
arms:
  tv: {params: {lamm: 1}}
  dip: {iterations: -3, stop: wvm}
  Dip: {method: vanila}
  x: 3
  ref: {inputs: {prior: {dataset: t3}}}
"""
    )
    expected = [
        "seedz: unknown", "device: found 'gpu'", "datasets.brain.crop: found 3", "datasets.brain.slices: found 'middle'",
        "datasets.bare.reader: missing", "datasets.bare.acquisitions: missing", "arms.dip.iterations: found -3", "arms.x: found 3",
        'study: the name "two words"', "datasets.brain.acquisitions.R5: the same as", "datasets.brain.acquisitions.R6.mask: found 'rndom'",
        'datasets.knee.path: "$NOT_SET"', "datasets.knee.acquisitions.R4.acceleration: missing", "arms.tv.params.lamm: unknown",
        "arms.dip.stop: no such plug-in", 'arms: "dip" and "Dip"', "arms.Dip.method: no such plug-in", 'arms.ref.inputs.prior.dataset: no dataset "t3"',
    ]  # fmt: skip
    for start in expected:
        assert sum(p.startswith(start) for p in found) == 1, (start, found)
    assert len(found) == len(expected), found


def test_no_problem_that_only_follows_from_another():
    """A dataset that is broken is not also reported as missing by every arm that names it."""
    found = problems("{datasets: {t1: {crop: 3, reader: 5}}, arms: {tv: 3, ref: {per_acquisition: {full: {iterations: 5}}, datasets: [brain]}}}")
    assert [p.split(":")[0] for p in found] == ["datasets.t1.reader", "datasets.t1.crop", "arms.tv"]


# ---------------------------------------------------------------- the file itself


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", r"study.yaml: found nothing, allowed: keys with values, as in config/config.yaml"),
        (b"- a\n- b\n", r"study.yaml: found \['a', 'b'\], allowed: keys with values"),
        (b"study: x\n\tseeds: [1]\n", r"study.yaml, line 2: not YAML: found character '\\t'.*; correct that line"),
        (b"study: {a: [\n", r"study.yaml, line 2: not YAML: expected the node content"),
        ("study: caf\xe9".encode("latin-1"), r"study.yaml: not a text file in UTF-8 .*; save it as UTF-8"),
        (b"study: x\narms:\n  a: {method: tv}\n  a: {method: sense}\n", r'study.yaml, line 4: not YAML: the key "a" stands twice'),
    ],
    ids=["empty", "list", "tab", "broken", "latin-1", "key twice"],
)
def test_file_that_is_no_study(content, said, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    with pytest.raises(StudyError, match=said):
        studies.read(file)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(StudyError, match="no.yaml: no such file; copy config/config.yaml and change it"):
        studies.read(tmp_path / "no.yaml")
    with pytest.raises(StudyError, match="cannot be read .*; name a study file"):
        studies.read(tmp_path)


def test_anchors_may_be_overridden(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, x: 4}\n")
    assert studies.read(file)["c"] == {"x": 4, "y": 2}


# ---------------------------------------------------------------- what a study means


def test_numbers_that_yaml_takes_for_text():
    """YAML 1.1 reads 1e-3 as text: the arm must get a number all the same, and so must its variants."""
    text = "arms: {dip: {params: {lr: 1e-3}, stop: {wmv: {window: 9, margin: 2E-2}}, per_acquisition: {R4: {params: {lr: 5e-4}}}}}"
    study = studies.load(changed(text))
    assert study.resolved("dip", "R2")["params"]["lr"] == 1e-3 and study.resolved("dip", "R4")["params"]["lr"] == 5e-4
    assert study.resolved("dip", "R2")["stop"]["wmv"]["margin"] == 0.02
    assert studies.checked_arm({"method": "vanilla", "params": {"lr": "3e-3"}}).params["lr"] == 3e-3


def test_per_acquisition_changes_what_it_names_alone():
    text = "arms: {dip: {params: {lr: 0.01, clip: 1}, network: {unet: {widths: [4]}}, per_acquisition: {R4: {params: {lr: 0.02}, network: {skip: {}}}}}}"
    study = studies.load(changed(text))
    plain, varied = study.resolved("dip", "R2"), study.resolved("dip", "R4")
    assert plain["params"]["lr"] == 0.01 and varied["params"] == {**plain["params"], "lr": 0.02}
    assert list(plain["network"]) == ["unet"] and list(varied["network"]) == ["skip"]
    assert {k: v for k, v in plain.items() if k not in ("params", "network")} == {k: v for k, v in varied.items() if k not in ("params", "network")}


def test_defaults_of_the_method_count():
    arm = studies.resolve(studies.checked_arm({"method": "self_guided"}))
    assert arm["iterations"] == 4000 and arm["average"] == 0.99 and arm["params"]["alpha"] == 6e-3 and list(arm["network"]) == ["unet"]
    assert studies.resolve(studies.checked_arm({"method": "self_guided", "average": 0}))["average"] == 0
    assert studies.resolve(studies.checked_arm({"method": "tv"}))["network"] is None


def test_a_file_of_maps_means_that_they_are_given():
    assert studies.Maps(file="maps.npy").method == "given"


def test_arm_outside_a_study():
    with pytest.raises(StudyError) as error:
        studies.checked_arm({"method": "vanilla", "iterations": "many", "paramz": {}})
    assert sorted(error.value.problems) == [
        "arm: iterations: found 'many', allowed: a whole number",
        f'arm: paramz: unknown; did you mean "params"? (allowed: {ARM_KEYS})',
    ]
