"""Why jobs run, in the project's terms."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from plan_helpers import leave, md5_of, put_weights
from planned import job

from lska.models.runs import Run
from lska.pipeline.plan_reasons import reasons_of
from lska.pipeline.products import Plan
from lska.pipeline.workload import states_of
from lska.provenance.files import write_json

RUN = Run("van_tiny", "lska", 23, 0)


def why(made: Plan, rule: str, **wildcards: str) -> str:
    return "; ".join(map(str, reasons_of(made, job(rule, **wildcards))))


def put_score(made: Plan, **content: Any) -> None:
    weights = {"md5": md5_of(str(RUN))}
    write_json(made.config.metric_path("classification", RUN), {"weights": weights, **content})


def test_a_network_was_never_trained(made: Plan) -> None:
    assert why(made, "train", run=str(RUN)) == "never trained"


def test_a_training_says_which_settings_changed(made: Plan) -> None:
    spec = json.loads(json.dumps(made.config.training_spec(RUN)))
    spec["recipe"] |= {"epochs": 99, "learning_rate": 0.5}
    leave(made.config.weights_path(RUN), "x", recipe="sha256:other", spec=spec)
    found, recipe = why(made, "train", run=str(RUN)), made.config.recipe_of(RUN)
    assert found == f"trained otherwise: epochs 99 -> {recipe.epochs}, learning_rate 0.5 -> {recipe.learning_rate}"


def test_many_changes_are_counted(made: Plan) -> None:
    leave(made.config.weights_path(RUN), "x", recipe="sha256:other", spec={"recipe": {}})
    assert "more" in why(made, "train", run=str(RUN))


def test_weights_or_their_sidecar_are_missing(made: Plan) -> None:
    put_weights(made, RUN)
    weights = made.config.weights_path(RUN)
    weights.unlink()
    assert why(made, "train", run=str(RUN)) == "the sidecar is there, its weights are missing"
    weights.write_bytes(b"")
    weights.with_suffix(".json").unlink()
    assert why(made, "train", run=str(RUN)) == "weights without a sidecar"


def test_an_interrupted_training_says_where_it_goes_on(made: Plan) -> None:
    folder = states_of(made.config, RUN)
    folder.mkdir(parents=True)
    (folder / "state-00000007.pt").write_bytes(b"")
    assert why(made, "train", run=str(RUN)).startswith("never trained; goes on after update 7 of ")


def test_a_fine_tuning_follows_its_backbone(made: Plan) -> None:
    tuned = made.job("detection/retinanet", str(RUN))
    task = {"task": tuned.task, "run": str(RUN)}
    assert why(made, "fine_tune", **task) == "never trained"
    leave(tuned.weights, "tuned", recipe=tuned.digest(), backbone={"md5": md5_of("old")})
    assert why(made, "fine_tune", **task) == "its backbone is to be trained anew"
    put_weights(made, RUN)
    assert why(made, "fine_tune", **task) == "its backbone is another now"
    put_weights(made, RUN, "old")
    assert why(made, "fine_tune", **task) == "missing: out"


def test_a_measurement_says_what_it_lacks(made: Plan) -> None:
    score = {"run": str(RUN)}
    assert why(made, "classification", **score) == "never measured"
    put_score(made)
    assert why(made, "classification", **score) == "its weights are to be trained anew"
    put_weights(made, RUN, "new")
    assert why(made, "classification", **score) == "measured on other weights"
    put_weights(made, RUN)
    write_json(made.config.data_record, {"digest": "now"})
    assert why(made, "classification", **score) == "measured on other data"
    put_score(made, data={"digest": "now"})
    assert why(made, "classification", **score) == "missing: out"
    made.config.metric_path("classification", RUN).write_text("{")
    assert why(made, "classification", **score) == "its metric file is damaged"


def test_a_pass_counts_its_networks_by_reason(made: Plan) -> None:
    one = next(one for one in made.passes if one.item.name == "texture_knn")
    put_weights(made, RUN)
    write_json(one.item.metrics(RUN), {"weights": {"md5": md5_of(str(RUN))}, "detail": {"protocol": "sha256:old"}})
    networks = len(one.runs) - 1
    said = why(made, one.name)
    assert f"never measured ({networks} networks)" in said
    assert "measured in another way than today's settings (1 network)" in said


def test_data_say_whether_they_were_made(made: Plan) -> None:
    assert why(made, "data", name="textures") == "not generated yet"
    write_json(made.config.record_of(made.item("texture_knn").data), {"inputs": "sha256:old"})
    assert why(made, "data", name="textures") == "what the set is made of has changed"
    made.config.record_of(made.item("texture_knn").data).write_text("{")
    assert why(made, "data", name="textures") == "its record is damaged"


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
