"""Every rule has run: what the products say, that they fit together, and what has to run again after a change."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from whole_project import Project, work

from lska.pipeline.products import FIGURES, TABLES
from lska.provenance.outcomes import read_outcomes
from lska.settings.tasks import SETS
from lska.tables.specs import TARGETS, outputs

# The first test waits for the whole run, on machines of any speed.
pytestmark = pytest.mark.timeout(1800)

RUN = "van_tiny-lska-k23-s0"
RUNS = {RUN, "van_tiny-lka-k23-s0"}
TUNED = {"detection/retinanet", "detection/mask_rcnn", "segmentation/semantic_fpn"}
RESULTS, CHECKPOINTS = Path("results/tiny"), Path("checkpoints/tiny")


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def metric_files(made: Project, task: str) -> dict[str, dict[str, Any]]:
    return {path.stem: read(path) for path in sorted((made.root / RESULTS / "metrics" / task).glob("*.json"))}


def test_every_rule_ran(made: Project) -> None:
    listed = made.run("snakemake", "--list-rules", "--configfile", "scale.yaml").stdout.split()
    # What is current has a rule of no more than the name of its file; the first three only name others, as those of
    # targets do; and nothing is published in DVC or imported at this scale.
    aside = {"all_tables", "all_figures", "all_notebooks", "fetch", "import_weights", *TARGETS}
    families = {re.sub(r"_\d+$", "", rule) for rule in {*listed} - aside if "/" not in rule}
    counts = read(made.root / "ran.json")
    ran = {re.sub(r"_\d+$", "", rule) for rule in counts}
    assert families - ran == set()
    assert {f"notebook_{target}" for target in TARGETS} < counts.keys()


def test_metrics_weights_recipe_and_data_form_a_chain(made: Project) -> None:
    perturbed = {f"robustness/{name}": f"shapes_{name}" for name in SETS}
    looked_into = {"shape_texture": "shapes_cue_conflict", "texture_knn": "textures", "receptive_field": "shapes"}
    for task, data in {"classification": "shapes", **perturbed, **looked_into}.items():
        found = metric_files(made, task)
        assert found.keys() == RUNS, task
        digest = read(made.root / RESULTS / "data" / f"{data}.json")["digest"]
        for run, content in found.items():
            sidecar = read(made.root / CHECKPOINTS / f"{run}.json")
            recorded = (content["weights"]["md5"], content["recipe"], content["data"])
            assert recorded == (sidecar["md5"], sidecar["recipe"], {"name": data, "digest": digest}), task
            values = {name: metric["value"] for name, metric in content["metrics"].items()}
            # The shape bias of a category that no decision was for is unknown.
            known = [value for name, value in values.items() if not (name.startswith("shape_bias_") and value is None)]
            assert known and all(math.isfinite(value) for value in known), task


def test_fine_tuned_weights_name_their_backbone(made: Project) -> None:
    for task in TUNED:
        (content,) = metric_files(made, task).values()
        tuned, backbone = (read(made.root / CHECKPOINTS / part / f"{RUN}.json") for part in (task, ""))
        assert content["weights"]["md5"] == tuned["md5"] and content["recipe"] == tuned["recipe"]
        assert tuned["backbone"] == content["detail"]["backbone"] == {"md5": backbone["md5"], "run": RUN}
    (control,) = metric_files(made, "detection/retinanet-untrained").values()
    assert control["weights"]["md5"] != metric_files(made, "detection/retinanet")[RUN]["weights"]["md5"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_complete_and_names_its_scale(made: Project, target: str) -> None:
    paths = [made.root / path for path in outputs(target, RESULTS)]
    assert all(path.stat().st_size > 200 for path in paths)
    frame = pd.read_csv(next(path for path in paths if path.suffix == ".csv"))
    assert frame["state"].notna().all()
    if target in TABLES:
        assert "tests: generated images" in paths[0].with_suffix(".md").read_text("utf-8").lower()
    else:
        with Image.open(paths[0].with_suffix(".png")) as image:
            assert min(image.size) > 200 and len(image.convert("RGB").getcolors(1 << 24)) > 50
    notebook = read(made.root / RESULTS / "notebooks" / f"{target}.ipynb")
    assert any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")


@pytest.mark.parametrize(
    ("target", "row", "column", "task", "metric"),
    [
        ("table_03", "VAN-LSKA-Tiny", "top-1", "classification", "top1"),
        ("table_07", "VAN-Tiny LSKA k=23", "r at t=99%", "receptive_field", "area_ratio_99"),
        ("table_10", "VAN-LSKA-Tiny k=23", "A, top-1 unmasked", "robustness/a", "top1_unmasked"),
        ("table_11", "Semantic FPN / VAN-LSKA-Tiny k=23", "mIoU", "segmentation/semantic_fpn", "miou"),
        ("table_12", "VAN-LSKA-Tiny k=23", "shape dimensions", "shape_texture", "shape_dimensions_reference"),
        ("table_13", "VAN-LSKA-Tiny k=23", "1-NN top-1, cosine", "texture_knn", "top1_cosine"),
        ("table_15", "VAN-LSKA-Tiny k=23", "shape bias", "shape_texture", "shape_bias"),
    ],
)
def test_a_cell_shows_the_metric_file(
    made: Project, target: str, row: str, column: str, task: str, metric: str
) -> None:
    frame = pd.read_csv(made.root / RESULTS / "tables" / f"{target}.csv")
    cell = frame[(frame["row"] == row) & (frame["column"] == column)].iloc[0]
    assert cell["value"] == pytest.approx(metric_files(made, task)[RUN]["metrics"][metric]["value"])
    assert f"{RUN}.json" in cell["files"]


def test_perturbed_sets_are_complete_and_the_reference_is_shown_nowhere(made: Project) -> None:
    for name, parts in (("c", 95), ("c_bar", 50)):
        for content in metric_files(made, f"robustness/{name}").values():
            assert (content["detail"]["parts"], content["detail"]["missing"]) == (parts, {})
    record = read(made.root / RESULTS / "data" / "shapes_a.json")
    assert record["reference"] == {
        "run": "resnet18-s0",
        "md5": read(made.root / CHECKPOINTS / "resnet18-s0.json")["md5"],
    }
    shown = [path for folder in ("tables", "figures") for path in (made.root / RESULTS / folder).glob("*.csv")]
    assert len(shown) == len(TARGETS) and not [path for path in shown if "resnet18" in path.read_text("utf-8")]
    assert not list((made.root / RESULTS / "metrics").rglob("resnet18*"))


def test_both_contribution_maps_of_every_network_are_kept(made: Project) -> None:
    assert {path.stem for path in (made.root / RESULTS / "fields").iterdir()} == RUNS
    for run in RUNS:
        with np.load(made.root / RESULTS / "fields" / f"{run}.npz") as maps:
            assert all(maps[name].shape == (64, 64) and (maps[name] >= 0).all() for name in ("trained", "untrained"))
            assert not np.array_equal(maps["trained"], maps["untrained"])


def test_every_number_follows_from_sealed_files_and_an_edited_digit_is_found(made: Project) -> None:
    done = made.run("lska", "verify", "--strict", "--json", "--config", "scale.yaml")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    report = json.loads(done.stdout)
    assert (report["checked"]["tables"], report["checked"]["figures"]) == (len(TABLES), len(FIGURES))
    assert report["checked"]["sidecars of weights"] == 3 + 4 and report["chains"]["broken"] == 0
    path = made.root / RESULTS / "tables" / "table_03.md"
    kept = path.read_text("utf-8")
    try:
        path.write_text(kept.replace("4.106", "4.107", 1), "utf-8")
        done = made.run("lska", "verify", "--config", "scale.yaml")
    finally:
        path.write_text(kept, "utf-8")
    assert done.returncode == 1
    assert "table_03.md" in done.stdout and "VAN-LKA-Tiny" in done.stdout and "Params (exact)" in done.stdout


def test_the_chain_behind_a_cell_can_be_read(made: Project) -> None:
    done = made.run("lska", "explain", "table_03", "--cell", "VAN-LSKA-Tiny", "top-1", "--config", "scale.yaml")
    assert done.returncode == 0, done.stderr
    assert read(made.root / CHECKPOINTS / f"{RUN}.json")["md5"] in done.stdout and "Every link holds." in done.stdout


def test_the_site_is_complete_and_needs_nothing_from_elsewhere(made: Project) -> None:
    listed = read(made.root / RESULTS / "report.json")["files"]
    site = made.root / RESULTS / "report"
    assert {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()} == set(listed)
    pages = {name for name in listed if name.endswith(".html") and "/" not in name}
    assert {f"{name}.html" for name in TARGETS} | {f"notebook_{name}.html" for name in TARGETS} < pages
    for name in pages:
        text = (site / name).read_text("utf-8")
        assert "Not made yet" not in text and "No verdicts yet" not in text, name
        assert not re.search(r"""(src|href)=["'](https?:)?//(?!arxiv\.org/)""", text), name
        assert str(made.root) not in text, name
    said = made.run("lska", "summary", "--config", "scale.yaml").stdout
    assert said.endswith(f" {RESULTS}/report/index.html\n")


