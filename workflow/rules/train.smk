# Training: one rule for every network. State lives in work/, outside the outputs, so that a killed training goes on.


rule train:
    input:
        # Training itself compares the data with their manifest; that they were checked again makes no weights stale.
        data=ancient(PLAN.config.data_record),
    output:
        weights=PLAN.config.weights_path("{run}"),
        sidecar=PLAN.config.weights_path("{run}").with_suffix(".json"),
        record=PLAN.config.training_log("{run}"),
    params:
        digest=lambda wildcards: PLAN.training_digest(wildcards.run),
    log:
        LOGS / "train" / "{run}.log",
    threads: PLAN.training_threads
    resources:
        gpu=PLAN.config.training.gpus,
    retries: PLAN.config.training.attempts - 1
    shell:
        "{PLAN.launcher} train {wildcards.run} --budget-hours {PLAN.config.training.hours} {SETTINGS} 2>> {log:q}"
