"""Scores of one volume under one acquisition, arm and seed. Besides the pictures, the only reader of the truth."""

import json
import shutil
from functools import partial

import numpy as np

from dipline import metrics, registry, store


def score(recons, snapshots, reference, measurement, heldout, out, state=None):
    """Write the scores of a volume as JSON; remove the states of its reconstructions, which are now seen.

    Rows are ``[slice, metric, which, value]``; slice "" is the volume. ``which``: ``stopped`` (what the arm hands
    over), ``last``, ``peak`` (oracle: of every slice the image with the highest PSNR among the snapshots and these two, which are seldom
    among the snapshots; only where there are any).
    """
    images, shots, specs = {}, {}, []
    for recon, shot in zip(recons, snapshots, strict=True):
        head, found = store.read(recon, names=("image", "view", "last_view"))
        specs.append(store.checked(recon, head, "recon")["provenance"]["spec"])
        images |= found
        shots |= store.read(shot)[1]
    truth, views = store.read(reference)
    store.checked(reference, truth, "reference")
    head = store.checked(measurement, store.attributes(measurement), "measurement")
    kept = store.checked(heldout, store.attributes(heldout), "heldout")
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
        _same_scan(reference, good, views)
        if registry.get("physics", head["physics"]).get("AMBIGUOUS"):
            _align(good, shots, views, head["physics"])
        _against_truth(result, good, shots, views, truth, complete=len(good) == len(images))
    if good and kept["status"] == "done":
        rows += [[s, "heldout_nmse", "stopped", _heldout(heldout, s, i["image"], head["physics"])] for s, i in good.items()]
    each = ("residual", "seconds", "iterations", "memory_mb")
    rows += [[s, key, "stopped", i[key]] for s, i in good.items() for key in each if key in i]
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


def _same_scan(reference, good, views):
    """Corrupt where the reference lacks a slice or shows images of another size."""
    if not set(good) <= set(views):
        raise store.absent(reference, sorted(set(good) - set(views)), views)
    for s, i in good.items():
        if i["view"].shape != views[s]["view"].shape:
            found = f"slice {s} of {views[s]['view'].shape}, needed: {i['view'].shape}, the size of the reconstruction"
            raise store.Corrupt(f"{reference}: found {found}; name the reference of the same scan")


def _align(good, shots, views, physics):
    """Turn and move all images to where the truth is: the measurement does not tell."""
    aligned = registry.get("physics", physics).load().aligned
    for s, i in good.items():
        for name in ("view", "last_view"):
            i[name] = aligned(i[name], views[s]["view"])
        frames = shots[s]["views"].astype(np.float32)
        shots[s]["views"] = np.stack([aligned(f, views[s]["view"]) for f in frames]) if len(frames) else frames


def _against_truth(result, good, shots, views, truth, complete):
    """Scores of slices and, where no slice is missing, of the volume; the curves."""
    scores, data_range = truth["scores"], truth["range"]
    stopped, last = ({s: i[view] for s, i in good.items()} for view in ("view", "last_view"))
    kinds = {"stopped": stopped, "last": last, "peak": {}}
    for s in good:
        if not len(shots[s]["steps"]):
            continue
        frames = [*(shots[s]["views"].astype(np.float32) * shots[s]["scale"]), stopped[s], last[s]]
        want = _within(views[s]["view"], scores[0])
        psnr = [metrics.psnr(_within(f, scores[0]), want, data_range) for f in frames]
        kinds["peak"][s] = frames[int(np.nanargmax(psnr))]
        result["curves"][s] = {"steps": shots[s]["steps"].tolist(), "psnr": psnr[:-2]}
    for which, found in kinds.items():
        for s, view in found.items():
            values = _values(view, views[s]["view"], scores, data_range)
            result["rows"] += [[s, m, which, v] for m, v in values.items()]
        if complete and len(found) == len(good):
            order = sorted(found)
            image, want = np.stack([found[s] for s in order]), np.stack([views[s]["view"] for s in order])
            volume = _values(image, want, scores, data_range)
            result["rows"] += [["", m, which, v] for m, v in volume.items()]


def _values(image, want, scores, data_range):
    """{metric: value}; in a window of its own, ``psnr_40_400``, the range is that of the window."""
    found = {}
    for score in scores:
        low, high = score.get("clip") or (None, None)
        span = data_range if high is None else high - low
        x, y = _within(image, score), _within(want, score)
        for name in score["metrics"]:
            value = VALUES[name](x, y, span)
            found[f"{name}_{score['name']}" if score.get("name") else name] = value
    return found


VALUES = {
    "psnr": metrics.psnr, "ssim": metrics.ssim, "ssim_wang": partial(metrics.ssim, gaussian=True),
    "nmse": lambda x, y, _: metrics.nmse(x, y),
    "hfen": lambda x, y, _: metrics.hfen(x, y), "rmse_hu": lambda x, y, _: metrics.rmse(x, y),
}  # fmt: skip


def _within(image, score):
    """The image cut off at the limits of a score's window."""
    low, high = score.get("clip") or (None, None)
    return image if low is None and high is None else np.clip(image, low, high)


def _heldout(file, index, image, physics):
    """‖A_held x − y_held‖² / ‖y_held‖² on the samples that no arm has seen."""
    import torch

    A, y = registry.get("physics", physics).load().build(store.arrays(file, index))
    return float(A.residual(torch.from_numpy(image), y) / y.abs().square().sum())
