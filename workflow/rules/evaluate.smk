# Scores read the references; tables read the scores.


rule score:
    input:
        recons=lambda wildcards: PLAN.recons(job_of(wildcards)),
        snapshots=lambda wildcards: PLAN.recons(job_of(wildcards), ".snapshots.h5"),
        truth=f"{ROOT}/reference/{{dataset}}/{{volume}}.h5",
        measurement=f"{ROOT}/measurement/{{dataset}}/{{volume}}/{{acq}}.h5",
        heldout=f"{ROOT}/measurement/{{dataset}}/{{volume}}/{{acq}}.heldout.h5",
    output:
        score=f"{ROOT}/scores/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}.json",
    log:
        f"{LOGS}/score/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}.log",
    params:
        code=PLAN.code("score.py", "metrics.py"),
        state=f"{ROOT}/.state/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}",
    resources:
        mem_mb=scan_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        "exec python -m dipline score {input.recons} --reference {input.truth} --measurement {input.measurement}"
        " --heldout {input.heldout} --out {output.score} --state {params.state} > {log} 2>&1"


rule tables:
    input:
        scores=all_scores,
    output:
        metrics=report(f"{ROOT}/metrics.csv", caption="../report/metrics.rst", category="Tables"),
        failures=f"{ROOT}/failures.csv",
        statistics=f"{ROOT}/statistics.csv",
        tables=report(
            directory(f"{ROOT}/tables"),
            patterns=["{name}.csv"],
            caption="../report/table.rst",
            category="Tables",
        ),
    log:
        f"{LOGS}/tables.log",
    params:
        study=PLAN.identity,
        code=PLAN.code("report/tables.py", "report/statistics.py", "report/questions.py"),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        f"exec python -m dipline tables {ROOT} > {{log}} 2>&1"
