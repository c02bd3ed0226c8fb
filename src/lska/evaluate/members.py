"""Checkpoints that share a pass: each with the input size and normalisation that it was trained with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lska.evaluate.accuracy import VouchedCheckpoint, vouched_sidecar
from lska.models import create
from lska.models.pretrained import load_weights
from lska.models.runs import Run
from lska.models.scoring import memory_format
from lska.provenance.errors import InputError
from lska.provenance.files import quoted
from lska.provenance.metric_files import digest
from lska.provenance.sidecars import Preprocessing, own_preprocessing
from lska.settings.scale import Config


@dataclass(frozen=True, eq=False)
class Member:
    """A network in evaluation mode with what vouches for its weights."""

    run: Run
    network: nn.Module
    sidecar: dict[str, Any]
    own: Preprocessing
    """How images were prepared for its validation."""
    architecture: dict[str, Any]
    channels_last: bool

    def preprocessing(self, stored: bool) -> Preprocessing:
        """Preprocessing of images; `stored` ones of the input size are taken as they are."""
        return dataclasses.replace(self.own, test_crop=1.0) if stored else self.own

    def key(self, stored: bool, classes: tuple[str, ...]) -> str:
        """Names the predictions: MD5 of the weights, with a digest of preprocessing and classes."""
        how = digest([self.preprocessing(stored).to_dict(), str(self.run), self.architecture, classes])
        return f"{self.sidecar['md5']}-{how.removeprefix('sha256:')[:12]}"


def open_run(config: Config, run: Run, classes: int, device: torch.device) -> Member:
    """A run of the configuration, trained as it says today, or imported.

    Raises:
        StaleWeightsError: weights or sidecar are missing, or not those of the configuration.
        ValueError: the weights are of another architecture, or a sidecar of imported ones does not say how images are
            prepared.
    """
    checkpoint = VouchedCheckpoint.open(config, run)
    network = checkpoint.load(config, classes, device)
    own, layout = checkpoint.preprocessing, config.recipe_of(run).channels_last
    return Member(run, network, checkpoint.sidecar, own, checkpoint.architecture, layout)


def open_file(config: Config, weights: Path, classes: int, device: torch.device) -> Member:
    """Any checkpoint with its sidecar, of whatever recipe: it may have another input size and normalisation.

    Raises:
        StaleWeightsError: weights or sidecar are missing, or do not belong together.
        ValueError: the sidecar does not say how the network was made, it was trained on another data set, or the
            weights are of another architecture.
    """
    sidecar, where = vouched_sidecar(weights, "lska train <run>"), weights.with_suffix(".json")
    spec = sidecar.get("spec") or {}
    missing = [name for name in ("run", "recipe") if name not in spec]
    if missing:
        raise InputError(
            f"{where}: spec: expected run and recipe, missing {', '.join(missing)}; train the run with this version, "
            "or add what is known of it"
        )
    own = own_preprocessing(sidecar, str(where))
    trained_on = (sidecar.get("data") or {}).get("name", config.data.name)
    if trained_on != config.data.name:
        raise InputError(
            f"{where}: the weights were trained on {quoted(trained_on)}, whose classes are others than those of "
            f"{config.data.name}; choose a checkpoint of this data set, or the configuration of the other scale"
        )
    run, architecture = Run.parse(spec["run"]), spec.get("architecture", {})
    network = create(run.model, attention=run.attention, kernel_size=run.kernel, **architecture, num_classes=classes)
    load_weights(network, weights)
    layout = bool(spec["recipe"].get("channels_last", config.recipe_of(run).channels_last))
    network = network.eval().to(device, memory_format=memory_format(layout))
    return Member(run, network, sidecar, own, architecture, layout)
