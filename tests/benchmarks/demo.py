"""What `make claims` writes from the finished demo study: its table, and whether what it is there to show holds."""

import os
import sys

import pandas as pd
from common import RESULTS, ROOT, scores, table, untrained, value, write

from dipline.plan import Plan

CLASSICAL = ("sense", "l1_wavelet", "tv")


def page(m, arms, networks):
    """The lines of the table; ``networks``: the untrained arms."""
    m, lines = m[m.slice == ""], []
    acqs = list(dict.fromkeys(m.acq))
    of = lambda acq, arm, which="stopped": value(m[(m.acq == acq) & (m.arm == arm)], "psnr", which)  # noqa: E731
    columns = {}
    for acq in acqs:
        rows = m[m.acq == acq]
        columns |= {f"{acq} {w}": lambda arm, rows=rows, w=w: scores(rows[rows.arm == arm], w) for w in ("stopped", "peak", "last")}
    lines += table(arms, columns)
    claims = []
    for acq in acqs:
        gains = {arm: of(acq, arm) - of(acq, "zero_filled") for arm in networks}
        worst = min(gains, key=gains.get)
        claims.append((f"{acq}: every untrained arm is 3 dB above zero-filled", gains[worst] >= 3, f"{worst} {gains[worst]:+.2f}"))
        best, baseline = max(networks, key=lambda a: of(acq, a)), max(CLASSICAL, key=lambda a: of(acq, a))
        lead = of(acq, best) - of(acq, baseline)
        claims.append((f"{acq}: an untrained arm beats the best of {', '.join(CLASSICAL)}", lead > 0, f"{best} − {baseline} {lead:+.2f}"))
    hard = acqs[-1]
    fall = of(hard, "dip", "peak") - of(hard, "dip", "last")
    claims.append((f"{hard}: vanilla overfits by 0.5 dB or more", fall >= 0.5, f"peak − last {fall:+.2f}"))
    for arm in ("self_guided", "aseq_dip"):
        gain = of(hard, arm) - of(hard, "dip", "last")
        claims.append((f"{hard}: {arm} beats vanilla's last iterate", gain > 0, f"{gain:+.2f}"))
    lines += ["| claim | holds | dB, mean over patients |", "|:--|:--|:--|"]
    return lines + [f"| {text} | {'yes' if holds else 'no'} | {found} |" for text, holds, found in claims]


if __name__ == "__main__":
    os.chdir(ROOT)
    if not (ROOT / "results/demo/metrics.csv").exists():
        sys.exit("results/demo/metrics.csv: no such file; run make demo first")
    plan = Plan.open("results/demo")
    metrics = pd.read_csv(plan.root / "metrics.csv", keep_default_na=False)
    head = f"`make claims` (config/demo.yaml, {metrics.volume.nunique()} synthetic patients). PSNR in dB / SSIM, mean over patients."
    write(RESULTS / "demo.md", [head, "", *page(metrics, list(plan.study.arms), untrained(plan))])
