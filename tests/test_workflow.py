"""The workflow itself: the smoke study whole, its files, what a change runs again, determinism, blindness, failures."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT

from dipline import store

pytestmark = pytest.mark.xdist_group("workflow")
SNAKEMAKE = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
FLAGS = ["--keep-going", "--rerun-incomplete"]  # what profiles/default says when the working directory is the checkout


def snakemake(folder, study, *more, check=True):
    """Run the workflow on a study (a dict) in a folder of its own; the finished process."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    line = [*SNAKEMAKE, "--configfile", "study.yaml", *FLAGS, *more]
    run = subprocess.run(line, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and run.returncode:
        logs = "\n".join(f"{p}: {p.read_text()[-400:]}" for p in folder.glob("logs/**/*.log"))
        pytest.fail(f"{run.stdout[-2000:]}\n{run.stderr[-4000:]}\n{logs[-4000:]}")
    return run


def planned(folder, study, *more):
    """{rule: [(reason, wildcards)]} of a dry run."""
    run = snakemake(folder, study, "-n", *more)
    text, found, rule, entry = run.stdout + run.stderr, {}, None, {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("rule ", "localrule ")):
            rule, entry = stripped.split()[1].rstrip(":"), {}
            found.setdefault(rule, []).append(entry)
        elif rule and ": " in stripped and line.startswith("    "):
            key, _, value = stripped.partition(": ")
            entry[key] = value
    return found


def smoke():
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())


