"""The command line: each verb by hand, what check, show, list and retry say; no stack trace for a typing error."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from dipline import cli, preview, registry, store
from dipline.plan import Plan
from dipline.report import cite

ROOT = Path(__file__).parent.parent
STUDY = """
study: tiny
datasets:
  brain:
    reader: phantom
    params: {patients: 2, first_seed: 3, slices: 2, matrix: 32, coils: 4}
    acquisitions: {R2: {mask: equispaced, acceleration: 2, center_fraction: 0.4, noise_snr: 25, holdout: 0.1}}
arms:
  zero_filled: {method: zero_filled}
  tv: {method: tv, iterations: 5}
  dip:
    method: vanilla
    iterations: 5
    network: {skip: {widths: [4], skip_widths: [2]}}
    params: {lr: 0.01, input: zero_filled}
seeds: [0, 1]
device: cpu
snapshots: 3
"""
VERBS = [
    "check", "list", "show", "status", "try", "new", "retry", "report", "simulate", "reference", "measure", "reconstruct", "score",
    "tables", "panels", "curves", "volumes", "export-dicom", "export-bundle", "profile", "schema",
]  # fmt: skip


def run(*arguments):
    cli.main([str(a) for a in arguments])


def said(capsys, *arguments):
    capsys.readouterr()
    run(*arguments)
    return capsys.readouterr().out


def left(capsys, *arguments):
    """(status, what it said on stderr) of a command that leaves before its end."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    return end.value.code, capsys.readouterr().err


def refused(*arguments):
    """The one message of a command that ends with an error."""
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert isinstance(error.value.code, str), "a message and status 1"
    return error.value.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every rule of the small study ran, by the verbs that the rules call."""
    folder = tmp_path_factory.mktemp("finished")
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("study.yaml").write_text(STUDY)
        plan = Plan.load(yaml.safe_load(STUDY))
        for volume in plan.volumes["brain"]:
            (scan,) = plan.scans("brain", volume)
            run("simulate", "--out", scan, "--spec", plan.simulate_spec("brain"))
            common = ["--volume", volume, "--slices", plan.slices("brain", volume)]
            run(
                "reference",
                scan,
                "--out",
                plan.reference("brain", volume),
                *common,
                "--spec",
                plan.reference_spec("brain"),
            )
            run(
                "measure",
                scan,
                "--out",
                plan.measurement("brain", volume, "R2"),
                "--heldout",
                plan.heldout("brain", volume, "R2"),
                *common,
                "--dataset",
                "brain",
                "--acq",
                "R2",
                "--spec",
                plan.measure_spec("brain", "R2"),
            )
        for job in plan.jobs:
            measurement = plan.measurement(*job[:3])
            for block, out, shots in zip(
                plan.blocks("brain", job.volume, job.arm),
                plan.recons(job),
                plan.recons(job, ".snapshots.h5"),
                strict=True,
            ):
                run(
                    "reconstruct",
                    measurement,
                    "--out",
                    out,
                    "--snapshots",
                    shots,
                    "--slices",
                    plan.block_slices(job, block),
                    "--seed",
                    job.seed,
                    "--state",
                    f"results/tiny/.state/{job.arm}/{block}",
                    "--spec",
                    plan.reconstruct_spec(*job[:1], *job[2:4]),
                )
            run(
                "score",
                *plan.recons(job),
                "--reference",
                plan.reference("brain", job.volume),
                "--measurement",
                measurement,
                "--out",
                plan.score(job),
            )
        store.write_text(plan.root / "study.resolved.yaml", plan.resolved_yaml())
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return folder


@pytest.fixture
def here(finished, monkeypatch):
    """The finished folder, only to be read."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of the finished folder, to be changed."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def handlers():
    """Reconstructions in this process must not leave their signal handlers behind."""
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ---------------------------------------------------------------- light verbs


