# Weights. Those in DVC are fetched, those with `source: imported` are made from published files, all others are trained.
# lska.pipeline.checkpoints decides this for each network when Snakemake reads this file. Weights that are here and up to
# date have no rule. Training states lie in work/, outside the outputs, so that a killed training can continue.

from snakemake.logging import logger

from lska.pipeline.resources import labelled, launcher, node_resources


START = launcher(PLAN.config.training)

if workflow.is_main_process:
    for damaged in PLAN.choices.damages():
        logger.warning(damaged)


rule fetch:
    input:
        lambda wildcards: made_from(f"weights/{wildcards.weights}"),
    output:
        PLAN.config.weights_path("{weights}"),
    wildcard_constraints:
        weights=PLAN.weights("fetch", ".+"),
    message:
        "fetch weights of {wildcards.weights}"
    log:
        LOGS / "fetch" / "{weights}.log",
    localrule: True
    shell:
        "lska weights fetch {wildcards.weights} {SETTINGS} 2>&1 | tee {log:q} >&2"


# Runs where Snakemake itself runs, as `fetch` does: nodes of a cluster may have no network.
rule import_weights:
    input:
        lambda wildcards: made_from(f"weights/{wildcards.run}"),
    output:
        weights=PLAN.config.weights_path("{run}"),
        sidecar=PLAN.config.weights_path("{run}").with_suffix(".json"),
    wildcard_constraints:
        run=PLAN.weights("import", RUN),
    message:
        "import published weights of {wildcards.run}"
    log:
        LOGS / "import" / "{run}.log",
    localrule: True
    shell:
        "lska weights import {wildcards.run} {SETTINGS} 2>&1 | tee {log:q} >&2"


rule train:
    input:
        # Training itself compares the data with their manifest.
        lambda wildcards: made_from(f"weights/{wildcards.run}"),
    output:
        weights=PLAN.config.weights_path("{run}"),
        sidecar=PLAN.config.weights_path("{run}").with_suffix(".json"),
        record=PLAN.config.training_log("{run}"),
    wildcard_constraints:
        run=PLAN.weights("train", RUN),
    message:
        "train {wildcards.run}"
    log:
        LOGS / "train" / "{run}.log",
    threads: PLAN.config.training.cores
    resources:
        **labelled("gpu_train", PLAN.config.training),
        **node_resources(lambda wildcards: PLAN.config.training, [PLAN.config.training]),
    retries: PLAN.config.training.attempts - 1
    # `exec`: a shell in between would end at a signal, and the job with it, before the training has saved its state.
    shell:
        "exec {START} train {wildcards.run} --job-minutes {resources.runtime} {SETTINGS} 2>> {log:q}"


# One rule for every head and control.
rule fine_tune:
    input:
        lambda wildcards: made_from(f"weights/{wildcards.task}/{wildcards.run}"),
    output:
        weights=PLAN.config.weights_path("{task}/{run}"),
        sidecar=PLAN.config.weights_path("{task}/{run}").with_suffix(".json"),
        record=PLAN.config.training_log("{task}/{run}"),
    wildcard_constraints:
        task=PLAN.weights("train", FINE_TUNED),
    message:
        "fine-tune {wildcards.run} for {wildcards.task}"
    params:
        start=lambda wildcards: launcher(PLAN.job(wildcards.task, wildcards.run).settings),
    log:
        LOGS / "train" / "{task}" / "{run}.log",
    threads: lambda wildcards: PLAN.job(wildcards.task, wildcards.run).settings.cores
    resources:
        **labelled("gpu_train", lambda wildcards: PLAN.job(wildcards.task, wildcards.run).settings),
        **node_resources(
            lambda wildcards: PLAN.job(wildcards.task, wildcards.run).settings,
            [job.settings for job in PLAN.config.fine_tunings],
        ),
    # Snakemake has one number per rule, not per job: the largest of all heads.
    retries: max((job.settings.attempts for job in PLAN.config.fine_tunings), default=1) - 1
    shell:
        "exec {params.start} train {wildcards.run} --task {wildcards.task} --job-minutes {resources.runtime} {SETTINGS} "
        "2>> {log:q}"
