"""MRI readers: every one through the same contract, every refusal by its message, and damaged files."""

import importlib
import multiprocessing
import os
import random
import re
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from dipline.readers import cfl, fastmri, ismrmrd, phantom
from dipline.readers.base import ReadError

FILE_READERS = ("fastmri", "ismrmrd", "cfl")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "mri"
SMALL = {"slices": 2, "matrix": 48, "coils": 6}


def to_image(kspace):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


def write(file, kspace, **datasets):
    """A file in fastMRI's layout."""
    with h5py.File(file, "w") as h:
        for key, value in {"kspace": kspace, **datasets}.items():
            if value is not None:
                h[key] = value
    return [file]


def noise(*shape):
    rng = np.random.default_rng(1)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def header(enc=(32, 24), rec=(16, 24), last=23, centre=12, fov=(64, 48, 5), rec_fov=(32, 48, 5), more=""):
    def space(matrix, size):
        return (
            f"<matrixSize><x>{matrix[0]}</x><y>{matrix[1]}</y><z>1</z></matrixSize>"
            f"<fieldOfView_mm><x>{size[0]}</x><y>{size[1]}</y><z>{size[2]}</z></fieldOfView_mm>"
        )

    return (
        f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{more}<encoding>'
        f"<encodedSpace>{space(enc, fov)}</encodedSpace><reconSpace>{space(rec, rec_fov)}</reconSpace><encodingLimits>"
        f"<kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center>"
        "</kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    ).encode()


# ---------------------------------------------------------------- the contract, for every reader


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of volumes for every reader; the phantom's are read as fastMRI's."""
    found = {}
    for name in FILE_READERS:
        found[name] = tmp_path_factory.mktemp(name)
        importlib.import_module(f"dipline.readers.{name}").fake(found[name])
    found["phantom"] = tmp_path_factory.mktemp("phantom")
    for volume in phantom.names(patients=2):
        phantom.write(volume, found["phantom"] / f"{volume}.h5", **SMALL)
    return found


@pytest.mark.parametrize("name", [*FILE_READERS, "phantom"])
def test_contract(folders, name):
    """What `inspect` says from the headers is what `load` hands over, for all slices and for a choice."""
    module = importlib.import_module(f"dipline.readers.{name}")
    reader = importlib.import_module(f"dipline.readers.{getattr(module, 'READS_AS', name)}")
    volumes = reader.list_volumes(folders[name])
    assert len(volumes) == 2
    for files in volumes.values():
        said = reader.inspect(files)
        scan = reader.load(files, list(range(said["slices"])))
        assert scan.modality == module.MODALITY == "mri"
        assert scan.data.shape == (said["slices"], *said["shape"]) and scan.data.dtype == np.complex64
        assert scan.data.nbytes == said["bytes"] and list(scan.recon_shape) == said["recon_shape"]
        assert (scan.mask is not None) == said["undersampled"]
        for samples in (scan.mask, scan.acquired):
            if samples is not None:
                assert samples.dtype == bool
                assert not scan.data[:, :, ~np.broadcast_to(samples, scan.data.shape[2:])].any()
        assert scan.affine.shape == (4, 4) and min(scan.voxel) > 0
        assert np.allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), scan.voxel)
        last = said["slices"] - 1
        np.testing.assert_array_equal(reader.load(files, [last]).data[0], scan.data[last])
        with pytest.raises(ReadError, match=rf"slices \[{last + 1}\] chosen; allowed 0 to {last}"):
            reader.load(files, [last + 1])


@pytest.mark.parametrize("name", FILE_READERS)
def test_one_file_and_missing_folders(folders, tmp_path, name):
    reader = importlib.import_module(f"dipline.readers.{name}")
    file = sorted(folders[name].glob("*.h[5d]*"))[0]
    assert reader.list_volumes(file) == {file.stem: [file]}
    with pytest.raises(ReadError, match="no such file or folder; correct the dataset's `path`"):
        reader.list_volumes(tmp_path / "nowhere")
    with pytest.raises(ReadError, match="holds no .(h5|hdr) file.*; correct the dataset's `path`"):
        reader.list_volumes(tmp_path)


@pytest.mark.parametrize("name", FILE_READERS)
def test_a_bad_name_is_listed_and_costs_that_volume_alone(folders, tmp_path, name):
    reader = importlib.import_module(f"dipline.readers.{name}")
    for sub, stem in (("a", "same"), ("b", "same"), ("a", "with space"), ("a", "{volume}"), ("a", "good")):
        (tmp_path / sub).mkdir(exist_ok=True)
        for file in folders[name].glob(f"{sorted(folders[name].iterdir())[0].stem}.*"):
            (tmp_path / sub / f"{stem}{file.suffix}").write_bytes(file.read_bytes())
    volumes = reader.list_volumes(tmp_path)
    assert sorted(volumes) == ["good", "same", "with space", "{volume}"]
    assert reader.inspect(volumes["good"])["slices"] > 0
    both = ".*".join(re.escape(str(f)) for f in volumes["same"])
    for call in (reader.inspect, lambda files: reader.load(files, [0])):
        with pytest.raises(ReadError, match=f"{both}.*two files of one name `same`.*rename"):
            call(volumes["same"])
        for stem in ("with space", "{volume}"):
            with pytest.raises(ReadError, match="allowed letters, digits.*rename"):
                call(volumes[stem])


@pytest.mark.parametrize("name", FILE_READERS)
def test_refuses_what_does_not_fit_into_memory_before_reading(folders, monkeypatch, name):
    reader = importlib.import_module(f"dipline.readers.{name}")
    files = next(iter(reader.list_volumes(folders[name]).values()))
    monkeypatch.setattr(os, "sysconf", lambda key: 1 if key == "SC_PHYS_PAGES" else 16_000)
    with pytest.raises(ReadError, match=r"need 0\.0 GB, this machine has 0\.0 GB; choose fewer slices"):
        reader.load(files, [0])


@pytest.mark.parametrize("name", FILE_READERS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nan", "NaN in slice 1, coil 2; allowed finite"),
        ("inf", "Inf in slice 1, coil 2; allowed finite"),
        ("slice", "slice 1 is all zero; leave it out"),
        ("coil", r"slice 1: coil \[2\] is all zero; remove that coil"),
    ],
)
def test_refuses_bad_numbers(folders, tmp_path, name, damage, message):
    reader = importlib.import_module(f"dipline.readers.{name}")
    data = noise(2, 4, 32, 24)
    place = {"nan": (1, 2, 3, 4), "inf": (1, 2, 3, 4), "slice": (1,), "coil": (1, 2)}[damage]
    data[place] = {"nan": np.nan, "inf": np.inf}.get(damage, 0)
    if name == "fastmri":
        files = write(tmp_path / "v.h5", data)
    elif name == "cfl":
        cfl.write_cfl(tmp_path / "v", data)
        files = [tmp_path / "v.hdr"]
    else:
        files = write_raw(tmp_path / "v.h5", data)
    assert np.array_equal(reader.load(files, [0]).data, data[:1])
    with pytest.raises(ReadError, match=message):
        reader.load(files, [0, 1])


# ---------------------------------------------------------------- fastMRI


OK = noise(1, 4, 32, 24)
BAD_FASTMRI = {
    "no kspace": (None, {"image": np.ones(3)}, r"no dataset `kspace`, found \['image'\]"),
    "rank 2": (noise(32, 24), {}, r"shape \(32, 24\); allowed \(slices, coils"),
    "rank 5": (noise(1, 1, 4, 8, 8), {}, r"allowed \(slices, coils"),
    "empty": (noise(0, 4, 32, 24), {}, r"shape \(0, 4, 32, 24\); allowed 1 to"),
    "scalar": (np.complex64(1), {}, r"shape \(\); allowed \(slices"),
    "real": (np.ones((1, 4, 32, 24), np.float32), {}, "float32; allowed complex64"),
    "integer": (np.ones((1, 4, 32, 24), np.int16), {}, "int16; allowed complex64"),
    "coils last": (noise(1, 32, 24, 4), {}, r"coils last.*kspace\.transpose\(0, 3, 1, 2\)"),
    "mask shape": (OK, {"mask": np.ones(32)}, r"mask: shape \(32,\); allowed \(24,\) or \(32, 24\)"),
    "mask zero": (OK, {"mask": np.zeros(24)}, "mask: all zero, so nothing was measured"),
    "large image": (OK, {"ismrmrd_header": header(rec=(64, 24))}, "64x24, is larger than the measured"),
    "negative": (OK, {"ismrmrd_header": header(rec=(-16, 24))}, "reconSpace/matrixSize/x is -16; allowed"),
    "absurd": (OK, {"ismrmrd_header": header(enc=(32, 10**9))}, "matrixSize/y is 1000000000; allowed"),
    "fov nan": (OK, {"ismrmrd_header": header(rec_fov=("nan", 1, 1))}, "fieldOfView_mm/x is nan; allowed"),
    "limits": (OK, {"ismrmrd_header": header(last=40)}, "say columns 0 to 40; allowed 0 to 23"),
    "no XML": (OK, {"ismrmrd_header": b"<a"}, "ismrmrd_header: no valid XML"),
    "no numbers": (OK, {"ismrmrd_header": b"<a/>"}, "reconSpace/matrixSize/x is None; allowed"),
    "entities": (OK, {"ismrmrd_header": b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}, "with a DOCTYPE"),
}


@pytest.mark.parametrize("case", BAD_FASTMRI)
def test_fastmri_refuses(tmp_path, case):
    kspace, datasets, message = BAD_FASTMRI[case]
    files = write(tmp_path / "v.h5", kspace, **datasets)
    for call in (fastmri.inspect, lambda files: fastmri.load(files, [0])):
        with pytest.raises(ReadError, match=message) as caught:
            call(files)
        assert str(files[0]) in str(caught.value)


def test_fastmri_refuses_files_that_are_no_hdf5_or_cut_off(folders, tmp_path):
    whole = (folders["fastmri"] / "multi.h5").read_bytes()
    for content in (b"", b"no HDF5 at all", whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "v.h5").write_bytes(content)
        with pytest.raises(ReadError, match=r"v\.h5: cannot be read \(OSError.*copy or download it again"):
            fastmri.inspect([tmp_path / "v.h5"])


def test_fastmri_refuses_a_shape_larger_than_the_file(tmp_path):
    """A damaged header made HDF5 reserve gigabytes of fill values for a file of 8 kB, and take ten seconds."""
    with h5py.File(tmp_path / "v.h5", "w") as h:
        h.create_dataset("kspace", (50, 16, 640, 640), np.complex64, chunks=(1, 1, 640, 640))
    with pytest.raises(ReadError, match=r"shape \(50, 16, 640, 640\) does not fit into \d+ bytes"):
        fastmri.inspect([tmp_path / "v.h5"])


def test_fastmri_counts_zero_padding_as_fastmri_does(tmp_path):
    """padding_left = encoded // 2 - centre, padding_right = padding_left + maximum + 1 (fastMRI's mri_data.py)."""
    files = write(tmp_path / "v.h5", noise(1, 4, 32, 24), ismrmrd_header=header(last=16, centre=9))
    scan = fastmri.load(files, [0])
    assert np.flatnonzero(scan.acquired).tolist() == list(range(3, 20))
    assert scan.warnings == ["v.h5: samples outside the header are not zero; they will not be used"]
    assert scan.recon_shape == (16, 24) and scan.voxel == (2, 2, 5)


def test_fastmri_accepts_limits_that_round_differently(tmp_path):
    scan = fastmri.load(write(tmp_path / "v.h5", noise(1, 2, 33, 23), ismrmrd_header=header((33, 23), last=23)), [0])
    assert scan.acquired is None or scan.acquired.sum() == 23
    assert any("were cut to 0 to 22" in w for w in scan.warnings)


def test_fastmri_without_header_takes_the_size_of_the_reference_or_guesses(tmp_path):
    reference = np.ones((1, 20, 18), np.float32)
    for key in ("reconstruction_rss", "reconstruction_esc"):
        scan = fastmri.load(write(tmp_path / "v.h5", noise(1, 2, 41, 23), **{key: reference}), [0])
        assert scan.recon_shape == (20, 18) and "voxel size unknown" in scan.warnings[0]
    guessed = fastmri.load(write(tmp_path / "v.h5", noise(1, 2, 40, 23)), [0])
    assert guessed.recon_shape == (20, 23) and "is a guess" in guessed.warnings[0]
    assert fastmri.load(write(tmp_path / "v.h5", noise(1, 2, 30, 23)), [0]).recon_shape == (30, 23)


def test_fastmri_fewer_columns_than_the_delivered_image(tmp_path):
    """Some of fastMRI's FLAIR volumes have 203 columns and a 320x320 image; its own code cuts the image to 203x203."""
    xml = header((64, 20), (32, 32), last=19, centre=10)
    files = write(tmp_path / "v.h5", noise(1, 2, 64, 20), ismrmrd_header=xml)
    scan = fastmri.load(files, [0])
    assert scan.recon_shape == (20, 20) and "is cut to those" in scan.warnings[0]


@pytest.mark.parametrize("shape", [(24,), (32, 24)])
def test_fastmri_prospective_mask(tmp_path, shape):
    mask = np.random.default_rng(0).random(shape) < 0.4
    kspace = noise(1, 4, 32, 24)
    scan = fastmri.load(write(tmp_path / "v.h5", kspace * mask, mask=mask.astype(np.float32)), [0])
    np.testing.assert_array_equal(scan.mask, mask)
    assert not any("not zero" in w for w in scan.warnings)
    scan = fastmri.load(write(tmp_path / "v.h5", kspace, mask=mask), [0])
    assert any("outside `mask` are not zero" in w for w in scan.warnings)


def test_fastmri_single_coil_and_double_precision(tmp_path):
    kspace = noise(2, 32, 24)
    scan = fastmri.load(write(tmp_path / "v.h5", kspace.astype(np.complex128)), [1, 0])
    np.testing.assert_array_equal(scan.data, kspace[::-1, None])
    assert scan.slices == [1, 0] and scan.data.dtype == np.complex64


def test_fastmri_keeps_no_person(tmp_path):
    secret = "<subjectInformation><patientName>DOE^JANE</patientName></subjectInformation>"
    files = write(tmp_path / "v.h5", noise(1, 2, 32, 24), ismrmrd_header=header(more=secret))
    with h5py.File(files[0], "a") as h:
        h.attrs["patient_id"] = "DOE^JANE"
    assert "DOE" not in repr(fastmri.load(files, [0])) + repr(fastmri.inspect(files))


# ---------------------------------------------------------------- raw ISMRMRD


def write_raw(file, data, xml=None, change=None, steps=None):
    """A raw file of known samples; `change(line, slice, step)` edits a readout."""
    import ismrmrd as package

    if xml is None:
        xml = header(enc=data.shape[2:], rec=data.shape[2:], fov=(64, 48, 5), rec_fov=(64, 48, 5))
    with package.Dataset(file, "dataset", mode="w") as dataset:
        dataset.write_xml_header(xml)
        for s in range(len(data)):
            for step in range(data.shape[3]) if steps is None else steps:
                line = package.Acquisition.from_array(np.ascontiguousarray(data[s, :, :, step]))
                line.idx.slice, line.idx.kspace_encode_step_1, line.center_sample = s, step, data.shape[2] // 2
                line.position[:] = 1, 2, 3 + 4 * s
                line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = (0, 1, 0), (1, 0, 0), (0, 0, 1)
                if change is not None:
                    change(line, s, step)
                dataset.append_acquisition(line)
    return [file]


def test_ismrmrd_sorts_averages_and_skips(tmp_path):
    import ismrmrd as package

    data, file = noise(2, 4, 32, 24), tmp_path / "v.h5"
    order = np.random.default_rng(0).permutation(24)
    files = write_raw(file, data, steps=order)
    with package.Dataset(file, "dataset", mode="a") as dataset:
        for value, flag in ((3.0, None), (9.0, package.ACQ_IS_NOISE_MEASUREMENT), (9.0, package.ACQ_IS_NAVIGATION_DATA),
                            (9.0, package.ACQ_IS_PARALLEL_CALIBRATION)):  # fmt: skip
            line = package.Acquisition.from_array(np.full((4, 32), value, np.complex64))
            line.idx.slice, line.idx.kspace_encode_step_1, line.center_sample = 1, 5, 16
            if flag:
                line.set_flag(flag)
            dataset.append_acquisition(line)
    scan = ismrmrd.load(files, [0, 1])
    expected = data.copy()
    expected[1, :, :, 5] = (expected[1, :, :, 5] + 3) / 2
    np.testing.assert_allclose(scan.data, expected, atol=1e-6)
    assert scan.mask is None and scan.acquired is None
    assert scan.warnings == ["v.h5: readouts for calibration alone were left out"]


def test_ismrmrd_missing_lines_are_a_mask_and_positions_order_the_slices(tmp_path):
    data = noise(2, 4, 32, 24)
    steps = [0, 3, 6, 9, 10, 11, 12, 13, 15, 18, 21]

    def upside_down(line, s, step):
        line.position[2] = 10 - 4 * s

    scan = ismrmrd.load(write_raw(tmp_path / "v.h5", data, change=upside_down, steps=steps), [0, 1])
    assert np.flatnonzero(scan.mask).tolist() == steps
    np.testing.assert_array_equal(scan.data, data[::-1] * scan.mask)
    # (1, 2, 6), left-posterior-superior, is the centre of the lower slice: index (24 // 2, 32 // 2) of the image.
    np.testing.assert_allclose(scan.affine @ (12, 16, 0, 1), (-1, -2, 6, 1))
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag([-2.0, -2.0, 4.0]))


