"""The study file: what ships loads, and everything wrong is said at once, in words that help."""

import copy
import difflib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

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
        if any(acq.get("task") == "blur_neural" for acq in dataset["acquisitions"].values()):
            with zipfile.ZipFile(folder / "blur.pt", "w") as model:  # as far as a login node looks
                model.writestr("blur/code/__torch__.py", "")


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
    models = [
        studies.Study,
        studies.Dataset,
        studies.Maps,
        studies.Cartesian,
        studies.Projections,
        studies.Degraded,
        studies.Arm,
        studies.Input,
        studies.Block,
    ]
    keys = {key for model in models for key in model.model_fields}
    missing = [key for key in sorted(keys) if not re.search(rf"(^|[\s{{,#]){key}:[^#\n]*(\n|#)?", text, re.MULTILINE)]
    assert not missing, f"config/config.yaml says nothing of {missing}"


def test_the_manual_has_an_arm_for_every_method():
    config = studies.read(ROOT / "config" / "config.yaml")
    shipped = "zero_filled sense l1_wavelet tv fbp sirt cgls degraded nlm wavelet wiener richardson_lucy hio"
    shipped += " vanilla self_guided aseq ref_guided"
    assert {arm["method"] for arm in config["arms"].values()} == set(shipped.split())


def test_the_commented_datasets_of_the_manual_are_right(monkeypatch, tmp_path):
    text = uncommented()
    block = text[text.index("  # knee:") : text.index("# -----", text.index("  # knee:"))]
    more = yaml.safe_load(re.sub(r"(?m)^  # ?", "", block))
    assert {d["reader"] for d in more.values()} == {"fastmri", "ismrmrd", "cfl", "dicom", "images"}
    config = yaml.safe_load(text)
    config["datasets"] |= more
    paths_exist(config, monkeypatch, tmp_path)
    study = studies.load(config)
    assert study.acquisition("trial", "as_measured").holdout == 0.05


def test_schema_is_up_to_date():
    shipped = (ROOT / "config" / "schema.json").read_text().strip()
    made = json.dumps(studies.schema(), indent=1)
    drift = "\n".join(
        list(difflib.unified_diff(shipped.splitlines(), made.splitlines(), "shipped", "models", lineterm="", n=1))[:40]
    )
    assert shipped == made, f"the models changed; run: python -m dipline schema > config/schema.json\n{drift}"


# ---------------------------------------------------------------- one fault, one message

METHODS = ", ".join(registry.plugins("methods"))
ARM_KEYS = ", ".join(studies.Arm.model_fields)

MESSAGES = yaml.safe_load((Path(__file__).parent / "study_messages.yaml").read_text())


def test_the_base_of_these_tests_is_right():
    studies.load(changed())


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    message = only(MESSAGES[name].get("and", "{}"), MESSAGES[name]["change"])
    expected = MESSAGES[name]["says"].replace("<methods>", METHODS).replace("<arm keys>", ARM_KEYS)
    if expected.endswith("…"):
        assert message.startswith(expected.removesuffix("…"))
    else:
        assert message == expected
    assert not re.search(r"\b(Input|pydantic|valid|instance|should|None|dict|str)\b", message), (
        f"the library speaks here: {message}"
    )


@pytest.mark.parametrize(
    "one, other",
    [
        ("{mask: random, acceleration: 4}", "{mask: random, acceleration: 4, seed: 1}"),
        ("{mask: full, noise_snr: 20}", "{mask: full, noise_snr: 20, seed: 1}"),  # the seed of the noise
        ("{mask: magic, acceleration: 4, offset: 1, holdout: 0.1}", "{mask: magic, acceleration: 4, offset: 1, holdout: 0.1, seed: 2}"),
        ("{mask: magic, acceleration: 4}", "{mask: magic, acceleration: 4, offset: 0}"),
        ("{mask: full}", "{mask: as_measured}"),  # the same only on a complete scan
    ],
)
def test_acquisitions_that_differ(one, other):
    studies.load(changed(f"datasets: {{brain: {{acquisitions: {{one: {one}, other: {other}}}}}}}"))


