"""How jobs are started, and how many cores they keep busy. Imports nothing heavy."""

from __future__ import annotations

from lska.sections import Evaluation, Training


def launcher(training: Training) -> str:
    """How a training is started: by torchrun, one process per GPU, where it has several."""
    return f"torchrun --standalone --nproc-per-node {training.gpus} -m lska" if training.gpus > 1 else "lska"


def training_threads(training: Training) -> int:
    """Cores that a training keeps busy: its own threads, or every process with its loaders."""
    return max(training.threads, training.gpus * (training.workers + 1))


def evaluation_threads(evaluation: Evaluation) -> int:
    """Cores that scoring keeps busy."""
    return max(evaluation.threads, evaluation.workers)
