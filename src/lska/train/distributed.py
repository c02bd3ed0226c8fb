"""One process or several, started by plain Python or by torchrun.

Updates, and so the loss curve, do not depend on the number of processes. BatchNorm's running statistics do: they are
those that the first process gathers on its share of the micro-batches, as in the released code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


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

    def wait(self) -> None:
        """Return when every process has called it."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes(gpus: int, setting: str = "training.gpus") -> Iterator[Processes]:
    """Join the group that torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) describe; alone without them.

    Args:
        gpus: GPUs that the training was given; 0 trains on the processor, then several processes talk through gloo.
        setting: where the configuration says so, for the message.

    Raises:
        ValueError: `gpus` were asked for and CUDA sees fewer.
    """
    rank, world, local = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if gpus > 0 and torch.cuda.device_count() <= local:
        raise ValueError(
            f"{setting} is {gpus} but process {local} finds {torch.cuda.device_count()} CUDA device(s); "
            f"set {setting} to 0 to train on the processor"
        )
    device = torch.device("cuda", local) if gpus > 0 else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        # The other processes wait while the first one scores held-out images.
        dist.init_process_group("nccl" if gpus > 0 else "gloo", timeout=timedelta(hours=2))
    try:
        yield Processes(rank, world, device)
    finally:
        if world > 1:
            dist.destroy_process_group()