@pytest.mark.parametrize("method", ["tv", "l1_wavelet", "cgls", "vanilla"])
def test_arms_that_may_be_weighted(method):
    chest = "{reader: phantom_ct, acquisitions: {V9: {views: 9}}}"
    text = f"{{datasets: {{chest: {chest}}}, arms: {{x: {{method: {method}, datasets: [chest], data_term: weighted}}}}}}"
    assert studies.load(changed(text)).resolved("x", "V9")["data_term"] == "weighted"


@pytest.mark.parametrize("photons, same", [("", True), (", photons: 1000", False)])
def test_views_that_differ_in_the_seed_of_their_noise(photons, same):
    acquisitions = f"{{a: {{views: 9{photons}}}, b: {{views: 9, seed: 1{photons}}}}}"
    config = changed(f"datasets: {{chest: {{reader: phantom_ct, acquisitions: {acquisitions}}}}}")
    assert ["the same as" in p for p in studies.examined(config)[1]] == [True] * same


def test_mask_file_that_holds_no_mask(tmp_path):
    """A mask of zeros passed the check, and every volume failed in its first job."""
    np.save(tmp_path / "zero.npy", np.zeros(32))
    (tmp_path / "half.npz").write_bytes(b"PK")
    for name, said in (("zero.npy", "0 everywhere"), ("half.npz", "not readable")):
        message = only(f"datasets: {{brain: {{acquisitions: {{mine: {{mask: file, file: {tmp_path / name}}}}}}}}}")
        assert message.startswith("datasets.brain.acquisitions.mine.file: ") and said in message


def test_list_of_volumes_that_is_no_text(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"caf\xe9\n")
    message = only(f"datasets: {{brain: {{volumes: {{list: {tmp_path}/names.txt}}}}}}")
    assert message.startswith("datasets.brain.volumes.list: no text file")


def test_cycle_of_two():
    found = problems(
        "arms: {a: {method: ref_guided, inputs: {prior: {arm: b}}}, b: {method: ref_guided, inputs: {prior: {arm: a}}}}"
    )
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
    with pytest.raises(
        StudyError,
        match="holds the very scans that ref is scored on .brain.: a prior from a scan's own full data is refused",
    ):
        studies.load(config)


def test_prior_of_another_modality_is_refused():
    """A T1 image as the prior of CT lost its imaginary part, with a warning of torch's in the log and no word to the user."""
    chest = "datasets: {chest: {reader: phantom_ct, acquisitions: {V9: {views: 9}}}}"
    message = only(chest, "arms: {ref: {datasets: [brain, chest]}}")
    assert message.startswith("arms.ref.inputs.prior.dataset: t1 is mri, but ref runs on chest, which is ct: ")
    both = "arms: {dip: {datasets: [brain, chest]}, ref: {datasets: [brain], inputs: {prior: {arm: dip, dataset: chest}}}}"
    assert only(chest, both).startswith("arms.ref.inputs.prior.dataset: chest is ct, but ref runs on brain, which is mri: ")
    studies.load(changed(chest))


def test_promise_6_priors_in_files_that_no_job_can_use(tmp_path, monkeypatch):
    """Design section 6, promise 6. A complex prior for CT, or a file that is no array, passed the check; every job of the arm failed."""
    monkeypatch.chdir(tmp_path)
    np.save("complex.npy", np.ones((32, 32), np.complex64))
    np.save("real.npy", np.ones((32, 32), np.float32))
    np.save("line.npy", np.ones(32))
    np.save("text.npy", np.full((32, 32), "a"))
    np.savez("many.npz", np.ones((32, 32)))
    Path("empty.npy").touch()
    chest = "datasets: {chest: {reader: phantom_ct, acquisitions: {V9: {views: 9}}}}"

    def prior(file, datasets="[brain, chest]"):
        return f"arms: {{x: {{method: ref_guided, datasets: {datasets}, inputs: {{prior: {{file: {file}}}}}}}}}"

    key = "arms.x.inputs.prior.file: "
    assert only(chest, prior("complex.npy")) == (
        f'{key}"complex.npy" is complex (MRI), but x runs on chest, which is CT, allowed: real numbers; give a real image, '
        "or narrow the arm with `datasets:`"
    )
    studies.load(changed(chest, prior("complex.npy", "[brain]")))
    studies.load(changed(chest, prior("real.npy")))
    for file, found in (("line.npy", "holds float64 with 1 axes"), ("text.npy", "holds <U1 with 2 axes")):
        message = f'{key}"{file}" {found}, allowed: numbers with 2 axes or more; write one with numpy.save, (rows, columns)'
        assert only(chest, prior(file)) == message
    for file in ("many.npz", "empty.npy", "."):
        assert only(chest, prior(file)).startswith(f'{key}"{file}" is no array, allowed: a .npy file of numbers; write one')


