"""What befalls jobs on a real cluster, on a real Slurm: nothing finished is lost or done twice, and the images have the same bits.

Every test waits until the first slice of a reconstruction is finished and the second has a checkpoint, breaks something, and
lets Snakemake finish. `Run.check` holds what must be true after each of them.
"""

import os
import re
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from cluster import DIP, RECON, checksums, until


@pytest.mark.partition("scavenge")
def test_preempted_and_requeued(study, cluster, want):
    study.start(DIP)
    job, saved = study.half_done()
    with study.slow():
        cluster.run("sbatch", "-p", "urgent", "--gpus-per-node=2", "-o", "/dev/null", "--wrap", "true")
        until(lambda: cluster.states(job) != {"RUNNING"}, 60, "the urgent job takes its place")
    cluster.begin_now(job)
    study.finish()
    study.check(want, saved)
    assert study.submitted() == [job], "Slurm starts it again, Snakemake only waits: no attempt is used up"
    assert [life for life, _ in study.lives()] == [job, job]


def test_cancelled(study, cluster, want):
    study.start(DIP)
    job, saved = study.half_done()
    with study.slow():
        (running,) = study.status()["running"]
        assert (running["job"], running["slice"], running["slices"]) == (job, 2, 2)
        cluster.run("scancel", job)
    study.finish()
    study.check(want, saved)
    counts = study.status()["counts"]
    assert (counts["done"], counts["running"]) == (1, 0)
    assert cluster.states(job) == {"CANCELLED"} and len(study.submitted()) == 2


def test_out_of_time(study, cluster, want):
    """The first warning is Slurm's own, with a few seconds to leave."""
    study.adjust({"set-resources": {"reconstruct_gpu": {"slurm_partition": "gpu"}}})
    study.start(DIP)
    job, saved = study.half_done()
    limit = minutes(cluster, job)
    out_of_time(study, cluster, job, "now")
    study.finish()
    study.check(want, saved)
    first, second = study.submitted()
    assert (first, cluster.states(first)) == (job, {"TIMEOUT"})
    assert minutes(cluster, second) == 2 * limit, "each attempt asks for more"


def test_warned_before_the_time_is_up(study, cluster, want):
    """The job leaves long before its time is up, with the status that makes Snakemake try again."""
    study.adjust({"set-resources": {"reconstruct_gpu": {"slurm_partition": "gpu", "slurm_extra": "'--signal=TERM@300'"}}})
    study.start(DIP)
    job, saved = study.half_done()
    out_of_time(study, cluster, job, "now+280")
    said = study.leaves()
    study.finish()
    resumed = study.check(want, saved)
    assert study.submitted()[0] == job and cluster.states(job) == {"FAILED"}, "it left by itself: else TIMEOUT"
    assert said == f"leaving: saved at iteration {resumed}; run again to continue"


def test_warned_by_usr1(study, cluster, want):
    """This signal ends the Snakemake of the job, which waits for nobody: the program leaves at once."""
    study.start(DIP)
    job, saved = study.half_done()
    cluster.run("scancel", "--signal=USR1", job)
    said = study.leaves()
    study.finish()
    resumed = study.check(want, saved)
    assert study.submitted()[0] == job and cluster.states(job) == {"FAILED"}
    assert said == f"leaving: saved at iteration {resumed}; run again to continue"


def minutes(cluster, job):
    return pd.Timedelta(cluster.said_of(job, "TimeLimit")).total_seconds() / 60


def out_of_time(study, cluster, job, end):
    """Move the end of a job; the program is slow until Slurm, which looks every 30 s, has sent its signal."""
    with study.slow() as pid:
        cluster.run("scontrol", "update", f"jobid={job}", f"EndTime={end}")

        def came():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return True  # woken by Slurm, it has left already
            pending = int(re.search(r"ShdPnd:\s+(\w+)", status)[1], 16)
            return pending & 1 << (signal.SIGTERM - 1) or "State:\tT" not in status

        until(came, 60, f"the signal for job {job}")


def test_killed_by_the_memory_limit(study, cluster, want):
    """SIGKILL without a warning: what counts is the last checkpoint. The second attempt has twice the memory, which is enough."""
    study.environment["SPY_EATS"] = "1800 patient_041/R2/dip"
    study.start(DIP)
    job, saved = study.half_done()
    study.finish()
    study.check(want, saved)
    first, second = study.submitted()
    assert first == job and cluster.states(job) <= {"FAILED", "OUT_OF_MEMORY"}
    asked = [float(cluster.said_of(j, "MinMemoryNode").rstrip("M")) for j in (first, second)]
    assert asked[1] == 2 * asked[0]


