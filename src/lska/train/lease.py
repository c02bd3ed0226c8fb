"""One owner at a time for the state folder of a training, also where several machines share it.

Owners are numbered: `owner-<number>.json` with the highest number names the present one. The next number is taken by
creating its file exclusively, which is atomic on local file systems and on NFS, so that of several waiting trainings
exactly one succeeds; no file system has to support locks, nor to exchange two names, without which filelock's
`SoftFileLease` never follows an owner that died (NFS refuses it). The owner rewrites its file every few seconds. Who
waits compares the bytes with those seen before and counts by its own clock: neither two machines' clocks nor the times
of files are compared. The next owner removes the file of the one before, which so learns that it lost the folder.

An owner looks at its file right before each of its files replaces another. What remains possible on a file system
without compare-and-swap is that it stops for minutes between that look and the renaming; the file that then appears is
a complete one of the same training.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lska.provenance.files import FileError, open_regular
from lska.settings.sections import LONGEST_HEARTBEAT
from lska.train.interrupt import Interrupted, StopRequest

if TYPE_CHECKING:
    from lska.train.distributed import Processes

logger = logging.getLogger(__name__)

STALE_AFTER = 12
"""Periods without a sign of life after which a folder is taken over."""

ATTEMPTS = "attempts.log"
"""What all attempts of a training said, as Snakemake removes a job's log before it starts the job again."""

_GIVE_UP, _OURS = 1, 2
_REMIND_SECONDS = 60.0
_LONGEST_PAUSE = 2.0
_LENGTH = 1024
"""Bytes of an owner's file: it is rewritten in place, so that no owner can bring back a file that was removed."""
_NAME = re.compile(r"owner-(\d{8})\.json")
_REMOVED = (errno.ENOENT, errno.ESTALE)
"""What opening a file says that was removed; the second on NFS, by another machine."""


class LeaseLostError(Interrupted):
    """Another training took the state folder over; nothing was written since."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Owner(_Record):
    """A process that owns a state folder, or did."""

    host: str
    boot: str
    """Identity of the machine's start, with the space of process numbers; empty where the system tells none."""
    process: Annotated[int, Field(gt=0, lt=2**31)]
    started: str
    """Start of the process in the system's ticks; tells it from a later process of the same number."""
    job: str | None
    """Slurm's job id."""
    restarts: int
    """How often Slurm has requeued that job."""
    period: Annotated[float, Field(gt=0, le=LONGEST_HEARTBEAT)]
    """Seconds between two signs of life."""
    token: str

    @classmethod
    def this(cls, period: float) -> Owner:
        """This process, with a new token."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")[:9]
        return cls(
            host=socket.gethostname(), boot=_boot(), process=os.getpid(), started=_started(os.getpid()) or "",
            job=os.environ.get("SLURM_JOB_ID"), restarts=int(restarts) if restarts.isdecimal() else 0, period=period,
            token=secrets.token_hex(16),
        )  # fmt: skip

    @property
    def certainly_gone(self) -> bool:
        """Whether the process is known to have ended: it ran on this machine, and there is no such process any more."""
        if self.boot == "" or self.boot != _boot():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # Another user's, whose start the system may hide.
            return False
        return _started(self.process) != self.started

    def __str__(self) -> str:
        requeued = f", requeued {self.restarts} time(s)" if self.restarts else ""
        job = f" (Slurm job {self.job}{requeued})" if self.job else ""
        return f"process {self.process} on {self.host}{job}"


class OwnerFile(_Record):
    """What an owner's file says."""

    owner: Owner
    beat: str
    state: Literal["held", "left"]

    @classmethod
    def read(cls, content: bytes) -> OwnerFile | None:
        """None where it is damaged, or just being written."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None


def _boot() -> str:
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # Two containers on one machine may number their processes apart.
        return f"{identity} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process of this machine started; None if there is none, or only one that ended and was not waited for."""
    try:
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _content(path: Path) -> bytes | None:
    """An owner's file; None where it was removed, nothing of what is no regular file, which names nobody."""
    try:
        with open_regular(path) as stream:
            return stream.read(4 * _LENGTH)
    except FileError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError):
            return b""
        if cause.errno in _REMOVED:
            return None
        raise cause from error


