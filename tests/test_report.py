"""Tables, statistics, figures and the page on fabricated results: a failed job, a missing one, a broken scan."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated import ARMS, FAILED, MISSING, both, cohort, folder, study
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from dipline import export, registry, store
from dipline import metrics as quality
from dipline import score as scoring
from dipline.plan import Job, Plan
from dipline.report import answer, cite, curves, html, panels, provenance, statistics, style, tables

SEVEN = {
    "tv": [30.1, 29.4, 31.0, 28.7, 30.6, 29.9, 30.3],
    "dip": [29.0, 28.9, 30.4, 28.8, 29.2, 29.1, 29.6],
    "aseq": [31.2, 30.1, 31.9, 29.9, 31.1, 30.8, 31.6],
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("report"))
        plan = folder()
        tables.write(plan)
        panels.write(plan)
        curves.write(plan)
        html.write(plan)
        yield plan


@pytest.fixture(scope="module")
def metrics(plan):
    return tables.collect(plan)


# metrics.csv


def test_metrics_are_tidy(plan, metrics):
    header = "study dataset modality volume slice acq acceleration views arm seed metric which value"
    assert list(metrics) == header.split()
    assert set(metrics["which"]) == {"", "stopped", "peak", "last"}
    assert set(metrics["modality"]) == {"mri"}
    assert metrics.loc[metrics["acq"] == "R8", "acceleration"].unique().tolist() == [8.0]  # the requested one
    assert not metrics.duplicated(list(metrics)[:-1]).any()
    read = pd.read_csv(plan.root / "metrics.csv", keep_default_na=False)
    assert len(read) == len(metrics)


def test_every_planned_job_has_a_status(plan, metrics):
    status = metrics[metrics["metric"] == "status"]
    keys = list(zip(status["dataset"], status["volume"], status["acq"], status["arm"], status["seed"], strict=True))
    assert keys == [tuple(job) for job in plan.jobs]
    assert {k for k, v in zip(keys, status["value"], strict=True) if v == 0} == {FAILED, MISSING}


def test_failures_say_stage_and_reason(plan):
    found = tables.failures(plan).set_index("stage")
    assert sorted(found.index) == ["reconstruct", "reconstruct", "scan"]
    assert found.loc["scan", "volume"] == "patient_003" and "not an HDF5 file" in found.loc["scan", "reason"]
    slices = found.loc["reconstruct"].set_index("arm")
    assert slices.loc["aseq", "slice"] == "1" and "not a number" in slices.loc["aseq", "reason"]
    assert slices.loc["dip", "slice"] == "" and "logs/fabricated/" in slices.loc["dip", "reason"]


# tables


def test_summary_is_patients_then_seeds(plan, metrics):
    value = {}
    for volume in ("patient_001", "patient_002"):
        for seed in (0, 1):
            score = json.loads(Path(f"{plan.root}/scores/knee/{volume}/R4/dip/seed{seed}.json").read_text())
            value[volume, seed] = next(v for s, m, w, v in score["rows"] if (s, m, w) == ("", "psnr", "stopped"))
    means = [(value[v, 0] + value[v, 1]) / 2 for v in ("patient_001", "patient_002")]
    spread = [abs(value[v, 0] - value[v, 1]) / 2**0.5 for v in ("patient_001", "patient_002")]  # std of two, n - 1
    row = tables.summary(metrics, "knee", "psnr", "stopped").loc["dip", "R4"]
    assert row["mean"] == pytest.approx(np.mean(means)) and row["std"] == pytest.approx(
        abs(means[0] - means[1]) / 2**0.5
    )
    assert row["seed_std"] == pytest.approx(np.mean(spread)) and row["n"] == 2


def test_a_volume_with_a_failed_slice_is_in_no_mean(metrics):
    score = metrics[(metrics["metric"] == "psnr") & (metrics["slice"] == "") & (metrics["which"] == "stopped")]
    row = score[(score["volume"] == FAILED[1]) & (score["acq"] == FAILED[2]) & (score["arm"] == FAILED[3])]
    assert row["seed"].tolist() == [0]


def test_stopped_and_peak_are_never_mixed(plan, metrics):
    csv = pd.read_csv(plan.root / "tables/knee_psnr.csv")
    assert csv["which"].tolist() == ["stopped"] * 8 + ["peak"] * 8
    for which, group in csv.groupby("which"):
        expected = tables.summary(metrics, "knee", "psnr", which)
        for row in group.itertuples():
            assert row.mean == pytest.approx(expected.loc[row.arm, (row.acq, "mean")])


def test_best_stopped_is_bold(plan):
    lines = (plan.root / "tables/knee_psnr.md").read_text().splitlines()
    bold = [line for line in lines if "**" in line]
    assert (
        len(bold) == 1 and bold[0].startswith("| aseq |") and bold[0].count("**") == 4
    )  # R4 and R8, the peaks are not
    assert (plan.root / "tables/knee_psnr.tex").read_text().count(r"\textbf{") == 2


def test_note_names_the_protocol(plan):
    note = (plan.root / "tables/knee_psnr.tex").read_text()
    for said in (
        "n = 2 patients",
        "crop: readout",
        "maps: espirit",
        r"mask equispaced\_fraction",
        "requested 8",
        "achieved 7.53",
    ):
        assert said in note


def test_dataset_without_truth_has_no_error_metrics(plan):
    names = {f.stem for f in (plan.root / "tables").glob("trial_*")}
    assert names == {"trial_heldout_nmse", "trial_residual", "trial_seconds", "trial_seed_spread", "trial_baseline"}


def test_seed_spread_by_hand(plan, metrics):
    images = [
        np.stack([tables.views(plan, job)[s]["view"] for s in (1, 2)]).astype(float)
        for job in plan.jobs if (job.dataset, job.arm) == ("trial", "dip")
    ]  # fmt: skip
    a, b = images
    expected = 100 * np.sqrt(np.sum((a - b) ** 2) / 2) / np.linalg.norm((a + b) / 2)
    row = metrics[(metrics["metric"] == "seed_spread") & (metrics["arm"] == "dip")]
    assert row["value"].tolist() == pytest.approx([expected])


def test_latex_takes_names_literally():
    assert tables.tex(r"a_b & 50% {x} $y$ #1 ~ ^ \z") == (
        r"a\_b \& 50\% \{x\} \$y\$ \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )


def test_latex_is_a_booktabs_table(plan):
    text = (plan.root / "tables/knee_psnr.tex").read_text()
    for line in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"\begin{tabular}{lrrrr}",
    ):
        assert line in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(ARMS) and all(row.count("&") == 4 and row.endswith(r"\\") for row in body)
    assert "es_dip" not in text and r"es\_dip" in text
    assert text.count("{") == text.count("}")


def test_identical_images_do_not_break_a_table():
    table = tables.summary(cohort({"a": [np.inf, 30.0], "b": [29.0, 30.0]}), "knee", "psnr", "stopped")
    assert np.isinf(table.loc["a", ("R8", "mean")]) and tables.best(table, "R8", "psnr") == {"a"}
    assert statistics.compare(cohort({"a": [np.inf, 30.0], "b": [29.0, 30.0]}), "knee", "R8", "psnr")[
        "patients"
    ].tolist() == [1]


# statistics


def test_holm_worked_example():
    # sorted 0.005 0.01 0.03 0.04, times 4 3 2 1, running maximum: 0.02 0.03 0.06 0.06
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    np.testing.assert_allclose(statistics.holm([0.6, 0.9]), [1.0, 1.0])


def test_seven_patients_are_tested():
    rows = statistics.compare(cohort(SEVEN, seeds=(0, 1)), "knee", "R8", "psnr").set_index(["arm_a", "arm_b"])
    # tv - dip: 1.1 0.5 0.6 -0.1 1.4 0.8 0.7; the one negative difference has rank 1: W- = 1, exact p = 2 * 2 / 2^7
    pair = rows.loc["tv", "dip"]
    assert pair["patients"] == 7 and pair["median_difference"] == pytest.approx(0.7)
    assert (pair["smallest_difference"], pair["largest_difference"]) == (pytest.approx(-0.1), pytest.approx(1.4))
    assert pair["p"] == pytest.approx(4 / 128) and pair["rank_biserial"] == pytest.approx((27 - 1) / 28)
    # the other two pairs agree in all patients: p = 2 / 2^7; Holm: 3 * 2 / 128, then no smaller, then at least as large
    assert rows.loc["tv", "aseq"]["p"] == pytest.approx(2 / 128) and rows.loc["tv", "aseq"]["rank_biserial"] == -1
    np.testing.assert_allclose(rows["p_holm"], [6 / 128, 6 / 128, 6 / 128])
    assert rows["better"].tolist() == ["tv", "aseq", "aseq"]


def test_five_patients_are_not_tested():
    rows = statistics.compare(cohort({arm: v[:5] for arm, v in SEVEN.items()}), "knee", "R8", "psnr")
    assert rows["p"].isna().all() and rows["p_holm"].isna().all() and rows["median_difference"].notna().all()
    assert rows["note"].tolist() == ["5 patients: no test with fewer than 6"] * 3


def test_a_missing_patient_leaves_its_pairs():
    data = cohort(SEVEN)
    data = data[~((data["arm"] == "dip") & (data["volume"] == "patient_002"))]
    rows = statistics.compare(data, "knee", "R8", "psnr").set_index(["arm_a", "arm_b"])
    assert rows["patients"].tolist() == [6, 7, 6] and "1 of 7 patients left out" in rows.loc["tv", "dip"]["note"]


def test_lower_is_better_where_it_is():
    rows = statistics.compare(cohort({"a": [0.1, 0.2], "b": [0.3, 0.3]}, metric="nmse"), "knee", "R8", "nmse")
    assert rows["better"].tolist() == ["a"]


def test_equal_arms():
    rows = statistics.compare(cohort({"a": SEVEN["tv"], "b": SEVEN["tv"]}), "knee", "R8", "psnr").iloc[0]
    assert (rows["p"], rows["rank_biserial"], rows["better"]) == (1.0, 0.0, "")


def test_metrics_that_order_nothing_are_not_tested(metrics):
    assert not set(statistics.table(metrics)["metric"]) & {"seconds", "iterations", "residual"}


# figures


def test_golden_list_of_files(plan):
    found = {str(f.relative_to(plan.root)) for f in plan.root.rglob("*") if f.is_file()}
    made = {f for f in found if f.split("/")[0] not in ("recon", "scores", "reference", "measurement")}
    expected = {
        ".scans/index.json",
        "study.resolved.yaml",
        "metrics.csv",
        "failures.csv",
        "statistics.csv",
        "report.html",
        "CITATION.md",
    }
    expected |= {f"figures/panels/knee/{acq}/patient_00{i}.png" for acq in ("R4", "R8") for i in (1, 2)}
    expected |= {"figures/panels/trial/as_measured/patient_009.png", "figures/curves/trial/as_measured.png"}
    expected |= {f"figures/curves/knee/{acq}.png" for acq in ("R4", "R8")}
    names = [f"knee_{m}" for m in ("psnr", "ssim", "nmse", "hfen", "residual", "seconds", "iterations")]
    names += [f"trial_{m}" for m in ("heldout_nmse", "residual", "seed_spread", "seconds")]
    expected |= {f"tables/{name}.{suffix}" for name in names for suffix in ("csv", "md", "tex")}
    expected |= {f"tables/{name}.{suffix}" for name in ("knee_baseline", "knee_stops", "trial_baseline") for suffix in ("csv", "md")}
    assert made == expected


def test_pictures_are_there_and_not_empty(plan):
    for path in [plan.panel(*key) for key in plan.shown()]:
        image = imread(path)
        assert image.shape[1] > 800 and image[..., :3].std() > 0.1
        assert image[0, 0, :3].tolist() == [1, 1, 1]  # white paper


def test_region_holds_the_detail_and_stays_inside():
    image = np.zeros((64, 48))
    image[30:38:2, 26:34:2] = 1
    row, column, side = panels.region(image)
    assert row <= 30 and row + side >= 38 and column <= 26 and column + side >= 34
    row, column, side = panels.region(np.ones((8, 8)))
    assert row >= 0 and row + side <= 8 and column >= 0 and column + side <= 8


def test_a_run_that_stopped_keeps_its_last_value():
    steps, psnr, spread = curves.mean(
        [(np.array([1, 10, 100]), np.array([10.0, 20, 30])), (np.array([1, 10]), np.array([20.0, 30]))]
    )
    assert steps.tolist() == [1, 10, 100] and psnr.tolist() == [15, 25, 30]
    assert spread == pytest.approx([50**0.5, 50**0.5, 0])


def test_curves_know_rules_and_classical_arms(plan):
    found = curves.collect(plan, "knee", "R4")
    assert found["tv"]["lines"] == {} and found["tv"]["level"] > 0
    assert set(found["es_dip"]["chosen"]) == {"", "emv"} and found["es_dip"]["chosen"]["emv"][0][0] == pytest.approx(
        701
    )  # steps from 1
    assert set(found["dip"]["lines"]) == {"patient_001", "patient_002"}


def test_an_arm_keeps_its_colour(plan):
    looks = style.looks(plan.study)
    assert len(set(looks.values())) == len(looks)
    more = Plan.load(study(arms=ARMS | {"last": {"method": "sense"}})).study
    assert {arm: style.looks(more)[arm] for arm in looks} == looks


# citations, methods, provenance


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_every_cited_key_has_an_entry(kind):
    for plugin in registry.plugins(kind).values():
        assert set(plugin.get("CITE", ())) <= set(cite.entries()), plugin.path


def test_entries_are_complete_and_balanced():
    assert len(cite.entries()) == cite.BIB.read_text().count("\n@") + 1
    for key, entry in cite.entries().items():
        assert {"author", "title", "year"} <= set(entry), key
        assert entry["raw"].count("{") == entry["raw"].count("}"), key
        assert not re.search(r"[{}\\]", cite.reference(key)), key


def test_methods_say_what_is_not_a_default(plan):
    paragraphs, keys = cite.methods_text(plan)
    text = " ".join(paragraphs)
    assert (
        "window = 50" in text
        and f"{registry.get('methods', 'tv').get('ITERATIONS')} iterations" in text
        and "1 scan could not be used and is listed as missing" in text
    )
    assert "watched by emv" in text and "5 % of the acquired samples kept from all arms" in text and "synthetic" in text
    marks = {int(n) for found in re.findall(r"\[(\d+(?:, \d+)*)\]", text) for n in found.split(", ")}
    assert marks == set(range(1, len(keys) + 1))
    assert (plan.root / "CITATION.md").read_text().count("@") == len(keys)


def test_methods_state_the_support_mask(plan):
    """Images are zero outside the support of the coil maps, which changes PSNR; nothing said so."""
    text = " ".join(cite.methods_text(plan)[0])
    assert "zero where no coil sees them" in text and "Hounsfield" not in text


def test_provenance_counts(plan):
    facts = provenance.study_provenance(plan)
    assert (
        set(facts["host"]) == {"node0", "node1"}
        and list(facts["versions"]["torch"]) == ["2.9.0"]
        and facts["seeds"] == [0, 1]
    )
    missing = next(j for j in facts["jobs"] if j["job"] == MISSING)
    assert missing["checksums"] == {} and missing["seconds"] == 0
    assert sum(j["seconds"] for j in facts["jobs"]) == pytest.approx(facts["seconds"])
    assert facts["warnings"]["knee", "patient_001", "R8"] == ["few calibration lines: 4"]


# the page


def test_page_needs_no_network(plan):
    text = (plan.root / "report.html").read_text()
    assert "<script" not in text and "<link" not in text and "url(" not in text and "@import" not in text
    sources = re.findall(r"""(?:src|href|srcset)\s*=\s*["']?([^"'\s>]{1,30})""", text)
    assert sources and all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert "make setup\n" in text, "plain make does nothing useful"
    links = set(re.findall(r'href="#([^"]+)"', text))
    assert links <= set(re.findall(r'id="([^"]+)"', text))
    assert text.count("<img") == 7  # five panels, two curves


def test_answer_in_words(plan, metrics):
    (knee, lead, found), (trial, remark, _) = answer.answers(plan, metrics)
    assert (
        (knee, trial) == ("knee", "trial") and "2 of 28 jobs have no complete result" in lead and "no truth" in remark
    )
    text = dict(found)["R4"]
    means = {a: tables.summary(metrics, "knee", "psnr", "stopped").loc[a, ("R4", "mean")] for a in ("aseq", "tv")}
    assert f"best untrained arm (stopped) is aseq with {means['aseq']:.2f} dB" in text
    assert f"best classical baseline is tv with {means['tv']:.2f} dB" in text
    assert "aseq is ahead by" in text and "With 2 patients, fewer than 6, no test was made" in text
    assert "Vanilla DIP (dip) overfits" in text


def test_answer_says_when_the_baseline_wins(plan):
    """A report that always praised the new method would be worthless."""
    text = answer._acquisition(plan, cohort({"tv": SEVEN["aseq"], "dip": SEVEN["dip"]}), "knee", "R8")
    assert "dip is behind by" in text and "p = 0.016" in text and "positive: dip better" in text


def test_page_escapes_names_from_files(plan):
    bad = "<script>alert(1)</script>"
    file = Path(plan.measurement("knee", "patient_001", "R4"))
    before = file.read_bytes()
    head = store.attributes(file)
    score = Path(plan.score(next(j for j in plan.jobs if j == FAILED)))
    kept = score.read_text()
    try:
        store.write(file, {}, head | {"warnings": [bad], "mask": f'"><img src=x onerror={bad}>'})
        score.write_text(json.dumps(json.loads(kept) | {"status": "failed", "reason": bad}))
        recon = [Path(f) for f in plan.recons(next(j for j in plan.jobs if j == FAILED))]
        saved = {f: f.read_bytes() for f in recon}
        for f in recon:
            f.unlink()
        text = html.page(plan)
        assert "<script" not in text and "<img src=x" not in text and text.count("&lt;script&gt;alert(1)") >= 3
    finally:
        file.write_bytes(before)
        score.write_text(kept)
        for f, content in saved.items():
            f.write_bytes(content)


def test_page_from_half_of_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = folder()
    for job in plan.jobs[::2]:
        Path(plan.score(job)).unlink(missing_ok=True)
        for file in plan.recons(job):
            Path(file).unlink(missing_ok=True)
    Path(plan.measurement("knee", "patient_002", "R4")).unlink()
    Path(plan.score(plan.jobs[1])).write_text('{"status": "do')  # half a file
    Path(plan.reference("knee", "patient_001")).write_bytes(b"\x89HDF")
    tables.write(plan)
    for key in plan.shown()[-3:]:
        panels.draw(plan, *key)
    curves.draw(plan, "knee", "R8")
    text = Path(html.write(plan)).read_text()
    assert "the job did not end" in text and "cannot be read" in text and "not made yet" in text


def test_page_from_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan.load(study())
    tables.write(plan)
    panels.write(plan)
    curves.write(plan)
    text = Path(html.write(plan)).read_text()
    assert "No scores yet" in text and "0 of 49" in text


def test_no_usable_scan_at_all(tmp_path, monkeypatch):
    """The folders of tables and volumes were not made, so Snakemake took both jobs for failed; the page, built by hand, said
    that all jobs had a result."""
    monkeypatch.chdir(tmp_path)
    plan = Plan.load(study(datasets={"knee": study()["datasets"]["knee"]}))
    file, resolved = plan.root / ".scans/index.json", plan.root / "study.resolved.yaml"
    index = json.loads(file.read_text())
    for entry in index["knee"]["volumes"].values():
        entry["problem"] = "cut off"
    file.write_text(json.dumps(index))
    resolved.write_text(plan.resolved_yaml())
    plan = Plan.open(plan.root)
    tables.write(plan)
    assert export.volumes(plan) == [] and (plan.root / "tables").is_dir() and (plan.root / "volumes").is_dir()
    text = Path(html.write(plan)).read_text()
    assert "No scan could be used: 3 scans left out" in text and "all jobs have a result" not in text and "cut off" in text
    assert "No scores yet" in text and "every planned job" not in text


# CT


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A study of MRI and CT: its plan, and the figures of the panels as they were drawn {key: Figure}."""
    drawn, save = [], Figure.savefig

    def kept(figure, *args, **how):
        drawn.append(figure)
        save(figure, *args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mixed"))
        patch.setattr(Figure, "savefig", kept)
        plan = folder(**both())
        tables.write(plan)
        keys = [key for key in plan.shown() if key[2].endswith("1") and key[1] in ("R4", "V18")]
        figures = {key: (panels.draw(plan, *key), drawn.pop())[1] for key in keys}
        html.write(plan)
        yield plan, figures


def words(figure):
    return "\n".join(t.get_text() for t in figure.findobj(Text))


def test_ct_is_shown_in_three_windows_in_hu(mixed):
    plan, figures = mixed
    shown = {key[3]: figure for key, figure in figures.items() if key[0] == "torso"}
    limits = {"40_400": (-160, 240), "-600_1500": (-1350, 150), "300_1500": (-450, 1050)}  # centre -+ width / 2
    assert set(shown) == set(limits)
    for name, figure in shown.items():
        grey = {image.get_clim() for axes in figure.axes for image in axes.images if image.get_cmap().name == "gray"}
        assert grey == {limits[name]}
        title = name.replace("_", "/").replace("-", "−")
        assert f"window {title} HU" in words(figure) and "absolute error\n(HU)" in words(figure)
    (knee,) = (figure for key, figure in figures.items() if key[0] == "knee")
    assert "HU" not in words(knee) and "% of the brightest pixel" in words(knee)


def test_ct_tables_have_their_own_metrics_and_caption(mixed):
    plan, _ = mixed
    names = {f.stem for f in (plan.root / "tables").glob("torso_*.md")}
    assert names >= {f"torso_{m}" for m in ("psnr", "ssim", "rmse_hu", "psnr_40_400", "ssim_40_400", "hfen")}
    assert not any("acceleration" in n or "nmse" in n for n in names)
    heads = {m: (plan.root / f"tables/torso_{m}.md").read_text().splitlines()[0] for m in ("rmse_hu", "psnr_40_400")}
    assert heads == {"rmse_hu": "# torso: RMSE (HU)", "psnr_40_400": "# torso: PSNR in the window 40/400 HU (dB)"}
    text = (plan.root / "tables/torso_psnr.md").read_text()
    for said in (
        "| arm | V18, stopped | V18, peak (oracle) | V30, stopped | V30, peak (oracle) |", "Reader phantom_ct",
        "V18: 18 views equispaced, parallel beam, 100000 photons per ray, projected on a finer grid",
        "30 views equispaced, fan beam, flat detector, AAPM scanner, noiseless, projected with the operator's own grid (inverse crime)"
        ", truncated",
        "10 % of the views held out", "scores on HU from −1000 upwards",
    ):  # fmt: skip
        assert said.replace("_", "\\_") in text, said
    assert not re.search("acceleration|mask|maps|crop", text) and text.count("truncated") == 1
    assert "HU" not in (plan.root / "tables/knee_psnr.md").read_text()


def test_ct_scores_stand_under_their_numbers_of_views(mixed):
    plan, _ = mixed
    m = tables.collect(plan)
    ct = m[m["modality"] == "ct"]
    assert ct["acceleration"].isna().all() and ct.groupby("acq")["views"].unique().map(list).to_dict() == {"V18": [18], "V30": [30]}
    job = next(j for j in plan.jobs if (j.dataset, j.acq, j.arm) == ("torso", "V18", "tv"))
    truth = store.read(plan.reference(job.dataset, job.volume))[1]
    image = tables.views(plan, job)
    error = np.stack([np.maximum(image[s]["view"], -1000.0) - truth[s]["view"] for s in sorted(truth)])
    assert min(i["view"].min() for i in image.values()) < -1000, "what the cut at air is for"
    row = ct[(ct["volume"] == job.volume) & (ct["acq"] == "V18") & (ct["arm"] == "tv") & (ct["slice"] == "") & (ct["which"] == "stopped")]
    value = row.set_index("metric")["value"]
    assert value["rmse_hu"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_curves_of_ct_are_of_images_cut_off_at_air(tmp_path, monkeypatch):
    """Through the real scores: the curve of an arm, and the level of a classical one, count nothing below −1000 HU."""
    monkeypatch.chdir(tmp_path)
    plan = folder(**both())
    volume = next(iter(plan.volumes["torso"]))
    head, truth = store.read(plan.reference("torso", volume))
    frames = {s: np.stack([t["view"] - k for k in (400, 100)]).astype(np.float16) for s, t in truth.items()}
    store.write("heldout.h5", {}, {"kind": "heldout", "status": "none"})
    for arm in ("dip", "tv"):
        job = Job("torso", volume, "V18", arm, 0)
        for file, block in zip(plan.recons(job, ".snapshots.h5"), plan.blocks("torso", volume, arm).values(), strict=True):
            n = 2 if arm == "dip" else 0
            shots = {s: {"views": frames[s][:n], "steps": np.arange(n), "scale": 1.0} for s in block}
            store.write(file, shots, {"kind": "snapshots"})
        measurement = plan.measurement("torso", volume, "V18")
        args = plan.recons(job), plan.recons(job, ".snapshots.h5"), plan.reference("torso", volume), measurement, "heldout.h5"
        scoring.score(*args, plan.score(job))
    cut = {s: np.maximum(frames[s].astype(float), -1000.0) for s in frames}
    expected = [np.mean([quality.psnr(cut[s][i], truth[s]["view"], head["range"]) for s in frames]) for i in (0, 1)]
    plain = np.mean([quality.psnr(frames[s][1].astype(float), truth[s]["view"], head["range"]) for s in frames])
    assert expected[1] > plain + 0.5, "cutting changes something"
    plan.__dict__["jobs"] = [Job("torso", volume, "V18", arm, 0) for arm in ("dip", "tv")]
    found = curves.collect(plan, "torso", "V18")
    steps, psnr = found["dip"]["lines"][volume]
    assert psnr.tolist() == pytest.approx(expected)
    images = tables.views(plan, plan.jobs[1])
    values = [quality.psnr(np.maximum(i["view"], -1000.0), truth[s]["view"], head["range"]) for s, i in images.items()]
    assert found["tv"]["level"] == pytest.approx(np.mean(values))


def test_page_of_mri_and_ct_keeps_their_units_apart(mixed):
    plan, _ = mixed
    text = re.sub('"data:[^"]*"', '""', (plan.root / "report.html").read_text())
    knee, torso = text.split('<section id="data1">')[1].split('<section id="data2">')
    torso = torso.split('<section id="failures">')[0]
    assert "HU" not in knee and "acceleration requested 4" in knee
    assert "<b>RMSE (HU)</b>" in torso and "<b>PSNR in the window 40/400 HU (dB)</b>" in torso and "acceleration" not in torso
    assert torso.count('class="wide"') == 3 and "window −600/1500 HU" in torso


def test_answer_for_ct(mixed):
    plan, _ = mixed
    (_, (torso, lead, found)) = answer.answers(plan, tables.collect(plan))
    assert torso == "torso" and [acq for acq, _ in found] == ["V18", "V30"] and "2 patients, 2 seeds" in lead
    text = dict(found)["V18"]
    assert "best untrained arm (stopped) is aseq" in text and "baseline is tv" in text and "acceleration" not in text


def test_methods_of_mri_and_ct(mixed):
    plan, _ = mixed
    paragraphs, keys = cite.methods_text(plan)
    knee, torso = (next(p for p in paragraphs if p.startswith(f"Dataset {name}")) for name in ("knee", "torso"))
    assert "18 views equispaced, parallel beam, 100000 photons per ray" in torso and "10 % of the views kept from all arms" in torso
    assert "ASTRA" in torso and "water 0.02/mm" in torso and not re.search("coil|k-space|acceleration", torso)
    assert "Hounsfield" not in knee and torso.count("truncated") == 1 and "(inverse crime), truncated, 10 %" in torso
    scores = next(p for p in paragraphs if p.startswith("Scores"))
    assert "Scores of MRI are those of fastMRI" in scores and "Scores of CT are the RMSE in Hounsfield units" in scores
    assert "−160 to 240 HU" in scores and "vanaarle2016" in keys


def test_seed_spread_of_ct_counts_from_air(mixed):
    """HU have an offset: the norm of an image in HU may be as small as one likes, and the spread as large."""
    plan, _ = mixed
    jobs = [j for j in plan.jobs if (j.dataset, j.acq, j.arm) == ("torso", "V18", "dip")]
    volume = jobs[0].volume
    a, b = (np.stack([v["view"] for _, v in sorted(tables.views(plan, j).items())]).astype(float) for j in jobs if j.volume == volume)
    expected = 100 * np.sqrt(np.sum((a - b) ** 2) / 2) / np.linalg.norm((a + b) / 2 + 1000)
    heads = {("torso", acq): ("ct", None, 18) for acq in ("V18", "V30")}
    rows = [r for r in tables._seed_spread(plan, "torso", heads) if (r[3], r[5], r[8]) == (volume, "V18", "dip")]
    assert [r[-1] for r in rows] == pytest.approx([expected])
