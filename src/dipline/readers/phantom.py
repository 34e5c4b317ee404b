"""Synthetic patients, written in the true fastMRI format; the ordinary ``fastmri`` reader then reads them.

The head is a function of position, so that any number of slices is cut from the same anatomy. Coordinates are in units of half the
field of view: x to the right of the image (patient left), y downwards (posterior), z through the slices. Random shapes are cubic B-splines
with random coefficients. The cortex is a ribbon of even thickness along the surface of the brain and along its sulci; the sulci are
streamlines of one smooth direction field, which therefore never cross. Edges are one fine pixel wide.

Signal: y_c = F(S_c x) + n_c, with S_c the Biot-Savart field of a small loop near the head, F the Fourier transform of an object made at four
times the delivered resolution (no inverse crime) within a field of view twice as long along the readout, and n_c complex noise that is
correlated over the coils. One seed is one patient: contrast and time point change intensities and lesions, never the anatomy.
"""

import os
from pathlib import Path

import h5py
import numpy as np
from scipy import fft
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

MODALITY = "mri"
READS_AS = "fastmri"
PARAMETERS = {
    "patients": 3,
    "first_seed": 1,
    "slices": 3,
    "matrix": 128,
    "coils": 12,
    "contrast": ("t2", "t1", "flair", "mixed"),  # mixed: by the patient's seed
    "time_point": 0,
    "noise": 0.007,  # standard deviation of a coil image's complex noise, relative to the 99.5th percentile of the RSS image
}

FIELD_OF_VIEW = 220.0  # mm
SLICE_SPACING = 5.0  # mm
FINE = 4  # fine pixels per delivered pixel
RIBBON = 0.031  # thickness of the cortex
SIGNAL = {  # tissue: relative signal in T2, T1 and FLAIR weighting
    "skin": (0.42, 0.50, 0.45), "fat": (0.62, 0.92, 0.60), "muscle": (0.20, 0.36, 0.30), "bone": (0.05, 0.05, 0.05),
    "marrow": (0.30, 0.48, 0.30), "dura": (0.16, 0.30, 0.25), "csf": (1.00, 0.13, 0.11), "grey": (0.57, 0.45, 0.62),
    "white": (0.35, 0.70, 0.46), "nuclei": (0.48, 0.54, 0.56), "pallidum": (0.33, 0.62, 0.47), "thalamus": (0.47, 0.57, 0.55),
    "choroid": (0.68, 0.42, 0.55), "vessel": (0.06, 0.16, 0.07), "lesion": (0.78, 0.44, 0.96), "infarct": (0.82, 0.30, 0.88),
    "oedema": (0.70, 0.50, 0.84), "rim": (0.50, 0.95, 0.70), "core": (0.92, 0.24, 0.34),
}  # fmt: skip
NUCLEI = (  # tissue, both ends of a tapered rod in the right half, its radius at either end
    ("nuclei", (0.112, -0.235), (0.125, -0.07), 0.042, 0.022),  # caudate
    ("nuclei", (0.245, -0.165), (0.262, 0.06), 0.042, 0.026),  # putamen
    ("pallidum", (0.196, -0.075), (0.208, 0.025), 0.030, 0.022),
    ("thalamus", (0.078, 0.03), (0.125, 0.105), 0.052, 0.058),
    ("grey", (0.317, -0.15), (0.330, 0.05), 0.007, 0.007),  # claustrum
)
VENTRICLES = (
    ((0.030, -0.10), (0.072, -0.262), 0.027, 0.019),  # frontal horn
    ((0.030, -0.10), (0.045, -0.02), 0.024, 0.010),
    ((0.115, 0.195), (0.172, 0.285), 0.016, 0.034),  # atrium
    ((0.172, 0.285), (0.150, 0.420), 0.034, 0.010),  # occipital horn
)
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <acquisitionSystemInformation><receiverChannels>{coils}</receiverChannels></acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace><matrixSize><x>{readout}</x><y>{n}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{long}</x><y>{fov}</y><z>{thick}</z></fieldOfView_mm></encodedSpace>
    <reconSpace><matrixSize><x>{n}</x><y>{n}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{fov}</x><y>{fov}</y><z>{thick}</z></fieldOfView_mm></reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center></kspace_encoding_step_1>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>
