"""Independent jobs in one or several processes."""

from collections.abc import Callable, Sequence
from typing import Any

from lska.data.parallel import in_processes
from lska.data.synthetic.value_checks import check_range

CHUNK = 32
"""Items that a process takes at a time."""


def each(job: Callable[[Any], Any], items: Sequence[Any], workers: int, chunk: int = CHUNK) -> list[Any]:
    """Return `job(item)` for all `items`, made by `workers` processes that take `chunk` items at a time.

    Raises:
        ValueError: there is not at least one worker.
        WorkerError: a process ended before its work was done.
    """
    check_range("workers", workers, 1, 1024)
    if workers == 1:
        return [job(item) for item in items]
    with in_processes(workers) as mapper:
        return list(mapper(job, items, chunksize=chunk))
