"""CT readers and the DICOM export: the contract, every refusal by its message, geometry, privacy, damaged files."""

import gzip
import importlib
import itertools
import logging
import multiprocessing
import os
import random
import re
import shutil
import traceback
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from test_readers import mutate

from dipline import cli, export
from dipline.export_dicom import dicom_series
from dipline.readers import dicom, dicom_file, nifti, personal
from dipline.readers.base import ReadError

READERS = ("dicom", "nifti")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "ct"


def reader_of(name):
    return importlib.import_module(f"dipline.readers.{name}")


def body(count=3, rows=20, columns=24, seed=1):
    """HU of a noisy disc in air, whole numbers, (slices, rows, columns)."""
    inside = np.hypot(*np.mgrid[-rows / 2 : rows / 2, -columns / 2 : columns / 2]) < 8
    tissue = np.random.default_rng(seed).integers(-80, 120, (count, rows, columns))
    return np.where(inside, tissue, -1000)


def dataset(hu, position=(-18, -15, 0), series="1.2.840.99.7.1", change=None, intercept=-1024):
    """One slice as a CT image; `change` is {keyword: value}, None removes it."""
    d = pydicom.Dataset()
    d.file_meta = pydicom.dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    for key, value in {
        "SOPClassUID": uid.CTImageStorage, "SOPInstanceUID": uid.generate_uid(), "SeriesInstanceUID": series,
        "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": hu.shape[0], "Columns": hu.shape[1], "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "PixelSpacing": [1.5, 1.5], "SliceThickness": 3,
        "ImagePositionPatient": list(position), "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "RescaleSlope": 1,
        "RescaleIntercept": intercept, "PixelData": (hu - intercept).astype("<i2").tobytes(), **(change or {}),
    }.items():  # fmt: skip
        if value is not None:
            setattr(d, key, value)
    return d


def save(folder, datasets, ending=".dcm", **how):
    """The files of a series; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"IM{i:04d}{ending}" for i in range(len(datasets))]
    for file, d in zip(files, datasets, strict=True):
        d.save_as(file, enforce_file_format=True, **how)
    return files


def series(folder, count=3, change=None, at=None, **more):
    """A series of `count` slices; `at` edits a dataset by its index."""
    hu = body(count)
    found = [dataset(hu[i], (-18, -15, 3 * i), change=change, **more) for i in range(count)]
    for i, edit in (at or {}).items():
        for key, value in edit.items():
            if value is None:
                delattr(found[i], key)
            else:
                setattr(found[i], key, value)
    return save(folder, found)


# ---------------------------------------------------------------- the contract, for both readers


@pytest.mark.parametrize("name", READERS)
def test_contract(tmp_path, name):
    """What `inspect` says from the headers is what `load` hands over, for all slices and for a choice."""
    reader = reader_of(name)
    reader.fake(tmp_path)
    volumes = reader.list_volumes(tmp_path)
    assert len(volumes) == 2
    for files in volumes.values():
        said = reader.inspect(files)
        scan = reader.load(files, list(range(said["slices"])))
        assert scan.modality == reader.MODALITY == "ct" and reader.PARAMETERS == {}
        assert scan.data.dtype == np.float32 and [1, *scan.data.shape[1:]] == said["shape"]
        assert len(scan.data) == said["slices"] and scan.data.nbytes == said["bytes"]
        assert list(scan.recon_shape) == said["recon_shape"] == said["shape"][1:] and not said["undersampled"]
        assert said["warnings"] == scan.warnings == [] and list(scan.voxel) == said["voxel"]
        assert np.allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), scan.voxel)
        assert np.abs(scan.data[:, 8:12, 8:15].mean() - 40) < 30 and abs(scan.data[:, 0].mean() + 1000) < 5
        last = said["slices"] - 1
        np.testing.assert_array_equal(reader.load(files, [last]).data[0], scan.data[last])
        for wrong in ([last + 1], []):
            with pytest.raises(ReadError, match=rf"slices (\[{last + 1}\]|none) chosen; allowed 0 to {last}"):
                reader.load(files, wrong)


@pytest.mark.parametrize("name", READERS)
def test_one_file_and_missing_folders(tmp_path, name):
    reader = reader_of(name)
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    reader.fake(tmp_path / "full")
    file = next(p for p in sorted((tmp_path / "full").rglob("*")) if p.suffix in (".dcm", ".nii"))
    assert reader.list_volumes(file) == {file.stem: [file]}
    with pytest.raises(ReadError, match="no such file or folder; correct the dataset's `path`"):
        reader.list_volumes(tmp_path / "nowhere")
    with pytest.raises(ReadError, match="holds no (.nii.*)?file; correct the dataset's `path`"):
        reader.list_volumes(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("no image")
    with pytest.raises(ReadError, match="holds (no .nii|1 files, none of them a DICOM image)"):
        reader.list_volumes(tmp_path / "empty")


@pytest.mark.parametrize("name", READERS)
def test_refuses_what_does_not_fit_into_memory_before_reading(tmp_path, monkeypatch, name):
    reader = reader_of(name)
    reader.fake(tmp_path)
    files = next(iter(reader.list_volumes(tmp_path).values()))
    monkeypatch.setattr(os, "sysconf", lambda key: 1 if key == "SC_PHYS_PAGES" else 3000)
    with pytest.raises(ReadError, match=r"need 0\.0 GB, this machine has 0\.0 GB; choose fewer slices"):
        reader.load(files, [0])


# ---------------------------------------------------------------- DICOM: values and geometry


def test_dicom_sorts_by_position_and_applies_slope_and_intercept(tmp_path):
    """Neither names nor InstanceNumber follow the positions; every slice has its own slope and intercept."""
    hu, order = body(4), (2, 0, 3, 1)
    found = []
    for number, i in enumerate(order):
        change = {"RescaleSlope": 0.5, "PixelData": ((hu[i] + 1000 + i) * 2).astype("<i2").tobytes()}
        found.append(dataset(hu[i], (-18, -15, 3 * i - 40), change=change, intercept=-1000 - i))
        found[-1].InstanceNumber = number + 1
    (files,) = dicom.list_volumes(save(tmp_path / "s", found)[0].parent).values()
    scan = dicom.load(files, [0, 1, 2, 3])
    np.testing.assert_array_equal(scan.data, hu)
    np.testing.assert_allclose(scan.affine, [[-1.5, 0, 0, 18], [0, -1.5, 0, 15], [0, 0, 3, -40], [0, 0, 0, 1]])
    np.testing.assert_array_equal(dicom.load(files, [3, 0]).data, hu[[3, 0]])
    assert dicom.load(files, [3, 0]).slices == [3, 0] and scan.voxel == (1.5, 1.5, 3)


@pytest.mark.parametrize("tilt", [0, 18.5, -25])
def test_dicom_affine_is_exact(tmp_path, tilt):
    """Oblique, with columns and rows of different direction: the affine maps indices to the header's positions."""
    t = np.radians(tilt)
    across, down, step = np.array([0.8, 0.6, 0]), np.array([-0.6 * np.cos(t), 0.8 * np.cos(t), -np.sin(t)]), (0, 0, -4)
    normal, start, hu = np.cross(across, down), np.array([3.25, -7.5, 50]), body(3)
    change = {"ImageOrientationPatient": [round(float(v), 12) for v in (*across, *down)], "GantryDetectorTilt": tilt}
    found = [dataset(hu[i], [float(v) for v in start + np.multiply(step, i)], change=change) for i in range(3)]
    scan = dicom.load(save(tmp_path, found), [0, 1, 2])
    assert normal[2] > 0  # the files run against the normal, so they are turned round
    np.testing.assert_array_equal(scan.data, hu[::-1])
    for s, r, c in itertools.product(range(3), (0, 19), (0, 23)):
        lps = start + np.multiply(step, 2 - s) + 1.5 * (c * across + r * down)
        np.testing.assert_allclose((scan.affine @ (c, r, s, 1))[:3], lps * (-1, -1, 1), atol=1e-9)
    assert scan.warnings == ([f"{tmp_path.name}: gantry tilted by {abs(tilt):.1f} degrees; each slice is reconstructed "
                              "in its own plane"] if tilt else [])  # fmt: skip


