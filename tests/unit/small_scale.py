"""The small scale in a folder of its own: its configuration, committed metric files and records of trainings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.provenance.metric_files import project_root
from lska.settings.scale import Config, load

SMALL = Path("config/small.yaml")
COPIED = ("metrics", "training", "summary", "plots")


def small_changes(kept: Callable[[Run], bool]) -> dict[str, Any]:
    """Settings that leave only some runs of the small scale, in every section."""
    small = load([SMALL])

    def listed(runs: Iterable[Run]) -> dict[str, Any]:
        fields = (asdict(run) for run in runs if kept(run))
        return {"runs": [{name: value for name, value in one.items() if value is not None} for one in fields]}

    heads = {name: listed(small.runs_of(name)) for name in ("detection/retinanet", "segmentation/semantic_fpn")}
    dense = {kind: {"heads": {head: heads[f"{kind}/{head}"]}} for kind, head in (name.split("/") for name in heads)}
    sections = ("shape_texture", "texture_knn", "receptive_field")
    robust = {"robustness": listed(small.runs_of("robustness/c"))}
    return listed(small.runs) | {name: listed(small.runs_of(name)) for name in sections} | robust | dense


def small_once() -> Config:
    """The small scale with one training of every network."""
    return load([SMALL], small_changes(lambda run: run.seed == 0))


def copy_small(folder: Path) -> None:
    """Copy what summaries are made of, with the summaries; predictions image by image stay behind."""
    shutil.copytree(project_root() / "config", folder / "config")
    for name in COPIED:
        source = project_root() / "results" / "small" / name
        shutil.copytree(source, folder / "results" / "small" / name, ignore=shutil.ignore_patterns("*.npz"))
