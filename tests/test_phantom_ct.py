"""Synthetic CT patients: anatomy at its place in HU, lesions as said, DICOM that any reader opens."""

import time
from functools import cache

import numpy as np
import pydicom
import pytest

from dipline import registry
from dipline.readers import phantom_ct
from dipline.readers.phantom_ct import BODIES, FINDINGS, Plane

SMALL = {"slices": 2, "matrix": 40}


@cache
def patient(body, seed=1):
    return BODIES[body](seed)


@cache
def image(body, seed=1, height=0.0, matrix=128):
    return patient(body, seed).image(height, matrix)


@cache
def clean(body, level, phase=1, matrix=160):
    """A slice at a level of the body, without lesions and finding: x, y of the standard body, HU."""
    p = BODIES[body](1)
    p.level, p.phase, p.lesions, p.found, p.finding = level, phase, [], [], ""
    c = Plane(p, 0.0, matrix)
    return c.x, c.y, p.image(0.0, matrix)


def around(slice_, place, radius):
    """Median HU around a place of the standard body."""
    x, y, hu = slice_
    near = np.hypot(x - place[0], y - place[1]) < radius
    assert near.sum() >= 3
    return np.median(hu[near])


def series(folder):
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def hounsfield(d):
    """HU and where they are valid, both (rows, columns)."""
    return d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept), d.pixel_array != d.PixelPaddingValue


# ---------------------------------------------------------------- the plug-in


def test_plugin_is_known_and_names_follow_the_seeds():
    plugin = registry.get("readers", "phantom_ct")
    assert (plugin.get("MODALITY"), plugin.get("READS_AS"), plugin.get("SUFFIX")) == ("ct", "dicom", "")
    assert registry.check_parameters(plugin, plugin.defaults()) == (plugin.defaults(), [])
    assert phantom_ct.names(patients=2, first_seed=9, body="head") == ["patient_009", "patient_010"]
    assert phantom_ct.names() == ["patient_001", "patient_002", "patient_003"]


@pytest.mark.parametrize("body", ["torso", "head"])
def test_describe_equals_what_is_written(tmp_path, body):
    phantom_ct.write("patient_002", tmp_path / "v", body=body, **SMALL)
    said, images = phantom_ct.describe(body=body, **SMALL), [d.pixel_array for d in series(tmp_path / "v")]
    width = float(series(tmp_path / "v")[0].PixelSpacing[0])
    assert said == {"slices": 2, "shape": [1, 40, 40], "recon_shape": [40, 40], "voxel": [width, width, 5], "bytes": 4 * 2 * 40 * 40}
    assert np.shape(images) == (said["slices"], *said["recon_shape"])