def test_dicom_padding_becomes_air(tmp_path):
    hu = body(1)[0]
    hu[:2], hu[-1], hu[2, 0] = -2000, -3024, -1024
    hu[10, 12], hu[2, 2], hu[17, 23] = -1060, -1060, -1024  # noise in the circle, and outside
    want = np.where((hu < -1024) & (np.arange(24) != 12)[None] | (hu < -1500), -1000, hu)
    for i, change in enumerate(
        (
            {"PixelPaddingValue": -2000 + 1024},
            {"PixelPaddingValue": 2**16 - 976},  # the same, stated as unsigned
            {"PixelPaddingValue": -976, "PixelPaddingRangeLimit": -2000},
            {},
        )
    ):
        d = dataset(hu, change=change)
        if change.get("PixelPaddingValue", 0) > 0:
            d["PixelPaddingValue"].VR = "US"
        (file,) = save(tmp_path / str(i), [d])
        scan = dicom.load([file], [0])
        np.testing.assert_array_equal(scan.data[0], want)
        assert scan.warnings == ["IM0000.dcm: 15.21% of the pixels were padding (no matter) and are set to -1000 HU"]
        assert dicom.inspect([file])["warnings"] == []
    hu[10, 12] = want[10, 12] = -1000
    declared = dataset(np.where(hu < -1024, -950, hu), change={"PixelPaddingValue": -950 + 1024})
    scan = dicom.load(save(tmp_path / "declared", [declared]), [0])
    np.testing.assert_array_equal(scan.data[0], want)  # padding that only the header can tell from matter


def test_dicom_does_not_take_water_for_padding(tmp_path):
    """Some exports declare 0 as padding although their stored values are HU: all water would become air."""
    hu = body(1)[0]
    scan = dicom.load(save(tmp_path, [dataset(hu, intercept=0, change={"PixelPaddingValue": 0})]), [0])
    np.testing.assert_array_equal(scan.data[0], hu)
    assert scan.warnings == ["IM0000.dcm: PixelPaddingValue would be matter and is not heeded"]


def test_dicom_accepts_with_a_warning(tmp_path):
    change = dict.fromkeys(("Modality", "RescaleSlope", "RescaleIntercept"))
    files = series(tmp_path / "bare", change=change, intercept=0)
    scan = dicom.load(files, [1])
    np.testing.assert_array_equal(scan.data[0], body(3)[1])
    assert scan.warnings == dicom.inspect(files)["warnings"] == [
        "bare: no Modality; CT is assumed", "bare: no RescaleSlope; 1 is assumed",
        "bare: no RescaleIntercept; 0 is assumed",
    ]  # fmt: skip
    change = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"))
    scan = dicom.load(save(tmp_path / "one", [dataset(body(1)[0], change=change)]), [0])
    np.testing.assert_allclose(scan.affine @ (11.5, 9.5, 0, 1), (0, 0, 0, 1))
    assert scan.warnings == ["IM0000.dcm: no position or orientation in the header; an axial slice is assumed",
                             "IM0000.dcm: no SliceThickness; 1 mm is assumed"]  # fmt: skip
    change = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    scan = dicom.load(save(tmp_path / "coronal", [dataset(body(1)[0], change=change)]), [0])
    assert scan.warnings == ["IM0000.dcm: the slices are not axial; they are reconstructed as if they were"]


@pytest.mark.parametrize("said", [{"RescaleSlope": None, "RescaleIntercept": None}, {}])
def test_dicom_refuses_values_that_are_no_hounsfield_units(tmp_path, said):
    """Stored + 1024 without slope and intercept gave air at +24 HU, with a warning; padding must not pass for air."""
    hu = body(3) + 1024
    hu[:, 0] = -2000
    files = series(tmp_path / "s", change=said, intercept=0)
    for file, image in zip(files, hu, strict=True):
        d = pydicom.dcmread(file)
        d.PixelData = image.astype("<i2").tobytes()
        d.save_as(file)
    with pytest.raises(ReadError, match=r"s: values from 24 to 11\d\d: these are no Hounsfield units; allowed HU.*1024"):
        dicom.load(files, [1])
    for file in files:
        d = pydicom.dcmread(file)
        d.add_new("PixelPaddingValue", "SS", -1000)  # declared, and above what passes for padding anyway
        d.PixelData = np.where(hu[0] == -2000, -1000, hu[0]).astype("<i2").tobytes()
        d.save_as(file)
    with pytest.raises(ReadError, match="values from 24 to 11"):
        dicom.load(files, [1])


def test_dicom_a_slice_without_air_belongs_to_a_volume_with_air(tmp_path):
    hu = body(3)
    hu[1] = np.abs(hu[1] % 100) + 1
    found = [dataset(image, (-18, -15, 3 * i)) for i, image in enumerate(hu)]
    files = save(tmp_path, found)
    np.testing.assert_array_equal(dicom.load(files, [1]).data, hu[1:2])
    with pytest.raises(ReadError, match="no Hounsfield units"):
        dicom.load(save(tmp_path / "alone", found[1:2]), [0])


def inside(count=3):
    """A spine zoomed in on: fat, muscle and bone, no air, whole numbers (slices, rows, columns)."""
    return np.random.default_rng(3).integers(-130, 900, (count, 20, 24))


@pytest.mark.parametrize(
    ("rescale_type", "intercept", "said"),
    [(None, -1024, "RescaleIntercept -1024"), ("HU", 0, "RescaleType HU"), ("HU_MOD", 0, "RescaleType HU_MOD"), ("US", -1000, "Rescale")],
)
def test_dicom_a_body_without_air_is_taken_where_the_header_states_hu(tmp_path, monkeypatch, rescale_type, intercept, said):
    """A reconstruction zoomed in on a spine was refused as no HU: nothing in it was below -200."""
    hu, read, real = inside(), [], dicom_file.hounsfield
    change = {"RescaleType": rescale_type}
    files = save(tmp_path / "s", [dataset(h, (-18, -15, 3 * i), change=change, intercept=intercept) for i, h in enumerate(hu)])
    monkeypatch.setattr(dicom_file, "hounsfield", lambda s: read.append(s) or real(s))
    for s in range(3):
        scan = dicom.load(files, [s])
        np.testing.assert_array_equal(scan.data[0], hu[s])
        (warning,) = scan.warnings
        assert warning.startswith("s: nothing below -200 HU, so no air in it; the values from -1") and f"are HU by {said}" in warning
    assert len(read) == 1 + 3 + 2, "the whole series is read for the first slice alone"


@pytest.mark.parametrize(
    ("change", "hu"),
    [({}, inside()), ({"RescaleType": "US"}, inside()), ({"RescaleType": "HU"}, inside() + 1024), ({"RescaleType": "HU"}, inside() // 300)],
    ids=["unstated", "unspecified", "shifted", "fractions"],
)
def test_dicom_a_body_without_air_is_refused_elsewhere(tmp_path, change, hu):
    files = save(tmp_path / "s", [dataset(h, (-18, -15, 3 * i), change=change, intercept=0) for i, h in enumerate(hu)])
    with pytest.raises(ReadError, match="these are no Hounsfield units.*take DICOM files with RescaleType HU"):
        dicom.load(files, [1])


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian",
                                    "RLELossless"])  # fmt: skip
def test_dicom_transfer_syntaxes(tmp_path, syntax):
    hu, syntax = body(1)[0], getattr(uid, syntax)
    hu[0] = -950
    d = dataset(hu, change={"PixelPaddingValue": -950 + 1024})
    if syntax == uid.RLELossless:
        d.compress(syntax, generate_instance_uid=False)
    elif syntax == uid.ExplicitVRBigEndian:
        d.PixelData = np.frombuffer(d.PixelData, "<i2").astype(">i2").tobytes()
    d.file_meta.TransferSyntaxUID = syntax
    scan = dicom.load(save(tmp_path, [d]), [0])
    hu[0] = -1000
    np.testing.assert_array_equal(scan.data[0], hu)


