"""Results as the workflow would leave them, without running it: for the tests of report and export.

``folder()`` writes a whole ``results/<study>/`` below the current directory; ``cohort()`` makes metrics of any number
of patients.
"""

import json

import numpy as np
import pandas as pd

from dipline import measure, score, store
from dipline.hounsfield import AIR
from dipline.plan import Plan
from dipline.report.tables import COLUMNS

ARMS = {
    "tv": {"method": "tv"},
    "dip": {"method": "vanilla", "iterations": 2000},
    "es_dip": {"method": "vanilla", "stop": {"wmv": {"window": 50}}, "watch": ["emv"], "iterations": 2000},
    "aseq": {"method": "aseq", "iterations": 2000},
}
NOISE = {"tv": 0.05, "dip": 0.06, "es_dip": 0.045, "aseq": 0.035, "fbp": 0.09, "zero_filled": 0.08, "sense": 0.05}
SIZE = (40, 32)  # rows, columns of an image
AFFINE = [[-2.0, 0, 0, 30.0], [0, -2.5, 0, 50.0], [0, 0, 5.0, -10.0], [0, 0, 0, 1.0]]
FAILED = ("knee", "patient_002", "R8", "aseq", 1)  # slice 1 has no image
MISSING = ("knee", "patient_001", "R8", "dip", 1)  # killed at every attempt


TORSO = {  # a CT dataset
    "reader": "phantom_ct", "slices": "middle 2", "params": {"patients": 2, "slices": 4, "matrix": 64},
    "acquisitions": {
        "V18": {"views": 18, "photons": 1e5},
        "V30": {"views": 30, "geometry": "fanflat", "scanner": "aapm", "inverse_crime": True, "holdout": 0.1},
    },
}  # fmt: skip


def both():
    """What makes a study of MRI and CT of the one below: folder(**both())."""
    return {"datasets": {"knee": study()["datasets"]["knee"], "torso": TORSO}, "arms": ARMS | {"fbp": {"method": "fbp"}}}


def study(**more):
    return {
        "study": "fabricated",
        "datasets": {
            "knee": {
                "reader": "phantom", "slices": "middle 2",
                "params": {"patients": 3, "slices": 4, "matrix": 128, "coils": 2},
                "acquisitions": {
                    "R4": {"mask": "random", "acceleration": 4, "center_fraction": 0.08},
                    "R8": {"mask": "equispaced_fraction", "acceleration": 8, "center_fraction": 0.04},
                },
            },
            "trial": {
                "reader": "phantom", "slices": "middle 2",
                "params": {"patients": 1, "first_seed": 9, "slices": 4, "matrix": 128, "coils": 2},
                "acquisitions": {"as_measured": {"holdout": 0.05}},
            },
        },
        "arms": ARMS, "seeds": [0, 1],
    } | more  # fmt: skip


def picture(volume, index, size):
    """An ellipse with a few smaller ones inside, another for every volume and slice."""
    rng = np.random.default_rng([len(volume), ord(volume[-1]), index])
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    image = 0.6 * (x**2 / 0.6 + y**2 / 0.8 < 1)
    for cx, cy, r, v in zip(
        *rng.uniform(-0.4, 0.4, (2, 6)), rng.uniform(0.05, 0.25, 6), rng.uniform(-0.3, 0.4, 6), strict=True
    ):
        image += v * ((x - cx) ** 2 + (y - cy) ** 2 < r**2)
    return (np.maximum(image, 0) * 3e-4).astype(np.float32)


def hounsfield(image):
    """The ellipses as HU, air around them."""
    return (AIR + image * (1700 / 3e-4)).astype(np.float32)


