# Files that are up to date have no rule. This file tells Snakemake the inputs of all others, and which files are outdated.

from lska.data.roots import PlannedJob
from lska.provenance.sidecars import ForeignWeightsError

# It can be asked for by its name all the same.
for file in PLAN.current():

    rule:
        name:
            file
        input:
            file,
        localrule: True


ASKED = []
"""Jobs that make products, as far as missing data matter to them."""


def made_from(*names):
    """The inputs of the job that makes products; files of theirs that are there are to be replaced.

    Snakemake has no public way to have a job run whose outputs are there, are not younger than its inputs, and of which
    it remembers nothing, as in a clone.
    """
    try:
        files = [str(file) for file in PLAN.inputs(*names)]
    except ForeignWeightsError as error:
        # Any other exception would come with a traceback.
        raise SystemExit(f"lska: error: {error}") from error
    if workflow.is_main_process and not workflow.touch:
        workflow.dag.forcefiles.update(PLAN.existing(*names))
        ASKED.append(PlannedJob(files, [str(file) for name in names for file in PLAN.products[name].files]))
    return files
