"""The tables beyond the scores, and the figures over what acquisitions vary, on fabricated results."""

import numpy as np
import pandas as pd
import pytest
from fabricated import ARMS, cohort, folder, study

from dipline import study as studies
from dipline.plan import Plan
from dipline.report import html, questions, statistics, sweeps, tables

QUOTED = [
    {"dataset": "knee", "acq": "R4", "arm": "aseq", "value": 34.44, "source": "alkhouri2024", "differs": "brain"},
    {"dataset": "knee", "acq": "R4", "arm": "Score-MRI", "value": 32.98, "spread": 1.2, "source": "a figure", "differs": "trained"},
]
SERIES = {
    **{f"R{r}": {"mask": "equispaced", "acceleration": r, "center_fraction": 0.32 / r} for r in (8, 2, 4)},
    **{f"g{r}": {"mask": "gaussian_2d", "acceleration": r} for r in (2, 4, 8)},
    **{f"n{s}": {"mask": "equispaced", "acceleration": 4, "center_fraction": 0.08, "noise_snr": s} for s in (30, 10, 20)},
    "odd": {"mask": "random", "acceleration": 4},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("questions"))
        yield folder(published=QUOTED)


def swept(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    knee = study()["datasets"]["knee"]
    return folder(datasets={"knee": {**knee, "acquisitions": SERIES}}, arms={"tv": ARMS["tv"], "dip": ARMS["dip"]}, seeds=[0])


def of(arms, **values):
    """The baseline table of made-up patients; ``arms``: {name: method}."""
    plan = Plan.load(study(arms={name: {"method": method} for name, method in arms.items()}))
    return questions.baseline(plan, cohort(values), "knee")


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.setattr(tables, "has_truth", lambda plan, dataset: True)


def test_arms_less_the_best_classical_one(tmp_path, monkeypatch, truth):
    monkeypatch.chdir(tmp_path)
    arms = {"zero_filled": "zero_filled", "tv": "tv", "l1": "l1_wavelet", "dip": "vanilla", "aseq": "aseq"}
    values = {"zero_filled": [19.0] * 7, "tv": [30, 31, 32, 33, 34, 35, 36.0], "l1": [29.0] * 7,
              "dip": [29, 30, 31, 32, 33, 34, 37.0], "aseq": [31, 33, 35, 34, 36, 37, 37.0]}  # fmt: skip
    table = of(arms, **values)
    frame = table.frame.set_index("arm")
    assert set(frame.baseline) == {"tv"}
    assert list(frame.index) == ["zero_filled", "l1", "dip", "aseq"]
    assert frame.loc["dip", ["median", "smallest", "largest", "ahead"]].tolist() == [-1, -1, 1, 1]
    assert frame.loc["aseq", ["median", "smallest", "ahead"]].tolist() == [2, 1, 7]
    assert frame.loc["aseq", "p"] == pytest.approx(2 / 2**7)
    assert frame.p_holm.tolist() == pytest.approx(statistics.holm(frame.p).tolist())
    assert "chosen on these very patients" in table.note and "a large p does not mean" in table.note


def test_the_baseline_is_chosen_among_classical_arms_alone(tmp_path, monkeypatch, truth):
    """Volumes that a network failed on counted for nothing: the worse classical arm was chosen on the one that was left."""
    monkeypatch.chdir(tmp_path)
    nan = float("nan")
    arms = {"tv": "tv", "l1": "l1_wavelet", "dip": "vanilla"}
    frame = of(arms, tv=[30.0, 30, 10], l1=[20.0, 20, 11], dip=[nan, nan, 25.0]).frame
    assert set(frame.baseline) == {"tv"}


def test_the_note_says_whose_choice_the_baseline_was(tmp_path, monkeypatch, truth):
    monkeypatch.chdir(tmp_path)
    plan = Plan.load(study(arms={"tv": {"method": "tv"}, "dip": {"method": "vanilla"}}, baseline="dip"))
    table = questions.baseline(plan, cohort({"tv": [30.0], "dip": [31.0]}), "knee")
    assert table.heading == "Against the baseline" and "the one the study names" in table.note
    plan = Plan.load(study(arms={"tv": {"method": "tv"}, "dip": {"method": "vanilla"}, "sense": {"method": "sense"}}, baseline="sense"))
    table = questions.baseline(plan, cohort({"tv": [30.0], "dip": [31.0]}), "knee")
    assert table.heading == "Against the best classical arm" and "chosen on these very" in table.note


def test_less_is_better_of_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "has_truth", lambda plan, dataset: False)
    plan = Plan.load(study(arms={"tv": {"method": "tv"}, "dip": {"method": "vanilla"}}))
    table = questions.baseline(plan, cohort({"tv": [0.2, 0.3], "dip": [0.1, 0.4]}, metric="heldout_nmse"), "knee")
    assert table.frame.smallest[0] == pytest.approx(-0.1) and table.frame.ahead[0] == 1


