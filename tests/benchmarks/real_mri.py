"""Run config/studies/real_mri.yaml and write tests/benchmarks/results/real_mri.md: what `make real` does.

The semi-real scans are scored a second time, against their noise-free truth.
"""

import common
import numpy as np
from common import above, scores, shown, table, value

from dipline import metrics
from dipline.report import tables

BASE, LEAST = "zero_filled", 2.0  # dB that every untrained arm should be above it at R = 4


def page(plan, m, data):
    """The lines of the table."""
    m, lines, arms = m[m.slice == ""], [], list(plan.study.arms)
    full = m[m.dataset == "full"]
    for volume, part in full.groupby("volume", sort=False):
        lines += [f"## {volume}", "", *of_volume(part, arms), *common.pictures(plan, "full", volume)]
        truth = data / "mri" / f"{volume}_truth.npz"
        if truth.exists():
            lines += ["Stopped, against the noise-free truth:", "", *against_truth(plan, volume, np.load(truth)["image"])]
    for volume, part in m[m.dataset == "prospective"].groupby("volume", sort=False):
        share = plan.study.acquisition("prospective", "as_measured").holdout
        lines += [f"## {volume}, as measured", "", f"No truth: {100 * share:g} % of the samples were held out.", ""]
        lines += [*held_out(part, arms, common.untrained(plan)), *common.pictures(plan, "prospective", volume)]
    lines += [f"## Untrained arms below {BASE} + {LEAST:g} dB at R4", ""]
    return lines + common.below(full[full.acq == "R4"], common.untrained(plan), BASE, LEAST)


def of_volume(part, arms):
    """One table: what arms hand over, their peak, and what they are above zero-filled, under each acquisition."""
    columns = {}
    for acq, rows in part.groupby("acq", sort=False):
        columns |= {
            f"{acq} stopped": lambda arm, rows=rows: scores(rows[rows.arm == arm]),
            f"{acq} peak": lambda arm, rows=rows: scores(rows[rows.arm == arm], "peak"),
            f"{acq} stopped − zero-filled": lambda arm, rows=rows: shown(above(rows, arm, BASE), "+.2f"),
        }
    achieved = [f"{acq} {shown(value(rows, 'acceleration_achieved', ''), '.2f')}" for acq, rows in part.groupby("acq", sort=False)]
    return [f"Acceleration achieved: {', '.join(achieved)}.", "", *table(arms, columns)]


def held_out(part, arms, untrained):
    """Error on the held-out samples, with a mark for untrained arms that are no better than CG-SENSE."""
    error = {arm: value(part[part.arm == arm], "heldout_nmse") for arm in arms}
    mark = {arm: "not below sense" if arm in untrained and not error[arm] < error["sense"] else "" for arm in arms}
    residual = lambda arm: shown(value(part[part.arm == arm], "residual"), ".4f")  # noqa: E731
    return table(arms, {"held-out NMSE": lambda a: shown(error[a], ".4f"), "data residual": residual, "": mark.get})


def against_truth(plan, volume, image):
    """PSNR / SSIM of what arms hand over against the magnitude of the noise-free image, complex (slices, H, W)."""
    found = {}
    for job in plan.jobs:
        views = tables.views(plan, job) if (job.dataset, job.volume) == ("full", volume) else {}
        if views and set(views) == set(plan.volumes["full"][volume]["chosen"]):
            x = np.stack([views[s]["view"] for s in sorted(views)])
            want = np.stack([centre(np.abs(image[s]), x.shape[-2:]) for s in sorted(views)])
            psnr, ssim = metrics.psnr(x, want, want.max()), metrics.ssim(x, want, want.max())
            found[job.acq, job.arm] = f"{psnr:.2f} / {ssim:.3f}"
    acqs = plan.study.datasets["full"].acquisitions
    return table(plan.study.arms, {acq: lambda arm, acq=acq: found.get((acq, arm), "no result") for acq in acqs})


def centre(image, shape):
    top, left = ((a - b) // 2 for a, b in zip(image.shape, shape, strict=True))
    return image[top : top + shape[0], left : left + shape[1]]


if __name__ == "__main__":
    common.main("real_mri", "mri", page)