def folder(size=SIZE, image=picture, **more):
    """Results of two volumes (a third is broken), four arms, two seeds; one job failed, one is missing. The plan."""
    plan = Plan.load(study(**more))
    index = json.loads((plan.root / ".scans/index.json").read_text())
    for dataset, entries in index.items():
        if "patient_003" in entries["volumes"]:
            broken = f"scans/{dataset}/patient_003.h5: not an HDF5 file; copy it again"
            entries["volumes"]["patient_003"]["problem"] = broken
    store.write_text(plan.root / ".scans/index.json", json.dumps(index))
    store.write_text(plan.root / "study.resolved.yaml", plan.resolved_yaml())
    plan = Plan.open(plan.root)
    for dataset, volumes in plan.volumes.items():
        for volume in volumes:
            _truth(plan, dataset, volume, size, image)
    for job in plan.jobs:
        if job != MISSING:
            _job(plan, job, size, image)
    return plan


def undersampled(plan, dataset):
    return "as_measured" in plan.study.datasets[dataset].acquisitions


def _views(plan, dataset, volume, size, image):
    """The truth of the chosen slices, in the modality's own unit."""
    unit = hounsfield if plan.study.modality(dataset) == "ct" else lambda x: x
    return {s: unit(image(volume, s, size)) for s in plan.volumes[dataset][volume]["chosen"]}


def _range(plan, dataset, views):
    low = AIR if plan.study.modality(dataset) == "ct" else 0.0
    return max(float(v.max()) for v in views.values()) - low


def _truth(plan, dataset, volume, size, image):
    views, modality = _views(plan, dataset, volume, size, image), plan.study.modality(dataset)
    if undersampled(plan, dataset):
        none = {"kind": "reference", "status": "none", "reason": "the scan is undersampled: there is no truth"}
        store.write(plan.reference(dataset, volume), {}, none)
    else:
        attributes = {
            "kind": "reference", "status": "done", "reason": "", "range": _range(plan, dataset, views),
            "scores": measure.MODALITIES[modality].SCORES,
        }  # fmt: skip
        store.write(plan.reference(dataset, volume), {s: {"view": v} for s, v in views.items()}, attributes)
    for acq in plan.study.datasets[dataset].acquisitions:
        a = plan.study.acquisition(dataset, acq)
        mri = {
            "acceleration_achieved": {"R4": 3.84, "R8": 7.53}.get(acq, 2.1), "crop": "readout", "maps": "espirit", "coils": 2,
            "units": "a.u.",
        }  # fmt: skip
        own = {"views": a.views, "units": "HU", "limits": ["truncated"] * (acq == "V30")} if modality == "ct" else mri | {"mask": a.mask}
        store.write(plan.measurement(dataset, volume, acq), {}, own | {
            "kind": "measurement", "status": "done", "reason": "", "affine": AFFINE, "voxel": [2.0, 2.5, 5.0], "modality": modality,
            "physics": a.physics,
            "warnings": ["few calibration lines: 4"] if acq == "R8" else [],
        })  # fmt: skip