def test_ismrmrd_takes_the_first_of_several_repetitions(tmp_path):
    def repeat(line, s, step):
        line.idx.repetition = s
        line.idx.slice = 0

    data = noise(2, 4, 32, 24)
    scan = ismrmrd.load(write_raw(tmp_path / "v.h5", data, change=repeat), [0])
    np.testing.assert_array_equal(scan.data, data[:1])
    assert scan.warnings == ["v.h5: repetition: 2 are stored; only the first is used"]


def three_d(line, s, step):
    line.idx.kspace_encode_step_2 = s


def both_ways(line, s, step):
    import ismrmrd as package

    line.set_flag(package.ACQ_IS_REVERSE)


def only_noise(line, s, step):
    import ismrmrd as package

    line.set_flag(package.ACQ_IS_NOISE_MEASUREMENT)


def far_away(line, s, step):
    line.idx.kspace_encode_step_1 = 200


@pytest.mark.parametrize(
    ("change", "edit", "message"),
    [
        (three_d, None, r"a 3-D scan \(kspace_encode_step_2 > 0\); allowed 2-D slices"),
        (both_ways, None, r"both directions \(EPI\)"),
        (only_noise, None, "holds no readout of an image among 48"),
        (far_away, None, "kspace_encode_step_1: 200 to 200; allowed 0 to 23"),
        (None, (b"cartesian", b"radial"), "trajectory is radial; allowed cartesian"),
        (None, (b"<z>1</z>", b"<z>8</z>"), r"a 3-D scan \(encodedSpace z = 8\)"),
        (None, (b"<x>32</x>", b"<x>-3</x>"), "matrixSize/x is -3; allowed 1 to"),
        (None, (b"<x>32</x>", b"<x>20</x>"), "32 samples; allowed 1 channel or more, 1 to 20 samples"),
        (None, (b"<encoding>", b"<encodin>"), "xml: not valid"),
    ],
)
def test_ismrmrd_refuses(tmp_path, change, edit, message):
    xml = header(rec=(32, 24), rec_fov=(64, 48, 5))
    files = write_raw(tmp_path / "v.h5", noise(2, 4, 32, 24), xml.replace(*edit) if edit else xml, change)
    for call in (ismrmrd.inspect, lambda files: ismrmrd.load(files, [0])):
        with pytest.raises(ReadError, match=message):
            call(files)