def imported(*arguments):
    """(heavy modules that a command imports, its output)"""
    code = (
        "import sys\nfrom dipline import cli\n"
        f"try:\n    cli.main({list(arguments)!r})\n"
        "except SystemExit as end:\n    print(end.code if isinstance(end.code, str) else '')\n"
        "print('IMPORTED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    out, _, modules = done.stdout.partition("IMPORTED")
    return set(modules.split()), out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "study.yaml"],
        ["list", "methods"],
        ["status", "study.yaml"],
        ["show", "results/tiny/reference/brain/patient_003.h5"],
    ],
)
def test_light_verbs_import_nothing_heavy(here, arguments):
    modules, out = imported(*arguments)
    assert "dipline" in modules and out.strip()
    assert not modules & {"torch", "astra", "matplotlib", "sigpy", "skimage", "snakemake"}


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit) as end:
        run("--help")
    out = capsys.readouterr().out
    assert end.value.code == 0
    lines = dict(re.findall(r"(?m)^    ([\w-]+)\s+(\S.*)$", out))
    assert list(lines) == VERBS and all(text[0].isupper() for text in lines.values())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as end:
        run(verb, "--help")
    assert end.value.code == 0 and f"dipline {verb}" in capsys.readouterr().out


def test_version_and_module():
    done = subprocess.run([sys.executable, "-m", "dipline", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"dipline \d+\.\d+.*\n", done.stdout)


@pytest.mark.parametrize("kind", ["networks", "stopping", "readers", "physics"])
def test_list_has_one_line_for_each(kind, capsys):
    lines = said(capsys, "list", kind).splitlines()
    assert [line.split()[0] for line in lines] == list(registry.plugins(kind))
    for line, plugin in zip(lines, registry.plugins(kind).values(), strict=True):
        assert line.endswith(plugin.summary)


def test_list_of_methods_says_what_a_study_needs_to_know_of_each(capsys):
    lines = said(capsys, "list", "methods").splitlines()
    assert max(map(len, lines)) <= 120
    starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[i].split()[0] for i in starts] == list(registry.plugins("methods"))
    for a, b, p in zip(starts, [*starts[1:], None], registry.plugins("methods").values(), strict=True):
        about = " ".join(" ".join(lines[a:b]).split())
        wanted = [p.summary, p.get("CLASS"), *p.get("TASKS", ("all tasks",))]
        wanted += [text for key in ("CITE", "INPUTS", "MODELS") for text in p.get(key, ())]
        assert all(text in about for text in wanted)
        for name, default in p.parameters.items():
            assert f"{name} {' | '.join(default) if isinstance(default, tuple) else default}" in about


def test_list_of_masks_is_what_a_study_may_say(capsys):
    from typing import get_args

    from dipline.study import Cartesian

    names = [line.split()[0] for line in said(capsys, "list", "masks").splitlines()]
    assert names == list(get_args(Cartesian.model_fields["mask"].annotation))


def test_unknown_kind_and_verb(capsys):
    for arguments in (["list", "colours"], ["reconstrct"], []):
        with pytest.raises(SystemExit) as end:
            run(*arguments)
        assert end.value.code == 2
        assert re.search(r"allowed|choose from|required", capsys.readouterr().err)


# ---------------------------------------------------------------- each verb by hand


def test_verbs_by_hand(here, tmp_path, handlers, capsys):
    """One scan through every step without a study file, with the options that a person would type."""
    scan = "results/tiny/scans/brain/patient_003.h5"
    m, r, truth, s = (tmp_path / n for n in ("m.h5", "r.h5", "truth.h5", "score.json"))
    run("reference", scan, "--out", truth, "--volume", "patient_003", "--slices", "0-1")
    run(
        "measure",
        scan,
        "--out",
        m,
        "--volume",
        "patient_003",
        "--slices",
        "0,1",
        "--acquisition",
        "mask: equispaced, acceleration: 2, center_fraction: 0.4, holdout: 0.1",
    )
    run(
        "reconstruct",
        m,
        "--out",
        r,
        "--slices",
        "1",
        "--seed",
        "3",
        "--arm",
        "method: vanilla, iterations: 5, network: {skip: {widths: [4], skip_widths: [2]}}",
    )
    out = capsys.readouterr().out
    assert "slice 1: vanilla, seed 3, on cpu" in out
    run("score", r, "--reference", truth, "--measurement", m, "--out", s)
    score = json.loads(s.read_text())
    assert score["status"] == "done"
    metrics = {(row[1], row[2]) for row in score["rows"] if row[0] == ""}
    assert {("psnr", "stopped"), ("psnr", "last"), ("psnr", "peak"), ("heldout_nmse", "stopped")} <= metrics
    head, content = store.read(r)
    assert head["status"] == "done" and list(content) == [1] and content[1]["iterations"] == 5
    assert head["provenance"]["seed"] == 3 and head["provenance"]["spec"]["arm"]["method"] == "vanilla"


