"""Synthetic CT patients, written as true DICOM series; the ordinary ``dicom`` reader then reads them.

Positions are DICOM's, in mm: x to the patient's left (the right of the image), y to the back (downwards), z upwards,
0 in the middle of the scan. Smooth random fields (B-splines) bend these axes into those of a standard body of layers,
ovals, rods and trees of vessels; more fields give texture. Edges are two pixels wide on a grid four times finer than
what is delivered, and that grid is averaged; slices are thin cuts, 5 mm apart. One seed is one patient: build, level in
the body, contrast agent and pathology follow from it. Every patient has lesions of known place, size and contrast:
`lesions`. HU of tissues are those usual in textbooks.
"""

import os
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.interpolate import BSpline
from scipy.ndimage import uniform_filter

MODALITY = "ct"
READS_AS = "dicom"
SUFFIX = ""  # a scan is a folder
PARAMETERS = {
    "patients": 3,
    "first_seed": 1,
    "slices": 3,
    "matrix": 128,
    "body": ("torso", "head", "mixed"),  # mixed: odd seeds are torsos, even ones heads
    "noise": 0.0,  # standard deviation in HU, white
}
COHORT = ("patients", "first_seed")  # what names the patients and says nothing about any one of them

SPACING, FINE, REACH = 5.0, 4, 260.0  # mm between slices; fine pixels per pixel; height in mm where random fields end
INTERCEPT, PADDING = -1024, -2000  # stored values; padding lies outside the scan circle
Lesion = namedtuple("Lesion", "organ x y z diameter length background contrast")  # mm (length: along z), HU

