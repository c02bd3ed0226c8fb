"""How many cores numerical libraries keep busy in this process."""

from __future__ import annotations

import numpy  # noqa: F401  # its BLAS is to be loaded when it is limited
import torch
from threadpoolctl import threadpool_limits


def use_threads(count: int) -> None:
    """Let PyTorch and NumPy's BLAS use `count` threads from now on, whatever OMP_NUM_THREADS and the like say.

    Sums of products differ in their last digits with the number of threads. So it comes from the configuration, as
    clusters and containers set such variables, and equal measurements are to give equal files.
    """
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
