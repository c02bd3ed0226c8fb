# What is known to be of another recipe, other weights or other data is made anew, whatever the times of files.

from snakemake.io import is_flagged

from lska import outdated
from lska.weights.foreign import ForeignWeightsError


def forced():
    """Whether options ask for jobs that nothing else asks for."""
    options = workflow.dag_settings
    asked = options is not None and (options.forceall or options.forcetargets or options.forcerun)
    return bool(asked) and workflow.is_main_process and not workflow.touch


PLAN.choices.forced = forced
# Deletions run without settings of execution, as do reports and lists of the DAG.
PLAN.choices.deleting = lambda: workflow.is_main_process and workflow.execution_settings is None


def told(function):
    """An input function whose refusal ends Snakemake with its message alone: it would add a traceback."""

    def inputs(wildcards):
        try:
            return function(wildcards)
        except ForeignWeightsError as error:
            raise SystemExit(f"lska: error: {error}") from error

    return inputs


def remade(files, stale=()):
    """The inputs of a job, `files`, and word to Snakemake that its outputs `stale` have to be made again.

    So do generated images that are gone, where the job is to read them: their record is not `ancient` then.
    """
    # As --forcerun, which would also ask for jobs that no target needs. Snakemake has no other way that leaves a job's
    # set of inputs as it is; a changed set would be one more reason to train again.
    if workflow.is_main_process:
        listed = files if isinstance(files, list) else [files]
        read = [file for file in listed if not is_flagged(file, "ancient")]
        workflow.dag.forcefiles.update([*stale, *outdated.of_images(PLAN.config, read)])
    return files