@pytest.mark.parametrize("inner", [".", "sub"])
def test_prior_from_the_same_folder_is_refused(inner, tmp_path):
    (tmp_path / "sub").mkdir()
    config = changed()
    acquisitions = {"R4": {"mask": "random", "acceleration": 4}}
    config["datasets"]["brain"] = {"reader": "fastmri", "path": str(tmp_path), "acquisitions": acquisitions}
    config["datasets"]["t1"] = {
        "reader": "fastmri",
        "path": str(tmp_path / inner),
        "acquisitions": {"full": {"mask": "full"}},
    }
    with pytest.raises(StudyError, match="a prior from a scan's own full data is refused"):
        studies.load(config)


LEAK = "a prior from a scan's own full data is refused"
SAME = "datasets: {same: {reader: phantom, params: {patients: 2, matrix: 32}, acquisitions: {all: {mask: full}}}}"


def test_prior_by_an_arm_on_the_scored_scans_is_refused():
    """The image that another arm makes of the scored scans' own full data passed as a prior: `arm` was never looked at. A guided
    arm that copies its prior would have won every table."""
    config = changed(SAME, "arms: {sense: {method: sense}, ref: {inputs: {prior: {arm: sense, dataset: same}}}}")
    with pytest.raises(StudyError, match=LEAK):
        studies.load(config)


def test_prior_of_the_scored_scan_by_way_of_a_third_scan_is_refused():
    """The T1 image is guided by the scored T2 scan's full data, and then guides the T2 arm."""
    config = changed(SAME, "arms: {ref: {inputs: {prior: {arm: middle, dataset: t1}}}}")
    config["arms"]["middle"] = {"method": "ref_guided", "datasets": ["t1"], "inputs": {"prior": {"dataset": "same"}}}
    with pytest.raises(StudyError, match=r"arms.ref.inputs.prior.dataset: same holds the very scans .*" + LEAK):
        studies.load(config)
    config["datasets"]["same"]["params"]["time_point"] = 1
    studies.load(config)


@pytest.mark.parametrize("body, refused", [("torso", True), ("head", False)])
def test_priors_of_embedded_ct_patients(body, refused):
    config = changed("datasets: {ct: {reader: phantom_ct, acquisitions: {V9: {views: 9}}}}")
    config["datasets"]["full"] = {"reader": "phantom_ct", "params": {"body": body}, "acquisitions": {"V90": {"views": 90}}}
    config["arms"]["ref"] |= {"datasets": ["ct"], "inputs": {"prior": {"dataset": "full"}}}
    found = studies.examined(config)[1]
    assert [LEAK in p for p in found] == [True] * refused, found


@pytest.mark.parametrize(
    "t2, t1, volume, refused",
    [
        (["p1_t2", "p2_t2"], ["p1_t1", "p2_t1"], "p1_t1", False),
        (["p1_t2", "p2_t2"], "all", "p1_t1", False),
        (["p1_t2", "p2_t2"], ["p1_t2", "p1_t1"], "p1_t2", True),
        (["p1_t2", "p2_t2"], ["p1_t1", "p1_t2"], "same", True),
        ("all", ["p1_t1"], "p1_t1", True),
        ({"first": 1}, ["p1_t1"], "p1_t1", True),
    ],
)
def test_priors_from_one_folder_are_told_apart_by_their_volumes(t2, t1, volume, refused, tmp_path):
    """T1 and T2 files of the patients lay in one folder, with a list of volumes for each dataset. The T1 prior was refused, because
    folders alone were compared."""
    config = changed()
    for name, volumes in (("brain", t2), ("t1", t1)):
        config["datasets"][name] |= {"reader": "fastmri", "path": str(tmp_path), "volumes": volumes, "params": {}}
    config["arms"]["ref"]["inputs"]["prior"]["volume"] = volume
    found = studies.examined(config)[1]
    assert [LEAK in p for p in found] == [True] * refused, found


