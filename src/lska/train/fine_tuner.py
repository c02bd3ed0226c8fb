"""One fine-tuning from a configuration to weights with their sidecar: what `lska train RUN --task TASK` does.

Network, data set, optimizer and schedule are built by mmengine's registries; updates, budget, states and log are those
of `lska.train.engine`, as in classification.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import cv2
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import broadcast
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import set_random_seed

from lska.data import dense_sets
from lska.models.openmmlab import build_dense_network
from lska.models.scoring import memory_format
from lska.settings.tasks import FineTuningJob
from lska.train.dense_loading import DensePlan
from lska.train.engine import Place, Trainable, complete, prepared
from lska.train.loading import seed_everything
from lska.train.mm_configs import configuration

if TYPE_CHECKING:
    from mmengine.config import Config

    from lska.train.mm_configs import Splits


def open_splits(job: FineTuningJob, *names: str) -> Splits:
    """The data of a fine-tuning by split, after a cheap check that they are those of the data record.

    Raises:
        DataError: the data set is missing or is not what its manifest says.
        ValueError: it was not prepared, or its record is damaged.
    """
    splits = {name: dense_sets.open_dense(job.kind, job.data, name, job.data.cache) for name in names}
    dense_sets.verify_dense(job.kind, job.data, job.data.record, *splits.values())
    return splits


def fine_tune(
    job: FineTuningJob, backbone: Mapping[str, Any] | None = None, budget_seconds: float | None = None
) -> None:
    """Train a detector or segmentor, or go on with it, and export weights, sidecar and log.

    Args:
        backbone: what the sidecar of the pretrained weights says, which vouches for them; None for a control.

    Raises:
        DataError: the data set is missing, or differs from its manifest.
        CheckpointError: they do not fit the backbone.
        Interrupted, LeaseLostError, ForeignWeightsError, DivergedError, StateError, ValueError: as `engine.complete`.
    """
    begun = prepared(job)
    splits = open_splits(job, "train")

    def build(place: Place) -> FineTuner:
        return FineTuner(place, job, configuration(job, splits, place.group.world))

    start = None if backbone is None else {"md5": backbone["md5"], "run": str(job.run)}
    setting = f"{job.kind}.heads.{job.head}.gpus"
    complete(job, build, setting, budget_seconds, begun, task=job.task, backbone=start)


class FineTuner(Trainable):
    """Network, optimizer and schedules of one fine-tuning, as its configuration says."""

    collate = staticmethod(pseudo_collate)

    def __init__(self, place: Place, job: FineTuningJob, settings: Config) -> None:
        MMLogger.get_current_instance().setLevel("ERROR")
        init_default_scope(settings["default_scope"])
        cv2.setNumThreads(0)  # in processes that load images its own threads would stand still
        set_random_seed(job.run.seed)
        network = build_dense_network(copy.deepcopy(settings["model"]))
        network = network.to(memory_format=memory_format(job.recipe.channels_last)).to(place.group.device)
        if place.group.world == 1:
            network = revert_sync_batchnorm(network)
        images = DATASETS.build(copy.deepcopy(settings["train_dataset"]))
        super().__init__(place, DensePlan.of_job(job, images), network, images, job.settings.workers)
        self.optimizer = build_optim_wrapper(network, settings["optim_wrapper"])
        built = {"optimizer": self.optimizer, "epoch_length": self.plan.steps_per_epoch}
        wanted = settings["param_scheduler"]
        self.schedules = [PARAM_SCHEDULERS.build(dict(each), default_args=built) for each in wanted]
        network.init_weights()
        for tensor in network.state_dict().values():
            broadcast(tensor)
        self.resume()
        # mmengine counts the accumulation of gradients in micro-batches.
        self.optimizer.initialize_count_status(network, self.progress.step * self.share, self.plan.steps * self.share)
        self.forward = network.train()
        if place.group.world > 1:
            devices = [place.group.device.index] if place.group.device.type == "cuda" else None
            self.forward = MMDistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)

    def parts(self) -> dict[str, Any]:
        """What the state holds beside digest and progress."""
        schedules = {f"schedule_{number}": schedule for number, schedule in enumerate(self.schedules)}
        return {"network": self.network, "optimizer": self.optimizer.optimizer, **schedules}

    def rate(self, step: int) -> float:
        """Learning rate of the update, which the schedules have set after the one before."""
        return self.optimizer.get_lr()["lr"][0]

    def update(self, batches: Iterator[Any]) -> torch.Tensor:
        """One update on this process's micro-batches; returns their mean loss, a scalar tensor on the device."""
        step, total = self.progress.step, torch.zeros((), device=self.group.device)
        for number in range(self.share):
            data = next(batches)
            seed_everything(self.plan.seed, "batch", step, number * self.group.world + self.group.rank)
            total += self.forward.train_step(data, optim_wrapper=self.optimizer)["loss"].detach()
        for schedule in self.schedules:
            schedule.step()
        self.progress.step += 1
        return total / self.share
