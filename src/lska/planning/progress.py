"""How far trainings have come: updates in all, and those that the newest state holds. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from lska.config import Config
from lska.finetuning import FineTuningJob
from lska.planning.images import count
from lska.runs import Run
from lska.train.saved_state import state_files

_STEP = re.compile(r"state-(\d+)\.pt")


def steps(config: Config, job: Run | FineTuningJob) -> int | None:
    """Updates of a training of classification, or of a fine-tuning; None where the number of images is not known.

    Images that do not fill an update are left out of an epoch. Detection also leaves out images without objects and
    fills updates by orientation, so its number is a few too many (COCO: one percent).
    """
    dense = isinstance(job, FineTuningJob)
    recipe = job.recipe if dense else config.recipe_of(job)
    if hasattr(recipe, "updates"):
        return recipe.updates
    images = count(config, job.kind if dense else "classification", "train")
    epochs = recipe.epochs if dense else recipe.total_epochs
    return None if images is None else images // recipe.global_batch * epochs


def states(config: Config, training: Run | FineTuningJob) -> Path:
    """Folder of a training's states."""
    if isinstance(training, FineTuningJob):
        return training.states
    return config.state_folder(str(training), config.training_digest(training))


def done(config: Config, training: Run | FineTuningJob) -> int:
    """Updates that the newest state of a training holds; 0 where it has none."""
    files = state_files(states(config, training))
    return int(_STEP.fullmatch(files[-1].name)[1]) if files else 0


def done_share(config: Config, training: Run | FineTuningJob, updates: int) -> float:
    """Share of a training's `updates` that are done."""
    return min(1.0, done(config, training) / updates) if updates else 0.0
