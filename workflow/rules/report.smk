# The report of a scale: results/<scale>/report/index.html. Snakemake's own report, `snakemake --report`, shows the tables and
# figures with the captions in workflow/report.
from lska.report.site_paths import other_scales, rendered_notebook, site_outputs

RESULTS = PLAN.config.results


report: "../report/workflow.rst"


rule notebook_pages:
    input:
        [PLAN.notebook(target) for target in TABLES + FIGURES],
    output:
        [rendered_notebook(RESULTS, target) for target in TABLES + FIGURES],
    params:
        digest=source_digest("report/site.py"),
    message:
        "render the notebooks for the report"
    log:
        LOGS / "report" / "notebooks.log",
    localrule: True
    shell:
        "lska report notebooks {SETTINGS} > {log:q} 2>&1"


rule report:
    input:
        metrics=PLAN.accuracies(),
        outputs=[PLAN.outputs(target) for target in TABLES + FIGURES],
        verdicts=PLAN.verdicts,
        notebooks=rules.notebook_pages.output,
    output:
        site_outputs(RESULTS),
    params:
        digest=source_digest("report"),
        caption=lambda wildcards: PLAN.config.caption,
        others=lambda wildcards: other_scales(PLAN.config.scale),
    message:
        "write the report"
    log:
        LOGS / "report" / "site.log",
    localrule: True
    shell:
        "lska report {SETTINGS} > {log:q} 2>&1"
