"""Who runs Snakemake in a folder: one supervisor at a time, and Snakemake's own lock once its owner is dead."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lska.pipeline.slurm_queue import job_ended
from lska.provenance.errors import LskaError
from lska.provenance.files import parse_json, printable, quoted, read_text
from lska.provenance.strict import build

_JOB = "SLURM_JOB_ID"


class OwnershipError(LskaError, RuntimeError):
    """The folder is in use, or it cannot be told whether it is."""


@dataclass(frozen=True)
class FolderOwner:
    """Who was about to start a supervised Snakemake."""

    host: str
    supervisor: int
    """Number of its process."""
    job: str | None = None
    """Slurm's job in which it ran."""

    def __str__(self) -> str:
        job = "" if self.job is None else f" (job {self.job})"
        return printable(f"process {self.supervisor} on {self.host}{job}", 200)


@dataclass(frozen=True)
class Ownership:
    """The right to run Snakemake in a folder, for as long as this process or the Snakemake that it starts lives."""

    folder: Path
    lock: Path
    """The locked file. It holds the `FolderOwner`, as JSON, from the start of a supervised Snakemake until that has
    ended by itself."""
    descriptor: int
    """Of the lock, to be passed on; the kernel releases it when the last process that has it ends."""

    def begin(self) -> None:
        """Note that Snakemake is about to be started."""
        owner = FolderOwner(socket.gethostname(), os.getpid(), os.environ.get(_JOB))
        # One write of one length: a kill leaves the old content or the new one.
        os.pwrite(self.descriptor, json.dumps(asdict(owner)).encode().ljust(500) + b"\n", 0)

    def end(self) -> None:
        """Note that it has ended by itself."""
        os.ftruncate(self.descriptor, 0)

    def left_lock(self) -> bool:
        """Whether a dead Snakemake's lock is in the way.

        Raises:
            OwnershipError: a Snakemake without a supervisor runs here, or its lock is there, so that nobody knows
                whether it still runs; or a supervised one was started on another machine and has not ended by itself.
        """
        owner = self._former_owner()
        if others := snakemakes(self.folder):
            raise OwnershipError(
                f"{self.folder}: Snakemake runs here without a supervisor (process {', '.join(map(str, others))}); "
                "wait for it, or end it"
            )
        locks = self.folder / ".snakemake" / "locks"
        found = locks.is_dir() and any(path.stat().st_size for path in locks.iterdir())
        if found and owner is None:
            raise OwnershipError(
                f"{locks} holds the lock of a Snakemake that `lska supervise` did not start, so it cannot be told "
                "whether that still runs; end it or, where it was killed, call `snakemake --unlock`, and start again"
            )
        return found

    def _former_owner(self) -> FolderOwner | None:
        """Whose Snakemake has not ended by itself.

        Some shared file systems lock files for one machine only, so another one may still have the folder. Where a job
        of Slurm ran it, that has ended, or is this one that was put back into the queue, nobody has it.
        """
        try:
            owner = _owner(self.lock)
        except ValueError as error:
            raise OwnershipError(
                f"{error}; so it cannot be told where Snakemake was started last: when nothing of it runs on any "
                f"machine any more, remove {self.lock} and start again"
            ) from error
        if owner is None or owner.host == socket.gethostname():
            return owner
        job = owner.job
        if not (job and (job == os.environ.get(_JOB) or job_ended(job))):
            raise OwnershipError(
                f"{self.folder}: `lska supervise` was started on {quoted(owner.host)} and its Snakemake has not ended "
                f"by itself; go on there or, when nothing of it runs there any more, remove {self.lock} and start again"
            )
        return owner


@contextmanager
def owned(folder: Path) -> Iterator[Ownership]:
    """Become the one that runs Snakemake in `folder`.

    Raises:
        OwnershipError: another supervisor, or a Snakemake that one has started, still lives; or the file system locks
            no files.
    """
    path = folder / ".snakemake" / "lska-supervised.json"
    path.parent.mkdir(exist_ok=True)
    descriptors: list[int] = []
    try:
        lock = FileLock(path, timeout=0, fallback_to_soft=False, on_acquired=descriptors.append)
        lock.acquire()
    except Timeout:
        try:
            holder = _owner(path)
        except ValueError:
            holder = None
        raise OwnershipError(
            f"{folder}: Snakemake is already run here, by {holder or 'another process'} or what it started; wait for "
            "it, or end both"
        ) from None
    except OSError as error:
        raise OwnershipError(
            f"{path}: this file cannot be locked ({error.strerror}), so that nobody can tell whether a watchdog runs "
            "here; call snakemake without it, or from a folder on another file system"
        ) from error
    try:
        yield Ownership(folder, path, descriptors[0])
    finally:
        lock.release()


def _owner(path: Path) -> FolderOwner | None:
    """Whom a lock names.

    Raises:
        ValueError: it is damaged.
    """
    text = read_text(path)
    return build(FolderOwner, parse_json(text, str(path)), str(path)) if text.strip() else None


def snakemakes(folder: Path) -> list[int]:
    """Processes of this machine that run Snakemake in `folder`, but for those that do one job for another one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            there = (process / "cwd").samefile(folder)
        except OSError:
            continue  # it has ended, or is somebody else's
        # An interpreter comes before a script, and `-m` before a module.
        program = [Path(word).name for word in words[:3] if word != "-m"]
        if there and "snakemake" in program and "lska" not in program and "--mode" not in words:
            found.append(int(process.name))
    return sorted(found)
