"""BART's pairs of files: ``volume.hdr`` (dimensions as text) and ``volume.cfl`` (complex64, first dimension fastest).

Dimensions of k-space as BART numbers them: 0 readout, 1 phase encode, 2 must be 1, 3 coils, 13 slices; all others must
be 1. Samples that are zero in every coil were not measured: ``Scan.mask``, reduced to (phase encode,) where it does not
change along the readout; zero padding at the edges therefore counts as undersampling. k-space is centred.

``maps`` names a pair with the coil sensitivities of each volume, for example ``maps_{volume}.cfl``, in the volume's
folder: the same dimensions, or one slice for all. Only one set of maps (dimension 4) is supported. The format has no
voxel size, no position and no oversampling: 1 mm, axes as in an axial scan, and the whole field of view are taken.
"""

import os
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dipline.readers.base import ReadError, Scan

MODALITY = "mri"
PARAMETERS = {"maps": ""}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LARGEST = 100_000  # samples along an axis
READOUT, PHASE, PHASE2, COILS, SETS, SLICES = 0, 1, 2, 3, 4, 13


def list_volumes(path, maps=""):
    """{name: [files]} of a folder (with its subfolders) or of one file; maps are no volumes."""
    path = Path(path)
    if path.is_file():
        return {path.stem: [path.with_suffix(".hdr")]}
    if not path.is_dir():
        raise ReadError(f"{path}: no such file or folder; correct the dataset's `path` in the study file")
    files = [p for p in sorted(path.rglob("*.hdr")) if p.is_file() and not p.name.startswith(".")]
    aside = {_maps_file(file, maps) for file in files} if maps else set()
    found = {}
    for file in files:
        if file not in aside:
            found.setdefault(file.stem, []).append(file)
    if not found:
        raise ReadError(f"{path}: holds no .hdr file with a .cfl beside it; correct the dataset's `path`")
    return found


def inspect(files, maps=""):
    """Shape of a volume. Which samples were measured is in the data alone, so those of the first slice are read."""
    file = _only(files)
    with _reading(file):
        slices, coils, readout, phase = shape = _shape(file)
        if maps:
            _check_maps(_maps_file(file, maps), shape)
        _check_memory(file, 8 * coils * readout * phase)
        complete = _open(file)[0].any(axis=0).all()
    return {
        "slices": slices,
        "shape": [coils, readout, phase],
        "recon_shape": [readout, phase],
        "undersampled": not complete,
        "bytes": 8 * slices * coils * readout * phase,
        "warnings": [],
    }


def load(files, slices, maps=""):
    """The chosen slices as a Scan."""
    file, sensitivities, warnings = _only(files), None, []
    with _reading(file):
        count, coils, readout, phase = shape = _shape(file)
        _check_slices(file, slices, count)
        _check_memory(file, 8 * len(slices) * coils * readout * phase * (2 if maps else 1))
        stored = _open(file)
        data = np.array([stored[s] for s in slices], np.complex64)
        for s, block in zip(slices, data, strict=True):
            _check_values(file, block, s)
        measured = data.any(axis=1)
        mask = measured.all(axis=0)
        if (measured != mask).any():
            warnings.append(f"{file.name}: the slices measured different samples; only those common to all are used")
            data = data * mask
        if maps:
            other = _maps_file(file, maps)
            _check_maps(other, shape)
            stored = _open(other)
            sensitivities = np.array([stored[s if len(stored) > 1 else 0] for s in slices], np.complex64)
            if not np.isfinite(sensitivities).all() or not sensitivities.any():
                raise ReadError(f"{other}: NaN, Inf or zeros alone; allowed finite numbers; estimate the maps again")
    if not mask.any():
        raise ReadError(f"{file}: no sample was measured in every slice; choose other slices")
    if mask.all():
        mask = None
    elif (mask == mask[0]).all():
        mask = mask[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = (phase - 1) / 2, (readout - 1) / 2, -(count - 1) / 2
    warnings.append(f"{file.name}: the format has no voxel size; 1 mm is assumed")
    geometry = {"recon_shape": (readout, phase), "affine": affine}
    return Scan(MODALITY, data, list(slices), mask=mask, maps=sensitivities, warnings=warnings, **geometry)


def write_cfl(file, kspace):
    """Write (slices, coils, readout, phase encode) as the pair `file`.hdr, `file`.cfl."""
    file, kspace = Path(file), np.asarray(kspace, np.complex64)
    dimensions = [kspace.shape[2], kspace.shape[3], 1, kspace.shape[1], *[1] * 9, kspace.shape[0], 1, 1]
    file.with_suffix(".cfl").write_bytes(kspace.transpose(2, 3, 1, 0).tobytes(order="F"))
    file.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dimensions)) + "\n")


def fake(folder):
    """Two tiny volumes: complete, of two slices; undersampled, of one."""
    folder, rng = Path(folder), np.random.default_rng(0)
    data = rng.standard_normal((2, 4, 32, 24, 2)).astype(np.float32).view(np.complex64)[..., 0]
    write_cfl(folder / "full", data)
    write_cfl(folder / "under", data[:1] * (np.arange(24) % 3 == 0))


