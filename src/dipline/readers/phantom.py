"""Synthetic patients, written in the true fastMRI format; the ordinary ``fastmri`` reader then reads them.

The head is a function of position, so that any number of slices is cut from the same anatomy: x to the right of the
image, y downwards (posterior), z through the slices, in units of half the field of view. Random shapes are cubic
B-splines. The cortex is a ribbon of even thickness along the surface of the brain and along its sulci; the sulci are
streamlines of one smooth direction field, which therefore do not cross. Edges are one fine pixel wide.

Signal: y_c = F(S_c x) + n_c. S_c is the Biot-Savart field of a small loop near the head; F is the Fourier transform of
an object made at four times the delivered resolution (no inverse crime) in a field of view twice as long along the
readout; n_c is complex noise, correlated over the coils. One seed is one patient: contrast and time point change
signals and lesions, never the anatomy.
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
    "noise": 0.007,  # standard deviation of a coil image's noise over the 99.5th percentile of the RSS image
}

COHORT = ("patients", "first_seed")  # what names the patients and says nothing about any one of them

CONTRASTS = PARAMETERS["contrast"][:3]
FIELD_OF_VIEW, SPACING = 220.0, 5.0  # mm
FINE = 4  # fine pixels per delivered pixel
RIBBON = 0.029  # thickness of the cortex
FOLDS, STEP = 20, 0.004  # sulci along the outside of a hemisphere; step of a streamline
SIGNAL = {  # relative signal in T2, T1 and FLAIR weighting
    "skin": (0.36, 0.42, 0.36), "fat": (0.50, 0.62, 0.44), "muscle": (0.18, 0.30, 0.26), "bone": (0.05, 0.05, 0.05),
    "marrow": (0.30, 0.48, 0.30), "dura": (0.16, 0.30, 0.25), "csf": (1.00, 0.13, 0.11), "grey": (0.57, 0.45, 0.62),
    "white": (0.35, 0.70, 0.46), "nuclei": (0.48, 0.54, 0.56), "pallidum": (0.33, 0.62, 0.47),
    "thalamus": (0.47, 0.57, 0.55), "choroid": (0.68, 0.42, 0.55), "vessel": (0.06, 0.16, 0.07),
    "lesion": (0.78, 0.44, 0.96), "infarct": (0.82, 0.30, 0.88), "oedema": (0.70, 0.50, 0.84),
    "rim": (0.50, 0.95, 0.70), "core": (0.92, 0.24, 0.34),
}  # fmt: skip
NUCLEI = (  # tissue; centre, half axes and tilt of an oval in one half of the brain
    ("nuclei", (0.112, -0.165), (0.034, 0.085), 0.10),  # caudate
    ("nuclei", (0.250, -0.055), (0.040, 0.130), -0.13),  # putamen
    ("pallidum", (0.200, -0.030), (0.026, 0.072), -0.30),
    ("thalamus", (0.098, 0.075), (0.062, 0.105), -0.45),
    ("grey", (0.316, -0.050), (0.0065, 0.105), -0.06),  # claustrum
)
VENTRICLES = (  # x, y, radius of points along a tube in one half of the brain
    ((0.026, -0.05, 0.012), (0.034, -0.12, 0.019), (0.052, -0.20, 0.021), (0.080, -0.275, 0.012)),  # frontal horn
    ((0.110, 0.180, 0.012), (0.152, 0.240, 0.028), (0.172, 0.310, 0.026), (0.150, 0.420, 0.007)),  # occipital horn
    ((0.000, -0.01, 0.011), (0.000, 0.115, 0.008)),  # third ventricle
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


def describe(**params):
    """What ``inspect`` says of a scan that is read: numbers of slices, shapes, bytes."""
    p = _settings(params)
    n = p["matrix"]
    size = 16 * p["slices"] * p["coils"] * n * n
    return {"slices": p["slices"], "shape": [p["coils"], 2 * n, n], "recon_shape": [n, n], "bytes": size}


def write(name, file, **params):
    """Write one patient as a fastMRI file; the same name and parameters give the same bytes."""
    p, seed, file = _settings(params), int(name.rpartition("_")[2]), Path(file)
    contrast = seed % 3 if p["contrast"] == "mixed" else CONTRASTS.index(p["contrast"])
    kspace = simulate(seed, contrast, p["time_point"], p["slices"], p["matrix"], p["coils"], p["noise"])
    n = p["matrix"]
    rss = np.sqrt(np.sum(np.abs(_to_image(kspace)[:, :, n // 2 : n // 2 + n]) ** 2, axis=1)).astype(np.float32)
    header = HEADER.format(coils=p["coils"], readout=2 * n, n=n, last=n - 1, centre=n // 2,
                           long=2 * FIELD_OF_VIEW, fov=FIELD_OF_VIEW, thick=SPACING)  # fmt: skip
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as h:
            h["kspace"], h["reconstruction_rss"], h["ismrmrd_header"] = kspace, rss, header.encode()
            h.attrs["acquisition"] = f"AX{CONTRASTS[contrast].upper()}"
            h.attrs["patient_id"] = f"synthetic-{seed:03d}"
            h.attrs["max"], h.attrs["norm"] = float(rss.max()), float(np.linalg.norm(rss))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def simulate(seed, contrast, time_point, slices, matrix, coils, noise):
    """Noisy k-space, complex64 (slices, coils, 2*matrix, matrix); `contrast` counts in T2, T1, FLAIR."""
    n, scan = matrix * FINE, (seed, contrast, time_point)
    heights = (np.arange(slices) - (slices - 1) / 2) * 2 * SPACING / FIELD_OF_VIEW
    patient, phase = Patient(seed, contrast, time_point), smooth_phase(scan, n)
    receive, rng = sensitivities(seed, n, heights, coils), np.random.default_rng((*scan, 5))
    kspace = np.empty((slices, coils, 2 * matrix, matrix), np.complex64)
    for s, z in enumerate(heights):
        x = (patient.image(z, n) * np.exp(1j * phase(z))).astype(np.complex64)
        for c in range(coils):
            kspace[s, c] = _measure(x * receive(s, c), matrix)
    rss = np.sqrt(np.sum(np.abs(_to_image(kspace)) ** 2, axis=1))
    mix = np.eye(coils) + 0.15 * (rng.standard_normal((coils, coils)) + 1j * rng.standard_normal((coils, coils)))
    mix = (mix / np.linalg.norm(mix, axis=1, keepdims=True)).astype(np.complex64)  # every coil has the same noise level
    white = rng.standard_normal((*kspace.shape, 2), np.float32).view(np.complex64)[..., 0] / np.sqrt(2)
    kspace += noise * np.percentile(rss, 99.5) * np.einsum("ab,sbrp->sarp", mix, white, optimize=True)
    return kspace * np.float32(3e-4)  # fastMRI's order of magnitude


class Patient:
    """Anatomy and pathology of one seed, and the signal of every tissue in one contrast."""

    def __init__(self, seed, contrast, time_point):
        rng = np.random.default_rng((seed, 0))
        shapes = [(0.42, 0.6), (0.42, 0.6), (0.07, 0.15), (0.07, 0.15), (0.2, 0.3), (0.16, 0.2), (0.014, 0.05)]
        self.fields = [Field(rng, *shape) for shape in shapes]
        self.half = rng.uniform(0.665, 0.715), rng.uniform(0.82, 0.875)  # half axes of the head
        self.ventricles, self.atrophy = rng.uniform(0.75, 1.35), rng.uniform(0.85, 1.5)
        self.gap = rng.uniform(0.004, 0.009) * self.atrophy  # half width of the fissure between the hemispheres
        self.sulci = [Sulci(rng, side, self.half, self.atrophy) for side in (-1, 1)]
        self.vessels = rng.uniform((-0.6, -0.6, -0.6, -0.6, 0.004), (0.6, 0.6, 0.6, 0.6, 0.01), (30, 5))
        self.lesions = _lesions(seed, time_point)
        vary = np.random.default_rng((seed, contrast, 1)).uniform(0.94, 1.06, len(SIGNAL))
        self.signal = {tissue: np.float32(s[contrast] * v) for (tissue, s), v in zip(SIGNAL.items(), vary, strict=True)}

    def image(self, z, n):
        """Magnitude of the slice at height z, float32 (n, n)."""
        axis, edge, c = _axis(n), 1 / n, self.signal
        bend_x, bend_y, wave_x, wave_y, thick, broad, grain = (f(z, n) for f in self.fields)
        x = axis + 0.018 * bend_x + 0.004 * wave_x
        y = axis[:, None] + 0.018 * bend_y + 0.004 * wave_y
        a, b = (h * (1 - 0.25 * z * z - 0.08 * z) for h in self.half)
        skin = (1 - (np.abs(x / a) ** 2.2 + np.abs(y / b) ** 2.2) ** (1 / 2.2)) * a  # depth below the skin
        temporal = 0.032 * np.maximum(1 - ((y + 0.14) / 0.30) ** 2, 0) * (np.abs(x) > 0.3)  # thickness of the muscle
        bone = skin - 0.050 - 0.005 * thick - 0.6 * temporal
        brain = bone - 0.072 - 0.005 * self.atrophy
        out = np.zeros((n, n), np.float32)
        _paint(out, c["skin"], skin, edge)
        _paint(out, c["fat"] * (1 + 0.10 * broad + 0.06 * grain), skin - 0.014, edge)
        _paint(out, c["muscle"] * (1 + 0.12 * grain), np.where(temporal > 0, bone + temporal, -1), 2 * edge)
        _paint(out, c["bone"], bone, edge)
        _paint(out, c["marrow"] * (1 + 0.15 * grain), 0.011 + 0.004 * broad - np.abs(bone - 0.030), 2 * edge)
        _paint(out, c["dura"], bone - 0.058, edge)
        _paint(out, c["csf"], bone - 0.066, edge)
        tissue, cortex = self._brain(x, y, z, brain, thick, broad, grain, edge)
        _paint(out, tissue, brain, edge)
        falx = 0.003 - np.hypot(x, np.maximum(0.36 - np.abs(y), 0))
        _paint(out, c["dura"], np.minimum(falx, bone - 0.050), edge)
        _paint(out, c["vessel"] * 1.5, np.minimum(0.032 - np.hypot(0.9 * x, y - b + 0.15), bone - 0.045), edge)  # sinus
        for px, py, dx, dy, radius in self.vessels:  # they drift through the slices
            spot = radius - np.hypot(x - px - dx * z, y - py - dy * z)
            _paint(out, c["vessel"], np.minimum(spot, np.minimum(cortex, brain)), edge)
        return np.maximum(out, 0)

    def _brain(self, x, y, z, brain, thick, broad, grain, edge):
        """Intensity inside the brain, and the depth inside its cortex or sulci; both float32 (n, n)."""
        c, mirrored = self.signal, np.abs(x)
        surface = np.minimum(brain + 0.004, np.hypot(x, np.maximum(0.335 - np.abs(y), 0)) - self.gap)
        for sulci in self.sulci:
            surface = np.minimum(surface, sulci.distance(x, y, z))
        cortex = RIBBON * (1 + 0.08 * thick) - surface
        ribbon = _inside(cortex, 2.5 * edge)
        out = c["white"] * (1 + 0.025 * broad + 0.018 * grain)
        _blend(out, c["grey"] * (1 + 0.03 * broad + 0.03 * grain), ribbon)
        for tissue, centre, axes, tilt in NUCLEI:
            oval = _oval(mirrored, y, centre, axes, tilt) - 0.15 * z * z + 0.004 * thick
            _paint(out, c[tissue] * (1 + 0.03 * grain), oval, 3 * edge)
        for kind, (px, py, pz), radius, flat in self.lesions:
            ball = radius - np.sqrt((x - px) ** 2 + ((y - py) * flat) ** 2 + (z - pz) ** 2)
            ball += 0.14 * radius * (broad + thick)
            if kind == "mass":
                _blend(out, c["oedema"], 0.9 * _inside(ball + 0.5 * radius, 9 * edge) * (1 - ribbon))
                _paint(out, c["rim"] * (1 + 0.08 * grain), ball, 2 * edge)
                _paint(out, c["core"] * (1 + 0.06 * broad), ball - 0.028 - 0.008 * broad, 2 * edge)
            elif kind == "infarct":
                _blend(out, c["infarct"] * (1 + 0.05 * broad), 0.85 * _inside(ball, 5 * edge))
            else:
                _blend(out, c["lesion"], _inside(ball, 2.5 * edge) * (1 - 0.7 * ribbon))
        _paint(out, c["csf"], -surface, edge)
        for points in VENTRICLES:
            tube = _tube(mirrored, y, points, self.ventricles * (1 + 1.2 * z))
            _paint(out, c["csf"], np.minimum(tube, mirrored - 0.006) if points[0][0] else tube, edge)  # septum
        _paint(out, c["csf"], _oval(mirrored, y, (0, 0.255), (0.045, 0.022), 0), edge)  # cistern behind the midbrain
        _paint(out, c["choroid"] * (1 + 0.2 * grain), _oval(mirrored, y, (0.162, 0.285), (0.013, 0.025), -0.3), edge)
        return out, cortex


class Sulci:
    """The sulci of one hemisphere: lines from its surface inwards, with branches, drifting through the slices."""

    def __init__(self, rng, side, half, atrophy):
        self.turn = Field(rng, 0.17, 0.22)
        angle = (np.arange(FOLDS) + 0.5 + rng.uniform(-0.27, 0.27, FOLDS)) / FOLDS * np.pi
        depth = np.where(np.arange(FOLDS) % 2, rng.uniform(0.19, 0.31, FOLDS), rng.uniform(0.09, 0.17, FOLDS))
        sylvian = np.argmin(np.abs(angle - 1.62))
        depth[sylvian - 1 : sylvian + 2] = 0.08, 0.20, 0.08
        medial = np.array([-0.62, -0.51, -0.39, 0.40, 0.52, 0.64]) + rng.uniform(-0.03, 0.03, 6)
        self.side, self.a, self.b, self.medial = side, half[0] - 0.12, half[1] - 0.12, medial
        self.angle, self.depth = angle, np.concatenate([depth, rng.uniform(0.05, 0.13, 6)])
        self.width = np.full(FOLDS + 6, 0.0055 * atrophy)
        self.change, self.rate = rng.uniform(0, 2 * np.pi, FOLDS + 6), np.full(FOLDS + 6, 0.35)
        self.fork = rng.uniform(0.35, 0.8, FOLDS + 6)  # where along the line a branch leaves
        self.way = rng.choice([-1, 1], FOLDS + 6) * rng.uniform(0.9, 1.5, FOLDS + 6)
        self.branch = np.where(self.depth > 0.13, rng.uniform(0.04, 0.09, FOLDS + 6), 0)
        self.other = np.where(self.depth > 0.2, 0.045, 0)
        # The Sylvian fissure is wide, stays where it is and ends in a T: the insula.
        self.width[sylvian], self.rate[sylvian] = 0.010 * atrophy, 0
        self.fork[sylvian], self.way[sylvian] = 0.96, 1.35
        self.branch[sylvian] = self.other[sylvian] = 0.13

    def distance(self, x, y, z):
        """Distance to the nearest wall of a sulcus, negative inside it, float32 (n, n); beyond 0.08 it is 0.08."""
        turn, angle = self.turn(z, 128), self.angle + 0.25 * z * np.cos(self.change[:FOLDS])
        outer = 1.02 * np.stack([self.side * self.a * np.sin(angle), -self.b * np.cos(angle)], 1)
        inner = np.stack([np.zeros(6), self.medial], 1)
        start = np.concatenate([outer, inner])
        goal = np.concatenate([outer * (0.28, 0.5), inner + (0.6 * self.side, 0)])
        depth = self.depth * (1 + self.rate * np.sin(2.5 * z + self.change))
        main = _trace(start, goal, depth, 0, turn)
        fork = main[np.minimum((self.fork * depth / STEP).astype(int), len(main) - 1), np.arange(len(depth))]
        points, width = [], []
        for track, length, wide in (
            (main, depth, self.width),
            (_trace(fork, goal, self.branch, self.way, turn), self.branch, 0.6 * self.width),
            (_trace(fork, goal, self.other, -self.way, turn), self.other, 0.6 * self.width),
        ):
            along = np.arange(len(track))[:, None] * STEP
            keep = along < length
            flare = 1 + 1.8 * np.exp(-along / 0.025) * (track is main)
            points.append(track[keep])
            width.append((wide * flare * np.sqrt(np.clip(1.05 - along / np.maximum(length, STEP), 0.25, 1)))[keep])
        near = (x * self.side > 0) & (x * self.side < self.a + 0.1) & (np.abs(y) < self.b + 0.1)
        far, which = cKDTree(np.concatenate(points)).query(np.stack([x[near], y[near]], 1), distance_upper_bound=0.08)
        out = np.full(x.shape, 0.08, np.float32)
        out[near] = np.minimum(far, 0.08) - np.concatenate([*width, [0]])[which]  # nothing near: index beyond the end
        return out


def _trace(start, goal, depth, way, turn):
    """Streamlines (steps, lines, 2) from `start` towards `goal`, turned by the field `turn` and by `way` radians."""
    p, track = start, []
    for _ in range(int(np.ceil(max(depth) / STEP)) + 1):
        track.append(p)
        angle = map_coordinates(turn, (p[:, ::-1].T + 1) * (len(turn) / 2), order=1, mode="nearest")
        angle = np.arctan2(*(goal - p)[:, ::-1].T) + 0.55 * angle + way
        p = p + STEP * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.stack(track)


def _lesions(seed, time_point):
    """(kind, centre, radius, flatness) of every lesion; later, the old ones have grown and three new ones appeared."""
    rng, found = np.random.default_rng((seed, 2)), []
    for i in range(int(rng.integers(7, 18))):
        side, angle, far = rng.choice([-1, 1]), rng.uniform(0.3, 2.9), rng.uniform(0.5, 0.95)
        centre = side * (0.06 + 0.30 * far * np.sin(angle)), 0.03 - 0.50 * far * np.cos(angle), rng.normal(0, 0.05)
        radius, flat, growth = rng.uniform(0.012, 0.034), rng.uniform(0.6, 1.5), rng.uniform(1.0, 1.4)
        if i >= 3 or time_point > 0:
            found.append(("spot", centre, radius * growth ** (time_point if i >= 3 else 0), flat))
    side, y, z, radius = rng.choice([-1, 1]), rng.uniform(-0.28, 0.32), rng.normal(0, 0.02), rng.uniform(0.085, 0.125)
    kind, x = (("spot", 0.2), ("mass", 0.31), ("infarct", 0.46))[(seed + seed // 3) % 3]
    growth = 1.25**time_point * (0.3 if kind == "spot" else 1)
    return [*found, (kind, (side * x, y, z), radius * growth, rng.uniform(0.7, 1.2))]


class Field:
    """A random function of position, standard deviation 1: B-splines, knots every `size`, through the slices `rise`."""

    def __init__(self, rng, size, rise):
        self.size, self.rise, inside = size, rise, int(np.ceil(2 / size)) + 4
        self.weights = rng.standard_normal((int(np.ceil(2 / rise)) + 4, inside, inside)).astype(np.float32) / 0.332

    def __call__(self, z, n):
        """The slice at height z, float32 (n, n)."""
        plane = np.tensordot(_basis([z], self.rise, len(self.weights))[0], self.weights, 1)
        rows = _basis(_axis(n), self.size, len(plane))
        return rows @ plane @ rows.T


def _basis(at, spacing, count):
    """Cubic B-splines with knots every `spacing` from -1, float32 (positions, count)."""
    knots = -1 + spacing * (np.arange(count + 4) - 3)
    return BSpline.design_matrix(np.asarray(at, float), knots, 3).toarray().astype(np.float32)


def smooth_phase(scan, n):
    """Smooth phase of the image (field, receiver), as a function of height -> radians (n, n)."""
    rng, x = np.random.default_rng((*scan, 3)), _axis(n)
    (p, q, r, s, t), field, y = rng.uniform(-1, 1, 5), Field(rng, 0.3, 0.5), x[:, None]
    return lambda z: 1.2 * (p * x + q * y) + 0.8 * (r * x * y + s * (x * x - y * y)) + 3 * t + 0.35 * field(z, n)


def sensitivities(seed, n, heights, count):
    """Receive fields of circular loops close to the head, as a function (slice, coil) -> complex64 (n, n)."""
    rng, m, coarse = np.random.default_rng((seed, 4)), 40, []
    axis, turn = np.linspace(-1.1, 1.1, m), np.linspace(0, 2 * np.pi, 33)[:, None]
    grid = np.stack(np.broadcast_arrays(axis, axis[:, None], heights[:, None, None]), -1)[..., None, :]
    for c in range(count):
        t = 2 * np.pi * (c + rng.uniform(-0.2, 0.2)) / count
        centre = np.array([0.98 * np.cos(t), 1.12 * np.sin(t), rng.uniform(-0.35, 0.35)])
        normal = -centre / np.linalg.norm(centre) + rng.normal(0, 0.08, 3)
        first = np.cross(normal, (0, 0, 1))
        first /= np.linalg.norm(first)
        second = np.cross(normal / np.linalg.norm(normal), first)
        wire = centre + rng.uniform(0.30, 0.42) * (np.cos(turn) * first + np.sin(turn) * second)
        away = grid - (wire[1:] + wire[:-1]) / 2
        field = np.cross(np.diff(wire, axis=0), away) / (np.sum(away**2, -1, keepdims=True) + 0.02) ** 1.5
        coarse.append(field[..., 0].sum(-1) - 1j * field[..., 1].sum(-1))
    coarse = (np.stack(coarse, 1) / np.abs(coarse).max()).astype(np.complex64)
    at = (_axis(n) + 1.1) * (m - 1) / 2.2
    rows = np.stack([map_coordinates(e, [at], order=3) for e in np.eye(m)], 1).astype(np.float32)  # interpolates
    return lambda s, c: rows @ coarse[s, c] @ rows.T


def _measure(x, matrix):
    """Centred k-space (2*matrix, matrix) of a fine image (n, n) that fills half of the readout's field of view."""
    n, low = len(x), (len(x) - matrix) // 2
    columns = fft.fftshift(fft.fft(fft.ifftshift(x, axes=1), axis=1, norm="ortho"), axes=1)[:, low : low + matrix]
    long = np.zeros((2 * n, matrix), np.complex64)
    long[n // 2 : n // 2 + n] = columns
    rows = fft.fftshift(fft.fft(fft.ifftshift(long, axes=0), axis=0, norm="ortho"), axes=0)
    return rows[2 * low : 2 * (low + matrix)] / FINE


def _to_image(kspace, axes=(-2, -1)):
    """Centred orthonormal inverse FFT over the last two axes."""
    return fft.fftshift(fft.ifft2(fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


def _axis(n):
    """Positions of n pixels, 0 at pixel n // 2, float32."""
    return ((np.arange(n) - n // 2) * 2 / n).astype(np.float32)


def _inside(depth, edge):
    """Soft step over a few `edge`: 0 outside, 1 inside."""
    t = np.clip(0.5 + depth / (4 * edge), 0, 1)
    return t * t * (3 - 2 * t)


def _blend(image, value, weight):
    image += (value - image) * weight


def _paint(image, value, depth, edge):
    _blend(image, value, _inside(depth, edge))


def _oval(x, y, centre, axes, tilt):
    """Depth inside a tilted ellipse; negative outside."""
    u = (x - centre[0]) * np.cos(tilt) + (y - centre[1]) * np.sin(tilt)
    v = (y - centre[1]) * np.cos(tilt) - (x - centre[0]) * np.sin(tilt)
    return (1 - np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2)) * min(axes)


def _tube(x, y, points, scale, round_off=60):
    """Depth inside a chain of tapered rods with rounded joints; `points` are (x, y, radius)."""
    total = 0
    for (px, py, pr), (qx, qy, qr) in zip(points, points[1:], strict=False):
        dx, dy = qx - px, qy - py
        t = np.clip(((x - px) * dx + (y - py) * dy) / (dx * dx + dy * dy), 0, 1)
        depth = scale * (pr + (qr - pr) * t) - np.hypot(x - px - t * dx, y - py - t * dy)
        total = total + np.exp(np.maximum(round_off * depth, -30))
    return np.log(total) / round_off


def _settings(params):
    return {k: v[0] if isinstance(v, tuple) else v for k, v in PARAMETERS.items()} | params