@pytest.mark.partition("fragile")
def test_node_down(study, cluster, want):
    """The worst kind: the node is cut off, its processes run on while Slurm starts the job anew elsewhere, under the same id."""
    study.start(DIP)
    job, saved = study.half_done()
    node = study.lives()[0][1]
    daemon = int((cluster.folder / "run" / f"slurmd-{node}.pid").read_text())
    try:
        with study.slow() as pid:
            os.kill(daemon, signal.SIGKILL)
            cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
            cluster.begin_now(job)
            study.contested()
            assert Path(f"/proc/{pid}").exists(), "the first one runs on"
        study.finish()
    finally:
        cluster.run("slurmd", "-N", node)
    study.check(want, saved)
    (first, before), (second, after) = study.lives()
    assert first == second == job and before != after and study.submitted() == [job]


def test_master_killed_and_started_again_while_its_jobs_run(study, cluster, want):
    study.start(DIP)
    job, saved = study.half_done()
    with study.slow():
        study.masters[0].kill()
        study.masters[0].wait()
        refused = study.snakemake(DIP)
        assert refused.returncode and "LockException" in refused.stderr
        unlock = study.snakemake("--unlock")
        assert unlock.returncode == 0, unlock.stderr
        assert cluster.states(job) == {"RUNNING"}
        study.start(DIP)
        study.contested()
    study.finish(1)
    study.check(want, saved)
    (again,) = study.submitted(1)
    assert [life for life, _ in study.lives()] == [job, again] and cluster.states(job) == {"FAILED"}, "the older one left"


def test_disk_full_while_writing(study, cluster, want):
    """Checkpoints fail, and so do the next attempts, until somebody makes room."""
    results = study.folder / "results"
    full = study.folder / "full"
    results.rename(full)
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", results], check=True)
    try:
        subprocess.run(["cp", "-a", f"{full}/.", results], check=True)
        study.start(DIP)
        job, saved = study.half_done()
        with study.slow(), pytest.raises(OSError, match="No space left"), open(results / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        until(lambda: cluster.states(job) == {"FAILED"}, 60, "the job gives up")
        assert any("disk full; free space and run again; what was finished is kept" in line for line in study.words())
        (results / "ballast").unlink()
        study.finish()
        study.check(want, saved)
        assert len(study.submitted()) >= 2
    finally:
        study.stop()
        until(lambda: subprocess.run(["umount", results], capture_output=True).returncode == 0, 30, "nobody works in the folder")


def test_two_snakemakes_on_one_results_folder(study, cluster, want):
    """The second is refused; who insists gets two jobs on one reconstruction, of which the newer wins."""
    study.start(DIP)
    job, saved = study.half_done()
    with study.slow():
        refused = study.snakemake(DIP)
        assert refused.returncode and "LockException" in refused.stderr
        study.start(DIP, "--nolock")
        study.contested()
    study.finish(1)
    study.finish(0)
    study.check(want, saved)
    assert study.lives()[0][0] == job and len({job for job, _ in study.lives()}) >= 2


def test_killed_at_every_attempt(study, cluster, want, undisturbed):
    """One patient needs more memory than any node has: the rest of the cohort is finished, the report made, the failure named."""
    study.environment["SPY_EATS"] = "1200 patient_042/R2/dip"
    small = {"mem_mb": 900}  # the largest that this cluster gives, at every attempt
    content = {"reconstruct_gpu": {"slurm_partition": "gpu"} | small}
    study.adjust({"set-resources": content, "retries": 1})
    study.start()
    study.finish(status=1)
    lost = RECON.format("patient_042", "dip")
    assert checksums(study.folder, DIP) == want and not (study.folder / lost).exists()
    for patient in ("patient_041", "patient_042"):
        tv = RECON.format(patient, "tv")
        assert checksums(study.folder, tv) == checksums(undisturbed, tv)
    failures = pd.read_csv(study.folder / "results/cohort/failures.csv", keep_default_na=False)
    assert list(zip(failures.volume, failures.arm, strict=True)) == [("patient_042", "dip")]
    page = (study.folder / "results/cohort/report.html").read_text()
    assert "patient_042" in page and failures.reason.iloc[0] in page
    metrics = pd.read_csv(study.folder / "results/cohort/metrics.csv", keep_default_na=False)
    psnr = metrics[(metrics.metric == "psnr") & (metrics.slice == "") & (metrics.which == "stopped")]
    assert sorted(zip(psnr.volume, psnr.arm, strict=True)) == [("patient_041", "dip"), ("patient_041", "tv"), ("patient_042", "tv")]
    assert len(study.lives("patient_042")) == 3, "tv once, dip twice"