def checksums(folder, study="smoke"):
    """{recon file: checksums of its images}"""
    root = folder / "results" / study
    files = sorted(p for p in root.glob("recon/**/*.h5") if not p.name.endswith(".snapshots.h5"))
    return {str(p.relative_to(root)): [i.get("checksum") for i in store.read(p, names=())[1].values()] for p in files}


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A folder in which the smoke study has run."""
    folder = tmp_path_factory.mktemp("smoke")
    snakemake(folder, smoke())
    return folder


@pytest.fixture
def copied(done, tmp_path):
    """The finished study in a folder that a test may change; times and Snakemake's records come along."""
    shutil.copytree(done, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_a_group_stays_on_one_worker(request):
    """pytest 9.2 with pytest-xdist 3.8 spreads groups without a word, and every worker runs the smoke study for itself."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@workflow")


def test_golden_list_of_files(done):
    root = done / "results" / "smoke"
    volumes = {"patient_041", "patient_042"}
    assert {p.stem for p in root.glob("scans/brain/*.h5")} == volumes
    expected = [
        "metrics.csv",
        "failures.csv",
        "statistics.csv",
        "report.html",
        "study.resolved.yaml",
        "CITATION.md",
        ".scans/index.json",
    ]
    assert [f for f in expected if not (root / f).is_file()] == []
    assert {p.name for p in (root / "tables").glob("brain_psnr.*")} == {
        "brain_psnr.csv",
        "brain_psnr.md",
        "brain_psnr.tex",
    }
    assert {str(p.relative_to(root / "figures")) for p in root.glob("figures/**/*.png")} == {
        *(f"panels/brain/{acq}/{v}.png" for acq in ("R2", "R4") for v in volumes), *(f"curves/brain/{acq}.png" for acq in ("R2", "R4")),
    }  # fmt: skip
    assert {p.name for p in (root / "volumes/dip/brain/R4/seed0").iterdir()} == {
        f"{v}{suffix}" for v in volumes for suffix in (".nii.gz", ".h5")
    }
    assert not list((root / ".state").glob("**/*.h5")), "states are removed once the score has seen the result"
    assert not list(root.glob("**/*.part"))


def test_metrics_are_tidy_and_complete(done):
    m = pd.read_csv(done / "results" / "smoke" / "metrics.csv", keep_default_na=False)
    columns = ["study", "dataset", "modality", "volume", "slice", "acq", "acceleration", "views", "arm", "seed", "metric", "which", "value"]
    assert list(m.columns) == columns
    status = m[m.metric == "status"]
    assert len(status) == 2 * 2 * (2 + 2 + 1) and (status.value.astype(float) == 1).all()
    stopped = m[(m.metric == "psnr") & (m.slice == "") & (m.which == "stopped")]
    assert Counter(stopped.arm) == {"zero_filled": 4, "tv": 4, "dip": 8, "aseq_dip": 4}


def test_psnr_in_the_table_is_that_of_the_files(done):
    """One number by hand: reconstruction and reference read with h5py, fastMRI's formula."""
    root = done / "results" / "smoke"
    with h5py.File(root / "recon/brain/patient_041/R4/tv/seed0/s000-001.h5") as f:
        image = np.stack([f[f"slices/{s:03d}/view"][()] for s in (0, 1)])
    with h5py.File(root / "scans/brain/patient_041.h5") as f:
        truth = f["reconstruction_rss"][()]
    want = 10 * np.log10(truth.max() ** 2 / np.mean((truth.astype(float) - image) ** 2))
    m = pd.read_csv(root / "metrics.csv", keep_default_na=False)
    row = m[
        (m.volume == "patient_041")
        & (m.acq == "R4")
        & (m.arm == "tv")
        & (m.metric == "psnr")
        & (m.which == "stopped")
        & (m.slice == "")
    ]
    assert float(row.value.iloc[0]) == pytest.approx(want, abs=1e-3)


def test_promise_1_no_reference_among_the_inputs_of_reconstruct(done):
    """Visible in the job graph: nothing that reconstruct reads depends on the rule reference."""
    run = snakemake(done, smoke(), "--dag", "--forceall")
    edges = [line.split("->") for line in run.stdout.splitlines() if "->" in line]
    label = {
        line.split("[")[0].strip(): line.split('label = "')[1].split("\\n")[0].split('"')[0]
        for line in run.stdout.splitlines()
        if "label = " in line
    }
    before = {}
    for a, b in edges:
        before.setdefault(b.split("[")[0].strip().rstrip(";"), set()).add(a.strip())
    reached, todo = set(), [n for n, rule in label.items() if rule == "reconstruct"]
    assert todo and "reference" in label.values()
    while todo:
        for n in before.get(todo.pop(), ()):
            if n not in reached:
                reached.add(n)
                todo.append(n)
    assert {label[n] for n in reached} == {"measure", "simulate"}


def test_promise_1_blind_without_the_references_the_same_bits(copied):
    root = copied / "results" / "smoke"
    want = checksums(copied)
    (root / "reference").rename(copied / "hidden")
    for f in (root / "scans").glob("*/*.h5"):  # the scans' own stored reconstruction as well
        with h5py.File(f, "r+") as h:
            h["reconstruction_rss"][...] = 0
    target = "results/smoke/recon/brain/patient_041/R4/dip/seed1/s000-001.h5"
    (copied / target).unlink()
    snakemake(copied, smoke(), "--rerun-triggers", "params", "code", "--", target)
    assert checksums(copied) == want


def test_a_second_run_does_nothing_and_says_so(copied):
    run = snakemake(copied, smoke())
    assert "Nothing to be done" in run.stdout + run.stderr


def test_two_runs_same_bits(done, tmp_path):
    study = smoke()
    study["datasets"]["brain"]["params"]["patients"] = 1
    study["arms"] = {k: study["arms"][k] for k in ("tv", "dip")}
    snakemake(tmp_path, study)
    ours = checksums(tmp_path)
    assert ours and ours == {k: v for k, v in checksums(done).items() if k in ours}


def test_promise_4_one_parameter_of_one_arm_runs_that_arm_alone(copied):
    study = smoke()
    study["arms"]["dip"]["params"]["lr"] = 0.02
    found = planned(copied, study)
    assert {e["wildcards"].split("arm=")[1].split(",")[0] for e in found["reconstruct"]} == {"dip"}
    assert len(found["reconstruct"]) == 8 and all("Params have changed" in e["reason"] for e in found["reconstruct"])
    assert "measure" not in found and "reference" not in found and "simulate" not in found


def sources_in(folder):
    """A copy of the checkout's sources."""
    ignored = shutil.ignore_patterns(".git", ".venv", "results", "logs", ".snakemake", "__pycache__")
    return Path(shutil.copytree(ROOT, folder / "sources", ignore=ignored))


def test_promise_4_editing_one_method_runs_its_arms_alone(copied, tmp_path):
    """In a copy of the sources, as an author would."""
    sources = sources_in(tmp_path)
    (sources / "src" / "dipline" / "methods" / "aseq.py").open("a").write("\n# a comment\n")
    found = planned(
        copied,
        smoke(),
        "--snakefile",
        str(sources / "Snakefile"),
        "--rerun-triggers",
        "params",
        "mtime",
        "input",
        "software-env",
    )
    assert {e["wildcards"].split("arm=")[1].split(",")[0] for e in found["reconstruct"]} == {"aseq_dip"}
    assert "measure" not in found


def test_promise_4_a_new_arm_and_a_new_patient_run_only_what_is_new(copied):
    study = smoke()
    study["arms"]["sense"] = {"method": "sense"}
    found = planned(copied, study)
    assert {e["wildcards"].split("arm=")[1].split(",")[0] for e in found["reconstruct"]} == {"sense"} and len(
        found["reconstruct"]
    ) == 4
    study = smoke()
    study["datasets"]["brain"]["params"]["patients"] = 3
    found = planned(copied, study)
    assert {"patient_043"} == {
        e["wildcards"].split("volume=")[1].split(",")[0]
        for r in ("simulate", "measure", "reconstruct")
        for e in found[r]
    }


def test_promise_5_every_number_leads_back(done):
    root = done / "results" / "smoke"
    attributes = store.attributes(root / "recon/brain/patient_041/R4/dip/seed1/s000-001.h5")
    p = attributes["provenance"]
    assert {
        "command",
        "dipline",
        "commit",
        "versions",
        "spec",
        "inputs",
        "host",
        "time",
        "device",
        "threads",
        "seed",
    } <= set(p)
    assert p["seed"] == 1 and p["spec"]["arm"]["params"]["lr"] == 0.01 and p["versions"]["torch"].startswith("2.")
    assert p["inputs"]["results/smoke/measurement/brain/patient_041/R4.h5"] == store.file_hash(root / "measurement/brain/patient_041/R4.h5")


def test_promise_2_stopped_and_peak_stand_in_columns_of_their_own(done):
    table = pd.read_csv(done / "results" / "smoke" / "tables" / "brain_psnr.csv", header=None, dtype=str).to_string()
    assert "stopped" in table and "peak" in table


def folder_of_scans(folder, *names):
    """A folder with a tiny scan of each name, and the dataset that reads it."""
    from dipline.readers import phantom

    folder.mkdir()
    params = {
        "patients": 1, "first_seed": 7, "slices": 1, "matrix": 32, "coils": 4, "contrast": "t2", "time_point": 0, "noise": 0.007,
    }  # fmt: skip
    for name in names:
        phantom.write("patient_007", folder / f"{name}.h5", **params)
    acquisitions = {"R2": {"mask": "random", "acceleration": 2, "center_fraction": 0.3}}
    return {"reader": "fastmri", "path": str(folder), "acquisitions": acquisitions}


@contextlib.contextmanager
def read_only(folder):
    """The folder with nothing writable in it, for root as well, who needs a mount for that; skips where that is not permitted."""

    def mount(*how):
        return subprocess.run([*how, str(folder)], capture_output=True).returncode == 0

    everything, root = [*folder.iterdir(), folder], os.getuid() == 0
    bound = root and mount("mount", "--bind", str(folder))
    if root and not (bound and mount("mount", "-o", "remount,bind,ro")):
        if bound:
            mount("umount")
        pytest.skip("root writes everywhere, and mount --bind is not permitted here")
    for path in () if root else everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        if root:
            assert mount("umount")
        for path in () if root else everything:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_folder_of_scans_works(tmp_path):
    """The two rules that open scans."""
    dataset = folder_of_scans(tmp_path / "scans", "good")
    study = {"study": "ro", "datasets": {"knee": dataset}, "arms": {"zero_filled": {"method": "zero_filled"}}, "device": "cpu"}
    with read_only(tmp_path / "scans"):
        with pytest.raises(OSError):
            (tmp_path / "scans" / "written").touch()
        snakemake(tmp_path, study, "--until", "measure", "reference")
    for file in ("reference/knee/good.h5", "measurement/knee/good/R2.h5"):
        assert store.attributes(tmp_path / "results/ro" / file)["status"] == "done"


def test_no_usable_scan_still_gives_a_report(tmp_path):
    """The folders of tables and volumes were never made, so that Snakemake ended with MissingOutputException."""
    dataset = folder_of_scans(tmp_path / "scans")
    (tmp_path / "scans" / "bad.h5").write_bytes(b"no HDF5")
    study = {"study": "none", "datasets": {"knee": dataset}, "arms": {"zero_filled": {"method": "zero_filled"}}}
    snakemake(tmp_path, study)
    page = (tmp_path / "results/none/report.html").read_text()
    assert "No scan could be used: 1 scan left out" in page and "all jobs have a result" not in page


def test_promise_8_one_bad_scan_does_not_cost_the_cohort(tmp_path):
    """A truncated, a NaN and a good scan: the good one is finished, the bad ones are named in the report."""
    scans = tmp_path / "scans"
    dataset = folder_of_scans(scans, "good", "truncated", "poisoned")
    data = (scans / "truncated.h5").read_bytes()
    (scans / "truncated.h5").write_bytes(data[: len(data) // 2])
    with h5py.File(scans / "poisoned.h5", "r+") as f:
        f["kspace"][0, 1, 3, 4] = np.nan
    diverging = {
        "method": "vanilla", "network": {"skip": {"widths": [4], "skip_widths": [0]}}, "params": {"lr": 1e12}, "iterations": 40,
    }  # fmt: skip
    study = {
        "study": "bad", "datasets": {"knee": dataset},
        "arms": {"zero_filled": {"method": "zero_filled"}, "diverging": diverging}, "device": "cpu", "snapshots": 2,
    }  # fmt: skip
    run = snakemake(tmp_path, study)
    assert "left out: knee/truncated" in run.stderr
    failures = (tmp_path / "results/bad/failures.csv").read_text()
    for text in ("truncated", "poisoned", "NaN", "diverged at iteration"):
        assert text in failures
    page = (tmp_path / "results/bad/report.html").read_text()
    assert "truncated" in page and "poisoned" in page and "diverged" in page
    m = pd.read_csv(tmp_path / "results/bad/metrics.csv", keep_default_na=False)
    good = m[
        (m.volume == "good")
        & (m.arm == "zero_filled")
        & (m.metric == "psnr")
        & (m.slice == "")
        & (m.which == "stopped")
    ]
    assert len(good) == 1 and float(good.value.iloc[0]) > 10


def test_promise_8_a_job_killed_at_every_attempt_does_not_block_the_report(copied):
    """One reconstruction kills itself each time (out of memory, say): the rest is reported, the failure named, the run ends non-zero."""
    study = smoke()
    study["arms"]["dip"]["iterations"] = 31
    bomb = copied / "sitecustomize.py"
    bomb.write_text(
        "import os, sys\nif 'reconstruct' in sys.argv and any('patient_042/R4' in a for a in sys.argv): os.kill(os.getpid(), 9)\n"
    )
    (copied / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    run = subprocess.run(
        [*SNAKEMAKE, "--configfile", "study.yaml", *FLAGS, "--retries", "1"], cwd=copied, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(copied)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert run.returncode != 0
    root = copied / "results" / "smoke"
    failures = pd.read_csv(root / "failures.csv", keep_default_na=False)
    assert set(failures.volume) == {"patient_042"} and set(failures.acq) == {"R4"} and set(failures.arm) == {"dip"}
    metrics = pd.read_csv(root / "metrics.csv", keep_default_na=False)
    iterations = metrics[
        (metrics.arm == "dip")
        & (metrics.metric == "iterations")
        & (metrics.volume == "patient_041")
        & (metrics.slice == "")
    ]
    assert set(iterations.value.astype(float)) == {31.0}, "the other patient's new results are in the tables"
    assert "patient_042" in (root / "report.html").read_text()


def test_promise_6_study_errors_start_nothing(tmp_path):
    study = smoke()
    study["arms"]["dip"]["method"] = "vanila"
    study["seeds"] = []
    run = snakemake(tmp_path, study, check=False)
    said = run.stdout + run.stderr
    assert run.returncode != 0 and 'did you mean "vanilla"' in said and "seeds" in said and "no job was started" in said
    assert "Traceback" not in said and not (tmp_path / "results").exists()


def test_config_on_the_command_line(done):
    run = subprocess.run(
        [*SNAKEMAKE, "--configfile", "study.yaml", "--config", "snapshots=3", "-n", "-q", "rules"],
        cwd=done,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "reconstruct" in run.stdout + run.stderr


def test_unwritable_results_say_so(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    run = snakemake(tmp_path, smoke(), check=False)
    said = run.stdout + run.stderr
    assert run.returncode != 0 and "results" in said and "cannot be written" in said and "Traceback" not in said


DATA = {  # variables that the paths of shipped studies begin with, and where such data lie
    "DIPLINE_DATA": "", "FASTMRI": "mri", "PROSPECTIVE": "mri", "IMAGES": "images", "CBSD68": "images", "AAPM": "ct/dicom",
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    sorted(p.name for p in (ROOT / "config").glob("*.yaml"))
    + sorted(f"studies/{p.name}" for p in (ROOT / "config/studies").glob("*.yaml")),
)
def test_every_shipped_study_plans(config, tmp_path, request):
    """Those of the user's own data on development scans, so that every arm meets scans of its kind."""
    environment = dict(os.environ)
    datasets = yaml.safe_load((ROOT / "config" / config).read_text())["datasets"].values()
    for name, folder in DATA.items():
        if any(f"${name}" in dataset.get("path", "") for dataset in datasets):
            environment[name] = str(request.getfixturevalue("shared") / "data" / folder)
    run = subprocess.run(
        [*SNAKEMAKE, "--configfile", str(ROOT / "config" / config), "-n", "-q", "all"], cwd=tmp_path, capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_snakemake_report_holds_the_captions(done):
    snakemake(done, smoke(), "--report", "snakemake.zip")
    with zipfile.ZipFile(done / "snakemake.zip") as z:
        page = re.sub(r"<[^>]+>|\\n|\s+", " ", z.read("snakemake/report.html").decode())
    captions = ROOT / "workflow" / "report"
    for caption in set(captions.glob("*.rst")) - {captions / "sweep.rst"}:  # which takes three acquisitions
        first = re.split("[.:;]", " ".join(caption.read_text().split()))[0]
        assert len(first) > 20 and first in page, caption
    for labels in ({"acquisition": "R4", "volume": "patient_041"}, {"acquisition": "R2"}):
        assert json.dumps(labels)[:-1] in page, "pictures that share a caption are told apart"


def test_the_environment_for_conda_is_that_of_pip():
    """`-r requirements.txt` named a file that Snakemake, which copies dipline.yaml alone, had left behind."""
    content = yaml.safe_load((ROOT / "envs" / "dipline.yaml").read_text())
    (pip,) = (d["pip"] for d in content["dependencies"] if isinstance(d, dict))
    assert pip == (ROOT / "envs" / "requirements.txt").read_text().splitlines(), "write the lines of requirements.txt below pip:"


def test_the_image_for_apptainer_is_made_of_that_list():
    text = (ROOT / "envs" / "dipline.def").read_text()
    conda = yaml.safe_load((ROOT / "envs" / "dipline.yaml").read_text())["dependencies"]
    (python,) = re.findall(r"(?m)^From: python:(3\.\d+)\.\d+-bookworm$", text)
    assert f"python={python}" in conda
    (source, inside), (installed,) = re.search(r"%files\n +(\S+) (\S+)\n\n", text).groups(), re.findall(r"pip install (.*)", text)
    assert (ROOT / source) == ROOT / "envs" / "requirements.txt" and installed == f"--no-cache-dir -r {inside}"


STAND_IN = {
    "apptainer": """
        [ "$1" = --version ] && { echo apptainer version 1.4.0; exit; }
        echo "$*" >> DIR/calls
        until [[ $1 == *.sif ]]; do shift; done
        shift; PATH=DIR/inside:$PATH exec "$@" """,
    "conda": """
        case $1 in
            --version) echo conda 25.1.0 ;;
            info) echo '{"conda_prefix": "DIR", "platform": "linux-64"}' ;;
            config) echo '{"get": {"channel_priority": "strict"}}' ;;
            env) echo "$*" >> DIR/calls; mkdir -p "${@: -1}" ;;
        esac""",
}


@pytest.mark.parametrize("method", STAND_IN)
def test_jobs_in_an_environment_run_the_checkout(method, tmp_path, monkeypatch):
    """Snakemake takes PYTHONPATH from jobs in conda environments unless told not to: they had no module `dipline`. Conda and
    Apptainer are stand-ins, with another python inside, which says where it looks for modules."""
    there = tmp_path / "stand_in"
    scripts = {
        method: STAND_IN[method], "bin/activate": "PATH=DIR/inside:$PATH",
        "inside/python": f'echo "$PYTHONPATH" >> DIR/used; exec {sys.executable} "$@"',
    }  # fmt: skip
    for name, text in scripts.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text("#!/bin/bash\n" + text.replace("DIR", str(there)) + "\n")
        (there / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{there}:{os.environ['PATH']}")
    scan, profile = "results/smoke/scans/brain/patient_041.h5", str(ROOT / "profiles" / "default")
    snakemake(tmp_path, smoke(), "--sdm", method, "--workflow-profile", profile, "--", scan)
    assert (tmp_path / scan).exists()
    assert (there / "used").read_text().splitlines()[0].split(":")[0] == str(ROOT / "src")
    calls = (there / "calls").read_text()
    assert ("exec --home" in calls and "envs/dipline.sif bash -c" in calls) if method == "apptainer" else "env create" in calls


def test_lint_and_format():
    run = subprocess.run([*SNAKEMAKE, "--lint"], cwd=ROOT, capture_output=True, text=True)
    assert "Congratulations" in run.stdout + run.stderr, run.stdout + run.stderr
    formatted = subprocess.run(
        [str(Path(sys.executable).with_name("snakefmt")), "--no-sort", "--check", "Snakefile", "workflow"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr


def test_promise_7_seeds_are_an_axis(done):
    """Spread over seeds stands beside spread over patients; fewer than six patients: no p, and the reason."""
    root = done / "results" / "smoke"
    m = pd.read_csv(root / "metrics.csv", keep_default_na=False)
    assert set(m[m.arm == "dip"].seed.astype(int)) == {0, 1} and set(m[m.arm == "tv"].seed.astype(int)) == {0}
    table = pd.read_csv(root / "tables" / "brain_psnr.csv").query("acq == 'R4' and which == 'stopped'").set_index("arm")
    rows = m[(m.arm == "dip") & (m.acq == "R4") & (m.metric == "psnr") & (m.which == "stopped") & (m.slice == "")]
    values = rows.assign(value=rows.value.astype(float)).pivot(index="volume", columns="seed", values="value")
    assert values.shape == (2, 2)
    assert table.loc["dip", "seed_std"] == pytest.approx(np.mean(np.abs(values[0] - values[1]) / 2**0.5)) and values[0].ne(values[1]).all()
    assert table.loc["dip", "std"] == pytest.approx(values.mean(axis=1).std()), "over patients, of their means over seeds"
    assert table["seed_std"].isna().to_dict() == {"zero_filled": True, "tv": True, "dip": False, "aseq_dip": True}
    statistics = pd.read_csv(root / "statistics.csv")
    assert len(statistics) and statistics[["p", "p_holm"]].isna().all(axis=None)
    assert set(statistics.note) == {"2 patients: no test with fewer than 6"}
    page = (root / "report.html").read_text()
    assert "With 2 patients, fewer than 6, no test was made." in page
    assert f"{table.loc['dip', 'mean']:.2f} ± {table.loc['dip', 'std']:.2f} [{table.loc['dip', 'seed_std']:.2f}]" in page


def test_the_report_leaves_tables_and_pictures_alone(copied):
    """The rule drew all tables, panels and curves once more, over its own inputs, which were then newer than the page."""
    root = copied / "results" / "smoke"
    inputs = (*root.glob("*.csv"), *root.glob("tables/*"), *root.glob("figures/**/*.png"))
    before = {f: f.stat().st_mtime_ns for f in inputs}
    page = (root / "report.html").stat().st_mtime_ns
    snakemake(copied, smoke(), "--forcerun", "report")
    assert (root / "report.html").stat().st_mtime_ns > page
    assert len(before) > 10 and {f: f.stat().st_mtime_ns for f in inputs} == before


def test_editing_the_words_of_the_report_makes_the_page_again(copied, tmp_path):
    """The page's code hash named four of its files; an edit of answer.py, statistics.py or style.py changed nothing."""
    sources = sources_in(tmp_path)
    (sources / "src" / "dipline" / "report" / "answer.py").open("a").write("\n# a comment\n")
    found = planned(copied, smoke(), "--snakefile", str(sources / "Snakefile"), "--rerun-triggers", "params", "mtime", "input")
    assert set(found) == {"report", "all"}


def test_the_resolved_study_runs_again(copied):
    """What the report tells people to reproduce with is itself a study, and nothing has to be computed for it."""
    run = subprocess.run(
        [*SNAKEMAKE, "--configfile", "results/smoke/study.resolved.yaml", *FLAGS],
        cwd=copied,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "Nothing to be done" in run.stdout + run.stderr


def test_json_of_scores_is_complete(done):
    scores = list((done / "results" / "smoke" / "scores").glob("**/*.json"))
    assert len(scores) == 20 and all(json.loads(s.read_text())["status"] == "done" for s in scores)
