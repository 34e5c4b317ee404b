"""What every reader returns: a scan, or a clear error.

A reader is one file in this folder with

- ``MODALITY``: the kind of data, a literal (``"mri"``, ``"ct"`` or ``"image"``);
- ``PARAMETERS``: its options with their defaults, a literal dict;
- ``PERSONAL_PATHS``, where its files may be named after a person: the endings that their other names may have;
- ``list_volumes(path, **params) -> {name: [files]}``: what lies in a folder, by names alone;
- ``inspect(files, **params) -> dict``: shape and number of slices from the headers, without reading the data;
- ``load(files, slices, **params) -> Scan``: the data of the chosen slices;
- ``fake(folder)``: a few tiny volumes in the true format, for the tests.

Readers import no torch: a login node lists scans with them. The steps that they share are the functions below.
"""

import math
import os
import re
import resource
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LARGEST = 100_000  # samples along an axis
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ReadError(ValueError):
    """A scan cannot be used; the message names the file, what was found, what is allowed and the next step."""


@dataclass
class Scan:
    """One volume in memory.

    Attributes:
        modality: ``"mri"``, ``"ct"`` or ``"image"``.
        data: MRI: centred k-space, complex64 (slices, coils, readout, phase encode).
            CT: HU, float32 (slices, rows, columns).
        slices: index in the file of every slice held here.
        recon_shape: (rows, columns) of the image that the scanner delivers; scores look at this centre crop.
        acquired: bool (phase encode,): columns that were measured at all (False: zero padding). None: every column.
        mask: bool (phase encode,) or (readout, phase encode): the samples of a prospectively undersampled scan.
            None: complete.
        maps: coil sensitivities that came with the scan, complex64 (slices, coils, readout, phase encode), or None.
        affine: 4x4, voxel index (column, row, slice) of the delivered image to RAS millimetres, as NIfTI has it.
        voxel: voxel size in mm, in the order (column, row, slice).
        meta: what else the tables or pictures may show; never anything that identifies a person.
        warnings: what was unusual but accepted; shown in the report.
    """

    modality: str
    data: np.ndarray
    slices: list[int]
    recon_shape: tuple[int, int]
    acquired: np.ndarray | None = None
    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)
    meta: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def find_volumes(path, ending, advice, companion=None):
    """{name: [files]} of a folder (with its subfolders) or of one file. Two files of one name are told by `reading`.

    ``companion(file)`` names the file that belongs to a volume and is none itself; ``advice`` is for an empty folder.
    """
    path = Path(path)
    if path.is_file():
        return {path.stem: [path]}
    if not path.is_dir():
        raise ReadError(f"{path}: no such file or folder; correct the dataset's `path` in the study file")
    files = [p for p in sorted(path.rglob("*" + ending)) if p.is_file() and not p.name.startswith(".")]
    aside = {companion(file) for file in files} if companion else set()
    found = {}
    for file in files:
        if file not in aside:
            found.setdefault(file.stem, []).append(file)
    if not found:
        raise ReadError(f"{path}: holds no {ending} file{advice}")
    return found


@contextmanager
def reading(files):
    """The volume's one file. Whatever goes wrong inside becomes a ReadError that names it.

    Refuses two files of one name, and names that a shell or a path could misread.
    """
    file = Path(files[0])
    if len(files) > 1:
        both = " and ".join(map(str, files))
        raise ReadError(f"{both}: two files of one name `{file.stem}`; allowed one; rename or move the other")
    if not NAME.fullmatch(file.stem):
        allowed = "letters, digits and . _ -, the first a letter or digit"
        raise ReadError(f"{file}: name `{file.stem}`; allowed {allowed}; rename the file")
    try:
        yield file
    except ReadError:
        raise
    except Exception as problem:
        fault = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        raise ReadError(f"{file}: cannot be read ({fault}); copy or download it again") from problem


def summary(shape, recon_shape, undersampled, warnings):
    """What `inspect` tells of k-space (slices, coils, readout, phase encode)."""
    return {
        "slices": shape[0],
        "shape": list(shape[1:]),
        "recon_shape": list(recon_shape),
        "undersampled": undersampled,
        "bytes": 8 * math.prod(shape),
        "warnings": warnings,
    }


def check_choice(file, slices, shape, copies=1):
    """Refuse slices that are not in k-space of that shape, and more of them than this job may hold in memory."""
    count, *rest = shape
    wrong = [s for s in slices if not 0 <= s < count]
    if wrong or not slices:
        raise ReadError(f"{file}: slices {wrong or 'none'} chosen; allowed 0 to {count - 1}; correct `slices`")
    needed = 8 * len(slices) * math.prod(rest) * copies
    present, who = memory()
    if needed > 0.9 * present:
        raise ReadError(
            f"{file}: the chosen slices need {needed / 1e9:.1f} GB, {who} {present / 1e9:.1f} GB; "
            "choose fewer slices or ask for more memory"
        )


