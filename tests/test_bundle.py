"""The bundle of a study: all that reproduces it, equal bytes, nothing of persons; and a study made again from it."""

import csv
import io
import json
import shutil
import subprocess
import zipfile
from functools import reduce
from pathlib import Path

import pytest
import yaml
from fabricated import both, folder
from test_ct_workflow import FEW, TELL, persons
from test_workflow import snakemake

from dipline import bundle, cli, store
from dipline import study as studies
from dipline.plan import Plan
from dipline.readers import phantom
from dipline.report import curves, html, tables

pytestmark = pytest.mark.xdist_group("bundle")


def members(file):
    """{name without the folder: bytes}"""
    with zipfile.ZipFile(file) as z:
        return {n.partition("/")[2]: z.read(n) for n in z.namelist()}


def rows(content):
    return list(csv.DictReader(io.StringIO(content["checksums.csv"].decode())))


def report(plan):
    tables.write(plan)
    curves.write(plan)
    html.write(plan)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(plan, bundle, what its reader is warned of) of fabricated results: a broken scan, a failed slice, a missing job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bundle"))
        plan = folder(**both())
        report(plan)
        out = Path("b.zip").resolve()
        yield plan, out, bundle.write(plan, out)


def test_golden_list_of_files(made):
    plan, out, _ = made
    scored = {str(p.relative_to(plan.root)) for p in plan.root.glob("tables/*")}
    drawn = {f"figures/curves/{d}/{a}.png" for d, a in (("knee", "R4"), ("knee", "R8"), ("torso", "V18"), ("torso", "V30"))}
    own = {"README.md", "SHA256SUMS", "checksums.csv", "requirements.txt", "study.resolved.yaml", "versions.json"}
    assert set(members(out)) == {*bundle.TABLES, *own, *drawn, *scored} and len(scored) > 10


def test_one_checksum_for_every_image(made):
    plan, out, _ = made
    found = {tuple(r[k] for k in bundle.KEY): r for r in rows(members(out))}
    expected = {}
    for file in plan.root.glob("recon/*/*/*/*/seed*/s*.h5"):
        for s, content in store.read(file)[1].items():
            if "view" in content:
                place = file.relative_to(plan.root / "recon").parts
                expected[*place[:4], place[4].removeprefix("seed"), str(s)] = store.checksum(content["view"])
    assert {key: r["image"] for key, r in found.items()} == expected and len(expected) > 50
    row = found["knee", "patient_001", "R4", "dip", "1", "2"]
    assert (row["device"], row["threads"], row["commit"]) == ("cpu", "1", "0123456789ab") and len(row["code"]) > 10


def test_what_is_missing_is_said(made):
    _, out, cautions = made
    planned = len(rows(members(out))) + 3
    assert f"Incomplete: 3 of {planned} images are missing (1 failed, 2 without a result); see failures.csv." in cautions
    assert "Incomplete: 1 scans or jobs were left out; see failures.csv." in cautions and "Not there" not in str(cautions)
    readme = members(out)["README.md"].decode()
    assert all(f"**Attention: {caution}**" in readme for caution in cautions)
    assert "git checkout 0123456789ab" in readme and "$SCANS" not in readme


def test_sums_hold_and_tell_a_change(made, tmp_path):
    _, out, _ = made
    zipfile.ZipFile(out).extractall(tmp_path)
    root = tmp_path / "fabricated_bundle"
    check = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=root, capture_output=True).returncode == 0
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert {line.split("  ")[1] for line in (root / "SHA256SUMS").read_text().splitlines()} == files - {"SHA256SUMS"}
    with (root / "metrics.csv").open("a") as f:
        f.write("\n")
    run = subprocess.run(check, cwd=root, capture_output=True, text=True)
    assert run.returncode == 1 and "metrics.csv: FAILED" in run.stdout


