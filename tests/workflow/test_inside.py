"""Looking inside networks in the whole DAG at demo scale, and what is measured again after a change."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from lska.models.runs import Run
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import file_md5
from lska.provenance.outcomes import outcomes_path
from lska.settings.inspections import TASKS

# The first test may have to wait for the whole demo.
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]

COUNTS = {"shape_texture": 23, "texture_knn": 10, "receptive_field": 12}
DATA = {"shape_texture": "shapes_cue_conflict", "texture_knn": "textures", "receptive_field": "shapes"}
SHOWN = {
    "shape_texture": {"table_12", "table_15", "figure_07"},
    "texture_knn": {"table_13"},
    "receptive_field": {"table_07", "figure_04", "figure_08"},
}


def results(project) -> Path:
    return project.root / "results" / "demo"


def metric_files(project, task: str) -> dict[str, dict]:
    paths = sorted((results(project) / "metrics" / task).glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


@pytest.mark.parametrize("task", TASKS)
def test_every_listed_network_is_looked_into(demo, task):
    found = metric_files(demo, task)
    assert len(found) == COUNTS[task]
    record = json.loads((results(demo) / "data" / f"{DATA[task]}.json").read_text())
    for run, content in found.items():
        sidecar = json.loads((demo.root / "checkpoints" / "demo" / f"{run}.json").read_text())
        assert content["data"] == {"name": DATA[task], "digest": record["digest"]}
        assert content["weights"]["md5"] == sidecar["md5"] and content["recipe"] == sidecar["recipe"]
        # The bias of a category that no decision was for is unknown.
        values = {name: metric["value"] for name, metric in content["metrics"].items()}
        empty = {name for name, value in values.items() if value is None}
        assert all(name.startswith("shape_bias_") for name in empty)
        assert all(math.isfinite(value) for value in values.values() if value is not None)


def test_trained_networks_find_textures_and_shapes_better_than_chance(demo):
    # 11 families, 198 images: one network's accuracy is known to 2.5 points only, so all together.
    chance = 100 / json.loads((results(demo) / "data" / "textures.json").read_text())["classes"]
    for kind in ("cosine", "euclidean"):
        found = [content["metrics"][f"top1_{kind}"]["value"] for content in metric_files(demo, "texture_knn").values()]
        assert np.mean(found) > 1.2 * chance
    for content in metric_files(demo, "shape_texture").values():
        assert content["detail"]["images"] == 10 * 6 * 8
        assert content["metrics"]["shape_bias"]["value"] > 50


def test_both_contribution_maps_of_every_network_are_kept(demo):
    found = metric_files(demo, "receptive_field")
    for run, content in found.items():
        with np.load(results(demo) / "fields" / f"{run}.npz") as maps:
            assert all(maps[name].shape == (128, 128) and (maps[name] >= 0).all() for name in ("trained", "untrained"))
            assert not np.array_equal(maps["trained"], maps["untrained"])
        assert content["metrics"]["area_ratio_99"]["n"] == 12
    files = {path.stem for path in (results(demo) / "fields").iterdir()}
    assert files == set(found)


def test_tables_show_the_metric_files(demo):
    shown = (
        ("table_07", "VAN-Tiny LSKA k=23", "r at t=99%", "receptive_field", "area_ratio_99"),
        ("table_12", "VAN-LSKA-Tiny k=23", "shape dimensions", "shape_texture", "shape_dimensions_reference"),
        ("table_13", "VAN-LSKA-Tiny k=23", "1-NN top-1, cosine", "texture_knn", "top1_cosine"),
        ("table_15", "VAN-LSKA-Tiny k=23", "shape bias", "shape_texture", "shape_bias"),
    )
    for target, row, column, task, metric in shown:
        frame = pd.read_csv(results(demo) / "tables" / f"{target}.csv")
        cell = frame[(frame["row"] == row) & (frame["column"] == column)].iloc[0]
        value = metric_files(demo, task)["van_tiny-lska-k23-s0"]["metrics"][metric]["value"]
        assert cell["value"] == pytest.approx(value)


@pytest.mark.parametrize("target", ["figure_04", "figure_05", "figure_07", "figure_08"])
def test_figures_are_drawn(demo, target):
    with Image.open(results(demo) / "figures" / f"{target}.png") as image:
        assert min(image.size) > 200 and len(image.convert("RGB").getcolors(1 << 24)) > 50


def with_changes(root: Path, path: Path, change) -> str:
    config = yaml.safe_load((root / "config" / "demo.yaml").read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))
    return str(path)


def tasks_of(planned: dict[str, int]) -> set[str]:
    """Tasks that have a pass in a plan."""
    return {rule.rpartition("_")[0] for rule in planned} & set(TASKS)


CHANGES = {
    "shape_texture": {"resamples": 100},
    "texture_knn": {"query": "test"},
    "receptive_field": {"normalization": "imagenet"},
}


@pytest.mark.parametrize("task", TASKS)
def test_another_setting_measures_its_task_again_and_makes_what_shows_it(demo, tmp_path, task):
    changed = with_changes(demo.root, tmp_path / "changed.yaml", lambda config: config[task].update(CHANGES[task]))
    planned = demo.planned("--configfile", changed, "--", "all")
    passes = {rule for rule in planned if rule.rpartition("_")[0] == task}
    assert passes and set(planned) - demo.SITE == {"all", *passes, *(f"notebook_{target}" for target in SHOWN[task])}
    assert demo.planned("--", "all") == {}


def test_contribution_maps_that_were_deleted_are_made_again(demo, tmp_path):
    field = results(demo) / "fields" / "van_tiny-lska-k23-s0.npz"
    field.rename(tmp_path / field.name)
    try:
        planned = demo.planned("--", "all")
        assert tasks_of(planned) == {"receptive_field"} and planned["notebook_figure_04"] == 1
        assert "train" not in planned and "notebook_table_12" not in planned
    finally:
        (tmp_path / field.name).rename(field)


def test_a_figure_needs_only_the_networks_that_it_shows(project):
    # LSKA with six kernel sizes, beside LKA with six in Figure 8 and Table VII.
    for target, runs, passes in (("figure_04", 6, 1), ("figure_08", 12, 2), ("table_07", 12, 2)):
        planned = project.planned(target)
        assert planned["train"] == runs and tasks_of(planned) == {"receptive_field"}
        assert len([rule for rule in planned if rule.startswith("receptive_field_")]) == passes
        assert planned["data"] == 1 and "classification" not in planned
    assert "train" not in project.planned("figure_05")
    planned = project.planned("table_15")
    assert planned["train"] == 12 + 7 and planned["data"] == 2 and tasks_of(planned) == {"shape_texture"}


def measured(project, monkeypatch: pytest.MonkeyPatch, task: str) -> Plan:
    """Leave a task as after a finished run, with made-up content, for Snakemake to remember."""
    monkeypatch.chdir(project.root)
    plan = Plan(read_yaml(Path("config/demo.yaml")), [Path("config/demo.yaml")], {})
    item, config = plan.item(task), plan.config
    write_json(config.data_record, {"name": "shapes", "digest": "as checked"})
    write_json(item.record, {"name": item.data.name, "digest": "as checked", "inputs": item.inputs()})
    for run in config.runs_of(task):
        weights, log = config.weights_path(run), config.training_log(run)
        for path in (weights, log, *item.outputs(run)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"made up")
        md5, recipe = file_md5(weights), config.training_digest(run)
        write_json(weights.with_suffix(".json"), {"md5": md5, "recipe": recipe, "origin": "trained"})
        content = {"weights": {"md5": md5}, "data": {"digest": "as checked"}}
        content |= {"detail": {"protocol": item.protocol()}, "outcomes": file_md5(outcomes_path(item.metrics(run)))}
        write_json(item.metrics(run), content)
    # Snakemake keeps the params of what it touches.
    weights = [str(config.weights_path(run)) for run in config.runs_of(task)]
    done = project.run("snakemake", "--cores", "1", "--touch", "--forceall", "--", str(item.record), *weights)
    assert done.returncode == 0, done.stderr[-3000:]
    return plan


@pytest.mark.parametrize(("task", "target"), [("receptive_field", "figure_04"), ("shape_texture", "table_12")])
def test_data_to_be_made_anew_hide_no_missing_metrics(project, tmp_path, monkeypatch, task, target):
    plan = measured(project, monkeypatch, task)
    plan.item(task).metrics(Run("van_tiny", "lska", 23, 0)).unlink()
    # Training data in another place are checked again, which makes no other numbers stale and trains nothing.
    changed = with_changes(project.root, tmp_path / "changed.yaml", lambda config: config["data"].update(root="other"))
    planned = project.planned("--configfile", changed, "--", target, str(plan.config.data_record))
    assert tasks_of(planned) == {task} and set(planned) - {f"{task}_{number}" for number in range(3)} == {
        target, f"notebook_{target}", "data"
    }  # fmt: skip
