"""Perturbed sets in the whole DAG at demo scale, and what is measured again after a change."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lska.settings.perturbed_sets import SETS
from lska.tables.specs import TARGETS

# The first test may have to wait for the whole demo.
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]


def results(project) -> Path:
    return project.root / "results" / "demo"


def metric_files(project, task: str) -> dict[str, dict]:
    paths = sorted((results(project) / "metrics" / task).glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


PERTURBED = {name: f"shapes_{name}" for name in SETS}


@pytest.mark.parametrize("name", PERTURBED)
def test_every_compared_network_is_measured_on_every_set(demo, name):
    found = metric_files(demo, f"robustness/{name}")
    assert len(found) == 21 and "resnet18-s0" not in found
    record = json.loads((results(demo) / "data" / f"{PERTURBED[name]}.json").read_text())
    for run, content in found.items():
        sidecar = json.loads((demo.root / "checkpoints" / "demo" / f"{run}.json").read_text())
        assert content["data"] == {"name": PERTURBED[name], "digest": record["digest"]}
        assert content["weights"]["md5"] == sidecar["md5"] and content["recipe"] == sidecar["recipe"]
        values = [metric["value"] for metric in content["metrics"].values()]
        assert None not in values and all(0 <= value <= 100 for value in values if name != "c")


def test_corrupted_sets_are_complete(demo):
    for name, means, parts in (("c", (15, 19), 95), ("c_bar", (10,), 50)):
        for content in metric_files(demo, f"robustness/{name}").values():
            assert (content["detail"]["parts"], content["detail"]["missing"]) == (parts, {})
            assert all(content["metrics"][f"top1_mean_{mean}"]["value"] > 10 for mean in means)
    clean = {run: content["metrics"] for run, content in metric_files(demo, "robustness/c").items()}
    assert all(metrics["top1_mean_19"]["value"] < metrics["top1_clean"]["value"] for metrics in clean.values())


def test_the_reference_chose_the_images_and_is_in_no_table(demo):
    record = json.loads((results(demo) / "data" / "shapes_a.json").read_text())
    sidecar = json.loads((demo.root / "checkpoints" / "demo" / "resnet18-s0.json").read_text())
    assert record["reference"] == {"run": "resnet18-s0", "md5": sidecar["md5"]}
    files = [path for folder in ("tables", "figures") for path in (results(demo) / folder).glob("*.csv")]
    assert len(files) == len(TARGETS)
    assert not [path for path in files if "resnet18" in path.read_text()]
    assert not list((results(demo) / "metrics").rglob("resnet18*"))


def test_table_ten_shows_the_metric_files(demo):
    frame = pd.read_csv(results(demo) / "tables" / "table_10.csv")
    for column, name, metric in (("C, mCE of 19", "c", "mce_19"), ("A, top-1 unmasked", "a", "top1_unmasked")):
        row = frame[(frame["row"] == "VAN-LKA-Tiny k=7") & (frame["column"] == column)].iloc[0]
        metrics = metric_files(demo, f"robustness/{name}")["van_tiny-lka-k7-s0"]["metrics"]
        assert row["value"] == pytest.approx(metrics[metric]["value"])


def with_changes(demo, tmp_path: Path, change) -> str:
    config = yaml.safe_load((demo.root / "config" / "demo.yaml").read_text())
    change(config)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def passes(planned: dict[str, int]) -> dict[str, int]:
    """Number of planned passes by set."""
    names = [rule.removeprefix("robustness_").rpartition("_")[0] for rule in planned if rule.startswith("robustness_")]
    return {name: names.count(name) for name in names}


def measured(project, configuration: str) -> set[str]:
    """Metric files on perturbed sets that `all` would make, as `<set>/<run>`."""
    said = project.snakemake("--dry-run", "--configfile", configuration, "--", "all")
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith("output: ")]
    files = [file for line in lines for file in line.removeprefix("output: ").split(", ") if "/robustness/" in file]
    metrics = [file for file in files if "/metrics/" in file and file.endswith(".json")]
    return {file.partition("/robustness/")[2].removesuffix(".json") for file in metrics}


def test_a_new_kernel_size_is_measured_alone_on_every_set(demo, tmp_path):
    def change(config):
        # Trained and counted already.
        config["robustness"]["runs"].append({"model": "van_tiny", "attention": "lska", "kernel": 65, "seed": 0})

    changed = with_changes(demo, tmp_path, change)
    planned = demo.planned("--configfile", changed, "--", "all")
    assert passes(planned) == dict.fromkeys(SETS, 1)
    assert measured(demo, changed) == {f"{name}/van_tiny-lska-k65-s0" for name in SETS}
    assert not {"train", "classification", "complexity", "data"} & set(planned)
    assert "notebook_table_10" in planned and "notebook_table_06" not in planned


def read_enlarged(config):
    config["stored_images"] = "enlarged"


SHOWN = ("table_06", "table_10", "table_14", "table_16", "figure_s1", "figure_s2")


def assert_only_corruptions_again(project, configuration: str) -> None:
    planned = project.planned("--configfile", configuration, "--", "all")
    assert set(passes(planned)) == {"c", "c_bar"}
    rest = {rule for rule in planned if not rule.startswith("robustness_")}
    assert rest - project.SITE == {"all", *(f"notebook_{target}" for target in SHOWN)}
    assert len(measured(project, configuration)) == 2 * 21


def test_stored_images_read_otherwise_are_measured_again(demo, tmp_path):
    changed = with_changes(demo, tmp_path, read_enlarged)
    assert_only_corruptions_again(demo, changed)
    assert demo.planned("--", "all") == {}


def test_a_clone_measures_again_what_a_change_asks_for(demo, tmp_path):
    changed = with_changes(demo, tmp_path, read_enlarged)
    shutil.copytree(demo.root, tmp_path / "clone", ignore=shutil.ignore_patterns(".snakemake", "work", "away"))
    clone = type(demo)(tmp_path / "clone")
    # A clone's files are all of the same age, and Snakemake has no memory of how they were made.
    for path in clone.root.rglob("*"):
        os.utime(path, (1.7e9, 1.7e9))
    assert clone.planned("--", "all") == {}
    assert_only_corruptions_again(clone, changed)


def test_predictions_may_be_deleted(demo, tmp_path):
    predictions = demo.root / "work" / "demo" / "predictions"
    assert sorted(path.name for path in predictions.iterdir()) == sorted(PERTURBED.values())
    predictions.rename(tmp_path / "predictions")
    try:
        assert demo.planned("--", "all") == {}
    finally:
        (tmp_path / "predictions").rename(predictions)


def test_robustness_needs_only_the_networks_that_its_table_shows(project):
    # Ten networks of Table X, or six of Table VI; and the reference that chooses the images of A.
    for target, networks in (("table_10", 10), ("table_06", 6)):
        planned = project.planned(target)
        assert planned["train"] == networks + 1 and passes(planned).keys() == set(SETS)
        assert "classification" not in planned and "speed" not in planned
    assert project.planned("figure_s1")["train"] == 10
