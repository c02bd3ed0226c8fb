"""The configuration decides how many threads there are, not the environment."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import hashlib
from threadpoolctl import threadpool_info
from lska.models.scoring import use_threads
use_threads({count})
import numpy, torch
random = numpy.random.default_rng(0)
product = random.random((200, 5281)) @ random.random((5281, 64))
blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
print(torch.get_num_threads(), *sorted(set(blas)), hashlib.md5(product.tobytes()).hexdigest())
"""


def test_products_do_not_depend_on_the_environment() -> None:
    count, said = 2, []
    for variable in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": variable, "OPENBLAS_NUM_THREADS": variable}
        words = [sys.executable, "-c", SCRIPT.format(count=count)]
        said.append(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split())
    assert said[0] == said[1]
    assert said[0][:-1] == [str(count), str(count)]
