"""Independent jobs in one or several processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from lska.data.synthetic.checks import check_range

CHUNK = 32
"""Items that a process takes at a time."""


def each(job: Callable[[Any], Any], items: Sequence[Any], workers: int, chunk: int = CHUNK) -> list[Any]:
    """Return `job(item)` for all `items`, made by `workers` processes that take `chunk` items at a time.

    Raises:
        ValueError: there is not at least one worker.
    """
    check_range("workers", workers, 1, 1024)
    if workers == 1:
        return [job(item) for item in items]
    # Spawned, since a fork would copy the locks of a parent's threads as they are.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(job, items, chunksize=chunk))
