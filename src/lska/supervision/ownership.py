"""Who runs Snakemake in a folder: one supervisor at a time, and Snakemake's own lock once its owner is dead."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lska.files import FileError, MissingFileError, printable, quoted, read_json, read_text, write_json
from lska.strict import build
from lska.supervision.queue import job_ended

_JOB = "SLURM_JOB_ID"


class OwnershipError(RuntimeError):
    """The folder is in use, or it cannot be told whether it is."""


@dataclass(frozen=True)
class Record:
    """Who was about to start a supervised Snakemake."""

    host: str
    supervisor: int
    """Number of its process."""
    job: str | None = None
    """Slurm's job in which it ran."""


@dataclass(frozen=True)
class Ownership:
    """The right to run Snakemake in a folder, for as long as this process or the Snakemake that it starts lives."""

    folder: Path
    descriptor: int
    """Of the locked file; the kernel releases it when the last process that has it ends."""

    @property
    def record(self) -> Path:
        """Tells that a supervised Snakemake was started and has not ended by itself."""
        return self.folder / ".snakemake" / "lska-supervised.json"

    def begin(self) -> None:
        """Note that Snakemake is about to be started."""
        write_json(self.record, asdict(Record(socket.gethostname(), os.getpid(), os.environ.get(_JOB))))

    def end(self) -> None:
        """Note that it has ended by itself."""
        self.record.unlink(missing_ok=True)

    def left_lock(self) -> bool:
        """Whether a dead Snakemake's lock is in the way.

        Raises:
            OwnershipError: a Snakemake without a supervisor runs here, or its lock is there, so that nobody knows
                whether it still runs; or a supervised one was started on another machine and has not ended by itself.
        """
        self._refuse_elsewhere()
        if others := snakemakes(self.folder):
            raise OwnershipError(
                f"{self.folder}: Snakemake runs here without a supervisor (process {', '.join(map(str, others))}); "
                "wait for it, or end it"
            )
        locks = self.folder / ".snakemake" / "locks"
        found = sorted(path for path in locks.iterdir() if path.stat().st_size) if locks.is_dir() else []
        if found and not self.record.exists():
            raise OwnershipError(
                f"{locks} holds the lock of a Snakemake that `lska supervise` did not start, so it cannot be told "
                "whether that still runs; end it or, where it was killed, call `snakemake --unlock`, and start again"
            )
        return bool(found)

    def _refuse_elsewhere(self) -> None:
        """Stop where another machine may have the folder: some shared file systems lock files for one machine only.

        Where a job of Slurm ran it, that has ended, or is this one that was put back into the queue, nobody has it.
        """
        try:
            record = build(Record, read_json(self.record), str(self.record))
        except MissingFileError:
            return
        except ValueError as error:
            raise OwnershipError(
                f"{error}; so it cannot be told where Snakemake was started last: when nothing of it runs on any "
                f"machine any more, remove {self.record} and start again"
            ) from error
        host, job = record.host, record.job
        if host != socket.gethostname() and not (job and (job == os.environ.get(_JOB) or job_ended(job))):
            raise OwnershipError(
                f"{self.folder}: `lska supervise` was started on {quoted(host)} and its Snakemake has not ended by "
                f"itself; go on there or, when nothing of it runs there any more, remove {self.record} and start again"
            )


@contextmanager
def owned(folder: Path) -> Iterator[Ownership]:
    """Become the one that runs Snakemake in `folder`.

    Raises:
        OwnershipError: another supervisor, or a Snakemake that one has started, still lives; or the file system locks
            no files.
    """
    lock = folder / ".snakemake" / "lska-supervised.lock"
    lock.parent.mkdir(exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            raise OwnershipError(
                f"{folder}: Snakemake is already run here, by {holder} or what it started; wait for it, or end both"
            ) from None
        except OSError as error:
            raise OwnershipError(
                f"{lock}: this file system locks no files ({error.strerror}), so that nobody can tell whether a "
                "watchdog runs here; call snakemake without it, or from a folder on another file system"
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield Ownership(folder, descriptor)
    finally:
        os.close(descriptor)


def _holder(lock: Path) -> str:
    try:
        return printable(read_text(lock, 4096), 200) or "another process"
    except FileError:
        return "another process"


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
