"""Pictures: the reference and every arm side by side, with the same region enlarged and error maps of one common scale.

One figure for each (dataset, acquisition, volume) of ``plan.shown()``: the middle one of the chosen slices, the first seed. A cell
whose image is missing says why. Without a reference the last row is the standard deviation over seeds.
"""

import textwrap

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from dipline import metrics as quality
from dipline import store
from dipline.plan import Job
from dipline.report import style, tables

COLUMNS = 6
WIDTH = 1.75  # inches of a column
CT_WINDOW = (-160.0, 240.0)  # HU; centre 40, width 400
ERRORS = "inferno"


def write(plan):
    """Write all panels; returns their files."""
    return [draw(plan, *key) for key in plan.shown()]


def draw(plan, dataset, acq, volume):
    """Draw the panel of one volume to ``plan.panel(dataset, acq, volume)``."""
    chosen = plan.volumes[dataset][volume]["chosen"]
    index = chosen[len(chosen) // 2]
    truth, full = _reference(plan, dataset, volume, index)
    cells = [
        _cell(plan, arm, dataset, volume, acq, index, truth, full)
        for arm in plan.study.arms
        if plan.study.solves(arm, dataset)
    ]
    title = f"{dataset} · {volume} · slice {index} · {acq}"
    with rc_context(style.FONT):
        figure = _figure(cells, truth, full, plan.study.modality(dataset), title)
        out = plan.panel(dataset, acq, volume)
        with store.written(out) as part:
            figure.savefig(
                part, format="png", dpi=200, bbox_inches="tight", pad_inches=0.06, metadata={"Software": None}
            )
    return out


def _reference(plan, dataset, volume, index):
    """(the truth of a slice or None, the range of the volume)"""
    try:
        head, slices = store.read(plan.reference(dataset, volume), index, names=("view",))
    except OSError:  # store.Corrupt is one: not there, or holds no such slice
        return None, None
    return (slices[index]["view"], head.get("range")) if head.get("status") == "done" else (None, None)


def _cell(plan, arm, dataset, volume, acq, index, truth, full):
    """What a panel shows of an arm: {"arm", "view" or "reason", "spread", "below"}."""
    jobs = [Job(dataset, volume, acq, arm, seed) for seed in plan.study.arm_seeds(arm)]
    found = [tables.views(plan, job).get(index, {}).get("view") for job in jobs]
    cell = {"arm": arm, "view": found[0], "spread": None, "below": "", "reason": ""}
    scored = tables.scores(plan, jobs[0])
    if cell["view"] is None:
        cell["reason"] = "not run or killed" if scored["status"] == "missing" else scored["reason"] or "no image"
        return cell
    several = [v for v in found if v is not None]
    if truth is None and len(several) > 1:
        cell["spread"] = np.std(np.stack(several).astype(np.float64), axis=0, ddof=1)
    values = {
        metric: value for at, metric, which, value in scored["rows"] if str(at) == str(index) and which == "stopped"
    }
    if truth is not None and truth.shape == cell["view"].shape:
        values.setdefault("psnr", quality.psnr(cell["view"], truth, full))
        values.setdefault("ssim", quality.ssim(cell["view"], truth, full))
        cell["below"] = f"{values['psnr']:.2f} dB / {values['ssim']:.3f}"
    elif truth is not None:
        cell["view"], cell["reason"] = None, f"image {cell['view'].shape}, reference {truth.shape}"
    elif values.get("heldout_nmse") is not None:
        cell["below"] = f"held-out NMSE {values['heldout_nmse']:.4f}"
    return cell


def window(image, modality):
    """(black, white) for all images of a panel: MRI from 0 to the 99.7th percentile, CT the soft-tissue window."""
    return CT_WINDOW if modality == "ct" else (0.0, max(float(np.percentile(image, 99.7)), 1e-30))


def region(image):
    """(row, column, side) of the square with the most fine structure in the middle of an image; enlarged in every cell."""
    h, w = image.shape
    side = max(4, round(min(h, w) * 0.28))
    detail = np.abs(ndimage.gaussian_laplace(image.astype(np.float64), 1.0))
    total = ndimage.uniform_filter(detail, side, mode="constant")
    r0, r1, c0, c1 = (int(n * f) for n in (h, w) for f in (0.32, 0.68))
    row, column = np.unravel_index(np.argmax(total[r0:r1, c0:c1]), (r1 - r0, c1 - c0))
    corner = [min(max(0, at + low - side // 2), n - side) for at, low, n in ((row, r0, h), (column, c0, w))]
    return int(corner[0]), int(corner[1]), side


def _figure(cells, truth, full, modality, title):
    shown = [c["view"] for c in cells if c["view"] is not None]
    if not shown and truth is None:
        figure = Figure((5, 1))
        figure.text(0.5, 0.5, f"{title}: no image yet", ha="center", va="center")
        return figure
    like = truth if truth is not None else np.mean(shown, axis=0)
    black, white = window(like, modality)
    row, column, side = region(like)
    unit, factor = ("HU", 1.0) if modality == "ct" else ("% of the brightest pixel", 100 / (full or white))
    maps = [_map(c, truth, factor) for c in cells]
    known = (
        np.concatenate([m.ravel() for m in maps if m is not None]) if any(m is not None for m in maps) else np.zeros(1)
    )
    scale = Normalize(0, max(float(np.percentile(known, 99.5)), 1e-12))
    rows = 3 if any(m is not None for m in maps) else 2
    if truth is not None:
        cells, maps = [{"arm": "reference", "view": truth, "reason": "", "below": ""}, *cells], [None, *maps]
    across = min(len(cells), int(np.ceil(len(cells) / np.ceil(len(cells) / COLUMNS))))
    groups = [range(i, min(i + across, len(cells))) for i in range(0, len(cells), across)]
    tall = WIDTH * like.shape[0] / like.shape[1]
    heights = [[tall, WIDTH, tall][:rows] for _ in groups]
    gap, head, line, top, bar = 0.04, 0.20, 0.19, 0.30, 0.62  # inches
    height = top + sum(sum(h) + head + line + rows * gap + 0.10 for h in heights)
    figure = Figure((across * (WIDTH + gap) + (bar if rows == 3 else 0), height))
    size = figure.get_size_inches()
    figure.text(0, 1 - 0.02 / size[1], title, ha="left", va="top", fontsize=9.5, fontweight="bold")

    def place(x, y, w, h):
        axes = figure.add_axes((x / size[0], (size[1] - y - h) / size[1], w / size[0], h / size[1]))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def word(x, y, text, **how):
        figure.text(x / size[0], 1 - y / size[1], text, ha="center", va="baseline", fontsize=8, **how)

    y = top
    for group, high in zip(groups, heights, strict=True):
        y += head
        for at, i in enumerate(group):
            x, cell, below = at * (WIDTH + gap), cells[i], y
            axes = place(x, below, WIDTH, high[0])
            word(x + WIDTH / 2, below - 0.05, cell["arm"], fontweight="bold")
            word(x + WIDTH / 2, below + high[0] + 0.14, cell["below"])
            if cell["view"] is None:
                axes.set_facecolor("#EFEFEF")
                reason = textwrap.shorten(cell["reason"], 110, placeholder=" …")
                axes.text(
                    0.5,
                    0.5,
                    "no image\n\n" + textwrap.fill(reason, 24),
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="#8A1C1C",
                    transform=axes.transAxes,
                )
                continue
            axes.imshow(cell["view"], cmap="gray", vmin=black, vmax=white, interpolation="nearest", aspect="auto")
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), side, side, fill=False, edgecolor="#FFD400", linewidth=0.8)
            )
            below += high[0] + line
            part = cell["view"][row : row + side, column : column + side]
            axes = place(x, below, WIDTH, high[1])
            axes.imshow(part, cmap="gray", vmin=black, vmax=white, interpolation="nearest", aspect="auto")
            axes.spines[:].set(visible=True, color="#FFD400", linewidth=0.8)
            below += high[1] + gap
            if rows == 3 and maps[i] is not None:
                place(x, below, WIDTH, high[2]).imshow(
                    maps[i], cmap=ERRORS, norm=scale, interpolation="nearest", aspect="auto"
                )
            elif rows == 3 and cell["arm"] != "reference":
                place(x, below, WIDTH, high[2]).text(
                    0.5, 0.5, "one seed", ha="center", va="center", fontsize=7, color=style.GREY
                )
            elif rows == 3:
                said = "absolute error,\none scale for all arms\n\nunder each image:\nPSNR / SSIM of this slice"
                place(x, below, WIDTH, high[2]).text(
                    0.5, 0.5, said, ha="center", va="center", fontsize=7.5, color=style.GREY, linespacing=1.4
                )
        if rows == 3:
            axes = place(
                len(group) * (WIDTH + gap) + 0.04,
                y + high[0] + line + high[1] + gap + 0.05 * high[2],
                0.09,
                0.9 * high[2],
            )
            colours = figure.colorbar(ScalarMappable(scale, ERRORS), cax=axes, extend="max")
            colours.set_label(f"{'absolute error' if truth is not None else 'std over seeds'}\n({unit})", fontsize=7)
            colours.ax.tick_params(labelsize=6.5, width=0.5)
            colours.outline.set_linewidth(0.5)
        y += sum(high) + line + rows * gap + 0.10
    return figure


def _map(cell, truth, factor):
    """Absolute error, or standard deviation over seeds, in the unit of the colour bar; None where there is none."""
    if cell["view"] is None:
        return None
    if truth is None:
        return None if cell["spread"] is None else cell["spread"] * factor
    return np.abs(cell["view"].astype(np.float64) - truth) * factor
