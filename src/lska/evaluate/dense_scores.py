"""Predictions of fine-tuned detectors and segmentors over a validation set: what both evaluations share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from tqdm import tqdm

from lska.data.dense_sets import DetectionSplit, SegmentationSplit
from lska.evaluate.measurement import Frame, Subject, Values, check_origin, measure, open_weights, vouched_sidecar
from lska.models.openmmlab import use
from lska.provenance.sidecars import imported, own_normalization
from lska.settings.tasks import FineTuningJob
from lska.train.dense_loading import validation_loader
from lska.train.fine_tuner import open_splits
from lska.train.loading import Loader
from lska.train.mm_configs import configuration

SAMPLES = 6
"""Images of the picture with sample predictions."""


@dataclass(frozen=True)
class Predictor:
    """The validation images of a fine-tuning, and the network that it left."""

    job: FineTuningJob
    sidecar: dict[str, Any]
    settings: Any
    """The library's configuration."""
    split: DetectionSplit | SegmentationSplit
    loader: Loader

    @classmethod
    def open(cls, job: FineTuningJob) -> Predictor:
        """Open the validation set of `job`, after checking that its weights are those of the configuration.

        Raises:
            StaleWeightsError: weights or sidecar are missing, or not those of the configuration.
            DataError, ValueError: the data set is missing or differs from its record.
        """
        sidecar = vouched_sidecar(job.weights, f"lska train {job.run} --task {job.task}")
        splits = open_splits(job, "val")
        check_origin(sidecar, job.weights, job.spec(), job.data.identity())
        if imported(sidecar):
            own = own_normalization(sidecar, str(job.weights.with_suffix(".json")))
            job = dataclasses.replace(job, normalization=own)
        settings = configuration(job, splits)
        init_default_scope(use(job.kind))
        return cls(job, sidecar, settings, splits["val"], validation_loader(job, settings["val_dataset"]))

    def __len__(self) -> int:
        return len(self.loader.dataset)

    def subject(self, device: torch.device) -> Subject:
        """The network with its weights."""
        job, network = self.job, build_dense(self.job, self.settings["model"])
        layout = job.recipe.channels_last
        return open_weights(str(job.run), network, job.weights, self.sidecar, job.pixels, device, channels_last=layout)

    def predictions(self, network: nn.Module) -> Iterator[tuple[Any, bool]]:
        """The library's data sample of every validation image, in order, with progress; and whether it is one of those
        that the picture of sample predictions shows, spread evenly over the set."""
        shown = set(np.linspace(0, len(self) - 1, min(SAMPLES, len(self))).astype(int).tolist())
        done = 0
        with tqdm(total=len(self), unit="image", disable=None) as bar:
            for batch in self.loader:
                # Entered for the network alone: around a yield it would be that of who takes the predictions too.
                with torch.inference_mode():
                    samples = network.test_step(batch)
                bar.update(len(samples))
                for sample in samples:
                    yield sample, done in shown
                    done += 1


def measure_dense(job: FineTuningJob, score: Callable[[Predictor, nn.Module], Values]) -> None:
    """Write the metric file of a fine-tuned network with what `score` finds; raises as `Predictor.open`."""
    predictor = Predictor.open(job)
    frame = Frame.of(job, job.data.identity())

    def values(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        found = score(predictor, subjects[0].network)
        yield dataclasses.replace(found, detail={"backbone": predictor.sidecar.get("backbone"), **found.detail})

    measure(frame, [predictor.subject], values)


def build_dense(job: FineTuningJob, settings: dict[str, Any]) -> nn.Module:
    """The network of a model configuration, without pretrained weights."""
    init_default_scope(use(job.kind))
    return revert_sync_batchnorm(MODELS.build(settings))
