"""BART's pairs of files: ``volume.hdr`` (dimensions as text) and ``volume.cfl`` (complex64, first dimension fastest).

Dimensions of k-space as BART numbers them: 0 readout, 1 phase encode, 2 must be 1, 3 coils, 13 slices; all others must
be 1. Samples that are zero in every coil were not measured: ``Scan.mask``, reduced to (phase encode,) where it does not
change along the readout; zero padding at the edges therefore counts as undersampling. k-space is centred.

``maps`` names a pair with the coil sensitivities of each volume, for example ``maps_{volume}.cfl``, in the volume's
folder: the same dimensions, or one slice for all. Only one set of maps (dimension 4) is supported. The format has no
voxel size, no position and no oversampling: 1 mm, axes as in an axial scan, and the whole field of view are taken.
"""

import re
from pathlib import Path

import numpy as np

from dipline.readers import base
from dipline.readers.base import ReadError, Scan

MODALITY = "mri"
PARAMETERS = {"maps": ""}

READOUT, PHASE, PHASE2, COILS, SETS, SLICES = 0, 1, 2, 3, 4, 13


def list_volumes(path, maps=""):
    """{name: [files]} of a folder (with its subfolders) or of one file; maps are no volumes."""
    path = Path(path)
    if path.is_file():
        return {path.stem: [path.with_suffix(".hdr")]}
    advice = " with a .cfl beside it; correct the dataset's `path`"
    return base.find_volumes(path, ".hdr", advice, companion=(lambda file: _maps_file(file, maps)) if maps else None)


def inspect(files, maps=""):
    """Shape of a volume. Which samples were measured is in the data alone, so those of the first slice are read."""
    with base.reading(files) as file:
        shape = _shape(file)
        if maps:
            _check_maps(_maps_file(file, maps), shape)
        base.check_choice(file, [0], shape)
        complete = _open(file)[0].any(axis=0).all()
    return base.summary(shape, shape[2:], not complete, [])


def load(files, slices, maps=""):
    """The chosen slices as a Scan."""
    sensitivities, warnings = None, []
    with base.reading(files) as file:
        count, _, readout, phase = shape = _shape(file)
        base.check_choice(file, slices, shape, copies=2 if maps else 1)
        stored = _open(file)
        data = np.array([stored[s] for s in slices], np.complex64)
        for s, block in zip(slices, data, strict=True):
            base.check_values(file, block, s)
        measured = data.any(axis=1)
        mask = measured.all(axis=0)
        if (measured != mask).any():
            warnings.append(f"{file.name}: the slices measured different samples; only those common to all are used")
            data = data * mask
        if maps:
            sensitivities = _read_maps(_maps_file(file, maps), shape, slices)
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


def read_maps(path):
    """Coil sensitivities (slices, coils, readout, phase encode) of a pair, named with or without its ending."""
    return _open(header(path))


def write_cfl(file, kspace):
    """Write (slices, coils, readout, phase encode) as the pair `file`.hdr, `file`.cfl."""
    file, kspace = Path(file), np.asarray(kspace, np.complex64)
    dimensions = [kspace.shape[2], kspace.shape[3], 1, kspace.shape[1], *[1] * 9, kspace.shape[0], 1, 1]
    file.with_suffix(".cfl").write_bytes(kspace.transpose(2, 3, 1, 0).tobytes(order="F"))
    file.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dimensions)) + "\n")


def fake(folder):
    """Two tiny volumes: complete, of two slices; undersampled, of one."""
    folder, rng = Path(folder), np.random.default_rng(0)
    data = base.noise(rng, 2, 4, 32, 24)
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
    if min(n) < 1 or max(n) > base.LARGEST:
        raise ReadError(f"{file}: dimensions {n}; allowed 1 to {base.LARGEST}; write the pair again")
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
    return header(file.parent / pattern.replace("{volume}", file.stem))


def header(path):
    """The .hdr of a pair, which may be named with either ending or none."""
    return Path(str(path).removesuffix(".cfl").removesuffix(".hdr") + ".hdr")


def _check_maps(file, shape):
    found = _shape(file)
    if found[1:] != shape[1:] or found[0] not in (1, shape[0]):
        raise ReadError(
            f"{file}: maps of (slices, coils, readout, phase encode) {found}; allowed {shape}, as k-space has; "
            "estimate them again"
        )


def _read_maps(file, shape, slices):
    """complex64 (slices, coils, readout, phase encode): the coil sensitivities of the chosen slices."""
    _check_maps(file, shape)
    stored = _open(file)
    maps = np.array([stored[s if len(stored) > 1 else 0] for s in slices], np.complex64)
    if not np.isfinite(maps).all() or not maps.any():
        raise ReadError(f"{file}: NaN, Inf or zeros alone; allowed finite numbers; estimate the maps again")
    return maps