def test_same_patient_same_bytes_and_an_old_folder_is_replaced(tmp_path):
    for name in ("a", "b"):
        phantom_ct.write("patient_004", tmp_path / name, **SMALL)
    (tmp_path / "b" / "IM0003.dcm").write_text("left over")
    phantom_ct.write("patient_004", tmp_path / "b", patients=9, first_seed=2, noise=0, **SMALL)
    a, b = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert a == b and list(a) and sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    phantom_ct.write("patient_004", tmp_path / "v", **SMALL)
    before = {f.name: f.read_bytes() for f in (tmp_path / "v").iterdir()}
    real = phantom_ct._dataset

    def full(patient, s, *rest):
        if s:
            raise OSError("no space left")
        return real(patient, s, *rest)

    monkeypatch.setattr(phantom_ct, "_dataset", full)
    with pytest.raises(OSError, match="no space"):
        phantom_ct.write("patient_004", tmp_path / "v", **SMALL)
    assert {f.name: f.read_bytes() for f in (tmp_path / "v").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["v"]


def test_mixed_takes_torsos_and_heads_in_turn(tmp_path):
    widths = []
    for seed in (1, 2):
        phantom_ct.write(f"patient_{seed:03d}", tmp_path / "v", body="mixed", slices=1, matrix=32)
        widths.append(series(tmp_path / "v")[0].PixelSpacing[0] * 32)
    assert widths == [400, 240]
    assert phantom_ct.lesions(2, "mixed") == phantom_ct.lesions(2, "head")


# ---------------------------------------------------------------- DICOM


@pytest.mark.parametrize("body, width", [("torso", 400), ("head", 240)])
def test_series_is_valid_dicom(tmp_path, body, width):
    phantom_ct.write("patient_003", tmp_path / "v", body=body, slices=3, matrix=64)
    phantom_ct.write("patient_004", tmp_path / "w", body=body, slices=3, matrix=64)
    slices, other = series(tmp_path / "v"), series(tmp_path / "w")
    for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        found = [d[key].value for d in slices]
        assert len(set(found)) == (3 if key == "SOPInstanceUID" else 1)
        assert all(uid.is_valid for uid in found) and not set(found) & {d[key].value for d in other}
    for i, d in enumerate(slices):
        assert d.file_meta.MediaStorageSOPClassUID == d.SOPClassUID == pydicom.uid.CTImageStorage
        assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID and d.InstanceNumber == i + 1
        assert d.Modality == "CT" and d.ImageOrientationPatient == [1, 0, 0, 0, 1, 0] and d.SliceThickness == 5
        assert d.PixelSpacing == [width / 64] * 2 and (d.RescaleSlope, d.RescaleIntercept) == (1, -1024)
        first = (width / 64 - width) / 2  # the middle of the image is the origin
        assert d.ImagePositionPatient == [first, first, 5 * (i - 1)]
        assert d.pixel_array.dtype == np.int16 and (d.Rows, d.Columns) == d.pixel_array.shape
        hu, valid = hounsfield(d)
        axis = np.arange(64) - 31.5
        assert (valid == (np.hypot(axis, axis[:, None]) <= 32)).all() and d.PixelPaddingValue == -2000
        assert hu[valid].min() >= -1024 and hu[valid].max() > 300 and (hu[~valid] < -1024).all()


def test_header_holds_invented_personal_data(tmp_path):
    """What privacy tests of other parts look for must be there."""
    phantom_ct.write("patient_007", tmp_path / "v", slices=1, matrix=32)
    (d,) = series(tmp_path / "v")
    assert d.PatientName == "synthetic^7" and "7" in d.PatientID and "7" in d.AccessionNumber
    assert d.StudyDate and d.PatientBirthDate and d.ReferringPhysicianName and d.InstitutionName


@pytest.mark.parametrize("body", ["torso", "head"])
def test_dicom_reader_returns_what_was_painted(tmp_path, body):
    dicom = pytest.importorskip("dipline.readers.dicom")
    phantom_ct.write("patient_002", tmp_path / "v", body=body, **SMALL)
    ((_, files),) = dicom.list_volumes(tmp_path / "v").items()
    said, scan = dicom.inspect(files), dicom.load(files, [0, 1])
    assert {k: said[k] for k in phantom_ct.describe()} == phantom_ct.describe(body=body, **SMALL)
    painted = np.stack([hu for _, hu in patient(body, 2).volume(**SMALL)])
    inside = np.broadcast_to(hounsfield(series(tmp_path / "v")[0])[1], painted.shape)
    assert np.abs(scan.data - painted)[inside].max() <= 0.5 and (scan.data[~inside] == -1000).all()
    width = patient(body, 2).fov / 40
    assert scan.voxel == (width, width, 5)
    np.testing.assert_allclose(scan.affine @ [19.5, 19.5, 0.5, 1], [0, 0, 0, 1], atol=1e-4)


# ---------------------------------------------------------------- anatomy


@pytest.mark.parametrize(
    "level, place, radius, low, high",
    [
        (55, (95, -20), 12, -950, -780),  # lung, vessels among it
        (55, (41, -12), 6, 300, 350),  # left ventricle, arterial phase
        (55, (4, -42), 6, 220, 260),  # right ventricle
        (55, (60, -10), 4, 90, 125),  # its wall
        (55, (21, 33), 6, 300, 350),  # aorta
        (-50, (-80, 10), 15, 55, 85),  # liver
        (-50, (95, 30), 5, 105, 135),  # spleen
        (-57, (0, 46), 8, 150, 330),  # spongy bone of a vertebra
        (-57, (0, 70), 3, 20, 60),  # spinal cord
        (-50, (0, -160), 6, -1001, -990),  # air before the patient
        (-114, (70, 56), 5, 110, 200),  # kidney
        (-114, (32, 48), 4, 40, 75),  # psoas
        (-180, (40, 10), 60, -120, 120),  # bowel among fat
    ],
)  # fmt: skip
def test_tissues_of_the_torso_lie_where_they_should(level, place, radius, low, high):
    assert low < around(clean("torso", level), place, radius) < high


@pytest.mark.parametrize(
    "level, place, radius, low, high",
    [
        (22, (30, -28), 5, 24, 34),  # white matter
        (2, (11, 9), 3, 33, 41),  # thalamus
        (22, (9.5, 0), 2, 2, 12),  # lateral ventricle
        (-50, (0, 37), 3, 2, 12),  # fourth ventricle
        (-50, (25, 55), 8, 31, 39),  # cerebellum
        (-50, (33, -74), 5, 8, 17),  # eye
        (-50, (38, -55), 4, -130, -50),  # fat of the orbit
        (-50, (7, -58), 4, -1000, -300),  # ethmoid cells
        (2, (0, 21), 2, 120, 650),  # calcified pineal gland
        (22, (0, -105), 5, -1001, -990),  # air
    ],
)  # fmt: skip
def test_tissues_of_the_head_lie_where_they_should(level, place, radius, low, high):
    assert low < around(clean("head", level, 0), place, radius) < high


def test_skull_has_two_tables_with_diploe_between():
    """Along lines from the middle outwards: high, lower, high again."""
    x, y, hu = clean("head", 22, 0, 256)
    dips = 0
    for row in np.flatnonzero(np.abs(y[:, 128]) < 20):
        bone = hu[row, 128:][hu[row, 128:] > 300]
        assert 4 <= len(bone) < 20 and bone.max() > 900
        inner = np.argmin(bone[2:-2]) + 2
        dips += bone[inner] < 0.8 * min(bone[:inner].max(), bone[inner:].max())
    assert dips > 20


def test_contrast_agent_follows_the_phase():
    slices = [clean("torso", -50, phase, 80) for phase in range(3)]
    aorta, veins = ([around(s, place, 6) for s in slices] for place in ((20, 31), (-22, 17)))
    assert aorta[0] < 60 and aorta[1] > 300 and 140 < aorta[2] < 190
    assert veins[0] < 60 and veins[2] > veins[1] > veins[0]


def test_lung_vessels_branch_and_get_thinner():
    rods = phantom_ct._tree(np.random.default_rng(0), ("right", "lung"), (0, 0, 0), (50, 0, 0), (40, 40, 40), 200, 0.75)
    start, end, radii = zip(*(rod[-1].args for rod in rods), strict=True)
    starts, counts = np.unique(start, axis=0, return_counts=True)
    assert len(rods) == 200 and counts.max() >= 2 and len(starts) > 50  # forks, and more than one star
    assert {tuple(p) for p in start} <= {tuple(p) for p in end} | {(0, 0, 0)}  # all are connected
    assert all(a >= b for a, b in radii) and max(a for a, _ in radii) > 3 * min(b for _, b in radii)


@pytest.mark.parametrize("body", ["torso", "head"])
def test_patients_differ(body):
    """In anatomy (no two images alike), level, finding and, of the torso, contrast agent."""
    cohort = [patient(body, seed) for seed in range(1, 7)]
    images = [image(body, seed, 0.0, 64).ravel() for seed in range(1, 7)]
    assert np.max(np.corrcoef(images) - np.eye(6)) < 0.97
    assert len({round(p.level / 15) for p in cohort}) >= 3 and len({p.finding for p in cohort}) >= 3
    assert body == "head" or len({int(p.phase) for p in cohort}) > 1


@pytest.mark.parametrize("body", ["torso", "head"])
def test_nobody_is_cut_off_by_the_scan_circle(body):
    """Only what the patient lies on leaves it: a cut patient has no consistent projections."""
    for seed in range(1, 7):
        p = patient(body, seed)
        axis = Plane(p, 0.0, 64).axis
        couch = (axis[:, None] - p.bed + p.bent[0] * axis**2) / np.hypot(1, 2 * p.bent[0] * axis) > -p.fov / 32
        outside = np.hypot(axis, axis[:, None]) > p.fov / 2
        assert image(body, seed, 0.0, 64)[outside & ~couch].max() < -990


@pytest.mark.parametrize("body", ["torso", "head"])
def test_all_levels_and_findings_are_met_in_a_larger_cohort(body):
    kind = BODIES[body]
    cohort = [patient(body, seed) for seed in range(1, 15)]
    assert {int(np.argmin(np.abs(np.subtract(kind.levels, p.level)))) for p in cohort} == set(range(len(kind.levels)))
    assert {p.finding for p in cohort} == {f for findings in kind.findings for f in findings}
    assert all(len(p.lesions) >= 2 for p in cohort)


@pytest.mark.parametrize("finding", list(FINDINGS))
def test_findings_show_and_stay_local(finding):
    body = "torso" if any(finding in f for f in BODIES["torso"].findings) else "head"
    kind, p = BODIES[body], BODIES[body](1)
    p.level = {"cyst": -75.0, "plaque": -50.0}.get(finding, 50.0 if body == "torso" else 10.0)
    p.lesions = []
    images = []
    for rows in (FINDINGS[finding], None):
        p.finding = finding if rows else ""
        p.found = phantom_ct._parts(rows, np.random.default_rng(0), height=p.level) if rows else []
        images.append(p.image(0.0, 128))
    changed = np.abs(images[0] - images[1]) > 5
    assert isinstance(p, kind) and 0.0003 < changed.mean() < 0.12


@pytest.mark.parametrize("body, far", [("torso", 90.0), ("head", 40.0)])
def test_neighbouring_slices_belong_together(body, far):
    here, near, there = (image(body, 2, z, 64).ravel() for z in (0.0, 5.0, far))
    assert 0.999 > np.corrcoef(here, near)[0, 1] > 0.93 > np.corrcoef(here, there)[0, 1]


@pytest.mark.parametrize("body", ["torso", "head"])
def test_coarser_pixels_are_averages_of_finer_ones(body):
    """The patient is a function of position: resolution only samples it."""
    fine, coarse = image(body, 1, 0.0, 128), image(body, 1, 0.0, 64)
    away = np.abs(fine.reshape(64, 2, 64, 2).mean((1, 3)) - coarse)
    assert away.mean() < 5 and np.percentile(away, 99) < 60


def test_a_long_scan_stays_finite_beyond_the_anatomy():
    for body in ("torso", "head"):
        for height in (-400.0, 400.0):
            hu = image(body, 1, height, 32)
            assert np.isfinite(hu).all() and hu.min() > -1100 and hu.max() < 3000


def test_noise_has_the_level_asked_for():
    quiet, loud = (next(patient("head").volume(1, 64, noise))[1] for noise in (0.0, 12.0))
    assert abs(np.std(loud - quiet) - 12) < 0.5


# ---------------------------------------------------------------- lesions


@pytest.mark.parametrize("body, seed", [("torso", 1), ("torso", 2), ("head", 2), ("head", 3)])
def test_lesions_are_as_said(body, seed):
    """Centre against surroundings: HU of the organ, contrast, size; seen in the next slice."""
    matrix, said = 256, phantom_ct.lesions(seed, body)
    p = patient(body, seed)
    hu, width = {z: p.image(z, matrix) for z in (0.0, 5.0)}, p.fov / matrix
    axis = (np.arange(matrix) + 0.5) * width - p.fov / 2
    assert said == p.lesions and len(said) >= 2
    for lesion in said:
        assert 4 <= lesion.diameter <= 12 and abs(lesion.z) <= 1
        away = np.hypot(axis - lesion.x, axis[:, None] - lesion.y)
        ring = np.median(hu[0.0][(away > lesion.diameter / 2 + width) & (away < lesion.diameter / 2 + 4 + width)])
        assert abs(ring - lesion.background) < (60 if lesion.organ == "lung" else 8)
        core = away < max(lesion.diameter / 2 - width, 0.75 * width)
        allowed = 4 + 0.2 * abs(lesion.contrast)
        if lesion.diameter > 4 * width:  # else the pixels at its centre hold some of its surroundings
            assert abs(hu[0.0][core].mean() - lesion.background - lesion.contrast) < allowed
        for z in hu:
            assert (np.median(hu[z][core]) - ring) * np.sign(lesion.contrast) > 0.3 * abs(lesion.contrast)


@pytest.mark.parametrize("body, seed", [("torso", 3), ("head", 4)])
def test_lesions_have_their_size_and_nothing_else_changes(body, seed):
    p, matrix = BODIES[body](seed), 256
    lesions, with_them = p.lesions, p.image(0.0, 256)
    p.lesions = []
    change, width = with_them - p.image(0.0, matrix), p.fov / matrix
    axis, explained = (np.arange(matrix) + 0.5) * width - p.fov / 2, np.zeros_like(change, bool)
    for lesion in lesions:
        away = np.hypot(axis - lesion.x, axis[:, None] - lesion.y)
        near = away < lesion.diameter / 2 + 2 * width
        area = (np.abs(change[near]) > abs(lesion.contrast) / 2).sum() * width**2
        radius = lesion.diameter / 2 * np.sqrt(1 - (2 * lesion.z / lesion.length) ** 2)
        assert abs(np.sqrt(area / np.pi) - radius) < 0.12 * radius + width / 3
        explained |= near
    assert not change[~explained].any() and lesions


def test_lesions_keep_apart():
    for seed in range(1, 5):
        found = patient("torso", seed).lesions
        for i, a in enumerate(found):
            for b in found[:i]:
                assert np.hypot(a.x - b.x, a.y - b.y) > (a.diameter + b.diameter) / 2


# ---------------------------------------------------------------- time


def test_one_patient_is_fast_enough(tmp_path):
    """Three slices of 128 take 0.6 s on one core; the limit leaves room for a busy machine."""
    start = time.process_time()
    phantom_ct.write("patient_005", tmp_path / "v")
    assert time.process_time() - start < 3
