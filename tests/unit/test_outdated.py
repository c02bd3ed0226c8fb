"""Files that are known to be of another recipe, other weights or other data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from plan_helpers import put_metrics, put_weights

from lska import outdated
from lska.files import write_json
from lska.runs import Run
from lska.workflow import Plan

RUN = Run("van_tiny", "lska", 23, 0)


def test_weights_of_another_recipe_are_named_and_missing_ones_are_left_to_snakemake(made: Plan) -> None:
    sidecar = made.config.weights_path(RUN).with_suffix(".json")
    assert outdated.of_training(made.config, RUN) == []
    put_weights(made, RUN)
    assert outdated.of_training(made.config, RUN) == []
    made.config.weights_path(RUN).unlink()
    assert outdated.of_training(made.config, RUN) == []
    write_json(sidecar, {"md5": "x", "recipe": "sha256:of another day"})
    assert outdated.of_training(made.config, RUN) == [str(sidecar)]
    sidecar.write_text("{")
    assert outdated.of_training(made.config, RUN) == [str(sidecar)]


def test_a_fine_tuning_is_outdated_by_its_recipe_and_by_its_backbone(made: Plan) -> None:
    job = made.job("detection/retinanet", str(RUN))
    sidecar = job.weights.with_suffix(".json")

    def put(**changes: Any) -> list[str]:
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        write_json(sidecar, {"recipe": job.digest(), "backbone": {"md5": "a"}} | changes)
        return outdated.of_fine_tuning(job)

    assert outdated.of_fine_tuning(job) == [] and put() == []
    put_weights(made, RUN, md5="a")
    assert put() == []
    assert put(recipe="sha256:of another day") == [str(sidecar)]
    put_weights(made, RUN, md5="b")
    assert put() == [str(sidecar)]
    control = made.job("detection/retinanet-untrained", str(RUN))
    control.weights.parent.mkdir(parents=True)
    write_json(control.weights.with_suffix(".json"), {"recipe": control.digest(), "backbone": None})
    assert outdated.of_fine_tuning(control) == []


def test_a_metric_file_of_other_weights_is_outdated(made: Plan) -> None:
    weights, metrics = made.config.weights_path(RUN), made.config.metric_path("classification", RUN)
    put_metrics(metrics, {"weights": {"md5": "a"}})
    assert outdated.of_evaluation(weights, metrics) == []
    put_weights(made, RUN, md5="a")
    assert outdated.of_evaluation(weights, metrics) == []
    put_weights(made, RUN, md5="b")
    assert outdated.of_evaluation(weights, metrics) == [str(metrics)]


def test_a_set_that_is_made_otherwise_today_is_outdated(made: Plan) -> None:
    item = made.item("texture_knn")
    assert outdated.of_data(made.config, item.data.name) == []
    write_json(item.record, {"inputs": item.inputs()})
    assert outdated.of_data(made.config, item.data.name) == []
    write_json(item.record, {"inputs": "sha256:of another day"})
    assert outdated.of_data(made.config, item.data.name) == [str(item.record)]
    assert outdated.of_data(made.config, made.config.data.name) == []


def test_generated_images_that_are_gone_are_made_again_for_a_job_that_reads_them(made: Plan) -> None:
    config = made.config
    item = made.item("texture_knn")
    assert outdated.of_images(config, [item.record]) == [str(item.record)]
    assert outdated.of_images(config, [str(item.record), "results/other.json"]) == [str(item.record)]
    assert outdated.of_images(config, ["results/other.json"]) == []
    Path(item.data.root).mkdir(parents=True)
    (Path(item.data.root) / "image.jpg").touch()
    assert outdated.of_images(config, [item.record]) == []


def test_with_corrupted_images_the_clean_ones_are_made_again_where_these_are_gone_too(made: Plan) -> None:
    config, item = made.config, made.item("c")
    assert outdated.of_images(config, [item.record]) == [str(item.record), str(config.data_record)]
    Path(config.data.root).mkdir(parents=True)
    (Path(config.data.root) / "labels.csv").touch()
    assert outdated.of_images(config, [item.record]) == [str(item.record)]
    # Those of another kind are drawn, not made of the clean images.
    assert outdated.of_images(config, [made.item("r").record]) == [str(made.item("r").record)]


def test_a_set_of_corruptions_that_was_not_finished_is_gone_on_with(made: Plan) -> None:
    config, item = made.config, made.item("c_bar")
    for root in (config.data.root, item.data.root):
        (Path(root) / "sparkles").mkdir(parents=True)
    write_json(item.record, {"parts": {"sparkles": [1], "brownish_noise": [1]}})
    assert outdated.of_images(config, [item.record]) == [str(item.record)]
    (Path(item.data.root) / "brownish_noise").mkdir()
    assert outdated.of_images(config, [item.record]) == []


def test_corruptions_wait_for_clean_images_that_are_gone_as_they_are_themselves(made: Plan) -> None:
    def marked(path: Path) -> tuple[str, Path]:
        return "ancient", path

    config, item = made.config, made.item("c")
    write_json(item.record, {"inputs": item.inputs()})
    assert made.passes and made.made_of(item.data.name, marked) == [config.data_record]
    # Checking clean images that are there was enough.
    image = Path(config.data.root) / "val/cat/1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    assert made.made_of(item.data.name, marked) == [("ancient", config.data_record)]
    # Where nothing is to be measured on them, nothing has to be made again, whatever images are gone.
    shutil.rmtree(config.data.root)
    made.__dict__["passes"] = []
    assert made.made_of(item.data.name, marked) == [("ancient", config.data_record)]
