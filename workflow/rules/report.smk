# The site of a scale: results/<scale>/report/index.html. Snakemake's own report, `snakemake --report`, shows the tables and
# figures that are marked for it, with the captions of workflow/report.
from lska.report import graph_path, other_scales, rendered_notebook, site_outputs

RESULTS = PLAN.config.results

from pathlib import Path


report: "../report/workflow.rst"


rule notebook_pages:
    input:
        [PLAN.notebook(target) for target in TABLES + FIGURES],
    output:
        [rendered_notebook(RESULTS, target) for target in TABLES + FIGURES],
    params:
        digest=source_digest("report/notebooks.py"),
    log:
        LOGS / "report" / "notebooks.log",
    localrule: True
    shell:
        "lska report notebooks {SETTINGS} > {log:q} 2>&1"


# Asks Snakemake itself, in an empty folder; it is short and needs no node of its own.
rule rule_graph:
    input:
        sorted(Path("workflow/rules").glob("*.smk")),
        "Snakefile",
    output:
        graph_path(RESULTS),
    params:
        digest=source_digest("report/rules.py", "workflow.py"),
        configuration=PLAN.digest,
    log:
        LOGS / "report" / "rules.log",
    localrule: True
    shell:
        "lska report rules {SETTINGS} > {log:q} 2>&1"


rule report:
    input:
        metrics=PLAN.accuracies(),
        outputs=[PLAN.outputs(target) for target in TABLES + FIGURES],
        verdicts=PLAN.verdicts,
        notebooks=rules.notebook_pages.output,
        rules=rules.rule_graph.output,
    output:
        site_outputs(RESULTS),
    params:
        digest=source_digest("report"),
        caption=lambda wildcards: PLAN.config.caption,
        others=lambda wildcards: other_scales(PLAN.config.scale),
    log:
        LOGS / "report" / "site.log",
    localrule: True
    shell:
        "lska report {SETTINGS} > {log:q} 2>&1"
