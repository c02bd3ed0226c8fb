"""Independent jobs in one or several processes."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from lska.data.synthetic.checks import check_range

CHUNK = 32
"""Images that a process takes at a time."""


def each(job: Callable[[int], Any], count: int, workers: int) -> list[Any]:
    """Return `job(0)` to `job(count - 1)`, made by `workers` processes; raises ValueError for less than one."""
    check_range("workers", workers, 1, 1024)
    if workers == 1:
        return [job(number) for number in range(count)]
    # Spawned, since a fork would copy the locks of a parent's threads as they are.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(job, range(count), chunksize=CHUNK))
