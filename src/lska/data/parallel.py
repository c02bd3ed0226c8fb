"""Work on many files in threads or processes: in order, with a progress bar on a terminal, and never without end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from lska.provenance.errors import LskaError

T = TypeVar("T")


class WorkerError(LskaError, RuntimeError):
    """A process that did part of the work is gone, or does nothing any more."""


CHUNK = 1024  # files handed to the threads at a time


def mapped(function: Callable[[int], T], count: int, description: str) -> Iterator[T]:
    """Yield `function(0)` to `function(count - 1)` in order, from threads: Pillow works outside the interpreter lock.
    """
    from tqdm import tqdm

    bar = tqdm(total=count, desc=description, unit="img", disable=None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, count, CHUNK):
            for value in threads.map(function, range(start, min(start + CHUNK, count))):
                bar.update()
                yield value


@contextmanager
def in_processes(workers: int) -> Iterator[Callable[..., Iterator[T]]]:
    """Yield a `map` that runs in `workers` processes, which end with the block, or with this process.

    Raises WorkerError where one of them ended before its work was done.
    """
    if workers == 1:
        yield map
        return
    # Spawned, since a fork would copy the locks of a parent's threads as they are.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise WorkerError(
            f"one of {workers} processes ended before its work was done; the system may have ended it for want of "
            "memory: start again, with fewer of them"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """A process of a pool whose parent was killed would wait for its next job for ever."""

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
