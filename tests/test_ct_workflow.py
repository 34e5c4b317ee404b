"""CT through the same workflow: synthetic patients as DICOM, their study whole, and nothing personal in what comes out."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from test_workflow import snakemake

from dipline import store

pytestmark = pytest.mark.xdist_group("workflow")
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
