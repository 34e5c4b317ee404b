"""The tables of the scripts for real scans, on fabricated results."""

import re

import common
import demo
import numpy as np
import pandas as pd
import pytest
import real_ct
import real_mri
from fabricated import ARMS, SIZE, TORSO, folder, picture, study

from dipline import store
from dipline.plan import Job
from dipline.report import panels, tables


def made(plan, **numbers):
    """metrics.csv as the scripts read it; ``numbers``: {arm: {(dataset, acq): PSNR or held-out NMSE}} to put in."""
    tables.write(plan)
    m = pd.read_csv(plan.root / "metrics.csv", keep_default_na=False)
    for arm, values in numbers.items():
        for (dataset, acq), value in values.items():
            metric = "heldout_nmse" if acq == "as_measured" else "psnr"
            m.loc[(m.dataset == dataset) & (m.acq == acq) & (m.arm == arm) & (m.metric == metric) & (m.which == "stopped"), "value"] = value
    return m


def cells(lines, head):
    """{arm: {head: text}} of the first table below a line that starts with ``head``."""
    start = next(i for i, line in enumerate(lines) if line.startswith(head))
    rows = []
    for line in lines[start:]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


@pytest.fixture(scope="module")
def mri(tmp_path_factory):
    """A study like real_mri: its plan, and the folder of the data with one noise-free truth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mri"))
        datasets = study()["datasets"]
        arms = {"zero_filled": {"method": "zero_filled"}, "sense": {"method": "sense"}} | ARMS
        plan = folder(datasets={"full": datasets["knee"], "prospective": datasets["trial"]}, arms=arms, seeds=[0])
        panels.draw(plan, *plan.shown()[-1])
        (plan.root / "mri").mkdir()
        wide = np.pad([picture("patient_001", s, SIZE) for s in range(4)], ((0, 0), (4, 4), (3, 3)))
        np.savez(plan.root / "mri" / "patient_001_truth.npz", image=-1j * wide)
        yield plan


def test_mri_tables(mri):
    m = made(mri, zero_filled={("full", "R4"): 25.0}, dip={("full", "R4"): 26.9}, aseq={("full", "R4"): 27.0})
    lines = real_mri.page(mri, m, mri.root)
    rows = cells(lines, "## patient_001")
    assert list(rows) == ["zero_filled", "sense", *ARMS]
    heads = [f"{acq} {w}" for acq in ("R4", "R8") for w in ("stopped", "peak", "stopped − zero-filled")]
    assert list(rows["dip"]) == heads
    assert rows["dip"]["R4 stopped"].startswith("26.90 / 0.") and rows["dip"]["R4 stopped − zero-filled"] == "+1.90"
    assert re.fullmatch(r"\d\d\.\d\d / 0\.\d{3}", rows["tv"]["R8 peak"])
    closing = lines[lines.index("## Untrained arms below zero_filled + 2 dB at R4") :]
    assert "- patient_001, dip: +1.90" in closing and not any("aseq" in line for line in closing), "2.00 is enough"


def test_mri_against_the_noise_free_truth(mri):
    """The truth has another size and another phase; the scan without one has no such table."""
    lines = real_mri.page(mri, made(mri), mri.root)
    rows = cells(lines, "Stopped, against the noise-free truth")
    view = np.stack([tables.views(mri, Job("full", "patient_001", "R4", "tv", 0))[s]["view"] for s in (1, 2)])
    want = np.stack([picture("patient_001", s, SIZE) for s in (1, 2)])
    psnr = 10 * np.log10(want.max() ** 2 / np.mean((view.astype(float) - want) ** 2))
    assert rows["tv"]["R4"].startswith(f"{psnr:.2f} / ") and len(rows) == 6
    assert sum(line.startswith("Stopped, against") for line in lines) == 1


def test_mri_without_truth(mri):
    at = ("prospective", "as_measured")
    m = made(mri, sense={at: 0.05}, dip={at: 0.051}, es_dip={at: 0.05}, aseq={at: 0.049}, tv={at: 0.06})
    lines = real_mri.page(mri, m, mri.root)
    rows = cells(lines, "## patient_009, as measured")
    marks = {arm: row[""] for arm, row in rows.items()}
    assert marks == {"zero_filled": "", "sense": "", "tv": "", "dip": "not below sense", "es_dip": "not below sense", "aseq": ""}
    assert rows["dip"]["held-out NMSE"] == "0.0510"
    assert f"Pictures: `{mri.panel('prospective', 'as_measured', 'patient_009')}`" in lines


def test_what_did_not_run_is_said(mri):
    m = made(mri)
    gone = (m.arm == "dip") & (m.acq == "R4") & (m.volume == "patient_002")
    m.loc[gone & (m.metric == "status"), "value"] = 0.0
    m = m[~gone | (m.metric == "status")]
    lines = real_mri.page(mri, m, mri.root)
    assert cells(lines, "## patient_002")["dip"]["R4 stopped"] == "no result" and "- patient_002, dip: no result" in lines
    assert "Unfinished or failed: 1 of" in " ".join(common.unfinished(mri, m))
    assert "full/patient_003 could not be used" in " ".join(common.unfinished(mri, m))


def test_notes_survive_a_run(tmp_path):
    """Reasons written by hand into the table were lost at the next run."""
    (tmp_path / "x_notes.md").write_text("aseq_dip: the coil maps are wrong there.\n")
    for _ in range(2):
        common.write(tmp_path / "x.md", ["| a table |", ""])
    assert (tmp_path / "x.md").read_text() == "# x\n\n| a table |\n\n## Notes\n\naseq_dip: the coil maps are wrong there.\n"
    assert (tmp_path / "x_notes.md").read_text() == "aseq_dip: the coil maps are wrong there.\n"
    common.write(tmp_path / "y.md", ["| a table |"])
    assert "Notes" not in (tmp_path / "y.md").read_text()


def test_ct_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = folder(datasets={"abdomen": TORSO}, arms=ARMS | {"fbp": {"method": "fbp"}}, seeds=[0])
    panels.draw(plan, "abdomen", "V18", "patient_001", "40_400")
    m = made(plan, fbp={("abdomen", "V18"): 20.0}, dip={("abdomen", "V18"): 22.9}, aseq={("abdomen", "V18"): 23.0})
    lines = real_ct.page(plan, m, tmp_path)
    rows = cells(lines, "### V18: 18 views equispaced, parallel beam, 100000 photons per ray")
    assert list(rows) == [*ARMS, "fbp"]
    assert list(rows["dip"]) == ["stopped", "peak", "stopped − FBP", "RMSE (HU)", "PSNR in 40/400"]
    assert rows["dip"]["stopped − FBP"] == "+2.90" and re.fullmatch(r"\d+\.\d", rows["dip"]["RMSE (HU)"])
    job = Job("abdomen", "patient_001", "V18", "tv", 0)
    truth = store.read(plan.reference(*job[:2]))[1]
    error = [np.clip(v["view"], -160, 240) - np.clip(truth[s]["view"], -160, 240.0) for s, v in tables.views(plan, job).items()]
    assert rows["tv"]["PSNR in 40/400"] == f"{20 * np.log10(400 / np.sqrt(np.mean(np.square(error)))):.2f}"
    assert any(line.startswith("### V30: 30 views") for line in lines)
    assert f"Pictures: `{plan.panel('abdomen', 'V18', 'patient_001', '40_400')}`" in lines
    closing = lines[lines.index("## Untrained arms below fbp + 3 dB with 18 views") :]
    assert "- patient_001, dip: +2.90" in closing and "- patient_002, dip: +2.90" in closing
    assert not any(f", {arm}:" in line for line in closing for arm in ("aseq", "tv", "fbp"))


def test_demo_claims():
    """What the demo shows is judged for each kind of scan by its own baseline, at the fewest views whatever their order."""
    psnr = {
        ("mri", "R4"): {
            "zero_filled": 22,
            "sense": 25,
            "l1_wavelet": 26,
            "tv": 27,
            "dip": 25,
            "self_guided": 28,
            "aseq_dip": 27,
        },
        ("mri", "R8"): {
            "zero_filled": 20,
            "sense": 21,
            "l1_wavelet": 22,
            "tv": 23,
            "dip": 23,
            "self_guided": 24,
            "aseq_dip": 23.5,
        },
        ("ct", "V12"): {"fbp": 20, "sirt": 23, "tv": 24, "dip": 25.5, "self_guided": 24.9, "aseq_dip": 25.1},
        ("ct", "V30"): {"fbp": 25, "sirt": 27, "tv": 30, "dip": 29, "self_guided": 29.5, "aseq_dip": 28},
    }
    rows = [
        {"modality": kind, "acq": acq, "views": acq[1:] if kind == "ct" else "", "arm": arm, "slice": "", "metric": "psnr", "which": which,
         "value": value + (which == "peak" and arm == "dip") * 0.4}
        for (kind, acq), arms in psnr.items() for arm, value in arms.items() for which in ("stopped", "peak", "last")
    ]  # fmt: skip
    networks = ["dip", "self_guided", "aseq_dip"]
    lines = demo.page(pd.DataFrame(rows), [*psnr["mri", "R4"], "fbp", "sirt"], networks)
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[lines.index("## Claims") + 4 :]]
    claims = {claim: rest for claim, *rest in found}
    assert claims["R4: every untrained arm is 3 dB above zero_filled"] == ["yes", "dip +3.00"]
    assert claims["R8: vanilla overfits by 0.5 dB or more"] == ["no", "peak − last +0.40"]
    assert claims["V12: every untrained arm is 5 dB above fbp"] == ["no", "self_guided +4.90"]
    assert claims["V12: an untrained arm beats the best of sirt, tv"] == ["yes", "dip − tv +1.50"]
    assert claims["V30: an untrained arm beats the best of sirt, tv"] == ["no", "self_guided − tv -0.50"]
    assert not any(claim.startswith("V30: every") for claim in claims)
    ct = lines[lines.index("## CT") : lines.index("## Claims")]
    assert any(line.startswith("| fbp |") for line in ct) and not any("zero_filled" in line for line in ct)
