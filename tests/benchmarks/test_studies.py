"""Every study of the survey has a small one that needs no download; its page holds the report's tables and figures."""

import pytest
import studies as script
import yaml

FOLDER = script.ROOT / "config" / "studies"
SURVEY = ["overfitting", "robustness", "fastmri_knee", "fastmri_brain", "aapm_sparse", "restoration", "sampling", "prospective", "stopping"]


def of(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", SURVEY)
def test_a_study_and_its_small_version_agree(name):
    large, small = of(name), of(f"{name}_small")
    methods = [{arm["method"] for arm in study["arms"].values()} for study in (large, small)]
    assert methods[1] <= methods[0] | {"degraded", "zero_filled"}, "the small one tries nothing that the large one lacks"
    assert small["study"] == f"{name}_small" and large["study"] == name
    embedded = all(d["reader"] in ("phantom", "phantom_ct", "samples") or "$DIPLINE_DATA" in d["path"] for d in small["datasets"].values())
    assert embedded, "runs without a download"


@pytest.mark.parametrize("name", ["fastmri_knee", "fastmri_brain", "aapm_sparse", "restoration"])
def test_published_numbers_name_source_and_difference(name):
    for study in (of(name), of(f"{name}_small")):
        assert len(study["published"]) >= 5 and all(q["source"] and q["differs"] for q in study["published"])


def test_no_setting_was_chosen_on_what_is_reported():
    """Embedded patients and photographs of the small studies are none that settings were chosen on."""
    for name in SURVEY:
        for dataset in of(f"{name}_small")["datasets"].values():
            params = dataset.get("params", {})
            assert params.get("set", "reported") == "reported" and params.get("first_seed", 1) < 101


def test_a_study_without_its_scans_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("DIPLINE_DATA", str(tmp_path))
    assert script.needed("robustness_small") and not script.needed("fastmri_brain_small")


def test_titles_are_sentences():
    for name in SURVEY:
        title = script.title(f"{name}_small")
        assert title.endswith(".") and "make studies" not in title and len(title) < 200
