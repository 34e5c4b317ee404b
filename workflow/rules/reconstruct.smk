# One rule for all modalities and methods; its twin asks for a card as well. No reference among its inputs.


rule reconstruct:
    input:
        measurement=f"{ROOT}/measurement/{{dataset}}/{{volume}}/{{acq}}.h5",
        given=lambda wildcards: [given["file"] for given in block_inputs(wildcards).values()],
    output:
        recon=f"{ROOT}/recon/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}/{{block}}.h5",
        snapshots=SNAPSHOTS(
            f"{ROOT}/recon/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}/{{block}}.snapshots.h5"
        ),
    log:
        f"{LOGS}/reconstruct/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}/{{block}}.log",
    params:
        spec=lambda wildcards: PLAN.reconstruct_spec(
            wildcards.dataset, wildcards.acq, wildcards.arm
        ),
        slices=lambda wildcards: PLAN.block_slices(job_of(wildcards), wildcards.block),
        given=lambda wildcards: PLAN.as_json(block_inputs(wildcards)),
        state=f"{ROOT}/.state/{{dataset}}/{{volume}}/{{acq}}/{{arm}}/seed{{seed}}/{{block}}",
    wildcard_constraints:
        arm=PLAN.pattern("arm", gpu=False),
    threads: PLAN.study.threads
    resources:
        mem_mb=memory,
        runtime=minutes,
    conda:
        "../../envs/dipline.yaml"
    shell:
        "exec python -m dipline reconstruct {input.measurement} --out {output.recon} --snapshots {output.snapshots}"
        " --slices {params.slices} --seed {wildcards.seed} --state {params.state}"
        " --inputs {params.given:q} --spec {params.spec:q} > {log} 2>&1"


# A rule of its own, so that a profile can send these jobs, and no others, to the nodes that have cards.
use rule reconstruct as reconstruct_gpu with:
    wildcard_constraints:
        arm=PLAN.pattern("arm", gpu=True),
    resources:
        gpu=1,
        mem_mb=memory,
        runtime=minutes,
