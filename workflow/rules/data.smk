# Data sets: generated or checked, with their manifest recorded beside the results.

from lska.labels import labelled


rule data:
    input:
        lambda wildcards: remade(PLAN.made_of(wildcards.name, ancient), outdated.of_data(PLAN.config, wildcards.name)),
    output:
        PLAN.config.results / "data" / "{name}.json",
    params:
        kind=lambda wildcards: PLAN.data_set(wildcards.name)[0],
        digest=lambda wildcards: PLAN.data_digest(wildcards.name),
    log:
        LOGS / "data" / "{name}.log",
    # Every image of a set may be decoded or made.
    resources:
        **labelled("cpu_small", hours=12),
    shell:
        "lska data prepare --kind {params.kind} {SETTINGS} 2> {log:q}"
