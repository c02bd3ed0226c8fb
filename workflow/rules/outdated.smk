# What is known to be of another recipe, other weights or other data is made anew, whatever the times of files.

from lska import outdated


def remade(files, stale):
    """The inputs of a job, `files`, and word to Snakemake that its outputs `stale` have to be made again."""
    # As --forcerun, which would also ask for jobs that no target needs. Snakemake has no other way that leaves a job's
    # set of inputs as it is; a changed set would be one more reason to train again.
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(stale)
    return files
