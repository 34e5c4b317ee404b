"""The plan of a study: what only the scans show, said at once; jobs without their inputs; what a change computes again."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from test_index import ARMS, R2, config, scan, volumes, with_prior

from dipline import plan as planning
from dipline import preview, registry, store
from dipline import study as studies
from dipline.acquire import masks
from dipline.plan import Job, Plan
from dipline.report import cite, tables
from dipline.study import StudyError

PRIOR = {"dataset": "t1"}
KEY = "arms.ref.inputs.prior"


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Three good scans; results go to a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("abc"):
        scan(tmp_path / "scans" / f"{name}.h5", seed=i)
    return tmp_path / "scans"


def refused(given, **more):
    """All problems of a study, without the file's name."""
    with pytest.raises(StudyError) as error:
        Plan.load(given, "my.yaml", **more)
    assert all(p.startswith("my.yaml: ") for p in error.value.problems)
    return [p.removeprefix("my.yaml: ") for p in error.value.problems]


# ---------------------------------------------------------------- all at once


def test_promise_6_study_and_scans_at_once(scans):
    """Design section 6, promise 6. A wrong method hid every problem of the scans: they came one call later, the inputs of arms
    another call later, one at a time and in a stack trace."""
    (scans / "b.h5").write_bytes(b"no HDF5")
    given = with_prior(scans, {"dataset": "t1", "slice": 1}, slices=[0]) | {"seedz": [1]}
    given["datasets"]["d"]["volumes"] = ["a", "b", "zz"]
    given["datasets"]["e"] = {"reader": "fastmri", "path": str(scans), "acquisitions": {"R9": {"mask": "magic"}}, "volumes": ["yy"]}
    (scans / "none").mkdir()
    given["datasets"]["f"] = {"reader": "fastmri", "path": str(scans / "none"), "acquisitions": {"R2": R2}}
    given["arms"]["dip"] = {"method": "vanila"}
    found = refused(given)
    starts = [
        "seedz: unknown", "datasets.e.acquisitions.R9.acceleration: missing", "arms.dip.method: no such plug-in",
        f"datasets.f.path: {scans}/none: holds no .h5 file", 'datasets.d.volumes: no volume "zz"', 'datasets.e.volumes: no volume "yy"',
        f"{KEY}: slice 1 of t1/a is not among its chosen slices", f"left out: d/b: {scans}/b.h5: ",
    ]  # fmt: skip
    assert [f.startswith(s) for f, s in zip(found, starts, strict=True)] == [True] * len(starts), found
    assert not Path("results").exists(), "nothing is written for a study that cannot run"


def test_scans_of_a_faulty_dataset_are_not_looked_for(scans):
    given = config(scans) | {"strict": True}
    given["datasets"]["d"] |= {"reader": "fastmry", "volumes": ["zz"]}
    given["datasets"]["g"] = {"reader": "fastmri", "path": "gone", "volumes": ["zz"], "acquisitions": {"R2": R2}}
    assert [p.split(": ")[0] for p in refused(given)] == ["datasets.d.reader", "datasets.g.path"]


@pytest.mark.parametrize("name", ["../a", "x/y", "two words", "{a}", "..", ""])
def test_volumes_of_the_study_have_names_of_folders(scans, name):
    """A name that could leave results/, or that Snakemake would take for a wildcard, was told to be missing, and nothing else."""
    (found,) = refused(config(scans, volumes=["a", name]))
    assert found == f'datasets.d.volumes: no volume "{name}" in {scans}; allowed: letters, digits, ".", "_", "-", a letter or digit first'
    Path("names.txt").write_text(f"a\n{name or '..'}\n")
    assert refused(config(scans, volumes={"list": "names.txt"})) == [found.replace('""', '".."')]


# ---------------------------------------------------------------- inputs of arms


@pytest.mark.parametrize(
    "prior, more, said",
    [
        (PRIOR | {"volume": "z"}, {}, f'{KEY}: dataset t1 has no volume "z"; name one that it has'),
        (PRIOR | {"volume": "patient_on"}, {}, f'{KEY}: dataset t1 has no volume "patient_on"; did you mean "patient_one"?; name …'),
        (PRIOR, {"slices": [0]}, f"{KEY}: slice 1 of t1/a is not among its chosen slices (2 more like this); widen slices: of dataset t1"),
        (PRIOR, {"volumes": ["patient_one"]}, f"{KEY}: dataset t1 has no volume of the name of any in d; name one by volume:"),
        ({"arm": "tv"}, {}, f"{KEY}: the blocks of ref are larger than those of tv; give both the same block"),
    ],
)
def test_promise_6_inputs_that_do_not_fit(scans, prior, more, said):
    """Design section 6, promise 6: faults of arm inputs are faults of the study; they came from within Snakemake's graph of jobs."""
    scan(scans.parent / "t1" / "patient_one.h5")
    given = with_prior(scans, prior, **more)
    given["arms"]["ref"]["block"] = {"slices": 2}
    (found,) = refused(given)
    assert found.startswith(said.removesuffix("…")) if said.endswith("…") else found == said