def test_the_same_results_give_the_same_bytes(made):
    plan, out, _ = made
    bundle.write(Plan.open(plan.root), again := out.with_name("again.zip"))
    assert again.read_bytes() == out.read_bytes()
    with zipfile.ZipFile(out) as z:
        assert z.namelist() == sorted(z.namelist()) and {i.date_time for i in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    content = (plan.root / "statistics.csv").read_text()
    (plan.root / "statistics.csv").write_text(content + "\n")
    bundle.write(plan, other := out.with_name("other.zip"))
    (plan.root / "statistics.csv").write_text(content)
    changed = {n for n, data in members(other).items() if data != members(out)[n]}
    assert changed == {"statistics.csv", "SHA256SUMS"}


def test_nothing_is_written_over(made):
    plan, out, _ = made
    before = out.read_bytes()
    with pytest.raises(studies.StudyError, match="b.zip: is there already; remove it, or name another file by --out"):
        bundle.write(plan, out)
    assert out.read_bytes() == before


# ---------------------------------------------------------------- commits and settings


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Results of one arm, the tables not made yet."""
    monkeypatch.chdir(tmp_path)
    return folder(arms={"tv": {"method": "tv"}}, seeds=[0])


def rewrite(file, **provenance):
    head, slices = store.read(file)
    store.write(file, slices, head | {"provenance": head["provenance"] | provenance})


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("ba9876543210", "several commits: 0123456789ab ({others} files), ba9876543210 (1 files). No one of them"),
        ("0123456789ab-dirty", "uncommitted tree (0123456789ab-dirty): no commit holds the code"),
        ("", "1 files name no commit"),
    ],
)
def test_commits_that_cannot_be_gone_back_to_are_said_loudly(small, commit, said, capsys):
    files = [f for job in small.jobs for f in small.recons(job)]
    rewrite(files[0], commit=commit)
    cli.main(["export-bundle", str(small.root)])
    written = capsys.readouterr()
    said = said.format(others=len(files) - 1)
    content = members(written.out.strip())
    assert written.out.strip() == "results/fabricated/fabricated_bundle.zip"
    assert "ATTENTION: " in written.err and said in written.err and said in content["README.md"].decode()
    assert "git checkout 0123456789ab\n" in content["README.md"].decode()
    assert "Not there: metrics.csv, statistics.csv, failures.csv, CITATION.md, figures/curves/knee/R4.png" in written.err


def test_results_of_other_settings_are_not_the_studys(small):
    """A changed study, or newer code: the first makes other images, the second is told by the commit."""
    first, second = (small.recons(job)[0] for job in small.jobs[:2])
    spec = store.attributes(first)["provenance"]["spec"]
    rewrite(first, spec=spec | {"arm": spec["arm"] | {"iterations": 7}})
    rewrite(second, spec=spec | {"code": "of yesterday"})
    found, lacking = bundle.images(small)
    assert lacking == {"of settings that the study no longer has": 1}
    assert sum(row[-1] == "of yesterday" for row in found) == 1


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("keys", "typed", "shown"),
    [
        ("datasets.knee.path", "$FASTMRI/multicoil_val", "$FASTMRI/multicoil_val"),
        ("datasets.knee.path", "/data/Doe_Zoe/knee", "$SCANS/knee"),
        ("datasets.knee.path", "../Doe_Zoe.NII.gz", "$SCANS/knee.nii.gz"),
        ("datasets.knee.path", "~/1.2.840.777", "$SCANS/knee"),
        ("datasets.knee.maps.file", "/data/Doe/maps_{volume}.cfl", "$SCANS/knee_maps_{volume}.cfl"),
        ("datasets.knee.acquisitions.R4.file", "Doe/mask.npy", "$SCANS/knee_R4.npy"),
        ("datasets.knee.params.maps", "/data/Doe/{volume}", "$SCANS/knee_maps_{volume}"),
        ("datasets.knee.params.maps", "maps_{volume}", "maps_{volume}"),
        ("arms.ref.inputs.prior.file", "/data/Doe_Zoe.npy", "$SCANS/ref_prior.npy"),
    ],
)
def test_paths_become_names_of_keys(keys, typed, shown):
    study = reduce(lambda inner, key: {key: inner}, reversed(keys.split(".")), typed)
    found = bundle._masked(study, (), paths := {})
    assert reduce(dict.get, keys.split("."), found) == shown
    assert paths == ({} if typed == "maps_{volume}" else {typed: shown})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("knee,v,scan,/data/Doe Zoe/knee/sub/of/v.h5: not an HDF5 file", "knee,v,scan,$SCANS/knee/v.h5: not an HDF5 file"),
        ("/data/Doe Zoe/knee/a/v.h5 and /data/Doe Zoe/knee/b/v.h5: two", "$SCANS/knee/v.h5: two"),
        ("/mnt/fast/val/v.h5: PSNR is 3/4: a / b", "$FAST/val/v.h5: PSNR is 3/4: a / b"),
        ("data/v.h5: no data: more", "$SCANS/trial/v.h5: no $SCANS/trial: more"),
        ("the data and /data/Doe Zoe/knee", "the data and $SCANS/knee"),
        ("/maps/Doe/maps_v.cfl: no such file of coil maps", "$SCANS/maps_v.cfl: no such file of coil maps"),
        ("/somewhere/Doe Zoe/else.h5: cut off; 1/2 ‖x‖ / ‖y‖", "…/else.h5: cut off; 1/2 ‖x‖ / ‖y‖"),
    ],
)
def test_messages_lose_their_paths(text, left, monkeypatch):
    monkeypatch.setenv("FAST", "/mnt/fast")
    paths = {
        "/data/Doe Zoe/knee": "$SCANS/knee", "$FAST/val": "$FAST/val", "data": "$SCANS/trial",
        "/maps/Doe/maps_{volume}.cfl": "$SCANS/knee_maps_{volume}.cfl",
    }  # fmt: skip
    assert bundle._unnamed(text, paths) == left


# ---------------------------------------------------------------- real jobs


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """(folder, bundle) of a finished study on DICOM, NIfTI and fastMRI files in folders that tell who was scanned."""
    folder = tmp_path_factory.mktemp("hospital")
    study, raw = persons(folder / "ward"), folder / "ward" / "raw of Wolkenheim" / "Doe_Zoe"
    study["datasets"]["series"]["path"] = "ward/dicom"
    raw.mkdir(parents=True)
    phantom.write("scan_3", raw / "scan_3.h5", slices=1, matrix=32, coils=4)
    (raw / "half.h5").write_text("no scan")
    acquisitions = {"R2": {"mask": "random", "acceleration": 2, "center_fraction": 0.3}}
    study["datasets"]["raw"] = {"reader": "fastmri", "path": str(raw.parent), "acquisitions": acquisitions}
    study["arms"]["dip"] = FEW | {"iterations": 10, "datasets": ["raw"]}
    study |= {"study": "hospital", "seeds": [0, 1]}
    snakemake(folder, study)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["export-bundle", "study.yaml"])
    return folder, folder / "results/hospital/hospital_bundle.zip"


def test_no_person_and_no_path_in_a_bundle(hospital):
    folder, out = hospital
    content = members(out)
    assert len(content) > 30 and any(n.endswith(".png") for n in content)
    assert not [n for n in content if n.startswith((".", "scans", "volumes", "recon", "figures/panels"))]
    paths = [str(folder), str(folder.resolve()), "ward/"]
    tell = [*TELL, b"raw of", *(p.lower().encode() for p in paths)]
    for name, data in content.items():
        assert not [t for t in tell if t in data.lower() or t in name.lower().encode()], name
    index = json.loads((folder / "results/hospital/.scans/index.json").read_text())
    real = {part for d in index.values() for e in d["volumes"].values() for path, *_ in e["stamp"] for part in Path(path).parts[1:]}
    assert {"Wolkenheim", "QX7741.dcm", "Doe_Zoe"} <= real
    own = {"scan_3.h5", "half.h5", "ward", "dicom", "nifti", *folder.parts}  # MRI volumes are called after their files
    for name, data in content.items():
        assert not [part for part in real - own if part.encode() in data], name
    assert "$SCANS/raw/half.h5: " in content["failures.csv"].decode()


def test_the_study_of_a_bundle_is_a_study(hospital, tmp_path, monkeypatch):
    """It asks for the scans in the ordinary words, and loads where they are."""
    _, out = hospital
    data = yaml.safe_load(members(out)["study.resolved.yaml"])
    assert {d: v["path"] for d, v in data["datasets"].items()} == {d: f"$SCANS/{d}" for d in ("series", "files", "raw")}
    monkeypatch.delenv("SCANS", raising=False)
    with pytest.raises(studies.StudyError, match="SCANS is not set; export SCANS=") as error:
        studies.load(data)
    assert len(error.value.problems) == 3
    for d in data["datasets"]:
        (tmp_path / d).mkdir()
    monkeypatch.setenv("SCANS", str(tmp_path))
    assert studies.load(data).study == "hospital"


def test_a_study_made_again_from_its_bundle_has_the_same_images(hospital, tmp_path, monkeypatch, capsys):
    folder, out = hospital
    for d, source in (("series", "dicom"), ("files", "nifti"), ("raw", "raw of Wolkenheim")):
        shutil.copytree(folder / "ward" / source, tmp_path / "elsewhere" / d)
    monkeypatch.setenv("SCANS", str(tmp_path / "elsewhere"))
    snakemake(tmp_path, yaml.safe_load(members(out)["study.resolved.yaml"]), "--until", "reconstruct")
    monkeypatch.chdir(tmp_path)

    def compared():
        with pytest.raises(SystemExit) as end:
            cli.main(["export-bundle", "results/hospital", "--compare", str(out)])
        return end.value.code, capsys.readouterr().out

    n = len(rows(members(out)))
    assert n == 10 and compared() == (0, "all 10 images are equal\n")  # two slices of four CT scans, two seeds on one of MRI
    one, other = sorted(Path("results/hospital/recon/raw/scan_3/R2/dip").glob("seed*/s000.h5"))
    shutil.copy(other, one)
    code, said = compared()
    assert code == 1 and said == "differs: raw/scan_3/R2/dip/0/0\n1 of 10 images differ\n"
    rewrite(one, threads=8)
    assert "here cpu, 8 threads" in compared()[1] and "there cpu, 1 threads" in compared()[1]
    other.unlink()
    assert "only there: 1 image(s)\n1 of 9 images differ" in compared()[1]


def test_what_is_no_bundle_is_refused(small, tmp_path):
    (tmp_path / "x.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as z:
        z.writestr("other/checksums.csv", "a,b\n")
    for name in ("x.zip", "y.zip"):
        with pytest.raises(studies.StudyError, match=f"{name}: no bundle of dipline; name a file that"):
            bundle.compare(small, tmp_path / name)


def test_provenance_without_git(tmp_path, monkeypatch):
    """A cluster node, or a container, may have none."""
    from dipline import store

    monkeypatch.setenv("PATH", str(tmp_path))
    assert store.commit.__wrapped__() == ""
