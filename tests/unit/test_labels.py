"""What jobs ask a scheduler for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lska.pipeline.labels import LABELS, labelled
from lska.provenance.metric_files import project_root
from lska.settings.scale import load
from lska.settings.schema import Evaluation, Training

PAPER = [project_root() / "config" / "paper.yaml"]
NONE = SimpleNamespace()


def asked(resources: dict, attempt: int = 1) -> dict[str, int]:
    """The values of a job without wildcards."""
    growing = ("mem_mb", "runtime")
    return {name: value(NONE, attempt) if name in growing else value(NONE) for name, value in resources.items()}


def test_a_training_asks_for_the_gpus_of_its_recipe_and_stops_itself_before_its_time_is_over() -> None:
    training = Training(recipe="r.yaml", gpus=4, workers=8, hours=23, attempts=10)
    assert asked(labelled("gpu_train", training)) == {
        "gpu": 4, "cpus_per_gpu": 9, "mem_mb": 104_000, "runtime": 23 * 60, "nodes": 1,
    }  # fmt: skip
    third = asked(labelled("gpu_train", training), attempt=3)
    assert (third["mem_mb"], third["runtime"]) == (156_000, 23 * 60)


def test_memory_and_time_of_other_jobs_grow_with_the_attempt_up_to_a_limit() -> None:
    attempts = [asked(labelled("gpu_eval", Evaluation(gpus=1, threads=4, workers=6)), n) for n in (1, 2, 3, 9)]
    assert [one["mem_mb"] for one in attempts] == [32_000, 48_000, 64_000, 64_000]
    assert [one["runtime"] for one in attempts] == [240, 480, 720, 1425]
    assert attempts[0]["cpus_per_gpu"] == 6


def test_a_job_that_needs_longer_than_the_limit_from_the_start_keeps_its_time() -> None:
    assert asked(labelled("cpu_small", hours=30), attempt=2)["runtime"] == 1800


def test_a_job_without_gpu_asks_for_none() -> None:
    resources = asked(labelled("cpu_small"))
    assert (resources["gpu"], resources["cpus_per_gpu"], resources["nodes"]) == (0, 0, 1)


def test_settings_may_depend_on_the_wildcards() -> None:
    resources = labelled("gpu_eval", lambda wildcards: Evaluation(gpus=wildcards.gpus, threads=6))
    assert [resources["gpu"](SimpleNamespace(gpus=n)) for n in (0, 2)] == [0, 2]
    assert resources["cpus_per_gpu"](SimpleNamespace(gpus=4)) == 2


@pytest.mark.parametrize("label", LABELS)
def test_nothing_at_paper_scale_asks_for_a_day_or_more(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    config = load([Path("config/paper.yaml")])
    budgets = [config.training, config.robustness, *(job.settings for job in config.fine_tunings)]
    for section in budgets if label == "gpu_train" else [None]:
        resources = labelled(label, section if isinstance(section, Training) else None)
        assert max(asked(resources, attempt)["runtime"] for attempt in range(1, 11)) < 24 * 60


def test_a_training_on_several_nodes_asks_for_the_memory_of_one() -> None:
    resources = asked(labelled("gpu_train", Training(recipe="r.yaml", gpus=8, nodes=2, workers=8)))
    assert (resources["gpu"], resources["nodes"], resources["mem_mb"]) == (8, 2, 104_000)
