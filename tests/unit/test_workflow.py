"""What the Snakefile asks for: overrides, and what makes results stale."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lska.cli import parser
from lska.pipeline.products import TABLES, Plan, source_digest
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.provenance.strict import merge


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(project_root())
    return read_yaml(Path("config/demo.yaml"))


def plan(values: dict[str, Any], overrides: dict[str, Any] | None = None) -> Plan:
    return Plan(values, [Path("config/demo.yaml")], overrides or {})


def test_an_override_reaches_the_commands(demo: dict[str, Any]) -> None:
    made = plan(demo, {"training": {"overrides": {"epochs": "3"}}, "caption": 'it\'s "mine"'})
    assert made.config.recipes["van_tiny"].epochs == 3
    arguments = parser().parse_args(["evaluate", "complexity", "van_tiny-lska-k7-s0", *shlex.split(made.settings)])
    assert arguments.config == [Path("config/demo.yaml")]
    assert arguments.set == {"training": {"overrides": {"epochs": 3}}, "caption": 'it\'s "mine"'}


def test_every_configured_run_is_evaluated(demo: dict[str, Any]) -> None:
    extra = {"model": "van_small", "attention": "lska", "kernel": 41, "seed": 0}
    made = plan(merge(demo, {"runs": [*demo["runs"], extra]}))
    assert "results/demo/metrics/classification/van_small-lska-k41-s0.json" in made.accuracies()


def test_every_fine_tuning_of_a_scale_is_evaluated(demo: dict[str, Any]) -> None:
    files = plan(demo).accuracies()
    assert "results/demo/metrics/detection/retinanet-untrained/van_tiny-lska-k23-s0.json" in files
    assert sum("semantic_fpn" in file for file in files) == 2 * 19


def test_sources_have_a_digest_that_tells_them_apart() -> None:
    assert source_digest("models") == source_digest("models")
    assert len({source_digest("models"), source_digest("tables"), source_digest("models", "tables")}) == 3
    with pytest.raises(FileNotFoundError, match="holds no modles; results would not follow their sources"):
        source_digest("models", "modles")


def test_tables_name_files_of_their_scale(demo: dict[str, Any]) -> None:
    made = plan(demo)
    for target in TABLES:
        assert made.metrics(target)
        assert all(path.startswith("results/demo/metrics/") for path in made.metrics(target))
        without = ("complexity", "speed", "properties")
        measured = [path for path in made.metrics(target) if path.split("/")[3] not in without]
        assert made.outcomes(target) == [path.replace(".json", ".npz") for path in measured]