def test_ismrmrd_refuses_other_hdf5_files_and_keeps_no_person(folders, tmp_path):
    with pytest.raises(ReadError, match=r"no group with `data` and `xml`, found \['ismrmrd_header', 'kspace'"):
        ismrmrd.inspect([folders["fastmri"] / "multi.h5"])
    secret = "<subjectInformation><patientName>DOE^JANE</patientName></subjectInformation>"
    files = write_raw(tmp_path / "v.h5", noise(1, 2, 32, 24), header(rec=(32, 24), rec_fov=(64, 48, 5), more=secret))
    assert "DOE" not in repr(ismrmrd.load(files, [0])) + repr(ismrmrd.inspect(files))


# ---------------------------------------------------------------- BART


def test_cfl_layout_is_bart_s(tmp_path):
    """`bart` writes the readout fastest; dimension 3 are coils, 13 slices."""
    data = noise(2, 3, 6, 4)
    dimensions = [6, 4, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1]
    flat = [data[s, c, r, p] for s in range(2) for c in range(3) for p in range(4) for r in range(6)]
    (tmp_path / "v.hdr").write_text("# Dimensions\n" + " ".join(map(str, dimensions)) + "\n")
    np.array(flat, "<c8").tofile(tmp_path / "v.cfl")
    np.testing.assert_array_equal(cfl.load([tmp_path / "v.hdr"], [0, 1]).data, data)


