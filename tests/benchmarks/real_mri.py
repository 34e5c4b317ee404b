"""Run config/studies/real_mri.yaml and write tests/benchmarks/results/real_mri.md: what `make real` does.

The semi-real scans are scored a second time, against their noise-free truth.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from dipline import metrics, store
from dipline.plan import Plan

ROOT = Path(__file__).parents[2]
STUDY = "config/studies/real_mri.yaml"
OUT = ROOT / "tests" / "benchmarks" / "results" / "real_mri.md"


def main():
    data = Path(os.environ.setdefault("DIPLINE_DATA", str(ROOT.parent / "shared" / "data")))
    if not (data / "mri").is_dir():
        sys.exit(f"{data}/mri: no such folder; export DIPLINE_DATA=/where/the/data/lie")
    os.chdir(ROOT)
    snakemake = Path(sys.executable).with_name("snakemake")
    line = [snakemake, "--configfile", STUDY, "--cores", os.environ.get("CORES", "2"), "--quiet", "rules"]
    done = subprocess.run(line + sys.argv[1:])
    subprocess.run([sys.executable, "-m", "dipline", "tables", "results/real_mri"], check=True)  # also of an unfinished run
    plan = Plan.open("results/real_mri")
    m = pd.read_csv(plan.root / "metrics.csv", keep_default_na=False)
    lines = [
        "# Real MRI scans",
        "",
        f"`make real` ({STUDY}; settings of the demo, nothing chosen on these scans). PSNR in dB / SSIM, whole volume.",
        "",
    ]
    for (volume, acq), part in m[(m.dataset == "full") & (m.slice == "")].groupby(["volume", "acq"], sort=False):
        lines += table(part, f"{volume}, {acq} (achieved {value(part, 'acceleration_achieved', ''):.2f})")
        truth = data / "mri" / f"{volume}_truth.npz"
        if truth.exists():
            lines += ["Against the noise-free truth:", "", *against_truth(plan, volume, acq, truth)]
    part = m[(m.dataset == "prospective") & (m.slice == "")]
    lines += [
        "## brain_poisson_8ch, as measured: no truth, 5 % of the samples held out",
        "",
        "| arm | held-out NMSE | data residual |",
        "|---|---|---|",
    ]
    for arm, rows in part.groupby("arm", sort=False):
        lines.append(f"| {arm} | {value(rows, 'heldout_nmse'):.4f} | {value(rows, 'residual'):.4f} |")
    OUT.parent.mkdir(exist_ok=True)
    store.write_text(OUT, "\n".join(lines) + "\n")
    print(OUT)
    sys.exit(done.returncode)


def value(rows, metric, which="stopped"):
    found = rows[(rows.metric == metric) & (rows.which == which)].value.astype(float)
    return found.mean() if len(found) else float("nan")


def table(part, title):
    base = value(part[part.arm == "zero_filled"], "psnr")
    lines = [f"## {title}", "", "| arm | stopped | peak | stopped − zero-filled |", "|---|---|---|---|"]
    for arm, rows in part.groupby("arm", sort=False):
        if not (rows.metric == "psnr").any():
            lines.append(f"| {arm} | no result | no result | |")
            continue
        cells = [f"{value(rows, 'psnr', w):.2f} / {value(rows, 'ssim', w):.3f}" for w in ("stopped", "peak")]
        lines.append(f"| {arm} | {cells[0]} | {cells[1]} | {value(rows, 'psnr') - base:+.2f} |")
    return [*lines, ""]


def against_truth(plan, volume, acq, file):
    """PSNR and SSIM of the stopped images against the magnitude of the noise-free image, at the scale of the file."""
    truth = np.abs(np.load(file)["image"])
    truth = truth.reshape(-1, *truth.shape[-2:])
    lines = ["| arm | PSNR / SSIM |", "|---|---|"]
    for job in plan.jobs:
        if (job.volume, job.acq) != (volume, acq):
            continue
        images = {}
        for recon in filter(os.path.exists, plan.recons(job)):
            images |= {s: i.get("view") for s, i in store.read(recon, names=("view",))[1].items()}
        if not images or any(v is None for v in images.values()):
            continue
        found = np.stack([images[s] for s in sorted(images)])
        want = np.stack([centre(truth[s], found.shape[-2:]) for s in sorted(images)])
        psnr, ssim = metrics.psnr(found, want, want.max()), metrics.ssim(found, want, want.max())
        lines.append(f"| {job.arm} | {psnr:.2f} / {ssim:.3f} |")
    return [*lines, ""]


def centre(image, shape):
    top, left = ((a - b) // 2 for a, b in zip(image.shape, shape, strict=True))
    return image[top : top + shape[0], left : left + shape[1]]


if __name__ == "__main__":
    main()
