"""A scale with real weights, measurements, a table and a figure, to edit by hand and to verify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from table_helpers import PAPER, downstream, grid
from tiny_dense import DenseProject
from tiny_project import Project

from lska.audit.links import Finding, Level
from lska.audit.verify import Verification, verify_scale
from lska.provenance.files import write_json
from lska.provenance.metric_files import proportion, seal_of, write_metrics
from lska.provenance.outcomes import Outcomes
from lska.settings.scale import Config
from lska.tables.specs import load_spec, outputs, requirements
from lska.tables.table_formats import build_table

TABLE, FIGURE = "table_11", "figure_01"
SEGMENTATION = "segmentation/semantic_fpn"
RUN = "van_tiny-lska-k7-s0"
ROW, COLUMN = "Semantic FPN / VAN-LSKA-Tiny k=7", "mIoU"


@dataclass(frozen=True)
class Proven:
    """The scale's files in the working folder, which holds neither data nor training states."""

    project: Project

    @property
    def config(self) -> Config:
        return self.project.config()

    @property
    def metrics(self) -> Path:
        return self.config.metric_path("classification", RUN)

    @property
    def outcomes(self) -> Path:
        return self.metrics.with_suffix(".npz")

    @property
    def counted(self) -> Path:
        return self.config.metric_path("complexity", "van_tiny-lska-k23-s0")

    @property
    def segmentor(self) -> Path:
        return self.config.metric_path(SEGMENTATION, RUN)

    @property
    def sidecar(self) -> Path:
        return self.config.weights_path(RUN).with_suffix(".json")

    @property
    def fine_tuned(self) -> Path:
        return self.config.weights_path(f"{SEGMENTATION}/{RUN}").with_suffix(".json")

    @property
    def log(self) -> Path:
        return self.config.training_log(RUN)

    @property
    def record(self) -> Path:
        return self.config.images.record

    @property
    def regions(self) -> Path:
        return self.config.results / "data" / "regions.json"

    def shown(self, suffix: str, target: str = TABLE) -> Path:
        return next(path for path in outputs(target, self.config.results) if path.suffix == suffix)

    def verified(self, *changes: dict[str, Any]) -> Verification:
        return verify_scale(self.project.config(*changes))

    def faults(self, *changes: dict[str, Any]) -> list[Finding]:
        """What is wrong; much of the scale was never made."""
        return [one for one in self.verified(*changes).findings if one.level not in (Level.NOTE, Level.MISSING)]

    def broken(self) -> list[Finding]:
        return list(self.verified().of(Level.BROKEN))


def make(project: DenseProject) -> None:
    """Train, measure and show, in the working folder."""
    from lska.evaluate.accuracy import classify
    from lska.evaluate.dense_scores import evaluate_dense

    jobs = [project.trained("semantic_fpn"), project.trained("semantic_fpn", control=True)]
    config = jobs[0].config
    for job in jobs:
        evaluate_dense(job)
    classify(config.measurement("classification"), list(map(config.classifier, config.runs)))
    _keep_outcomes(config)
    _count(config)
    build_table(TABLE, config, paper=PAPER)
    build_table(FIGURE, config, [config.results / "figures" / f"{FIGURE}.csv"], paper=PAPER)


def _keep_outcomes(config: Config) -> None:
    """Write the classifier's metrics again, with which of the images were right."""
    path = config.metric_path("classification", RUN)
    content = json.loads(path.read_text())
    hits = np.arange(24) < 17
    write_metrics(
        path, task="classification", run=RUN, scale=config.scale, weights=content["weights"], recipe=content["recipe"],
        metrics={**content["metrics"], "top1": proportion(17, 24)}, data=content["data"], started=datetime.now(UTC),
        outcomes=Outcomes(images={"top1": 100 * hits}),
    )  # fmt: skip


def _count(config: Config) -> None:
    """Metric files of complexity with the true counts, which would take half a minute to count, but for one that only
    claims read."""
    counts, heads = grid(), downstream()
    needs = {need: None for target in (TABLE, FIGURE) for need in requirements(load_spec(target), config)}
    for task, run in needs:
        if task.startswith("complexity"):
            found = counts[run] if task == "complexity" else heads[task.partition("/")[2], run]
            found = {**found, **({"flops_2048x1024": 10**11} if task.endswith("semantic_fpn") else {})}
            metrics = {name: {"value": value, "unit": "1"} for name, value in found.items()}
            path, started = config.metric_path(task, run), datetime.now(UTC)
            write_metrics(path, task=task, run=str(run), scale=config.scale, metrics=metrics, started=started)


def copy(folder: Path, destination: Path) -> None:
    """What a clone would have: results, sidecars, weights, settings and the paper's values; no data."""
    for name in ("results", "checkpoints"):
        shutil.copytree(folder / name, destination / name)
    for path in folder.glob("*.yaml"):
        shutil.copy2(path, destination)
    shutil.copytree(PAPER, destination / "paper")


def edit(path: Path, place: str, change: Callable[[Any], Any], sealed: bool = False) -> None:
    """Change one value of a JSON file at a dotted place, as by hand; `sealed` puts the right seal on it again."""
    content = json.loads(path.read_text())
    *above, last = place.split(".")
    entry = content
    for name in above:
        entry = entry[name]
    entry[last] = change(entry.get(last))
    write_json(path, content | {"seal": seal_of(content)} if sealed else content)