@pytest.mark.parametrize("fault", ["broken", "absent", "short"])
def test_promise_8_a_prior_that_is_not_there_costs_its_jobs_alone(scans, fault):
    """Design section 6, promise 8. One broken prior scan ended the whole study with a stack trace from Snakemake's graph of jobs."""
    given = with_prior(scans, PRIOR)
    given["arms"]["next"] = {"method": "ref_guided", "datasets": ["d"], "inputs": {"prior": {"arm": "ref"}}}
    prior = scans.parent / "t1" / "b.h5"
    if fault == "broken":
        prior.write_bytes(b"no HDF5")
    elif fault == "absent":
        prior.unlink()
    else:
        scan(prior, slices=2)
    plan = planning.prepare(given, ["my.yaml"])
    missing = {(j.volume, j.arm) for j in plan.possible} - {(j.volume, j.arm) for j in plan.jobs}
    assert missing == {("b", "ref"), ("b", "next")} and volumes(plan) == ["a", "b", "c"]
    said = {"broken": "t1/b is left out (", "absent": "dataset t1 has no volume b", "short": "t1/b has slices 0 to 1, needed: 2"}[fault]
    assert plan.unfed["d", "b", "R2", "ref"].startswith(f"{KEY}: {said}")
    assert plan.unfed["d", "b", "R2", "next"].startswith(f"arms.next.inputs.prior: ref cannot run on d/b: {KEY}: {said}")
    assert sum(f"left out: d/b: {KEY}: {said}" in line for line in preview.text(plan).splitlines()) == 1
    for job in plan.jobs:
        for block in plan.blocks(job.dataset, job.volume, job.arm):
            plan.inputs(*job, block)
    with pytest.raises(StudyError, match=re.escape(said)):
        plan.inputs("d", "b", "R2", "ref", 0, "s000")
    rows = tables.failures(Plan.open(plan.root))
    assert set(rows[rows.stage == "inputs"][["volume", "arm"]].itertuples(index=False, name=None)) == missing
    assert rows[(rows.stage == "inputs") & (rows.arm == "ref")].reason.item() == plan.unfed["d", "b", "R2", "ref"]


# ---------------------------------------------------------------- what scans allow


def own(mask, name="own.npy"):
    np.save(name, mask)
    return {"mask": "file", "file": name}


@pytest.mark.parametrize(
    "acquisition, more, said",
    [
        ({"mask": "gaussian", "acceleration": 8, "center_fraction": 0.3}, {}, "the centre alone has"),
        ({"mask": "gaussian", "acceleration": 4, "center_fraction": 0.05}, {}, "of 24 columns are a fully sampled centre"),
        ({"mask": "gaussian_2d", "acceleration": 30, "center_fraction": 0.3}, {}, "the centre alone has"),
        ({"mask": "poisson", "acceleration": 30}, {}, "poisson mask 16x24: acceleration 30.0 asks for 13 samples"),
        ({"mask": "magic", "acceleration": 3, "center_fraction": 0.25, "holdout": 0.95}, {}, "holdout: 0.95 of the acquired samples"),
        ({"mask": "equispaced", "acceleration": 4, "center_fraction": 0.2, "offset": 0}, {"crop": "image"}, "3 of 12 columns are"),
    ],
)
def test_masks_that_a_scan_does_not_allow(scans, acquisition, more, said):
    """The check drew fastMRI's masks alone, and on the width before a crop in the image: others failed in the first job of each scan."""
    for file in scans.glob("*.h5"):
        with h5py.File(file, "a") as h:
            h["reconstruction_rss"] = np.ones((3, 16, 12), np.float32)
    (found,) = refused(config(scans, acquisitions={"X": acquisition}, **more))
    key = "holdout" if said.startswith("holdout") else "mask"
    assert found.startswith(f"datasets.d.acquisitions.X.{key}: ") and said in found and found.endswith(" (a and 2 more)"), found


