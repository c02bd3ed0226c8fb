# Measurements: each writes metric files, results/<scale>/metrics/<task>/<run>.json, and beside those of images an .npz
# with what their errors come from.

from lska.pipeline.resources import labelled
from lska.provenance.metric_files import file_md5, outcomes_path


rule classification:
    input:
        lambda wildcards: made_from(f"metrics/classification/{wildcards.run}"),
    output:
        metrics=PLAN.config.metric_path("classification", "{run}"),
        outcomes=outcomes_path(PLAN.config.metric_path("classification", "{run}")),
    wildcard_constraints:
        run=PLAN.made("metrics/classification", RUN),
    log:
        LOGS / "classification" / "{run}.log",
    threads: PLAN.config.evaluation.cores
    resources:
        **labelled("gpu_eval", PLAN.config.evaluation),
    shell:
        "lska evaluate classification {wildcards.run} {SETTINGS} 2> {log:q}"


rule dense:
    input:
        lambda wildcards: made_from(f"metrics/{wildcards.task}/{wildcards.run}"),
    output:
        metrics=PLAN.config.metric_path("{task}", "{run}"),
        outcomes=outcomes_path(PLAN.config.metric_path("{task}", "{run}")),
        samples=PLAN.config.results / "samples" / "{task}" / "{run}.png",
    wildcard_constraints:
        task=PLAN.made("metrics", FINE_TUNED),
    log:
        LOGS / "dense" / "{task}" / "{run}.log",
    threads: lambda wildcards: PLAN.job(wildcards.task, wildcards.run).evaluation.cores
    resources:
        **labelled("gpu_eval", lambda wildcards: PLAN.job(wildcards.task, wildcards.run).evaluation),
    shell:
        "lska evaluate dense {wildcards.run} --task {wildcards.task} {SETTINGS} 2> {log:q}"


# All networks in one process and in turns, and nothing beside it: throughputs are comparable only when measured so.
rule speed:
    output:
        PLAN.files("speed"),
    params:
        runs=PLAN.names("speed"),
        digest=PLAN.speed_digest(),
    log:
        LOGS / "speed.log",
    threads: max(PLAN.config.speed.threads, workflow.is_main_process and workflow.resource_settings.cores or 1)
    resources:
        **labelled("gpu_eval", PLAN.config.speed),
    shell:
        "lska evaluate speed {params.runs} {SETTINGS} 2> {log:q}"


# Counting takes a tenth of a second per network, starting the process several seconds: hence all at once.
rule complexity:
    output:
        PLAN.files("complexity"),
    params:
        runs=PLAN.names("complexity"),
        version=MEASUREMENTS["complexity"].number,
    log:
        LOGS / "complexity.log",
    resources:
        **labelled("cpu_small"),
    shell:
        "lska evaluate complexity {params.runs} {SETTINGS} 2> {log:q}"


for head in sum(HEADS.values(), ()):

    rule:
        name:
            f"complexity_{head}"
        input:
            # A clone gives files arbitrary times; that its content is another, the digest tells.
            recipe=ancient(PAPER_RECIPES[head]),
        output:
            PLAN.files(f"complexity/{head}"),
        params:
            head=head,
            runs=PLAN.names(f"complexity/{head}"),
            recipe=file_md5(PAPER_RECIPES[head]),
            version=MEASUREMENTS["dense_complexity"].number,
        log:
            LOGS / f"complexity_{head}.log",
        resources:
            **labelled("cpu_small"),
        shell:
            "lska evaluate complexity {params.runs} --head {params.head} {SETTINGS} 2> {log:q}"


rule properties:
    output:
        PLAN.files("properties"),
    params:
        version=MEASUREMENTS["properties"].number,
    log:
        LOGS / "properties.log",
    resources:
        **labelled("cpu_small"),
    shell:
        "lska evaluate properties {SETTINGS} 2> {log:q}"
