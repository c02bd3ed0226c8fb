"""Work on many files with threads, in order and with a progress bar on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

CHUNK = 1024  # files handed to the threads at a time


def mapped(function: Callable[[int], T], count: int, description: str) -> Iterator[T]:
    """Yield `function(0)` to `function(count - 1)` in order.

    Threads serve, as reading, hashing and Pillow's decoders run outside the interpreter lock.
    """
    from tqdm import tqdm

    bar = tqdm(total=count, desc=description, unit="img", disable=None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, count, CHUNK):
            for value in threads.map(function, range(start, min(start + CHUNK, count))):
                bar.update()
                yield value