@pytest.mark.parametrize("one_dimensional", [True, False])
def test_cfl_zeros_are_a_mask(tmp_path, one_dimensional):
    mask = np.random.default_rng(3).random(24 if one_dimensional else (32, 24)) < 0.5
    cfl.write_cfl(tmp_path / "v", noise(2, 4, 32, 24) * mask)
    scan = cfl.load([tmp_path / "v.hdr"], [0, 1])
    np.testing.assert_array_equal(scan.mask, mask)
    assert cfl.inspect([tmp_path / "v.hdr"])["undersampled"]


def test_cfl_maps(tmp_path):
    maps, wrong = noise(1, 4, 32, 24), noise(1, 3, 32, 24)
    cfl.write_cfl(tmp_path / "v", noise(2, 4, 32, 24))
    cfl.write_cfl(tmp_path / "maps_v", maps)
    pattern = "maps_{volume}.cfl"
    volumes = cfl.list_volumes(tmp_path, maps=pattern)
    assert list(volumes) == ["v"]
    np.testing.assert_array_equal(cfl.load(volumes["v"], [0, 1], maps=pattern).maps, np.repeat(maps, 2, 0))
    cfl.write_cfl(tmp_path / "maps_v", wrong)
    with pytest.raises(ReadError, match=r"maps of .* \(1, 3, 32, 24\); allowed \(2, 4, 32, 24\)"):
        cfl.inspect(volumes["v"], maps=pattern)
    (tmp_path / "maps_v.hdr").write_text("# Dimensions\n32 24 1 4 2\n")
    with pytest.raises(ReadError, match="2 sets of maps in dimension 4; allowed one"):
        cfl.inspect(volumes["v"], maps=pattern)
    (tmp_path / "maps_v.cfl").unlink()
    with pytest.raises(ReadError, match=r"maps_v\.cfl: missing; a \.hdr and a \.cfl"):
        cfl.load(volumes["v"], [0], maps=pattern)


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ("32 24 1 four", "dimensions `32 24 1 four`; allowed up to 16 whole numbers"),
        ("32 -24 1 4", "allowed up to 16 whole numbers"),
        ("32 0 1 4", "allowed 1 to"),
        ("", "allowed up to 16 whole numbers"),
        ("32 24 4 4", "dimension 2 is 4, a 3-D scan"),
        ("32 24 1 4 1 6", r"dimensions \[5\] are used; allowed 0, 1, 3 and 13"),
        ("32 24 1 5", "24576 bytes; allowed 30720"),
        ("1 24 1 4", "768 bytes|24576 bytes; allowed 768"),
    ],
)
def test_cfl_refuses(tmp_path, dimensions, message):
    cfl.write_cfl(tmp_path / "v", noise(1, 4, 32, 24))
    (tmp_path / "v.hdr").write_text(f"# Dimensions\n{dimensions}\n")
    with pytest.raises(ReadError, match=message):
        cfl.inspect([tmp_path / "v.hdr"])


