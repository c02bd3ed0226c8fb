# The LSKA paper from images to tables. `snakemake --cores 2` makes everything at demo scale; another scale is chosen by
# `--configfile config/small.yaml`. Tables name what they need, so a target trains and evaluates only that.
from pathlib import Path

from snakemake.utils import min_version

from lska.workflow import FIGURES, TABLES, Plan

min_version("9.0")

# Snakemake merges a given file over this default key by key, which would mix two scales; so it is read only alone.
if not workflow.overwrite_configfiles:
    configfile: "config/demo.yaml"

PLAN = Plan(
    config,
    files=workflow.overwrite_configfiles or [Path("config/demo.yaml")],
    overrides=workflow.config_settings.config or {},
)
SETTINGS = PLAN.settings
RESULTS = PLAN.config.results
LOGS = PLAN.config.work / "logs"


wildcard_constraints:
    run=r"[a-z0-9_]+(-[a-z_]+-k\d+)?-s\d+",
    target=r"(table|figure)_\d\d",


localrules: all, all_tables, all_figures


rule all:
    default_target: True
    input:
        [PLAN.notebook(target) for target in TABLES + FIGURES],
        [PLAN.outputs(target) for target in TABLES + FIGURES],


rule all_tables:
    input:
        [PLAN.outputs(target) for target in TABLES],


rule all_figures:
    input:
        [PLAN.outputs(target) for target in FIGURES],


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