@pytest.mark.parametrize("crop, shape", [("readout", (8, 24)), ("full", (16, 24)), ("image", (8, 12))])
def test_a_mask_file_must_fit_the_scan_after_its_crop(scans, crop, shape):
    """A mask of another size passed the check, and every volume failed in its first job."""
    for file in scans.glob("*.h5"):
        with h5py.File(file, "a") as h:
            h["reconstruction_rss"] = np.ones((3, 8, 12), np.float32)
    whole = {"mine": own(np.ones(shape)), "lines": own(np.ones(shape[1]), "lines.npy")}
    assert volumes(Plan.load(config(scans, crop=crop, acquisitions=whole, maps={"method": "full"}))) == ["a", "b", "c"]
    (found,) = refused(config(scans, crop=crop, acquisitions={"mine": own(np.ones((shape[0] + 1, shape[1])))}))
    assert found.startswith("datasets.d.acquisitions.mine.mask: own.npy: mask of shape")
    assert f"allowed: ({shape[1]},) or ({shape[0]}, {shape[1]})" in found


def test_the_mask_that_is_tried_is_the_one_that_is_drawn(scans):
    """By the file's name: seed 0 may widen a narrow centre by chance where the scan's own seed does not."""
    mask, most = {"mask": "random", "acceleration": 2, "center_fraction": 0.125}, {}
    for i in range(20):
        scan(scans / f"v{i}.h5", slices=1)
    plan = Plan.load(config(scans, acquisitions={"X": mask}))
    for v in [*plan.volumes["d"], *(v for _, v in plan.problems)]:
        most[v] = masks.centre_columns(masks.cartesian("random", 24, 2, 0.125, masks.seed_of(f"{v}.h5"))[0])
    assert set(volumes(plan)) == {v for v, n in most.items() if n >= 4} and 0 < len(volumes(plan)) < len(most)


# 3 of 24 columns, too few for coil maps; 6 of 48 are not
NARROW = {"mask": "equispaced", "acceleration": 4, "center_fraction": 0.125, "offset": 0}


def test_promise_8_one_scan_does_not_allow_one_acquisition(scans):
    """An MRI scan on which one acquisition could not be made was left out as a whole; of a CT scan, that acquisition alone."""
    with h5py.File(scans / "b.h5", "w") as h:
        h["kspace"] = np.random.default_rng(3).standard_normal((3, 2, 16, 48, 2)).astype(np.float32).view(np.complex64)[..., 0]
    given = config(scans, acquisitions={"R2": R2, "R4": NARROW})
    plan = planning.prepare(given, ["my.yaml"])
    said = "acquisition R4: mask: 3 of 24 columns are a fully sampled centre; coil maps need 4"
    assert {(j.volume, j.acq) for j in plan.jobs} == {("a", "R2"), ("b", "R2"), ("b", "R4"), ("c", "R2")}
    assert [line.split(", good")[0] for line in plan.missing()] == [f"d/a: {said}", f"d/c: {said}"]
    rows = tables.failures(Plan.open(plan.root))
    assert set(rows[rows.stage == "inputs"][["volume", "acq"]].itertuples(index=False, name=None)) == {("a", "R4"), ("c", "R4")}
    assert rows[rows.stage == "inputs"].reason.str.startswith(said).all()
    assert [p.split(", good")[0] for p in refused(given | {"strict": True})] == [f"datasets.d: a: {said}", f"datasets.d: c: {said}"]


def test_a_scan_that_allows_no_acquisition_is_left_out(scans):
    with h5py.File(scans / "b.h5", "w") as h:
        h["kspace"] = np.random.default_rng(3).standard_normal((3, 2, 16, 48, 2)).astype(np.float32).view(np.complex64)[..., 0]
    plan = planning.prepare(config(scans, acquisitions={"R4": NARROW, "R6": NARROW | {"acceleration": 6}}), ["my.yaml"])
    assert volumes(plan) == ["b"] and {(j.volume, j.acq) for j in plan.jobs} == {("b", "R4"), ("b", "R6")} and not plan.unfed
    assert re.fullmatch("acquisition R4: mask: 3 of 24 .*; acquisition R6: mask: 3 of 24 .*", plan.problems["d", "a"])
    rows = tables.failures(Plan.open(plan.root))
    assert rows[rows.stage == "scan"].volume.tolist() == ["a", "c"]


