"""Passes: many checkpoints that are measured on the same images in one job. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lska.models.runs import Run
from lska.provenance.outcomes import outcomes_path
from lska.settings.sections import DataSource

if TYPE_CHECKING:
    from lska.settings.scale import Config


class Measured(Protocol):
    """What many checkpoints are measured on in one pass: `PerturbedSet` or `InspectionJob`."""

    config: Config
    name: str

    @property
    def section(self) -> Any:
        """The configuration's section, with `runs`, `evaluation`, `passes` and `attempts`."""

    @property
    def task(self) -> str:
        """The task of its metric files."""

    @property
    def data(self) -> DataSource:
        """The images."""

    @property
    def record(self) -> Path:
        """The record of the checked images."""
        return self.config.record_of(self.data)

    @property
    def reference(self) -> Run | None:
        """The run that chooses the images, if one does."""

    @property
    def rule(self) -> str:
        """Start of the names of its rules."""

    @property
    def command(self) -> str:
        """What follows `lska evaluate`."""

    def metrics(self, run: Run | str) -> Path:
        """Place of the metric file of `run`."""
        return self.config.metric_path(self.task, run)

    def outputs(self, run: Run | str) -> list[Path]:
        """The files that a measurement of `run` writes."""
        return [self.metrics(run), outcomes_path(self.metrics(run))]

    def inputs(self) -> str | None:
        """Identity of what makes the images, kept in their record; None where the record keeps none."""

    def protocol(self) -> str:
        """Identity of how weights and images become metrics, kept in every metric file."""


@dataclass(frozen=True)
class Pass:
    """One job: runs that are measured together, each image being decoded once."""

    item: Measured
    number: int
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Name of its rule."""
        return f"{self.item.rule}_{self.number}"

    @property
    def outputs(self) -> list[Path]:
        """The files that it writes, metric files among them."""
        return [path for run in self.runs for path in self.item.outputs(run)]

    @property
    def hours(self) -> float | None:
        """Hours after which the pass stops itself, where its section says them."""
        return getattr(self.item.section, "hours", None)

    def budget(self, wildcards: Any, resources: Any) -> str:
        """The option that has the pass stop itself in time, given what the scheduler grants."""
        return f"--job-minutes {resources.runtime}" if self.hours else ""
