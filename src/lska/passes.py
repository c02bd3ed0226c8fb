"""Passes: many checkpoints that are measured on the same images in one job. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lska.files import write_json
from lska.outcomes import outcomes_path
from lska.provenance import digest
from lska.runs import Run
from lska.sections import DataSource
from lska.weights.checkpoints import Checkpoint, choose

if TYPE_CHECKING:
    from lska.config import Config


def trained(config: Config, run: Run) -> bool:
    """Whether the weights of a run are there and are those that today's configuration trains."""
    return choose(Checkpoint(config, run)).here


class Measured(Protocol):
    """What many checkpoints are measured on in one pass: `PerturbedSet` or `lska.inspection.InspectionJob`."""

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
    def inputs(self) -> list[Path]:
        """Weights with their sidecars, as far as they are still to be trained or fetched.

        Snakemake forgets that outputs are missing where a job far above is to run and inputs in between are `ancient`,
        so weights that are there already must not tie a pass to the data that they were trained on.
        """
        config = self.item.config
        weights = [config.weights_path(run) for run in self.runs if not trained(config, run)]
        return [file for path in weights for file in (path, path.with_suffix(".json"))]

    @property
    def hours(self) -> float | None:
        """Hours after which the pass stops itself, where its section says them."""
        return getattr(self.item.section, "hours", None)

    def budget(self, wildcards: Any, resources: Any) -> str:
        """The option that has the pass stop itself in time, given what the scheduler grants."""
        return f"--job-minutes {resources.runtime}" if self.hours else ""

    @property
    def digest(self) -> str:
        """Identity of the measurement apart from the weights."""
        recipes = [self.item.config.training_digest(run) for run in self.runs]
        return digest([self.item.inputs(), self.item.protocol(), recipes])

    @property
    def outdated(self) -> list[Path]:
        """A file younger than its metric files where there are some already, which are known to be outdated.

        Snakemake knows what a file was made from only in the folder where it was made, not in a clone.
        """
        return [self._mark] if any(path.exists() for path in self.outputs) else []

    @property
    def _mark(self) -> Path:
        return self.item.config.work / "outdated" / f"{self.name}.json"

    def mark(self) -> None:
        """Write the file that `outdated` names, if it names one."""
        for path in self.outdated:
            write_json(path, [str(output) for output in self.outputs])
