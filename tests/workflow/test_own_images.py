"""Three folders of twenty images become a scale, and go through the pipeline as their user would take them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from whole_project import Project, copy_project, work

pytestmark = pytest.mark.timeout(900)

COLOURS = {"blau": (30, 30, 200), "grün": (30, 180, 30), "röt lich": (200, 30, 30)}
RUNS = ("van_tiny-lka-k7-s0", "van_tiny-lska-k7-s0")
TASKS = ("classification", "robustness/c", "receptive_field")
CONFIG = "config/own.yaml"


def write_images(folder: Path) -> None:
    """Twenty noisy images of each colour, of different sizes."""
    generator = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = np.array(colour) + generator.normal(0, 40, (36 + number, 50, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / label / f"bild {number}.jpg")


CHANGES = {
    "kernel: [7, 11]": "kernel: 7",
    "# architecture:": "architecture:",
    "#   van_tiny: {embed_dims: [24, 48, 96, 128]": "  van_tiny: {embed_dims: [8, 16, 16, 16]",
    "threads: 2}\n  sets:": "threads: 1}\n  sets:",
    "threads: 2}\n  images: 12": "threads: 1}\n  images: 4",
    "# overrides: {epochs: 10}": "overrides: {epochs: 6, warmup_epochs: 1}",
}
"""What a user changes in the written configuration, most of it as its comments offer."""


def edit(path: Path) -> None:
    text = path.read_text("utf-8")
    for before, after in CHANGES.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text, "utf-8")


def said(project: Project, *words: str) -> str:
    done = project.run("lska", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_tiny_set_goes_through_all_of_the_pipeline(tmp_path: Path) -> None:
    project, folder = copy_project(tmp_path / "project"), tmp_path / "my images"
    write_images(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "48 images to train on and 12 for validation" in said(
        project, "new-scale", "own", "--data", str(folder), "--image-size", "32"
    )
    assert work(project.planned("--configfile", CONFIG, "--", "all")).items() >= {
        "data": 2, "train": 4, "classification": 4, "receptive_field": 2, "robustness_c": 1,
    }.items()  # fmt: skip
    edit(project.root / CONFIG)
    accuracies = [f"results/own/metrics/classification/{run}.json" for run in RUNS]
    project.snakemake("--configfile", CONFIG, "--", "table_07", "table_10", *accuracies)

    for task in TASKS:
        for run in RUNS:
            content = json.loads((project.root / f"results/own/metrics/{task}/{run}.json").read_text("utf-8"))
            assert content["data"]["name"] == ("own_c" if task == "robustness/c" else "own")
            assert all(metric["value"] is not None for metric in content["metrics"].values()), (task, run)
    top1 = [json.loads((project.root / path).read_text("utf-8"))["metrics"]["top1"] for path in accuracies]
    assert all(one["value"] > 60 and one["n"] == 12 for one in top1), "colours are easily told apart"
    table = (project.root / "results/own/tables/table_10.md").read_text("utf-8")
    assert "Scale own: 48 own images of 3 classes, 32 pixels; not ImageNet" in table and r"own\_c" in table
    said(project, "report", "--config", CONFIG)
    assert "Scale own: 48 own images" in (project.root / "results/own/report/index.html").read_text("utf-8")
    said(project, "verify", "--config", CONFIG)
    assert "train " not in said(project, "plan", "--config", CONFIG, "--", "table_10", *accuracies)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
