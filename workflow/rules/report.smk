# The site of a scale: results/<scale>/report/index.html. Snakemake's own report, `snakemake --report`, shows the tables and
# figures that are marked for it, with the captions of workflow/report.


report: "../report/workflow.rst"


rule notebook_pages:
    input:
        [PLAN.notebook(target) for target in TABLES + FIGURES],
    output:
        PLAN.pages,
    params:
        digest=source_digest("report/notebooks.py"),
    log:
        LOGS / "report" / "notebooks.log",
    shell:
        "lska report notebooks {SETTINGS} > {log:q} 2>&1"


# Asks Snakemake itself, in an empty folder; it is short and needs no node of its own.
rule rule_graph:
    input:
        sorted(Path("workflow/rules").glob("*.smk")),
        "Snakefile",
    output:
        PLAN.graph,
    params:
        digest=source_digest("report/rules.py", "workflow.py"),
        configuration=PLAN.digest,
    log:
        LOGS / "report" / "rules.log",
    localrule: True
    shell:
        "lska report rules {SETTINGS} > {log:q} 2>&1"


# Snakemake removes what a job is about to make. So the list of the site's files is its output: the former site stays
# until the new one takes its place.
rule report:
    input:
        metrics=PLAN.accuracies(),
        outputs=[PLAN.outputs(target) for target in TABLES + FIGURES],
        verdicts=PLAN.verdicts,
        notebooks=PLAN.pages,
        rules=PLAN.graph,
    output:
        PLAN.site,
    params:
        digest=source_digest("report"),
        caption=PLAN.config.caption,
        others=lambda wildcards: PLAN.other_scales(),
    log:
        LOGS / "report" / "site.log",
    shell:
        "lska report {SETTINGS} > {log:q} 2>&1"
