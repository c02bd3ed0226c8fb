"""The small scale in a folder of its own: its configuration, committed metric files and records of trainings."""

from __future__ import annotations

import shutil
from pathlib import Path

from lska.provenance.metric_files import project_root
from lska.settings.scale import Config, load

COPIED = ("metrics", "training", "summary", "plots")


def small_once() -> Config:
    """The small scale with one training of every network."""
    runs = [{"model": "van_tiny", "attention": ["lka", "lska"], "kernel": [7, 11, 23, 35, 53], "seed": 0}]
    sections = ("robustness", "shape_texture", "texture_knn", "receptive_field")
    return load([Path("config/small.yaml")], {"runs": runs} | {name: {"runs": runs} for name in sections})


def copy_small(folder: Path) -> None:
    """Copy what summaries are made of, with the summaries; predictions image by image stay behind."""
    shutil.copytree(project_root() / "config", folder / "config")
    for name in COPIED:
        source = project_root() / "results" / "small" / name
        shutil.copytree(source, folder / "results" / "small" / name, ignore=shutil.ignore_patterns("*.npz"))