def test_dicom_reads_headers_once_when_slices_come_one_by_one(tmp_path, monkeypatch):
    """Slices are often asked for one at a time: 500 headers for each of 500 slices took minutes."""
    files, calls, real = series(tmp_path, 6), [], dicom_file.header
    monkeypatch.setattr(dicom_file, "header", lambda file: calls.append(file) or real(file))
    for s in range(6):
        dicom.load(files, [s])
    assert len(calls) == 6
    dataset(body(1)[0] + 1, (-18, -15, 0)).save_as(files[0], enforce_file_format=True)
    assert dicom.load(files, [0]).data.max() == body(1).max() + 1 and len(calls) == 12  # a changed file counts


def test_dicom_takes_a_folder_for_a_series(tmp_path):
    """Simulated scans are handed over as their folder."""
    files = series(tmp_path / "v")
    np.testing.assert_array_equal(dicom.load([tmp_path / "v"], [0, 2]).data, dicom.load(files, [0, 2]).data)
    assert dicom.inspect([tmp_path / "v"]) == dicom.inspect(files)
    for gone in (tmp_path / "nothing", tmp_path / "v" / "IM9.dcm"):
        with pytest.raises(ReadError, match="no such file; start again"):
            dicom.inspect([gone])


# ---------------------------------------------------------------- DICOM: which files, which names


def names(path):
    return {name: len(files) for name, files in dicom.list_volumes(path).items()}


def test_dicom_lists_the_layouts_of_aapm_and_hospitals(tmp_path):
    for patient, (number, dose) in itertools.product(("L067", "L096"), enumerate(("full_1mm", "quarter_1mm"))):
        series(tmp_path / "aapm" / patient / dose, series=f"1.2.840.1.{patient[1:].lstrip('0')}.{number}")
    for file in (tmp_path / "aapm").rglob("*.dcm"):
        file.rename(file.with_suffix(".IMA"))
    assert names(tmp_path / "aapm") == {"L067_full_1mm": 3, "L067_quarter_1mm": 3, "L096_full_1mm": 3,
                                        "L096_quarter_1mm": 3}  # fmt: skip
    hospital = tmp_path / "hospital" / "ST 01"
    for number in (4, 7):
        for file in series(tmp_path / "s", series=f"1.2.840.5.{number}"):
            hospital.mkdir(parents=True, exist_ok=True)
            file.rename(hospital / f"I{number}{file.stem}")  # no ending
    for name in ("DICOMDIR", "readme.txt", ".hidden", "viewer.exe"):
        (hospital / name).write_bytes(b"\0" * 200)
    (hospital / ".cache").mkdir()
    series(hospital / ".cache")
    assert names(tmp_path / "hospital") == {"ST-01_1": 3, "ST-01_2": 3}
    assert names(hospital) == {"ST-01_1": 3, "ST-01_2": 3}
    listed = dicom.list_volumes(hospital)
    assert [f.name for f in listed["ST-01_1"]] == ["I4IM0000", "I4IM0001", "I4IM0002"]
    one = listed["ST-01_2"][1]
    assert dicom.list_volumes(one) == {"I7IM0001": [one]}


def test_dicom_single_files_beside_others_are_named_after_themselves(tmp_path):
    series(tmp_path)
    for i, stem in enumerate(("chest_0", "head 1", "1.2.840.113619.2.1", "scan_20190430")):
        dataset(body(1)[0], series=f"1.2.840.3.{i}").save_as(tmp_path / f"{stem}.dcm", enforce_file_format=True)
    assert names(tmp_path) == {"chest_0": 1, "head-1": 1, tmp_path.name: 3, "series_01": 1, "series_02": 1}


def test_dicom_one_uid_in_two_folders(tmp_path):
    """Full and quarter dose under one UID are two volumes; a series that an archive spread over folders is one."""
    for dose in ("full", "quarter"):
        series(tmp_path / "a" / dose)
    assert names(tmp_path / "a") == {"full": 3, "quarter": 3}
    for i, file in enumerate(series(tmp_path / "b" / "x", 4)):
        (tmp_path / "b" / "x" / f"D{i // 2}").mkdir(exist_ok=True)
        file.rename(tmp_path / "b" / "x" / f"D{i // 2}" / file.name)
    assert names(tmp_path / "b") == {"x": 4}
    (files,) = dicom.list_volumes(tmp_path / "b").values()
    np.testing.assert_array_equal(dicom.load(files, [0, 1, 2, 3]).data, body(4))


def test_dicom_names_are_never_given_twice(tmp_path):
    series(tmp_path / "a b", series="1.2.840.1")
    series(tmp_path / "a-b", series="1.2.840.2")
    series(tmp_path / "a-b_1", series="1.2.840.3")
    series(tmp_path / "a" / "b", series="1.2.840.4")
    assert names(tmp_path) == {"a-b_1": 3, "a-b_2": 3, "a-b_3": 3, "a_b": 3}


def test_dicom_lists_what_it_cannot_use_and_loses_nothing(tmp_path):
    series(tmp_path / "good")
    series(tmp_path / "mr", series="1.2.840.2", change={"Modality": "MR"})
    series(tmp_path / "report", 1, series="1.2.840.3", change={"Modality": "SR", "Rows": None, "PixelData": None})
    (tmp_path / "good" / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 100)
    volumes = dicom.list_volumes(tmp_path)
    assert {k: len(v) for k, v in volumes.items()} == {"good": 3, "good_bad": 1, "mr": 3}
    assert dicom.inspect(volumes["good"])["slices"] == 3
    with pytest.raises(ReadError, match=r"bad\.dcm: (its header cannot be read|no pixel data)"):
        dicom.inspect(volumes["good_bad"])
    for folder in ("good", "report"):
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(ReadError, match=r"holds no CT, but MR \(3 files\); allowed CT; correct the dataset's `path`"):
        dicom.list_volumes(tmp_path)


def test_dicom_empty_and_cut_off_files_are_named(tmp_path):
    """A file of 0 bytes or without its beginning vanished: the series was loaded with two slices, 6 mm apart."""
    files = series(tmp_path / "good")
    whole = files[1].read_bytes()
    for content, message in ((b"", "an empty file"), (whole[:90], "no DICOM file, or its beginning is cut off")):
        for ending in (".dcm", ".IMA"):
            file = files[1].with_suffix(ending)
            files[1].unlink(missing_ok=True)
            file.write_bytes(content)
            volumes = dicom.list_volumes(tmp_path)
            assert {k: len(v) for k, v in volumes.items()} == {"good": 2, "good_IM0001": 1}
            with pytest.raises(ReadError, match=rf"{file.name}: {message}; allowed"):
                dicom.inspect(volumes["good_IM0001"])
            said = ["good: slices of 3 mm lie 6 mm apart; some may be missing"]
            assert dicom.inspect(volumes["good"])["warnings"] == said
            file.unlink()
    files[1].write_bytes(b"")
    files[0].write_bytes(b"")
    volumes = dicom.list_volumes(tmp_path)
    assert {k: len(v) for k, v in volumes.items()} == {"good_IM0002": 1, "good_unreadable": 2}
    with pytest.raises(ReadError, match=r"IM0000\.dcm and 1 more: an empty file"):
        dicom.inspect(volumes["good_unreadable"])


