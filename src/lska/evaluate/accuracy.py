"""Top-1 and top-5 accuracy of checkpoints on the validation set (Tables III, VIII, XVII; Figures 1, 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lska.data.preparing import verify
from lska.data.sources import open_classification
from lska.models.pretrained import load_weights
from lska.models.runs import Run
from lska.models.scoring import Scores, memory_format, score
from lska.models.threads import use_threads
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import quoted
from lska.provenance.foreign_weights import occupied, other, unusable, unvouched
from lska.provenance.metric_files import digest, write_metrics
from lska.provenance.outcomes import Outcomes, of_images
from lska.provenance.pointers import pointer_path
from lska.provenance.sidecars import Preprocessing, changes, imported, own_preprocessing, read_sidecar
from lska.settings.scale import Config
from lska.train.classifier import build_network
from lska.train.loading import Views, scoring_loader


class StaleWeightsError(LskaError, ValueError):
    """Weights and sidecar do not belong together."""


@dataclass(frozen=True)
class VouchedCheckpoint:
    """A run with its weights file, what the sidecar says of it, and how its images are prepared.

    Weights that were trained here have the configuration's recipe and architecture, or are refused; those that were
    imported have what their sidecar says.
    """

    run: Run
    weights: Path
    sidecar: dict[str, Any]
    preprocessing: Preprocessing
    architecture: dict[str, Any]

    @classmethod
    def open(cls, config: Config, run: Run) -> VouchedCheckpoint:
        """Read the sidecar of `run` and check that it vouches for the weights beside it.

        Raises:
            StaleWeightsError: weights or sidecar are missing or damaged, do not belong together, or were trained by
                another recipe or on other data.
            ValueError: the sidecar of imported weights is of another run, or does not say how images are prepared.
        """
        weights, where = config.weights_path(run), str(config.weights_path(run).with_suffix(".json"))
        sidecar = vouched_sidecar(weights, f"lska train {run}")
        check_origin(sidecar, weights, config.training_spec(run), config.data_identity())
        architecture = config.architecture.get(run.model, {})
        if not imported(sidecar):
            return cls(run, weights, sidecar, Preprocessing.of(config.recipe_of(run).to_dict(), "recipe"), architecture)
        spec = sidecar.get("spec") or {}
        if (stated := spec.get("run", str(run))) != str(run):
            raise InputError(f"{where}: spec.run: expected {run}, found {quoted(stated)}; correct the sidecar")
        return cls(run, weights, sidecar, own_preprocessing(sidecar, where), spec.get("architecture", architecture))

    def load(self, config: Config, classes: int, device: torch.device) -> nn.Module:
        """The network with these weights, in evaluation mode on `device`.

        Raises:
            ValueError: the weights are of another architecture; the mismatching names are listed.
        """
        network = build_network(config, self.run, classes, 0.0, self.architecture)
        load_weights(network, self.weights)
        layout = memory_format(config.recipe_of(self.run).channels_last)
        return network.eval().to(device, memory_format=layout)


def vouched_sidecar(weights: Path, command: str) -> dict[str, Any]:
    """The sidecar of `weights`, after checking that it vouches for exactly this file.

    Args:
        command: what trains the weights, for the message where they are missing.

    Raises:
        StaleWeightsError: weights or sidecar are missing or damaged, or the weights' MD5 is another than the sidecar's.
    """
    path = weights.with_suffix(".json")
    if not occupied(weights) and not occupied(path):
        raise StaleWeightsError(f"{weights} is missing; train the run first: `{command}` with the same options")
    sidecar = read_sidecar(path)
    if not sidecar:
        raise StaleWeightsError(unvouched(weights))
    if not occupied(weights):
        raise StaleWeightsError(_absent(weights, sidecar, command))
    problem = unusable(weights) or other(weights, sidecar["md5"])
    if problem is not None:
        raise StaleWeightsError(problem)
    return sidecar


def _absent(weights: Path, sidecar: Mapping[str, Any], command: str) -> str:
    """A message for weights that are missing beside their sidecar."""
    remedy = "bring them back" if imported(sidecar) else f"train the run first: `{command}` with the same options"
    pointer = pointer_path(weights)
    fetch = f"fetch them from DVC (`lska weights fetch`, or `dvc pull {pointer}`), or " if pointer.exists() else ""
    return f"{weights} is missing, only its sidecar {weights.with_suffix('.json').name} is there; {fetch}{remedy}"


def check_origin(
    sidecar: Mapping[str, Any], weights: Path, spec: Mapping[str, Any], data: Mapping[str, str]
) -> None:
    """Refuse weights that were trained here otherwise, or on other data, than the configuration says today.

    Args:
        spec: what decides the weights today.

    Raises:
        StaleWeightsError: the sidecar's recipe digest or data identity is another; says what differs.
    """
    if imported(sidecar):
        return
    where = weights.with_suffix(".json")
    remedy = "train the run again or restore the configuration"
    if sidecar.get("recipe") != digest(spec):
        differences = changes(sidecar.get("spec") or {}, spec)
        raise StaleWeightsError(f"{where}: the weights were trained otherwise than today ({differences}); {remedy}")
    if sidecar.get("data") != data:
        raise StaleWeightsError(
            f"{where}: the weights were trained with data {quoted(sidecar.get('data'))}, the configuration now has "
            f"{quoted(data)}; {remedy}"
        )


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
    checkpoints = [VouchedCheckpoint.open(config, run) for run in runs]
    networks = [checkpoint.load(config, len(split.classes), device) for checkpoint in checkpoints]
    # An image is decoded once, whatever the number of ways to prepare it.
    ways = tuple(dict.fromkeys(checkpoint.preprocessing for checkpoint in checkpoints))
    loader = scoring_loader(split, Views(ways), config.evaluation.batch_size, config.evaluation.workers)
    views = [ways.index(checkpoint.preprocessing) for checkpoint in checkpoints]
    scores = score(networks, loader, device, config.recipe_of(runs[0]).channels_last, views)
    for checkpoint, counts in zip(checkpoints, scores, strict=True):
        _write(config, checkpoint, counts, data, started, str(device))


def _write(
    config: Config, checkpoint: VouchedCheckpoint, scores: Scores, data: dict[str, str], started: datetime, device: str
) -> None:
    sidecar, images = checkpoint.sidecar, scores.images
    write_metrics(
        config.metric_path("classification", checkpoint.run),
        task="classification",
        run=str(checkpoint.run),
        scale=config.scale,
        metrics={name: of_images(name, values) for name, values in images.items()},
        weights={"md5": sidecar["md5"], "origin": sidecar["origin"]},
        recipe=sidecar.get("recipe"),
        data=data,
        device=device,
        started=started,
        extra={"preprocessing": checkpoint.preprocessing.to_dict()},
        outcomes=Outcomes(images=images),
    )
