# Measurements: each writes metric files, results/<scale>/metrics/<task>/<run>.json. If it is measured on images, an .npz file
# with the results per image lies beside it.

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
    message:
        "evaluate {wildcards.run}"
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
    message:
        "evaluate {wildcards.run} for {wildcards.task}"
    log:
        LOGS / "dense" / "{task}" / "{run}.log",
    threads: lambda wildcards: PLAN.job(wildcards.task, wildcards.run).evaluation.cores
    resources:
        **labelled("gpu_eval", lambda wildcards: PLAN.job(wildcards.task, wildcards.run).evaluation),
    shell:
        "lska evaluate dense {wildcards.run} --task {wildcards.task} {SETTINGS} 2> {log:q}"


# The following are measured on architectures alone. They run again when the version of an attention is raised, `speed` also
# when the networks or its settings change.


def names_of(wildcards, output):
    """What is measured into the files of a rule; as it follows from these, it is no reason to measure again."""
    return [Path(file).stem for file in output]


# All networks in one process, in turns, and nothing else at the same time: otherwise throughputs could not be compared.
rule speed:
    input:
        lambda wildcards: made_from(*PLAN.superseded("speed", PLAN.names("speed"))),
    output:
        PLAN.files("speed"),
    params:
        runs=names_of,
    message:
        "measure the throughput of all networks"
    log:
        LOGS / "speed.log",
    threads: max(PLAN.config.speed.threads, workflow.is_main_process and workflow.resource_settings.cores or 1)
    resources:
        **labelled("gpu_eval", PLAN.config.speed),
    shell:
        "lska evaluate speed {params.runs} {SETTINGS} 2> {log:q}"


# All at once: counting takes 0.1 s per network, starting a process several seconds.
for apart, names in PLAN.counted("complexity").items():

    rule:
        name:
            f"complexity{apart}"
        input:
            lambda wildcards, names=names: made_from(*PLAN.superseded("complexity", names)),
        output:
            PLAN.files("complexity", names),
        params:
            runs=names_of,
            version=MEASUREMENTS["complexity"].number,
        message:
            "count parameters and operations"
        log:
            LOGS / f"complexity{apart}.log",
        resources:
            **labelled("cpu_small"),
        shell:
            "lska evaluate complexity {params.runs} {SETTINGS} 2> {log:q}"


for head in sum(HEADS.values(), ()):
    for apart, names in PLAN.counted(f"complexity/{head}").items():

        rule:
            name:
                f"complexity_{head}{apart}"
            input:
                lambda wildcards, head=head, names=names: made_from(*PLAN.superseded(f"complexity/{head}", names)),
                # In a clone, times of files mean nothing; the digest tells whether the content changed.
                recipe=ancient(PAPER_RECIPES[head]),
            output:
                PLAN.files(f"complexity/{head}", names),
            params:
                head=head,
                runs=names_of,
                recipe=file_md5(PAPER_RECIPES[head]),
                version=MEASUREMENTS["dense_complexity"].number,
            message:
                "count parameters and operations with {params.head}"
            log:
                LOGS / f"complexity_{head}{apart}.log",
            resources:
                **labelled("cpu_small"),
            shell:
                "lska evaluate complexity {params.runs} --head {params.head} {SETTINGS} 2> {log:q}"


for apart, names in PLAN.counted("properties").items():

    rule:
        name:
            f"properties{apart}"
        input:
            lambda wildcards, names=names: made_from(*PLAN.superseded("properties", names)),
        output:
            PLAN.files("properties", names),
        params:
            designs=names_of,
            version=MEASUREMENTS["properties"].number,
        message:
            "measure properties of attentions"
        log:
            LOGS / f"properties{apart}.log",
        resources:
            **labelled("cpu_small"),
        shell:
            "lska evaluate properties {params.designs} {SETTINGS} 2> {log:q}"
