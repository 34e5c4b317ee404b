"""Pictures: the reference and every arm side by side, with the same region enlarged and error maps of one common scale.

One figure for each (dataset, acquisition, volume, window) of ``plan.shown()``: the middle one of the chosen slices, the
first seed. A cell whose image is missing says why. Without a reference the last row is the standard deviation over seeds.
"""

import textwrap

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from dipline import registry, store
from dipline.plan import Job
from dipline.report import style, tables
from dipline.study import WINDOWS

COLUMNS = 6
WIDTH, GAP = 1.75, 0.04  # inches: a column, the space between two
TOP, HEAD, LINE = 0.30, 0.20, 0.19  # inches: the title, the names of arms, the scores
YELLOW = "#FFD400"
UNITS = {"ct": "HU", "image": "white = 1"}  # elsewhere the brightest pixel is the unit
KEY = "absolute error,\none scale for all arms\n\nunder each image:\nPSNR / SSIM of this slice"
ERRORS = "inferno"


def write(plan):
    """Write all panels; returns their files."""
    return [draw(plan, *key) for key in plan.shown()]


def draw(plan, dataset, acq, volume, shown=""):
    """Draw the panel of one volume to ``plan.panel(dataset, acq, volume, shown)``."""
    chosen = plan.volumes[dataset][volume]["chosen"]
    index = chosen[len(chosen) // 2]
    truth, full = _reference(plan, dataset, volume, index)
    cells = [
        _cell(plan, arm, dataset, volume, acq, index, truth) for arm in plan.study.arms if plan.study.solves(arm, dataset, acq)
    ]
    limits = WINDOWS[plan.study.modality(dataset)][shown]
    title = f"{dataset} · {volume} · slice {index} · {acq}" + (f" · window {style.window(shown)}" if shown else "")
    with rc_context(style.FONT):
        figure = _figure(cells, truth, full, limits, title, UNITS.get(plan.study.modality(dataset), ""))
        out = plan.panel(dataset, acq, volume, shown)
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


def _cell(plan, arm, dataset, volume, acq, index, truth):
    """What a panel shows of an arm: {"arm", "view" or "reason", "spread", "below"}."""
    jobs = [Job(dataset, volume, acq, arm, seed) for seed in plan.study.arm_seeds(arm)]
    found = [tables.views(plan, job).get(index, {}).get("view") for job in jobs]
    operator = registry.get("physics", plan.study.acquisition(dataset, acq).physics)
    if truth is not None and operator.get("AMBIGUOUS"):
        aligned = operator.load().aligned
        found = [v if v is None or v.shape != truth.shape else aligned(v, truth) for v in found]
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
        psnr, ssim = values.get("psnr"), values.get("ssim", values.get("ssim_wang"))
        cell["below"] = "not scored yet" if None in (psnr, ssim) else f"{psnr:.2f} dB / {ssim:.3f}"
    elif truth is not None:
        cell["view"], cell["reason"] = None, f"image {cell['view'].shape}, reference {truth.shape}"
    elif values.get("heldout_nmse") is not None:
        cell["below"] = f"held-out NMSE {values['heldout_nmse']:.4f}"
    return cell


def window(image, limits):
    """(black, white) for all images of a panel: the limits, or from 0 to the 99.7th percentile."""
    return limits or (0.0, max(float(np.percentile(image, 99.7)), 1e-30))


def region(image):
    """(row, column, side) of the square with the most fine structure in the middle of an image: what is enlarged."""
    image = grey(image).astype(np.float64)
    h, w = image.shape
    side = max(4, round(min(h, w) * 0.28))
    detail = np.abs(ndimage.gaussian_laplace(image, 1.0))
    total = ndimage.uniform_filter(detail, side, mode="constant")
    r0, r1, c0, c1 = (int(n * f) for n in (h, w) for f in (0.32, 0.68))
    row, column = np.unravel_index(np.argmax(total[r0:r1, c0:c1]), (r1 - r0, c1 - c0))
    corner = [min(max(0, at + low - side // 2), n - side) for at, low, n in ((row, r0, h), (column, c0, w))]
    return int(corner[0]), int(corner[1]), side


def grey(image):
    """(H, W) of an image, the mean over its colours."""
    return image.mean(0) if image.ndim == 3 else image


def pixels(image):
    """An image as matplotlib takes it: (H, W), or (H, W, 3) from 0 to 1."""
    return np.clip(image.astype(np.float32), 0, 1).transpose(1, 2, 0) if image.ndim == 3 else image


class Sheet:
    """A figure that is filled in inches from the top left corner."""

    def __init__(self, width, height):
        self.figure = Figure((width, height))
        self.width, self.height = width, height

    def box(self, x, y, width, height):
        axes = self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def image(self, x, y, width, height, values, **how):
        axes = self.box(x, y, width, height)
        axes.imshow(values, interpolation="nearest", aspect="auto", **how)
        return axes

    def words(self, x, y, text, ha="center", va="baseline", fontsize=8, **how):
        self.figure.text(x / self.width, 1 - y / self.height, text, ha=ha, va=va, fontsize=fontsize, **how)


def _figure(cells, truth, full, limits, title, unit=""):
    shown = [c["view"] for c in cells if c["view"] is not None]
    if not shown and truth is None:
        sheet = Sheet(5, 0.8)
        sheet.words(2.5, 0.4, f"{title}: no image yet", va="center")
        return sheet.figure
    like = truth if truth is not None else np.mean(shown, axis=0)
    black, white = window(like, limits)
    unit, factor = (unit, 1.0) if unit else ("% of the brightest pixel", 100 / (full or white))
    maps = [_map(c, truth, factor) for c in cells]
    known = [float(np.percentile(m, 99.5)) for m in maps if m is not None]
    scale = Normalize(
        0, max(float(np.median(known)), 1e-12) if known else 1.0
    )  # one ruined arm must not hide the others
    if truth is not None:
        cells, maps = [{"arm": "reference", "view": truth, "reason": "", "below": ""}, *cells], [None, *maps]
    across = int(np.ceil(len(cells) / np.ceil(len(cells) / COLUMNS)))
    groups = [range(i, min(i + across, len(cells))) for i in range(0, len(cells), across)]
    mapped = [any(maps[i] is not None for i in group) for group in groups]
    tall = WIDTH * like.shape[-2] / like.shape[-1]
    line = LINE if any(c["below"] for c in cells) else GAP
    height = TOP + sum(HEAD + tall + line + WIDTH + GAP + (tall + GAP) * m + 0.1 for m in mapped)
    sheet = Sheet(across * (WIDTH + GAP) + (0.62 if known else 0), height)
    sheet.words(0, 0.02, title, ha="left", va="top", fontsize=9.5, fontweight="bold")
    square, shades = region(like), {"cmap": "gray", "vmin": black, "vmax": white}
    y = TOP
    for group, third in zip(groups, mapped, strict=True):
        y += HEAD
        bottom = y + tall + line + WIDTH + GAP
        for at, i in enumerate(group):
            x = at * (WIDTH + GAP)
            _column(sheet, x, y, tall, line, cells[i], square, shades)
            if maps[i] is not None:
                sheet.image(x, bottom, WIDTH, tall, maps[i], cmap=ERRORS, norm=scale)
            elif third and cells[i]["view"] is not None:
                said = KEY if cells[i]["arm"] == "reference" else "one seed"
                sheet.words(
                    x + WIDTH / 2, bottom + tall / 2, said, va="center", fontsize=7.5, color=style.GREY, linespacing=1.4
                )
        if third:
            bar = sheet.box(len(group) * (WIDTH + GAP) + 0.04, bottom + 0.05 * tall, 0.09, 0.9 * tall)
            colours = sheet.figure.colorbar(ScalarMappable(scale, ERRORS), cax=bar, extend="max")
            colours.set_label(f"{'absolute error' if truth is not None else 'std over seeds'}\n({unit})", fontsize=7)
            colours.ax.tick_params(labelsize=6.5, width=0.5)
            colours.outline.set_linewidth(0.5)
        y = bottom + (tall + GAP) * third + 0.1
    return sheet.figure


def _column(sheet, x, y, tall, line, cell, square, shades):
    """Name, image, score and enlarged region of one cell, downwards from y."""
    row, column, side = square
    sheet.words(x + WIDTH / 2, y - 0.05, cell["arm"], fontweight="bold")
    if cell["view"] is None:
        sheet.box(x, y, WIDTH, tall).set_facecolor("#EFEFEF")
        reason = textwrap.fill(textwrap.shorten(cell["reason"], 110, placeholder=" …"), 24)
        sheet.words(x + WIDTH / 2, y + tall / 2, f"no image\n\n{reason}", va="center", fontsize=6.5, color="#8A1C1C")
        return
    frame = Rectangle((column - 0.5, row - 0.5), side, side, fill=False, edgecolor=YELLOW, linewidth=0.8)
    sheet.image(x, y, WIDTH, tall, pixels(cell["view"]), **shades).add_patch(frame)
    sheet.words(x + WIDTH / 2, y + tall + 0.14, cell["below"])
    part = pixels(cell["view"])[row : row + side, column : column + side]
    sheet.image(x, y + tall + line, WIDTH, WIDTH, part, **shades).spines[:].set(visible=True, color=YELLOW, linewidth=0.8)


def _map(cell, truth, factor):
    """Absolute error, or standard deviation over seeds, in the unit of the colour bar; None where there is none."""
    if cell["view"] is None:
        return None
    if truth is None:
        return None if cell["spread"] is None else grey(cell["spread"]) * factor
    return grey(np.abs(cell["view"].astype(np.float64) - truth)) * factor
