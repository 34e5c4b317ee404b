"""CT through the same workflow: synthetic patients as DICOM, their study whole, and nothing personal in what comes out."""

import base64
import contextlib
import gzip
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from test_ct_readers import SECRETS, body, dataset
from test_workflow import snakemake

from dipline import store
from dipline.readers import nifti, phantom_ct

pytestmark = pytest.mark.xdist_group("ct_workflow")
NETWORK = {"unet": {"widths": [8, 16], "init": "torch"}}
FEW = {"method": "vanilla", "network": NETWORK, "params": {"lr": 0.005, "input": "zero_filled"}, "iterations": 20}
STUDY = {
    "study": "ct",
    "datasets": {
        "torso": {
            "reader": "phantom_ct", "params": {"patients": 1, "first_seed": 41, "slices": 2, "matrix": 48},
            "acquisitions": {
                "V12": {"views": 12, "photons": 1e5, "holdout": 0.1},
                "F20": {"views": 20, "geometry": "fanflat", "scanner": "aapm", "photons": 1e4, "electronic_noise": 5},
            },
        }
    },
    "arms": {
        "fbp": {"method": "fbp"}, "sirt": {"method": "sirt", "iterations": 20},
        "tv": {"method": "tv", "params": {"lam": 3e-4, "nonneg": True}, "iterations": 30},
        "dip": FEW | {"precondition": 0.05, "stop": {"holdout": {"min_iterations": 5, "smooth": 3, "patience": 5}}},
        "weighted": FEW | {"data_term": "weighted"}, "poisson": FEW | {"data_term": "poisson"},
    },
    "device": "cpu", "snapshots": 5, "block": {"slices": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    snakemake(folder, STUDY)
    return folder


def test_every_arm_has_scores_in_hounsfield_units(done):
    m = pd.read_csv(done / "results/ct/metrics.csv", keep_default_na=False)
    assert set(m.modality) == {"ct"} and set(m.views.astype(float)) == {12.0, 20.0}
    assert (m[m.metric == "status"].value.astype(float) == 1).all() and len(m[m.metric == "status"]) == 12
    stopped = m[(m.slice == "") & (m.which == "stopped")]
    assert {"psnr", "ssim", "rmse_hu", "hfen", "psnr_40_400", "ssim_40_400", "residual"} <= set(stopped.metric)
    assert set(stopped[stopped.metric == "heldout_nmse"].acq) == {"V12"}
    rmse = stopped[stopped.metric == "rmse_hu"].set_index(["acq", "arm"]).value.astype(float)
    assert (rmse < 400).all() and rmse["F20", "tv"] < rmse["F20", "fbp"], "a torso ranges over 2000 HU"


def test_one_number_by_hand(done):
    """PSNR from the exported volume and the DICOM files: HU from air upwards, range of the reference volume."""
    root = done / "results/ct"
    x = nib.load(root / "volumes/tv/torso/V12/seed0/patient_041.nii.gz")
    image = np.maximum(np.asarray(x.dataobj).transpose(2, 1, 0), -1000)
    slices = sorted((pydicom.dcmread(f) for f in (root / "scans/torso/patient_041").glob("*.dcm")), key=lambda d: d.ImagePositionPatient[2])
    truth = np.maximum(np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices]), -1000)
    want = 10 * np.log10((truth.max() - truth.min()) ** 2 / np.mean((truth - image) ** 2))
    m = pd.read_csv(root / "metrics.csv", keep_default_na=False)
    row = m[(m.acq == "V12") & (m.arm == "tv") & (m.metric == "psnr") & (m.which == "stopped") & (m.slice == "")]
    assert float(row.value.iloc[0]) == pytest.approx(want, abs=1e-3)
    assert np.allclose(np.abs(np.diag(x.affine)[:3]), [400 / 48, 400 / 48, 5])


def test_nothing_personal_comes_out(done):
    """Every name, number, date and UID of the files is looked for in everything that the workflow wrote."""
    root, secrets = done / "results/ct", set()
    for file in (root / "scans").glob("*/*/*.dcm"):
        for e in pydicom.dcmread(file, stop_before_pixels=True):
            if e.VR in ("PN", "LO", "SH", "UI", "DA", "TM", "DT") and len(str(e.value)) > 5 and not e.tag.is_private:
                secrets.add(str(e.value).encode())
    secrets = {s for s in secrets if not s.startswith(b"1.2.840.10008") and s != b"dipline"}  # the standard's own; the maker
    assert len(secrets) > 4
    written = [p for p in [*root.rglob("*"), *(done / "logs").rglob("*")] if p.is_file() and "scans" not in p.parts]
    assert len(written) > 30
    for file in written:
        data = file.read_bytes()
        texts = [data, str(file).encode()]
        if file.suffix == ".h5":
            texts.append(json.dumps(store.attributes(file), default=str).encode())
        for secret in secrets:
            assert not any(secret in text for text in texts), (file, secret)