def test_undersampled_scans_beside_full_ones(scans):
    """They were left out, although they can be taken as they were measured."""
    mask = np.zeros(24, np.float32)
    mask[::2] = mask[8:16] = 1
    scan(scans / "b.h5", mask=mask)
    both = {"R2": R2, "as_measured": {"holdout": 0.05}}
    plan = Plan.load(config(scans, acquisitions=both))
    lost = {(j.volume, j.acq) for j in plan.possible} - {(j.volume, j.acq) for j in plan.jobs}
    assert lost == {("b", "R2")} and "neither truth nor held-out" not in preview.text(plan)
    for name in "ac":
        scan(scans / f"{name}.h5", mask=mask)
    (found,) = refused(config(scans, acquisitions=both))
    assert found == (
        "datasets.d.acquisitions.R2.mask: found equispaced, allowed: as_measured: the scan is undersampled already; "
        "use acquisitions: {as_measured: {holdout: 0.05}} (a and 2 more)"
    )


# ---------------------------------------------------------------- the user's own files


def test_masks_and_maps_are_inputs_of_their_measurements(scans):
    """Whoever corrected mask.npy and ran again was told that there was nothing to do."""
    for name in ("a", "b"):
        np.save(f"maps_{name}.npy", np.ones((2, 16, 24), np.complex64))
    given = config(scans, maps={"file": "maps_{volume}.npy"}, acquisitions={"mine": own(np.arange(24) % 2), "R2": R2})
    plan = Plan.load(given)
    assert plan.given_files("d", "a", "mine") == ["own.npy", "maps_a.npy"] and plan.given_files("d", "b", "R2") == ["maps_b.npy"]
    assert plan.problems["d", "c"] == "maps_c.npy: no such file of coil maps; put it there, or leave the volume out"
    rule = (Path(__file__).parent.parent / "workflow/rules/measure.smk").read_text().split("rule measure:")[1]
    assert "given=own_files" in rule.split("output:")[0]


def test_maps_in_barts_pairs_are_two_files(scans, monkeypatch):
    given = config(scans, maps={"file": "$HOME/maps_{volume}.cfl"})
    monkeypatch.setenv("HOME", str(scans))
    plan = Plan.load(given)
    assert "maps_a.hdr: no such file" in plan.problems["d", "a"]
    assert plan.given_files("d", "a", "R2") == [f"{scans}/maps_a.hdr", f"{scans}/maps_a.cfl"]


def test_ct_has_no_files_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets = {"c": {"reader": "phantom_ct", "params": {"patients": 1, "matrix": 32}, "acquisitions": {"V9": {"views": 9}}}}
    plan = Plan.load({"study": "s", "datasets": datasets, "arms": {"fbp": {"method": "fbp"}}})
    assert plan.given_files("c", "patient_001", "V9") == []


# ---------------------------------------------------------------- the index on disk


ENTRY = '{"d": {"key": {"reader": "fastmri"}, "volumes": {"a": %s}}}'


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"d": 3}', ENTRY % "3", ENTRY % '{"files": ["a.h5"]}', b"\xff\xfe"])
def test_a_broken_index_is_made_again(scans, content):
    """A full disk had left half an index. Every later call, the check and Snakemake alike, ended with a stack trace."""
    plan = Plan.load(config(scans))
    file = plan.root / ".scans/index.json"
    whole = file.read_text()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert volumes(Plan.load(config(scans))) == ["a", "b", "c"] and file.read_text() == whole
    store.write_text(plan.root / "study.resolved.yaml", plan.resolved_yaml())
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert volumes(Plan.open(plan.root)) == ["a", "b", "c"]


def test_results_that_cannot_be_written(scans):
    """`dipline check` in somebody else's folder ended with a stack trace."""
    Path("results").write_text("a file where the folder should be")
    said = r"the folder results/ cannot be written \(.*results.*\); work in a folder that you own, with space left"
    for call in (lambda: Plan.load(config(scans)), lambda: planning.prepare(config(scans), ["my.yaml"])):
        with pytest.raises(StudyError) as error:
            call()
        assert len(error.value.problems) == 1 and re.fullmatch(said, error.value.problems[0])


def test_another_version_of_the_reader_looks_again(scans, monkeypatch):
    """A reader learned to read a scan that it had refused. The refusal stayed in the index, as neither path, size nor time had changed."""
    from dipline.readers import fastmri

    def refuse(files):
        raise ValueError("not yet")

    with monkeypatch.context() as old:
        old.setattr(fastmri, "inspect", refuse)
        assert volumes(Plan.load(config(scans))) == []
    assert volumes(Plan.load(config(scans))) == [], "the same code: the index is taken as it is"
    monkeypatch.setattr(registry, "code_hash", lambda files: f"new {sorted(f.stem for f in files)}")
    assert volumes(Plan.load(config(scans))) == ["a", "b", "c"]
    assert "fastmri" in json.loads(Path("results/s/.scans/index.json").read_text())["d"]["key"]["code"]


