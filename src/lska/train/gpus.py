"""GPUs of one machine, shared by several jobs: each takes GPUs that no other one has. Imports nothing heavy.

A scheduler such as Slurm gives each job its own GPUs. Where there is none, and inside one allocation of several GPUs,
jobs that Snakemake runs beside each other would all start on the first. So a job locks a file per GPU, which the kernel
unlocks when the last process of the job ends, however it ends: the lock is inherited, as filelock's is not.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

from lska.provenance.errors import InputError
from lska.provenance.surroundings import ask, own_folder
from lska.train.launcher import member

VARIABLE = "CUDA_VISIBLE_DEVICES"
WAIT_SECONDS = 60.0
"""How long a job waits for GPUs that others have; Snakemake starts none for which there is no GPU."""

_DRIVER_SECONDS = 120.0

_logger = logging.getLogger(__name__)


def visible() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them, or all that the driver lists; it may be none.

    Raises NoAnswerError where the driver does not answer.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        done = ask(["nvidia-smi", "--list-gpus"], _DRIVER_SECONDS)
    except FileNotFoundError:
        return []
    if done.returncode != 0:
        _logger.warning("nvidia-smi lists no GPUs, so none is kept for this job alone: %s%s", done.stdout, done.stderr)
        return []
    return [str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")]


def take(count: int, wait_seconds: float = WAIT_SECONDS) -> list[str]:
    """Choose `count` GPUs for this process and those that it starts, and set CUDA_VISIBLE_DEVICES to them.

    Nothing is done for 0, in a process of a launcher, which has chosen, in a Slurm job that has no more than these, and
    where there is no GPU. Returns the names of the chosen ones.

    Raises:
        InputError: the machine has fewer.
        PrivateFolderError: the folder of the locks is not this user's.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if count == 0 or member(os.environ) is not None or (job is not None and VARIABLE not in os.environ):
        return []
    names = visible()
    if not names or (job is not None and len(names) <= count):
        return []
    if len(names) < count:
        raise InputError(
            f"{count} GPUs are wanted and this machine has {len(names)} ({VARIABLE}: {', '.join(names)}); set `gpus` "
            f"in the job's section of the configuration to at most {len(names)}"
        )
    # Slurm may number the GPUs of each of its jobs from 0, so locks are those of one job.
    folder, prefix = own_folder("lska-gpus"), "" if job is None else f"slurm-{job}-"
    locks = {name: folder / f"{prefix}{name}.lock".replace("/", "_") for name in names}
    begun, told = time.monotonic(), False
    while (taken := _lock(locks, count)) is None and time.monotonic() - begun < wait_seconds:
        if not told:
            _logger.info("waiting for %d GPUs, which other jobs have, for at most %.0f s", count, wait_seconds)
        told = True
        time.sleep(0.2)
    if taken is None:
        _logger.warning("other jobs have all GPUs but fewer than %d; sharing %s with them", count, names[:count])
        taken = names[:count]
    os.environ[VARIABLE] = ",".join(taken)
    return taken


def _lock(locks: dict[str, Path], count: int) -> list[str] | None:
    """Lock `count` of the GPUs, for as long as this process or a descendant of it lives; None where fewer are free."""
    held: dict[str, int] = {}
    for name, path in locks.items():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        held[name] = descriptor
        if len(held) == count:
            return list(held)
    # Two jobs that each hold a part of what they want would wait for each other.
    for descriptor in held.values():
        os.close(descriptor)
    return None