def test_nothing_to_compare_is_no_table(tmp_path, monkeypatch, truth):
    monkeypatch.chdir(tmp_path)
    assert of({"dip": "vanilla", "aseq": "aseq"}, dip=[30.0], aseq=[31.0]) is None


def test_stops_against_the_peak(plan):
    frame = questions.peaks(plan, "knee").frame
    found = frame[(frame.acq == "R4") & (frame.arm == "es_dip")].set_index("rule")
    assert list(found.index) == ["wmv", "last image"] and set(found.n) == {2}, "no watching rule of a run that wmv ended"
    assert (found.distance <= 0).all(), "no stop lies above the peak of its own run"
    assert found.iterations["wmv"] == pytest.approx(901 - found.peak_iteration["wmv"])
    of_run = frame[(frame.acq == "R4") & (frame.arm == "aseq")].set_index("rule")
    assert list(of_run.index) == ["last image"] and of_run.iterations["last image"] <= 0
    assert not (frame.arm == "tv").any()


def test_held_out_samples_against_the_truth(plan):
    true = {"tv": [30.0, 30], "dip": [31.0, 31], "aseq": [32.0, 32]}
    agrees = cohort({"tv": [0.3, 0.3], "dip": [0.2, 0.2], "aseq": [0.1, 0.1]}, metric="heldout_nmse")
    table = questions.trust(plan, pd.concat([cohort(true), agrees]), "knee")
    frame = table.frame
    assert frame.rank_correlation[0] == pytest.approx(1) and frame.picked[0] == "aseq" and frame.loss[0] == 0
    assert "agree by chance" in table.note, "three arms and two patients are no ground for a verdict"
    partly = cohort({"tv": [0.1, 0.3], "dip": [0.2, 0.2], "aseq": [0.3, 0.1]}, metric="heldout_nmse")
    table = questions.trust(plan, pd.concat([cohort(true), partly]), "knee")
    assert table.frame[["smallest", "largest", "loss", "largest_loss"]].to_numpy().tolist() == [[-1, 1, 1, 2]]


@pytest.mark.parametrize(("last", "said"), [(0.1, "may rank these arms"), (0.9, "do not rank these arms safely")])
def test_a_verdict_takes_five_arms_and_three_patients(tmp_path, monkeypatch, last, said):
    monkeypatch.chdir(tmp_path)
    names = ["a", "b", "c", "d", "e"]
    plan = Plan.load(study(arms={"zf": {"method": "zero_filled"}, **{n: {"method": "vanilla"} for n in names}}))
    true = {"zf": [1.0] * 3, **{n: [30.0 + i] * 3 for i, n in enumerate(names)}}
    kept = {"zf": [0.0] * 3, **{n: [0.5 - i / 10, 0.5 - i / 10, 0.5 - i / 10] for i, n in enumerate(names)}} | {"e": [0.1, 0.1, last]}
    table = questions.trust(plan, pd.concat([cohort(true), cohort(kept, metric="heldout_nmse")]), "knee")
    assert said in table.note and table.frame.arms[0] == 5, "the starting image is no arm to be ranked"