@pytest.mark.parametrize(
    "prior", ["{dataset: t1, volume: patient_001}", "{arm: tv}", "{arm: tv, dataset: brain}", "{arm: dip, dataset: t1}"]
)
def test_priors_that_are_allowed(prior):
    config = changed()
    config["arms"]["ref"]["inputs"]["prior"] = yaml.safe_load(prior)
    studies.load(config)


# ---------------------------------------------------------------- another modality


def test_acquisition_of_another_modality():
    assert only("datasets: {brain: {acquisitions: {V60: {views: 60}}}}") == (
        "datasets.brain.acquisitions.V60: found views, of ct acquisitions, but reader phantom gives mri "
        f"(allowed: {', '.join(studies.Cartesian.model_fields)})"
    )
    found = problems("datasets: {chest: {reader: phantom_ct, acquisitions: {R4: {mask: random, acceleration: 4}}}}")
    assert found[0].startswith(
        "datasets.chest.acquisitions.R4: found mask, acceleration, of mri acquisitions, but reader phantom_ct gives ct"
    )


def test_arm_that_fits_no_dataset():
    config = changed(
        "{datasets: {chest: {reader: phantom_ct, acquisitions: {V60: {views: 60}}}}, arms: {sense: {method: sense}}}"
    )
    assert studies.load(config).solves("sense", "brain") and not studies.load(config).solves("sense", "chest")
    named = copy.deepcopy(config)
    named["arms"]["sense"]["datasets"] = ["chest"]
    with pytest.raises(
        StudyError, match=r"arms.sense.datasets: sense does not solve ct \(dataset chest\); allowed: mri"
    ):
        studies.load(named)
    config["datasets"] = {"chest": config["datasets"]["chest"]}
    config["arms"] = {"sense": {"method": "sense"}}
    with pytest.raises(
        StudyError, match="arms.sense.method: sense solves mri, and no dataset is of that kind; leave the arm out"
    ):
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
  brain:
    crop: 3
    slices: middle
    acquisitions: {R5: {mask: random, acceleration: 4, center_fraction: 0.17}, R6: {mask: rndom}}
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
        "seedz: unknown",
        "device: found 'gpu'",
        "datasets.brain.crop: found 3",
        "datasets.brain.slices: found 'middle'",
        "datasets.bare.reader: missing",
        "datasets.bare.acquisitions: missing",
        "arms.dip.iterations: found -3",
        "arms.x: found 3",
        'study: the name "two words"',
        "datasets.brain.acquisitions.R5: the same as",
        "datasets.brain.acquisitions.R6.mask: found 'rndom'",
        'datasets.knee.path: "$NOT_SET"',
        "datasets.knee.acquisitions.R4.acceleration: missing",
        "arms.tv.params.lamm: unknown",
        "arms.dip.stop: no such plug-in",
        'arms: "dip" and "Dip"',
        "arms.Dip.method: no such plug-in",
        'arms.ref.inputs.prior.dataset: no dataset "t3"',
    ]
    for start in expected:
        assert sum(p.startswith(start) for p in found) == 1, (start, found)
    assert len(found) == len(expected), found


