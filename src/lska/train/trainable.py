"""What the training loop drives: the project's own trainer, or a loop of another library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from lska.train.distributed import Processes
    from lska.train.loading import Plan
    from lska.train.progress import Progress


class Trainable(Protocol):
    """What `lska.train.engine.fit` drives: `lska.train.engine.Trainer` or `lska.openmmlab.loop.UpdateLoop`."""

    plan: Plan
    state_seconds: float
    progress: Progress
    group: Processes

    def rate(self, step: int) -> float:
        """Learning rate of update `step`."""

    def update(self, batches: Iterator[Any]) -> torch.Tensor:
        """One update, which raises `progress.step`; returns the loss, a scalar tensor."""

    def finite(self, loss: torch.Tensor) -> float:
        """Mean of `loss` over the processes; DivergedError where it is not finite."""

    def save(self) -> None:
        """Write the state."""