def test_an_arm_without_a_volume_counts_on_the_others(plan):
    true = cohort({"tv": [30.0, 30], "dip": [31.0, 31], "aseq": [32.0, 32], "es_dip": [23.0, np.nan]})
    kept = cohort({"tv": [0.3, 0.3], "dip": [0.2, 0.2], "aseq": [0.1, 0.1], "es_dip": [0.01, 0.01]}, metric="heldout_nmse")
    frame = questions.trust(plan, pd.concat([true, kept]), "knee").frame
    assert frame.arms[0] == 4 and frame.largest_loss[0] == pytest.approx(9)
    assert questions.trust(plan, true, "knee") is None


def test_published_numbers_stand_beside_ours(plan):
    table = questions.published(plan, tables.collect(plan), "knee")
    ours, foreign = table.rows
    assert ours[:2] == ["R4", "aseq"] and ours[3] != "–" and ours[4:] == ["34.44", "Alkhouri et al. 2024", "brain"]
    assert foreign[3:5] == ["–", "32.98 ± 1.20"] and foreign[5] == "a figure"
    page = html.page(plan)
    assert "Beside published numbers" in page and "Score-MRI" in page and "none was computed here" in page
    assert questions.published(plan, tables.collect(plan), "trial") is None


@pytest.mark.parametrize(
    ("change", "said"), [({"acq": "R5"}, 'published[0].acq: no acquisition "R5"'), ({"dataset": "kne"}, 'no dataset "kne"')]
)
def test_a_quotation_of_nothing_is_a_fault(change, said):
    faults = "\n".join(studies.examined(study(published=[QUOTED[0] | change]))[1])
    assert said in faults and "allowed: " in faults


def test_a_sweep_differs_in_one_number_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Plan.load(study(datasets={"knee": study()["datasets"]["knee"] | {"acquisitions": SERIES}})).sweeps("knee")
    assert [(key, acqs) for key, acqs, _ in found] == [
        ("acceleration", ["R2", "R4", "R8"]), ("acceleration", ["g2", "g4", "g8"]), ("noise_snr", ["n10", "n20", "n30"]),
    ]  # fmt: skip
    assert found[0][2].startswith("mask equispaced") and found[1][2].startswith("mask gaussian 2d")
    assert Plan.load(study()).swept() == []


def test_the_centre_of_a_sweep_is_equal_or_in_proportion(tmp_path, monkeypatch):
    """A series in which the centre jumped was drawn as one curve, and an acquisition was left out of it."""
    monkeypatch.chdir(tmp_path)
    knee = study()["datasets"]["knee"]
    series = {"R2": (2, 0.2), "R4a": (4, 0.2), "R4b": (4, 0.08), "R8": (8, 0.08)}
    acqs = {n: {"mask": "equispaced", "acceleration": r, "center_fraction": c} for n, (r, c) in series.items()}
    assert Plan.load(study(datasets={"knee": knee | {"acquisitions": acqs}})).swept() == []
    acqs = {f"R{r}": {"mask": "equispaced", "acceleration": r, "center_fraction": 0.2} for r in (2, 4, 8)}
    assert Plan.load(study(datasets={"knee": knee | {"acquisitions": acqs}})).sweeps("knee")[0][1] == ["R2", "R4", "R8"]


def test_what_no_arm_solves_is_no_sweep(tmp_path, monkeypatch):
    """The figure of a study whose arms solve another task alone ended with a KeyError."""
    monkeypatch.chdir(tmp_path)
    acqs = {f"x{f}": {"task": "superres", "factor": f} for f in (2, 4, 8)} | {"blur": {"task": "deblur"}}
    photos = {"reader": "samples", "params": {"images": 1, "size": 32}, "acquisitions": acqs}
    assert Plan.load(study(datasets={"photos": photos}, arms={"wiener": {"method": "wiener"}})).swept() == []


def test_the_sweep_is_drawn_and_shown(tmp_path, monkeypatch):
    plan = swept(monkeypatch, tmp_path)
    (file,) = sweeps.write(plan)
    assert "Quality over what the acquisitions vary" in html.page(plan)
    from matplotlib.image import imread

    picture = imread(file)
    assert (picture[:, :60, :3].min((0, 1)) < 0.5).all(), "the axis has its name"
    assert picture.shape[0] > 400 and picture.shape[1] > 3 * 400
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 50
