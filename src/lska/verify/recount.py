"""Counting again what depends on the code alone: the cost of networks, and what attention designs can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lska.config import Config
from lska.runs import Run
from lska.verify.findings import COUNTED


def counted_again(config: Config, task: str, run: str) -> Mapping[str, Mapping[str, Any]] | None:
    """The entries of a metric file as the code gives them now, which imports torch, and mmdet or mmseg for heads; None
    for tasks that depend on more than the code.

    Raises:
        ValueError: unknown network, head or module.
    """
    start, _, head = task.partition("/")
    if start not in COUNTED:
        return None
    if head:
        from lska.evaluate import dense_complexity

        return dense_complexity.counts(dense_complexity.paper_job(config, head, Run.parse(run)), head)[0]
    if start == "properties":
        from lska.models.properties import measure_module

        return measure_module(run)
    from lska.evaluate.complexity import counts

    return counts(Run.parse(run))[0]
