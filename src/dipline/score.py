"""Scores of one volume under one acquisition, arm and seed. Besides the pictures, the only reader of the truth."""

import json
import shutil

import numpy as np

from dipline import metrics, store

METRICS = ("psnr", "ssim", "nmse", "hfen")


def score(recons, snapshots, reference, measurement, heldout, out, state=None):
    """Write the scores of a volume as JSON; remove the states of its reconstructions, which are now seen.

    Rows are ``[slice, metric, which, value]``; slice "" is the volume. ``which``: ``stopped`` (what the arm hands
    over), ``last``, ``peak`` (oracle: of every slice the snapshot with the highest PSNR).
    """
    images, shots, specs = {}, {}, []
    for recon, shot in zip(recons, snapshots, strict=True):
        head, found = store.read(recon, names=("image", "view", "last_view"))
        images |= found
        specs.append(head["provenance"]["spec"])
        shots |= store.read(shot)[1]
    truth, views = store.read(reference)
    head = store.attributes(measurement)
    good = {s: i for s, i in images.items() if i["status"] == "done"}
    reasons = sorted({i["reason"] for i in images.values() if i["status"] != "done"})
    result = {
        "status": "done" if len(good) == len(images) else "failed", "reason": "; ".join(reasons),
        "failed_slices": sorted(set(images) - set(good)), "rows": [], "curves": {}, "specs": specs,
        "chosen": {s: i["chosen"] for s, i in good.items()}, "watched": {s: i["watched"] for s, i in good.items()},
        "iterations": {s: i["iterations"] for s, i in good.items()},
    }  # fmt: skip
    rows = result["rows"]
    if truth["status"] == "failed":
        result |= {"status": "failed", "reason": result["reason"] or f"no reference: {truth['reason']}"}
    if good and truth["status"] == "done":
        _against_truth(result, good, shots, views, truth["range"], complete=len(good) == len(images))
    if good and store.attributes(heldout)["status"] == "done":
        kept = {s: _heldout(heldout, s, i["image"], head["physics"]) for s, i in good.items()}
        rows += [[s, "heldout_nmse", "stopped", value] for s, value in kept.items()]
    each = ("residual", "seconds", "iterations", "memory_mb")
    rows += [[s, key, "stopped", i[key]] for s, i in good.items() for key in each]
    if good and len(good) == len(images):
        total = {
            "seconds": np.sum, "iterations": np.mean, "residual": np.mean, "heldout_nmse": np.mean, "memory_mb": np.max,
        }  # fmt: skip
        for key, of in total.items():
            values = [r[3] for r in rows if r[1] == key]
            if values:
                rows.append(["", key, "stopped", float(of(values))])
    if "acceleration_achieved" in head:
        rows.append(["", "acceleration_achieved", "", head["acceleration_achieved"]])
    store.write_text(out, json.dumps(result, default=float))
    if state:
        shutil.rmtree(state, ignore_errors=True)


def _against_truth(result, good, shots, views, data_range, complete):
    """PSNR, SSIM, NMSE, HFEN of slices and, where no slice is missing, of the volume; the curves."""
    stopped, last = ({s: i[view] for s, i in good.items()} for view in ("view", "last_view"))
    kinds = {"stopped": stopped, "last": last, "peak": {}}
    for s in good:
        if not len(shots[s]["steps"]):
            continue
        frames = shots[s]["views"].astype(np.float32) * shots[s]["scale"]
        psnr = [metrics.psnr(f, views[s]["view"], data_range) for f in frames]
        kinds["peak"][s] = frames[int(np.argmax(psnr))]
        result["curves"][s] = {"steps": shots[s]["steps"].tolist(), "psnr": psnr}
    for which, found in kinds.items():
        for s, view in found.items():
            result["rows"] += [[s, m, which, v] for m, v in _values(view, views[s]["view"], data_range).items()]
        if complete and len(found) == len(good):
            order = sorted(found)
            image, truth = np.stack([found[s] for s in order]), np.stack([views[s]["view"] for s in order])
            volume = _values(image, truth, data_range)
            result["rows"] += [["", m, which, v] for m, v in volume.items()]


def _values(image, truth, data_range):
    return {
        "psnr": metrics.psnr(image, truth, data_range), "ssim": metrics.ssim(image, truth, data_range),
        "nmse": metrics.nmse(image, truth), "hfen": metrics.hfen(image, truth),
    }  # fmt: skip


def _heldout(file, index, image, physics):
    """‖A_held x − y_held‖² / ‖y_held‖² on the samples that no arm has seen."""
    import torch

    from dipline import registry

    A, y = registry.get("physics", physics).load().build(store.arrays(file, index))
    return float(A.residual(torch.from_numpy(image), y) / y.abs().square().sum())
