"""What is found in the folders of scans, what is kept of it, and the jobs and identities that follow."""

import ast
import copy
import json
import os
import shutil
import time

import h5py
import numpy as np
import pytest

from dipline import plan as planning
from dipline import registry, store
from dipline import study as studies
from dipline.plan import Job, Plan
from dipline.readers import fastmri
from dipline.study import StudyError

R2 = {"mask": "equispaced", "acceleration": 2, "center_fraction": 0.25}
R4 = {"mask": "random", "acceleration": 4, "center_fraction": 0.17}


def scan(file, slices=3, mask=None, seed=0):
    """A small file in fastMRI's layout; ``mask``: undersampled."""
    rng = np.random.default_rng(seed)
    kspace = rng.standard_normal((slices, 2, 16, 24, 2)).astype(np.float32).view(np.complex64)[..., 0]
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h:
        h["kspace"] = kspace if mask is None else kspace * mask
        if mask is not None:
            h["mask"] = mask
    return file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three good scans; results go to a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("c", "a", "b")):
        scan(tmp_path / "scans" / f"{name}.h5", seed=i)
    return tmp_path / "scans"


def config(folder, arms=None, **dataset):
    return {
        "study": "s",
        "datasets": {"d": {"reader": "fastmri", "path": str(folder), "acquisitions": {"R2": R2}, **dataset}},
        "arms": arms or {"tv": {"method": "tv"}},
    }


@pytest.fixture
def opened(monkeypatch):
    """Names of the scans that were opened."""
    names, real = [], fastmri.inspect
    monkeypatch.setattr(fastmri, "inspect", lambda files: names.append(files[0].stem) or real(files))
    return names


def volumes(plan):
    return list(plan.volumes["d"])


# ---------------------------------------------------------------- the index


def test_every_scan_is_opened_once(folder, opened):
    plan = Plan.load(config(folder))
    assert volumes(plan) == ["a", "b", "c"] and sorted(opened) == ["a", "b", "c"]
    assert plan.volumes["d"]["a"]["slices"] == 3 and plan.volumes["d"]["a"]["shape"] == [2, 16, 24]
    opened.clear()
    written = (plan.root / ".scans/index.json").stat().st_mtime_ns
    assert volumes(Plan.load(config(folder))) == ["a", "b", "c"]
    assert opened == [] and (plan.root / ".scans/index.json").stat().st_mtime_ns == written


def test_new_changed_and_removed_scans(folder, opened):
    Plan.load(config(folder))
    opened.clear()
    scan(folder / "sub" / "new.h5")
    os.utime(folder / "b.h5", ns=(1, 1))
    scan(folder / "c.h5", slices=5)
    (folder / "a.h5").unlink()
    plan = Plan.load(config(folder))
    assert sorted(opened) == ["b", "c", "new"] and volumes(plan) == ["b", "c", "new"]
    assert plan.volumes["d"]["c"]["slices"] == 5


def test_jobs_on_a_cluster_open_nothing(folder, opened):
    Plan.load(config(folder))
    opened.clear()
    shutil.rmtree(folder)
    folder.mkdir()
    assert volumes(Plan.load(config(folder), fresh=False)) == ["a", "b", "c"] and opened == []
    store.write_text("results/s/study.resolved.yaml", Plan.load(config(folder), fresh=False).resolved_yaml())
    assert volumes(Plan.open("results/s")) == ["a", "b", "c"] and opened == []


def test_another_path_is_another_index(folder, opened):
    Plan.load(config(folder))
    opened.clear()
    scan(folder.parent / "other" / "a.h5", slices=7)
    plan = Plan.load(config(folder.parent / "other"))
    assert opened == ["a"] and plan.volumes["d"]["a"]["slices"] == 7


