"""The training loop, resumable at every update, and what every training has around it: owner, states, log, export."""

from __future__ import annotations

import logging
import math
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from lska.models.pretrained import save_weights
from lska.models.scoring import use_threads
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import atomic_path, vouched
from lska.provenance.metric_files import code_version, environment, file_md5, write_sealed
from lska.provenance.sidecars import check_replaceable
from lska.settings.tasks import TrainingJob
from lska.train.distributed import Processes, processes
from lska.train.interrupt import Interrupted, StopRequest, stop_request
from lska.train.lease import Lease, LeaseLostError, leased
from lska.train.loading import BatchPlan, training_loader
from lska.train.saved_state import Progress, TrainingLog, restore, save_state, state_files

logger = logging.getLogger(__name__)


class DivergedError(LskaError, RuntimeError):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Place:
    """Where a training runs: its processes, its folder and the right to write there."""

    group: Processes
    states: Path
    digest: str
    lease: Lease | None = None
    """In the main process; None in processes that do not write, and where nobody else can."""
    state_seconds: float = 600.0


class Trainable:
    """One training: a network, what trains it, its position, and their state on disk.

    Args:
        network: on the device of the processes, unwrapped; its weights are what is saved.
        images: the training set.
        workers: processes that load it.
    """

    collate: Callable[..., Any] | None = None
    """What makes a micro-batch of samples; torch's own where None."""

    def __init__(self, place: Place, plan: BatchPlan, network: nn.Module, images: Any, workers: int) -> None:
        self.place, self.plan, self.network, self.images, self.workers = place, plan, network, images, workers
        self.group, self.lease = place.group, place.lease
        self.share = plan.share(place.group.world)
        self.progress = Progress()
        self.may_write = None if self.lease is None else self.lease.check
        """Called right before a file appears; raises LeaseLostError where another training took over."""

    @abstractmethod
    def rate(self, step: int) -> float:
        """Learning rate of update `step` (counted from 0), set if it is not yet."""

    @abstractmethod
    def update(self, batches: Iterator[Any]) -> torch.Tensor:
        """One update on this process's micro-batches, which raises `progress.step`; returns their mean loss, a scalar
        tensor on the device."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What the state holds beside digest and progress, by name: `network`, and what has a `state_dict`, or None."""

    @property
    def exported(self) -> nn.Module:
        """The network whose weights are the result."""
        return self.network

    @property
    def skipped(self) -> int:
        """Unreadable images that this process has met in this attempt."""
        return getattr(self.images, "skipped", 0)

    def batches(self, stopping: Callable[[], str | None]) -> Iterator[Any]:
        """This process's micro-batches from the present position on."""
        rank, world, start = self.group.rank, self.group.world, self.progress.step
        return iter(training_loader(self.images, self.plan, start, rank, world, self.workers, stopping, self.collate))

    def noted(self) -> dict[str, Any]:
        """What the sidecar says of the finished training beside what all sidecars say."""
        return {}

    def validate(self) -> dict[str, float]:
        """Scores of the network at the present position, where they are due; they are logged."""
        return {}

    def resume(self) -> None:
        """Go on from the newest state that fits, where there is one; constructors call this, before they wrap anything.

        Raises OtherTrainingError or StateError as `saved_state.restore`.
        """

        def take(state: dict[str, Any]) -> None:
            for name, part in self.parts().items():
                if part is not None:
                    part.load_state_dict(state[name])
            self.progress = Progress(**state["progress"])

        if restore(self.place.states, self.place.digest, take):
            logger.info("going on after update %d of %d", self.progress.step, self.plan.steps)
        self._skipped_before = self.progress.skipped

    def save(self) -> None:
        """Write the state; only the main process does, the others wait for it.

        Raises DivergedError where a weight is not finite, StateError where it cannot be written, LeaseLostError where
        another training took the folder over; nothing is written then.
        """
        if not all(bool(torch.isfinite(weights).all()) for weights in self.network.parameters()):
            self._diverged("weights are no longer finite")
        skipped = self.group.sum(torch.tensor(self.skipped, device=self.group.device))
        self.progress.skipped = self._skipped_before + int(skipped)

        def write() -> None:
            parts = {name: None if part is None else part.state_dict() for name, part in self.parts().items()}
            state = {"digest": self.place.digest, "progress": vars(self.progress).copy(), **parts}
            save_state(self.place.states, self.progress.step, state, self.may_write)

        self.group.by_main(write)

    def finite(self, loss: torch.Tensor) -> float:
        """Mean of `loss` over the processes; raises DivergedError where it is not finite."""
        value = float(self.group.mean(loss))
        if not math.isfinite(value):
            self._diverged(f"the loss is {value}")
        return value

    def _diverged(self, what: str) -> NoReturn:
        states = state_files(self.place.states)
        kept = f"the last good state is {states[-1]}" if states else "no state was saved before"
        raise DivergedError(
            f"training diverged: {what} at update {self.progress.step} of {self.plan.steps}; {kept}. Lower "
            "learning_rate, set clip_gradient, or use precision fp32 in the recipe"
        )


