"""A trainer on random numbers, whose updates can be followed by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tiny_project import RECIPE
from torch import nn

from lska.provenance.strict import build
from lska.settings.recipes import Recipe
from lska.train.classifier import Trainer
from lska.train.distributed import Processes
from lska.train.engine import Place, fit
from lska.train.interrupt import StopRequest
from lska.train.loading import BatchPlan
from lska.train.saved_state import TrainingLog, restore

ALONE = Processes(0, 1, torch.device("cpu"))
Batch = tuple[torch.Tensor, torch.Tensor]


def trainer(
    folder: Path,
    network: nn.Module | None = None,
    digest: str = "sha256:mine",
    seconds: float = math.inf,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Trainer:
    """A training of four updates per epoch, of two micro-batches each, of `network` or a linear classifier.

    Args:
        seconds: between two states.
        more: arguments of the trainer; `changes` are those to the recipe.
    """
    recipe = build(Recipe, {**RECIPE, **changes}, "recipe")
    place = Place(ALONE, folder, digest, state_seconds=seconds)
    return Trainer(place, recipe, BatchPlan.of(recipe, 76, seed=0), network or linear(), 4, **(more or {}))


def linear(batch_norm: bool = False) -> nn.Sequential:
    """A linear classifier of (B, 3, 4, 4) images, the same at every call."""
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(3)] if batch_norm else []
    return nn.Sequential(*norm, nn.Flatten(), nn.Linear(3 * 4 * 4, 4))


def batches() -> Iterator[Batch]:
    """Random micro-batches without end, the same at every call."""
    for number in itertools.count():
        generator = torch.Generator().manual_seed(number)
        yield torch.randn(8, 3, 4, 4, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def run(trainer: Trainer, stop: StopRequest | None = None, feed: Iterator[Batch] | None = None) -> Path:
    """Train to the end on `feed`; returns the record of losses."""
    path = trainer.place.states / "train.jsonl"
    fit(trainer, feed or batches(), TrainingLog(path, trainer.progress, trainer.plan), stop or StopRequest(None))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a record."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_state(folder: Path, digest: str = "sha256:mine") -> dict[str, Any] | None:
    """The newest intact state of a training; None if it has none yet."""
    found: list[dict[str, Any]] = []
    restore(folder, digest, found.append)
    return found[-1] if found else None
