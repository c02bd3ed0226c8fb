# Data sets: generated or checked, with their manifest recorded beside the results.


rule data:
    output:
        PLAN.config.data_record,
    params:
        digest=PLAN.data_digest(),
    log:
        LOGS / "data.log",
    shell:
        "lska data prepare {SETTINGS} 2> {log:q}"