# HU; where there are three: without contrast agent, arterial phase, portal venous phase.
HU = """
air -1000, bulla -965, gas -960, cells -960, foam -930, lung -865, fat -105, csf 6, fluid 8, bile 10, pneumonia 10, globe 12,
oedema 17, rarefied 21, white 28, skin 30, stem 31, cerebellum 35, gland 35, grey 37, cord 40, dura 52, shell 60, blood 68,
lens 75, disc 85, cartilage 115, spongy 230, diploe 520, calcium 600, cortical 1000, skull 1300, muscle 50 55 60,
wall 40 75 85, heart 44 105 115, right 42 240 155, aorta 42 330 165, vein 42 90 150, portal 42 100 175, liver 58 70 110,
spleen 48 120 118, cortex 34 185 175, marrow 32 75 165, pancreas 40 105 92"""
SOFT = {"rarefied": 16, "oedema": 10, "pneumonia": 6, "bulla": 3}  # widths of edges; elsewhere 0
# Tissue, region that clips it (-: none), then an oval (centre, half axes, tilt) or a rod (its ends, two radii). A star:
# on both sides. a>b: b with a wall of a, 2 mm thick. Height 0 is the dome of the diaphragm, and the third ventricle.
TORSO = """
fat cavity 0,44,-270 0,44,200 27,27; fat cavity 17,-24,48 68,58,62 -0.5; fat cavity 0,-14,120 36,62,80 0;
heart cavity 19,-20,48 60,43,50 -0.5; right cavity -28,-10,56 20,27,36 0.1; right cavity 4,-42,48 33,15,38 -0.35;
aorta cavity 2,14,66 31,15,26 0.1; aorta cavity 41,-12,48 27,15,36 -0.75; wall - 7,29,-10 3,27,200 8,7.5; gas - 6,28,60 3,26,200 2.5,3;
aorta - -8,-14,72 -10,-12,128 15,15; aorta - -9,-10,130 22,32,130 14,12; right - 20,-30,78 14,-8,106 14,13;
right - 14,-8,104 -42,9,97 11,8; right - 14,-8,106 46,13,103 11,8; right - -25,-6,72 -24,-9,200 9,9; wall>air* - 1,12,115 44,13,86 8,6.5;
wall>air - 0,11,113 0,7,220 11,11; spleen below 98,40,-50 42,50,54 0.5; fat below 70,16,-54 15,34,48 0.5;
cortex* below 61,42,-114 26,32,56 0.5; medulla* below 59,41,-114 20,26,48 0.5; fat* below 50,37,-114 13,17,32 0.5;
fluid* below 47,36,-115 7,8,18 0.5; muscle* below 11,26,-20 12,30,-120 5,7; muscle* - 24,46,-80 46,48,-270 7,21;
muscle* - 56,78,-75 66,74,-270 11,15; vein - -20,20,-270 -22,17,-30 12,12; vein - -22,17,-30 -25,2,40 12,12;
vein* - 16,18,-112 48,35,-116 5,4; pancreas below -34,-2,-104 -8,-8,-92 13,9; aorta - 16,26,-76 12,2,-74 4,3.5;
pancreas below -8,-8,-92 28,-2,-84 9,9; aorta - 14,8,-100 10,-16,-260 4,3.5; pancreas below 28,-2,-84 82,26,-68 10,8;
portal below 4,4,-86 82,32,-62 5,4; portal below 4,4,-88 -40,-2,-58 7.5,6; portal below -2,0,-88 -6,-20,-260 6,5;
wall>stomach below 52,-26,-46 50,40,54 -0.25; wall>stomach below 34,-48,-80 -16,-42,-94 19,14; wall>bowel below -47,2,-106 14,16,42 0.2;
wall>bile below -45,-46,-84 17,25,30 0.3; wall>faeces below -92,12,-145 -94,20,-270 22,24; wall>faeces below 98,30,-78 100,32,-270 16,15;
wall>gas below -88,-22,-148 -32,-62,-140 19,18; wall>gas below -32,-62,-140 42,-62,-132 18,18; wall>gas below 42,-62,-132 96,-8,-84 18,17;
aorta - 19,27,-270 24,37,132 10.5,12.5"""
SPINE = """
cortical>spongy - 0,48,0 21,16,99 0; disc - 0,47,14 20,15,4.5 0; disc - 0,47,-14 20,15,4.5 0; cortical>spongy* - 11,60,3 15,74,2 5,5;
cortical* - 16,74,2 36,82,3 5,3; cortical>spongy* - 15,74,0 2,87,-4 5,4; cortical>spongy - 0,86,-4 0,103,-13 5,3.5;
muscle - 0,70,0 10.5,8.5,99 0; fluid - 0,70,0 9,7,99 0; cord - 0,70,0 5.5,4.5,99 0"""
HEAD = """
stem brain 0,13,-22 17,13,18 0; stem brain 0,16,-46 16,14,26 0; grey* brain 12.5,-18,8 4.2,9,16 0.1; grey* brain 26,-5,2 5,14,15 -0.15;
grey* brain 11,9,3 7,11.5,12 -0.45; csf* brain 4,-13,8 9,-31,6 3.6,2; csf* brain 4.5,-14,9 8,-18,20 3.6,4.5;
csf* brain 7.5,-19,21 10,2,24 4.5,4.5; csf* brain 10,2,24 16,22,20 4.5,5; csf* brain 14,22,20 20,33,8 5,6.5;
csf* brain 20,33,8 17,51,5 5.5,1.5; csf* brain 21,30,4 34,0,-26 3,1.5; csf brain 0,4,-5 2.2,12,15 0; csf brain 0,37,-44 7,6,13 0;
csf brain 0,27,-12 11,4.5,9 0; csf* brain 4,26,-15 18,10,-18 2.5,2; csf brain 0,-9,-28 12,8,8 0; csf* brain 8,-10,-28 30,-20,-24 2.5,2;
csf* brain 37,-16,-6 38,10,10 2.5,2; csf* brain 38,-8,0 60,-2,4 2.4,3; calcium brain 0,21,1 2.2,2.8,6 0;
calcium* brain 18,28,14 2.2,4,7 -0.5; fat* skin 31,-66,-52 18,27,20 -0.25; muscle* - 24,-46,-51 23,-70,-51 1.6,2.2;
muscle* - 30,-42,-51 43,-70,-51 1.4,2.2; stem* - 21,-38,-52 32,-64,-52 2,2.4; dura>globe* - 33,-74,-52 13,13,13 0;
lens* - 33.5,-83,-52 4.2,2.2,4.2 0; cells* skin 7,-62,-54 8,24,22 0; cells* skin 9,-84,-32 12,5.5,13 0.3; cells - 0,-30,-54 14,11,14 0;
cells* - 53,28,-52 12,11,15 0.8; air* - 48,13,-52 70,10,-54 3,4"""
FINDINGS = {  # on one side, heights from the middle of the scan
    "effusion": "fluid lung 75,190,0 160,145,999 0",
    "emphysema": "bulla lung 70,-45,0 13,9,25 -1.1; bulla* lung 96,10,0 13,9,25 0.2; bulla* lung 70,44,0 13,9,25 1.1",
    "pneumonia": "pneumonia lung 92,40,0 34,28,30 0.4",
    "cyst": "fluid below 82,36,0 15,16,18 0",
    "plaque": "calcium - 30,26,0 2,5,20 0.6; calcium - 12,38,0 2,4,20 0.8",
    "haemorrhage": "oedema brain 29,0,0 18,25,22 0.2; blood brain 28,0,0 12,19,17 0.2",
    "infarct": "oedema brain 52,4,0 32,36,34 0",
    "extradural": "blood vault 78,-8,0 25,40,34 0.1",
    "mass": "oedema brain 35,-36,0 24,25,26 0; blood>oedema brain 35,-36,0 12,13,15 0",
    "old": "rarefied* brain 17,-30,4 13,17,22 -0.5; rarefied* brain 20,34,4 13,19,22 0.5",
}


