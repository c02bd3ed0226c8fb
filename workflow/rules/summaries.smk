# What DVC compares between commits: the headline numbers of each run, and the series of its plots.
from lska import summaries


rule summaries:
    input:
        summaries.inputs(PLAN.config, PLAN.names("complexity")),
    output:
        PLAN.summaries,
    params:
        digest=source_digest("headlines.py", "summaries"),
    log:
        LOGS / "summaries.log",
    localrule: True
    shell:
        "lska summary --write {SETTINGS} > {log:q} 2>&1"
