"""How many cores trainings and measurements keep busy. Imports nothing heavy."""

from __future__ import annotations

from lska.settings.sections import Evaluation, Training


def training_threads(training: Training) -> int:
    """Cores that a training keeps busy: its own threads on every node, or every process with its loaders."""
    own = training.threads * (1 if training.gpus else training.nodes)
    return max(own, training.gpus * (training.workers + 1))


def evaluation_threads(evaluation: Evaluation) -> int:
    """Cores that scoring keeps busy."""
    return max(evaluation.threads, evaluation.workers)