def test_promise_6_settings_of_ct_that_do_not_go_together():
    """Design section 6, promise 6. Each of these passed the check, and then every job of the arm failed for the same reason; a variant
    that spares the acquisitions concerned is right."""
    text = """
datasets:
  brain: {acquisitions: {R8: {mask: random, acceleration: 8, noise_snr: .nan}}}
  chest: {reader: phantom_ct, acquisitions: {V8: {views: 8}, V1: {views: 1}, hot: {views: 9, photons: 1.0e+30}}}
arms:
  poisson: {method: vanilla, datasets: [chest], data_term: poisson, per_acquisition: {V8: {precondition: 0.05}}}
  spared: {method: vanilla, datasets: [chest], stop: holdout, per_acquisition: {V1: {stop: fixed}, hot: {iterations: 99}}}
  holdout: {method: vanilla, datasets: [chest], stop: holdout}
  sirt: {method: sirt, precondition: 0.05}
  seq: {method: aseq, params: {z_update: dc_output, lr: -1}}
  tv: {datasets: [brain, chest], params: {nonneg: true}}
"""
    found = problems(text)
    expected = [
        "datasets.brain.acquisitions.R8.noise_snr: found nan", "datasets.chest.acquisitions.hot.photons: found 1e+30",
        "arms.poisson.per_acquisition.V8.precondition: found 0.05", "arms.holdout.stop: found holdout, allowed on dataset chest at V1",
        "arms.sirt.precondition: found 0.05", "arms.seq.params.lr: found -1", "arms.seq.params.z_update: found 'dc_output'",
        "arms.tv.params.nonneg: found true, allowed on dataset brain",
    ]  # fmt: skip
    for start in expected:
        assert sum(p.startswith(start) for p in found) == 1, (start, found)
    assert len(found) == len(expected), found


def test_no_problem_that_only_follows_from_another():
    """A dataset that is broken is not also reported as missing by every arm that names it."""
    found = problems(
        "{datasets: {t1: {crop: 3, reader: 5}}, arms: {tv: 3, ref: {per_acquisition: {full: {iterations: 5}}}}}"
    )
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
        (
            b"study: x\narms:\n  a: {method: tv}\n  a: {method: sense}\n",
            r'study.yaml, line 4: not YAML: the key "a" stands twice',
        ),
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
    stop, varied = "{wmv: {window: 9, margin: 2E-2}}", "{R4: {params: {lr: 5e-4}}}"
    text = f"arms: {{dip: {{params: {{lr: 1e-3}}, stop: {stop}, per_acquisition: {varied}}}}}"
    study = studies.load(changed(text))
    assert study.resolved("dip", "R2")["params"]["lr"] == 1e-3 and study.resolved("dip", "R4")["params"]["lr"] == 5e-4
    assert study.resolved("dip", "R2")["stop"]["wmv"]["margin"] == 0.02
    assert studies.checked_arm({"method": "vanilla", "params": {"lr": "3e-3"}}).params["lr"] == 3e-3


def test_per_acquisition_changes_what_it_names_alone():
    dip = "{params: {lr: 0.01, clip: 1}, network: {unet: {widths: [4]}}, per_acquisition: {R4: %s}}"
    text = f"arms: {{dip: {dip % '{params: {lr: 0.02}, network: {skip: {}}}'}}}"
    study = studies.load(changed(text))
    plain, varied = study.resolved("dip", "R2"), study.resolved("dip", "R4")
    assert plain["params"]["lr"] == 0.01 and varied["params"] == {**plain["params"], "lr": 0.02}
    assert list(plain["network"]) == ["unet"] and list(varied["network"]) == ["skip"]
    assert {k: v for k, v in plain.items() if k not in ("params", "network")} == {
        k: v for k, v in varied.items() if k not in ("params", "network")
    }


def test_defaults_of_the_method_count():
    arm = studies.resolve(studies.checked_arm({"method": "self_guided"}))
    assert (
        arm["iterations"] == 4000
        and arm["average"] == 0.99
        and arm["params"]["alpha"] == 6e-3
        and list(arm["network"]) == ["unet"]
    )
    assert studies.resolve(studies.checked_arm({"method": "self_guided", "average": 0}))["average"] == 0
    assert studies.resolve(studies.checked_arm({"method": "tv"}))["network"] is None


def test_a_file_of_maps_means_that_they_are_given():
    assert studies.Maps(file="maps.npy").method == "given"


def test_arm_outside_a_study():
    with pytest.raises(StudyError) as error:
        studies.checked_arm({"method": "vanilla", "iterations": "many", "paramz": {}})
    with pytest.raises(StudyError, match="arm: precondition: found 0.1, allowed: 0: sirt needs rays"):
        studies.checked_arm({"method": "sirt", "precondition": 0.1})
    assert sorted(error.value.problems) == [
        "arm: iterations: found 'many', allowed: a whole number",
        f'arm: paramz: unknown; did you mean "params"? (allowed: {ARM_KEYS})',
    ]