# ---------------------------------------------------------------- the resolved study and where results lie


def rich(scans):
    """A study that uses what a resolved study must keep: variants, first volumes, a bad scan, methods' defaults."""
    scan(scans / "two words.h5")
    (scans / "b.h5").write_bytes(b"no HDF5")
    arms = ARMS | {
        "guided": {"method": "self_guided", "stop": {"wmv": {"window": 20}}, "watch": ["min_loss"], "iterations": 50,
                   "penalty": {"tv": 0.1},
                   "per_acquisition": {"R4": {"params": {"lr": 0.5}, "network": {"unet": {"norm": "none"}}, "stop": "fixed",
                                              "penalty": {"tv": 0, "tv_isotropic": 0.2}},
                                       "R2": {"params": {"lr": 3e-4}}}},
        "skip": {"method": "vanilla", "network": "skip", "average": 0.5, "seeds": [3], "block": {"slices": 2}},
        "ref": {"method": "ref_guided", "datasets": ["d"], "inputs": {"prior": {"dataset": "t1"}}},
    }  # fmt: skip
    given = with_prior(scans, PRIOR) | {"seeds": [0, 1]}
    given["datasets"]["d"]["acquisitions"]["R4"] = {"mask": "random", "acceleration": 4, "center_fraction": 0.17, "noise_snr": 20}
    patients = {"reader": "phantom", "params": {"patients": 3, "matrix": 32}, "volumes": {"first": 2}}
    given["datasets"]["p"] = patients | {"acquisitions": {"R2": R2}}
    given["datasets"]["c"] = {"reader": "phantom_ct", "params": {"patients": 1}, "acquisitions": {"V9": {"views": 9, "photons": 1e5}}}
    return given | {"arms": arms}


def everything(plan):
    """All that Snakemake asks of a plan about its jobs."""
    jobs = {job: [plan.reconstruct_spec(job.dataset, job.acq, job.arm), plan.measure_spec(job.dataset, job.acq), plan.recons(job),
                  [plan.inputs(*job, b) for b in plan.blocks(job.dataset, job.volume, job.arm)]] for job in plan.jobs}  # fmt: skip
    return jobs, plan.volumes, plan.missing(), plan.identity, plan.shown()


def test_the_resolved_study_names_everything_and_is_the_same_study(scans):
    """The report said that study.resolved.yaml names every scan and parameter. It held the study as it was written, without a default."""
    plan = planning.prepare(rich(scans), ["my.yaml"])
    file = plan.root / "study.resolved.yaml"
    text, data = file.read_text(), studies.read(file)
    assert data["datasets"]["d"]["volumes"] == ["a", "b", "c", "two words"] and data["datasets"]["p"]["volumes"] == {"first": 2}
    assert data["datasets"]["p"]["params"]["contrast"] == "t2" and "crop" not in data["datasets"]["c"]
    tv = registry.get("methods", "tv")
    assert data["arms"]["tv"]["params"] == tv.defaults() and data["arms"]["tv"]["iterations"] == tv.get("ITERATIONS")
    assert data["arms"]["guided"]["per_acquisition"]["R4"]["network"]["unet"]["norm"] == "none"
    assert data["read_every"] == 20 and "&" not in text
    want = everything(plan)
    assert everything(planning.prepare(data, [file])) == want and file.read_text() == text
    assert everything(Plan.open(plan.root)) == want
    for acq in ("R2", "R4"):
        assert Plan.open(plan.root).study.resolved("guided", acq) == plan.study.resolved("guided", acq)
    assert [plan.study.resolved("guided", acq)["penalty"] for acq in ("R2", "R4")] == [{"tv": 0.1}, {"tv_isotropic": 0.2}]
    assert re.search(r"; total variation of the image added to the loss with weight 0\.1 ?\[\d+\]", " ".join(cite.methods_text(plan)[0]))


def test_a_report_of_results_that_lie_elsewhere(scans, tmp_path_factory, monkeypatch):
    """`dipline report /path/to/results/x` from another folder wrote an empty report to ./results/x, and said nothing."""
    np.save("own.npy", np.arange(24) % 2)
    given = config("scans", acquisitions={"mine": {"mask": "file", "file": "own.npy"}}, maps={"method": "full"})
    plan = planning.prepare(given, ["my.yaml"])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    again = Plan.open(scans.parent / "results" / "s")
    assert again.jobs == plan.jobs and len(again.jobs) == 3
    assert again.root == scans.parent / "results" / "s" and again.score(again.jobs[0]) == f"{again.root}/scores/d/a/mine/tv/seed0.json"
    tables.write(again)
    assert (again.root / "failures.csv").is_file() and not Path("results").exists()
    assert len(pd.read_csv(again.root / "failures.csv")) == 3


