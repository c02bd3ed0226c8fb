# Measurements: each writes metric files, results/<scale>/metrics/<task>/<run>.json.


rule classification:
    input:
        weights=PLAN.config.weights_path("{run}"),
        sidecar=PLAN.config.weights_path("{run}").with_suffix(".json"),
        data=ancient(PLAN.config.data_record),
    output:
        PLAN.config.metric_path("classification", "{run}"),
    log:
        LOGS / "classification" / "{run}.log",
    threads: PLAN.config.evaluation.threads
    shell:
        "lska evaluate classification {wildcards.run} {SETTINGS} 2> {log:q}"


# All networks in one process and in turns: throughputs are comparable only when measured side by side.
rule speed:
    input:
        data=ancient(PLAN.config.data_record),
    output:
        PLAN.files("speed"),
    params:
        runs=PLAN.names("speed"),
        protocol=str(PLAN.config.speed),
    log:
        LOGS / "speed.log",
    threads: PLAN.config.speed.threads
    shell:
        "lska evaluate speed {params.runs} {SETTINGS} 2> {log:q}"


# Counting takes a tenth of a second per network, starting the process several seconds: hence all at once.
rule complexity:
    output:
        PLAN.files("complexity"),
    params:
        runs=PLAN.names("complexity"),
    log:
        LOGS / "complexity.log",
    shell:
        "lska complexity {params.runs} {SETTINGS} 2> {log:q}"


rule properties:
    output:
        PLAN.files("properties"),
    log:
        LOGS / "properties.log",
    shell:
        "lska properties {SETTINGS} 2> {log:q}"
