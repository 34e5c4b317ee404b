"""Every task has a study for `make tasks`, on embedded images; its table says what the numbers are."""

import pandas as pd
import pytest
import tasks
import yaml

from dipline import measure_image, registry
from dipline.plan import Plan

FILES = {name: tasks.ROOT / "config" / "studies" / f"{name}.yaml" for name in tasks.STUDIES}
STUDIES = {name: yaml.safe_load(file.read_text()) for name, file in FILES.items()}


@pytest.mark.parametrize("task", [t for t in measure_image.TASKS if t != "blur_neural"])  # which needs a model of the user's
def test_every_task_of_photographs_has_a_study(task):
    acquired = {a["task"] for d in STUDIES[f"task_{task}"]["datasets"].values() for a in d["acquisitions"].values()}
    assert acquired == {task}


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_of_embedded_images_that_no_setting_was_chosen_on(name):
    for dataset in STUDIES[name]["datasets"].values():
        params = dataset["params"]
        assert (dataset["reader"], params.get("set"), params.get("first_seed")) in (("samples", "reported", None), ("phantom", None, 1))


def test_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan.load(STUDIES["task_denoise"], FILES["task_denoise"])
    psnr = {"degraded": 20.0, "tv": 27.0, "nlm": 28.0, "wavelet": 26.0, "dip": 25.0, "es_dip": 29.0}
    rows = [
        {"dataset": "photos", "acq": "gauss", "arm": arm, "seed": 0, "volume": volume, "slice": "", "metric": "psnr", "which": which,
         "value": level + more + (arm == "dip" and volume == "b") * 1.0}
        for arm, level in psnr.items() for volume in "ab" for which, more in (("stopped", 0), ("peak", 2))
    ]  # fmt: skip
    (row,) = tasks.rows_of(plan, pd.DataFrame(rows))
    assert row[:4] == ["denoise", "photos: all pixels, Gaussian noise of 25/255", "20.00", "27.00"]
    assert row[4:] == ["nlm 28.00, wavelet 26.00", "dip 25.50 (27.50)", "29.00", "+5.00, +6.00"]
    assert tasks.lines([row])[0].count("|") == tasks.lines([row])[2].count("|") == len(tasks.HEAD) + 1


def test_classical_arms_are_classical():
    """What stands under "other baselines" needs no network."""
    for study in STUDIES.values():
        others = {name: arm["method"] for name, arm in study["arms"].items() if "network" not in arm}
        assert all(registry.get("methods", method).get("CLASS") == "classical" for method in others.values())