_SAVE, _STOP, _LOST = 1, 2, 3

_AGREE_SECONDS = 1.0
"""Between two agreements of processes on GPUs, each of which waits for all that these have still to compute."""


def fit(trainer: Trainable, batches: Iterator[Any], log: TrainingLog, stop: StopRequest) -> None:
    """Train from the trainer's position to the end of its plan; every process of the training calls this.

    Args:
        batches: this process's micro-batches from that position on.

    Raises:
        Interrupted: a signal or the wall-time budget ended the attempt; the state is saved.
        LeaseLostError: another training took the folder over; nothing is written.
        DivergedError: the loss is not finite; the last good state is kept.
    """
    plan, progress, group = trainer.plan, trainer.progress, trainer.group
    synchronous = group.world == 1 or group.device.type == "cpu"
    longest = 0.0  # the longest update so far in seconds, with the scoring and saving that followed it
    begun = saved = time.monotonic()
    # The last update after which all looked at what each of them wishes, and the seconds until then; and the next one.
    agreed, spent, next_agreement = progress.step, progress.seconds, progress.step + 1
    while progress.step < plan.steps:
        epoch, rate = progress.step // plan.steps_per_epoch, trainer.rate(progress.step)
        loss = trainer.update(batches)
        finished, due = progress.step == plan.steps, log.due(progress.step)
        if due:
            # Waits for the device, so that the time of the updates up to here is complete.
            progress.last_loss = trainer.finite(loss)
        wish, reason = 0, None
        if finished or progress.step >= next_agreement:
            seconds = time.monotonic() - begun
            mean = (progress.seconds + seconds - spent) / (progress.step - agreed)
            pause = 1 if synchronous else max(1, int(_AGREE_SECONDS / max(mean, 1e-3)))
            reason = stop.reason(max(longest, seconds) + (pause - 1) * mean)
            if trainer.lease is not None and trainer.lease.lost:
                wish = _LOST
            elif reason is not None:
                wish = _STOP
            elif time.monotonic() - saved > trainer.place.state_seconds:
                wish = _SAVE
            # A collective call: what one of them wishes, all do, after the same update.
            wish, pause = group.largest_of(wish, pause)
            agreed, next_agreement = progress.step, progress.step + pause
            spent = progress.seconds + time.monotonic() - begun
        seconds = time.monotonic() - begun
        progress.seconds, longest = progress.seconds + seconds, max(longest, seconds)
        if wish == _LOST:
            if trainer.lease is not None:
                trainer.lease.check()
            raise LeaseLostError("the main process lost the state folder to another training, and says which")
        stopping, saving = wish == _STOP and not finished, wish >= _SAVE or finished

        if saving and not due:
            progress.last_loss = trainer.finite(loss)
        if due:
            log.record(progress, epoch, rate, **trainer.validate())
        if saving:
            trainer.save()
            saved = time.monotonic()
        # The next update begins here: scoring and saving do not count as training.
        longest, begun = max(longest, time.monotonic() - begun), time.monotonic()
        if stopping:
            raise Interrupted(f"{reason or 'another process stopped'}; state saved after update {progress.step}")


