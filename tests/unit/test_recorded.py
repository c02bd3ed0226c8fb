"""What sidecars, records and metric files say of themselves, compared with today's configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import leave, look_again, md5_of, put_metrics, put_weights

from lska.models.runs import Run
from lska.pipeline.checkpoints import Choices
from lska.pipeline.current import recorded
from lska.pipeline.products import Plan
from lska.provenance.files import write_json
from lska.provenance.outcomes import outcomes_path

RUN = Run("van_tiny", "lska", 23, 0)
TASK = "detection/retinanet"


def found(made: Plan, name: str) -> tuple[str | None, str | None]:
    """Why a product is stale, and what of it is lost, by the files that are there now."""
    one = recorded(made.config, Choices(made.config))[name]
    return one.stale, one.lost


def reasons(made: Plan, *names: str) -> list[str | None]:
    """Why products are to be made, by the files that are there now."""
    look_again(made)
    return [made.decided.pending.get(name) for name in names]


def scored(made: Plan, task: str, run: Run, md5: str, **detail: Any) -> Path:
    """Leave a metric file of weights."""
    path = made.config.metric_path(task, run)
    put_metrics(path, {"weights": {"md5": md5}, **detail})
    return path


def test_weights(made: Plan) -> None:
    name, weights = f"weights/{RUN}", made.config.weights_path(RUN)
    assert found(made, name) == ("never trained", None)
    put_weights(made, RUN)
    assert found(made, name) == (None, None)
    weights.unlink()
    assert found(made, name) == (None, "the sidecar is there, its weights are missing")
    leave(weights, "x", recipe="sha256:of another day", spec={})
    assert found(made, name)[0].startswith("trained otherwise")
    weights.with_suffix(".json").write_text("{")
    assert "its sidecar is damaged" in found(made, name)[0]


def test_fine_tuned_weights_and_their_backbone(made: Plan) -> None:
    job = made.job(TASK, str(RUN))
    name = f"weights/{job.place}"

    def put(**changes: Any) -> str | None:
        leave(job.weights, "tuned", **{"recipe": job.digest(), "backbone": {"md5": md5_of("a")}} | changes)
        return reasons(made, name)[0]

    put_weights(made, RUN, "a")
    assert put() is None
    assert made.inputs(name) == [made.config.record_of(job.data), job.backbone, job.backbone.with_suffix(".json")]
    assert put(recipe="sha256:of another day").startswith("trained otherwise")
    put_weights(made, RUN, "b")
    assert put() == "its backbone is another now"
    leave(job.backbone, "a", recipe="sha256:of another day")
    assert put() == "its backbone is to be trained anew"
    control = made.job(f"{TASK}-untrained", str(RUN))
    leave(control.weights, "control", recipe=control.digest(), backbone=None)
    assert reasons(made, f"weights/{control.place}") == [None]
    assert made.inputs(f"weights/{control.place}") == [made.config.record_of(job.data)]


CHANGES: dict[str, tuple[Callable[[Plan, Path], Any], str]] = {
    "missing": (lambda made, path: path.unlink(), "never measured"),
    "damaged": (lambda made, path: path.write_text("{"), "its metric file is damaged"),
    "other weights": (lambda made, path: put_weights(made, RUN, "b"), "measured on other weights"),
    "no sidecar": (
        lambda made, path: made.config.weights_path(RUN).with_suffix(".json").unlink(), "measured on other weights"
    ),
    "another recipe": (
        lambda made, path: leave(made.config.weights_path(RUN), "a", recipe="other"), "its weights are to be made anew"
    ),
    "no outcomes": (lambda made, path: outcomes_path(path).unlink(), "the outcomes beside its metric file are missing"),
    "other outcomes": (lambda made, path: outcomes_path(path).write_bytes(b"x"), "the outcomes beside its metric file"),
    "other data": (
        lambda made, path: write_json(made.config.images.record, {"digest": "sha256:of another set"}),
        "measured on other data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_measurement(made: Plan, change: str) -> None:
    act, reason = CHANGES[change]
    put_weights(made, RUN, "a")
    write_json(made.config.images.record, {"digest": "sha256:as checked"})
    path = scored(made, "classification", RUN, md5_of("a"), data={"digest": "sha256:as checked"})
    assert reasons(made, f"metrics/classification/{RUN}") == [None]
    act(made, path)
    assert reasons(made, f"metrics/classification/{RUN}")[0].startswith(reason)


def test_images_that_only_a_record_is_left_of(made: Plan) -> None:
    item = made.item("texture_knn")
    name = f"data/{item.data.name}"
    assert found(made, name) == ("not generated yet", None)
    write_json(item.record, {"inputs": item.inputs()})
    assert found(made, name) == (None, "its record is there, the generated images are not")
    Path(item.data.root).mkdir(parents=True)
    (Path(item.data.root) / "image.jpg").touch()
    assert found(made, name) == (None, None)
    write_json(item.record, {"inputs": "sha256:of another day"})
    assert found(made, name) == ("what the set is made of has changed", None)
    item.record.write_text("{")
    assert found(made, name) == ("its record is damaged", None)


def test_corruptions_are_made_again_of_clean_images_that_are_made_again(made: Plan) -> None:
    config, item = made.config, made.item("c")
    sets = f"data/{item.data.name}", f"data/{config.data.name}"
    write_json(item.record, {"inputs": item.inputs()})
    write_json(config.images.record, {"digest": "sha256:clean"})
    gone = "its record is there, the generated images are not"
    assert made.passes and reasons(made, *sets) == [gone, gone]
    image = Path(config.data.root) / "val/cat/1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    assert reasons(made, *sets) == [gone, None]
    # Those of another kind are drawn, not made of the clean images.
    shutil.rmtree(config.data.root)
    assert made.inputs(f"data/{made.item('r').data.name}") == []


def test_a_set_of_corruptions_that_was_not_finished_is_gone_on_with(made: Plan) -> None:
    config, item = made.config, made.item("c_bar")
    (Path(config.data.root) / "val").mkdir(parents=True)
    (Path(item.data.root) / "sparkles").mkdir(parents=True)
    write_json(item.record, {"inputs": item.inputs(), "parts": {"sparkles": [1], "brownish_noise": [1]}})
    assert found(made, f"data/{item.data.name}")[1] is not None
    (Path(item.data.root) / "brownish_noise").mkdir()
    assert found(made, f"data/{item.data.name}") == (None, None)


def test_a_clone_of_results_without_their_weights_has_nothing_to_train(made: Plan) -> None:
    config, name = made.config, f"weights/{RUN}"
    put_weights(made, RUN)
    for task in ("classification", *(item.task for item in config.measured if RUN in config.runs_of(item.task))):
        put_measured(made, task)
    for job in config.fine_tunings:
        if job.run == RUN and job.backbone is not None:
            leave(job.weights, "tuned", recipe=job.digest(), backbone={"md5": md5_of(str(RUN))})
    config.weights_path(RUN).unlink()
    assert reasons(made, name) == [None]
    tuned = made.job(TASK, str(RUN))
    scored(made, TASK, RUN, md5_of("tuned"))
    tuned.weights.unlink()
    assert reasons(made, name, f"weights/{tuned.place}") == [None, None]
    # What is trained once more may come out otherwise: then all that it was made for is made again.
    tuned.metrics.unlink()
    missing = "the sidecar is there, its weights are missing"
    assert reasons(made, name, f"weights/{tuned.place}") == [missing, missing]
    assert reasons(made, f"metrics/classification/{RUN}") == ["its weights are to be made anew"]
    tuned.weights.write_text("tuned")
    assert reasons(made, name, f"weights/{tuned.place}") == [None, None]


def put_measured(made: Plan, task: str) -> None:
    """Leave a measurement of today's weights, images and settings, with their record."""
    item = next((item for item in made.config.measured if item.task == task), None)
    content: dict[str, Any] = {"weights": {"md5": md5_of(str(RUN))}, "data": {"digest": "as checked"}}
    if item is not None:
        content["detail"] = {"protocol": item.protocol()}
        chooser = {} if item.reference is None else {"reference": {"md5": md5_of("reference")}}
        if item.reference is not None:
            put_weights(made, item.reference.run, "reference")
        write_json(item.record, {"digest": "as checked", "inputs": item.inputs(), **chooser})
        for path in item.outputs(RUN):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"made up")
    put_metrics(made.config.metric_path(task, RUN), content)


def test_jobs_keep_to_what_was_decided_whatever_files_are_there_by_then(made: Plan) -> None:
    names = f"weights/{RUN}", f"metrics/classification/{RUN}"
    decided = made.decided
    decided.keep(made.decisions)
    put_weights(made, RUN)
    scored(made, "classification", RUN, md5_of(str(RUN)))
    assert reasons(made, *names) == [None, None]
    made.follow()
    assert made.decided == decided and [decided.pending[name] for name in names] == ["never trained", "never measured"]
    assert made.weights("train", "") != ""
    made.decisions.unlink()
    look_again(made)
    made.follow()
    assert made.decided.pending.get(names[0]) is None