def test_a_study_that_is_no_longer_one_is_not_opened(scans):
    plan = planning.prepare(config(scans), ["my.yaml"])
    file = plan.root / "study.resolved.yaml"
    file.write_text(file.read_text().replace("method: tv", "method: tvv"))
    with pytest.raises(StudyError, match="study.resolved.yaml: arms.tv.method: no such plug-in"):
        Plan.open(plan.root)
    planning.prepare(config(scans), ["my.yaml"])
    shutil.rmtree(scans)
    assert len(Plan.open(plan.root).jobs) == 3, "the scans of a finished study may be gone"
    (plan.root / ".scans/index.json").unlink()
    with pytest.raises(StudyError, match="study.resolved.yaml: datasets.d.path: .*no such file or folder"):
        Plan.open(plan.root)


def test_results_of_a_study_that_was_only_checked_since(scans):
    """Somebody tried another folder of scans with `dipline check`, and the report of what had run before ended with a stack trace."""
    planning.prepare(config(scans, volumes=["a", "b"]), ["my.yaml"])
    scan(scans.parent / "other" / "x.h5")
    given = config(scans.parent / "other")
    given["datasets"]["e"] = given["datasets"].pop("d")
    Plan.load(given)
    assert volumes(Plan.open("results/s")) == ["a", "b"]


# ---------------------------------------------------------------- identity and cost


def test_code_of_a_whole_folder(scans, tmp_path, monkeypatch):
    """Four of the report's ten files made its identity: editing another left an old report."""
    package = tmp_path / "package"
    for name in ("report/a.py", "report/b.css", "score.py"):
        store.write_text(package / name, name)
    monkeypatch.setattr(planning, "HERE", package)
    plan = Plan.load(config(scans))
    before = plan.code("report/*"), plan.code("score.py")
    (package / "report" / "b.css").write_text("other")
    (package / "report" / "__pycache__").mkdir()
    plan = Plan.load(config(scans))
    assert plan.code("report/*") != before[0] and plan.code("score.py") == before[1]
    files = set()
    monkeypatch.setattr(planning, "HERE", registry.PACKAGE)
    monkeypatch.setattr(registry, "code_hash", lambda found: str(files.update(f.name for f in found)))
    Plan.load(config(scans)).code("report/*")
    assert {"answer.py", "provenance.py", "style.py", "report.css", "report.html.j2", "tables.py"} <= files


def test_threads_of_a_reconstruction_do_not_measure_again(scans):
    """The number of threads, which nothing in a measurement uses, stood in its identity: threads: 2 measured every scan again."""
    one, two = (Plan.load(config(scans) | {"threads": n}).measure_spec("d", "R2") for n in (1, 2))
    assert one == two


def test_minutes_are_those_of_all_slices_of_a_block(scans):
    arms = {"dip": {"method": "vanilla", "iterations": 20000, "block": {"slices": 2}}}
    plan = Plan.load(config(scans, arms=arms) | {"device": "cpu"})
    job = Job("d", "a", "R2", "dip", 0)
    two, one = (plan.minutes(job, block) - 10 for block in ("s000-001", "s002"))
    assert one > 10 and two == pytest.approx(2 * one, abs=2)


# Milliseconds of a step on one thread of an AMD EPYC of two cores, as results have them (`seconds` / `iterations`): while the demo
# ran on both cores of a shared machine, and alone.
STEPS = {
    ("brain", "R4", "zero_filled"): (11.8,), ("brain", "R4", "sense"): (9.6,), ("brain", "R8", "sense"): (14.0,),
    ("brain", "R4", "l1_wavelet"): (15.1,), ("brain", "R4", "tv"): (12.8,), ("brain", "R8", "tv"): (8.3,),
    ("brain", "R4", "dip"): (46.9,), ("brain", "R4", "es_dip"): (54.1,), ("brain", "R4", "self_guided"): (57.3,),
    ("brain", "R4", "aseq_dip"): (49.5,),
    ("torso", "V12", "fbp"): (2.8,), ("torso", "V30", "fbp"): (3.7,), ("torso", "V12", "sirt"): (1.2,), ("torso", "V30", "sirt"): (3.4,),
    ("torso", "V12", "tv"): (4.6,), ("torso", "V30", "tv"): (7.7,), ("torso", "V12", "dip"): (41.8, 12),
    ("torso", "V30", "dip"): (51.4, 17), ("torso", "V30", "es_dip"): (46.4, 17),
    ("torso", "V12", "self_guided"): (63.0,), ("torso", "V30", "self_guided"): (46.1,),
    ("torso", "V12", "aseq_dip"): (50.0,), ("torso", "V30", "aseq_dip"): (62.8,),
    ("large", "V18", "dip"): (185,), ("large", "V60", "dip"): (185,),
}  # fmt: skip


