"""What the Snakefile asks for: overrides with their types, quoting, and what makes results stale."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import leave, md5_of, put_metrics

from lska.cli import parser
from lska.files import read_yaml
from lska.options import typed
from lska.outcomes import outcomes_path
from lska.provenance import project_root
from lska.strict import merge
from lska.weights.choices import Choices
from lska.workflow import TABLES, Plan, source_digest


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(project_root())
    return read_yaml(Path("config/demo.yaml"))


def plan(values: dict[str, Any], overrides: dict[str, Any] | None = None) -> Plan:
    return Plan(values, [Path("config/demo.yaml")], overrides or {})


def test_overrides_get_the_types_that_yaml_gives_them() -> None:
    given = {"training": {"overrides": {"epochs": "2", "compile": "true", "rand_augment": "null"}}, "scale": "demo"}
    assert typed(given) == {
        "training": {"overrides": {"epochs": 2, "compile": True, "rand_augment": None}},
        "scale": "demo",
    }
    assert typed(["7", "23"]) == [7, 23]


def test_an_override_reaches_the_commands(demo: dict[str, Any]) -> None:
    made = plan(demo, {"training": {"overrides": {"epochs": "3"}}, "caption": 'it\'s "mine"'})
    assert made.config.recipes["van_tiny"].epochs == 3
    arguments = parser().parse_args(["complexity", "van_tiny-lska-k7-s0", *shlex.split(made.settings)])
    assert arguments.config == [Path("config/demo.yaml")]
    assert arguments.set == {"training": {"overrides": {"epochs": 3}}, "caption": 'it\'s "mine"'}


def test_every_configured_run_is_evaluated(demo: dict[str, Any]) -> None:
    extra = {"model": "van_small", "attention": "lska", "kernel": 41, "seed": 0}
    made = plan(merge(demo, {"runs": [*demo["runs"], extra]}))
    assert "results/demo/metrics/classification/van_small-lska-k41-s0.json" in made.accuracies()


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": {"van_tiny": {"depths": [1, 2, 1, 1]}}},
        {"speed": {"batch_size": 8}},
        {"training": {"overrides": {"image_size": 64}}},
    ],
)
def test_throughput_is_measured_again_after(demo: dict[str, Any], change: dict[str, Any]) -> None:
    assert plan(demo).speed_digest() != plan(merge(demo, change)).speed_digest()


def test_data_are_made_again_after_a_change_of_what_they_are(demo: dict[str, Any]) -> None:
    for section, name in {"data": "shapes", "detection": "scenes", "segmentation": "scene_regions"}.items():
        digests = set()
        for change in ({}, {"root": "elsewhere"}, {"generate": {"seed": 1}}):
            changed = {"data": change} if section == "data" else {section: {"data": change}}
            digests.add(plan(merge(demo, changed)).data_digest(name))
        assert len(digests) == 3


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_fine_tuning_starts_from_a_backbone_that_is_old_news_only_after_it(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    made = plan(demo)
    job = next(job for job in made.config.fine_tunings if job.kind == kind)
    control = next(job for job in made.config.fine_tunings if job.kind == kind and job.name.untrained)
    monkeypatch.chdir(tmp_path)
    assert made.backbone(control.task, str(control.run), old) == []
    run, recipe = str(job.run), made.config.training_digest(job.run)
    leave(job.backbone, "a", recipe=recipe)
    files = [job.backbone, job.backbone.with_suffix(".json")]
    assert made.backbone(job.task, run, old) == files
    leave(job.weights, "w", recipe="any", backbone={"md5": md5_of("a")})
    assert made.backbone(job.task, run, old) == [("old", file) for file in files]
    leave(job.weights, "w", recipe="any", backbone={"md5": md5_of("b")})
    assert made.backbone(job.task, run, old) == files
    leave(job.weights, "w", recipe="any", backbone={"md5": md5_of("a")})
    leave(job.backbone, "a", recipe="of another day")
    assert made.backbone(job.task, run, old) == files


def test_metrics_of_a_backbone_that_is_gone_are_measured_again(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(demo)
    job = next(job for job in made.config.fine_tunings if job.kind == "detection")
    monkeypatch.chdir(tmp_path)
    leave(job.backbone, "a", recipe=made.config.training_digest(job.run))
    leave(job.weights, "w", recipe=job.digest(), backbone={"md5": md5_of("a")})
    put_metrics(job.metrics, {"weights": {"md5": md5_of("w")}})
    files = [job.weights, job.weights.with_suffix(".json"), made.config.record_of(job.data)]
    arguments = job.task, str(job.run), old
    assert made.dense_scored(*arguments) == [("old", file) for file in files]
    assert str(job.samples) not in made.samples("table_04") + made.samples("table_09")
    job.outcomes.rename(job.outcomes.with_suffix(".kept"))
    assert made.dense_scored(*arguments) == files
    job.outcomes.with_suffix(".kept").rename(job.outcomes)
    # A retrained backbone has another md5 under the same recipe; its detector is about to be trained again.
    leave(job.backbone, "b", recipe=made.config.training_digest(job.run))
    assert made.dense_scored(*arguments) == files
    assert str(job.samples) in made.samples("table_04") + made.samples("table_09")


def test_an_unknown_data_set_is_named(demo: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'nothing' is no data set of scale demo; expected one of shapes, scenes"):
        plan(demo).data_set("nothing")


def old(path: Path) -> tuple[str, Path]:
    """Stands for Snakemake's mark."""
    return "old", path