def test_embedded_patients_are_listed_without_a_scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = {"patients": 2, "first_seed": 8, "slices": 4, "matrix": 32, "coils": 2}
    given = config(tmp_path) | {"datasets": {"d": {"reader": "phantom", "params": params, "acquisitions": {"R2": R2}}}}
    plan = Plan.load(given)
    assert volumes(plan) == ["patient_008", "patient_009"]
    assert plan.scans("d", "patient_008") == ["results/s/scans/d/patient_008.h5"]
    given["datasets"]["d"]["params"] = {**params, "patients": 3}
    assert len(volumes(Plan.load(given))) == 3


# ---------------------------------------------------------------- which volumes, which slices


@pytest.mark.parametrize(
    "wanted, found",
    [("all", ["a", "b", "c"]), (["c", "a"], ["c", "a"]), ({"first": 2}, ["a", "b"]), ({"first": 9}, ["a", "b", "c"])],
)
def test_volumes(folder, wanted, found):
    assert volumes(Plan.load(config(folder, volumes=wanted))) == found


def test_volumes_from_a_list(folder, tmp_path):
    (tmp_path / "names.txt").write_text("b\n\n  c \n")
    assert volumes(Plan.load(config(folder, volumes={"list": "names.txt"}))) == ["b", "c"]


def test_missing_volumes_are_named_all_at_once(folder):
    scan(folder / "patient_one.h5")
    with pytest.raises(StudyError) as error:
        Plan.load(config(folder, volumes=["a", "patient_on", "zz"]))
    assert error.value.problems == [
        f'study: datasets.d.volumes: no volume "patient_on" in {folder}; did you mean "patient_one"?',
        f'study: datasets.d.volumes: no volume "zz" in {folder}',
    ]


def test_a_volume_named_twice_is_one_volume(folder):
    with pytest.raises(StudyError, match='datasets.d.volumes: "a" stands there twice'):
        Plan.load(config(folder, volumes=["a", "b", "a"]))


@pytest.mark.parametrize(
    "wanted, chosen",
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("2-4", [2, 3, 4]),
        ([5, 1], [1, 5]),
        ("middle 2", [2, 3]),
        ("middle 3", [1, 2, 3]),
        ("middle 50", [0, 1, 2, 3, 4, 5]),
        ("middle 1", [2]),
    ],
)
def test_slices(folder, wanted, chosen):
    scan(folder / "a.h5", slices=6)
    assert Plan.load(config(folder, volumes=["a"], slices=wanted)).volumes["d"]["a"]["chosen"] == chosen


@pytest.mark.parametrize("wanted", ["2-7", [1, 9]])
def test_slices_that_a_volume_has_not(folder, wanted):
    scan(folder / "long.h5", slices=12)
    plan = Plan.load(config(folder, slices=wanted))
    assert volumes(plan) == ["long"]
    assert plan.problems["d", "a"] == f"slices: found {wanted}, but the volume has slices 0 to 2"


# ---------------------------------------------------------------- problems of scans


def test_bad_volumes_are_left_out_and_named(folder):
    (folder / "b.h5").write_bytes(b"no HDF5")
    scan(folder / "two words.h5")
    scan(folder / "x{y}.h5")
    scan(folder / "sub" / "a.h5")
    plan = Plan.load(config(folder))
    assert volumes(plan) == ["c"]
    assert {v for _, v in plan.problems} == {"a", "b", "two words", "x{y}"}
    assert str(folder / "b.h5") in plan.problems["d", "b"]
    assert 'the volume name "two words" becomes a folder; rename the file' in plan.problems["d", "two words"]
    assert 'the volume name "x{y}" becomes a folder; rename the file' in plan.problems["d", "x{y}"]
    assert str(folder / "a.h5") in plan.problems["d", "a"] and str(folder / "sub" / "a.h5") in plan.problems["d", "a"]
    assert {job.volume for job in plan.jobs} == {"c"} and plan.pattern("volume") == "c"


def test_strict_stops(folder):
    (folder / "b.h5").write_bytes(b"no HDF5")
    scan(folder / "x y.h5")
    with pytest.raises(StudyError) as error:
        Plan.load(config(folder) | {"strict": True})
    assert [p.split(": ")[1:3] for p in error.value.problems] == [["datasets.d", "b"], ["datasets.d", "x y"]]


