"""Plans of the demo that look at an empty folder, and what a run leaves there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.files import write_json
from lska.outcomes import outcomes_path
from lska.provenance import file_md5
from lska.runs import Run
from lska.workflow import Plan


def put_weights(made: Plan, run: Run, md5: str | None = None) -> None:
    """Leave weights of today's training of `run`."""
    weights = made.config.weights_path(run)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"weights")
    sidecar = {"md5": md5 or f"md5 of {run}", "recipe": made.config.training_digest(run)}
    write_json(weights.with_suffix(".json"), sidecar)


def put_metrics(path: Path, content: dict[str, Any]) -> None:
    """Leave a metric file with outcomes beside it."""
    outcomes = outcomes_path(path)
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    outcomes.write_bytes(f"outcomes of {path}".encode())
    write_json(path, content | {"outcomes": file_md5(outcomes)})


def pending(made: Plan) -> dict[str, list[str]]:
    """Runs to be measured by perturbed set or task."""
    found: dict[str, list[str]] = {}
    for one in made.passes:
        found[one.item.name] = sorted([*found.get(one.item.name, []), *map(str, one.runs)])
    return found