def memory(root=Path("/")):
    """(bytes that this job may use, whose limit that is): the smallest of what machine, control groups, shell and Slurm allow."""
    found = [(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine has")]
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        found.append((soft, "ulimit -v allows"))
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdecimal() and int(slurm):  # 0: all of the node
        found.append((int(slurm) * 2**20, "Slurm (SLURM_MEM_PER_NODE) allows"))
    found += [(limit, "the control group (memory limit of the job or container) allows") for limit in _group_limits(root)]
    return min(found)


def _group_limits(root):
    """Bytes that the control groups of this process allow, version 1 and 2, those of the groups above included."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", "0:memory:/", *lines]:  # inside a container the own group is mounted as the topmost
        _, kind, path = line.split(":", 2)
        if kind and "memory" not in kind.split(","):
            continue
        top, name = ("", "memory.max") if not kind else ("memory", "memory.limit_in_bytes")
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such file; "max"
                yield int((root / "sys/fs/cgroup" / top / folder / name).read_text())


def check_values(file, data, s):
    """Refuse a slice (coils, readout, phase encode) that holds NaN or Inf, or nothing at all, or a dead coil."""
    for coil, plane in enumerate(data):
        if not np.isfinite(plane).all():
            kind = "NaN" if np.isnan(plane).any() else "Inf"
            raise ReadError(f"{file}: {kind} in slice {s}, coil {coil}; allowed finite numbers; leave out that slice")
    empty = ~data.any(axis=(1, 2))
    if empty.all():
        raise ReadError(f"{file}: slice {s} is all zero; leave it out with `slices`")
    if empty.any():
        raise ReadError(f"{file}: slice {s}: coil {np.flatnonzero(empty).tolist()} is all zero; remove that coil")


def noise(rng, *shape):
    """Complex noise for `fake`, complex64."""
    return rng.standard_normal((*shape, 2)).astype(np.float32).view(np.complex64)[..., 0]


# ---------------------------------------------------------------- CT: (slices, rows, columns) in HU


def volume_summary(shape, voxel, warnings):
    """What `inspect` tells of a CT volume (slices, rows, columns); ``voxel`` is (column, row, slice) in mm."""
    count, *size = (int(n) for n in shape)
    kind = {"shape": [1, *size], "recon_shape": size, "undersampled": False, "voxel": [float(v) for v in voxel]}
    return {"slices": count, **kind, "bytes": 4 * math.prod(shape), "warnings": warnings}


def check_square(where, across, down):
    """Refuse pixels whose sides (mm, along a row and along a column) differ by more than one part in a thousand."""
    if abs(across - down) > 1e-3 * max(across, down):
        raise ReadError(
            f"{where}: pixels of {across:.4g} x {down:.4g} mm; allowed square ones; resample the images to square "
            "pixels first"
        )


def fill_padding(hu, padding, where):
    """Turn padding into air, in place, and say how much it was; `hu` and the bool `padding` (slices, rows, columns).

    Beside what the file declares as `padding`: below -1024 HU outside the scan circle (the largest that fits into the
    image), and -1500 or less anywhere. Values between, within the circle, are the noise of air, and stay.
    """
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in hu.shape[1:])
    outside = np.hypot(rows[:, None], columns) > min(hu.shape[1:]) / 2
    padding |= (hu <= -1500) | ((hu < -1024) & outside)
    hu[padding] = -1000
    share = padding.mean()
    return [f"{where}: {share:.2%} of the pixels were padding (no matter) and are set to -1000 HU"] if share else []


def check_hounsfield(where, images, stated=""):
    """Refuse a volume whose values can be no HU: nothing below -200 (air), or nothing from 5 upwards (fractions, air alone).

    The inside of a body alone, as of a spine zoomed in on, holds no air, but fat and noise below 0. It passes, with the
    warning that is returned in a list, where the header has ``stated`` (words) that the values are HU.

    ``images``: arrays, one at a time, until both were seen; padding (-1500 or less) and NaN say nothing.
    """
    low, high = np.inf, -np.inf
    for image in images:
        values = image[np.isfinite(image) & (image > -1500)]
        if values.size:
            low, high = min(low, values.min()), max(high, values.max())
        if low < -200 and high >= 5:
            return []
    if stated and low < 0 and high >= 5:
        return [f"{where.name}: nothing below -200 HU, so no air in it; the values from {low:.4g} to {high:.4g} are HU by {stated}"]
    if low <= high:
        raise ReadError(
            f"{where}: values from {low:.4g} to {high:.4g}: these are no Hounsfield units; allowed HU, with air near "
            "-1000; convert them (often by subtracting 1024), or, where nothing in view is air, take DICOM files with RescaleType HU"
        )
    return []


def check_slice(where, hu, s):
    """Refuse a slice that holds NaN or Inf, or one value alone."""
    if not np.isfinite(hu).all():
        kind = "NaN" if np.isnan(hu).any() else "Inf"
        raise ReadError(f"{where}: {kind} in slice {s}; allowed finite numbers; leave out that slice")
    if hu.min() == hu.max():
        raise ReadError(f"{where}: slice {s} is empty (all {hu.flat[0]:g} HU); leave it out with `slices`")