# ---------------------------------------------------------------- synthetic patients


def test_phantom_is_deterministic_and_patients_differ(folders, tmp_path):
    phantom.write("patient_001", tmp_path / "again.h5", **SMALL)
    first, second = (folders["phantom"] / f"patient_00{i}.h5" for i in (1, 2))
    assert (tmp_path / "again.h5").read_bytes() == first.read_bytes()
    a, b = (np.abs(to_image(fastmri.load([f], [0, 1]).data)).ravel() for f in (first, second))
    assert np.corrcoef(a, b)[0, 1] < 0.95
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.h5"]


def test_phantom_names_follow_the_seeds():
    assert phantom.names(patients=2, first_seed=9) == ["patient_009", "patient_010"]


def test_phantom_readout_crop_is_the_reference(folders):
    """The object lies within the field of view: cropping the readout loses nothing, and gives the stored reference."""
    file, n = folders["phantom"] / "patient_001.h5", SMALL["matrix"]
    scan = fastmri.load([file], [0, 1])
    image = to_image(scan.data)
    assert image.shape[2:] == (2 * n, n) and scan.recon_shape == (n, n)
    inside = image[:, :, n // 2 : n // 2 + n]
    with h5py.File(file) as h:
        reference = h["reconstruction_rss"][()]
        assert h.attrs["max"] == reference.max()
    np.testing.assert_allclose(np.sqrt(np.sum(np.abs(inside) ** 2, axis=1)), reference, rtol=1e-4, atol=1e-9)
    outside = np.concatenate([image[:, :, : n // 2 - 4], image[:, :, n // 2 + n + 4 :]], axis=2)
    assert np.abs(outside).std() < 0.02 * np.abs(inside).max()  # noise, and the ringing of a cut k-space
    assert scan.voxel == (220 / n, 220 / n, 5) and scan.acquired is None and scan.mask is None


def test_phantom_header_is_valid(folders):
    from ismrmrd import xsd

    with h5py.File(folders["phantom"] / "patient_001.h5") as h:
        encoding = xsd.CreateFromDocument(h["ismrmrd_header"][()]).encoding[0]
    assert (encoding.encodedSpace.matrixSize.x, encoding.reconSpace.matrixSize.x) == (96, 48)
    limits = encoding.encodingLimits.kspace_encoding_step_1
    assert (limits.minimum, limits.center, limits.maximum) == (0, 24, 47)


def test_phantom_noise_level():
    quiet, loud = (phantom.simulate(1, 0, 0, 1, 48, 6, noise) for noise in (0.0, 0.02))
    scale = np.percentile(np.sqrt(np.sum(np.abs(to_image(quiet)) ** 2, axis=1)), 99.5)
    per_coil = np.sqrt(np.mean(np.abs(loud - quiet) ** 2, axis=(0, 2, 3)))
    np.testing.assert_allclose(per_coil, 0.02 * scale, rtol=0.05)
    flat = (loud - quiet).transpose(1, 0, 2, 3).reshape(6, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(6)).max() > 0.1  # coils share noise


def edges(image):
    """Where the image changes, whatever the sign and the size of the change."""
    gy, gx = np.gradient(image)
    return np.sqrt(np.hypot(gy, gx)).ravel()


def test_phantom_contrasts_share_the_anatomy():
    t2, t1, flair = (phantom.Patient(1, c, 0).image(0.0, 192) for c in range(3))
    other = phantom.Patient(2, 0, 0).image(0.0, 192)
    for image in (t1, flair):
        same, different = (np.corrcoef(edges(a), edges(image))[0, 1] for a in (t2, other))
        assert same > 0.75 and same > different + 0.2
    brain = np.s_[50:142, 60:132]
    assert np.corrcoef(t2[brain].ravel(), t1[brain].ravel())[0, 1] < -0.5  # fluid is bright in one, dark in the other


def test_phantom_later_time_point_changes_lesions_alone():
    before, after = (phantom.Patient(1, 0, t).image(0.0, 192) for t in (0, 1))
    changed = np.abs(after - before) > 1e-3
    assert 0.001 < changed.mean() < 0.1


def test_phantom_slices_belong_together():
    patient = phantom.Patient(1, 0, 0)
    here, near, far = (patient.image(z, 192).ravel() for z in (0.0, 0.045, 0.35))
    assert 1 > np.corrcoef(here, near)[0, 1] > 0.85 > np.corrcoef(here, far)[0, 1]


def test_phantom_coils_tell_positions_apart():
    """Noise amplification of plain fourfold SENSE over the head; loops twice as large, further away, give 2.2."""
    n, factor = 64, 4
    receive = phantom.sensitivities(1, n, np.zeros(1), 12)
    maps = np.stack([receive(0, c) for c in range(12)])
    head, g = phantom.Patient(1, 0, 0).image(0.0, n) > 0.03, []
    for row in range(8, 56, 2):
        for first in range(n // factor):
            folded = [c for c in range(first, n, n // factor) if head[row, c]]
            gram = maps[:, row, folded].conj().T @ maps[:, row, folded]
            g += list(np.sqrt(np.real(np.diag(np.linalg.inv(gram)) * np.diag(gram))))
    assert len(g) > 500 and 1 < np.mean(g) < 1.8


def test_phantom_is_fast_enough():
    """A patient of 3 slices of 128 takes 1.3 s on one core; the limit leaves room for a busy machine."""
    start = time.process_time()
    phantom.simulate(3, 0, 0, 3, 128, 12, 0.007)
    assert time.process_time() - start < 8


# ---------------------------------------------------------------- real files, damaged files


@pytest.mark.skipif(not REAL.is_dir(), reason="no real scans beside the repository")
def test_real_scans_load_and_match_their_references():
    volumes = fastmri.list_volumes(REAL)
    assert len(volumes) >= 8
    for name, files in volumes.items():
        said = fastmri.inspect(files)
        scan = fastmri.load(files, list(range(said["slices"])))
        assert scan.warnings == [], name
        with h5py.File(files[0]) as h:
            reference = next((h[k][()] for k in h if k.startswith("reconstruction")), None)
        if reference is not None:
            image = np.sqrt(np.sum(np.abs(to_image(scan.data)) ** 2, axis=1))
            rows, columns = scan.recon_shape
            top, left = (image.shape[1] - rows) // 2, (image.shape[2] - columns) // 2
            image = image[:, top : top + rows, left : left + columns]
            assert np.linalg.norm(image - reference) < 1e-5 * np.linalg.norm(reference), name


def mutate(content, rng):
    """Flipped bits, noise, a cut, a repeated piece or a blanked piece; half of them where HDF5 keeps its structure."""
    content, kind = bytearray(content), rng.randrange(5)
    for _ in range(rng.choice((1, 1, 3, 10))):
        if not content:
            break
        at = rng.randrange(len(content) if rng.random() < 0.5 else min(len(content), 4096))
        n = min(rng.choice((1, 2, 4, 8, 64, 512)), len(content) - at)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at : at + n] = rng.randbytes(n)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            content[at:at] = content[at : at + n]
        else:
            content[at : at + n] = rng.choice((b"\0", b"\xff")) * n
    return bytes(content)


def read_mutants(name, folder, start, count, at, loaded, strange):
    """Worker: read mutants start..count of a reader's volumes, telling in `at` which one is being read."""
    reader, folder = importlib.import_module(f"dipline.readers.{name}"), Path(folder)
    whole = {f: f.read_bytes() for f in sorted(folder.iterdir())}
    for k in range(start, count):
        at.value, rng = k, random.Random(f"{name}-{k}")
        file = rng.choice(list(whole))
        file.write_bytes(mutate(whole[file], rng))
        files = [file.with_suffix(".hdr" if name == "cfl" else ".h5")]
        try:
            said = reader.inspect(files)
            reader.load(files, list(range(min(said["slices"], 2))))
            loaded.value += 1
        except ReadError:
            pass
        except Exception as problem:
            strange.put(f"{name} {k}: {type(problem).__name__}: {problem}")
        file.write_bytes(whole[file])
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
    if int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) > 1_000_000:
        strange.put(f"{name}: took more than 1 GB")
    at.value = count


@pytest.mark.parametrize(("name", "count"), [("fastmri", 4000), ("ismrmrd", 3000), ("cfl", 3000)])
def test_readers_survive_10000_mutated_files(tmp_path, name, count):
    """10,000 damaged files in all: each loads or is refused with a ReadError; no crash, no hang, no gigabytes."""
    importlib.import_module(f"dipline.readers.{name}").fake(tmp_path)
    whole = {f: f.read_bytes() for f in tmp_path.iterdir()}
    context = multiprocessing.get_context("spawn")
    at, loaded, strange, problems = context.Value("l", 0), context.Value("l", 0), context.SimpleQueue(), []
    while at.value < count and len(problems) < 5:
        worker = context.Process(target=read_mutants, args=(name, tmp_path, at.value, count, at, loaded, strange))
        worker.start()
        seen, since = -1, time.monotonic()
        while worker.is_alive() and time.monotonic() - since < 20:
            worker.join(0.2)
            if at.value != seen:
                seen, since = at.value, time.monotonic()
        hangs = worker.is_alive()
        if hangs:
            worker.kill()
            worker.join()
        if at.value < count:
            problems.append(f"{name} {at.value}: {'hangs' if hangs else f'died with {worker.exitcode}'}")
            at.value += 1
            for file, content in whole.items():
                file.write_bytes(content)
    while not strange.empty():
        problems.append(strange.get())
    assert problems == []
    assert 0.1 * count < loaded.value < 0.6 * count  # the damage is neither harmless nor always fatal
