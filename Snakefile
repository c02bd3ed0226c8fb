# The LSKA paper from images to tables. `snakemake --cores 2` makes everything at demo scale; `--configfile config/small.yaml`
# chooses another scale. Tables name what they need, so a target trains and evaluates only that.
from pathlib import Path

from snakemake.utils import min_version

from lska.provenance.surroundings import end_plainly_at_interrupts, explained, require_project_folder

# First of all: another folder's code may lack what is imported next.
with explained():
    require_project_folder(Path(workflow.main_snakefile))
if workflow.is_main_process:
    end_plainly_at_interrupts()

from lska.settings.scale import read_settings
from lska.settings.tasks import HEADS, PAPER_RECIPES, FINE_TUNED
from lska.report.site_paths import site_outputs
from lska.models.runs import RUN, Run
from lska.settings.versions import MEASUREMENTS
from lska.pipeline.products import FIGURES, TABLES, Plan, source_digest

min_version("9.0")

# Only if no other file is given: Snakemake would merge the two key by key, which would mix two scales.
if not workflow.overwrite_configfiles:
    configfile: "config/demo.yaml"

# Read again by the project's own reader, which refuses a key that is given twice.
FILES = workflow.overwrite_configfiles or ["config/demo.yaml"]
with explained():
    PLAN = Plan(
        read_settings(FILES),
        files=FILES,
        overrides=workflow.config_settings.config or {},
    )
SETTINGS = PLAN.settings
if not workflow.is_main_process:
    PLAN.follow()
LOGS = PLAN.config.work / "logs"


wildcard_constraints:
    run=RUN,
    task=FINE_TUNED,
    name="[^/]+",


localrules: all, all_tables, all_figures


rule all:
    default_target: True
    input:
        PLAN.accuracies(),
        [PLAN.notebook(target) for target in TABLES + FIGURES],
        [PLAN.outputs(target) for target in TABLES + FIGURES],
        PLAN.verdicts + PLAN.summaries,
        site_outputs(PLAN.config.results),


rule all_tables:
    input:
        [PLAN.outputs(target) for target in TABLES],


rule all_figures:
    input:
        [PLAN.outputs(target) for target in FIGURES],


TOPICS = "current data train evaluate passes tables claims summaries report deployment"

for topic in TOPICS.split():

    include: f"workflow/rules/{topic}.smk"


# Last, as it knows all rules then; jobs on other machines have nobody who reads.
if workflow.is_main_process:
    from lska.pipeline.run_messages import speak_of_runs

    speak_of_runs(PLAN, workflow)