def test_a_repaired_scan_is_taken_up(folder):
    (folder / "b.h5").write_bytes(b"no HDF5")
    assert volumes(Plan.load(config(folder))) == ["a", "c"]
    scan(folder / "b.h5")
    assert volumes(Plan.load(config(folder))) == ["a", "b", "c"]


def test_empty_folder_is_an_error_of_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(StudyError, match="datasets.d.path: .*none: holds no .h5 file"):
        Plan.load(config(tmp_path / "none"))


def test_undersampled_scan_has_no_other_acceleration(folder):
    mask = np.zeros(24, np.float32)
    mask[::2] = mask[10:14] = 1
    scan(folder / "under.h5", mask=mask)
    plan = Plan.load(config(folder))
    assert volumes(plan) == ["a", "b", "c"]
    assert plan.problems["d", "under"] == (
        "acquisition R2: mask: found equispaced, allowed: as_measured: the scan is undersampled already; "
        "use acquisitions: {as_measured: {holdout: 0.05}}"
    )
    assert volumes(Plan.load(config(folder, acquisitions={"as_measured": {"holdout": 0.05}}))) == [
        "a",
        "b",
        "c",
        "under",
    ]


# ---------------------------------------------------------------- the jobs


ARMS = {
    "tv": {"method": "tv"},
    "dip": {"method": "vanilla", "iterations": 30},
    "aseq": {"method": "aseq", "iterations": 30, "seeds": [7]},
}


def test_jobs_are_counted_right(folder):
    plan = Plan.load(config(folder, arms=ARMS, acquisitions={"R2": R2, "R4": R4}) | {"seeds": [0, 1, 2]})
    assert len(plan.jobs) == len(set(plan.jobs)) == 3 * 2 * (1 + 3 + 1)
    assert [j.seed for j in plan.jobs if j[:4] == ("d", "a", "R2", "dip")] == [0, 1, 2]
    assert [j.seed for j in plan.jobs if j[:4] == ("d", "a", "R2", "tv")] == [0]  # no chance in it: once
    assert [j.seed for j in plan.jobs if j[:4] == ("d", "a", "R2", "aseq")] == [7]
    assert plan.jobs[0] == Job("d", "a", "R2", "tv", 0)
    assert len(set(plan.scores)) == len(plan.jobs)


def test_arms_run_on_their_datasets_alone(folder):
    given = config(folder, arms={**ARMS, "tv": {"method": "tv", "datasets": ["d"]}})
    given["datasets"]["e"] = {"reader": "fastmri", "path": str(folder / "a.h5"), "acquisitions": {"R4": R4}}
    plan = Plan.load(given)
    assert plan.left_out == [("tv", "e")]
    assert {j.arm for j in plan.jobs if j.dataset == "e"} == {"dip", "aseq"} and {
        j.acq for j in plan.jobs if j.dataset == "e"
    } == {"R4"}


@pytest.mark.parametrize(
    "size, names",
    [(1, ["s001", "s002", "s003", "s004", "s005"]), (2, ["s001-002", "s003-004", "s005"]), (9, ["s001-005"])],
)
def test_blocks(folder, size, names):
    scan(folder / "a.h5", slices=7)
    arms = {**ARMS, "aseq": {**ARMS["aseq"], "block": {"slices": 5}}}
    plan = Plan.load(config(folder, arms=arms, volumes=["a"], slices="1-5") | {"block": {"slices": size}})
    blocks = plan.blocks("d", "a", "dip")
    assert list(blocks) == names and sum(blocks.values(), []) == [1, 2, 3, 4, 5]
    assert list(plan.blocks("d", "a", "aseq")) == ["s001-005"]
    job = Job("d", "a", "R2", "dip", 0)
    assert plan.recons(job) == [f"results/s/recon/d/a/R2/dip/seed0/{n}.h5" for n in names]
    assert plan.block_slices(job, names[0]) == ",".join(map(str, blocks[names[0]]))


