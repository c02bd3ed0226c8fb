"""Processes that load images: they outlive the signals of a job, and nobody waits for them for ever."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lska.data.parallel import WorkerError
from lska.train.interrupt import SIGNALS, Interrupted
from lska.train.private_folders import folder_for_sockets

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Time between two looks at the processes while no batch comes."""
_STOP_SECONDS = 15.0
"""How long a batch is waited for when there is a reason to stop: an update that is complete can be saved."""
BATCH_SECONDS = 600.0
"""How long a batch is waited for at all."""

_ROOM = re.compile(r"unable to (?:resize|write to|mmap|allocate|open)\b.*")
"""What torch says where it cannot make a file in shared memory."""

Stopping = Callable[[], str | None]


class Loader(DataLoader):
    """torch's DataLoader with `workers` processes, whose batches come, or it says why not.

    Args:
        stopping: why to stop now, or None.
    """

    def __init__(self, images: Dataset, workers: int, stopping: Stopping = lambda: None, **settings: Any) -> None:
        self.stopping = stopping
        super().__init__(
            images, num_workers=workers, timeout=LOOK_SECONDS if workers else 0, worker_init_fn=heed_only_the_trainer,
            pin_memory=torch.cuda.is_available(), **settings,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        """The batches.

        Raises:
            WorkerError: one of the processes ended, or no batch comes.
            Interrupted: there is a reason to stop, and no batch comes.
        """
        others, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if self.num_workers == 0:
            yield from batches
            return
        if threading.current_thread() is threading.main_thread() and handler is not None:
            # torch's own, also an earlier loader's, raises where the main thread just is, be it amid an update.
            of_torch = getattr(handler, "__module__", "").startswith("torch.")
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if of_torch else handler)
        workers = [process for process in multiprocessing.active_children() if process not in others]
        begun = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                # An error in a process has its own words; only after this one does the iterator go on.
                late = str(error) == f"DataLoader timed out after {self.timeout} seconds"
                _look(workers, error, time.monotonic() - begun if late else None, self.stopping)
                continue
            yield batch
            begun = time.monotonic()


def _look(
    workers: list[multiprocessing.process.BaseProcess], error: RuntimeError, waited: float | None, stopping: Stopping
) -> None:
    """Return if it makes sense to wait on, or raise what is wrong; the processes are gone then."""
    ended = [process for process in workers if process.exitcode]
    reason = stopping()
    try:
        if ended:
            code = ended[0].exitcode
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise WorkerError(
                f"a process that loads images {how}; where memory ran out, that of /dev/shm included, set `workers` "
                "lower; then start again"
            ) from error
        if waited is None and (refused := _ROOM.search(str(error))) is not None:
            raise WorkerError(
                f"no room in shared memory (/dev/shm), through which processes hand over images: {refused[0]}; give "
                "the machine or container more of it (docker run --shm-size), raise `ulimit -f`, or set `workers` "
                "lower; `workers: 0` does without"
            ) from error
        if waited is None:
            raise error
        if reason is not None and waited > _STOP_SECONDS:
            raise Interrupted(f"{reason}, while no batch came from the processes that load images") from error
        if waited > BATCH_SECONDS:
            raise WorkerError(
                f"the processes that load images gave no batch for {waited:.0f} s; see what they said above, and "
                "whether the file system with the images answers; `workers: 0` loads without them"
            ) from error
    except RuntimeError:
        for process in workers:
            process.kill()
        raise
    if waited < 2 * LOOK_SECONDS or waited % 60 < LOOK_SECONDS:
        logger.info("waiting for a batch from %d process(es) that load images, for %.0f s", len(workers), waited)


def heed_only_the_trainer(worker: int) -> None:
    """Prepare a process that loads images.

    Schedulers signal every process of a job, and the trainer needs its workers until it has stopped by itself. Batches
    are handed over through a Unix socket, which the process makes in the temporary folder.
    """
    tempfile.tempdir = str(folder_for_sockets())
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def watch() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