def test_a_second_run_does_nothing(done):
    run = snakemake(done, STUDY)
    assert "Nothing to be done" in run.stdout + run.stderr


# ---------------------------------------------------------------- scans of persons

TELL = [
    b"doe_zoe", b"doe^", b"doezoe", b"qx7741", b"wolkenheim", b"nightingale", b"acc99182", b"1.2.840.777", b"19340517", b"17051934",
    b"20170312", b"20170313", b"104233", b"maidenname", b"sid4711", b"station7", b"studytext", b"kerneltext",
]  # fmt: skip


def persons(folder):
    """Scans as a hospital hands them out; the header, the folder and the files say who and when. The paths of the study."""
    hu = body(18, 32, 32)
    for number, name in enumerate(("Doe_Zoe/20170312", "Wolkenheim")):  # more files than a command line takes, and few
        (folder / "dicom" / name).mkdir(parents=True)
        for i in range((18, 3)[number]):
            d = dataset(hu[i], (-18, -15, 3 * i), change=SECRETS, series=f"1.2.840.777.2.{number}")
            d.save_as(folder / "dicom" / name / f"Doe_Zoe.{i:02d}.1.2.840.777.4.IMA", enforce_file_format=True)
    (folder / "dicom" / "Wolkenheim" / "QX7741.dcm").write_bytes(b"")
    (folder / "nifti" / "Doe_Zoe").mkdir(parents=True)
    image = nib.Nifti1Image(hu[:3].transpose(2, 1, 0).astype(np.int16), np.diag([-1.5, -1.5, 3, 1]))
    image.header["descrip"], image.header["db_name"], image.header["aux_file"] = b"DOE^ZOE 20170312", b"QX7741", b"1.2.840.777.9"
    for name in ("Doe_Zoe_20170312104233.nii.gz", "Doe_Zoe_17.05.1934.nii"):
        nib.save(image, folder / "nifti" / "Doe_Zoe" / name)
    (folder / "nifti" / "Doe_Zoe" / "Wolkenheim_1.2.840.777.1.nii").write_bytes(b"cut off")
    views = {"acquisitions": {"V12": {"views": 12}}, "slices": "middle 2"}
    return {
        "study": "persons", "arms": {"fbp": {"method": "fbp"}}, "device": "cpu", "block": {"slices": 2},
        "datasets": {
            "series": {"reader": "dicom", "path": "scans/dicom"} | views,
            "files": {"reader": "nifti", "path": str(folder / "nifti")} | views,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    study = persons(folder / "scans")
    return folder, study, snakemake(folder, study)


def contents(file):
    """What is in a file, unpacked; and in its name, which Snakemake encodes."""
    data = file.read_bytes()
    yield str(file).encode()
    yield gzip.decompress(data) if file.suffix == ".gz" else data
    with contextlib.suppress(ValueError):
        yield base64.b64decode(file.name.lstrip("@"), b"-_")


def dipline(folder, *words):
    run = subprocess.run([sys.executable, "-m", "dipline", *words], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_no_person_comes_out_of_scans_of_persons(hospital):
    """Names of files stood in index.json, commands, lists of files, provenance, logs and Snakemake's records; the test of this looked
    at synthetic patients alone, whose names are clean."""
    folder, _, run = hospital
    root = folder / "results/persons"
    assert {p.stem for p in root.glob("reference/*/*.h5")} == {"series_01", "series_02"}
    scores = [json.loads(p.read_text())["status"] for p in root.glob("scores/*/*/*/*/*.json")]
    assert scores == ["done"] * 4, "all four whole scans are reconstructed"
    written = [p for top in (root, folder / "logs", folder / ".snakemake") for p in top.rglob("*") if p.is_file()]
    written = [p for p in written if ".scans" not in p.parts]
    assert len(written) > 60 and any("metadata" in p.parts for p in written) and any(p.suffix == ".log" for p in written)
    shown = dipline(folder, "show", "results/persons/measurement/series/series_01/V12.h5")
    assert "results/persons/.scans/series/" in shown
    texts = [text for file in written for text in contents(file)] + [t.encode() for t in (run.stdout, run.stderr, shown)]
    found = {(told, text[:60]) for text in texts for told in TELL if told in text.lower()}
    assert found == set()


def test_faulty_scans_of_persons_are_named_to_the_one_who_asks(hospital):
    """Files hold the opaque name of the scan; `dipline check` alone says which file that is."""
    folder, _, run = hospital
    failures = (folder / "results/persons/failures.csv").read_text()
    for line in ("results/persons/.scans/series/series_03/0001.dcm: an empty file", "results/persons/.scans/files/series_03/0001.nii:"):
        assert line in failures and line in run.stderr
    said = dipline(folder, "check", "study.yaml")
    link = "results/persons/.scans/series/series_03/0001.dcm"
    assert f"{link} ({folder}/scans/dicom/Wolkenheim/QX7741.dcm): an empty file" in said
    assert f"0001.nii ({folder}/scans/nifti/Doe_Zoe/Wolkenheim_1.2.840.777.1.nii)" in said


def test_paths_of_persons_are_for_the_owner_alone(hospital):
    folder, study, _ = hospital
    private = folder / "results/persons/.scans"
    assert private.stat().st_mode & 0o777 == 0o700
    assert "Doe_Zoe" in (private / "index.json").read_text()
    resolved = (folder / "results/persons/study.resolved.yaml").read_text()
    assert all(f"path: {d['path']}\n" in resolved for d in study["datasets"].values()), "the user's own words stay"


def test_a_second_run_on_scans_of_persons_does_nothing(hospital):
    """Links that are right stay as they are."""
    folder, study, _ = hospital
    links = sorted((folder / "results/persons/.scans").rglob("*.dcm"))
    before = [p.lstat().st_mtime_ns for p in links]
    run = snakemake(folder, study)
    assert "Nothing to be done" in run.stdout + run.stderr
    assert len(links) == 22 and [p.lstat().st_mtime_ns for p in links] == before

# ---------------------------------------------------------------- damaged scans

GOOD = {("series", "patient_001"), ("volumes", "plain"), ("volumes", "scaled")}
BAD = {("series", "patient_002"): "0002.dcm", ("volumes", "half"): "0001.nii.gz", ("volumes", "text"): "0001.nii"}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A cohort of which one series breaks off within a slice, one NIfTI file half way, and one is no NIfTI file at all."""
    folder = tmp_path_factory.mktemp("damaged")
    for name in ("patient_001", "patient_002"):
        phantom_ct.write(name, folder / "dicom" / name, slices=2, matrix=32)
    cut(folder / "dicom" / "patient_002" / "IM0002.dcm")
    (folder / "nifti").mkdir()
    nifti.fake(folder / "nifti")
    shutil.copy(folder / "nifti" / "scaled.nii.gz", folder / "nifti" / "half.nii.gz")
    cut(folder / "nifti" / "half.nii.gz")
    (folder / "nifti" / "text.nii").write_text("no image")
    views = {"V9": {"views": 9, "photons": 1e5}}
    study = {
        "study": "damaged",
        "datasets": {
            "series": {"reader": "dicom", "path": "dicom", "acquisitions": views},
            "volumes": {"reader": "nifti", "path": "nifti", "slices": "middle 2", "acquisitions": views},
        },
        "arms": {"fbp": {"method": "fbp"}}, "device": "cpu", "snapshots": 0, "block": {"slices": 2},
    }  # fmt: skip
    return folder, snakemake(folder, study)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 + 200])


def test_promise_8_damaged_ct_scans_do_not_cost_the_cohort(damaged):
    """Design section 6, promise 8: the good scans are reconstructed and reported, the damaged ones are listed with file and reason."""
    folder, run = damaged
    root = folder / "results" / "damaged"
    m = pd.read_csv(root / "metrics.csv", keep_default_na=False)
    status = m[m.metric == "status"].assign(value=lambda x: x.value.astype(float)).groupby(["dataset", "volume"]).value
    assert {scan for scan, value in status.min().items() if value == 1} == GOOD
    psnr = m[(m.metric == "psnr") & (m.which == "stopped") & (m.slice == "")]
    assert sorted(zip(psnr.dataset, psnr.volume, strict=True)) == sorted(GOOD) and (psnr.value.astype(float) > 5).all()
    failures = pd.read_csv(root / "failures.csv", keep_default_na=False)
    assert set(zip(failures.dataset, failures.volume, strict=True)) == set(BAD)
    for (kind, volume), file in BAD.items():
        rows = failures[(failures.dataset == kind) & (failures.volume == volume)]
        assert rows.reason.str.contains(file, regex=False).all(), rows
    page = (root / "report.html").read_text()
    for (kind, volume), file in BAD.items():
        assert volume in page and file in page, (kind, volume)
    exported = {(p.parts[-4], p.name.split(".")[0]) for p in (root / "volumes").rglob("*.nii.gz")}
    assert exported == GOOD and not list(root.rglob("*.part"))


def test_promise_8_a_damaged_scan_fails_where_it_is_read(damaged):
    """What the headers show is left out before any job; what only the pixels show is a failed measurement, and no job's crash."""
    folder, run = damaged
    failures = pd.read_csv(folder / "results/damaged/failures.csv", keep_default_na=False)
    stages = failures.groupby("volume").stage.agg(set)
    assert stages["text"] == stages["patient_002"] == {"scan"} and stages["half"] == {"measure", "reference", "reconstruct"}
    assert all(f"left out: {scan}: " in run.stderr for scan in ("volumes/text", "series/patient_002"))
    assert "Traceback" not in "".join(p.read_text() for p in (folder / "logs").rglob("*.log"))