def test_simulate_by_hand(tmp_path, monkeypatch):
    """`simulate` wanted a JSON that only the workflow knows, and a name that ends in the patient's number.
    `--out scan.h5` was "invalid literal for int() with base 10: 'scan'"."""
    monkeypatch.chdir(tmp_path)
    small = "slices: 1, matrix: 24, coils: 2"
    run("simulate", "--out", "new/scan.h5", "--params", small)
    run("simulate", "--out", "patient_005.h5", "--params", small)
    run("simulate", "--out", "other.h5", "--params", small + ", first_seed: 5")
    kspace, ids = {}, {}
    for name in ("new/scan.h5", "patient_005.h5", "other.h5"):
        with h5py.File(name) as f:
            kspace[name], ids[name] = f["kspace"][()], f.attrs["patient_id"]
    assert kspace["new/scan.h5"].shape == (1, 2, 48, 24)
    assert list(ids.values()) == ["synthetic-001", "synthetic-005", "synthetic-005"]
    assert (kspace["other.h5"] == kspace["patient_005.h5"]).all()
    run("measure", "new/scan.h5", "--out", "m.h5", "--volume", "scan", "--slices", "0", "--acquisition", "mask: full")
    assert store.attributes("m.h5")["status"] == "done"


def test_ct_by_hand(tmp_path, monkeypatch):
    """The operator of a measurement by hand was always that of MRI."""
    from dipline import measure as m

    seen = []
    monkeypatch.setattr(m, "measure", lambda *arguments: seen.append(arguments[-1]))
    monkeypatch.setattr(cli, "_reason", lambda *arguments: None)
    scan = ["patient", "--out", tmp_path / "m.h5", "--volume", "v", "--slices", "0", "--reader", "phantom_ct"]
    run("measure", *scan, "--acquisition", "views: 20")
    assert seen[0]["physics"] == "ct" and seen[0]["acq"]["views"] == 20


def test_arm_by_its_name_alone(here, tmp_path, handlers):
    run(
        "reconstruct",
        "results/tiny/measurement/brain/patient_003/R2.h5",
        "--out",
        tmp_path / "r.h5",
        "--slices",
        "0",
        "--arm",
        "tv",
    )
    head, content = store.read(tmp_path / "r.h5")
    assert head["provenance"]["spec"]["arm"]["iterations"] == registry.get("methods", "tv").get("ITERATIONS")
    assert np.isfinite(content[0]["image"]).all()


def test_inputs_by_hand(here, tmp_path, handlers, capsys):
    prior = json.dumps({"prior": {"kind": "measurement", "file": MEASUREMENT, "slice": 1}})
    arm = "method: ref_guided, iterations: 2, network: {skip: {widths: [4], skip_widths: [2]}}"
    out = ["--out", tmp_path / "r.h5", "--slices", "0", "--arm", arm]
    run("reconstruct", MEASUREMENT, *out, "--inputs", prior)
    assert store.attributes(tmp_path / "r.h5")["status"] == "done"
    for wrong in ("prior.h5", "[]", '{"prior": "x.h5"}', '{"prior": {"file": "x.h5"}}'):
        code, err = left(capsys, "reconstruct", MEASUREMENT, *out, "--inputs", wrong)
        assert code == 2 and "allowed: JSON like" in err


