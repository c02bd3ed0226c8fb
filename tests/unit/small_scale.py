"""The small scale in a folder of its own: its configuration, committed metric files and records of trainings."""

from __future__ import annotations

import shutil
from pathlib import Path

from lska.provenance.metric_files import project_root

COPIED = ("metrics", "training", "summary", "plots")


def copy_small(folder: Path) -> None:
    """Copy what summaries are made of, with the summaries; predictions image by image stay behind."""
    shutil.copytree(project_root() / "config", folder / "config")
    for name in COPIED:
        source = project_root() / "results" / "small" / name
        shutil.copytree(source, folder / "results" / "small" / name, ignore=shutil.ignore_patterns("*.npz"))