def _job(plan, job, size, image):
    rng = np.random.default_rng([job.seed, *map(ord, job.arm + job.volume + job.acq)])
    noise = NOISE[job.arm] * (1.8 if job.acq in ("R8", "V18") else 1.0)
    slices, rows, curves = {}, [], {}
    truths, scores = _views(plan, job.dataset, job.volume, size, image), measure.MODALITIES[plan.study.modality(job.dataset)].SCORES
    span, positive = _range(plan, job.dataset, truths), np.abs if scores is measure.MODALITIES["mri"].SCORES else np.asarray
    chosen, steps = list(truths), np.unique(np.geomspace(1, 2000, 40).astype(int)) - 1
    result = {"status": "done", "reason": "", "curves": {}, "chosen": {}, "watched": {}, "iterations": {}}
    for s in chosen:
        broken = job == FAILED and s == chosen[0]
        if broken:
            slices[s] = {"status": "failed", "reason": "step 312: the loss is not a number"}
            result |= {"status": "failed", "reason": slices[s]["reason"]}
            continue
        view = positive(truths[s] + noise * span * rng.standard_normal(size)).astype(np.float32)
        k = 900 if job.arm == "es_dip" else 1999
        slices[s] = {
            "status": "done", "reason": "", "image": view[None].astype(np.complex64), "view": view,
            "last_view": view, "iterations": 2000, "chosen": k,
            "seconds": 10.0 + s, "scale": 3e-4, "checksum": store.checksum(view), "memory_mb": 512.0,
            "watched": {"emv": 700}, "residual": noise**2,
        }  # fmt: skip
        rows += [
            [s, "seconds", "stopped", 10.0 + s],
            [s, "iterations", "stopped", 2000.0],
            [s, "residual", "stopped", noise**2],
        ]
        result["chosen"][s], result["watched"][s], result["iterations"][s] = (
            k,
            {"emv": 700} if job.arm == "es_dip" else {},
            2000,
        )
        if not undersampled(plan, job.dataset):
            top = score._values(view, truths[s], scores, span)["psnr"]
            rise = (
                8
                + (top - 8) * (1 - np.exp(-steps / 150))
                - (np.maximum(steps - 600, 0) / 1400 * 3 if job.arm != "aseq" else 0)
            )
            if job.arm not in ("tv", "fbp"):
                curves[s] = {"steps": steps.tolist(), "psnr": rise.tolist()}
    values = _scores(job, slices, truths, scores, span)
    if undersampled(plan, job.dataset):
        values = [["", "heldout_nmse", "stopped", NOISE[job.arm] + 0.001 * job.seed]]
    if result["status"] == "done":
        total = {"seconds": sum(i["seconds"] for i in slices.values()), "iterations": 2000.0, "residual": noise**2}
        values += [["", m, "stopped", v] for m, v in total.items()]
    else:
        values = [v for v in values if v[0] != ""]
    values += [["", "acceleration_achieved", "", 3.84]] if job.acq.startswith("R") else []
    store.write_text(plan.score(job), json.dumps(result | {"rows": rows + values, "curves": curves}))
    provenance = {
        "verb": "reconstruct", "command": "dipline reconstruct …", "dipline": "0.1.0", "commit": "0123456789ab",
        "python": "3.11.7", "versions": {"numpy": "2.3.0", "torch": "2.9.0"}, "inputs": {"R4.h5": "ab" * 32},
        "spec": json.loads(plan.reconstruct_spec(job.dataset, job.acq, job.arm)), "host": f"node{job.seed}",
        "time": "2026-01-01T10:00:00+0000", "seed": job.seed, "device": "cpu", "threads": 1,
    }  # fmt: skip
    for file, block in zip(plan.recons(job), plan.blocks(job.dataset, job.volume, job.arm).values(), strict=True):
        store.write(
            file,
            {s: slices[s] for s in block},
            {"kind": "recon", "seed": job.seed, "provenance": provenance, "status": result["status"]},
        )


def _scores(job, slices, truths, scores, span):
    good = sorted(s for s, c in slices.items() if c["status"] == "done")
    rows = []
    for at, chosen in [("", good), *((s, [s]) for s in good)]:
        x, truth = np.stack([slices[s]["view"] for s in chosen]), np.stack([truths[s] for s in chosen])
        for metric, v in score._values(x, truth, scores, span).items():
            better = 1 if metric.startswith(("psnr", "ssim")) else -1
            change = {"stopped": 0, "peak": 0.02, "last": 0 if job.arm in ("tv", "fbp") else -0.01}
            rows += [[at, metric, which, v * (1 + better * c)] for which, c in change.items()]
    return rows


def cohort(values, dataset="knee", acq="R8", metric="psnr", which="stopped", seeds=(0,)):
    """Metrics of a study from {arm: [a value for each patient]}; a seed adds its number."""
    rows = [
        ("fabricated", dataset, "mri", f"patient_{i:03d}", "", acq, 8.0, np.nan, arm, seed, metric, which, value + seed)
        for arm, row in values.items() for i, value in enumerate(row, 1) for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)