def test_cost_is_that_of_recorded_steps(tmp_path, monkeypatch):
    """A network on CT slices of 512 x 512 took a third of the hours that `dipline check` had said."""
    monkeypatch.chdir(tmp_path)
    demo = studies.read(Path(__file__).parent.parent / "config" / "demo.yaml")
    large = {"reader": "phantom_ct", "params": {"patients": 1, "slices": 1, "matrix": 512}}
    demo["datasets"]["large"] = large | {"acquisitions": {"V18": {"views": 18}, "V60": {"views": 60}}}
    plan = Plan.load(demo)
    for (dataset, acq, arm), recorded in STEPS.items():
        seconds, _ = plan.cost(dataset, next(iter(plan.volumes[dataset])), acq, arm)
        step = 1e3 * seconds / plan.study.resolved(arm, acq)["iterations"]
        for found in recorded:
            assert found / 3 < step < found * 3, (dataset, acq, arm, step, found)


# ---------------------------------------------------------------- what check says


def finish(plan, given=True):
    """Leave files as if every job had run."""
    for job in plan.jobs:
        spec = json.loads(plan.measure_spec(job.dataset, job.acq))
        chosen = {s: {} for s in plan.volumes[job.dataset][job.volume]["chosen"]}
        store.write(plan.measurement(*job[:3]), chosen, {"status": "done", "provenance": {"spec": spec}})
        for block, file in zip(plan.blocks(job.dataset, job.volume, job.arm), plan.recons(job), strict=True):
            provenance = {"spec": json.loads(plan.reconstruct_spec(job.dataset, job.acq, job.arm))}
            provenance |= {"given": plan.inputs(*job, block)} if given else {}
            store.write(file, {}, {"kind": "recon", "status": "done", "provenance": provenance})


@pytest.mark.parametrize("given, line", [(True, "to compute: 9 changed, 9 done"), (False, "to compute: 18 done")])
def test_check_tells_of_another_prior(scans, given, line):
    """Another slice of the prior is another image: Snakemake made the arm again, the check had promised that all was done.
    Files of a version that did not note the inputs count as unchanged."""
    before = with_prior(scans, PRIOR)
    before["arms"]["tv"]["datasets"] = ["d"]
    finish(Plan.load(before), given)
    finish_prior(Plan.load(before))
    assert "to compute: 18 done" in preview.text(Plan.load(before))
    before["arms"]["ref"]["inputs"]["prior"] = PRIOR | {"slice": 2}
    said = preview.text(Plan.load(before))
    assert line in said and ("again: 9 of ref (changed: inputs)" in said) == given
    before["arms"]["ref"]["inputs"]["prior"] = PRIOR
    before["datasets"]["t1"]["crop"] = "full"
    assert "again: 9 of ref (changed: inputs)" in preview.text(Plan.load(before)), "the prior itself is made again"


def finish_prior(plan):
    for v in plan.volumes["t1"]:
        chosen = {s: {} for s in plan.volumes["t1"][v]["chosen"]}
        spec = json.loads(plan.measure_spec("t1", "full"))
        store.write(plan.measurement("t1", v, "full"), chosen, {"status": "done", "provenance": {"spec": spec}})


def test_check_follows_a_change_to_those_that_are_given_its_results(scans):
    before = with_prior(scans, {"arm": "tv"})
    finish(Plan.load(before))
    before["arms"]["tv"]["params"] = {"lam": 0.5}
    said = preview.text(Plan.load(before))
    assert "to compute: 18 changed" in said
    assert "again: 9 of tv (changed: arm)" in said and "again: 9 of ref (changed: inputs)" in said


