"""The training loop: from a recipe and a data set to weights, resumable at every update."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from lska.files import quoted
from lska.private import own_folder
from lska.train.distributed import Processes
from lska.train.interrupt import Interrupted, StopRequest
from lska.train.lease import Lease, LeaseLostError
from lska.train.loading import Plan, batch_mixer, seed_everything
from lska.train.progress import Progress, TrainingLog
from lska.train.recipe import Recipe
from lska.train.scoring import memory_format
from lska.train.state import read_state, require_identity, require_shapes, restore, save_state
from lska.train.trainable import Trainable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What one call of `train` needs beside network and data."""

    recipe: Recipe
    plan: Plan
    classes: int
    folder: Path
    """Where states and train.jsonl live."""
    digest: str
    """Identity of the training; a state of another one is refused."""
    state_seconds: float = 600.0
    skipped: Callable[[], int] = lambda: 0
    """Unreadable images that this process has met in this attempt."""
    lease: Lease | None = None
    """The right to write to the folder, in the main process."""


class Trainer(Trainable):
    """Network, optimizer, schedule and average of one training, and their state on disk."""

    def __init__(self, job: Job, network: nn.Module, group: Processes) -> None:
        recipe = job.recipe
        layout = memory_format(recipe.channels_last)
        self.job, self.group, self.layout = job, group, layout
        self.plan, self.state_seconds, self.folder, self.lease = job.plan, job.state_seconds, job.folder, job.lease
        self.network = network.to(group.device, memory_format=layout).train()
        self.optimizer = _optimizer(self.network, recipe)
        self.schedule = _schedule(self.optimizer, recipe, job.plan)
        self.average = ModelEmaV3(self.network, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.mixer = batch_mixer(recipe, job.classes)
        self.loss = _loss(recipe)
        self.progress = Progress()
        self._restore()
        self._skipped_before = self.progress.skipped
        self.forward = self._wrap()

    def _wrap(self) -> nn.Module:
        forward: nn.Module = self.network
        if self.group.world > 1:
            devices = [self.group.device.index] if self.group.device.type == "cuda" else None
            forward = nn.parallel.DistributedDataParallel(forward, device_ids=devices)
        if not self.job.recipe.compile:
            return forward
        # By default torch runs what it finds in a folder of /tmp whose name everybody knows.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(own_folder("lska-compiled")))
        return torch.compile(forward)

    @property
    def exported(self) -> nn.Module:
        """The network whose weights are the result: the average where the recipe keeps one."""
        return self.network if self.average is None else self.average.module

    def rate(self, step: int) -> float:
        """Set the learning rate of update `step` (counted from 0) and return it."""
        if self.job.recipe.schedule_unit == "epoch":
            self.schedule.step(step // self.job.plan.steps_per_epoch)
        else:
            self.schedule.step_update(step)
        return self.current_rate()

    def current_rate(self) -> float:
        """Learning rate that the optimizer has now."""
        return self.optimizer.param_groups[0]["lr"]

    def update(self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """One update on this process's micro-batches; returns their mean loss, a scalar tensor on the device."""
        recipe, group = self.job.recipe, self.group
        share = self.job.plan.share(group.world)
        total = torch.zeros((), device=group.device)
        for number in range(share):
            images, labels = next(batches)
            seed_everything(self.job.plan.seed, "batch", self.progress.step, number * group.world + group.rank)
            # Gradients travel between processes once per update, with its last micro-batch.
            last = number == share - 1
            quiet = contextlib.nullcontext() if last or group.world == 1 else self.forward.no_sync()
            with quiet:
                total += self._backward(images, labels, share)
        if recipe.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network, step=self.progress.step)
        self.progress.step += 1
        return total / share

    def _backward(self, images: torch.Tensor, labels: torch.Tensor, share: int) -> torch.Tensor:
        device = self.group.device
        images = images.to(device, non_blocking=True, memory_format=self.layout)
        labels = labels.to(device, non_blocking=True)
        if self.mixer is not None:
            images, labels = self.mixer(images, labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.job.recipe.precision == "bf16"):
            loss = self.loss(self.forward(images), labels)
        (loss / share).backward()
        return loss.detach()

    def save(self) -> None:
        """Write the state; only the main process does, the others wait for it.

        Raises:
            DivergedError: a weight is not finite; the state before is kept.
            StateError: the state cannot be written.
            LeaseLostError: another training took the folder over; nothing is written.
        """
        self.require_finite(self.network)
        skipped = self.group.sum(torch.tensor(self.job.skipped(), device=self.group.device))
        self.progress.skipped = self._skipped_before + int(skipped)
        self.group.by_main(lambda: save_state(self.job.folder, self.progress.step, self._state(), self.may_write))

    def _state(self) -> dict[str, Any]:
        return {
            "digest": self.job.digest,
            "progress": vars(self.progress).copy(),
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self) -> None:
        if restore(self.job.folder, self._take_over):
            logger.info("going on after update %d of %d", self.progress.step, self.job.plan.steps)

    def _take_over(self, path: Path) -> None:
        """Go on from a state.

        Raises:
            OtherTrainingError: it is another training's.
            StateError, LookupError, TypeError, ValueError, RuntimeError: it is damaged or does not fit.
        """
        state, where = read_state(path), f"training state {path}"
        require_identity(state["digest"], self.job.digest, self.job.folder)
        progress = Progress.restored(state["progress"], where, self.job.plan.steps)
        targets = {"network": self.network} | ({} if self.average is None else {"average": self.average.module})
        for name, target in targets.items():
            require_shapes(state[name], target.state_dict(), f"{where}, {name}")
            target.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        for weight, kept in self.optimizer.state.items():
            moments = [name for name in kept if name.startswith("exp_avg") or name == "momentum_buffer"]
            require_shapes({n: kept[n] for n in moments}, dict.fromkeys(moments, weight), f"{where}, optimizer")
        self.progress = progress


def _loss(recipe: Recipe) -> nn.Module:
    # With mixing, the labels are distributions that are smoothed already.
    return nn.CrossEntropyLoss(label_smoothing=0.0 if recipe.mixes else recipe.label_smoothing)


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer by timm's factory.

    Raises:
        ValueError: timm has none of this name; says how the recipe calls it.
    """
    try:
        return create_optimizer_v2(
            network, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
    except (ValueError, AssertionError) as error:
        expected = "expected a name that timm.optim.list_optimizers() has, such as adamw"
        raise ValueError(f"recipe: optimizer: {expected}, found {quoted(recipe.optimizer)} ({error})") from error


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, plan: Plan) -> CosineLRScheduler:
    per_epoch = recipe.schedule_unit == "epoch"
    unit = 1 if per_epoch else plan.steps_per_epoch
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * unit,
        lr_min=recipe.minimum_learning_rate,
        warmup_t=recipe.warmup_epochs * unit,
        warmup_lr_init=recipe.warmup_learning_rate,
        t_in_epochs=per_epoch,
    )


_SAVE, _STOP, _LOST = 1, 2, 3


def fit(
    trainer: Trainable,
    batches: Iterator[Any],
    log: TrainingLog,
    stop: StopRequest,
    validate: Callable[[int], dict[str, float]] = lambda step: {},
) -> None:
    """Train from the trainer's position to the end of its plan; every process of the training calls this.

    Args:
        batches: this process's micro-batches from that position on.
        validate: scores the network after an update, where that is due; what it returns is logged.

    Raises:
        Interrupted: a signal or the wall-time budget ended the attempt; the state is saved.
        LeaseLostError: another training took the folder over; nothing is written.
        DivergedError: the loss is not finite; the last good state is kept.
    """
    plan, progress, watch = trainer.plan, trainer.progress, _Watch(trainer.state_seconds)
    while progress.step < plan.steps:
        epoch, rate = progress.step // plan.steps_per_epoch, trainer.rate(progress.step)
        loss = trainer.update(batches)
        finished, due = progress.step == plan.steps, log.due(progress.step)
        if due:
            # Waits for the device, so that the time of the updates up to here is complete.
            progress.last_loss = trainer.finite(loss)
        progress.seconds += watch.lap()
        reason = stop.reason(watch.longest)
        wish = _agreed(trainer, _STOP if reason is not None else _SAVE if watch.state_due() else 0)
        stopping, saving = wish == _STOP and not finished, wish >= _SAVE or finished
        if saving and not due:
            progress.last_loss = trainer.finite(loss)
        if due:
            log.record(progress, epoch, rate, **validate(progress.step))
        if saving:
            trainer.save()
            watch.state_saved()
        watch.resume()
        if stopping:
            raise Interrupted(f"{reason or 'another process stopped'}; state saved after update {progress.step}")


def _agreed(trainer: Trainable, wish: int) -> int:
    """What all processes do after an update, the most that any of them wishes; a collective call.

    Raises:
        LeaseLostError: the main process found that another training took the folder over.
    """
    lost = trainer.lease is not None and trainer.lease.lost
    agreed = trainer.group.largest(_LOST if lost else wish)
    if agreed == _LOST:
        _leave(trainer.lease)
    return agreed


def _leave(lease: Lease | None) -> NoReturn:
    if lease is not None:
        lease.check()
    raise LeaseLostError("the main process lost the state folder to another training, and says which")


class _Watch:
    """Times updates and tells when the next state is due.

    `longest` is the longest update so far in seconds, with the scoring and saving that followed it.
    """

    def __init__(self, state_seconds: float) -> None:
        self.state_seconds = state_seconds
        self.longest = 0.0
        self._begun = self._saved = time.monotonic()

    def lap(self) -> float:
        """Seconds of the update that ends now."""
        seconds = time.monotonic() - self._begun
        self.longest = max(self.longest, seconds)
        return seconds

    def resume(self) -> None:
        """Begin the next update here, so that scoring and saving do not count as training."""
        now = time.monotonic()
        self.longest, self._begun = max(self.longest, now - self._begun), now

    def state_due(self) -> bool:
        """Whether the last state is older than `state_seconds`."""
        return time.monotonic() - self._saved > self.state_seconds

    def state_saved(self) -> None:
        """Start counting again."""
        self._saved = time.monotonic()
