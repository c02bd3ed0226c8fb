# Training: one rule for every network. State lives in work/, outside the outputs, so that a killed training goes on.


rule train:
    input:
        # Checked again for another root, but data that passed the same manifest do not make weights stale.
        data=ancient(PLAN.config.data_record),
    output:
        weights=PLAN.config.weights_path("{run}"),
        sidecar=PLAN.config.weights_path("{run}").with_suffix(".json"),
        record=PLAN.config.training_log("{run}"),
    params:
        digest=lambda wildcards: PLAN.spec_digest(wildcards.run),
        hours=PLAN.config.training.hours,
        launch=PLAN.launcher,
    log:
        LOGS / "train" / "{run}.log",
    threads: PLAN.config.training.threads
    retries: PLAN.config.training.attempts - 1
    shell:
        "{params.launch} train {wildcards.run} --budget-hours {params.hours} {SETTINGS} 2> {log:q}"