class Lease:
    """The right to write to a state folder, held by one process at a time.

    Args:
        folder: made if it is not there.
        period: seconds between two signs of life.
    """

    def __init__(self, folder: Path, period: float) -> None:
        self.folder, self.period = folder, period
        self.waited = False
        """Whether another training had the folder when this one first asked."""
        self.owner = Owner.this(period)
        self._number: int | None = None
        self._beats = 0
        self._seen: tuple[int, bytes] | None = None
        self._other: Owner | None = None
        self._asked = self._unchanged = 0.0
        self.lost = False
        """Whether it is known that another training took over; knows it a period late, without reading a file."""
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pause(self) -> float:
        """Seconds between two attempts."""
        return min(self.period / 5, _LONGEST_PAUSE)

    @property
    def other(self) -> str:
        """The owner that this process waits for, in words."""
        return "an unknown process" if self._other is None else str(self._other)

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which the other owner counts as dead, by the period that it keeps."""
        return STALE_AFTER * (self.period if self._other is None else self._other.period)

    def attempt(self) -> bool:
        """Take the folder if nobody has it, or nobody who is alive; returns whether this process owns it now.

        Raises:
            OSError: the folder cannot be read or written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in reversed(self._numbers()):
            if (content := _content(self._path(number))) is None:
                continue
            entry = OwnerFile.read(content)
            if (entry is not None and entry.state == "left") or self._is_gone(number, content, entry):
                return self._take(number + 1)
            self.waited = True
            return False
        return self._take(1)

    def holds(self) -> bool:
        """Whether this process still owns the folder, which is read anew; once lost it stays lost.

        Raises:
            OSError: the file system does not answer.
        """
        if not self.lost:
            entry = OwnerFile.read(_content(self._path(self._number)) or b"")
            self.lost = entry is None or entry.owner.token != self.owner.token
        return not self.lost

    def check(self) -> None:
        """Return if this process still owns the folder, as `holds` has it.

        Raises:
            LeaseLostError: it does not.
            OSError: the file system does not answer.
        """
        if self.holds():
            return
        number = max(self._numbers(), default=0)
        entry = OwnerFile.read(_content(self._path(number)) or b"")
        raise LeaseLostError(
            f"{self.folder} was taken over by {entry.owner if entry else 'another training'}, as this process had "
            "given no sign of life for long; nothing was written since"
        )

    def give_back(self) -> None:
        """Let the next training have the folder at once; does nothing where it is not held."""
        # A forked child of the owner does not own anything.
        if self._number is None or self.owner.process != os.getpid():
            return
        self._left.set()
        if self._thread is not None:
            self._thread.join(self.period)
        try:
            self._rewrite("left")
        except OSError as error:
            logger.warning("%s cannot be given back (%s); the next training waits for it", self.folder, error)
        self._number = None

    def _path(self, number: int) -> Path:
        return self.folder / f"owner-{number:08d}.json"

    def _numbers(self) -> list[int]:
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _is_gone(self, number: int, content: bytes, entry: OwnerFile | None) -> bool:
        """Whether the owner is known to have ended, or has given no sign of life for long enough."""
        now, owner = time.monotonic(), None if entry is None else entry.owner
        if owner is not None and owner.certainly_gone:
            logger.info("%s: its owner, %s, has ended without giving it back", self.folder, owner)
            return True
        if (number, content) != self._seen:
            if owner is None:
                logger.warning("%s is damaged or just being written; it is replaced when it has not changed for %.0f s",
                               self._path(number), STALE_AFTER * self.period)  # fmt: skip
            self._seen, self._other, self._unchanged = (number, content), owner, 0.0
        else:
            # A process that was frozen itself has not waited in the meantime.
            self._unchanged += min(now - self._asked, 2 * self.pause)
        self._asked = now
        if self._unchanged <= self.patience:
            return False
        logger.warning("%s: no sign of life of %s for %.0f s, taking over", self.folder, self.other, self._unchanged)
        return True

    def _take(self, number: int) -> bool:
        path = self._path(number)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            self.waited = True
            return False
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(self._entry("held"))
                stream.flush()
                os.fsync(descriptor)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        *older, last = self._numbers()
        if last > number:
            # An old listing of the folder was read: that number had been given out and removed before.
            path.unlink(missing_ok=True)
            self.waited = True
            return False
        for before in older:
            self._path(before).unlink(missing_ok=True)
        self._number = number
        self._thread = threading.Thread(target=self._show_life, name="lease", daemon=True)
        self._thread.start()
        return True

    def _entry(self, state: Literal["held", "left"]) -> bytes:
        self._beats += 1
        # Of constant length, field by field: who reads while it is written finds a mixture that is still readable.
        entry = OwnerFile(owner=self.owner, beat=f"{self._beats:012d}", state=state)
        return entry.model_dump_json().encode().ljust(_LENGTH - 1) + b"\n"

    def _show_life(self) -> None:
        while not self._left.wait(self.period):
            try:
                if not self._rewrite("held"):
                    return
            except OSError as error:
                logger.warning("no sign of life could be written to %s (%s); trying again", self.folder, error)

    def _rewrite(self, state: Literal["held", "left"]) -> bool:
        """Write a sign of life into this owner's file; False where the file is gone or names somebody else."""
        if not self.holds():
            return False
        try:
            with self._path(self._number).open("r+b", buffering=0) as stream:
                stream.write(self._entry(state))
        except OSError as error:
            if error.errno not in _REMOVED:
                raise
            self.lost = True
        return not self.lost


