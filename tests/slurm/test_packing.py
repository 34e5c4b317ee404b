"""Several reconstructions in one Slurm job, and many jobs in one sbatch: the lines of the template, with the comment taken off."""

import re

import pytest
import yaml
from cluster import ROOT, STUDY, Run, checksums

SINGLE = "results/cohort/recon/brain/patient_041/R2/dip/seed0/s00{}.h5"
TEMPLATE = (ROOT / "config" / "slurm" / "config.yaml").read_text()


def offered(*keys):
    """What the template says of keys that it has as comments."""
    found = yaml.safe_load("\n".join(re.findall(rf"^# ((?:{'|'.join(keys)}): .*)$", TEMPLATE, re.MULTILINE)))
    assert set(found) == set(keys)
    return found


@pytest.mark.parametrize("kind, submissions", [("groups", 1), ("arrays", 1)])
def test_two_slices_in_one_submission(cluster, undisturbed, want, tmp_path, kind, submissions):
    """Single slices: without packing, two calls of sbatch."""
    study = Run(cluster, tmp_path)
    single = STUDY | {"block": {"slices": 1}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(single, sort_keys=False))
    if kind == "groups":
        study.adjust(offered("groups", "group-components", "resources", "set-resource-scopes"))
    else:
        study.adjust(offered("slurm-array-jobs", "slurm-array-limit"))
    try:
        study.start("results/cohort/measurement/brain/patient_041/R2.h5")
        study.finish()
        study.start(*map(SINGLE.format, (0, 1)))
        study.finish(1)
    finally:
        study.stop()
    assert [c for i in (0, 1) for c in checksums(tmp_path, SINGLE.format(i))] == want
    assert len(set(study.submitted(1))) == submissions, study.said(1)