def test_patterns_match_the_names_of_the_study_alone(folder):
    import re

    scan(folder / "a.b.h5")
    plan = Plan.load(config(folder, arms=ARMS))
    assert re.fullmatch(plan.pattern("arm"), "dip") and not re.fullmatch(plan.pattern("arm"), "dipp")
    gpu, cpu = ({a for a in plan.study.arms if re.fullmatch(plan.pattern("arm", gpu=g), a)} for g in (True, False))
    assert gpu | cpu == set(plan.study.arms) and not gpu & cpu and all(plan.gpus(a) for a in gpu) and "dip" in gpu
    assert re.fullmatch(plan.pattern("volume"), "a.b") and not re.fullmatch(plan.pattern("volume"), "a_b")


# ---------------------------------------------------------------- identity


def specs(given):
    """Every spec of a study by what it belongs to."""
    plan = Plan.load(given)
    found = {("reconstruct", a): plan.reconstruct_spec("d", acq, a) for a in plan.study.arms for acq in ["R2"]}
    return found | {"measure": plan.measure_spec("d", "R2"), "reference": plan.reference_spec("d")}


def differing(one, other):
    return {k for k in one if one[k] != other[k]}


def test_promise_4_one_parameter_changes_one_arm(folder):
    """Design section 6, promise 4: editing one parameter of one arm changes that arm's identity alone."""
    before = specs(config(folder, arms=ARMS))
    for change in (
        {"params": {"lr": 0.5}},
        {"iterations": 31},
        {"average": 0.5},
        {"network": "skip"},
        {"stop": "min_loss"},
        {"watch": ["min_loss"]},
    ):
        after = specs(config(folder, arms=ARMS | {"dip": ARMS["dip"] | change}))
        assert differing(before, after) == {("reconstruct", "dip")}, change
    assert differing(before, specs(config(folder, arms=ARMS | {"new": {"method": "vanilla"}}))) == set()
    assert (
        differing(before, specs(config(folder, arms=ARMS | {"dip": ARMS["dip"] | {"params": {"lr": 3e-4}}}))) == set()
    )  # the default, said aloud


def test_promise_4_only_one_acquisition_changes(folder):
    """Design section 6, promise 4: what differs under one acquisition leaves the arm's other acquisitions alone."""
    both = {"acquisitions": {"R2": R2, "R4": R4}}
    varied = ARMS | {"dip": ARMS["dip"] | {"per_acquisition": {"R4": {"params": {"lr": 0.5}}}}}
    one, other = Plan.load(config(folder, arms=ARMS, **both)), Plan.load(config(folder, arms=varied, **both))
    assert one.reconstruct_spec("d", "R2", "dip") == other.reconstruct_spec("d", "R2", "dip")
    assert one.reconstruct_spec("d", "R4", "dip") != other.reconstruct_spec("d", "R4", "dip")
    assert one.measure_spec("d", "R2") == other.measure_spec("d", "R2")