def test_every_fine_tuning_of_a_scale_is_evaluated(demo: dict[str, Any]) -> None:
    files = plan(demo).accuracies()
    assert "results/demo/metrics/detection/retinanet-untrained/van_tiny-lska-k23-s0.json" in files
    assert sum("semantic_fpn" in file for file in files) == 2 * 19


def test_sources_have_a_digest_that_tells_them_apart() -> None:
    assert source_digest("models") == source_digest("models")
    assert len({source_digest("models"), source_digest("tables"), source_digest("models", "tables")}) == 3
    with pytest.raises(FileNotFoundError, match="holds no modles; results would not follow their sources"):
        source_digest("models", "modles")


def test_weights_are_old_news_only_while_the_metric_file_names_them(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(demo)
    run = "van_tiny-lska-k23-s0"
    monkeypatch.chdir(tmp_path)
    metrics, weights = made.config.metric_path("classification", run), made.config.weights_path(run)
    leave(weights, "a", recipe=made.training_digest(run))

    def marked() -> list[str]:
        return [item for item in made.scored(run, lambda path: f"ancient {path}") if isinstance(item, str)]

    assert marked() == []
    put_metrics(metrics, {"weights": {"md5": md5_of("a")}})
    assert len(marked()) == 3
    outcomes_path(metrics).write_bytes(b"of another measurement")
    assert marked() == []
    outcomes_path(metrics).unlink()
    assert marked() == []
    put_metrics(metrics, {"weights": {"md5": md5_of("b")}})
    assert marked() == []
    put_metrics(metrics, {"weights": {"md5": md5_of("a")}})
    weights.unlink()
    assert marked() == []
    leave(weights, "a", recipe="another")
    assert marked() == []


@pytest.mark.parametrize("target", TABLES)
def test_tables_name_files_of_their_scale(demo: dict[str, Any], target: str) -> None:
    made = plan(demo)
    assert made.metrics(target)
    assert all(path.startswith("results/demo/metrics/") for path in made.metrics(target))
    without = ("complexity", "speed", "properties")
    measured = [path for path in made.metrics(target) if path.split("/")[3] not in without]
    assert made.outcomes(target) == [path.replace(".json", ".npz") for path in measured]


RUN = "van_tiny-lska-k23-s0"


def test_data_are_old_news_to_a_training_only_while_its_weights_are_todays(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(demo)
    monkeypatch.chdir(tmp_path)
    record, weights = made.config.data_record, made.config.weights_path(RUN)
    assert made.learned(RUN, old) == record
    leave(weights, "weights", recipe=made.training_digest(RUN))
    assert made.learned(RUN, old) == ("old", record)
    leave(weights, "weights", recipe="of another day")
    assert made.learned(RUN, old) == record
    leave(weights, "weights", recipe=made.training_digest(RUN))
    weights.unlink()
    assert made.learned(RUN, old) == record
    monkeypatch.setattr(Choices, "lasting", lambda choices, name: True)
    assert made.learned(RUN, old) == record  # which is missing and has to be made
    record.parent.mkdir(parents=True)
    record.touch()
    assert made.learned(RUN, old) == ("old", record)


@pytest.mark.parametrize("task", ["detection/retinanet", "detection/retinanet-untrained"])
def test_data_are_old_news_to_a_fine_tuning_only_while_it_and_its_backbone_are_todays(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    made = plan(demo)
    monkeypatch.chdir(tmp_path)
    job = made.job(task, RUN)
    record = made.config.record_of(job.data)
    assert made.fine_tuned(task, RUN, old) == record
    leave(made.config.weights_path(RUN), "a", recipe=made.training_digest(RUN))
    leave(job.weights, "w", recipe=job.digest(), backbone={"md5": md5_of("a")})
    assert made.fine_tuned(task, RUN, old) == ("old", record)
    leave(job.weights, "w", recipe=job.digest(), backbone={"md5": md5_of("b")})
    assert made.fine_tuned(task, RUN, old) == (record if job.backbone else ("old", record))
    leave(job.weights, "w", recipe="of another day", backbone={"md5": md5_of("a")})
    assert made.fine_tuned(task, RUN, old) == record


def test_a_set_is_old_news_to_its_picture(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(demo)
    monkeypatch.chdir(tmp_path)
    item = made.item("r")
    assert made.shown("r", old) == item.record
    item.strips.parent.mkdir(parents=True)
    item.strips.touch()
    assert made.shown("r", old) == ("old", item.record)
