"""mmengine's Runner with the training loop of this project: updates, budget, states and log work as in classification.

The Runner builds network, optimizer and schedules and resumes them; `lska.train.engine.fit` drives the updates. States
are files of `lska.train.state`: atomic, checksummed, the last two kept, and read with PyTorch's safe loading.
"""

from __future__ import annotations

import copyreg
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import LOOPS, MODEL_WRAPPERS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner

from lska.train.distributed import Processes
from lska.train.engine import fit
from lska.train.interrupt import StopRequest
from lska.train.lease import Lease, require_owner
from lska.train.loading import seed_everything
from lska.train.progress import Progress, TrainingLog
from lska.train.scoring import memory_format
from lska.train.state import read_state, require_identity, require_shapes, restore, write_state
from lska.train.trainable import Trainable
from lska.train.workers import patiently

SCHEME = "state:"
"""Start of the name under which mmengine reads a state: `state:<path>`."""

SAFE_TYPES = (HistoryBuffer,)
"""What mmengine keeps in a checkpoint beyond tensors and plain containers: its log of scalars."""


def _as_columns(log: HistoryBuffer) -> tuple[type, tuple[Any, ...]]:
    values, counts = log.data
    return HistoryBuffer, (values.tolist(), counts.tolist(), log.max_length)


# By default its pickled form looks up methods by name, which safe loading rightly refuses to do.
copyreg.pickle(HistoryBuffer, _as_columns)


@register_backend("lska_states")
class StateBackend(LocalBackend):
    """Where mmengine's `save_checkpoint` puts the states of a training.

    `proof` is that of the lease which this needs, plain values because mmengine remembers a backend by its arguments.
    """

    def __init__(self, proof: dict[str, str] | None = None) -> None:
        self.check = None if proof is None else functools.partial(require_owner, **proof)

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a state file; raises StateError where it cannot be written."""
        write_state(Path(filepath), obj, self.check)


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_checkpoint(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read the state in `state:<path>`, on the processor.

    Raises:
        StateError: it is damaged, or holds types that are not allowed.
        KeyError, TypeError: it lacks what mmengine's states have.
    """
    with torch.serialization.safe_globals(list(SAFE_TYPES)):
        state = read_state(Path(filename.removeprefix(SCHEME)))
    # mmengine would execute this as Python, to compare numbers of GPUs.
    state["meta"].pop("config", None)
    return state


@dataclass(frozen=True)
class Training:
    """What the loop needs beside what mmengine's configuration says."""

    group: Processes
    folder: Path
    """Where states and train.jsonl live."""
    digest: str
    """Identity of the training; a state of another one is refused."""
    state_seconds: float
    stop: StopRequest
    channels_last: bool
    attempt: dict[str, Any]
    """What is noted of this attempt: code and environment."""
    lease: Lease | None = None
    """The right to write to the folder, in the main process."""


class FineTuningRunner(Runner):
    """mmengine's Runner on the device, and with the memory layout, that the training was given."""

    def __init__(self, training: Training, **settings: Any) -> None:
        self.training = training
        super().__init__(**settings)

    def resume(self, filename: str, *arguments: Any, **settings: Any) -> None:
        """Go on from the newest state of the training that fits, wherever mmengine thinks that states are."""
        restore(self.training.folder, lambda path: super(FineTuningRunner, self).resume(f"{SCHEME}{path}"))

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: torch.nn.Module) -> torch.nn.Module:
        """Move the model to the training's device and wrap it where there are several processes."""
        group = self.training.group
        model = model.to(memory_format=memory_format(self.training.channels_last)).to(group.device)
        if group.world == 1:
            return revert_sync_batchnorm(model)
        devices = [group.device.index] if group.device.type == "cuda" else None
        wrapper = {"type": "MMDistributedDataParallel", "module": model, "device_ids": devices}
        return MODEL_WRAPPERS.build({**wrapper, "broadcast_buffers": False})

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Nothing: the environment stands in the sidecar, and collecting it again takes seconds."""


class ResumeHook(Hook):
    """Takes over from a state what mmengine does not know of: the identity of the training and its progress."""

    def __init__(self, training: Training, progress: Progress) -> None:
        self.training, self.progress = training, progress

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse a state of another training, or one that does not fit, by what `lska.train.state.restore` names."""
        meta, where = checkpoint["meta"], f"a state in {self.training.folder}"
        require_identity(meta.get("digest"), self.training.digest, self.training.folder)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        require_shapes(checkpoint["state_dict"], model.state_dict(), f"{where}, network")
        progress = Progress.restored(meta["progress"], where, runner.train_loop.plan.steps)
        vars(self.progress).update(vars(progress))