"""


def names(**params):
    """Names of the volumes: ``patient_001`` is the patient of seed 1."""
    p = _settings(params)
    return [f"patient_{seed:03d}" for seed in range(p["first_seed"], p["first_seed"] + p["patients"])]


def write(name, file, **params):
    """Write one patient as a fastMRI file: the same bytes for the same name and parameters."""
    p, seed, file = _settings(params), int(name.rpartition("_")[2]), Path(file)
    kinds = PARAMETERS["contrast"][:3]
    contrast = kinds.index(p["contrast"]) if p["contrast"] in kinds else seed % 3
    kspace = simulate(seed, contrast, p["time_point"], p["slices"], p["matrix"], p["coils"], p["noise"])
    n = p["matrix"]
    rss = np.sqrt(np.sum(np.abs(_to_image(kspace)[:, :, n // 2 : n // 2 + n]) ** 2, axis=1)).astype(np.float32)
    header = HEADER.format(coils=p["coils"], readout=2 * n, n=n, long=2 * FIELD_OF_VIEW, fov=FIELD_OF_VIEW, thick=SLICE_SPACING,
                           last=n - 1, centre=n // 2)  # fmt: skip
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as h:
            h["kspace"], h["reconstruction_rss"], h["ismrmrd_header"] = kspace, rss, header.encode()
            h.attrs["acquisition"] = f"AX{kinds[contrast].upper()}"
            h.attrs["patient_id"] = f"synthetic-{seed:03d}"
            h.attrs["max"], h.attrs["norm"] = float(rss.max()), float(np.linalg.norm(rss))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def simulate(seed, contrast, time_point, slices, matrix, coils, noise):
    """Noisy k-space, complex64 (slices, coils, 2*matrix, matrix)."""
    n = matrix * FINE
    scan = (seed, contrast, time_point)
    rng, phase = np.random.default_rng((*scan, 5)), Phase(scan)
    receive = sensitivities(seed, n, slices, coils)
    patient = Patient(seed, contrast, time_point)
    kspace = np.empty((slices, coils, 2 * matrix, matrix), np.complex64)
    for s, z in enumerate(_positions(slices)):
        x = (patient.image(z, n) * phase.factor(z, n)).astype(np.complex64)
        for c in range(coils):
            kspace[s, c] = _measure(x * receive(s, c), matrix)
    rss = np.sqrt(np.sum(np.abs(_to_image(kspace)) ** 2, axis=1))
    mix = np.eye(coils) + 0.15 * (rng.standard_normal((coils, coils)) + 1j * rng.standard_normal((coils, coils)))
    mix /= np.linalg.norm(mix, axis=1, keepdims=True)  # every coil has the same noise level
    white = rng.standard_normal((*kspace.shape, 2), np.float32).view(np.complex64)[..., 0] / np.sqrt(2)
    kspace += noise * np.percentile(rss, 99.5) * np.einsum("ab,sbrp->sarp", mix.astype(np.complex64), white, optimize=True)
    return kspace * np.float32(3e-4)  # fastMRI's order of magnitude


class Patient:
    """The anatomy and the pathology of one seed, and the signal of every tissue in one contrast."""

    def __init__(self, seed, contrast, time_point):
        rng = np.random.default_rng((seed, 0))
        self.warp = Field(rng, 0.42, 0.6), Field(rng, 0.42, 0.6)
        self.wobble = Field(rng, 0.07, 0.15), Field(rng, 0.07, 0.15)
        self.turn, self.thick, self.broad, self.grain = (
            Field(rng, 0.17, 0.22), Field(rng, 0.2, 0.3), Field(rng, 0.16, 0.2), Field(rng, 0.014, 0.05))  # fmt: skip
        self.half = rng.uniform(0.665, 0.715), rng.uniform(0.82, 0.875)  # half axes of the head
        self.ventricles, self.fissure = rng.uniform(0.75, 1.35), rng.uniform(0.004, 0.009)
        self.atrophy = rng.uniform(0.85, 1.5)  # width of the sulci
        self.folds = [self._fold(rng, side) for side in (-1, 1)]
        self.vessels = [(rng.uniform(-0.55, 0.55, 2) * (1, 1.2), rng.normal(0, 0.35, 2), rng.uniform(0.004, 0.010)) for _ in range(26)]
        self.lesions = _lesions(seed, time_point)
        spread = np.random.default_rng((seed, contrast, 1)).uniform(0.94, 1.06, len(SIGNAL))
        self.signal = {t: np.float32(v[contrast] * f) for (t, v), f in zip(SIGNAL.items(), spread, strict=True)}

    def _fold(self, rng, side):
        """The sulci of one hemisphere at z = 0: start angle, depth, phase and rate of their change through the slices, branches."""
        angle = (np.arange(21) + 0.5 + rng.uniform(-0.27, 0.27, 21)) / 21 * np.pi
        depth = np.where(np.arange(21) % 2, rng.uniform(0.17, 0.27, 21), rng.uniform(0.06, 0.15, 21))
        depth *= 1 + 0.15 * np.cos(angle) ** 2
        lateral = np.argmin(np.abs(angle - 1.62))
        depth[[lateral - 1, lateral + 1]] = 0.08
        depth[lateral] = 0.20  # Sylvian fissure
        return {
            "side": side, "angle": angle, "depth": depth, "lateral": lateral, "change": rng.uniform(0, 2 * np.pi, 21),
            "medial": np.concatenate([rng.uniform(-0.03, 0.03, 3) - (0.62, 0.51, 0.39), rng.uniform(-0.03, 0.03, 3) + (0.42, 0.54, 0.64)]),
            "medial_depth": rng.uniform(0.06, 0.15, 6), "branch": rng.uniform(0.35, 0.8, 21),
            "way": rng.choice([-1, 1], 21) * rng.uniform(0.9, 1.5, 21), "length": rng.uniform(0.05, 0.11, 21),
        }  # fmt: skip

    def image(self, z, n):
        """Magnitude of the slice at height z, float32 (n, n)."""
        axis = ((np.arange(n) - n // 2) * 2 / n).astype(np.float32)
        fields = [f(z, n) for f in (*self.warp, *self.wobble, self.thick, self.broad, self.grain)]
        thick, broad, grain = fields[4:]
        x = axis + 0.018 * fields[0] + 0.004 * fields[2]
        y = axis[:, None] + 0.018 * fields[1] + 0.004 * fields[3]
        edge, c = 1.0 / n, self.signal
        size = 1 - 0.25 * z * z - 0.08 * z
        a, b = (h * size for h in self.half)
        depth = (1 - (np.abs(x / a) ** 2.2 + np.abs(y / b) ** 2.2) ** (1 / 2.2)) * a  # below the skin

        out = np.zeros((n, n), np.float32)
        _paint(out, c["skin"], depth, edge)
        _paint(out, c["fat"] * (1 + 0.10 * broad + 0.06 * grain), depth - 0.016, edge)
        temporal = np.minimum(depth - 0.022, 0.30 - np.hypot(y + 0.22, 2.0 * (np.abs(x) - a))) * (0.9 + 0.1 * thick)
        _paint(out, c["muscle"] * (1 + 0.12 * grain), temporal, 2 * edge)
        bone = depth - 0.062 - 0.007 * thick
        _paint(out, c["bone"], bone, edge)
        _paint(out, c["marrow"] * (1 + 0.15 * grain + 0.1 * broad), 0.011 + 0.004 * broad - np.abs(bone - 0.030), 2 * edge)
        _paint(out, c["dura"], bone - 0.058, edge)
        _paint(out, c["csf"], bone - 0.066, edge)

        brain = bone - 0.080 - 0.004 * self.atrophy
        tissue, ribbon = self._brain(x, y, z, brain, thick, broad, grain, edge)
        _blend(out, tissue, _inside(brain, edge))
        falx = np.maximum(_rod(x, y, (0, -1.2), (0, -0.36), 0.0028, 0.0028), _rod(x, y, (0, 0.36), (0, 1.2), 0.0028, 0.0035))
        sinus = 0.032 - np.hypot(0.9 * x, y - (b - 0.150))
        _blend(out, c["dura"], _inside(falx, edge) * _inside(bone - 0.05, edge))
        _blend(out, c["vessel"] * 1.5, _inside(sinus, edge) * _inside(bone - 0.045, edge))
        for where, drift, radius in self.vessels:
            spot = radius - np.hypot(x - where[0] - drift[0] * z, y - where[1] - drift[1] * z)
            _blend(out, c["vessel"], _inside(spot, edge) * _inside(brain, edge) * ribbon)
        return np.maximum(out, 0)

    def _brain(self, x, y, z, brain, thick, broad, grain, edge):
        """Intensity inside the brain and how much of each pixel is cortex or sulcus, both float32 (n, n)."""
        c, mirrored = self.signal, np.abs(x)
        surface = np.minimum(brain + 0.004, self._sulci(x, y, z))
        gap = self.fissure * self.atrophy
        for ends in (((0, -1.2), (0, -0.335)), ((0, 0.335), (0, 1.2))):
            surface = np.minimum(surface, -_rod(x, y, *ends, gap, gap))
        cortex = RIBBON * (1 + 0.08 * thick) - surface
        ribbon = _inside(cortex, 2.5 * edge)
        white = c["white"] * (1 + 0.025 * broad + 0.018 * grain)
        out = white + (c["grey"] * (1 + 0.03 * broad + 0.03 * grain) - white) * ribbon
        for tissue, p, q, r0, r1 in NUCLEI:
            _paint(out, c[tissue] * (1 + 0.03 * grain), _rod(mirrored, y, p, q, r0, r1) * (1 - z * z) + 0.003 * thick, 3 * edge)
        for kind, lesion in self.lesions:
            ball = lesion["radius"] - np.sqrt((x - lesion["x"]) ** 2 + ((y - lesion["y"]) * lesion["flat"]) ** 2 + (z - lesion["z"]) ** 2)
            ball = ball + lesion["radius"] * 0.14 * (broad + thick)
            if kind == "mass":
                _blend(out, c["oedema"], 0.9 * _inside(ball + 0.5 * lesion["radius"], 9 * edge) * (1 - ribbon))
                _paint(out, c["rim"] * (1 + 0.08 * grain), ball, 2 * edge)
                _paint(out, c["core"] * (1 + 0.06 * broad), ball - 0.028 - 0.008 * broad, 2 * edge)
            elif kind == "infarct":
                _blend(out, c["infarct"] * (1 + 0.05 * broad), 0.85 * _inside(ball, 5 * edge))
            else:
                _blend(out, c["lesion"], _inside(ball, 2.5 * edge) * (1 - 0.7 * ribbon))
        _paint(out, c["csf"], -surface, edge)
        for p, q, r0, r1 in VENTRICLES:
            scale = self.ventricles * (1 + 1.2 * z)
            _paint(out, c["csf"], np.minimum(_rod(mirrored, y, p, q, r0 * scale, r1 * scale), mirrored - 0.006), edge)
        _paint(out, c["csf"], _rod(mirrored, y, (0, -0.01), (0, 0.115), 0.011 * self.ventricles, 0.007), edge)
        _paint(out, c["csf"], _rod(mirrored, y, (0, 0.245), (0.035, 0.26), 0.022, 0.010), edge)  # cistern behind the midbrain
        _paint(out, c["choroid"] * (1 + 0.2 * grain), _rod(mirrored, y, (0.155, 0.27), (0.17, 0.30), 0.014, 0.010), 2 * edge)
        return out, np.maximum(ribbon, _inside(-surface, edge))

    def _sulci(self, x, y, z):
        """Signed distance to the nearest wall of a sulcus, negative inside it, float32 (n, n); cut off at 0.08."""
        turn = self.turn(z, 128)
        points, width = [], []
        for f in self.folds:
            a, b = (h - 0.13 for h in self.half)
            angle = f["angle"] + 0.25 * z * np.cos(f["change"])
            start = np.stack([f["side"] * a * np.sin(angle), -b * np.cos(angle)], 1) * 1.02
            goal = start * (0.28, 0.5)
            depth = f["depth"] * (1 + 0.35 * np.sin(2.5 * z + f["change"]) * (np.arange(21) != f["lateral"]))
            mouth = np.where(np.arange(21) == f["lateral"], 0.010, 0.0055) * self.atrophy
            tracks = _trace(start, goal, depth, 0.0, turn)
            medial = np.stack([np.zeros(6), f["medial"]], 1)
            deep = f["medial_depth"] * (1 + 0.3 * np.sin(2.5 * z + f["change"][:6]))
            inner = _trace(medial, medial + (f["side"] * 0.6, 0), deep, 0.0, 0.6 * turn)
            at = (f["branch"] * depth / STEP).astype(int)
            at[f["lateral"]] = int(depth[f["lateral"]] / STEP) - 2  # the insula: both banks of the Sylvian fissure
            fork = tracks[at, np.arange(21)]
            length, way = np.where(depth > 0.13, f["length"], 0.0), f["way"].copy()
            length[f["lateral"]], way[f["lateral"]] = 0.13, 1.35
            other = np.where(np.arange(21) == f["lateral"], 0.13, 0.0)
            for track, reach, wide in ((tracks, depth, mouth), (inner, deep, mouth[:6]),
                                       (_trace(fork, goal, length, way, turn), length, 0.6 * mouth),
                                       (_trace(fork, goal, other, -way, turn), other, 0.6 * mouth)):  # fmt: skip
                along = np.arange(len(track))[:, None] * STEP
                keep = along < reach
                flare = 1 + 1.6 * np.exp(-along / 0.02) * (track is tracks)
                points.append(track[keep])
                width.append((wide * flare * np.sqrt(np.clip(1.05 - along / np.maximum(reach, STEP), 0.1, 1)))[keep])
        grid = np.stack([x.ravel(), y.ravel()], 1)
        near = (np.abs(grid[:, 0]) < self.half[0]) & (np.abs(grid[:, 1]) < self.half[1])
        out = np.full(x.size, 0.08, np.float32)
        distance, which = cKDTree(np.concatenate(points)).query(grid[near], distance_upper_bound=0.08)
        found = np.isfinite(distance)
        wide = np.concatenate(width + [np.zeros(1)])
        out[near] = np.where(found, np.minimum(distance, 0.08) - wide[which], 0.08)
        return out.reshape(x.shape)


STEP = 0.007  # of a streamline


def _trace(start, goal, depth, way, turn):
    """Streamlines (steps, lines, 2) from `start` towards `goal`, turned by the field `turn` and by the angle `way` (radians)."""
    p, track = np.array(start), []
    for _ in range(max(2, int(np.ceil(max(depth) / STEP)) + 1)):
        track.append(p)
        to = goal - p
        index = (p[:, ::-1].T + 1) * (len(turn) / 2)
        angle = np.arctan2(to[:, 1], to[:, 0]) + 0.55 * map_coordinates(turn, index, order=1, mode="nearest") + way
        p = p + STEP * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.stack(track)


def _lesions(seed, time_point):
    """(kind, geometry) of every lesion; at a later time point the old ones have grown and new ones appeared."""
    rng = np.random.default_rng((seed, 2))
    found = []
    for i in range(int(rng.integers(4, 15)) + 3):
        side, angle, far = rng.choice([-1, 1]), rng.uniform(0.3, 2.9), rng.uniform(0.5, 0.95)
        spot = {"x": side * (0.06 + 0.30 * far * np.sin(angle)), "y": -0.50 * far * np.cos(angle) + 0.03, "z": rng.normal(0, 0.05),
                "radius": rng.uniform(0.012, 0.034), "flat": rng.uniform(0.6, 1.5)}  # fmt: skip
        growth = rng.uniform(1.0, 1.4)
        if i >= 3:
            found.append(("spot", {**spot, "radius": spot["radius"] * growth**time_point}))
        elif time_point > 0:  # three that are new
            found.append(("spot", spot))
    kind = (None, "mass", "infarct")[(seed + seed // 3) % 3]
    side, y, radius = rng.choice([-1, 1]), rng.uniform(-0.28, 0.32), rng.uniform(0.085, 0.125)
    if kind:
        x = 0.31 if kind == "mass" else 0.46
        place = {"x": side * x, "y": y, "z": rng.normal(0, 0.02), "radius": radius * 1.25**time_point, "flat": rng.uniform(0.7, 1.2)}
        found.append((kind, place))
    return found


class Phase:
    """Smooth phase of the image (field inhomogeneity, receiver)."""

    def __init__(self, scan):
        rng = np.random.default_rng((*scan, 3))
        self.slope, self.field = rng.uniform(-1, 1, 5), Field(rng, 0.3, 0.5)

    def factor(self, z, n):
        """exp(i phase), complex64 (n, n)."""
        x = ((np.arange(n) - n // 2) * 2 / n).astype(np.float32)
        y, p = x[:, None], self.slope.astype(np.float32)
        angle = 1.2 * (p[0] * x + p[1] * y) + 0.8 * (p[2] * x * y + p[3] * (x * x - y * y)) + 3 * p[4] + 0.35 * self.field(z, n)
        return np.exp(1j * angle)


class Field:
    """A random function of position with standard deviation 1: cubic B-splines with knots every `size` (through the slices `rise`)."""

    def __init__(self, rng, size, rise):
        self.size, self.rise = size, rise
        inside, through = int(np.ceil(2 / size)) + 4, int(np.ceil(2 / rise)) + 4
        self.weights = rng.standard_normal((through, inside, inside)).astype(np.float32) / 0.332

    def __call__(self, z, n):
        """The slice at height z, float32 (n, n)."""
        plane = np.tensordot(_basis([z], self.rise, len(self.weights))[0], self.weights, 1)
        rows = _basis((np.arange(n) - n // 2) * 2 / n, self.size, plane.shape[0])
        return rows @ plane @ rows.T


def _basis(at, spacing, count):
    """Cubic B-splines with knots every `spacing` from -1, float32 (positions, count)."""
    knots = -1 + spacing * (np.arange(count + 4) - 3)
    return BSpline.design_matrix(np.asarray(at, float), knots, 3).toarray().astype(np.float32)


def sensitivities(seed, n, slices, count):
    """Receive fields of circular loops close to the head, as a function (slice, coil) -> complex64 (n, n)."""
    rng, m = np.random.default_rng((seed, 4)), 40
    axis = np.linspace(-1.1, 1.1, m)
    z = _positions(slices)
    grid = np.stack(np.broadcast_arrays(axis, axis[:, None], z[:, None, None]), -1)[..., None, :]
    turn, coarse = np.linspace(0, 2 * np.pi, 33), []
    for c in range(count):
        t = 2 * np.pi * (c + rng.uniform(-0.2, 0.2)) / count
        centre = np.array([0.98 * np.cos(t), 1.12 * np.sin(t), rng.uniform(-0.35, 0.35)])
        normal = -centre / np.linalg.norm(centre) + rng.normal(0, 0.08, 3)
        first = np.cross(normal, (0, 0, 1.0))
        first /= np.linalg.norm(first)
        second = np.cross(normal / np.linalg.norm(normal), first)
        wire = centre + rng.uniform(0.30, 0.42) * (np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second)
        away = grid - (wire[1:] + wire[:-1]) / 2
        field = np.cross(np.diff(wire, axis=0), away) / (np.sum(away**2, -1, keepdims=True) + 0.02) ** 1.5
        field = field.sum(-2)
        coarse.append(field[..., 0] - 1j * field[..., 1])
    coarse = np.stack(coarse, 1)
    coarse = (coarse / np.abs(coarse).max()).astype(np.complex64)
    position = ((np.arange(n) - n // 2) * 2 / n + 1.1) * (m - 1) / 2.2
    rows = np.stack([map_coordinates(e, [position], order=3) for e in np.eye(m)], 1).astype(np.float32)  # cubic interpolation
    return lambda s, c: rows @ coarse[s, c] @ rows.T


def _measure(x, matrix):
    """Centred k-space (2*matrix, matrix) of a fine image (n, n) that fills half of the field of view along the readout."""
    n, low = len(x), (len(x) - matrix) // 2
    columns = fft.fftshift(fft.fft(fft.ifftshift(x, axes=1), axis=1, norm="ortho"), axes=1)[:, low : low + matrix]
    long = np.zeros((2 * n, matrix), np.complex64)
    long[n // 2 : n // 2 + n] = columns
    return fft.fftshift(fft.fft(fft.ifftshift(long, axes=0), axis=0, norm="ortho"), axes=0)[2 * low : 2 * low + 2 * matrix] / FINE


def _to_image(kspace):
    """Centred orthonormal inverse FFT over the last two axes."""
    axes = (-2, -1)
    return fft.fftshift(fft.ifft2(fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


def _positions(slices):
    return (np.arange(slices) - (slices - 1) / 2) * 2 * SLICE_SPACING / FIELD_OF_VIEW


def _inside(depth, edge):
    """Soft step: 0 outside, 1 inside, over about 2 `edge` around depth 0."""
    t = np.clip(0.5 + depth / (4 * edge), 0, 1)
    return t * t * (3 - 2 * t)


def _blend(image, value, weight):
    image += (value - image) * weight


def _paint(image, value, depth, edge):
    _blend(image, value, _inside(depth, edge))


def _rod(x, y, p, q, r0, r1):
    """Depth inside a rod from `p` to `q` whose radius goes from `r0` to `r1`; negative outside."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    t = np.clip(((x - p[0]) * dx + (y - p[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return r0 + (r1 - r0) * t - np.hypot(x - p[0] - t * dx, y - p[1] - t * dy)


def _settings(params):
    defaults = {k: v[0] if isinstance(v, tuple) else v for k, v in PARAMETERS.items()}
    return defaults | params
