# Data sets: generated or checked; their records are kept with the results.

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from lska.data import roots
from lska.pipeline.resources import labelled


# Said before anything runs, where a person sees it; a job could only write it into its log.
onstart:
    if workflow.is_main_process and not workflow.touch:
        PLAN.keep()
        absent = [roots.message(PLAN.origin, one) for one in roots.missing(PLAN.config.sources, ASKED)]
        if absent and workflow.execution_settings.keep_going:
            logger.warning("\n".join(absent))
        elif absent:
            raise WorkflowError("\n".join([*absent, roots.STOPPED]))


rule data:
    input:
        lambda wildcards: made_from(f"data/{wildcards.name}"),
    output:
        PLAN.config.results / "data" / "{name}.json",
    wildcard_constraints:
        name=PLAN.made("data", "[^/]+"),
    params:
        kind=lambda wildcards: PLAN.kind_of(wildcards.name),
    message:
        "prepare images: {wildcards.name}"
    log:
        LOGS / "data" / "{name}.log",
    # Every image of a set may be decoded or made.
    resources:
        **labelled("cpu_small", hours=12),
    shell:
        "lska data prepare --kind {params.kind} {SETTINGS} 2> {log:q}"
