# Pictures, volumes and the page that shows them.


rule panels:
    input:
        scores=all_scores,
    output:
        [
            report(
                PLAN.panel(*shown),
                caption="../report/panel.rst",
                category="Images",
                subcategory=shown[0],
                labels=dict(zip(("acquisition", "volume", "window"), shown[1:])),
            )
            for shown in PLAN.shown()
        ],
    log:
        f"{LOGS}/panels.log",
    params:
        study=PLAN.identity,
        code=PLAN.code("report/panels.py"),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        f"exec python -m dipline panels {ROOT} > {{log}} 2>&1"


rule curves:
    input:
        scores=all_scores,
    output:
        [
            report(
                PLAN.curve(*shown),
                caption="../report/curve.rst",
                category="Curves",
                subcategory=shown[0],
                labels={"acquisition": shown[1]},
            )
            for shown in PLAN.curves()
        ],
        [
            report(
                PLAN.sweep(dataset),
                caption="../report/sweep.rst",
                category="Curves",
                subcategory=dataset,
            )
            for dataset in PLAN.swept()
        ],
    log:
        f"{LOGS}/curves.log",
    params:
        study=PLAN.identity,
        code=PLAN.code("report/curves.py", "report/sweeps.py"),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        f"exec python -m dipline curves {ROOT} > {{log}} 2>&1"


rule volumes:
    input:
        scores=all_scores,
    output:
        directory(f"{ROOT}/volumes"),
    log:
        f"{LOGS}/volumes.log",
    params:
        study=PLAN.identity,
        code=PLAN.code("export.py"),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        f"exec python -m dipline volumes {ROOT} > {{log}} 2>&1"


rule report:
    input:
        rules.tables.output,
        rules.panels.output,
        rules.curves.output,
        rules.volumes.output,
    output:
        page=f"{ROOT}/report.html",
        citations=f"{ROOT}/CITATION.md",
    log:
        f"{LOGS}/report.log",
    params:
        study=PLAN.identity,
        code=PLAN.code("report/*"),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        f"exec python -m dipline report {ROOT} --page > {{log}} 2>&1"
