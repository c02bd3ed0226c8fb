"""Why jobs run, in the project's terms."""

from __future__ import annotations

from dataclasses import replace

from plan_helpers import md5_of, put_metrics, put_weights
from planned import job

from lska.models.runs import Run
from lska.pipeline.plan_reasons import reasons_of
from lska.pipeline.products import Plan
from lska.pipeline.workload import states_of

RUN = Run("van_tiny", "lska", 23, 0)


def why(made: Plan, rule: str, *products: str, **wildcards: str) -> str:
    """The reasons of a job that makes products."""
    files = [str(file) for name in products for file in made.products[name].files]
    return "; ".join(map(str, reasons_of(made, job(rule, *files, **wildcards))))


def test_an_interrupted_training_says_where_it_goes_on(made: Plan) -> None:
    folder = states_of(made.config, RUN)
    folder.mkdir(parents=True)
    (folder / "state-00000007.pt").write_bytes(b"")
    assert why(made, "train", f"weights/{RUN}", run=str(RUN)).startswith("never trained; goes on after update 7 of ")


def test_a_job_of_one_product_says_why_that_is_made(made: Plan) -> None:
    put_weights(made, RUN)
    put_metrics(made.config.metric_path("classification", RUN), {"weights": {"md5": md5_of("other")}})
    task = f"detection/retinanet/{RUN}"
    for rule, product, expected in (
        ("fine_tune", f"weights/{task}", "never trained"),
        ("dense", f"metrics/{task}", "never measured"),
        ("classification", f"metrics/classification/{RUN}", "measured on other weights"),
        ("data", "data/textures", "not generated yet"),
        ("examples", "pictures/c", "never drawn"),
    ):
        assert why(made, rule, product, task="detection/retinanet", run=str(RUN)) == expected


def test_a_pass_counts_its_networks_by_reason(made: Plan) -> None:
    one = next(one for one in made.passes if one.item.name == "texture_knn")
    put_weights(made, RUN)
    content = {"weights": {"md5": md5_of(str(RUN))}, "detail": {"protocol": "sha256:old"}}
    put_metrics(one.item.metrics(RUN), content)
    made.__dict__.pop("products"), made.__dict__.pop("decided")
    said = why(made, one.name, *(f"metrics/texture_knn/{run}" for run in one.runs))
    assert f"never measured ({len(one.runs) - 1} networks)" in said
    assert "measured in another way than today's settings" in said


def test_snakemakes_own_reasons_are_shortened(made: Plan) -> None:
    for said, short in (
        ("Missing output files: a/b.json", "missing: b.json"),
        ("Updated input files: z.py, a.py, m.py", "newer input: a.py and 2 more"),
        (
            "Missing output files: a.json; Input files updated by another job: b.json, c.json",
            "missing: a.json; its input is made anew: b.json and 1 more",
        ),
        ("Params have changed since last run: before: {'a': 1}; now: x", "Params have changed since last run"),
        ("Forced execution", "Forced execution"),
    ):
        assert "; ".join(map(str, reasons_of(made, replace(job("other"), reason=said)))) == short
