"""A whole study through `snakemake --profile slurm`, with the profile that `dipline profile slurm` wrote, on two GPU nodes."""

import subprocess
import sys

import yaml
from cluster import DIP, RECON, Run, checksums


def test_the_study_runs_on_two_gpu_nodes(cluster, undisturbed, want, tmp_path):
    study = Run(cluster, tmp_path)
    try:
        verb = [sys.executable, "-m", "dipline", "profile", "slurm", "--partition", "gpu", "--cpu-partition", "cpu", "--gres", "--force"]
        subprocess.run(verb, cwd=tmp_path, check=True)
        assert yaml.safe_load((tmp_path / "slurm" / "config.yaml").read_text())["retries"] == 3
        study.adjust({"slurm-init-seconds-before-status-checks": 1, "latency-wait": 5})
        study.start()
        study.finish()
    finally:
        study.stop()
    assert checksums(tmp_path, DIP) == want
    for patient in ("patient_041", "patient_042"):
        for arm in ("tv", "dip"):
            recon = RECON.format(patient, arm)
            assert checksums(tmp_path, recon) == checksums(undisturbed, recon)
    where = {}
    for event in study.journal():
        if "began" in event:
            where.setdefault("dip" if any("/dip/" in word for word in event["began"]) else "tv", set()).add(event["node"])
    assert where["tv"] == {"c1"} and where["dip"] <= {"g1", "g2"}, "cards for the networks alone; Slurm says on which of its nodes"
    assert (tmp_path / "results/cohort/report.html").is_file()
    assert not list(tmp_path.glob("logs/slurm/**/*.log")), "Slurm's logs of jobs that ended well are removed"