@pytest.mark.parametrize(
    ("thickness", "distance", "warned"),
    [(3, None, False), (2.1, None, False), (2, None, True), (1, None, True), (1, 3, False), (1, 1, True), (None, 1, False)],
)
def test_dicom_slices_far_apart(tmp_path, thickness, distance, warned):
    files = series(tmp_path / "s", change={"SliceThickness": thickness, "SpacingBetweenSlices": distance})
    said = [f"s: slices of {thickness} mm lie 3 mm apart; some may be missing"] if warned else []
    assert dicom.inspect(files)["warnings"] == said


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"])
@pytest.mark.parametrize("ending", [".dcm", ""])
def test_dicom_without_preamble(tmp_path, syntax, ending):
    """A folder of files without preamble was gone from the list, without a word, where other scans were found."""
    series(tmp_path / "good")
    hu = body(3, seed=2)
    for i, image in enumerate(hu):
        d = dataset(image, (-18, -15, 3 * i), series="1.2.840.5")
        d.file_meta.TransferSyntaxUID = getattr(uid, syntax)
        (file,) = save(tmp_path / "one", [d])
        stream = file.read_bytes()
        head = 132 + 12 + int.from_bytes(stream[140:144], "little")  # preamble, mark, group 2
        file.unlink()
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / f"IM{i}{ending}").write_bytes(stream[head:])
        (tmp_path / "meta").mkdir(exist_ok=True)
        (tmp_path / "meta" / f"IM{i}{ending}").write_bytes(stream[132:])
    (tmp_path / "good" / "notes").write_bytes(b"\x08\0" * 200)
    (tmp_path / "good" / "more").write_bytes(b"\x08\0\x05\0" + b"\xff" * 200)
    volumes = dicom.list_volumes(tmp_path)
    assert {k: len(v) for k, v in volumes.items()} == {"bare": 3, "good": 3, "meta": 3}
    name = "Implicit" if "Implicit" in syntax else "Explicit"
    said = f"bare: no preamble and no transfer syntax; {name} VR Little Endian is assumed"
    for folder, noted in (("bare", [said]), ("meta", [])):
        scan = dicom.load(volumes[folder], [0, 1, 2])
        np.testing.assert_array_equal(scan.data, hu)
        assert scan.warnings == noted


@pytest.mark.parametrize(("key", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_dicom_floating_point_pixels(tmp_path, key, kind):
    """They were said to be no pixel data, not exported or cut off."""
    change = {"PixelData": None, key: body(1)[0].astype(kind).tobytes(), "BitsAllocated": 8 * int(kind[2])}
    (file,) = save(tmp_path, [dataset(body(1)[0], change=change)])
    with pytest.raises(ReadError, match="floating-point pixels; allowed whole numbers: those are not supported"):
        dicom.inspect([file])


# ---------------------------------------------------------------- DICOM: refusals


LUT = pydicom.Dataset()
LUT.ModalityLUTType = "HU"
BAD_DICOM = {  # change of every file, change of one, message
    "modality": ({"Modality": "MR"}, {}, "IM0000.dcm: modality MR; allowed CT; leave"),
    "localiser": ({}, {1: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}}, "IM0001.dcm: a localiser.*take that file out"),
    "frames": ({"NumberOfFrames": 2}, {}, "a multi-frame image; allowed one slice a file; export it as single-frame"),
    "enhanced": ({"SOPClassUID": uid.EnhancedCTImageStorage}, {}, "a multi-frame image"),
    "samples": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, {}, "a colour image; allowed one grey"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, {}, "a colour image"),
    "no pixels": ({"PixelData": None}, {}, "no pixel data .*; allowed an image; copy or export the file again"),
    "short": ({"PixelData": b"\0" * 900}, {}, "900 bytes of pixel data; allowed 960; cut off: copy"),
    "sizes": (
        {},
        {2: {"Rows": 10, "Columns": 48}},
        r"s: mixed sizes: 20 x 24 \(2 files\), 10 x 48 \(1 files\); allowed",
    ),
    "huge": ({"Rows": 60000}, {}, "60000 x 24 pixels of 16 bits; allowed 2 to 8192"),
    "no size": ({"Rows": None}, {}, "0 x 24 pixels"),
    "spacings": ({}, {1: {"PixelSpacing": [1, 1]}}, "mixed pixel sizes: 1, 1.5 mm; allowed one"),
    "orientations": ({}, {1: {"ImageOrientationPatient": [0, 1, 0, -1, 0, 0]}}, "mixed orientations; allowed parallel"),
    "missing": (
        {},
        {1: {"ImagePositionPatient": [-18, -15, -12]}},
        r"s: gaps of 6\.00 to 12\.00 mm.*even ones: slices are missing",
    ),
    "twice": ({}, {1: {"ImagePositionPatient": [-18, -15, 6]}}, r"IM0001.dcm and \S+IM0002.dcm: two slices at one"),
    "shifted": ({}, {1: {"ImagePositionPatient": [-10, -15, 3]}}, "shifted sideways; allowed positions on a line"),
    "slope": ({}, {1: {"RescaleSlope": 0}}, "IM0001.dcm: RescaleSlope 0; allowed a number above 0"),
    "not square": ({"PixelSpacing": [1.5, 1.2]}, {}, r"pixels of 1\.2 x 1\.5 mm; allowed square ones; resample"),
    "no spacing": ({"PixelSpacing": None}, {}, "no usable PixelSpacing; allowed two lengths in mm"),
    "bad number": ({"RescaleSlope": None}, {}, "RescaleSlope is unreadable; allowed finite numbers"),
    "no position": (
        {},
        {1: {"ImagePositionPatient": None}},
        "IM0001.dcm: no ImagePositionPatient or.*single file alone",
    ),
    "skew": ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.9, 0]}, {}, "allowed two directions at right angles"),
    "table": ({"ModalityLUTSequence": [LUT]}, {}, "a ModalityLUTSequence; allowed RescaleSlope and"),
    "no HU": ({"RescaleType": "Z_EFF"}, {}, "RescaleType Z_EFF; allowed HU"),
}


@pytest.mark.parametrize("case", BAD_DICOM)
def test_dicom_refuses(tmp_path, case):
    change, at, message = BAD_DICOM[case]
    files = series(tmp_path / "s", change=change, at=at)
    if case == "bad number":
        for file in files:
            d = pydicom.dcmread(file)
            d.add(pydicom.dataelem.RawDataElement(pydicom.tag.Tag(0x00281053), "DS", 4, b"abcd", 0, False, True))
            d.save_as(file)
    for call in (dicom.inspect, lambda files: dicom.load(files, [0])):
        with pytest.raises(ReadError, match=message) as caught:
            call(files)
        assert str(tmp_path) in str(caught.value) and "; allowed " in str(caught.value)
    assert list(dicom.list_volumes(files[0]).values()) == [[files[0]]]


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        ("JPEGLosslessSV1", r"compressed \(JPEG Lossless.*no decoder.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ("JPEGLSLossless", r"compressed \(JPEG-LS.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ("HTJ2KLossless", r"compressed \(High-Throughput JPEG 2000.*pip install pylibjpeg pylibjpeg-openjpeg"),
        ("MPEG2MPML", "transfer syntax MPEG2.*allowed Explicit VR Little Endian; convert"),
        ("JPEG2000Lossless", r"image cannot be decoded \(\w+\).*pip install pylibjpeg pylibjpeg-openjpeg"),
        ("JPEGExtended12Bit", r"image cannot be decoded \(\w+\).*pip install pylibjpeg pylibjpeg-libjpeg"),
        ("RLELossless", r"image cannot be decoded \(\w+\)"),
    ],
)
def test_dicom_refuses_what_it_cannot_decode(tmp_path, monkeypatch, syntax, message):
    """As an environment without pylibjpeg, gdcm and pyjpegls sees it; what has a decoder fails on damaged data."""
    d = dataset(body(1)[0])
    d.PixelData = encapsulate([b"\xff\xd8\xff\xee no image at all \xff\xd9"])
    d.file_meta.TransferSyntaxUID = getattr(uid, syntax)
    files = save(tmp_path, [d])
    if syntax in ("JPEGLosslessSV1", "JPEGLSLossless", "HTJ2KLossless"):
        decoder = pydicom.pixels.get_decoder(getattr(uid, syntax))
        monkeypatch.setattr(decoder, "_available", {})
        with pytest.raises(ReadError, match=message):
            dicom.inspect(files)
    with pytest.raises(ReadError, match=message):
        dicom.load(files, [0])


def test_dicom_refuses_files_that_are_none_or_cut_off(tmp_path):
    (file,) = series(tmp_path, 1)
    whole = file.read_bytes()
    for content, message in (
        (b"", "an empty file; allowed files with DICOM's header; copy it again"),
        (whole[:100], "no DICOM file, or its beginning is cut off; allowed"),
        (b"plain text " * 50, "no DICOM file, or its beginning is cut off; allowed"),
        (whole[:140], r"no pixel data \(not exported, or cut off\)"),
        (whole[:600], r"no pixel data \(not exported, or cut off\)"),
        (whole[:128] + b"DICM" + b"\xff" * 99, "header cannot be read|no pixel data"),
        (whole[:-100], "860 bytes of pixel data; allowed 960; cut off: copy"),
    ):
        file.write_bytes(content)
        assert list(dicom.list_volumes(file)) == ["IM0000"]
        with pytest.raises(ReadError, match=message):
            dicom.inspect([file])


