"""One classification training, from a configuration and a run id to weights with their sidecar: `lska train`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from lska.data.archives import open_classification
from lska.data.folders import ImageDataset, check_same_classes
from lska.data.preparing import verify
from lska.models import MISFITS, create
from lska.models.runs import Run
from lska.models.scoring import memory_format, score
from lska.provenance.errors import InputError
from lska.provenance.files import printable, quoted
from lska.provenance.surroundings import own_folder
from lska.settings.recipes import Recipe
from lska.settings.tasks import ClassifierJob
from lska.train.engine import Place, Trainable, complete, prepared
from lska.train.loading import BatchPlan, batch_mixer, scoring_loader, seed_everything, training_transform


def build_network(
    run: Run, architecture: Mapping[str, Any], classes: int, drop_path: float = 0.0
) -> nn.Module:
    """The network of `run`, with fresh weights from the run's seed.

    Args:
        architecture: settings that shrink the network.

    Raises:
        ValueError: unknown model, attention, kernel size, or setting of `architecture`.
    """
    torch.manual_seed(run.seed)
    settings = {**architecture, "num_classes": classes, "drop_path_rate": drop_path}
    try:
        network = create(run.model, attention=run.attention, kernel_size=run.kernel, **settings)
    except MISFITS as error:
        found = f"architecture.{run.model} {quoted(dict(architecture))}"
        raise InputError(f"{run}: {found} does not fit the model: {printable(str(error), 200)}") from error
    if run.attention is None and hasattr(network, "attention"):
        # timm drops settings that are None, and the model's default would train under a name that hides it.
        raise InputError(f"{run}: {run.model} needs an attention and a kernel, for example {run.model}-lska-k23-s0")
    return network


def train(job: ClassifierJob, budget_seconds: float | None = None) -> None:
    """Train a run, or go on with it, and export weights, sidecar and log.

    Raises:
        DataError: the data set is missing, or its splits have different classes.
        Interrupted, LeaseLostError, ForeignWeightsError, DivergedError, StateError, ValueError: as `engine.complete`.
    """
    begun, recipe = prepared(job), job.recipe
    split, validation = open_classification(job.data, "train"), open_classification(job.data, "val")
    check_same_classes(split, validation)
    verify(job.data, split, validation)
    images = ImageDataset(split, training_transform(recipe), on_error="skip")
    plan = BatchPlan.of(recipe, len(split), job.run.seed)

    def build(place: Place) -> Trainer:
        classes, workers = len(split.classes), job.settings.workers
        network = build_network(job.run, job.architecture, classes, recipe.drop_path)
        return Trainer(place, recipe, plan, network, classes, images, workers, score_held_out)

    def score_held_out(trainer: Trainer) -> dict[str, float]:
        loader = scoring_loader(validation, recipe, job.evaluation.batch_size, job.settings.workers)
        scores = score(trainer.exported, loader, trainer.group.device, recipe.channels_last)
        return {"validation_top1": scores.mean("top1"), "validation_loss": scores.mean("loss")}

    complete(job, build, "training.gpus", budget_seconds, begun)


class Trainer(Trainable):
    """Network, optimizer, schedule and average of one classification training.

    Args:
        images: the training set; None for a trainer whose batches come from elsewhere.
        score_held_out: scores of the held-out images, which the main process asks for every `validation_interval`
            epochs.
    """

    def __init__(
        self,
        place: Place,
        recipe: Recipe,
        plan: BatchPlan,
        network: nn.Module,
        classes: int,
        images: ImageDataset | None = None,
        workers: int = 0,
        score_held_out: Callable[[Trainer], dict[str, float]] = lambda trainer: {},
    ) -> None:
        layout = memory_format(recipe.channels_last)
        super().__init__(place, plan, network.to(place.group.device, memory_format=layout).train(), images, workers)
        self.recipe, self.score_held_out, self.layout = recipe, score_held_out, layout
        try:
            self.optimizer = create_optimizer_v2(
                self.network, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
            )
        except (ValueError, AssertionError) as error:
            expected = "expected a name that timm.optim.list_optimizers() has, such as adamw"
            raise InputError(f"recipe: optimizer: {expected}, found {quoted(recipe.optimizer)} ({error})") from error
        per_epoch = recipe.schedule_unit == "epoch"
        unit = 1 if per_epoch else plan.steps_per_epoch
        self.schedule = CosineLRScheduler(
            self.optimizer, t_initial=recipe.epochs * unit, lr_min=recipe.minimum_learning_rate,
            warmup_t=recipe.warmup_epochs * unit, warmup_lr_init=recipe.warmup_learning_rate, t_in_epochs=per_epoch,
        )  # fmt: skip
        self.average = ModelEmaV3(self.network, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.mixer = batch_mixer(recipe, classes)
        # With mixing, the labels are distributions that are smoothed already.
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.0 if recipe.mixes else recipe.label_smoothing)
        self.resume()
        self.forward: nn.Module = self.network
        if self.group.world > 1:
            devices = [self.group.device.index] if self.group.device.type == "cuda" else None
            self.forward = nn.parallel.DistributedDataParallel(self.forward, device_ids=devices)
        if recipe.compile:
            # By default torch runs what it finds in a folder of /tmp whose name everybody knows.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(own_folder("lska-compiled")))
            self.forward = torch.compile(self.forward)

    @property
    def exported(self) -> nn.Module:
        """The network whose weights are the result: the average where the recipe keeps one."""
        return self.network if self.average is None else self.average.module

    def noted(self) -> dict[str, Any]:
        """What the sidecar says of the finished training beside what all sidecars say."""
        return {"skipped_images": self.progress.skipped}

    def parts(self) -> dict[str, Any]:
        """What the state holds beside digest and progress."""
        average = None if self.average is None else self.average.module
        return {"network": self.network, "average": average, "optimizer": self.optimizer}

    def rate(self, step: int) -> float:
        """Set the learning rate of update `step` (counted from 0) and return it."""
        if self.recipe.schedule_unit == "epoch":
            self.schedule.step(step // self.plan.steps_per_epoch)
        else:
            self.schedule.step_update(step)
        return self.optimizer.param_groups[0]["lr"]

    def update(self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """One update on this process's micro-batches; returns their mean loss, a scalar tensor on the device."""
        recipe, group, device = self.recipe, self.group, self.group.device
        total = torch.zeros((), device=device)
        for number in range(self.share):
            images, labels = next(batches)
            seed_everything(self.plan.seed, "batch", self.progress.step, number * group.world + group.rank)
            images = images.to(device, non_blocking=True, memory_format=self.layout)
            labels = labels.to(device, non_blocking=True)
            if self.mixer is not None:
                images, labels = self.mixer(images, labels)
            # Gradients travel between processes once per update, with its last micro-batch.
            last = number == self.share - 1
            with contextlib.nullcontext() if last or group.world == 1 else self.forward.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                    loss = self.loss(self.forward(images), labels)
                (loss / self.share).backward()
            total += loss.detach()
        if recipe.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network, step=self.progress.step)
        self.progress.step += 1
        return total / self.share

    def validate(self) -> dict[str, float]:
        """Scores of the held-out images, where they are due, in the main process."""
        period = self.recipe.validation_interval * self.plan.steps_per_epoch
        if not period or self.progress.step % period or not self.group.is_main:
            return {}
        return self.score_held_out(self)
