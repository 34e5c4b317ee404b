"""How figures and tables look: one colour for an arm in all of them, one name and number of digits for a metric.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; neighbouring arms differ in their line as well, so that
colour is never the only difference, and a grey print can be read.
"""

from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
GREY = "#5A5A5A"
FONT = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8.5, "legend.fontsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "figure.facecolor": "white",
    "savefig.facecolor": "white", "mathtext.default": "regular",
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """What readers need to know of a metric.

    Attributes:
        label: name in tables; unit: "" where it has none; better: +1 more is better, -1 less is better, 0 neither.
        digits: format of a value.
    """

    label: str
    unit: str
    better: int
    digits: str

    @property
    def heading(self):
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value):
        """A value as text, with a true minus sign."""
        return "–" if value is None or value != value else format(value, self.digits).replace("-", "−")


METRICS = {
    "psnr": Metric("PSNR", "dB", 1, ".2f"),
    "ssim": Metric("SSIM", "", 1, ".4f"),
    "ssim_wang": Metric("SSIM", "", 1, ".4f"),
    "nmse": Metric("NMSE", "", -1, ".4f"),
    "hfen": Metric("HFEN", "", -1, ".3f"),
    "rmse_hu": Metric("RMSE", "HU", -1, ".1f"),
    "heldout_nmse": Metric("NMSE on held-out samples", "", -1, ".4f"),
    "residual": Metric("Residual on the used samples", "relative", 0, ".3g"),
    "seed_spread": Metric("Spread over seeds", "% of the image", 0, ".2f"),
    "seconds": Metric("Time", "s", 0, ".1f"),
    "iterations": Metric("Iterations", "", 0, ".0f"),
    "memory_mb": Metric("Memory", "MB", 0, ".0f"),
}


def metric(name):
    """The :class:`Metric` of a name; ``psnr_40_400`` is PSNR with its window in HU behind, centre and width."""
    if name in METRICS:
        return METRICS[name]
    for known, m in METRICS.items():
        if name.startswith(f"{known}_"):
            return Metric(f"{m.label} in the window {window(name[len(known) + 1 :])}", m.unit, m.better, m.digits)
    return Metric(name.replace("_", " "), "", 0, ".4g")


def window(name):
    """``−600/1500 HU`` of the name ``-600_1500``: centre and width."""
    return f"{name.replace('_', '/').replace('-', '−')} HU"


def unit(modality):
    """What one volume is: the unit of statistics."""
    return "image" if modality == "image" else "patient"


def looks(study):
    """{arm: (colour, line)}, by the arm's place in the study file; no pair twice among 32 arms."""
    places = ((i % len(COLOURS), (i + i // len(COLOURS)) % len(LINES)) for i in range(len(study.arms)))
    return {arm: (COLOURS[c], LINES[k]) for arm, (c, k) in zip(study.arms, places, strict=True)}


def count(n, noun):
    """``1 patient``, ``2 patients``"""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