def names(**params):
    """Names of the volumes: ``patient_001`` is the patient of seed 1."""
    p = _settings(params)
    return [f"patient_{seed:03d}" for seed in range(p["first_seed"], p["first_seed"] + p["patients"])]


def describe(**params):
    """What ``inspect`` says of a scan that is read: numbers of slices, shapes, voxels in mm, bytes."""
    p = _settings(params)
    s, n = p["slices"], p["matrix"]
    voxel = [BODIES[p["body"]].fov / n] * 2 + [SPACING]
    return {"slices": s, "shape": [1, n, n], "recon_shape": [n, n], "voxel": voxel, "bytes": 4 * s * n * n}


def lesions(seed, body):
    """What a patient's images hold on purpose, to be scored: a list of `Lesion`, upright ellipsoids."""
    return BODIES[body](seed).lesions


def write(name, file, **params):
    """Write one patient as a folder of DICOM files; the same name and parameters give the same bytes."""
    p, seed, file = _settings(params), int(name.rpartition("_")[2]), Path(file)
    patient = BODIES[p["body"]](seed)
    temporary, old = (file.with_name(f".{file.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        for s, (z, image) in enumerate(patient.volume(p["slices"], p["matrix"], p["noise"])):
            _dataset(patient, s, z, image, p).save_as(temporary / f"IM{s + 1:04d}.dcm", enforce_file_format=True)
        if file.exists():
            file.replace(old)
        temporary.replace(file)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _dataset(patient, s, z, image, params):
    """One slice as a CT image; what could name a person is there, and invented."""
    n, fov, seed = len(image), patient.fov, patient.seed
    identity = seed, fov, params["slices"], n, float(params["noise"])
    axis, corner = (np.arange(n) + 0.5) / n * 2 - 1, (fov / n - fov) / 2
    stored = (np.clip(np.rint(image), -1024, 3071) - INTERCEPT).astype("<i2")
    stored[np.hypot(axis, axis[:, None]) > 1] = PADDING
    uid = {k: generate_uid(entropy_srcs=[str((*identity, k))]) for k in ("study", "series", "frame", s)}
    d, meta = Dataset(), FileMetaDataset()
    d.file_meta, meta.TransferSyntaxUID, meta.ImplementationVersionName = meta, ExplicitVRLittleEndian, "dipline"
    for key, value in {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": uid[s], "StudyInstanceUID": uid["study"], "Modality": "CT",
        "SeriesInstanceUID": uid["series"], "FrameOfReferenceUID": uid["frame"], "PositionReferenceIndicator": "",
        "PatientName": f"synthetic^{seed}", "PatientID": f"SYN{seed:06d}", "PatientBirthDate": "19500101",
        "PatientSex": "O", "StudyDate": "20200102", "StudyTime": "030405", "StudyID": f"ST{seed:06d}",
        "AccessionNumber": f"ACC{seed:06d}", "ReferringPhysicianName": "nobody^invented", "Manufacturer": "dipline",
        "InstitutionName": "No such hospital", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "PatientPosition": "HFS",
        "KVP": 120, "SeriesNumber": 1, "AcquisitionNumber": 1, "InstanceNumber": s + 1, "SliceThickness": SPACING,
        "PixelSpacing": [fov / n, fov / n], "ImagePositionPatient": [corner, corner, z], "Rows": n, "Columns": n,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SamplesPerPixel": 1, "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 1, "PhotometricInterpretation": "MONOCHROME2", "RescaleSlope": 1,
        "RescaleIntercept": INTERCEPT, "RescaleType": "HU", "WindowCenter": 40, "WindowWidth": 400,
    }.items():  # fmt: skip
        setattr(d, key, value)
    d.add_new("PixelPaddingValue", "SS", PADDING)
    d.add_new("PixelData", "OW", stored.tobytes())
    return d


class Patient:
    """One seed's fields, organs, finding and lesions; how a slice is painted is the body's own."""

    def __init__(self, seed):
        rng = np.random.default_rng((seed, int(self.fov)))
        level, finding = seed * 0.618 % 1, seed * 0.414 % 1  # spread evenly, so that few patients show much
        self.seed, self.level = seed, self.levels[int(level * len(self.levels))] + rng.uniform(-7, 7)
        self.fields, self.lesions, self.bed, self.phase = [_field(rng, self.fov, *k) for k in self.knots], [], None, 0
        self.dress(rng)
        possible = self.findings[self.level > -9]
        self.finding = possible[int(finding * len(possible))]
        self.found = _parts(FINDINGS[self.finding], rng, side=rng.choice([-1, 1]), height=self.level)
        self.lesions = list(self.place(np.random.default_rng((seed, 8))))

    def volume(self, slices, matrix, noise=0.0):
        """Height in mm and HU, float32 (matrix, matrix), of every slice, the lowest first."""
        rng = np.random.default_rng((self.seed, 9))
        for s in range(slices):
            z = (s - (slices - 1) / 2) * SPACING
            yield z, self.image(z, matrix) + np.float32(noise) * rng.standard_normal((matrix, matrix), np.float32)

    def image(self, height, matrix):
        """HU of the slice at that height, float32 (matrix, matrix)."""
        c = Plane(self, height, matrix * FINE)
        self.draw(c)
        for p in self.lesions:
            away = np.hypot(np.hypot(c.axis - p.x, c.axis[:, None] - p.y), (height - p.z) * p.diameter / p.length)
            c.put(p.background + p.contrast, (p.diameter / 2 - away) / self.scale)
        c.hu += c.grain * np.interp(c.hu, *self.texture).astype(np.float32)
        return c.hu.reshape(matrix, FINE, matrix, FINE).mean((1, 3))

    def place(self, rng):
        """Lesions inside the organ that `draw` names, away from its borders and each other; three slices meet each."""
        c = Plane(self, 0.0, 256)
        organ, depth, contrasts = self.draw(c)
        plain = np.abs(c.hu - c.tissue[organ]) < 4 + 0.15 * abs(c.tissue[organ])
        for radius in rng.uniform(2, 6, rng.integers(3, 7)).tolist():
            free = uniform_filter(plain.astype(np.float32), int(2 * (radius + 3) / c.width)) > 0.85
            spots = np.argwhere(free & (depth * self.scale > radius + 3))
            if len(spots):
                y, x = c.axis[rng.choice(spots)].tolist()
                away = np.hypot(c.axis - x, c.axis[:, None] - y) - radius
                depth = np.minimum(depth, away / self.scale)
                background = float(np.median(c.hu[plain & (away < 3)]))
                z, contrast = float(rng.uniform(-1, 1)), float(rng.choice(contrasts))
                yield Lesion(organ, x, y, z, 2 * radius, 18.0, background, contrast)

    def couch(self, c, skin):
        """What the patient lies on: foam between two shells, bent upwards at the sides."""
        if self.bed is None:  # the first slice painted is the middle one
            self.bed = float(c.axis[(skin > 0).any(1)].max()) + 4
        bend, thick = self.bent
        down = (c.axis[:, None] - self.bed + bend * c.axis**2) / np.hypot(1, 2 * bend * c.axis)
        c.put(c.tissue["foam"], np.minimum(down, thick - down))
        c.put(c.tissue["shell"], 1.6 - np.minimum(np.abs(down), np.abs(down - thick)))


class Torso(Patient):
    fov, levels, bent = 400.0, (55, 100, -48, -105), (0.0011, 30)
    findings = ("effusion", "cyst", "plaque"), ("effusion", "emphysema", "pneumonia")  # of abdomen and chest
    knots = (75, 90, 5), (75, 90, 5), (28, 40, 1.3), (28, 40, 1.3), (30, 40), (9, 14), (2.4, 7)
    texture = (-990, -950, -800, -300, -105, 0, 500, 1200), (0, 6, 22, 30, 9, 4, 6, 40)  # HU, standard deviation

    def dress(self, rng):
        """Build, contrast agent, bowel and vessels."""
        self.arms, self.female, self.phase = rng.random() < 0.25, rng.random() < 0.5, rng.integers(3)
        self.scale = rng.uniform(0.86, 0.9) if self.arms else rng.uniform(0.9, 1.08)
        self.fat = rng.uniform(5, 9) if self.arms else rng.uniform(7, min(38, 184 / self.scale - 142))
        self.meal, self.level_of_meal = rng.choice([10, 35, 180]), rng.uniform(-50, -20)
        loops = rng.uniform((-65, -60, -270, 10, 15, 12, 0), (84, 4, -88, 14, 30, 15, 3), (75, 7))
        bowel = [_part("wall>bowel", "below", loop[:3], loop[3:6], loop[6]) for loop in loops]
        self.rows, self.spine = bowel + _parts(TORSO, rng), _parts(SPINE, rng)
        self.vessels = [
            *_tree(rng, ("right", "lung"), (-44, 10, 96), (-84, 6, 50), (60, 92, 120), 1100, 0.75),
            *_tree(rng, ("right", "lung"), (44, 10, 96), (84, 6, 50), (60, 92, 120), 1100, 0.75),
            *_tree(rng, ("portal", "liver"), (-38, 0, -60), (-55, -5, -55), (95, 80, 70), 60, 0.95),
            *_tree(rng, ("vein", "liver"), (-24, 12, -12), (-55, -5, -45), (95, 80, 60), 45, 0.95),
        ]

    def draw(self, c):
        """Paint a slice; returns the organ with lesions, the depth inside it and the contrasts of its lesions."""
        x, y, z, hu, angle = c.x, c.y, c.z, c.tissue, np.abs(np.arctan2(c.x, c.y))  # angle 0: the back
        wall = _oval((0, 3, z), (142, 107 - 0.0002 * (z - 20) ** 2, 1), 0, x, y, z, 2.3)  # its surface: the muscles'
        skin = wall + self.fat * (0.75 - 0.25 * np.cos(angle) - 0.12 * np.tanh(z / 40)) * (1 + 0.12 * c.broad)
        breast = _oval((66, -98, 52), (52, 34 + 0.6 * self.fat, 50), 0, np.abs(x), y, z) - 99 * (not self.female)
        skin = _join(skin, breast, 12)
        cavity = wall - 15 - 22 * np.exp(-((x / 55) ** 2)) * (y > 0) + 1.5 * c.broad
        recess = (65 + 35 * np.tanh(y / 30)) * np.exp(-np.maximum(cavity, 0) / 15)  # how far the lung reaches down
        dome = -8 * np.tanh(x / 30) - 14 * ((x / 120) ** 2 + (y / 85) ** 2) - recess
        above = (z - dome) / np.sqrt(1.3 + (recess / 15) ** 2)
        lung, below = np.minimum(np.minimum(cavity - 2.5, above), np.abs(x + 3) - 6), np.minimum(cavity - 2, -above - 3)
        lobes = [_oval((-72, 4, -62), (80, 90, 84), 0, x, y, z), _oval((10, -42, -34), (72, 44, 46), -0.1, x, y, z)]
        liver = np.minimum(_join(*lobes, 14), below)
        c.regions = {"cavity": cavity, "lung": lung, "below": below, "liver": liver}
        gas = _soft((self.level_of_meal - c.axis[:, None] + 0 * x) / c.width)
        hu["spongy"] = hu["spongy"] + 45 * c.grain
        hu["stomach"] = self.meal + (hu["gas"] - self.meal) * gas
        hu["faeces"] = 40 - 700 * _soft(3 * (c.ripple - 0.35)) + 12 * c.broad
        hu["bowel"] = 20 + 15 * c.broad - 980 * _soft(4 * (c.broad - 1.2))
        hu["pneumonia"] = hu["pneumonia"] - 500 * _soft(c.ripple - 0.4)
        hu["medulla"] = hu["cortex"] + (hu["marrow"] - hu["cortex"]) * _soft(2 * c.ripple + 0.3)
        self.couch(c, skin)
        arm = -np.hypot((np.abs(x) - 176 / self.scale + 17) * 1.15, (y - 12) * 0.8) - 99 * (not self.arms)
        for tissue, radius in ("skin", 25), ("fat", 23.2), ("muscle", 18.5), ("cortical", 8), ("spongy", 5):
            c.put(hu[tissue], radius + arm)
        c.put(hu["skin"], skin)
        c.put(hu["fat"] + 25 * np.exp(-((c.ripple / 0.05) ** 2)), skin - 2)
        c.put(hu["gland"], np.minimum(breast - 14 - 0.3 * self.fat + 4 * c.ripple, -wall - 2))
        layers = np.exp(-((np.sin(wall / 2.6 + 1.2 * c.broad) / 0.25) ** 2)) * _soft((angle - 0.6) / 0.2)
        c.put(hu["muscle"] - 110 * np.maximum(layers, np.exp(-((c.ripple / 0.13) ** 2))), wall + 0.6 * c.ripple)
        c.put(hu["fat"], cavity)
        c.put(hu["muscle"], np.minimum(2 - np.abs(above + 1), cavity))  # diaphragm
        # Ribs run forwards and down: what a slice meets of each is a short oval along the wall.
        slant = z + 62 * np.sin(np.minimum(angle / 2.3, 1) * np.pi / 2)
        number = np.maximum(np.round(slant / 24), -2)
        rib = np.minimum(3.8 - 3.8 * np.hypot((slant - 24 * number) / 6.5, (wall - 9) / 3.8), 40 * (angle - 0.3))
        rib = np.minimum(rib, 40 * (np.minimum(2 + 0.45 * number, 2.75) - angle))
        for tissue, depth in ("cortical", rib), ("spongy", rib - 1.5):
            c.put(np.where(angle > 2.2, hu["cartilage"], hu[tissue]), depth)
        c.draw([_part("cortical>spongy", "", (0, -92, 75), (19, 7, 82), 0)])  # sternum
        c.put(hu["lung"] + 0.5 * y + 15 * c.broad, lung)
        fissure = np.abs(y - 12 - 0.8 * (z - 60) - 6 * c.broad - 0.12 * np.abs(x)) / 1.3
        c.put(hu["lung"] + 125, np.minimum(0.7 - fissure, lung - 1))
        c.put(hu["liver"] + 2 * c.broad, liver)
        c.draw(self.vessels + self.rows + self.found)
        c.z = (z + 14) % 28 - 14
        c.draw(self.spine)
        if np.mean(liver > 8) > 0.03:
            return "liver", liver, (-60, -45, -30, -20, 30)
        return "lung", lung, (300, 600, 890)


class Head(Patient):
    fov, levels, bent = 240.0, (16, 26, 38, 4, -44), (0.009, 7)
    findings = ("haemorrhage", "infarct"), ("haemorrhage", "infarct", "extradural", "mass", "old")  # at the base, above
    knots = (50, 60, 2.2), (50, 60, 2.2), (16, 25, 0.6), (16, 25, 0.6), (20, 30), (7.5, 14), (1.6, 7)
    texture = (-990, -900, -300, -60, 0, 100, 400, 800), (0, 10, 20, 12, 1.5, 2, 6, 50)

    def dress(self, rng):
        """Build and atrophy."""
        self.scale, self.atrophy, self.thick = rng.uniform((0.94, 0.6, 5.5), (1.06, 1.7, 8))
        self.rows = _parts(HEAD, rng, swell=0.8 + 0.3 * self.atrophy)

    def draw(self, c):
        """Paint a slice; returns the organ with lesions, the depth inside it and the contrasts of its lesions."""
        x, y, z, hu, side = c.x, c.y, c.z, c.tissue, np.abs(c.x)
        size = np.sqrt(max(1 - (max(z, 0) / 98) ** 2, 1e-4)) * (1 - 0.04 * min(max(-z, 0) / 40, 1))
        bone = _oval((0, 0, z), (71 * size, 90 * size, 1), 0, x, y, z, 2.2)
        temple = 8 * np.maximum(1 - ((y + 28) / 38) ** 2, 0) * _soft((side - 30) / 10) * _soft((35 - z) / 15)
        skin = bone + 5 + 0.8 * temple
        for feature in ((0, -97, -62), (12, 18, 24), 0), ((77, 14, -46), (5, 17, 26), -0.2):  # nose, ears
            skin = _join(skin, _oval(*feature, side, y, z), 3)
        thick = self.thick * (1 + 0.1 * c.broad + 0.25 * np.abs(y) / 90) - 0.12 * temple
        # The floor: roofs of the orbits, middle and posterior fossa, and between these the petrous ridges.
        floor = -34 + 7 * np.exp(-(((side - 32) / 14) ** 2) - ((y + 62) / 20) ** 2)
        floor += -26 * _soft((y + 28) / 6) * _soft((side - 17) / 5) - 60 * _soft((y - 8 - 0.4 * side) / 6)
        base = (z - np.maximum(floor, -39 - 0.16 * (y - 0.45 * side + 4) ** 2) - 2 * c.broad) / 1.5
        vault = np.minimum(bone - thick, base)
        brain = np.minimum(vault - 0.6 - 0.8 * self.atrophy, base - 2)
        c.regions = {"brain": brain, "skin": skin - 1.5, "vault": vault - 0.5}
        hu["cells"] = hu["cells"] + 1300 * np.exp(-((c.ripple / 0.13) ** 2))
        self.couch(c, skin)
        c.put(hu["skin"], skin)
        c.put(0.8 * hu["fat"], skin - 2)
        c.put(hu["muscle"], np.where(temple > 1, bone + 0.8 * temple - 1, -9))
        c.put(hu["skull"], bone)
        c.put(hu["diploe"] + 150 * c.ripple, thick / 2 - 1.9 - np.abs(bone - thick / 2) + 0.3 * c.broad, soft=2)
        c.put(hu["muscle"] - 120 * _soft(1.5 * c.ripple), np.minimum(bone - thick, -base - 2.5))  # face
        c.put(hu["dura"], vault)
        c.put(hu["csf"], np.minimum(vault - 0.6, base - 0.8))
        # The sulci are zero lines of a random field, as deep as `reach` lets them; the cortex lies along every surface.
        fossa = _oval((0, 50, -52), (54, 42, 34), 0, x, y, z)  # the cerebellum's
        swollen = self.found[0][-1](x, y, z) if self.finding == "infarct" else -9
        reach = np.clip(1 - brain / 30, 0, 1) * (fossa < 0) * (1 - _soft(swollen / 4))
        line = np.abs(c.ripple) / (np.hypot(*np.gradient(c.ripple, c.width / c.scale)) + 0.04)
        falx = np.abs(x + 0.8 * c.broad) + 9 * ((z < -12) | (np.abs(y) < 32) & (z < 24))
        sulcus = line - self.atrophy * (1.25 * reach - 0.1) + 9 * (1 - reach) ** 4
        surface = np.minimum(np.minimum(sulcus, falx - 0.3 - 0.7 * self.atrophy), brain)
        c.put(hu["white"] + 0.8 * c.broad + (hu["grey"] - hu["white"]) * _soft((2.8 - surface) / 1.2), brain)
        c.put(hu["cerebellum"] + 2.5 * np.sin(1.2 * fossa + 2 * c.ripple + c.broad), np.minimum(fossa, brain), soft=2)
        c.draw(self.rows + self.found)
        c.put(hu["csf"], np.minimum(-surface, brain + 2))
        c.put(hu["dura"], np.minimum(0.7 - np.minimum(falx, np.abs(fossa)), brain + 2))  # with the tentorium
        c.put(hu["dura"], 4.5 - np.hypot(0.8 * x, np.abs(brain + 1) + 9 * (y < 40)))  # sagittal sinus
        if z < -25:
            return "cerebellum", np.minimum(np.minimum(fossa, brain) - 4, np.hypot(x, y - 37) - 12), (-16, -12, 30)
        return "white", np.minimum(np.minimum(surface - 4, brain - 6), np.hypot(x, y) - 12), (-16, -12, 30)


BODIES = {"torso": Torso, "head": Head, "mixed": lambda seed: (Head, Torso)[seed % 2](seed)}


class Plane:
    """A slice on the fine grid: x, y float32 (n, n) and z in mm of the standard body, HU of tissues, HU as painted."""

    def __init__(self, patient, height, n):
        self.width, self.scale, self.z = patient.fov / n, patient.scale, height + patient.level
        self.axis = ((np.arange(n) + 0.5) * self.width - patient.fov / 2).astype(np.float32)
        right, down, right2, down2, self.broad, self.ripple, self.grain = (f(height, self.axis) for f in patient.fields)
        self.x, self.y = (self.axis + right + right2) / self.scale, (self.axis[:, None] + down + down2) / self.scale
        self.stray = max(np.abs(right + right2).max(), np.abs(down + down2).max())
        values = {tissue: list(map(float, hu)) for tissue, *hu in map(str.split, HU.split(","))}
        self.tissue = {tissue: hu[patient.phase % len(hu)] for tissue, hu in values.items()}
        self.hu = np.full((n, n), self.tissue["air"], np.float32)

    def put(self, value, depth, box=..., soft=1.0):
        """Paint where `depth` is positive, with an edge of two fine pixels times `soft`."""
        value = value[box] if isinstance(value, np.ndarray) else value
        self.hu[box] += (value - self.hu[box]) * _soft(depth * self.scale / (2 * soft * self.width))

    def draw(self, parts):
        """Paint ovals and rods in turn, each on the part of the grid where it can lie."""
        for tissue, region, low, high, shape in parts:
            if low[2] < self.z < high[2]:
                corners = low[:2] * self.scale - self.stray, high[:2] * self.scale + self.stray
                (left, top), (right, bottom) = (np.searchsorted(self.axis, at) for at in corners)
                box = np.s_[top:bottom, left:right]
                names = tissue.split(">")
                soft = SOFT.get(names[0], 0)
                depth = shape(self.x[box], self.y[box], self.z) + 0.3 * soft * (self.broad[box] + self.ripple[box])
                depth = np.minimum(depth, self.regions[region][box]) if region in self.regions else depth
                for i, name in enumerate(names):
                    self.put(self.tissue[name], depth - 2 * i, box, 1 + soft)


def _field(rng, fov, size, rise, height=1.0):
    """A random function (z, axis) -> float32 (n, n), standard deviation `height`; knots every `size`, in z `rise` mm."""
    width, depth = (int(np.ceil(2 * reach / step)) + 4 for reach, step in ((fov / 2, size), (REACH, rise)))
    weights = rng.standard_normal((depth, width * width), np.float32) * np.float32(height / 0.332)

    def basis(at, step, reach, count):  # sparse, and so the sums do not depend on the number of threads
        knots = step * (np.arange(count + 4) - 3) - reach
        return BSpline.design_matrix(np.asarray(at, float), knots, 3).astype(np.float32)

    def plane(z, axis):
        at, here = basis(axis, size, fov / 2, width), basis([np.clip(z, -REACH, REACH)], rise, REACH, depth)
        return at @ (at @ (here @ weights).reshape(width, width)).T

    return plane


def _part(tissue, region, first, second, last):
    """What `draw` takes: tissue, region, two corners of a box around the shape, its depth as a function of x, y, z."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if np.ndim(last):
        low, high = np.minimum(first, second) - max(last), np.maximum(first, second) + max(last)
        return tissue, region, low, high, partial(_rod, first, second, last)
    reach = np.maximum(second, (second[1], second[0], 0))
    return tissue, region, first - reach, first + reach, partial(_oval, first, second, last)


def _parts(rows, rng, side=1, height=0.0, swell=1.0):
    """A table as one patient has it: ovals a little moved and grown, rods of fluid swollen; moved to a side and up."""
    out = []
    for tissue, region, *numbers in map(str.split, rows.split(";")):
        first, second, last = ([float(v) for v in n.split(",")] for n in numbers)
        for s in (side, -side)[: 1 + tissue.endswith("*")]:
            a, b = np.multiply(first, (s, 1, 1)) + (0, 0, height), np.multiply(second, (s, 1, 1)) + (0, 0, height)
            if len(last) == 1:
                b = np.multiply(second, rng.uniform(0.92, 1.08))
                a += 0.05 * np.minimum(b, 60) * rng.standard_normal(3)
            last_ = s * last[0] if len(last) == 1 else np.multiply(last, swell if tissue.startswith("csf") else 1)
            out.append(_part(tissue.strip("*"), region, a, b, last_))
    return out


def _tree(rng, kind, root, centre, axes, count, thin):
    """Vessels that branch from `root` to random points of an oval, each of which joins the tree where its way is short.

    Cuntz et al. (2010), https://doi.org/10.1371/journal.pcbi.1000877; a vessel is the thicker, the more it feeds.
    """
    points = rng.standard_normal((count, 3))
    points *= rng.random((count, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True) * axes
    points = np.concatenate([[root], sorted(points + centre, key=lambda p: np.linalg.norm(p - root))])
    way, parent, fed = np.zeros(count + 1), np.zeros(count + 1, int), np.ones(count + 1)
    for i in range(1, count + 1):
        away = np.linalg.norm(points[:i] - points[i], axis=1)
        parent[i] = np.argmin(away + 0.4 * way[:i])
        way[i] = way[parent[i]] + away[parent[i]]
    for i in range(count, 0, -1):
        fed[parent[i]] += fed[i]
    thick = np.minimum(thin * fed**0.38, 6)
    return [
        _part(*kind, points[k], points[i], (min(thick[k], 1.4 * thick[i]), thick[i])) for i, k in enumerate(parent) if i
    ]


def _oval(centre, axes, tilt, x, y, z, power=2):
    """Depth inside an ellipsoid (power 2; above: box-like) that is tilted in the slice, to first order."""
    dx, dy, sin, cos = x - centre[0], y - centre[1], np.sin(tilt), np.cos(tilt)
    u, v, w = np.abs(dx * cos + dy * sin) / axes[0], np.abs(dy * cos - dx * sin) / axes[1], (z - centre[2]) / axes[2]
    far = (u**power + v**power + abs(w) ** power + 1e-6) ** (1 / power)
    steep = np.hypot((u / far) ** (power - 1) / axes[0], (v / far) ** (power - 1) / axes[1])
    return (1 - far) / np.maximum(steep, 0.5 / max(axes[:2]))


def _rod(p, q, radii, x, y, z):
    """Depth inside a tapered rod."""
    d, dx, dy, dz = q - p, x - p[0], y - p[1], z - p[2]
    t = np.clip((dx * d[0] + dy * d[1] + dz * d[2]) / (d @ d), 0, 1)
    far = np.sqrt((dx - t * d[0]) ** 2 + (dy - t * d[1]) ** 2 + (dz - t * d[2]) ** 2)
    return radii[0] + (radii[1] - radii[0]) * t - far


def _join(a, b, width):
    """The greater of two depths, rounded where they meet."""
    return np.maximum(a, b) + np.maximum(width - np.abs(a - b), 0) ** 2 / (4 * width)


def _soft(t):
    """A smooth step from 0 at -1/2 to 1 at 1/2."""
    t = np.clip(t + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _settings(params):
    return {k: v[0] if isinstance(v, tuple) else v for k, v in PARAMETERS.items()} | params
