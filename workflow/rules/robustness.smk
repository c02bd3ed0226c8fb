# Robustness: passes over perturbed sets. Only runs that still have to be measured are in a pass, together with those that
# the same tables show; the metric files of the others are plain inputs of the tables.

for one in PLAN.passes:
    if workflow.is_main_process:
        one.mark()

    rule:
        name:
            one.name
        input:
            weights=one.inputs,
            data=ancient(one.item.record),
            outdated=one.outdated,
        output:
            one.outputs,
        params:
            set=one.item.name,
            runs=[str(run) for run in one.runs],
            hours=one.item.section.hours,
            digest=one.digest,
        log:
            LOGS / "robustness" / f"{one.name}.log",
        threads: evaluation_threads(one.item.section.evaluation)
        resources:
            gpu=one.item.section.evaluation.gpus,
        retries: one.item.section.attempts - 1
        shell:
            "lska evaluate robustness {params.set} --checkpoints {params.runs} --budget-hours {params.hours} "
            "{SETTINGS} 2>> {log:q}"


# Pictures of what the perturbed sets look like, for the notebooks.
rule examples:
    input:
        data=lambda wildcards: ancient(PLAN.perturbed(wildcards.set).record),
    output:
        PLAN.config.results / "samples" / "robustness" / "{set}" / "examples.png",
    log:
        LOGS / "robustness" / "examples_{set}.log",
    shell:
        "lska data examples {wildcards.set} {SETTINGS} 2> {log:q}"
