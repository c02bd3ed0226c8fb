# Data sets: generated or checked, with their manifest recorded beside the results.

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from lska.data import roots
from lska.labels import labelled
from lska.weights.foreign import ForeignWeightsError


# Before anything runs, and where a person sees it: a job could only write it into its log.
onstart:
    if workflow.is_main_process and not workflow.touch:
        try:
            PLAN.choices.check_outputs(path for job in workflow.dag.needrun_jobs() for path in job.output)
        except ForeignWeightsError as error:
            raise WorkflowError(str(error)) from error
        jobs = [roots.PlannedJob(job.input, job.output) for job in workflow.dag.needrun_jobs()]
        absent = [roots.message(PLAN.origin, one) for one in roots.missing(PLAN.config, jobs)]
        if absent and workflow.execution_settings.keep_going:
            logger.warning("\n".join(absent))
        elif absent:
            raise WorkflowError("\n".join([*absent, roots.STOPPED]))


rule data:
    input:
        told(
            lambda wildcards: remade(
                PLAN.made_of(wildcards.name, ancient), outdated.of_data(PLAN.config, wildcards.name)
            )
        ),
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
