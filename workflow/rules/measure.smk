# From scans to measurements, and to the references that only scores and pictures read.


rule simulate:
    output:
        scan=f"{ROOT}/scans/{{dataset}}/{{volume}}.h5",
    log:
        f"{LOGS}/simulate/{{dataset}}/{{volume}}.log",
    params:
        spec=lambda wildcards: PLAN.simulate_spec(wildcards.dataset),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        "exec python -m dipline simulate --out {output.scan} --spec {params.spec:q} > {log} 2>&1"


# CT: a patient is a folder, one file a slice.
rule simulate_series:
    output:
        scan=directory(f"{ROOT}/scans/{{dataset}}/{{volume}}"),
    log:
        f"{LOGS}/simulate/{{dataset}}/{{volume}}.log",
    params:
        spec=lambda wildcards: PLAN.simulate_spec(wildcards.dataset),
    resources:
        mem_mb=cohort_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        "exec python -m dipline simulate --out {output.scan} --spec {params.spec:q} > {log} 2>&1"


rule reference:
    input:
        scan=scan_files,
    output:
        truth=f"{ROOT}/reference/{{dataset}}/{{volume}}.h5",
    log:
        f"{LOGS}/reference/{{dataset}}/{{volume}}.log",
    params:
        scan=scan_words,
        spec=lambda wildcards: PLAN.reference_spec(wildcards.dataset),
        slices=chosen_slices,
    resources:
        mem_mb=scan_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        "exec python -m dipline reference {params.scan:q} --out {output.truth} --volume {wildcards.volume}"
        " --slices {params.slices} --spec {params.spec:q} > {log} 2>&1"


rule measure:
    input:
        scan=scan_files,
        given=own_files,
    output:
        measurement=f"{ROOT}/measurement/{{dataset}}/{{volume}}/{{acq}}.h5",
        heldout=f"{ROOT}/measurement/{{dataset}}/{{volume}}/{{acq}}.heldout.h5",
    log:
        f"{LOGS}/measure/{{dataset}}/{{volume}}/{{acq}}.log",
    params:
        scan=scan_words,
        spec=lambda wildcards: PLAN.measure_spec(wildcards.dataset, wildcards.acq),
        slices=chosen_slices,
    resources:
        mem_mb=scan_memory,
        runtime=half_hours,
    conda:
        "../../envs/dipline.yaml"
    shell:
        "exec python -m dipline measure {params.scan:q} --out {output.measurement} --heldout {output.heldout}"
        " --dataset {wildcards.dataset} --volume {wildcards.volume} --acq {wildcards.acq}"
        " --slices {params.slices} --spec {params.spec:q} > {log} 2>&1"
