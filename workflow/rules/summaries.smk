# What DVC compares between commits: the headline numbers of each run, and the series of its plots.
from lska.claims.summaries import summary_inputs


rule summaries:
    input:
        summary_inputs(PLAN.config, PLAN.names("complexity")),
    output:
        PLAN.summaries,
    params:
        digest=source_digest("claims/summaries.py"),
    message:
        "write what DVC compares"
    log:
        LOGS / "summaries.log",
    localrule: True
    shell:
        "lska summary --write {SETTINGS} > {log:q} 2>&1"
