# The paper's relative statements, each with a verdict.


rule claims:
    input:
        metrics=PLAN.claimed,
        claims="paper/claims.csv",
    output:
        PLAN.verdicts,
    params:
        digest=source_digest("claims"),
        caption=lambda wildcards: PLAN.config.caption,  # a plain text would be searched for wildcards
    message:
        "judge the paper's statements"
    log:
        LOGS / "claims.log",
    localrule: True
    shell:
        "lska claims --write {SETTINGS} > {log:q} 2>&1"
