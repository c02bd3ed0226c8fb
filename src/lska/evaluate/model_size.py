"""Parameters and FLOPs of the paper's own networks, and the measured properties of attention designs.

Neither depends on training or on a scale's `architecture`: every scale counts the networks of the paper at 224 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from tqdm import tqdm

from lska.models import create
from lska.models.counting import architecture_metrics, count
from lska.models.replknet import RepLKNet
from lska.models.runs import Run
from lska.provenance.metric_files import metric, write_metrics
from lska.settings.scale import Config

INPUT_SIZE = (3, 224, 224)


def measure_complexity(config: Config, runs: Sequence[Run]) -> None:
    """Count the network of every run at the paper's width and depth, with 1,000 classes, and write the metric files.

    Raises:
        ValueError: unknown model, attention or kernel size.
    """
    for run in tqdm(runs, unit="network", disable=None):
        started = datetime.now(UTC)
        metrics, uncounted = counts(run)
        _write(config, "complexity", str(run), metrics, started, {"uncounted_modules": list(uncounted)})


def counts(run: Run) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Metric entries of the paper's network of a run, and the names of modules that are in no count.

    Raises:
        ValueError: unknown model, attention or kernel size.
    """
    with torch.device("meta"):
        network = create(run.model, attention=run.attention, kernel_size=run.kernel)
    if isinstance(network, RepLKNet):
        # Counted as it is used and as its publication and the paper count it.
        network.eval().structural_reparam()
    cost = count(network, INPUT_SIZE)
    metrics = {
        "params": metric(cost.params, "1"),
        "macs": metric(cost.macs, "1"),
        "flops": metric(cost.flops, "1"),
        "flops_official_utility": metric(cost.flops_official_utility, "1"),
    }
    for name, value in architecture_metrics(network).items():
        metrics[name] = metric(value, "pixels" if name in ("receptive_field",) else "1")
    return metrics, cost.uncounted


def measure_properties(config: Config) -> None:
    """Measure long-range dependence, adaptability and scalability of each design of Table I on its actual module."""
    from lska.models.properties import MODULES, REASONS, measure_module

    for module in MODULES:
        started = datetime.now(UTC)
        _write(config, "properties", module, measure_module(module), started, {"reasons": REASONS.get(module, {})})


def _write(
    config: Config, task: str, run: str, metrics: dict[str, dict], started: datetime, detail: dict[str, object]
) -> None:
    write_metrics(
        config.metric_path(task, run),
        task=task,
        run=run,
        scale=config.scale,
        metrics=metrics,
        started=started,
        extra=detail,
    )
