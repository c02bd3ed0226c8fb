"""Top-1 and top-5 accuracy of checkpoints on the validation set (Tables III, VIII, XVII; Figures 1, 6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lska.config import Config
from lska.data.prepare import verify
from lska.data.sources import open_classification
from lska.models.checkpoint import load_weights
from lska.outcomes import Outcomes, of_images
from lska.provenance import file_md5, write_metrics
from lska.runs import Run
from lska.threads import use_threads
from lska.train.launch import build_network
from lska.train.loading import scoring_loader
from lska.train.scoring import Scores, memory_format, score


class StaleWeightsError(ValueError):
    """Weights and sidecar do not belong together."""


@dataclass(frozen=True)
class Checkpoint:
    """A run with its weights file and what the sidecar says of it."""

    run: Run
    weights: Path
    sidecar: dict[str, Any]

    @classmethod
    def open(cls, config: Config, run: Run) -> Checkpoint:
        """Read the sidecar of `run` and check that it vouches for the weights beside it.

        Raises:
            StaleWeightsError: weights or sidecar are missing, or the weights' MD5 is another than the sidecar's.
        """
        weights = config.weights_path(run)
        sidecar = vouched(weights, f"lska train {run}")
        check_origin(sidecar, weights, config.training_digest(run), config.data_identity())
        return cls(run, weights, sidecar)

    def load(self, config: Config, classes: int, device: torch.device) -> nn.Module:
        """The network with these weights, in evaluation mode on `device`.

        Raises:
            ValueError: the weights are of another architecture; the mismatching names are listed.
        """
        network = build_network(config, self.run, classes)
        load_weights(network, self.weights)
        layout = memory_format(config.recipe.channels_last)
        return network.eval().to(device, memory_format=layout)


def vouched(weights: Path, command: str) -> dict[str, Any]:
    """The sidecar of `weights`, after checking that it vouches for exactly this file.

    Args:
        command: what trains the weights, for the message where they are missing.

    Raises:
        StaleWeightsError: weights or sidecar are missing or damaged, or the weights' MD5 is another than the sidecar's.
    """
    sidecar_path = weights.with_suffix(".json")
    for path in (weights, sidecar_path):
        if not path.is_file():
            raise StaleWeightsError(f"{path} is missing; train the run first: `{command}` with the same options")
    sidecar, md5 = _read_sidecar(sidecar_path), file_md5(weights)
    if md5 != sidecar["md5"]:
        raise StaleWeightsError(
            f"{weights} has MD5 {md5} but {sidecar_path} vouches for {sidecar['md5']}; "
            "remove both files and run the pipeline again"
        )
    return sidecar


def check_origin(sidecar: dict[str, Any], weights: Path, recipe: str, data: dict[str, str]) -> None:
    """Refuse weights that were trained otherwise, or on other data, than the configuration says today.

    Raises:
        StaleWeightsError: the sidecar's recipe digest or data identity is another.
    """
    if sidecar["origin"] != "trained":
        return
    for name, value in {"recipe": recipe, "data": data}.items():
        if sidecar.get(name) != value:
            raise StaleWeightsError(
                f"{weights.with_suffix('.json')}: the weights were trained with {name} {sidecar.get(name)}, the "
                f"configuration now has {value}; train the run again or restore the configuration"
            )


def _read_sidecar(path: Path) -> dict[str, Any]:
    wanted = ("md5", "origin", "recipe")
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        absent = [name for name in wanted if name not in sidecar]
    except (ValueError, TypeError) as error:
        raise StaleWeightsError(f"{path} is damaged ({error}); remove it and run the pipeline again") from error
    if absent:
        raise StaleWeightsError(
            f"{path}: expected {', '.join(wanted)}, missing {', '.join(absent)}; train the run again"
        )
    return sidecar


def classify(config: Config, runs: Sequence[Run]) -> None:
    """Score the checkpoints of `runs` in one pass over the validation images and write a metric file for each.

    Raises:
        DataError: the data set is missing, or an image is unreadable (named).
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture.
    """
    started = datetime.now(UTC)
    use_threads(config.evaluation.threads)
    device = torch.device("cuda" if config.evaluation.gpus else "cpu")
    split = open_classification(config, "val")
    data = verify(config, split)
    checkpoints = [Checkpoint.open(config, run) for run in runs]
    networks = [checkpoint.load(config, len(split.classes), device) for checkpoint in checkpoints]
    loader = scoring_loader(split, config.recipe, config.evaluation.batch_size, config.evaluation.workers)
    scores = score(networks, loader, device, config.recipe.channels_last)
    for checkpoint, counts in zip(checkpoints, scores, strict=True):
        _write(config, checkpoint, counts, data, started, str(device))


def _write(
    config: Config, checkpoint: Checkpoint, scores: Scores, data: dict[str, str], started: datetime, device: str
) -> None:
    sidecar, images = checkpoint.sidecar, scores.images
    write_metrics(
        config.metric_path("classification", checkpoint.run),
        task="classification",
        run=str(checkpoint.run),
        scale=config.scale,
        metrics={name: of_images(name, values) for name, values in images.items()},
        weights={"md5": sidecar["md5"], "origin": sidecar["origin"]},
        recipe=sidecar["recipe"],
        data=data,
        device=device,
        started=started,
        outcomes=Outcomes(images=images),
    )
