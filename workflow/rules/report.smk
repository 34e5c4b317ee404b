# Pictures, volumes and the page that shows them.


rule panels:
    input:
        scores=PLAN.scores,
    output:
        [
            report(
                PLAN.panel(*shown),
                caption="../report/panel.rst",
                category="Images",
                subcategory=shown[0],
            )
            for shown in PLAN.shown()
        ],
    log:
        f"{LOGS}/panels.log",
    conda:
        "../../envs/dipline.yaml"
    params:
        study=PLAN.identity,
        code=PLAN.code("report/panels.py"),
    shell:
        f"exec python -m dipline panels {ROOT} > {{log}} 2>&1"


rule curves:
    input:
        scores=PLAN.scores,
    output:
        [
            report(
                PLAN.curve(*shown),
                caption="../report/curve.rst",
                category="Curves",
                subcategory=shown[0],
            )
            for shown in PLAN.curves()
        ],
    log:
        f"{LOGS}/curves.log",
    conda:
        "../../envs/dipline.yaml"
    params:
        study=PLAN.identity,
        code=PLAN.code("report/curves.py"),
    shell:
        f"exec python -m dipline curves {ROOT} > {{log}} 2>&1"


rule volumes:
    input:
        scores=PLAN.scores,
    output:
        directory(f"{ROOT}/volumes"),
    log:
        f"{LOGS}/volumes.log",
    conda:
        "../../envs/dipline.yaml"
    params:
        study=PLAN.identity,
        code=PLAN.code("export.py"),
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
    conda:
        "../../envs/dipline.yaml"
    params:
        study=PLAN.identity,
        code=PLAN.code(
            "report/html.py",
            "report/cite.py",
            "report/report.html.j2",
            "report/report.css",
        ),
    shell:
        f"exec python -m dipline report {ROOT} > {{log}} 2>&1"