def test_vanilla_is_the_default_arm(here, tmp_path, monkeypatch):
    from dipline import blocks

    seen = []
    monkeypatch.setattr(blocks, "block", lambda *arguments: seen.append(arguments))
    run("reconstruct", "m.h5", "--out", tmp_path / "r.h5", "--slices", "0")
    run("reconstruct", "m.h5", "--out", tmp_path / "r.h5", "--slices", "0", "--arm", "vanilla")
    assert seen[0] == seen[1]
    arm = json.loads(seen[0][4])["arm"]
    assert arm["method"] == "vanilla" and arm["iterations"] == 3000
    assert seen[0][2] == str(tmp_path / "r.snapshots.h5") and seen[0][6] == str(tmp_path / "r.state")


def test_prospective_scan_is_measured_as_it_is(here, tmp_path):
    run(
        "measure",
        "results/tiny/scans/brain/patient_003.h5",
        "--out",
        tmp_path / "m.h5",
        "--volume",
        "v",
        "--slices",
        "0",
    )
    head, content = store.read(tmp_path / "m.h5")
    assert head["status"] == "done" and head["mask"] == "as_measured" and head["acceleration_achieved"] == 1


# ---------------------------------------------------------------- check


def changed(text="{}"):
    """Write the small study with changes; its name."""
    from dipline.study import merged

    Path("changed.yaml").write_text(yaml.safe_dump(merged(yaml.safe_load(STUDY), yaml.safe_load(text))))
    return "changed.yaml"


def test_check_before_the_first_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = said(capsys, "check", changed("arms: {tv: {datasets: [brain]}, sense: {method: sense}}"))
    jobs = 2 * (3 * 1 + 2)
    assert "brain: 2 volume(s), 4 slice(s), R2" in out
    assert f"jobs: {2 * jobs} reconstructions of {jobs} volumes" in out
    assert re.search(r"about \S+ hours on one CPU thread, \S+ GB, \d+ files", out)
    assert f"to compute: {2 * jobs} new" in out


def test_check_after_the_run(here, capsys):
    assert "to compute: 16 done" in said(capsys, "check", "study.yaml")


@pytest.mark.parametrize(
    "change, lines",
    [
        ("arms: {dip: {params: {lr: 0.02}}}", ["to compute: 8 changed, 8 done", "again: 8 of dip (changed: arm)"]),
        ("arms: {new: {method: sense}}", ["to compute: 4 new, 16 done"]),
        ("seeds: [0, 2]", ["to compute: 4 new, 12 done", "4 finished result(s) belong to other"]),
        (
            "datasets: {brain: {acquisitions: {R2: {noise_snr: 15}}}}",
            ["to compute: 16 changed", "again: 4 of tv (changed: measurement)"],
        ),
        ("datasets: {brain: {slices: [1]}}", ["to compute: 8 changed", "8 finished result(s) belong to other"]),
        ("threads: 2", ["to compute: 16 changed", "again: 8 of dip (changed: threads)"]),
    ],
)
def test_check_says_what_a_change_computes_again(here, tmp_path, change, lines, capsys):
    out = said(capsys, "check", changed(change))
    assert all(line in out for line in lines), out


def test_check_takes_config_as_snakemake_does(here, capsys):
    out = said(capsys, "check", "study.yaml", "--config", "seeds=[0]", "arms={tv: {method: tv}}")
    assert "to compute: 12 done" in out


def test_check_names_scans_that_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    Path("scans/bad.h5").write_bytes(b"no HDF5")
    with h5py.File("scans/good.h5", "w") as h:
        h["kspace"] = np.ones((1, 2, 16, 12), np.complex64)
    config = yaml.safe_load(STUDY)
    config["datasets"]["brain"] |= {"reader": "fastmri", "path": "scans", "params": {}}
    Path("changed.yaml").write_text(yaml.safe_dump(config))
    out = said(capsys, "check", "changed.yaml")
    assert "brain: 1 volume(s)" in out and re.search(r"left out: brain/bad: scans/bad.h5: .*", out)