def test_acquisition_changes_the_measurement_alone(folder):
    before = specs(config(folder, arms=ARMS))
    assert differing(before, specs(config(folder, arms=ARMS, acquisitions={"R2": R2 | {"noise_snr": 20}}))) == {
        "measure"
    }
    assert differing(before, specs(config(folder, arms=ARMS, crop="full"))) == {"measure"}


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the package's sources that the registry and the plan look at."""
    copied = tmp_path / "package" / "dipline"
    shutil.copytree(registry.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    known = {kind: dict(registry.plugins(kind)) for kind in registry.FOLDERS}
    for found in known.values():
        for name, p in found.items():
            path = copied / p.path.relative_to(registry.PACKAGE)
            found[name] = registry.Plugin(p.kind, p.name, path, p.doc, p.literals)
    monkeypatch.setattr(registry.Plugin, "load", _load_original(registry.Plugin.load, copied, registry.PACKAGE))
    monkeypatch.setattr(registry, "plugins", lambda kind: known[kind])
    monkeypatch.setattr(planning, "HERE", copied)
    return copied


def _load_original(load, copied, package):
    """Plug-ins of the copy are read from it, but imported from the package."""
    return lambda p: load(registry.Plugin(p.kind, p.name, package / p.path.relative_to(copied), p.doc, p.literals))


@pytest.mark.parametrize(
    "file, touched",
    [
        ("methods/vanilla.py", {"dip", "es_dip", "skip"}),
        ("methods/aseq.py", {"aseq"}),
        ("baselines/tv.py", {"tv"}),
        ("baselines/base.py", {"tv"}),
        ("networks/skip.py", {"skip"}),
        ("networks/base.py", {"dip", "es_dip", "skip", "aseq"}),
        ("stopping/wmv.py", {"es_dip"}),
        ("stopping/emv.py", set()),
        ("methods/base.py", {"dip", "es_dip", "skip", "aseq", "tv"}),
        ("physics/sense.py", {"dip", "es_dip", "skip", "aseq", "tv"}),
        ("readers/cfl.py", set()),
        ("report/tables.py", set()),
    ],
)
def test_promise_4_code_of_one_plug_in(folder, sources, file, touched):
    """Design section 6, promise 4: editing a plug-in's file changes the arms that use it, and nothing else."""
    arms = ARMS | {
        "es_dip": {"method": "vanilla", "stop": {"wmv": {"window": 10}}, "iterations": 30},
        "skip": {"method": "vanilla", "network": "skip", "iterations": 30},
    }
    before = specs(config(folder, arms=arms))
    path = sources / file
    path.write_text(path.read_text() + "\n# another line\n")
    assert differing(before, specs(config(folder, arms=arms))) == {("reconstruct", a) for a in touched}


@pytest.mark.parametrize(
    "file, touched",
    [
        ("readers/fastmri.py", {"measure", "reference"}),
        ("readers/base.py", {"measure", "reference"}),
        ("measure.py", {"measure", "reference"}),
        ("acquire/masks.py", {"measure"}),
        ("calibrate/espirit.py", {"measure"}),
        ("score.py", set()),
    ],
)
def test_code_of_a_measurement(folder, sources, file, touched):
    before = specs(config(folder, arms=ARMS))
    path = sources / file
    path.write_text(path.read_text() + "\n# another line\n")
    assert differing(before, specs(config(folder, arms=ARMS))) == touched


def test_specs_do_not_depend_on_the_order_of_keys(folder):
    arms = ARMS | {
        "dip": {
            "method": "vanilla",
            "params": {"lr": 0.1, "clip": 1.0},
            "iterations": 30,
            "network": {"unet": {"widths": [4], "norm": "none"}},
        }
    }
    given = config(folder, arms=arms)

    def turned(node):
        return {k: turned(v) for k, v in reversed(node.items())} if isinstance(node, dict) else node

    assert differing(specs(given), specs(turned(copy.deepcopy(given)))) == set()


def test_specs_are_json_of_one_line(folder):
    for text in specs(config(folder, arms=ARMS)).values():
        assert "\n" not in text and json.loads(text)["code"]


def test_the_resolved_study_is_the_study(folder):
    given = config(folder, arms=ARMS, slices="middle 2") | {"seeds": [0, 3], "block": {"slices": 2}}
    plan = Plan.load(given)
    store.write_text(plan.root / "study.resolved.yaml", plan.resolved_yaml())
    again = Plan.open(plan.root)
    assert again.jobs == plan.jobs and again.volumes == plan.volumes and again.identity == plan.identity


def test_prepare_writes_once(folder):
    plan = planning.prepare(config(folder), ["my.yaml"])
    file = plan.root / "study.resolved.yaml"
    written = file.stat().st_mtime_ns
    planning.prepare(config(folder), ["my.yaml"])
    assert file.stat().st_mtime_ns == written
    file.unlink()
    planning.prepare(config(folder), ["my.yaml"], main=False)
    assert not file.exists()


def test_prepare_refuses_a_key_that_stands_twice(folder, tmp_path):
    """Snakemake reads the file itself and takes the second arm of that name without a word."""
    file = tmp_path / "twice.yaml"
    file.write_text("arms:\n  a: {method: tv}\n  a: {method: sense}\n")
    with pytest.raises(StudyError, match='twice.yaml, line 3: not YAML: the key "a" stands twice'):
        planning.prepare(config(folder), ["not-there.yaml", file])
    planning.prepare(config(folder), [file], main=False)


# ---------------------------------------------------------------- inputs of arms


def with_prior(folder, prior, **more):
    given = config(
        folder,
        arms={
            "tv": {"method": "tv", "datasets": ["d"]},
            "ref": {"method": "ref_guided", "datasets": ["d"], "inputs": {"prior": prior}},
        },
    )
    for name in ("a", "b", "c"):
        scan(folder.parent / "t1" / f"{name}.h5")
    given["datasets"]["t1"] = {
        "reader": "fastmri",
        "path": str(folder.parent / "t1"),
        "acquisitions": {"full": {"mask": "full"}},
        **more,
    }
    return given


def test_inputs_name_files(folder):
    inputs = Plan.load(with_prior(folder, {"dataset": "t1"})).inputs("d", "a", "R2", "ref", 0, "s001")
    assert inputs == {"prior": {"kind": "measurement", "file": "results/s/measurement/t1/a/full.h5", "slice": "same"}}
    inputs = Plan.load(with_prior(folder, {"dataset": "t1", "volume": "b", "slice": 2})).inputs(
        "d", "a", "R2", "ref", 0, "s001"
    )
    assert inputs["prior"] == {"kind": "measurement", "file": "results/s/measurement/t1/b/full.h5", "slice": 2}
    inputs = Plan.load(with_prior(folder, {"arm": "tv"})).inputs("d", "a", "R2", "ref", 5, "s001")
    assert inputs["prior"] == {"kind": "recon", "file": "results/s/recon/d/a/R2/tv/seed0/s001.h5", "slice": "same"}


# ---------------------------------------------------------------- size


def test_a_large_cohort_is_planned_by_look_ups(tmp_path, monkeypatch, record_property):
    """200 volumes x 16 slices x 4 acquisitions x 10 arms: a spec is made once for arm and acquisition."""
    monkeypatch.chdir(tmp_path)
    params = {"patients": 200, "slices": 16, "matrix": 320, "coils": 12}
    acquisitions = {f"R{r}": {"mask": "random", "acceleration": r} for r in (2, 4, 6, 8)}
    arms = {f"dip{i}": {"method": "vanilla", "params": {"lr": 1e-3 * (i + 1)}} for i in range(10)}
    given = {
        "study": "large",
        "datasets": {"d": {"reader": "phantom", "params": params, "acquisitions": acquisitions}},
        "arms": arms,
    }
    hashed, real = [], registry.code_hash
    monkeypatch.setattr(registry, "code_hash", lambda files: hashed.append(1) or real(files))
    start = time.perf_counter()
    plan = Plan.load(given)
    blocks = 0
    for job in plan.jobs:
        (
            plan.score(job),
            plan.memory(job),
            plan.minutes(job, "s000"),
            plan.reconstruct_spec(job.dataset, job.acq, job.arm),
            plan.measure_spec(job.dataset, job.acq),
        )
        for name, file in zip(plan.blocks(job.dataset, job.volume, job.arm), plan.recons(job), strict=True):
            plan.inputs(*job, name), plan.block_slices(job, name)
            blocks += file.endswith(f"{name}.h5")
    record_property("seconds", time.perf_counter() - start)
    assert len(plan.jobs) == 8000 and blocks == 128_000
    assert len(hashed) == 4 * 10 + 4 + 1, "arms, measurements, the reader"


def test_resolved_models_are_literals():
    """What a job's identity holds can be written and read back without loss."""
    for name in registry.plugins("methods"):
        resolved = studies.resolve(studies.checked_arm({"method": name}))
        assert json.loads(json.dumps(resolved)) == resolved and ast.literal_eval(repr(resolved)) == resolved
