"""Predictions of fine-tuned detectors and segmentors over a validation set: what both evaluations share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lska.data.dense_sets import DetectionSplit, SegmentationSplit
from lska.evaluate.accuracy import check_origin, vouched_sidecar
from lska.models.openmmlab import use
from lska.models.pretrained import load_weights
from lska.models.scoring import memory_format
from lska.models.threads import use_threads
from lska.provenance.metric_files import write_metrics
from lska.provenance.outcomes import Outcomes, with_errors
from lska.provenance.sidecars import imported, own_normalization
from lska.settings.fine_tunings import FineTuningJob
from lska.train.dense_loading import validation_loader
from lska.train.fine_tuner import open_splits
from lska.train.mm_configs import configuration
from lska.train.workers import Loader

SAMPLES = 6
"""Images of the picture with sample predictions."""


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned network with the validation images and what vouches for its weights."""

    job: FineTuningJob
    network: nn.Module
    split: DetectionSplit | SegmentationSplit
    loader: Loader
    sidecar: dict[str, Any]
    device: torch.device

    @classmethod
    def open(cls, job: FineTuningJob) -> Predictor:
        """Load the weights of `job` and open its validation set.

        Raises:
            StaleWeightsError: weights or sidecar are missing, or not those of the configuration.
            DataError, ValueError: the data set is missing or differs from its record.
        """
        use_threads(job.section.evaluation.threads)
        device = torch.device("cuda" if job.section.evaluation.gpus else "cpu")
        sidecar = vouched_sidecar(job.weights, f"lska train {job.run} --task {job.task}")
        splits = open_splits(job, "val")
        check_origin(sidecar, job.weights, job.spec(), job.config.data_identity(job.data))
        if imported(sidecar):
            own = own_normalization(sidecar, str(job.weights.with_suffix(".json")))
            job = dataclasses.replace(job, normalization=own)
        settings = configuration(job, splits)
        network = build_dense(job, settings["model"])
        load_weights(network, job.weights)
        layout = memory_format(job.recipe.channels_last)
        network = network.eval().to(memory_format=layout).to(device)
        loader = validation_loader(job, settings["val_dataset"])
        return cls(job, network, splits["val"], loader, sidecar, device)

    def __len__(self) -> int:
        return len(self.loader.dataset)

    def predictions(self) -> Iterator[Any]:
        """The library's data sample of every validation image, in order, with progress."""
        with tqdm(total=len(self), unit="image", disable=None) as bar:
            for batch in self.loader:
                with torch.inference_mode():
                    samples = self.network.test_step(batch)
                bar.update(len(samples))
                yield from samples

    def sampled(self) -> set[int]:
        """Indices of the images that the picture of sample predictions shows, spread evenly over the set."""
        return set(np.linspace(0, len(self) - 1, min(SAMPLES, len(self))).astype(int).tolist())

    def write(self, metrics: dict[str, Any], outcomes: Outcomes, started: datetime, **detail: Any) -> None:
        """Write the metric file, with the standard errors that bootstrap samples among the outcomes give."""
        write_metrics(
            self.job.metrics,
            task=self.job.task,
            run=str(self.job.run),
            scale=self.job.config.scale,
            metrics=with_errors(metrics, outcomes),
            weights={"md5": self.sidecar["md5"], "origin": self.sidecar["origin"]},
            recipe=self.sidecar.get("recipe"),
            data=self.job.config.data_identity(self.job.data),
            device=str(self.device),
            started=started,
            extra={"backbone": self.sidecar.get("backbone"), "preprocessing": self.job.pixels.to_dict(), **detail},
            outcomes=outcomes,
        )


def build_dense(job: FineTuningJob, settings: dict[str, Any]) -> nn.Module:
    """The network of a model configuration, without pretrained weights."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(use(job.kind))
    return revert_sync_batchnorm(MODELS.build(settings))
