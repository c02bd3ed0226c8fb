"""Claims and measurements for the tests of verdicts."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lska.claims.listing import Claim, Quantity, parse
from lska.claims.verdicts import Evidence, Pairing
from lska.models.runs import Run
from lska.provenance.metric_files import digest, metric, write_metrics
from lska.provenance.outcomes import Outcomes

ONE = "classification.top1(van_tiny-lska-k23)"
OTHER = "classification.top1(van_tiny-lka-k23)"


RUNS = tuple(Run("van_tiny", attention, 23, seed) for attention in ("lka", "lska") for seed in (0, 1))


def claim(predicate: str, *tolerance: float, **more: Any) -> Claim:
    fields = {"id": "C1", "source": "Table III", "statement": "One beats the other", "data": "", "note": "A note.",
              "paper_numbers": "agree"}  # fmt: skip
    return Claim(**{**fields, "predicate": predicate, "tolerance": tolerance, **more})


def quantity(text: str) -> Quantity:
    (comparison,) = parse(f"{text} > 0")
    return comparison.quantities[0]


def evidence(text: str, *values: float, **more: Any) -> Evidence:
    """A quantity measured with one seed per value."""
    runs = tuple(Run.parse(f"{quantity(text).network}-s{seed}") for seed in range(len(values)))
    fields = {"unit": "%", "n": None, "standard_error": None, "pairing": None, "outcomes": None, "data": ("shapes",),
              "devices": ("Some CPU",), "files": ()}  # fmt: skip
    return Evidence(quantity(text), runs, values, **{**fields, **more})


def on_images(
    text: str, outcomes: np.ndarray, kind: str = "images", data: str = "sha256:0", images: int | None = None
) -> Evidence:
    """A quantity of one seed with its outcomes."""
    pairing = Pairing(quantity(text).task, data, "", kind, len(outcomes), images)
    return evidence(text, float(np.nanmean(outcomes)), pairing=pairing, outcomes=outcomes.astype(float))


def measured(
    results: Path, task: str, run: str, name: str, outcomes: np.ndarray | None = None, value: float | None = None,
    data: str = "shapes", **more: Any,
) -> Path:  # fmt: skip
    """A metric file as evaluations write it, with one metric and what lies behind it."""
    path = results / "metrics" / task / f"{run}.json"
    found = float(np.mean(outcomes)) if value is None and outcomes is not None else value
    write_metrics(
        path, task=task, run=run, scale="demo", started=datetime.now(UTC), data={"name": data, "digest": digest(data)},
        metrics={name: metric(found, "%", n=None if outcomes is None else len(outcomes), **more)},
        weights={"md5": "0" * 32, "origin": "trained"}, recipe=digest(run),
        outcomes=None if outcomes is None else Outcomes(images={name: outcomes}),
    )  # fmt: skip
    return path


def put_claims(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "claims.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path