def test_check_says_everything_and_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(
        "check", changed("{seedz: [1], arms: {dip: {params: {lrr: 1}, method: vanila}, tv: {params: {lam: -1}}}}")
    )
    starts = [
        'changed.yaml: seedz: unknown; did you mean "seeds"?',
        'changed.yaml: arms.dip.method: no such plug-in among methods: "vanila"',
        "changed.yaml: arms.tv.params.lam: found -1, allowed: 0 or more",
        "3 problem(s); nothing was started",
    ]
    assert [line.startswith(start) for line, start in zip(message.splitlines(), starts, strict=True)] == [True] * 4
    done = subprocess.run([sys.executable, "-m", "dipline", "check", "changed.yaml"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip() == message and not done.stdout
    assert not Path("results").exists()


# ---------------------------------------------------------------- show


def test_show_measurement(here, capsys):
    out = said(capsys, "show", "results/tiny/measurement/brain/patient_003/R2.h5")
    for part in (
        "kind: measurement",
        "volume: patient_003",
        "status: done",
        "acceleration_achieved:",
        "slices/000/kspace: complex64 (4, 32, 32)",
    ):
        assert part in out
    assert "slices/000/maps: complex64" in out and "shared/mask: bool" in out
    assert re.search(r"provenance\n    verb: measure\n    command: .*", out) and '"acceleration": 2' in out


def test_show_reconstruction(here, capsys):
    out = said(capsys, "show", "results/tiny/recon/brain/patient_003/R2/dip/seed1/s001.h5")
    for part in (
        "kind: recon",
        "seed: 1",
        "status: done",
        "slices/001/image: complex64 (1, 32, 32)",
        "slices/001.iterations: 5",
        "device: cpu",
    ):
        assert part in out
    assert '"method": "vanilla"' in out and re.search(r"inputs: .*R2.h5", out)


def test_show_reference_and_snapshots(here, capsys):
    assert "kind: reference" in said(capsys, "show", "results/tiny/reference/brain/patient_003.h5")
    assert "slices/001/views: float16" in said(
        capsys, "show", "results/tiny/recon/brain/patient_003/R2/dip/seed1/s001.snapshots.h5"
    )


# ---------------------------------------------------------------- retry


def fail(file):
    """Make a result one that failed, as a diverged arm leaves it."""
    with h5py.File(file, "r+") as f:
        f.attrs["status"] = "failed"


def test_retry_without_failures(here, capsys):
    assert said(capsys, "retry", "results/tiny") == "nothing failed here\n"


def test_retry_removes_failed_results_alone(copied, capsys):
    before = {p for p in Path("results").rglob("*") if p.is_file()}
    recon = "results/tiny/recon/brain/patient_003/R2/dip/seed0/s001.h5"
    score = "results/tiny/scores/brain/patient_003/R2/dip/seed0.json"
    other = "results/tiny/recon/brain/patient_004/R2/tv/seed0/s000.h5"
    fail(recon)
    fail(other)
    Path(score).write_text(json.dumps(json.loads(Path(score).read_text()) | {"status": "failed"}))
    assert "to compute: 2 failed, 14 done" in said(capsys, "check", "study.yaml")
    assert said(capsys, "retry", "study.yaml", "--arm", "zero_filled") == "nothing failed here\n"
    assert said(capsys, "retry", "study.yaml", "--volume", "patient_004", "--arm", "dip") == "nothing failed here\n"
    assert said(capsys, "retry", "study.yaml", "--arm", "dip") == "2 failed result(s) removed; run snakemake again\n"
    assert before - {p for p in Path("results").rglob("*") if p.is_file()} == {Path(recon), Path(score)}
    assert (
        said(capsys, "retry", "results/tiny", "--dataset", "brain", "--acq", "R2")
        == "1 failed result(s) removed; run snakemake again\n"
    )
    assert not Path(other).exists()
    assert "to compute: 2 new, 14 done" in said(capsys, "check", "study.yaml")


def test_retry_removes_half_files(copied, capsys):
    recon = Path("results/tiny/recon/brain/patient_003/R2/tv/seed0/s000.h5")
    recon.write_bytes(recon.read_bytes()[:500])
    assert "1 unreadable" in said(capsys, "check", "study.yaml")
    assert said(capsys, "retry", "study.yaml") == "1 failed result(s) removed; run snakemake again\n"
    assert not recon.exists()


def test_retry_of_a_name_that_is_not_in_the_study(here):
    assert (
        refused("retry", "study.yaml", "--arm", "dipp")
        == 'no arm "dipp" in this study; did you mean "dip"?\n1 problem(s); nothing was started'
    )


# ---------------------------------------------------------------- one-line messages


MEASUREMENT = "results/tiny/measurement/brain/patient_003/R2.h5"
SCAN = "results/tiny/scans/brain/patient_003.h5"
REFERENCE = "results/tiny/reference/brain/patient_003.h5"
RECON = "results/tiny/recon/brain/patient_003/R2/tv/seed0/s000.h5"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["check", "no.yaml"],
            "no.yaml: no such file; copy config/config.yaml and change it\n1 problem(s); nothing was started",
        ),
        (["show", "no.h5"], "no.h5: no such file; name a measurement, reconstruction or reference file"),
        (["show", "study.yaml"], "study.yaml: no HDF5 file, or half of one; …"),
        (["reconstruct", "no.h5", "--out", "r.h5", "--slices", "0"], "no.h5: no such file; correct the name"),
        (
            ["reconstruct", MEASUREMENT, "--out", "r.h5", "--slices", "0", "--arm", "vanila"],
            'arm: no such plug-in among methods: "vanila"; …',
        ),
        (
            ["reconstruct", MEASUREMENT, "--out", "r.h5", "--slices", "0", "--arm", "method: tv, params: {lam: -1}"],
            "arm: params.lam: found -1, …",
        ),
        (
            ["reconstruct", MEASUREMENT, "--out", "r.h5", "--slices", "0", "--arm", "method: [tv"],
            "found 'method: [tv', allowed: 'key: value, …",
        ),
        (
            ["measure", "s.h5", "--out", "m.h5", "--volume", "v", "--slices", "0", "--acquisition", "mask: randm"],
            "acquisition: mask: found 'randm', …",
        ),
        (
            ["measure", "s.h5", "--out", "m.h5", "--volume", "v", "--slices", "0", "--acquisition", "mask: random"],
            "acquisition: acceleration: missing; …",
        ),
        (
            ["score", "no.h5", "--reference", "t.h5", "--measurement", "m.h5", "--out", "s.json"],
            "no.h5: no such file; correct the name",
        ),
        (["reconstruct", MEASUREMENT, "--out", "r.h5", "--slices", "1-3"],
         f"{MEASUREMENT}: holds no slice 2, 3 (has 0, 1); choose among them"),
        (["reconstruct", SCAN, "--out", "r.h5", "--slices", "0"],
         f"{SCAN}: found no file that dipline wrote, needed: a measurement file; …"),
        (["reconstruct", REFERENCE, "--out", "r.h5", "--slices", "0"],
         f"{REFERENCE}: found a reference file, needed: a measurement file; …"),
        (["reconstruct", MEASUREMENT, "--out", "r.h5", "--slices", "0", "--arm", "ref_guided"],
         "arm: ref_guided needs inputs: prior; by hand --inputs '{\"prior\": {…"),
        (["score", MEASUREMENT, "--reference", RECON, "--measurement", REFERENCE, "--out", "s.json"],
         f"{MEASUREMENT}: found a measurement file, needed: a recon file; …"),
        (["score", RECON, "--reference", MEASUREMENT, "--measurement", REFERENCE, "--out", "s.json"],
         f"{MEASUREMENT}: found a measurement file, needed: a reference file; …"),
        (["measure", "s.h5", "--out", "m.h5", "--volume", "v", "--slices", "0", "--reader", "fastmr"],
         'no such plug-in among readers: "fastmr"; allowed: …'),
        (["reference", "s.h5", "--out", "m.h5", "--volume", "v", "--slices", "0", "--reader", "fastmr"],
         'no such plug-in among readers: "fastmr"; allowed: …'),
        (["simulate", "--out", "m.h5", "--reader", "fastmri"], "reader: fastmri reads scans and makes none, allowed: phantom, …"),
        (["simulate", "--out", "m.h5", "--params", "slice: 2"], 'params.slice: unknown; did you mean "slices"? …'),
        (["report", "no.yaml"], "no.yaml: no such file; …"),
        (["tables", "results"], "results: no results in results; run snakemake first, …"),
    ],
)
def test_errors_are_one_line(here, arguments, message, handlers):
    found = refused(*arguments)
    assert found.startswith(message.removesuffix("…")) if message.endswith("…") else found == message
    assert len(found.splitlines()) <= 2
    assert not any(Path(name).exists() for name in ("r.h5", "m.h5", "s.json", "r.state"))


