"""Checkpoints that share a pass: each with the input size and normalisation that it was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lska.config import Config
from lska.evaluate.classify import Checkpoint, vouched
from lska.models import create
from lska.models.checkpoint import load_weights
from lska.provenance import digest
from lska.runs import Run
from lska.train.recipe import Triple
from lska.train.scoring import memory_format

_RECIPE = ("image_size", "test_crop", "test_interpolation", "mean", "deviation", "channels_last")


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square of `size` pixels: shorter side resized to size / crop, centre cropped.

    A `crop` of 1 leaves an image of that size as it is.
    """

    size: int
    crop: float
    interpolation: str


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it."""

    geometry: Geometry
    mean: Triple
    deviation: Triple

    @classmethod
    def of(cls, recipe: dict[str, Any], stored: bool) -> Preprocessing:
        """That of a training recipe in plain values; `stored` images of the input size are taken as they are."""
        crop = 1.0 if stored else recipe["test_crop"]
        geometry = Geometry(recipe["image_size"], crop, recipe["test_interpolation"])
        return cls(geometry, tuple(recipe["mean"]), tuple(recipe["deviation"]))


@dataclass(frozen=True, eq=False)
class Member:
    """A network in evaluation mode with what vouches for its weights."""

    run: Run
    network: nn.Module
    sidecar: dict[str, Any]
    channels_last: bool

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe that the weights were trained with, in plain values."""
        return self.sidecar["spec"]["recipe"]

    def preprocessing(self, stored: bool) -> Preprocessing:
        """Preprocessing of images, `stored` ones being taken as they are."""
        return Preprocessing.of(self.recipe, stored)

    def key(self, stored: bool, classes: tuple[str, ...]) -> str:
        """Names the predictions: MD5 of the weights, with a digest of preprocessing and classes."""
        how = digest([repr(self.preprocessing(stored)), str(self.run), self.sidecar["spec"]["architecture"], classes])
        return f"{self.sidecar['md5']}-{how.removeprefix('sha256:')[:12]}"


def open_run(config: Config, run: Run, classes: int, device: torch.device) -> Member:
    """A run of the configuration, trained as it says today.

    Raises:
        StaleWeightsError: weights or sidecar are missing, or not those of the configuration.
        ValueError: the weights are of another architecture.
    """
    checkpoint = Checkpoint.open(config, run)
    # Not from the sidecar: that of imported weights does not say it.
    sidecar = checkpoint.sidecar | {"spec": config.training_spec(run)}
    return _member(run, checkpoint.weights, sidecar, classes, device)


def open_file(config: Config, weights: Path, classes: int, device: torch.device) -> Member:
    """Any checkpoint with its sidecar, of whatever recipe: it may have another input size and normalisation.

    Raises:
        StaleWeightsError: weights or sidecar are missing, or do not belong together.
        ValueError: the sidecar does not say how the network was made, it was trained on another data set, or the
            weights are of another architecture.
    """
    sidecar, where = vouched(weights, "lska train <run>"), weights.with_suffix(".json")
    spec = sidecar.get("spec")
    _check_fields(spec, ("run", "architecture", "recipe"), f"{where}: spec")
    _check_fields(spec["recipe"], _RECIPE, f"{where}: spec.recipe")
    trained_on = (sidecar.get("data") or {}).get("name", config.data.name)
    if trained_on != config.data.name:
        raise ValueError(
            f"{where}: the weights were trained on {trained_on}, whose classes are others than those of "
            f"{config.data.name}; choose a checkpoint of this data set, or the configuration of the other scale"
        )
    return _member(Run.parse(spec["run"]), weights, sidecar, classes, device)


def _check_fields(values: Any, wanted: Sequence[str], where: str) -> None:
    missing = [name for name in wanted if not isinstance(values, dict) or name not in values]
    if missing:
        raise ValueError(
            f"{where}: expected {', '.join(wanted)}, missing {', '.join(missing)}; found {json.dumps(values)[:200]}; "
            "train the run with this version, or add what is known of it"
        )


def _member(run: Run, weights: Path, sidecar: dict[str, Any], classes: int, device: torch.device) -> Member:
    spec = sidecar["spec"]
    network = create(
        run.model, attention=run.attention, kernel_size=run.kernel, **spec["architecture"], num_classes=classes
    )
    load_weights(network, weights)
    layout = bool(spec["recipe"]["channels_last"])
    return Member(run, network.eval().to(device, memory_format=memory_format(layout)), sidecar, layout)
