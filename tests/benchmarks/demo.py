"""What `make claims` writes from the finished demo study: its table, and whether what it is there to show holds."""

import os
import sys

import pandas as pd
from common import RESULTS, ROOT, scores, table, untrained, value, write

from dipline.plan import Plan

BASES = {"mri": ("zero_filled", 3), "ct": ("fbp", 5)}  # dB that every untrained arm should be above what needs no iteration
CLASSICAL = {"mri": ("sense", "l1_wavelet", "tv"), "ct": ("sirt", "tv")}


def page(m, arms, networks):
    """The lines of the tables, one for each kind of scan; ``networks``: the untrained arms."""
    m, lines = m[m.slice == ""], []
    claims = []
    for modality, rows in m.groupby("modality", sort=False):
        present = [arm for arm in arms if (rows.arm == arm).any()]
        acqs = list(dict.fromkeys(rows.acq))
        columns = {
            f"{acq} {which}": lambda arm, part=rows[rows.acq == acq], which=which: scores(part[part.arm == arm], which)
            for acq in acqs for which in ("stopped", "peak", "last")
        }  # fmt: skip
        lines += [f"## {modality.upper()}", "", *table(present, columns)]
        claims += CLAIMS[modality](rows, acqs, [arm for arm in present if arm in networks])
    lines += ["## Claims", "", "| claim | holds | dB, mean over patients |", "|:--|:--|:--|"]
    return lines + [f"| {text} | {'yes' if holds else 'no'} | {found} |" for text, holds, found in claims]


def psnr(rows, acq, arm, which="stopped"):
    return value(rows[(rows.acq == acq) & (rows.arm == arm)], "psnr", which)


def above_base(rows, modality, acq, networks):
    """The claim that every untrained arm is so many dB above the modality's simplest reconstruction."""
    base, least = BASES[modality]
    gains = {arm: psnr(rows, acq, arm) - psnr(rows, acq, base) for arm in networks}
    worst = min(gains, key=gains.get)
    return f"{acq}: every untrained arm is {least} dB above {base}", gains[worst] >= least, f"{worst} {gains[worst]:+.2f}"


def best_leads(rows, modality, acq, networks):
    """The claim that some untrained arm beats the best classical one."""
    best, baseline = (max(some, key=lambda arm: psnr(rows, acq, arm)) for some in (networks, CLASSICAL[modality]))
    lead = psnr(rows, acq, best) - psnr(rows, acq, baseline)
    return f"{acq}: an untrained arm beats the best of {', '.join(CLASSICAL[modality])}", lead > 0, f"{best} − {baseline} {lead:+.2f}"


def mri(rows, acqs, networks):
    claims = [claim(rows, "mri", acq, networks) for acq in acqs for claim in (above_base, best_leads)]
    hard = acqs[-1]
    fall = psnr(rows, hard, "dip", "peak") - psnr(rows, hard, "dip", "last")
    claims.append((f"{hard}: vanilla overfits by 0.5 dB or more", fall >= 0.5, f"peak − last {fall:+.2f}"))
    for arm in ("self_guided", "aseq_dip"):
        gain = psnr(rows, hard, arm) - psnr(rows, hard, "dip", "last")
        claims.append((f"{hard}: {arm} beats vanilla's last iterate", gain > 0, f"{gain:+.2f}"))
    return claims


def ct(rows, acqs, networks):
    """The fewest views must be far above FBP; what TV makes of them stands beside, whoever wins."""
    fewest = rows.loc[rows.views.astype(float).idxmin(), "acq"]
    return [above_base(rows, "ct", fewest, networks), *(best_leads(rows, "ct", acq, networks) for acq in acqs)]


CLAIMS = {"mri": mri, "ct": ct}


if __name__ == "__main__":
    os.chdir(ROOT)
    if not (ROOT / "results/demo/metrics.csv").exists():
        sys.exit("results/demo/metrics.csv: no such file; run make demo first")
    plan = Plan.open("results/demo")
    metrics = pd.read_csv(plan.root / "metrics.csv", keep_default_na=False)
    patients = f"{metrics.volume.nunique()} synthetic patients of each kind"
    head = f"`make claims` (config/demo.yaml, {patients}). PSNR in dB / SSIM, mean over patients."
    write(RESULTS / "demo.md", [head, "", *page(metrics, list(plan.study.arms), untrained(plan))])