def test_missing_file_is_not_to_be_deleted(tmp_path):
    with pytest.raises(store.Corrupt, match="no.h5: no such file; correct the name$"):
        store.attributes(tmp_path / "no.h5")


def test_report_of_a_study_that_was_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    assert refused("report", "study.yaml").startswith("study.yaml: no results in results/tiny; run snakemake first")
    Path("study.yaml").write_text("arms: {}")
    assert refused("retry", "study.yaml").startswith("study.yaml: study: missing; write one, e.g. study: knee4x")


@pytest.mark.parametrize("content", [b"no HDF5 at all", None], ids=["text", "half"])
def test_corrupt_result_says_what_to_do(copied, content, handlers):
    """A node that dies while copying leaves half a file. The message says to delete it, and the status is not 0."""
    for file in (MEASUREMENT, RECON):
        whole = Path(file).read_bytes()
        Path(file).write_bytes(content or whole[: len(whole) // 2])
    assert re.fullmatch(
        f"{MEASUREMENT}: cannot be read .*; delete the file and run Snakemake again, it will be made anew",
        refused("reconstruct", MEASUREMENT, "--out", "r.h5", "--slices", "0", "--arm", "tv"),
    )
    scored = [
        "--reference",
        "results/tiny/reference/brain/patient_003.h5",
        "--measurement",
        MEASUREMENT,
        "--out",
        "s.json",
    ]
    assert f"{RECON}: cannot be read" in refused("score", RECON, *scored)
    assert "no HDF5 file, or half of one" in refused("show", RECON)
    assert not Path("r.h5").exists() and not Path("s.json").exists()


@pytest.mark.parametrize("slices", ["x", "1-", "", "1;2", "-3"])
def test_slices_that_are_none(slices, capsys):
    with pytest.raises(SystemExit) as end:
        run("reconstruct", "m.h5", "--out", "r.h5", f"--slices={slices}")
    assert (
        end.value.code == 2
        and f"found {slices!r}, allowed: numbers of slices, e.g. 4,5,9 or 3-7" in capsys.readouterr().err
    )


def test_slices_as_a_person_writes_them():
    assert cli._numbers("4,5,9") == [4, 5, 9] and cli._numbers("3-5,8") == [3, 4, 5, 8] and cli._numbers("7") == [7]


def test_a_scan_that_is_not_there_is_a_failed_result(here, tmp_path, capsys):
    """A volume that vanished is data, not an accident: in the workflow status 0, and the file says why.
    By hand `measure` was silent and ended with 0 as well; the next step, or the user, found out."""
    line = ["measure", tmp_path / "gone.h5", "--out", tmp_path / "m.h5", "--volume", "gone", "--slices", "0"]
    out = said(capsys, *line, "--spec", Plan.load(yaml.safe_load(STUDY)).measure_spec("brain", "R2"))
    head, _ = store.read(tmp_path / "m.h5")
    assert head["status"] == "failed" and "gone.h5" in head["reason"]
    assert out == f"{tmp_path}/m.h5: failed: {head['reason']}\n"
    with pytest.raises(SystemExit) as end:
        run(*line, "--acquisition", "mask: full")
    assert end.value.code == 1 and capsys.readouterr().out == out
    with pytest.raises(SystemExit) as end:
        run("reference", *line[1:])
    assert end.value.code == 1


# ---------------------------------------------------------------- disk and memory


def test_results_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """`dipline check` in a folder where results/ cannot be written ended in a trace through six files."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    Path("results").write_text("a file where a folder should be")
    assert re.match(r"the folder results/ cannot be written \(.*\); work in a folder that you own", refused("check", "study.yaml"))
    out = "results/tiny/m.h5"
    code, err = left(capsys, "measure", "gone.h5", "--out", out, "--volume", "v", "--slices", "0")
    assert code == 75 and re.fullmatch(r"\S+: cannot be written \(.*\); correct that and run again; what was finished is kept\n", err)


def test_full_disk_is_one_line_and_another_attempt(here, tmp_path, monkeypatch, handlers, capsys):
    """A disk that was full when a result was written left a trace and a status that schedulers take for a broken program."""

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    line = ["reconstruct", MEASUREMENT, "--out", tmp_path / "r.h5", "--slices", "0", "--arm", "zero_filled"]
    code, err = left(capsys, *line)
    assert code == 75 and re.fullmatch(r"\S+\.h5: disk full; free space and run again; what was finished is kept\n", err)
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "r.h5").exists()
    monkeypatch.setattr(preview, "listing", lambda kind: full("any.h5", b""))  # wherever it comes from
    assert left(capsys, "list", "masks") == (75, "any.h5: disk full; free space and run again; what was finished is kept\n")
    monkeypatch.setattr(preview, "listing", lambda kind: tmp_path.read_bytes())
    assert refused("list", "masks") == f"{tmp_path}: Is a directory; correct that and run again"


def test_memory_is_what_the_job_may_use(tmp_path, monkeypatch):
    """A scan larger than the job's 8 GB was let through, because the node has 500; the kernel killed the job without a word."""
    import resource

    from dipline.readers import base

    def group(name, text):
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(base.os, "sysconf", lambda name: 2**20)
    assert base.memory(tmp_path) == (2**40, "this machine has")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job_7/step_0\n4:cpu,memory:/old\n3:cpuset:/x\n")
    for name, text, most in [
        ("memory.max", "max\n", 2**40),
        ("memory.max", f"{2**36}\n", 2**36),  # a container
        ("job_7/memory.max", f"{2**35}\n", 2**35),  # the group above ours
        ("job_7/step_0/memory.max", f"{2**34}\n", 2**34),
        ("memory/memory.limit_in_bytes", f"{2**33}\n", 2**33),  # version 1
        ("memory/old/memory.limit_in_bytes", f"{2**32}\n", 2**32),
    ]:
        group(name, text)
        assert base.memory(tmp_path)[0] == most
    assert "control group" in base.memory(tmp_path)[1]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**31, 2**31))
    assert base.memory(tmp_path) == (2**31, "ulimit -v allows")
    for words, most in (("0", 2**31), ("2000", 2000 * 2**20)):
        monkeypatch.setenv("SLURM_MEM_PER_NODE", words)
        assert base.memory(tmp_path)[0] == most
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    with pytest.raises(base.ReadError, match=r"big.h5: .* need 0\.0 GB, Slurm \(SLURM_MEM_PER_NODE\) allows 0\.0 GB; choose fewer"):
        base.check_choice("big.h5", [0], (1, 4, 256, 256))


def test_schema_verb(capsys):
    assert json.loads(said(capsys, "schema"))["title"] == "dipline study"


def test_the_readme_has_every_method_with_paper_and_parameters():
    """Names, papers and parameters of the README's table are those of the files."""
    text = (ROOT / "README.md").read_text()
    rows = {cells[0].strip(): cells for cells in (line[2:].split(" | ") for line in text.splitlines() if line.startswith("| "))}
    found = {name for row in rows for name in re.split(r"[,;] ", row)}
    plugins = registry.plugins("methods")
    assert set(plugins) <= found
    for name, cells in rows.items():
        if name in plugins and len(cells) == 7:
            assert cells[3] == cite.short(plugins[name].get("CITE")[0]), name
            assert set(cells[5].split(", ")) <= set(plugins[name].parameters), name
            noise = {"input", "input_channels", "input_scale", "input_noise", "weight_decay"}
            assert set(plugins[name].parameters) - set(cells[5].split(", ")) <= noise, name