def test_dicom_refuses_empty_slices_where_they_are_chosen(tmp_path):
    hu = body(3)
    hu[1], hu[2] = -3024, -1000
    files = save(tmp_path / "s", [dataset(h, (-18, -15, 3 * i)) for i, h in enumerate(hu)])
    assert dicom.load(files, [0]).data.shape == (1, 20, 24)
    for s in (1, 2):
        with pytest.raises(ReadError, match=rf"slice {s} is empty \(all -1000 HU\); leave it out with `slices`"):
            dicom.load(files, [0, s])


# ---------------------------------------------------------------- nothing that tells who or when


SECRETS = {
    "PatientName": "DOE^Zoë Jane", "PatientID": "QX7741", "PatientBirthDate": "19340517", "StudyDate": "20170312",
    "SeriesDate": "20170313", "AcquisitionDate": "20170314", "ContentDate": "20170315", "StudyTime": "104233.5",
    "SeriesTime": "104244", "AccessionNumber": "ACC99182", "InstitutionName": "Spital Wolkenheim",
    "ReferringPhysicianName": "HOUSE^G", "OperatorsName": "NIGHTINGALE", "PatientSex": "F", "PatientAge": "083Y",
    "StudyDescription": "STUDYTEXT", "SeriesDescription": "SERIESTEXT", "StationName": "STATION7", "StudyID": "SID4711",
    "PatientComments": "COMMENTTEXT", "StudyInstanceUID": "1.2.840.777.1", "FrameOfReferenceUID": "1.2.840.777.3",
    "AcquisitionDateTime": "20180606071500", "OtherPatientNames": "MAIDENNAME^ZOE", "PatientBirthName": "BIRTHNAME",
    "PerformingPhysicianName": "PERFPHYS^M", "OtherPatientIDs": "OLD5521",
    "SOPInstanceUID": "1.2.840.777.4", "ConvolutionKernel": "KERNELTEXT", "DeviceSerialNumber": "SERIAL881",
}  # fmt: skip
TOLD = ["doe", "zo", "jane", "qx7741", "19340517", "2017031", "2017-03", "10423", "104244", "acc99", "wolken", "house",
        "nightin", "083y", "studyt", "seriest", "station7", "sid47", "commentt", "1.2.840", "kernelt", "serial88",
        "777.", "170312", "120317", "031217", "mar17", "mar2017", "maerz", "2018060", "maiden", "birthn", "perfph", "old55"]  # fmt: skip
PLACES = ["Doe_Zoe", "qx7741", "2017-03-12", "1.2.840.777.1", "ACC99182 CT"]


ALSO = [  # names that no header's word is a part of as it stands: other orders of a date, with and without a time
    "12-03-2017", "CT_12MAR2017", "120317", "031217", "170312", "12.3.17", "March 12, 2017", "2017-Maerz-12", "201703121042",
    "born_17.05.1934", "06.06.2018", "SID4711", "maidenname", "birthname", "perfphys", "STATION7", "old5521", "serial881",
]  # fmt: skip


def check(*results):
    text = " ".join(map(str, results)).casefold()
    assert [told for told in TOLD if told in text] == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", ["good", *BAD_DICOM, "cut", "no header", "decoder", "gone", "invalid"])
