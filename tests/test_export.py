"""Exported volumes: numbers, geometry, and equal bytes for equal images."""

import h5py
import nibabel as nib
import numpy as np
import pytest
from fabricated import AFFINE, ARMS, MISSING, SIZE, TORSO, folder

from dipline import export, store
from dipline.plan import Job


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("export"))
        plan = folder()
        yield plan, export.volumes(plan)


def base(plan, job):
    return plan.root / "volumes" / job.arm / job.dataset / job.acq / f"seed{job.seed}" / job.volume


def test_every_job_with_a_result_gives_two_files(exported):
    plan, written = exported
    expected = [f"{base(plan, job)}{suffix}" for job in plan.jobs if job != MISSING for suffix in (".nii.gz", ".h5")]
    assert written == expected
    assert sorted(map(str, (plan.root / "volumes").rglob("*.*"))) == sorted(expected)  # nothing else, no temporary file


def test_voxel_is_column_row_slice(exported):
    plan, _ = exported
    job = Job("knee", "patient_001", "R4", "tv", 0)
    image = nib.load(f"{base(plan, job)}.nii.gz")
    assert image.shape == (SIZE[1], SIZE[0], 2)
    views = {s: c["view"] for file in plan.recons(job) for s, c in store.read(file)[1].items()}
    assert sorted(views) == [1, 2]
    assert image.dataobj[7, 11, 1] == views[2][11, 7]
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0], views[1].T)


def test_affine_starts_at_the_first_chosen_slice(exported):
    plan, _ = exported
    image = nib.load(f"{base(plan, Job('knee', 'patient_001', 'R4', 'tv', 0))}.nii.gz")
    expected = np.array(AFFINE)
    expected[2, 3] += 5.0  # slices 1 and 2 of the scan: the volume starts one slice further up
    np.testing.assert_allclose(image.affine, expected)
    np.testing.assert_allclose(image.get_qform(), expected, atol=1e-5)
    np.testing.assert_allclose(image.header.get_zooms(), [2.0, 2.5, 5.0], rtol=1e-6)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "mm"


def tilted(degrees):
    """The affine of a series whose gantry leans: slices shifted along the rows' axis, (column, row, slice) to mm."""
    affine = np.array(AFFINE)
    affine[1, 2] = affine[2, 2] * np.tan(np.deg2rad(degrees))
    return affine


@pytest.mark.parametrize("degrees, code", [(0, 1), (15, 0), (0.5, 0)])
def test_qform_is_there_only_where_it_is_right(tmp_path, degrees, code):
    """A qform holds no shear. That of a series with a tilted gantry was another place than its sform, and said to be as good."""
    export._nifti(tmp_path / "x.nii.gz", np.zeros((9, 6, 5), np.float32), list(range(9)), [], tilted(degrees), 0.0, "")
    image = nib.load(tmp_path / "x.nii.gz")
    qform, found = image.get_qform(coded=True)
    assert found == code and image.get_sform(coded=True)[1] == 1
    assert (qform is None) == (code == 0) and (qform is None or np.allclose(qform, image.affine, atol=1e-4))
    np.testing.assert_allclose(image.affine, tilted(degrees), atol=1e-5)
    np.testing.assert_allclose(image.header.get_zooms()[:2], [2.0, 2.5])


def test_fastmri_finds_predictions_by_the_names_of_the_targets(exported, tmp_path):
    """Volumes were called <dataset>_<volume>_<acq>_seed<k>.h5: fastMRI's evaluate.py, which opens predictions / target.name,
    found none of them."""
    plan, _ = exported
    for volume in plan.volumes["knee"]:
        h5py.File(tmp_path / f"{volume}.h5", "w").close()
    predictions = plan.root / "volumes/tv/knee/R4/seed0"
    for target in tmp_path.iterdir():
        with h5py.File(predictions / target.name) as f:
            assert f["reconstruction"].ndim == 3


