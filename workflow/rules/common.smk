# The study becomes a plan (src/dipline/plan.py); everything below is a look-up in it.
import sys

sys.path.insert(0, f"{workflow.basedir}/src")
from dipline import plan as planning
from dipline.study import StudyError

planning.use_checkout(workflow.basedir)

if not config:

    configfile: "config/config.yaml"


try:
    PLAN = planning.prepare(config, workflow.configfiles, main=workflow.is_main_process)
except StudyError as error:
    sys.exit("\n".join([*error.problems, f"{len(error.problems)} problem(s); no job was started"]))

ROOT, LOGS = str(PLAN.root), f"logs/{PLAN.study.study}"
SNAPSHOTS = str if PLAN.study.keep_snapshots else temp


# With --sdm apptainer. A path without a root: Snakemake refuses images in folders with a space in their name, with --sdm or without.
container: "envs/dipline.sif"


wildcard_constraints:
    dataset=PLAN.pattern("dataset"),
    volume=PLAN.pattern("volume"),
    acq=PLAN.pattern("acq"),
    arm=PLAN.pattern("arm"),
    seed=r"\d+",
    block=r"s\d+(-\d+)?",


def job_of(wildcards):
    return planning.Job(
        wildcards.dataset,
        wildcards.volume,
        wildcards.acq,
        wildcards.arm,
        int(wildcards.seed),
    )


def scan_files(wildcards):
    return PLAN.scans(wildcards.dataset, wildcards.volume)


def scan_words(wildcards):
    return PLAN.scan_words(wildcards.dataset, wildcards.volume)


def own_files(wildcards):
    return PLAN.given_files(wildcards.dataset, wildcards.volume, wildcards.acq)


def all_scores(_):
    """As a function, so that a job's own Snakemake does not read thousands of names that it has no use for."""
    return PLAN.scores


def chosen_slices(wildcards):
    return PLAN.slices(wildcards.dataset, wildcards.volume)


def block_inputs(wildcards):
    return PLAN.inputs(*job_of(wildcards), wildcards.block)


# Resources grow with every attempt of Snakemake.


def memory(wildcards, attempt):
    return PLAN.memory(job_of(wildcards)) * 2 ** (attempt - 1)


def minutes(wildcards, attempt):
    return PLAN.minutes(job_of(wildcards), wildcards.block) * attempt


def scan_memory(wildcards, attempt):
    return PLAN.scan_memory(wildcards.dataset, wildcards.volume) * 2 ** (attempt - 1)


def cohort_memory(wildcards, attempt):
    return PLAN.cohort_memory * 2 ** (attempt - 1)


def half_hours(wildcards, attempt):
    return 30 * attempt
