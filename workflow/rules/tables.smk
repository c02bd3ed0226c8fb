# Tables and figures: each notebook reads metric files and the paper's values, and writes its output files.

from lska.tables.specs import load_spec

localrules: all_notebooks


rule all_notebooks:
    input:
        [PLAN.notebook(target) for target in TABLES + FIGURES],


for target in TABLES + FIGURES:
    kind, spec = target.partition("_")[0], load_spec(target)

    rule:
        name:
            target
        input:
            PLAN.notebook(target),
            PLAN.outputs(target),
        localrule: True

    rule:
        name:
            f"notebook_{target}"
        input:
            metrics=PLAN.metrics(target),
            outcomes=PLAN.outcomes(target),
            samples=PLAN.samples(target) + PLAN.examples(target),
            fields=PLAN.fields(target),
            template=f"notebooks/{kind}.ipynb",
            spec=f"src/lska/tables/specs/{target}.yaml",
            paper=f"paper/{spec.paper}.csv",
        output:
            [
                report(
                    path, caption="../report/target.rst", category=f"{kind.capitalize()}s",
                    labels={"number": spec.number, "title": spec.title},
                )
                if path.endswith((".html", ".svg"))
                else path
                for path in PLAN.outputs(target)
            ],
            notebook=PLAN.notebook(target),
        # Drawings take longer: last, they would leave other cores without work.
        priority: int(kind == "figure")
        params:
            name=target,
            about=spec.lead,
            caption=lambda wildcards: PLAN.config.caption,
            digest=source_digest("tables", "evaluate/pictures.py"),
        message:
            "make {params.name}"
        log:
            notebook=LOGS / "notebooks" / f"{target}.ipynb",
            text=LOGS / "notebooks" / f"{target}.log",
        localrule: True
        shell:
            "lska notebook {params.name} {SETTINGS} --log {log.notebook:q} --output {output.notebook:q} 2> {log.text:q}"