def test_hdf5_is_what_fastmri_reads(exported):
    plan, _ = exported
    job = Job("knee", "patient_002", "R8", "aseq", 1)  # its first slice failed
    with h5py.File(f"{base(plan, job)}.h5") as f:
        assert f["reconstruction"].shape == (2, *SIZE) and f["reconstruction"].dtype == np.float32
        assert not f["reconstruction"][0].any() and f["reconstruction"][1].any()
        assert f.attrs["slices"].tolist() == [1, 2] and f.attrs["failed_slices"].tolist() == [1] and f.attrs["fill"] == 0


def test_ct_is_in_hu_where_the_scan_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = folder(datasets={"torso": TORSO}, arms={"tv": ARMS["tv"]}, seeds=[0])
    export.volumes(plan)
    job = Job("torso", "patient_001", "V30", "tv", 0)
    views = {s: c["view"] for file in plan.recons(job) for s, c in store.read(file)[1].items()}
    image = nib.load(f"{base(plan, job)}.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.stack([views[s].T for s in sorted(views)], -1))
    assert np.percentile(image.dataobj, 5) < -900 < 0 < np.percentile(image.dataobj, 80) < 100, "air and soft tissue"
    np.testing.assert_allclose(image.affine[:3, :3], np.array(AFFINE)[:3, :3])
    assert image.affine[2, 3] == AFFINE[2][3] + min(views) * AFFINE[2][2]
    with h5py.File(f"{base(plan, job)}.h5") as f:
        assert bytes(image.header["intent_name"]).rstrip(b"\0") == b"HU"
        assert f.attrs["units"] == "HU" and f["reconstruction"][1, 11, 7] == views[max(views)][11, 7]


def test_slices_without_an_image_are_air(tmp_path, monkeypatch):
    """Slices that failed, or that nobody chose, stood in exported CT volumes as blocks of 0 HU: water, where a viewer shows tissue."""
    monkeypatch.chdir(tmp_path)
    torso = TORSO | {"slices": [0, 1, 3]}
    plan = folder(datasets={"torso": torso}, arms={"tv": ARMS["tv"]}, seeds=[0])
    job = Job("torso", "patient_001", "V30", "tv", 0)
    file = plan.recons(job)[1]
    head, images = store.read(file)
    store.write(file, {1: {"status": "failed", "reason": "diverged"}}, head | {"status": "failed"})
    assert list(images) == [1]
    export.volumes(plan)
    image = nib.load(f"{base(plan, job)}.nii.gz")
    data = np.asarray(image.dataobj)
    assert [bool((data[:, :, s] == -1000).all()) for s in range(4)] == [False, True, True, False]
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"no image, filled with -1000: 2 slice(s): 1,2"
    with h5py.File(f"{base(plan, job)}.h5") as f:
        assert f["reconstruction"].shape[0] == 3 and (f["reconstruction"][1] == -1000).all()
        assert f.attrs["fill"] == -1000 and f.attrs["failed_slices"].tolist() == [1] and f.attrs["slices"].tolist() == [0, 1, 3]
    whole = nib.load(f"{base(plan, job._replace(volume='patient_002'))}.nii.gz")
    assert bytes(whole.header["descrip"]).rstrip(b"\0") == b"no image, filled with -1000: 1 slice(s): 2"
    assert len(export._description(list(range(0, 999, 2)), -1000.0)) < 80


def test_equal_images_give_equal_bytes(exported):
    plan, written = exported
    before = {f: store.file_hash(f) for f in written}
    export.volumes(plan)
    assert {f: store.file_hash(f) for f in written} == before


@pytest.mark.parametrize(
    ("chosen", "at", "depth", "origin", "spacing"),
    [
        ([0, 1, 2], [0, 1, 2], 3, 0.0, 3.0),
        ([4, 9], [0, 1], 2, 12.0, 15.0),
        ([2], [0], 1, 6.0, 3.0),
        ([1, 2, 5], [0, 1, 4], 5, 3.0, 3.0),
    ],
)
def test_geometry_of_chosen_slices(chosen, at, depth, origin, spacing):
    places, n, affine = export.geometry(chosen, np.diag([1.0, 1.0, 3.0, 1.0]))
    assert (places, n) == (at, depth)
    assert affine[2].tolist() == [0, 0, spacing, origin]
