"""One process or several, started by plain Python or by torchrun.

Updates, and so the loss curve, do not depend on the number of processes. BatchNorm's running statistics do: they are
those that the first process gathers on its share of the micro-batches, as in the released code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from lska.launching import LAUNCHER
from lska.train.interrupt import Interrupted

_PR_SET_PDEATHSIG = 1


class ContactLostError(Interrupted):
    """Another process of the training ended, or its machine did."""


class MainProcessError(RuntimeError):
    """What only the main process does failed there."""


@dataclass(frozen=True)
class Processes:
    """This process among those of one training."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest `value` of any process; a collective call."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared.item())

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a scalar tensor over the processes; a collective call."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the processes; a collective call."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def by_main(self, action: Callable[[], object]) -> None:
        """Have the main process do `action` while the others wait; where that raises, all raise. A collective call.

        Raises:
            Interrupted, MainProcessError: in the others, by what was raised in the main process.
        """
        problem: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                problem = error
        failed = self.largest(0 if problem is None else 2 if isinstance(problem, Interrupted) else 1)
        if problem is not None:
            raise problem
        if failed:
            raise (Interrupted if failed == 2 else MainProcessError)("the main process stopped, and says why")


@contextmanager
def processes(gpus: int, setting: str = "training.gpus") -> Iterator[Processes]:
    """Join the group that torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) describe; alone without them.

    Args:
        gpus: GPUs that the training was given; 0 trains on the processor, then several processes talk through gloo.
        setting: where the configuration says so, for the message.

    Raises:
        ValueError: `gpus` were asked for and CUDA sees fewer.
        ContactLostError: another process ended before its time.
    """
    rank, world, local = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = _device(gpus, local, setting)
    if world == 1:
        yield Processes(rank, world, device)
        return
    end_with_parent()
    try:
        # The other processes wait while the first one scores held-out images.
        dist.init_process_group("nccl" if gpus > 0 else "gloo", timeout=timedelta(hours=2))
        joined = Processes(rank, world, device)
        # A process that leaves while others still connect to each other looks lost to them, whatever it has to say.
        joined.largest(0)
        yield joined
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        raise ContactLostError(
            f"lost contact with another process of this training ({str(error).splitlines()[0]}); that one, or its "
            "machine, ended; the training goes on from its last saved state"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _device(gpus: int, local: int, setting: str) -> torch.device:
    """The device of the process with this number on its machine, which becomes CUDA's present one."""
    if gpus < 1:
        return torch.device("cpu")
    if torch.cuda.device_count() <= local:
        raise ValueError(
            f"{setting} is {gpus} but process {local} finds {torch.cuda.device_count()} CUDA device(s); "
            f"set {setting} to 0 to train on the processor"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def end_with_parent() -> None:
    """Have the system send SIGTERM to this process when the launcher that started it is gone, even by SIGKILL."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(launcher):
        # It went before the system was told.
        os.kill(os.getpid(), signal.SIGTERM)
