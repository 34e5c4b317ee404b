"""Which k-space samples are acquired: Cartesian columns, 2-D points, or a mask from a file.

The five column masks of `cartesian` equal those of fastMRI (Zbontar et al. 2018, arXiv:1811.08839) bit for bit for the
same seed. They draw from a local numpy RandomState: the legacy generator because fastMRI uses it, never the global one.

Masks are bool. One dimension (width,) means whole phase-encode columns; two, (readout, width), means single points.
"""

from pathlib import Path
from zipfile import BadZipFile

import h5py
import numpy as np

KINDS = ("random", "equispaced", "equispaced_fraction", "magic", "magic_fraction")
SUFFIXES = (".npy", ".npz", ".h5", ".csv", ".txt")


def seed_of(filename):
    """fastMRI's seed for a volume: the characters of its file name, so that a volume keeps its mask in every run."""
    return tuple(map(ord, filename))


def drawn(kind, shape, acceleration, center_fraction, seed, offset=None):
    """The mask that an acquisition of a study asks for on k-space of shape (readout, width).

    center_fraction: None: 0.32 / acceleration, fastMRI's. seed: an int or a tuple as from `seed_of`.
    """
    fraction = 0.32 / acceleration if center_fraction is None else center_fraction
    if kind == "poisson":
        return poisson(shape, acceleration, calibration(shape, fraction), seed)
    if kind.startswith("gaussian"):
        return gaussian(shape if kind == "gaussian_2d" else shape[1], acceleration, fraction, seed)
    return cartesian(kind, shape[1], acceleration, fraction, seed, offset)[0]


def calibration(shape, fraction):
    """[rows, columns] of the full centre of a Poisson-disc mask."""
    return [max(4, round(n * fraction)) for n in shape]


def cartesian(kind, width, acceleration, center_fraction, seed, offset=None, any_combination=False):
    """Column mask (width,) and its number of fully sampled centre columns.

    acceleration, center_fraction: a number each, or lists of which a pair is drawn (from all pairs if any_combination).
    seed: an int, a tuple as from `seed_of`, or a RandomState, which is then drawn from further.
    offset: first column of the regular kinds; drawn if None.
    """
    if kind not in KINDS:
        raise ValueError(f"mask kind: found {kind!r}, allowed: {', '.join(KINDS)}")
    rng = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(seed)
    acceleration, fraction = _drawn_pair(rng, acceleration, center_fraction, any_combination)
    if acceleration < 1 or (kind in ("equispaced", "magic") and acceleration != int(acceleration)):
        raise ValueError(f"acceleration of a {kind} mask: found {acceleration}, allowed: 1 and above, whole "
                         "numbers only with equispaced and magic")
    n_low = round(width * fraction)
    if kind == "magic_fraction":
        n_low = max(1, min(n_low, round(width / acceleration)))
    elif kind in ("random", "equispaced_fraction") and n_low * acceleration >= width > n_low:
        raise ValueError(f"{kind} mask: a centre of {n_low} of {width} columns leaves nothing to sample outside at "
                         f"acceleration {acceleration}; lower center_fraction below {1 / acceleration:.3g}")
    mask = _outer(kind, width, acceleration, n_low, offset, rng)
    start = (width - n_low + 1) // 2
    mask[start:start + n_low] = True
    return mask, n_low


def _drawn_pair(rng, accelerations, fractions, any_combination):
    accelerations, fractions = np.atleast_1d(accelerations).tolist(), np.atleast_1d(fractions).tolist()
    if any_combination:
        fraction = fractions[rng.randint(len(fractions))]
        return accelerations[rng.randint(len(accelerations))], fraction
    if len(accelerations) != len(fractions):
        raise ValueError(f"acceleration and center_fraction are drawn in pairs: found {len(accelerations)} and "
                         f"{len(fractions)} values; give as many of each, or any_combination")
    pick = rng.randint(len(fractions))
    return accelerations[pick], fractions[pick]


def _outer(kind, width, acceleration, n_low, offset, rng):
    """The columns that a kind samples before the centre is added."""
    mask = np.zeros(width, bool)
    if kind == "random":
        if n_low < width:
            mask = rng.uniform(size=width) < (width / acceleration - n_low) / (width - n_low)
    elif kind == "equispaced":
        mask[_offset(offset, round(acceleration), rng)::int(acceleration)] = True
    elif kind == "equispaced_fraction":
        if n_low < width:  # the spacing that makes centre and outer columns together width / acceleration
            spacing = acceleration * (n_low - width) / (n_low * acceleration - width)
            first = _offset(offset, round(spacing), rng)
            mask[np.around(np.arange(first, width - 1, spacing)).astype(int)] = True
    elif kind == "magic":
        mask = _magic(width, int(acceleration), offset, rng)
    else:
        outer = round(width / acceleration) - n_low
        if outer > 0:
            mask = _magic(width, round(width / outer), offset, rng)
    return mask


