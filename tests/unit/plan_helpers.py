"""Plans of the demo that look at an empty folder, and what a run leaves there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.pipeline.checkpoints import Choices
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import file_md5, outcomes_path
from lska.provenance.strict import merge


def plan(scale: str, changes: dict[str, Any] | None = None) -> Plan:
    """The plan of a scale in the current folder, with `changes` over its configuration."""
    path = Path("config") / f"{scale}.yaml"
    return Plan(merge(read_yaml(path), changes or {}), [path], {})


def look_again(made: Plan) -> Plan:
    """Have a plan forget what it has read of the files."""
    made.choices = Choices(made.config)
    for known in ("products", "decided", "passes", "makers"):
        made.__dict__.pop(known, None)
    return made


def md5_of(content: str) -> str:
    """MD5 of weights that `leave` leaves with this content."""
    return hashlib.md5(content.encode()).hexdigest()


def leave(weights: Path, content: str, **about: Any) -> Path:
    """Leave weights with a sidecar that vouches for them and says `about`; returns its place."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_text(content)
    write_json(weights.with_suffix(".json"), {"md5": md5_of(content), "origin": "trained", **about})
    return weights.with_suffix(".json")


def put_weights(made: Plan, run: Run, content: str | None = None) -> None:
    """Leave weights of today's training of `run`."""
    leave(made.config.weights_path(run), content or str(run), recipe=made.config.classifier(run).digest())


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