def test_measuring_again_gives_the_same_metric_file(made: Project, tmp_path: Path) -> None:
    path = made.root / RESULTS / "metrics" / "classification" / f"{RUN}.json"
    before = read(path)
    kept = {file: file.read_bytes() for file in (path, path.with_suffix(".npz"))}
    for file in kept:
        file.unlink()
    try:
        done = made.run("lska", "evaluate", "classification", RUN, "--config", "scale.yaml")
        assert done.returncode == 0, done.stderr
        after = read(path)
    finally:
        for file, content in kept.items():
            file.write_bytes(content)
    for content in (before, after):
        del content["started"], content["seconds"], content["seal"]
    assert before == after


def notebooks(counts: dict[str, int]) -> set[str]:
    return {
        rule.removeprefix("notebook_") for rule in counts if rule.startswith("notebook_") and rule != "notebook_pages"
    }


KERNEL_17 = {"model": "van_tiny", "attention": "lska", "kernel": 17, "seed": 0}


def kernel_in_detection(settings: dict[str, Any]) -> None:
    settings["runs"].append(KERNEL_17)
    settings["detection"]["heads"]["retinanet"]["runs"].append(KERNEL_17)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], dict[str, int], set[str], set[str]]] = {
    # What changes, the work that follows, and some notebooks that are made anew and some that are not. Throughput is
    # measured side by side, so all networks of Table XVII are measured again.
    "nothing": (lambda settings: None, {}, set(), set(TARGETS)),
    "a new kernel size": (
        lambda settings: settings["runs"].append(KERNEL_17),
        {"train": 1, "classification": 1, "complexity": 1, "speed": 1},
        {"table_03", "table_17"},
        {"table_01", "table_09"},
    ),
    "a new kernel size in detection": (
        kernel_in_detection,
        {"train": 1, "fine_tune": 1, "classification": 1, "dense": 1, "speed": 1, "complexity": 1}
        | {"complexity_retinanet": 1},
        {"table_09"},
        {"table_01", "table_11"},
    ),
    "a head's recipe": (
        lambda settings: settings["segmentation"]["heads"]["semantic_fpn"].update(overrides={"updates": 10}),
        {"fine_tune": 1, "dense": 1},
        {"table_11"},
        {"table_09", "table_03"},
    ),
    "a setting of shape and texture": (
        lambda settings: settings["shape_texture"].update(resamples=30),
        {"shape_texture": 1},
        {"table_12", "table_15", "figure_07"},
        {"table_13", "table_03"},
    ),
    "a setting of the receptive field": (
        lambda settings: settings["receptive_field"].update(normalization="imagenet"),
        {"receptive_field": 2},
        {"table_07", "figure_04", "figure_08"},
        {"table_12"},
    ),
    "how stored images are read": (
        lambda settings: settings.update(stored_images="enlarged"),
        {"robustness_c": 1, "robustness_c_bar": 1},
        {"table_06", "table_10", "table_14", "table_16", "figure_s1", "figure_s2"},
        {"table_03", "table_12"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_runs_again_what_depends_on_it_and_nothing_else(
    planned: Callable[..., dict[str, int]], change: str
) -> None:
    edit, expected, anew, untouched = CHANGES[change]
    counts = planned(change=edit)
    assert work(counts) == expected
    assert anew <= notebooks(counts) and not untouched & notebooks(counts)


def test_an_edited_architecture_trains_its_networks_and_what_stands_on_them(
    planned: Callable[..., dict[str, int]],
) -> None:
    counts = planned(
        "table_09", change=lambda settings: settings["architecture"]["van_tiny"].update(depths=[1, 2, 1, 1])
    )
    # The control is another network too.
    assert {rule: counts[rule] for rule in ("train", "fine_tune", "dense")} == {"train": 1, "fine_tune": 3, "dense": 3}


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("work", {}),
        ("results/tiny/report", {}),
        (f"results/tiny/fields/{RUN}.npz", {"receptive_field": 1}),
        (f"results/tiny/metrics/classification/{RUN}.npz", {"classification": 1}),
        (f"results/tiny/metrics/detection/retinanet/{RUN}.npz", {"dense": 1}),
        (f"results/tiny/metrics/texture_knn/{RUN}.json", {"texture_knn": 1}),
    ],
)
def test_what_was_deleted_is_made_again_alone(
    made: Project, planned: Callable[..., dict[str, int]], tmp_path: Path, lost: str, expected: dict[str, int]
) -> None:
    path = made.root / lost
    if lost.endswith(".npz") and "metrics" in lost:
        assert read_outcomes(path, read(path.with_suffix(".json"))["outcomes"])
    path.rename(tmp_path / path.name)
    try:
        counts = planned()
    finally:
        (tmp_path / path.name).rename(path)
    assert work(counts) == expected
    assert ("report" in counts) == (lost != "work")


def test_a_copy_of_the_results_has_nothing_to_do_whatever_the_times_of_its_files(made: Project, tmp_path: Path) -> None:
    copied = Project(tmp_path / "copy")
    shutil.copytree(made.root, copied.root, ignore=shutil.ignore_patterns(".snakemake", "work"))
    for path in copied.root.rglob("*"):
        os.utime(path, (1.7e9, 1.7e9))
    assert copied.planned("--configfile", "scale.yaml", "--", "all") == {}