@pytest.mark.parametrize("acquisition, warned", [({}, True), ({"holdout": 0.05}, False)])
def test_check_warns_where_nothing_can_be_judged(scans, acquisition, warned):
    mask = np.zeros(24, np.float32)
    mask[::2] = mask[8:16] = 1
    for v in "abc":
        scan(scans / f"{v}.h5", mask=mask)
    said = preview.text(Plan.load(config(scans, acquisitions={"as_measured": acquisition})))
    assert ("note: as_measured: neither truth nor held-out samples" in said) == warned


def test_retry_takes_half_a_score_for_failed(scans):
    """A node died while it wrote a score. `dipline retry`, which is there for that, ended with a stack trace."""
    plan = planning.prepare(config(scans), ["my.yaml"])
    a, b, c = (Path(plan.score(job)) for job in plan.jobs)
    store.write_text(a, '{"status": "do')
    store.write_text(b, "[]")
    store.write_text(c, '{"status": "done"}')
    assert preview.remove_failed(Plan.open(plan.root)) == [str(a), str(b)] and c.exists() and not a.exists()


# ---------------------------------------------------------------- what CT scans allow

BEAM = {"views": 9, "geometry": "fanflat", "detector_mm": 100}


def torsos(**acquisitions):
    chest = {"reader": "phantom_ct", "params": {"matrix": 32, "slices": 1, "patients": 2}, "acquisitions": acquisitions}
    return {"study": "s", "datasets": {"chest": chest}, "arms": {"fbp": {"method": "fbp"}}}


def test_promise_6_source_within_the_image(tmp_path, monkeypatch):
    """Design section 6, promise 6. A source 10 mm from the centre of an image of 400 mm passed the check; every job failed."""
    monkeypatch.chdir(tmp_path)
    said = "datasets.chest.acquisitions.near.source_mm: found 10, allowed: above 282.843, half the image's diagonal"
    assert refused(torsos(near=BEAM | {"source_mm": 10}, far=BEAM | {"source_mm": 300})) == [f"{said} (patient_001 and 1 more)"]
    Plan.load(torsos(far=BEAM | {"source_mm": 300}))


@pytest.mark.parametrize(
    "more, found",
    [
        ({"detectors": 2, "detector_width": 900}, "detectors: found 2 cells of 900 mm, of which no ray comes nearer to the axis than 450"),
        ({"detector_width": 480}, "detector_width: found 2 cells of 480 mm, of which no ray comes nearer to the axis than 240 mm"),
        ({"geometry": "fanflat", "scanner": "aapm", "detectors": 4, "detector_width": 800}, "detectors: found 4 cells of 800 mm, of which"),
    ],
)
def test_promise_6_rays_that_miss_the_image(tmp_path, monkeypatch, more, found):
    """Design section 6, promise 6. Two cells of 900 mm have two rays, 450 mm beside the axis: the jobs alone said that they miss."""
    monkeypatch.chdir(tmp_path)
    (told,) = refused(torsos(V9={"views": 9, **more}))
    assert told.startswith(f"datasets.chest.acquisitions.V9.{found}")
    assert told.endswith("allowed: less than 200, half the image's side; take more and narrower ones (patient_001 and 1 more)")
    Plan.load(torsos(V9={"views": 9, **more, "detectors": 3}))


def test_check_says_what_the_rays_miss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = preview.text(Plan.load(torsos(V9={"views": 9}, V9d={"views": 9, "detectors": 4})))
    notes = [line for line in text.splitlines() if line.startswith("  note: V9")]
    assert notes == ["  note: V9d: truncated: the detector sees a circle of 50 mm, the image has a diagonal of 565.7 mm (2 volume(s))"]


def test_promise_8_one_scan_is_too_large_for_the_scanner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = torsos(near=BEAM | {"source_mm": 250}, V9={"views": 9})
    given["arms"]["ref"] = {"method": "ref_guided", "inputs": {"prior": {"arm": "fbp"}}}
    sizes = {"patient_001": 12.5, "patient_002": 5}
    entries = {v: {"files": ["x"], "slices": 1, "shape": [1, 32, 32], "voxel": [mm, mm, 5]} for v, mm in sizes.items()}
    plan = Plan(studies.load(given), {"chest": {"volumes": entries}}, "results/s")
    assert plan.faults == [] and len(plan.possible) == 8
    lost = {(j.volume, j.acq, j.arm) for j in plan.possible} - {(j.volume, j.acq, j.arm) for j in plan.jobs}
    assert lost == {("patient_001", "near", "fbp"), ("patient_001", "near", "ref")}
    assert [line.split(", half")[0] for line in plan.missing()] == [
        "chest/patient_001: acquisition near: source_mm: found 250, allowed: above 282.843"
    ]