@LOOPS.register_module()
class UpdateLoop(BaseLoop, Trainable):
    """Updates of `micro_batches` each, driven by `lska.train.engine.fit`.

    mmengine's hooks are called around every update, which it knows as an iteration.
    """

    def __init__(self, runner: FineTuningRunner, dataloader: dict[str, Any]) -> None:
        super().__init__(runner, dataloader)
        self.training = runner.training
        self.plan = self.dataloader.batch_sampler.plan
        self.state_seconds, self.group = self.training.state_seconds, self.training.group
        self.folder, self.lease = self.training.folder, self.training.lease
        self.progress = Progress()
        self.share = self.plan.share(self.group.world)
        self._epoch = 0
        runner.register_hook(ResumeHook(self.training, self.progress))

    @property
    def iter(self) -> int:
        """Updates done; mmengine's word."""
        return self.progress.step

    # mmengine sets these two when it resumes; the hook has set the progress by then.
    @property
    def _iter(self) -> int:
        return self.progress.step

    @_iter.setter
    def _iter(self, value: int) -> None:
        self.progress.step = value

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.progress.step // self.plan.steps_per_epoch

    @property
    def max_iters(self) -> int:
        """Updates of the whole training."""
        return self.plan.steps

    @property
    def max_epochs(self) -> int:
        """Epochs of the whole training, a begun one included."""
        return math.ceil(self.plan.steps / self.plan.steps_per_epoch)

    def run(self) -> torch.nn.Module:
        """Train from the loop's position to the end.

        Raises:
            Interrupted, DivergedError, StateError: as `lska.train.engine.fit`.
        """
        runner, progress = self.runner, self.progress
        if progress.step >= self.plan.steps:
            return runner.model
        progress.attempts += (self.training.attempt,)
        # mmengine counts the accumulation of gradients in micro-batches.
        runner.optim_wrapper.initialize_count_status(
            runner.model, progress.step * self.share, self.plan.steps * self.share
        )
        self.dataloader.batch_sampler.start = progress.step
        images = self.plan.micro_batch * self.plan.micro_batches
        log = TrainingLog(
            self.training.folder / "train.jsonl", progress, self.plan.steps, self.plan.steps_per_epoch, images,
            self.group.is_main, self.lease,
        )  # fmt: skip
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        try:
            runner.model.train()
            batches = patiently(lambda: iter(self.dataloader), self.dataloader.timeout, self.training.stop.reason)
            fit(self, batches, log, self.training.stop)
        finally:
            log.close()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def rate(self, step: int) -> float:
        """Learning rate of the update; mmengine's scheduler hook has set it."""
        return self.current_rate()

    def current_rate(self) -> float:
        """Learning rate that the optimizer has now."""
        return self.runner.optim_wrapper.get_lr()["lr"][0]

    def update(self, batches: Iterator[Any]) -> torch.Tensor:
        """One update on this process's micro-batches; returns their mean loss, a scalar tensor."""
        runner, step = self.runner, self.progress.step
        runner.call_hook("before_train_iter", batch_idx=step, data_batch=None)
        total, outputs = torch.zeros((), device=self.group.device), {}
        for number in range(self.share):
            data = next(batches)
            seed_everything(self.plan.seed, "batch", step, number * self.group.world + self.group.rank)
            outputs = runner.model.train_step(data, optim_wrapper=runner.optim_wrapper)
            total += outputs["loss"].detach()
        runner.call_hook("after_train_iter", batch_idx=step, data_batch=None, outputs=outputs)
        self.progress.step += 1
        return total / self.share

    def save(self) -> None:
        """Write the state; only the main process does, the others wait for it.

        Raises:
            DivergedError: a weight is not finite; the state before is kept.
            StateError: the state cannot be written.
            LeaseLostError: another training took the folder over; nothing is written.
        """
        self.require_finite(self.runner.model)
        meta = {
            "epoch": self.epoch, "iter": self.progress.step, "digest": self.training.digest,
            "progress": vars(self.progress).copy(),
        }  # fmt: skip
        name = f"state-{self.progress.step:08d}.pt"
        backend = {"backend": "lska_states", "proof": None if self.lease is None else self.lease.proof}
        self.group.by_main(
            lambda: self.runner.save_checkpoint(
                str(self.training.folder), name, meta=meta, by_epoch=False, backend_args=backend
            )
        )