def prepared(job: TrainingJob) -> float:
    """What comes before anything is read: returns the reading of `time.monotonic` at which the budget begins.

    Raises InputError where the configuration says that these weights are imported, and ForeignWeightsError where such
    that this program did not make lie in the place.
    """
    begun = time.monotonic()
    if job.imported:
        raise InputError(
            f"{job.place}: its runs say source: imported; take that out to train it, or bring its weights by "
            f"`lska weights import {job.place}` with the same configuration"
        )
    check_replaceable(job.weights)
    use_threads(job.settings.threads)
    code_version()  # remembered as of now: the checkout may change while a long training runs
    return begun


def complete(
    job: TrainingJob, build: Callable[[Place], Trainable], setting: str, budget_seconds: float | None, begun: float,
    **facts: Any,
) -> None:
    """Train, or go on with it, and export weights, sidecar and log.

    Args:
        build: makes the trainer, resumed, once this process has the right to write.
        setting: where the configuration says how many GPUs, for the message.
        budget_seconds: wall time from `begun` on, None for no end.
        facts: what the sidecar says of this kind of training beside what all say.

    Raises:
        Interrupted: stopped by a signal or the budget, state saved; or while another process trains the run.
        LeaseLostError: another process took the training over; nothing was written since.
        DivergedError, StateError, ValueError: as the parts say.
    """
    means, states, digest = job.settings, job.states, job.digest()
    facts |= {"run": str(job.run), "scale": job.scale, "spec": job.spec(), "data": job.data.identity()}
    with ExitStack() as stack:
        group = stack.enter_context(processes(means.gpus, setting))
        stop = stack.enter_context(stop_request(budget_seconds, begun))
        lease = stack.enter_context(leased(states, means.heartbeat_seconds, group, stop))
        if group.largest(int(lease is not None and lease.waited and _made_meanwhile(job, digest))):
            return
        trainer = build(Place(group, states, digest, lease, 60 * means.state_minutes))
        if trainer.progress.step < trainer.plan.steps:
            attempt = {"code": code_version(), "environment": environment(str(group.device))}
            trainer.progress.attempts += (attempt,)
            log = TrainingLog(states / "train.jsonl", trainer.progress, trainer.plan, group.is_main, lease)
            try:
                fit(trainer, trainer.batches(stop.reason), log, stop)
            finally:
                log.close()
                if trainer.skipped:
                    logger.warning("%d unreadable image(s) were skipped; see above", trainer.skipped)
        if group.is_main:
            _export(trainer, job, facts)


def _made_meanwhile(job: TrainingJob, digest: str) -> bool:
    """Whether the process that had the state folder before finished the training."""
    sidecar = vouched(job.weights.with_suffix(".json"))
    made = (
        sidecar.get("recipe") == digest
        and job.weights.is_file()
        and job.log.is_file()
        and file_md5(job.weights) == sidecar.get("md5")
    )
    if made:
        logger.info("%s: trained by another process meanwhile", job.weights)
    return made


def _export(trainer: Trainable, job: TrainingJob, facts: dict[str, Any]) -> None:
    """Write the record of losses, and the weights with the sidecar that vouches for them."""
    progress, plan, states = trainer.progress, trainer.plan, trainer.place.states
    with atomic_path(job.log, trainer.may_write) as temporary:
        shutil.copyfile(states / "train.jsonl", temporary)

    def vouch(weights: Path) -> None:
        sidecar = {
            **facts,
            **trainer.noted(),
            "recipe": trainer.place.digest,
            "md5": file_md5(weights),
            "origin": "trained",
            "images_seen": progress.step * plan.micro_batch * plan.micro_batches,
            "updates": progress.step,
            "final_loss": progress.last_loss,
            "processes": trainer.group.world,
            "code": progress.attempts[-1]["code"],
            "environment": progress.attempts[-1]["environment"],
            "attempts": progress.attempts,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(progress.seconds, 3),
        }
        write_sealed(job.weights.with_suffix(".json"), sidecar, trainer.may_write)

    save_weights(trainer.exported, job.weights, check=trainer.may_write, vouch=vouch)
    for state in state_files(states)[:-1]:
        state.unlink()