@contextmanager
def leased(folder: Path, period: float, group: Processes, stop: StopRequest) -> Iterator[Lease | None]:
    """Own the state folder inside the block, after waiting for its present owner; every process of a training calls it.

    Only the main process holds the lease; the others are given None, and may wait as long as that one has to. What it
    logs is also kept in the folder, after what earlier owners logged.

    Raises:
        Interrupted: a signal came, or the wall-time budget is nearly used up, before the folder was free.
        OSError: the folder cannot be read or written.
    """
    lease = Lease(folder, period) if group.is_main else None
    try:
        _wait_for(lease, folder, group, stop)
        with nullcontext() if lease is None else _told(lease):
            yield lease
    finally:
        if lease is not None:
            lease.give_back()


def _wait_for(lease: Lease | None, folder: Path, group: Processes, stop: StopRequest) -> None:
    reminded = -_REMIND_SECONDS
    while True:
        held = lease is not None and lease.attempt()
        reason = stop.reason()
        # A collective call per attempt, so that no process waits for another one longer than that.
        answer = group.largest(_OURS if held else _GIVE_UP if reason is not None else 0)
        if answer == _OURS:
            return
        if answer == _GIVE_UP:
            owner = "" if lease is None else f" ({lease.other})"
            raise Interrupted(
                f"{reason or 'another process stopped'}, and {folder} is still in use by another training{owner}"
            )
        if lease is not None and time.monotonic() - reminded >= _REMIND_SECONDS:
            reminded = time.monotonic()
            logger.info(
                "waiting: %s is in use by another training (%s); it is taken over when that one ends, or shows no sign "
                "of life for %g s", folder, lease.other, lease.patience,
            )  # fmt: skip
        time.sleep(0.1 if lease is None else lease.pause)


@contextmanager
def _told(lease: Lease) -> Iterator[None]:
    """Append what is logged inside the block to `attempts.log`, and how the block ends, while the folder is held."""
    path = lease.folder / ATTEMPTS
    if path.exists():
        open_regular(path).close()  # a named pipe would have this process wait for a reader

    def held(record: logging.LogRecord) -> bool:
        try:
            return lease.holds()
        except OSError:  # nor could a line be appended
            return False

    handler = logging.FileHandler(path, encoding="utf-8")
    handler.addFilter(held)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def write(message: str) -> None:
        handler.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, message, None, None))

    write(f"{lease.owner} has the training")
    logging.getLogger().addHandler(handler)
    try:
        yield
        write("done")
    except BaseException as error:
        write(f"{type(error).__name__}: {error}")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
