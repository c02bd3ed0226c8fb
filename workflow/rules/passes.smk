# Robustness, and looking inside. One job (a pass) reads the images once for several checkpoints: for those runs of a table that
# still have to be measured. Files of the other runs are plain inputs of the tables.

for one in PLAN.passes:
    rule:
        name:
            one.name
        input:
            lambda wildcards, one=one: made_from(*(f"metrics/{one.item.task}/{run}" for run in one.runs)),
        output:
            one.outputs,
        params:
            command=one.item.command,
            runs=[str(run) for run in one.runs],
            budget=one.budget,
        message:
            f"evaluate {one.item.task} of {len(one.runs)} network{'s' * (len(one.runs) > 1)}"
        log:
            LOGS / "passes" / f"{one.name}.log",
        threads: one.item.means.cores
        resources:
            **labelled("gpu_eval", one.item.means, stops_after=one.hours),
        retries: one.item.section.attempts - 1
        shell:
            "exec lska evaluate {params.command} --checkpoints {params.runs} {params.budget} {SETTINGS} 2>> {log:q}"


# Pictures of what the perturbed sets look like, for the notebooks.
rule examples:
    input:
        lambda wildcards: made_from(f"pictures/{wildcards.set}"),
    output:
        PLAN.config.results / "samples" / "robustness" / "{set}" / "examples.png",
    wildcard_constraints:
        set=PLAN.made("pictures", "[^/]+", end="/"),
    message:
        "draw examples of {wildcards.set}"
    log:
        LOGS / "robustness" / "examples_{set}.log",
    resources:
        **labelled("cpu_small"),
    shell:
        "lska data examples {wildcards.set} {SETTINGS} 2> {log:q}"
