"""Filled tables of perturbed sets from made-up metric files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from table_helpers import Scale

from lska.data.perturbed.names import SEVERITIES
from lska.models.runs import Run
from lska.provenance.files import write_json


def metric_file(scale: Scale, task: str, run: Run) -> Path:
    return scale.results / "metrics" / task / f"{run}.json"


def value(scale: Scale, task: str, run: Run, name: str) -> float:
    return json.loads(metric_file(scale, task, run).read_text())["metrics"][name]["value"]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def without(*missing: str) -> Callable[[dict[str, Any]], None]:
    """As measured without these corruptions: no means over them, and the file says so."""

    def change(content: dict[str, Any]) -> None:
        for name, metric in content["metrics"].items():
            absent = any(name.startswith(f"top1_{corruption}_") for corruption in missing)
            if absent or "mean" in name or "mce" in name:
                metric["value"] = None
        content["detail"] = {"missing": {corruption: list(SEVERITIES) for corruption in missing}}

    return change
