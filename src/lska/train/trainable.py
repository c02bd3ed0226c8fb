"""What the training loop drives: the project's own trainer, or a loop of another library."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from lska.train.distributed import Processes
from lska.train.lease import Lease
from lska.train.loading import Plan
from lska.train.progress import Progress
from lska.train.state import state_files


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


class Trainable:
    """What `lska.train.engine.fit` drives: `lska.train.engine.Trainer` or `lska.openmmlab.loop.UpdateLoop`."""

    plan: Plan
    state_seconds: float
    progress: Progress
    group: Processes
    folder: Path
    """Where the states are."""
    lease: Lease | None
    """The right to write there; None in processes that do not write, and where nobody else can."""

    @abstractmethod
    def rate(self, step: int) -> float:
        """Learning rate of update `step`, set if it is not yet."""

    @abstractmethod
    def current_rate(self) -> float:
        """Learning rate that the optimizer has now."""

    @abstractmethod
    def update(self, batches: Iterator[Any]) -> torch.Tensor:
        """One update on this process's micro-batches, which raises `progress.step`; returns their mean loss, a scalar
        tensor on the device."""

    @abstractmethod
    def save(self) -> None:
        """Write the state; only the main process does, the others wait for it.

        Raises:
            DivergedError: a weight is not finite; the state before is kept.
            StateError: the state cannot be written.
            LeaseLostError: another training took the folder over; nothing is written.
        """

    @property
    def may_write(self) -> Callable[[], None] | None:
        """Called right before a file appears; raises LeaseLostError where another training took over."""
        return None if self.lease is None else self.lease.check

    def finite(self, loss: torch.Tensor) -> float:
        """Mean of `loss` over the processes.

        Raises:
            DivergedError: it is not finite.
        """
        value = float(self.group.mean(loss))
        if not math.isfinite(value):
            self._diverged(f"the loss is {value}")
        return value

    def require_finite(self, network: nn.Module) -> None:
        """Raise DivergedError where a weight of `network` is not finite."""
        if not all(bool(torch.isfinite(weights).all()) for weights in network.parameters()):
            self._diverged("weights are no longer finite")

    def _diverged(self, what: str) -> NoReturn:
        states = state_files(self.folder)
        kept = f"the last good state is {states[-1]}" if states else "no state was saved before"
        raise DivergedError(
            f"training diverged: {what} at update {self.progress.step} of {self.plan.steps} (rate "
            f"{self.current_rate():.3g}); {kept}. Lower learning_rate, set clip_gradient, or use precision fp32 in the "
            "recipe"
        )
