# dipline: cohort studies of untrained image reconstruction.
#   snakemake --configfile config/demo.yaml --cores 2
# What a study may say stands in config/config.yaml; what would run: dipline check STUDY


include: "workflow/rules/common.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/reconstruct.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/study.rst"


localrules:
    all,


rule all:
    default_target: True
    input:
        f"{ROOT}/report.html",


onsuccess:
    print(f"report: {ROOT}/report.html")


onerror:
    shell("python -m dipline report {ROOT} || true")
    print(
        f"some jobs failed; what was finished is in {ROOT}/report.html, what is missing in {ROOT}/failures.csv"
    )
