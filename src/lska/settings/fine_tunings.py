"""Names and identities of fine-tunings: which head, from which backbone, with which recipe, on which data.

Imports nothing heavy: the Snakefile asks here which files a fine-tuning makes and what its result depends on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.metric_files import digest
from lska.provenance.outcomes import outcomes_path
from lska.provenance.sidecars import Normalization, imported_normalization
from lska.settings.dense_recipes import DETECTORS, SEGMENTORS, DetectionRecipe, SegmentationRecipe
from lska.settings.sections import DataSource, DenseTask, FineTuning

if TYPE_CHECKING:
    from lska.settings.scale import Config

HEADS = {"detection": DETECTORS, "segmentation": SEGMENTORS}
"""The heads of each kind of dense prediction."""

PAPER_RECIPES = {
    "retinanet": "config/recipes/coco_retinanet.yaml",
    "mask_rcnn": "config/recipes/coco_mask_rcnn.yaml",
    "semantic_fpn": "config/recipes/ade20k_semantic_fpn.yaml",
}
"""The paper's recipe of each head, whose networks the complexity tables count at every scale."""

CONTROL = "-untrained"
"""End of the task of a control: the same training from a randomly initialised backbone."""

TASK = rf"(?:detection/(?:{'|'.join(DETECTORS)})|segmentation/(?:{'|'.join(SEGMENTORS)}))(?:{CONTROL})?"
"""Regular expression of the tasks that are fine-tuned."""


class TaskName(NamedTuple):
    """The parts of a task such as `detection/retinanet-untrained`."""

    kind: str
    head: str
    untrained: bool


def parse_task(task: str) -> TaskName | None:
    """The parts of a fine-tuned task, None for every other task."""
    if re.fullmatch(TASK, task) is None:
        return None
    kind, _, name = task.partition("/")
    return TaskName(kind, name.removesuffix(CONTROL), name.endswith(CONTROL))


@dataclass(frozen=True)
class FineTuningJob:
    """One fine-tuning: `task` (such as `detection/retinanet`) from the backbone of `run` at a scale."""

    config: Config
    task: str
    run: Run
    normalization: Normalization | None = None
    """That of weights which were imported."""

    def __post_init__(self) -> None:
        if parse_task(self.task) is None or self.run not in self.config.runs_of(self.task):
            listed = [f"{job.task} of {job.run}" for job in self.config.fine_tunings] if parse_task(self.task) else []
            known = f"fine-tunings of the configuration: {', '.join(listed) or 'none'}"
            raise InputError(f"{self.task} of {self.run} is not configured at scale {self.config.scale}; {known}")

    @property
    def place(self) -> str:
        """Its name among all networks of the scale, and its place below `checkpoints/<scale>`."""
        return f"{self.task}/{self.run}"

    @property
    def name(self) -> TaskName:
        """Kind, head, and whether the backbone is a random one."""
        return parse_task(self.task)

    @property
    def kind(self) -> str:
        """`detection` or `segmentation`."""
        return self.name.kind

    @property
    def head(self) -> str:
        """`retinanet`, `mask_rcnn` or `semantic_fpn`."""
        return self.name.head

    @property
    def section(self) -> DenseTask:
        """The configuration's section."""
        return self.config.dense[self.kind]

    @property
    def settings(self) -> FineTuning:
        """Means of the training."""
        return self.section.heads[self.head]

    @property
    def data(self) -> DataSource:
        """The data set."""
        return self.section.data

    @property
    def recipe(self) -> DetectionRecipe | SegmentationRecipe:
        """The resolved recipe."""
        return self.config.dense_recipes[self.kind, self.head]

    @property
    def pixels(self) -> Normalization:
        """What the pixels are normalised with: the recipe's own, or that of the pretraining, also of an imported one.
        """
        if self.normalization is not None:
            return self.normalization
        if self.recipe.mean is not None:
            return Normalization(self.recipe.mean, self.recipe.deviation)
        start = None if self.backbone is None else imported_normalization(self.backbone.with_suffix(".json"))
        pretraining = self.config.recipe_of(self.run)
        return Normalization(pretraining.mean, pretraining.deviation) if start is None else start

    def spec(self) -> dict[str, Any]:
        """Everything that decides the weights, in plain values; the backbone enters by the digest of its training."""
        return {
            "task": self.task,
            "run": str(self.run),
            "architecture": self.config.architecture.get(self.run.model, {}),
            "recipe": {**self.recipe.to_dict(), "mean": self.pixels.mean, "deviation": self.pixels.deviation},
            "data": {"name": self.data.name, "generate": self.data.generate},
            "backbone": None if self.name.untrained else self.config.training_digest(self.run),
            **self._statistics(),
        }

    def _statistics(self) -> dict[str, int]:
        """Images that BatchNorm sees at once, where that follows from the number of GPUs (SyncBN in segmentation)."""
        together = self.settings.gpus * self.recipe.micro_batch
        return {"normalized_together": together} if self.kind == "segmentation" and self.settings.gpus > 1 else {}

    def digest(self) -> str:
        """Digest of `spec()`."""
        return digest(self.spec())

    @property
    def backbone(self) -> Path | None:
        """Weights of the pretrained backbone, None for a control."""
        return None if self.name.untrained else self.config.weights_path(self.run)

    @property
    def weights(self) -> Path:
        """Place of the fine-tuned weights; the sidecar has the same name with `.json`."""
        return self.config.weights_path(self.place)

    @property
    def log(self) -> Path:
        """Place of the record of losses of a finished training."""
        return self.config.training_log(self.place)

    @property
    def metrics(self) -> Path:
        """Place of the metric file."""
        return self.config.metric_path(self.task, self.run)

    @property
    def outcomes(self) -> Path:
        """Place of the bootstrap samples behind the metrics' errors."""
        return outcomes_path(self.metrics)

    @property
    def samples(self) -> Path:
        """Place of the picture with sample predictions."""
        return self.config.results / "samples" / self.task / f"{self.run}.png"

    @property
    def states(self) -> Path:
        """Folder of the training's states (`Config.state_folder`)."""
        return self.config.state_folder(self.place, self.digest())