def test_dicom_keeps_no_person(tmp_path_factory, capfd, caplog, place, case):
    """Every tag that tells who or when is filled, folders and files are named after them, and pydicom would warn."""
    caplog.set_level(logging.DEBUG)
    change, at, _ = BAD_DICOM.get(case, ({}, {}, ""))
    folder = tmp_path_factory.mktemp("x") / place
    if case == "invalid":
        change = {"PatientBirthDate": None}
    files = series(folder, change=SECRETS | change, at=at, series="1.2.840.777.2")
    files = [f.rename(f.with_name(f"{place}.{i}.1.2.840.777.4.dcm")) for i, f in enumerate(files)]
    raw = pydicom.dataelem.RawDataElement
    for file in files if case == "invalid" else ():
        d = pydicom.dcmread(file)
        for tag, vr, value in (
            (0x00100030, "DA", b"DOE17051934 "),
            (0x00280010, "US", b"DOE"),
            (0x00281053, "DS", b"DOE "),
        ):
            d.add(raw(pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            d.save_as(file)
    if case == "cut":
        files[0].write_bytes(files[0].read_bytes()[:-300])
    if case == "no header":
        files[0].write_bytes(files[0].read_bytes()[:450])
    if case == "decoder":
        d = pydicom.dcmread(files[0])
        d.PixelData, d.file_meta.TransferSyntaxUID = encapsulate([b"DOE"]), uid.JPEG2000Lossless
        d.save_as(files[0])
    found = []
    capfd.readouterr(), caplog.clear()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for path in (folder, folder.parent, files[0]):
            try:
                found += list(dicom.list_volumes(path))
            except ReadError as error:
                found.append("".join(traceback.format_exception(error)))
        if case == "gone":
            files[1].unlink()
        for group in (files, files[:1]):
            for call in (dicom.inspect, lambda files: dicom.load(files, [0])):
                try:
                    found.append(call(group))
                except ReadError as error:
                    found.append("".join(traceback.format_exception(error)))
                    assert "no such file" in str(error) or case not in ("good", "gone")
    check(*found, *(str(w.message) for w in shown), *capfd.readouterr(), caplog.text)
    assert found[0].startswith("series_") or case in ("modality",)


@pytest.mark.parametrize("place", ALSO)
def test_dicom_names_of_folders_are_compared_with_the_header(tmp_path, place):
    """Folders named after the study's date in another order, or after a doctor, became the names of volumes."""
    series(tmp_path / place, change=SECRETS, series="1.2.840.777.2")
    series(tmp_path / "L067" / place / "full", change=SECRETS, series="1.2.840.777.5")
    assert names(tmp_path) == {"series_01": 3, "series_02": 3}
    assert names(tmp_path / place) == {"series_01": 3}


def test_dicom_a_date_over_several_folders(tmp_path):
    series(tmp_path / "2017" / "03" / "12", change={"StudyDate": "20190101"})
    series(tmp_path / "L067" / "03" / "full", change={"StudyDate": "20190101"}, series="1.2.840.2")
    assert names(tmp_path) == {"series_01": 3, "L067_03_full": 3}


DATED = ["obl_20170312104233", "20170312", "x_2017-03-12_10.42.33", "a12032017", "CT_12MAR2017", "12.mar.17", "Mar-12-2017",
         "12-03-17", "born_17.05.1934", "3.12.2017", "20170312T104233.500", "1.2.840.113619.2", "s_201703121042_7"]  # fmt: skip
UNDATED = ["L067", "case_0123", "scan_120317", "LIDC-IDRI-0078", "patient_001", "20179999", "123420170312", "v1.2.3", "march_3",
           "rep20", "abdomen_3mm", "decubitus12", "IM00012017"]  # fmt: skip


@pytest.mark.parametrize("name", DATED)
def test_names_that_look_like_a_date_or_uid_are_not_taken(tmp_path, name):
    """dcm2niix names files after the second of the scan: it stood in tables, pictures and the report."""
    nifti_file(tmp_path / f"{name}.nii.gz", OK)
    nifti_file(tmp_path / "L067.nii", OK)
    listed = nifti.list_volumes(tmp_path)
    assert list(listed) == ["L067", "series_01"] and listed["series_01"] == [tmp_path / f"{name}.nii.gz"]
    assert list(nifti.list_volumes(tmp_path / f"{name}.nii.gz")) == ["series_01"]
    series(tmp_path / "d" / name)
    assert names(tmp_path / "d") == {"series_01": 3}


@pytest.mark.parametrize("name", UNDATED)
def test_names_without_a_date_stay(tmp_path, name):
    nifti_file(tmp_path / f"{name}.nii", OK)
    series(tmp_path / "d" / name)
    assert list(nifti.list_volumes(tmp_path)) == [name] and names(tmp_path / "d") == {name: 3}


def test_dicom_several_uids_in_one_tag(tmp_path):
    """Damaged headers with a backslash in the series' UID ended the listing of a whole tree."""
    for file in series(tmp_path / "s"):
        file.write_bytes(file.read_bytes().replace(b"1.2.840.99.7.1", b"1.2.840\\99.7.1"))
    assert names(tmp_path) == {"s": 3} and dicom.inspect([tmp_path / "s"])["slices"] == 3


def test_dicom_harmless_names_stay(tmp_path):
    files = series(tmp_path / "L067", change=SECRETS)
    assert names(tmp_path) == {"L067": 3}
    files[1].write_bytes(files[1].read_bytes()[:-300])
    with pytest.raises(ReadError, match=re.escape(f"{files[1]}: 660 bytes")):
        dicom.inspect(files)
    assert personal.tells("Müller, Hans", {"muller"}) and not personal.tells("IM0012", {"12"})
    assert personal.tells("12", {"12"}) and not personal.tells("L067", {"067L"})


# ---------------------------------------------------------------- NIfTI


def world(points):
    """A different HU at every position (RAS mm), smooth, from air upwards."""
    x, y, z = points
    return -1000 + 30 * x + 20 * np.abs(y) + 100 * z


AXES = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "flips"), AXES)
def test_nifti_any_order_of_axes_is_brought_to_axial_slices(tmp_path, order, flips):
    """48 ways to store one volume: every value stays where the affine says, and every slice looks the same."""
    shape, spacing = (6, 5, 4), (2.0, 2.0, 3.0)  # along x, y, z
    affine = np.eye(4)
    for axis, (direction, flip) in enumerate(zip(order, flips, strict=True)):
        affine[:3, axis] = 0
        affine[direction, axis] = flip * spacing[direction]
        affine[direction, 3] = 1 if flip > 0 else 1 + spacing[direction] * (shape[direction] - 1)
    stored = tuple(shape[direction] for direction in order)
    points = np.tensordot(affine[:3, :3], np.indices(stored), 1) + affine[:3, 3, None, None, None]
    nib.save(nib.Nifti1Image(world(points).astype(np.float32), affine), tmp_path / "v.nii")
    scan = nifti.load([tmp_path / "v.nii"], [0, 1, 2, 3])
    s, r, c = np.indices(scan.data.shape)
    delivered = np.tensordot(scan.affine[:3, :3], np.stack([c, r, s]), 1) + scan.affine[:3, 3, None, None, None]
    np.testing.assert_allclose(scan.data, world(delivered), atol=1e-3)
    assert scan.data.shape == (4, 5, 6) and scan.voxel == (2, 2, 3)
    np.testing.assert_allclose(scan.affine, [[-2, 0, 0, 11], [0, -2, 0, 9], [0, 0, 3, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(nifti.load([tmp_path / "v.nii"], [2, 1]).data, scan.data[[2, 1]])


def oblique(angle):
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.array([[1, 0, 0, 5], [0, c, -s, 6], [0, s, c, 7], [0, 0, 0, 1]])


def test_nifti_oblique_keeps_its_affine(tmp_path):
    affine = oblique(20) @ np.diag([1.5, 1.5, 3, 1])
    stored = body(3).transpose(2, 1, 0).astype(np.int16)
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "v.nii.gz")
    scan = nifti.load([tmp_path / "v.nii.gz"], [0, 1, 2])
    for s, r, c in ((0, 0, 0), (2, 3, 5), (1, 19, 23)):
        i, j = 23 - c, 19 - r  # to the left and the back
        assert scan.data[s, r, c] == stored[i, j, s]
        np.testing.assert_allclose(scan.affine @ (c, r, s, 1), affine @ (i, j, s, 1), atol=1e-5)
    assert scan.warnings == ["v.nii.gz: axes tilted by 20.0 degrees; each slice is reconstructed in its own plane"]


def nifti_file(file, stored, slope=1.0, inter=0.0, affine=None, **header):
    """A file of these stored numbers, slope and intercept as they are, whatever nibabel would choose."""
    image = nib.Nifti1Image(stored, np.diag([-1.5, -1.5, 3, 1]) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([slope, inter], "<f4").tobytes()
    Path(file).write_bytes(gzip.compress(bytes(content)) if str(file).endswith(".gz") else bytes(content))
    return [Path(file)]


@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (0.5, -1024), (2, -1000), (0, 0), (0, -1024), (np.nan, 5)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_applies_slope_and_intercept_once(tmp_path, slope, inter, ending):
    """Programs that ignore scl_slope and scl_inter read 0 where air is. A slope of 0 or NaN means unscaled."""
    scaled, hu = np.isfinite(slope) and slope != 0, body(3) // 2 * 2
    stored = ((hu - inter) / slope if scaled else hu).transpose(2, 1, 0).astype(np.int16)
    scan = nifti.load(nifti_file(tmp_path / f"v{ending}", stored, slope, inter), [0, 1, 2])
    np.testing.assert_array_equal(scan.data, hu)
    assert scan.warnings == []


def test_nifti_padding_and_single_slices(tmp_path):
    hu = body(1)
    hu[0, :2] = -3024
    for shape in ((24, 20, 1), (24, 20), (24, 20, 1, 1, 1)):
        scan = nifti.load(nifti_file(tmp_path / "v.nii", hu.transpose(2, 1, 0).reshape(shape).astype(np.int16)), [0])
        np.testing.assert_array_equal(scan.data, np.where(hu < -1024, -1000, hu))
        assert scan.warnings == ["v.nii: 10.00% of the pixels were padding (no matter) and are set to -1000 HU"]


def test_nifti_units_and_missing_orientation(tmp_path):
    stored = body(2).transpose(2, 1, 0).astype(np.int16)
    metres = np.diag([-0.0015, -0.0015, 0.003, 1])
    scan = nifti.load(nifti_file(tmp_path / "m.nii", stored, affine=metres, xyzt_units=1), [0])
    assert scan.voxel == pytest.approx((1.5, 1.5, 3)) and scan.warnings == []
    (file,) = nifti_file(tmp_path / "n.nii", stored)
    content = bytearray(file.read_bytes())
    content[252:256] = b"\0" * 4  # qform_code and sform_code
    file.write_bytes(content)
    scan = nifti.load([file], [0])
    assert "no orientation in the header" in scan.warnings[0] and scan.voxel == pytest.approx((1.5, 1.5, 3))


def test_nifti_a_slice_without_air_belongs_to_a_volume_with_air(tmp_path):
    hu = body(3)
    hu[1] = np.abs(hu[1] % 100) + 1
    files = nifti_file(tmp_path / "v.nii", hu.transpose(2, 1, 0).astype(np.int16))
    np.testing.assert_array_equal(nifti.load(files, [1]).data, hu[1:2])


OK = body(3).transpose(2, 1, 0).astype(np.float32)
BAD_NIFTI = {  # values, header, does inspect see it, message
    "4-D": (np.stack([OK, OK], 3), {}, True, r"shape \(24, 20, 3, 2\); allowed one volume of 3 axes; store each"),
    "not square": (OK, {"affine": np.diag([1, 1.2, 3, 1])}, True, r"pixels of 1 x 1\.2 mm; allowed square"),
    "complex": (OK.astype(np.complex64), {}, True, "values of type complex64; allowed whole or real numbers"),
    "1-D": (OK[:, :1, :1], {}, True, r"shape \(24, 1, 1\); allowed 2 or 3 axes"),
    "magnitude": (np.abs(OK), {}, False, r"values from 0 to 1000: these are no Hounsfield units; allowed HU"),
    "shifted": (OK + 1024, {}, False, "no Hounsfield units.*subtracting 1024"),
    "shifted, padded": (np.where(np.arange(3) == 1, OK + 1024, -3024), {}, False, "values from 24 to 11.*no Hounsfield"),
    "fractions": ((OK + 1000) / 2000, {}, False, r"values from 0 to 0\.\d+: these are no Hounsfield units"),
    "no air": (inside().transpose(2, 1, 0).astype(np.int16), {}, False, "no Hounsfield units.*take DICOM files with RescaleType HU"),
    "mask": ((OK > 0).astype(np.uint8), {}, False, "values from 0 to 1: these are no Hounsfield units"),
    "air": (OK * 0 - 1000, {}, False, "no Hounsfield units"),
    "nan": (np.where(OK.max() == OK, np.nan, OK), {}, False, r"NaN in slice \d; allowed finite"),
    "inf": (np.where(OK.max() == OK, np.inf, OK), {}, False, r"Inf in slice \d; allowed finite"),
    "empty": (np.where(np.arange(3) == 1, -1000, OK), {}, False, r"slice 1 is empty \(all -1000 HU\)"),
}


@pytest.mark.parametrize("case", BAD_NIFTI)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_refuses(tmp_path, case, ending):
    values, header, early, message = BAD_NIFTI[case]
    files = nifti_file(
        tmp_path / f"v{ending}", values.astype(np.float32) if values.dtype == float else values, **header
    )
    for call in (nifti.inspect,) * early + (lambda files: nifti.load(files, [0, 1, 2]),):
        with pytest.raises(ReadError, match=message) as caught:
            call(files)
        assert str(files[0]) in str(caught.value)


def test_nifti_refuses_colour_and_affines_without_inverse(tmp_path):
    colour = np.zeros((24, 20, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(ReadError, match="allowed whole or real numbers"):
        nifti.inspect([tmp_path / "c.nii"])
    files = nifti_file(tmp_path / "v.nii", OK)
    content = bytearray(files[0].read_bytes())
    content[280:296] = b"\0" * 16  # first row of the sform
    files[0].write_bytes(content)
    with pytest.raises(ReadError, match="has no inverse; allowed one that has"):
        nifti.inspect(files)


def test_nifti_refuses_files_that_are_none_or_cut_off(tmp_path):
    whole = nifti_file(tmp_path / "v.nii", OK)[0].read_bytes()
    (tmp_path / "v.nii").write_bytes(whole[:-100])
    with pytest.raises(ReadError, match=r"bytes, too few for shape \(24, 20, 3\): cut off; copy"):
        nifti.inspect([tmp_path / "v.nii"])
    packed = nifti_file(tmp_path / "w.nii.gz", OK + np.random.default_rng(0).random(OK.shape, np.float32))[0]
    whole = packed.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 20):
        packed.write_bytes(whole[:keep])
        with pytest.raises(ReadError, match=r"w\.nii\.gz: (cut off or damaged|cannot be read).*copy"):
            nifti.load([packed], [0, 1, 2])
    for content in (b"", b"no NIfTI at all" * 100, gzip.compress(b"neither" * 100)):
        for file in (tmp_path / "x.nii", tmp_path / "x.nii.gz"):
            file.write_bytes(content)
            with pytest.raises(ReadError, match=r"x\.nii(\.gz)?: cannot be read \(\w+.*copy or download it again"):
                nifti.inspect([file])


def test_nifti_names(tmp_path):
    for name in ("a.nii", "b.nii.gz", "sub/b.nii", "with space.nii.gz", "c.nifti", ".d.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nifti_file(tmp_path / name, OK)
    volumes = nifti.list_volumes(tmp_path)
    assert sorted(volumes) == ["a", "b", "with space"]
    for name, message in (("b", "two files of one name"), ("with space", "allowed letters, digits.*rename")):
        with pytest.raises(ReadError, match=message):
            nifti.inspect(volumes[name])
    assert list(nifti.list_volumes(tmp_path / "b.nii.gz")) == ["b"]


def test_nifti_keeps_no_text(tmp_path):
    files = nifti_file(tmp_path / "v.nii.gz", OK, descrip=b"DOE^JANE", db_name=b"QX7741", aux_file=b"1.2.840.777")
    check(nifti.inspect(files), nifti.load(files, [0]))


# ---------------------------------------------------------------- the derived series


AFFINES = {
    "axial": np.array([[-0.7, 0, 0, 10.123456], [0, -0.7, 0, -5], [0, 0, 2.5, 33.3], [0, 0, 0, 1]]),
    "oblique": oblique(17) @ np.diag([-0.7, -0.7, 2.5, 1]),
    "tilted": oblique(17) @ np.diag([-0.7, -0.7, 2.5, 1])
    + np.array([[0, 0, 0.2, 0], [0, 0, 0.7, 0], [0] * 4, [0] * 4]),
}


@pytest.mark.parametrize("kind", AFFINES)
def test_export_reads_back_to_the_same_hu_and_affine(tmp_path, kind):
    affine, hu = AFFINES[kind], body(4) + np.random.default_rng(0).uniform(-0.4, 0.4, (4, 20, 24))
    written = dicom_series(hu, affine, "dip R18 ä\\", tmp_path / "out" / kind, thickness=3.0)
    assert [f.name for f in written] == sorted(f.name for f in (tmp_path / "out" / kind).iterdir())
    (files,) = dicom.list_volumes(tmp_path / "out").values()
    scan = dicom.load(files, [0, 1, 2, 3])
    np.testing.assert_array_equal(scan.data, np.rint(hu))
    np.testing.assert_allclose(scan.affine, affine, atol=1e-9)
    assert [w for w in scan.warnings if "tilted" not in w] == []
    heads = [pydicom.dcmread(f) for f in written]
    for d in heads:
        assert d.Modality == "CT" and list(d.ImageType[:2]) == ["DERIVED", "SECONDARY"] and d.SliceThickness == 3
        assert (d.RescaleSlope, d.RescaleIntercept, d.RescaleType) == (1, 0, "HU") and d.pixel_array.dtype == np.int16
        assert d.SeriesDescription == "dip R18 ä" and not (d.PatientName or d.PatientID or d.StudyDate or d.StudyTime)
        normal = np.cross(d.ImageOrientationPatient[:3], d.ImageOrientationPatient[3:])
        step = np.subtract(heads[1].ImagePositionPatient, heads[0].ImagePositionPatient)
        assert d.SpacingBetweenSlices == pytest.approx(step @ normal)
    for key, number in (("SOPInstanceUID", 4), ("InstanceNumber", 4), ("SeriesInstanceUID", 1), ("StudyInstanceUID", 1),
                        ("FrameOfReferenceUID", 1)):  # fmt: skip
        assert len({str(d[key].value) for d in heads}) == number
    assert [int(d.InstanceNumber) for d in heads] == [1, 2, 3, 4]


def test_export_uids_are_new_for_new_values_and_shared_where_asked(tmp_path):
    def head(name, hu, study=None):
        return pydicom.dcmread(dicom_series(hu, np.eye(4), "x", tmp_path / name, study)[0])

    a, again, b = head("a", body(2)), head("again", body(2)), head("b", body(2) + 1)
    assert (tmp_path / "a/IM0001.dcm").read_bytes() == (tmp_path / "again/IM0001.dcm").read_bytes()
    assert all(a[k].value == again[k].value != b[k].value for k in ("SeriesInstanceUID", "StudyInstanceUID"))
    c, d = head("c", body(2), "volume 1"), head("d", body(2) + 1, "volume 1")
    assert c.FrameOfReferenceUID == d.FrameOfReferenceUID and c.StudyInstanceUID == d.StudyInstanceUID
    assert c.SeriesInstanceUID != d.SeriesInstanceUID


def test_export_refuses(tmp_path):
    full, skew = tmp_path / "full", np.eye(4)
    skew[0, 1] = 0.5
    dicom_series(body(1), np.eye(4), "", full)
    for hu, affine, folder, message in (
        (body(1)[0], np.eye(4), tmp_path / "x", r"shape \(20, 24\); allowed \(slices, rows, columns\)"),
        (body(1) * np.nan, np.eye(4), tmp_path / "x", "NaN or Inf; allowed HU"),
        (body(1), np.zeros((4, 4)), tmp_path / "x", "allowed 4x4 with an inverse"),
        (body(1), skew, tmp_path / "x", "not at right angles"),
        (body(1), np.eye(4), full, "exists and is not empty; allowed a new folder"),
    ):
        with pytest.raises(ValueError, match=message):
            dicom_series(hu, affine, "", folder)
    assert not (tmp_path / "x").exists()
    dicom_series(np.full((1, 4, 4), 1e6), np.eye(4), "", tmp_path / "clipped")
    assert pydicom.dcmread(tmp_path / "clipped/IM0001.dcm").pixel_array.max() == 32767


# ---------------------------------------------------------------- real files, damaged files


@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans beside the repository")
def test_real_dicom():
    volumes = dicom.list_volumes(REAL / "dicom")
    assert {name: len(files) for name, files in volumes.items()} == {"chest_0": 1, "dicom": 4}
    with pytest.raises(ReadError, match=r"gaps of 16\.08 to 28\.01 mm.*slices are missing"):
        dicom.inspect(volumes["dicom"])  # 4 slices of 20 or more
    chest = dicom.load(volumes["chest_0"], [0])
    assert "chest_0.dcm: no Modality; CT is assumed" in chest.warnings and "21.46% of the pixels" in chest.warnings[1]
    small = np.load(REAL / "npy" / "chest_256.npy")
    inside = np.hypot(*np.mgrid[-127.5:128, -127.5:128]) < 126
    mean = np.maximum(chest.data[0], -1024).reshape(256, 2, 256, 2).mean((1, 3))
    np.testing.assert_allclose(mean[inside], small[inside], atol=1e-3)
    assert chest.voxel == (0.625, 0.625, 1) and chest.data.min() == -1051  # noise of the air within the circle stays
    for file in volumes["dicom"]:
        ((name, files),) = dicom.list_volumes(file).items()
        head = dicom.load(files, [0])
        assert name == file.stem and "gantry tilted by 18.5 degrees" in head.warnings[0]
        stored, d = pydicom.dcmread(file).pixel_array, pydicom.dcmread(file)
        np.testing.assert_array_equal(head.data[0], np.where(stored == -1500, -1000, stored))
        np.testing.assert_allclose(head.affine[:3, 3] * (-1, -1, 1), d.ImagePositionPatient)
        assert d.PatientID not in str(head) and str(d.SOPInstanceUID) not in str(head)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans beside the repository")
def test_real_nifti():
    ((name, files),) = nifti.list_volumes(REAL / "nifti").items()
    scan, image = nifti.load(files, list(range(112))), nib.load(files[0])
    stored = np.asarray(image.dataobj)
    turned = stored[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(scan.data, np.where(scan.data == -1000, scan.data, turned))
    assert (scan.data != turned).mean() < 1e-4 and (turned[scan.data != turned] < -1024).all()
    assert name == "abdomen_3mm" and scan.data.shape == (112, 101, 122)
    np.testing.assert_allclose(scan.affine @ (121, 100, 7, 1), image.affine @ (0, 0, 7, 1), atol=1e-4)
    np.testing.assert_array_equal(nifti.load(files, [50]).data[0], scan.data[50])


def read_mutants(name, folder, count, at, loaded, strange):
    """Worker: read `count` damaged copies of a reader's volumes."""
    reader, folder = reader_of(name), Path(folder)
    whole = {f: f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    for k in range(count):
        at.value, rng = k, random.Random(f"{name}-{k}")
        file = rng.choice(list(whole))
        file.write_bytes(mutate(whole[file], rng))
        try:
            for files in reader.list_volumes(folder).values():
                if file in files:
                    said = reader.inspect(files)
                    reader.load(files, list(range(min(said["slices"], 2))))
                    loaded.value += 1
        except ReadError:
            pass
        except Exception as problem:
            strange.put(f"{name} {k}: {type(problem).__name__}: {problem}")
        file.write_bytes(whole[file])
    at.value = count


@pytest.mark.parametrize("name", READERS)
def test_readers_survive_300_mutated_files(tmp_path, name, count=300):
    """300 damaged files: each loads or is refused with a ReadError; no crash, no hang."""
    reader_of(name).fake(tmp_path)
    context = multiprocessing.get_context("spawn")
    at, loaded, strange = context.Value("l", 0), context.Value("l", 0), context.SimpleQueue()
    worker = context.Process(target=read_mutants, args=(name, tmp_path, count, at, loaded, strange))
    worker.start()
    worker.join(60)
    hangs = worker.is_alive()
    if hangs:
        worker.kill()
        worker.join()
    problems = []
    while not strange.empty():
        problems.append(strange.get())
    assert problems == [] and not hangs and at.value == count, f"at {at.value}: hangs {hangs}, {worker.exitcode}"
    assert 0.1 * count < loaded.value < 0.9 * count  # the damage is neither harmless nor always fatal


def test_a_nifti_volume_becomes_a_series(tmp_path):
    """The distance between slices was written as their thickness: 8 mm for every second slice of a 4 mm series."""
    hu = np.full((3, 16, 12), -1000, np.float32)
    hu[:, 4:12, 3:9] = np.arange(3)[:, None, None] * 10 + 40
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(hu.transpose(2, 1, 0), affine), tmp_path / "v.nii.gz")
    cli.main(["export-dicom", str(tmp_path / "v.nii.gz"), "--out", str(tmp_path / "series")])
    (files,) = dicom.list_volumes(tmp_path / "series").values()
    scan = dicom.load(files, [0, 1, 2])
    assert np.array_equal(scan.data, hu) and np.allclose(scan.affine, affine)
    for d in map(pydicom.dcmread, files):
        assert d.SpacingBetweenSlices == 5 and "SliceThickness" in d and d.SliceThickness is None
    marked = nib.Nifti1Image(np.abs(hu.transpose(2, 1, 0)), affine)
    marked.header["intent_name"] = "HU"  # as volumes are exported: a body without air is CT all the same
    nib.save(marked, tmp_path / "spine.nii.gz")
    cli.main(["export-dicom", str(tmp_path / "spine.nii.gz"), "--out", str(tmp_path / "spine")])
    nib.save(nib.Nifti1Image(np.abs(hu.transpose(2, 1, 0)), affine), tmp_path / "mri.nii.gz")
    with pytest.raises(SystemExit, match="no Hounsfield units"):
        cli.main(["export-dicom", str(tmp_path / "mri.nii.gz"), "--out", str(tmp_path / "other")])


@pytest.mark.parametrize("told", [True, False])
def test_slices_that_were_not_reconstructed_are_left_out_of_the_series(tmp_path, told):
    """Slices that failed or that nobody chose came as files of nothing but -1000 HU, which a viewer shows as slices of air."""
    hu, affine = body(4).astype(np.float32), np.diag([-2.0, -2.0, 5.0, 1.0])
    hu[2] = -1000  # it failed; nobody chose slice 1
    export._nifti(tmp_path / "v.nii.gz", hu[[0, 2, 3]], [0, 2, 3], [2], affine, -1000.0, "HU")
    if not told:  # air alone in a volume that says nothing of missing slices is air
        image = nib.load(tmp_path / "v.nii.gz")
        image.header["descrip"] = ""
        nib.save(image, tmp_path / "w.nii.gz")
    cli.main(["export-dicom", str(tmp_path / ("v.nii.gz" if told else "w.nii.gz")), "--out", str(tmp_path / "series")])
    heads = {int(d.InstanceNumber): d for d in map(pydicom.dcmread, (tmp_path / "series").iterdir())}
    numbers = [1, 4] if told else [1, 2, 3, 4]
    assert sorted(heads) == numbers and sorted(p.name for p in (tmp_path / "series").iterdir()) == [f"IM{n:04d}.dcm" for n in numbers]
    for n in (1, 4):
        assert heads[n].ImagePositionPatient[2] == 5 * (n - 1) and heads[n].SpacingBetweenSlices == 5
        np.testing.assert_array_equal(heads[n].pixel_array, hu[n - 1])


def test_a_volume_without_any_image_is_no_series(tmp_path):
    export._nifti(tmp_path / "v.nii.gz", np.full((2, 8, 8), -1000, np.float32), [0, 1], [0, 1], np.eye(4), -1000.0, "HU")
    with pytest.raises(SystemExit, match="v.nii.gz: no slice holds an image; name another volume"):
        cli.main(["export-dicom", str(tmp_path / "v.nii.gz"), "--out", str(tmp_path / "series")])
    assert not (tmp_path / "series").exists()
