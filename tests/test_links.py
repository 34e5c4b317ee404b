"""Opaque links to scans: stable, mended where they are broken, and nothing else left beside them."""

import os
import shutil

import pytest
from test_ct_readers import series
from test_index import config

from dipline import links
from dipline.plan import Plan

ENDINGS = (".nii.gz", ".nii", "")


@pytest.fixture
def scans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Doe_B.nii", "Doe_A.NII.GZ", "Doe_C.img"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    return sorted((tmp_path / "in").iterdir())


def state(made):
    return [(str(p), p.read_text(), p.lstat().st_mtime_ns) for p in made]


def test_links_are_made_once_and_in_order(scans):
    made = links.link("results/s", "d", "v", scans, ENDINGS)
    assert [str(p) for p in made] == [f"results/s/.scans/d/v/{n}" for n in ("0001.nii.gz", "0002.nii", "0003")]
    assert [p.read_text() for p in made] == ["Doe_A.NII.GZ", "Doe_B.nii", "Doe_C.img"]
    before = state(made)
    assert state(links.link("results/s", "d", "v", scans, ENDINGS)) == before
    assert os.stat("results/s/.scans").st_mode & 0o777 == 0o700
    os.chmod("results/s/.scans", 0o755)
    links.link("results/s", "d", "v", scans, ENDINGS)
    assert os.stat("results/s/.scans").st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", ["gone", "astray", "a file", "renamed", "half made"])
def test_what_is_wrong_is_mended_and_the_rest_left(scans, harm):
    made = links.link("results/s", "d", "v", scans, ENDINGS)
    before = state(made)
    if harm == "renamed":
        scans[1] = scans[1].rename(scans[1].with_name("Doe_BB.nii"))
    elif harm == "half made":
        made[1].rename(made[1].with_name(f".{made[1].name}"))
    else:
        made[1].unlink()
        if harm == "astray":
            made[1].symlink_to("nowhere")
        elif harm == "a file":
            made[1].write_text("other")
    after = state(links.link("results/s", "d", "v", scans, ENDINGS))
    assert [text for _, text, _ in after] == ["Doe_A.NII.GZ", "Doe_B.nii", "Doe_C.img"]
    assert after[0] == before[0] and after[2] == before[2]
    assert len(list(made[0].parent.iterdir())) == 3


def test_files_and_volumes_that_are_gone_leave_nothing(scans):
    """A link that leads nowhere still says the name of the file."""
    for volume in ("v", "w"):
        links.link("results/s", "d", volume, scans, ENDINGS)
    (last,) = links.link("results/s", "d", "v", scans[:1], ENDINGS)
    links.prune("results/s", "d", ["v"])
    assert [p for p in last.parents[1].rglob("*") if not p.is_dir()] == [last]
    assert [p.name for p in last.parents[1].iterdir()] == ["v"]


def test_a_folder_that_is_moved_as_a_whole_keeps_its_links(scans, tmp_path, monkeypatch):
    """Paths that the study states without a root lead on: nothing runs again."""
    near = [p.relative_to(tmp_path) for p in scans]
    before = state(links.link("results/s", "d", "v", near, ENDINGS))
    shutil.move(tmp_path / "in", tmp_path / "moved" / "in")
    shutil.move(tmp_path / "results", tmp_path / "moved" / "results")
    monkeypatch.chdir(tmp_path / "moved")
    assert state(links.link("results/s", "d", "v", near, ENDINGS)) == before


def test_results_elsewhere(scans, tmp_path):
    """results/ is a link to a disk with more space."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "results").symlink_to(tmp_path / "far" / "away")
    near = [p.relative_to(tmp_path) for p in scans]
    assert [p.read_text() for p in links.link("results/s", "d", "v", near, ENDINGS)] == [p.name for p in scans]


def test_a_plan_hands_out_links_and_takes_up_what_changed(tmp_path, monkeypatch):
    """A series that gets a slice, and one that is renamed: the jobs' files change with them."""
    monkeypatch.chdir(tmp_path)
    given = config(tmp_path / "ct")
    given["datasets"]["d"] |= {"reader": "dicom", "acquisitions": {"V12": {"views": 12}}}
    series(tmp_path / "ct" / "Doe", change={"PatientName": "Doe"})
    series(tmp_path / "ct" / "L1", series="1.2.840.2")
    plan = Plan.load(given)
    assert {v: plan.scans("d", v) for v in plan.volumes["d"]} == {
        v: [f"results/s/.scans/d/{v}/{i:04d}.dcm" for i in (1, 2, 3)] for v in ("L1", "series_01")
    }
    assert Plan.load(given, fresh=False).volumes == plan.volumes == Plan.load(given).volumes
    shutil.move(tmp_path / "ct" / "L1", tmp_path / "ct" / "L2")
    series(tmp_path / "ct" / "Doe", 4, change={"PatientName": "Doe"})
    plan = Plan.load(given)
    assert {v: e["slices"] for v, e in plan.volumes["d"].items()} == {"L2": 3, "series_01": 4}
    assert not (tmp_path / "results/s/.scans/d/L1").exists()
    os.remove(tmp_path / "results/s/.scans/d/L2/0002.dcm")
    assert all(map(os.path.exists, Plan.load(given).scans("d", "L2")))


def test_a_numbered_volume_keeps_its_number(tmp_path, monkeypatch):
    """A patient who came before the others in the alphabet, seen by `dipline check` while jobs ran, would have changed which scan a
    job reads: numbers followed the order of the folders."""
    monkeypatch.chdir(tmp_path)
    given = config(tmp_path / "ct")
    given["datasets"]["d"] |= {"reader": "dicom", "acquisitions": {"V12": {"views": 12}}}

    def patients():
        plan = Plan.load(given)
        return {v: os.path.realpath(plan.scans("d", v)[0]).split("/")[-2] for v in plan.volumes["d"]}

    for number, name in enumerate(("Miller", "Smith")):
        series(tmp_path / "ct" / name, change={"PatientName": name}, series=f"1.2.840.{number}")
    assert patients() == {"series_01": "Miller", "series_02": "Smith"}
    series(tmp_path / "ct" / "Adams", change={"PatientName": "Adams"}, series="1.2.840.3")
    series(tmp_path / "ct" / "L067", series="1.2.840.4")
    assert patients() == {"L067": "L067", "series_01": "Miller", "series_02": "Smith", "series_03": "Adams"}
    shutil.rmtree(tmp_path / "ct" / "Miller")
    assert patients() == {"L067": "L067", "series_02": "Smith", "series_03": "Adams"}
    series(tmp_path / "ct" / "Young", change={"PatientName": "Young"}, series="1.2.840.5")
    assert patients() == {"L067": "L067", "series_01": "Young", "series_02": "Smith", "series_03": "Adams"}
    (tmp_path / "results/s/.scans/index.json").unlink()
    assert patients() == {"L067": "L067", "series_01": "Adams", "series_02": "Smith", "series_03": "Young"}