def _offset(offset, high, rng):
    return rng.randint(0, high) if offset is None else offset


def _magic(width, acceleration, offset, rng):
    """Regular columns shifted by one between the two halves of k-space, so that conjugate symmetry adds new ones."""
    offset = _offset(offset, acceleration, rng)
    first_positive, first_negative = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    positive = np.zeros((width + 1) // 2, bool)
    negative = np.zeros(width // 2, bool)
    positive[first_positive::acceleration] = True
    negative[first_negative::acceleration] = True
    return np.fft.fftshift(np.concatenate([positive, negative[::-1]]))


def gaussian(shape, acceleration, center_fraction, seed):
    """Variable density mask: a full centre, the rest drawn from a Gaussian with a sixth of the axis as sigma.

    shape: width, for columns, or (readout, width), for points; center_fraction is per axis. The
    acceleration is exact.
    """
    shape = (shape,) if np.isscalar(shape) else tuple(shape)
    mask, density = np.zeros(shape, bool), np.ones(shape)
    mask[tuple(_middle(n, round(n * center_fraction)) for n in shape)] = True
    for axis, n in enumerate(shape):
        bell = np.exp(-0.5 * ((np.arange(n) - n // 2) / (n / 6)) ** 2)
        density *= bell.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    missing = round(mask.size / acceleration) - mask.sum()
    if acceleration < 1 or missing < 0:
        raise ValueError(f"gaussian mask: acceleration {acceleration} allows {round(mask.size / acceleration)} of "
                         f"{mask.size} samples, the centre alone has {mask.sum()}; lower one of them")
    density[mask] = 0
    drawn = np.random.RandomState(seed).choice(mask.size, missing, replace=False, p=(density / density.sum()).ravel())
    mask.flat[drawn] = True
    return mask


def poisson(shape, acceleration, calib, seed):
    """Variable density Poisson-disc points (readout, width) with a full centre of `calib` (rows, columns).

    Points keep a distance of about 1 + s r, r being the distance from the centre block, 1 at the edges; corners beyond
    stay empty (Bridson 2007; Lustig & Pauly 2010). The grid is visited in random order, and s is the largest that still
    yields size / acceleration samples. Not SigPy's function of this name: that one never returns when its search on s
    does not converge (32 x 32 at acceleration 12).
    """
    radius, target = discs(shape, acceleration, calib)
    centre = tuple(_middle(n, c) for n, c in zip(shape, calib, strict=True))
    rng = np.random.RandomState(seed)
    order = [divmod(point, shape[1]) for point in rng.permutation(radius.size).tolist()]
    spread = radius * rng.uniform(0.5, 1.5, shape)  # on a grid, equal distances would give steps in the density
    closed = radius >= 1
    mask = _discs(order, closed, 1 + 0 * spread, centre, target)
    low, high = 0.0, float(max(shape))
    for _ in range(12):
        slope = (low + high) / 2
        trial = _discs(order, closed, 1 + slope * spread, centre, target)
        if trial.sum() == target:
            mask, low = trial, slope
        else:
            high = slope
    return mask


def discs(shape, acceleration, calib):
    """Distance of every point from the centre block, and the number of points of a Poisson-disc mask, which must be possible."""
    radius = np.hypot(*(np.maximum(abs(grid - n // 2) - c / 2, 0) / max(n / 2 - c / 2, 1)
                        for grid, n, c in zip(np.indices(shape), shape, calib, strict=True)))
    target, least, most = round(shape[0] * shape[1] / acceleration), calib[0] * calib[1], (radius < 1).sum()
    if not least <= target <= most:
        raise ValueError(f"poisson mask {shape[0]}x{shape[1]}: acceleration {acceleration} asks for {target} samples, "
                         f"possible are {least} (centre {calib[0]}x{calib[1]}) to {most}")
    return radius, target


def _discs(order, closed, reach, centre, target):
    """`target` points, taken in the given order if still open; each closes what is nearer than its reach."""
    mask, closed = np.zeros(closed.shape, bool), closed.copy()
    mask[centre] = closed[centre] = True
    count = int(mask.sum())
    for row, column in order:
        if count >= target:
            break
        if closed[row, column]:
            continue
        r = reach[row, column]
        top, left = max(0, row - int(r)), max(0, column - int(r))
        block = closed[top:row + int(r) + 1, left:column + int(r) + 1]
        down, right = np.ogrid[top - row:top - row + block.shape[0], left - column:left - column + block.shape[1]]
        block |= down * down + right * right < r * r
        mask[row, column] = True
        count += 1
    return mask


def from_file(path, shape=None):
    """A user's mask for k-space of shape (readout, width): .npy, .npz and .h5 (key `mask`), .csv and .txt of 0 and 1.

    Returned as (width,) when it samples whole columns, also if the file holds it as (readout, width). Without a shape,
    what holds for every scan is checked.
    """
    path = Path(path)
    values = _read(path)
    allowed = [(shape[1],), tuple(shape)] if shape else ["(columns,)", "(rows, columns)"]
    if not (values.shape in allowed if shape else values.ndim in (1, 2)):
        raise ValueError(f"{path}: mask of shape {values.shape}, allowed: {allowed[0]} or {allowed[1]}")
    if not np.isin(values, (0, 1)).all():
        found = values[~np.isin(values, (0, 1))].flat[0]
        raise ValueError(f"{path}: mask holds the value {found}, allowed: 0 and 1")
    if not values.any():
        raise ValueError(f"{path}: mask is 0 everywhere, allowed: at least one sample of 1")
    mask = values.astype(bool)
    return mask[0] if mask.ndim == 2 and (mask == mask[0]).all() else mask


def _read(path):
    """The numbers in a mask file, whatever their shape."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: mask file of type {path.suffix!r}, allowed: {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix in (".npz", ".h5"):
            with np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path, "r") as file:
                if "mask" not in file:
                    raise ValueError(f"found the keys {sorted(file)}, allowed: one named mask")
                return file["mask"][()]
        return np.loadtxt(path, delimiter="," if "," in path.read_text() else None)
    except (ValueError, TypeError, EOFError, OSError, BadZipFile) as error:
        raise ValueError(f"{path}: not readable as a mask: {error}") from error


def _middle(n, size):
    """The `size` middle ones of n indices, placed as fastMRI places its centre columns."""
    start = (n - size + 1) // 2
    return slice(start, start + size)


def centre_block(mask):
    """(row slice, column slice) of the fully sampled block around the centre n // 2; a 1-D mask counts as one row."""
    mask = np.atleast_2d(np.asarray(mask, bool))
    top, left = mask.shape[0] // 2, mask.shape[1] // 2
    if not mask[top, left]:
        return slice(top, top), slice(left, left)
    sides = [top, left, top + 1, left + 1]  # first row, first column, one past the last row, one past the last column
    limits = [0, 0, *mask.shape]
    growing = [0, 2, 1, 3]
    while growing:  # all sides in turn, one line each, until their next line is not complete
        for side in tuple(growing):
            trial = list(sides)
            trial[side] += -1 if side < 2 else 1
            if sides[side] != limits[side] and mask[trial[0]:trial[2], trial[1]:trial[3]].all():
                sides = trial
            else:
                growing.remove(side)
    return slice(sides[0], sides[2]), slice(sides[1], sides[3])


def centre_columns(mask):
    """Size of the contiguous fully sampled centre: columns of a 1-D mask, (rows, columns) of a 2-D one."""
    rows, columns = centre_block(mask)
    n = columns.stop - columns.start
    return n if np.ndim(mask) == 1 else (rows.stop - rows.start, n)


def hold_out(mask, fraction, rng):
    """(kept, held): `fraction` of the acquired samples, outside the fully sampled centre, to judge an image by.

    Whole columns of a 1-D mask, points of a 2-D one, at least one. rng: numpy Generator.
    """
    mask = np.asarray(mask, bool)
    if not 0 < fraction < 1:
        raise ValueError(f"holdout: found {fraction}, allowed: a fraction between 0 and 1")
    free = mask.copy()
    free[centre_block(mask)[-mask.ndim:]] = False
    free, count = np.flatnonzero(free), max(1, round(fraction * mask.sum()))
    if not len(free):
        raise ValueError("holdout: every acquired sample belongs to the fully sampled centre, none can be held out; "
                         "use a mask with samples outside, or no holdout")
    if count > len(free):
        raise ValueError(f"holdout: {fraction} of the acquired samples are {count}, but only {len(free)} lie outside the "
                         "fully sampled centre; lower it")
    held = np.zeros(mask.shape, bool)
    held.flat[rng.choice(free, count, replace=False)] = True
    return mask & ~held, held