def _shape(file):
    """(slices, coils, readout, phase encode) of a pair, whose size must agree."""
    cfl = file.with_suffix(".cfl")
    if not file.is_file() or not cfl.is_file():
        missing = file if not file.is_file() else cfl
        raise ReadError(f"{missing}: missing; a .hdr and a .cfl of one name belong together; copy it there")
    text = file.read_bytes()[:10_000].decode(errors="replace").splitlines()
    rows = [line for line in text if line.strip() and not line.startswith("#")]
    words = rows[0].split() if rows else []
    if not 1 <= len(words) <= 16 or not all(re.fullmatch(r"[0-9]{1,9}", w) for w in words):
        raise ReadError(f"{file}: dimensions `{' '.join(words)[:80]}`; allowed up to 16 whole numbers; write it again")
    n = [int(w) for w in words] + [1] * (16 - len(words))
    if min(n) < 1 or max(n) > LARGEST:
        raise ReadError(f"{file}: dimensions {n}; allowed 1 to {LARGEST}; write the pair again")
    if n[SETS] > 1:
        raise ReadError(f"{file}: {n[SETS]} sets of maps in dimension 4; allowed one; use `bart slice`")
    if n[PHASE2] > 1:
        raise ReadError(f"{file}: dimension 2 is {n[PHASE2]}, a 3-D scan; allowed 1; store planes in dimension 13")
    others = [i for i, size in enumerate(n) if size > 1 and i not in (READOUT, PHASE, COILS, SLICES)]
    if others:
        raise ReadError(f"{file}: dimensions {others} are used; allowed 0, 1, 3 and 13; use `bart slice`")
    needed = 8 * n[READOUT] * n[PHASE] * n[COILS] * n[SLICES]
    if cfl.stat().st_size != needed:
        raise ReadError(f"{cfl}: {cfl.stat().st_size} bytes; allowed {needed}, as the .hdr says; copy it again")
    if min(n[READOUT], n[PHASE]) < 2:
        raise ReadError(f"{file}: {n[READOUT]} x {n[PHASE]} samples; allowed 2 or more along both; correct them")
    return n[SLICES], n[COILS], n[READOUT], n[PHASE]


def _open(file):
    """The data as (slices, coils, readout, phase encode), read where it is used."""
    slices, coils, readout, phase = _shape(file)
    data = np.memmap(file.with_suffix(".cfl"), np.dtype("<c8"), "r", shape=(slices, coils, phase, readout))
    return data.transpose(0, 1, 3, 2)


def _maps_file(file, pattern):
    """The .hdr of the maps that belong to a volume."""
    name = pattern.replace("{volume}", file.stem)
    return file.parent / (name.removesuffix(".cfl").removesuffix(".hdr") + ".hdr")


def _check_maps(file, shape):
    found = _shape(file)
    if found[1:] != shape[1:] or found[0] not in (1, shape[0]):
        raise ReadError(
            f"{file}: maps of (slices, coils, readout, phase encode) {found}; allowed {shape}, as k-space has; "
            "estimate them again"
        )


def _only(files):
    """The volume's one file; refuses two files of one name, and names that a shell or a path could misread."""
    first = Path(files[0])
    if len(files) > 1:
        both = " and ".join(map(str, files))
        raise ReadError(f"{both}: two files of one name `{first.stem}`; allowed one; rename or move the other")
    if not NAME.fullmatch(first.stem):
        allowed = "letters, digits and . _ -, the first a letter or digit"
        raise ReadError(f"{first}: name `{first.stem}`; allowed {allowed}; rename the file")
    return first


@contextmanager
def _reading(file):
    """Whatever goes wrong inside becomes a ReadError that names the file."""
    try:
        yield
    except ReadError:
        raise
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        fault = f"{type(problem).__name__}: {text}"
        raise ReadError(f"{file}: cannot be read ({fault}); copy or download it again") from problem


def _check_slices(file, slices, count):
    wrong = [s for s in slices if not 0 <= s < count]
    if wrong or not slices:
        raise ReadError(f"{file}: slices {wrong or 'none'} chosen; allowed 0 to {count - 1}; correct `slices`")


def _check_memory(file, needed):
    """Refuse what this machine cannot hold, before reading it."""
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.9 * present:
        raise ReadError(
            f"{file}: the chosen slices need {needed / 1e9:.1f} GB, this machine has {present / 1e9:.1f} GB; "
            "choose fewer slices"
        )


def _check_values(file, data, s):
    """Refuse a slice (coils, readout, phase) that holds NaN or Inf, or nothing at all, or a dead coil."""
    for coil, plane in enumerate(data):
        if not np.isfinite(plane).all():
            kind = "NaN" if np.isnan(plane).any() else "Inf"
            raise ReadError(f"{file}: {kind} in slice {s}, coil {coil}; allowed finite numbers; leave out that slice")
    empty = ~data.any(axis=(1, 2))
    if empty.all():
        raise ReadError(f"{file}: slice {s} is all zero; leave it out with `slices`")
    if empty.any():
        raise ReadError(f"{file}: slice {s}: coil {np.flatnonzero(empty).tolist()} is all zero; remove that coil")
