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

from lska.train.interrupt import Interrupted, StopRequest

if TYPE_CHECKING:
    from lska.train.distributed import Processes

logger = logging.getLogger(__name__)

STALE_AFTER = 12
"""Periods without a sign of life after which a folder is taken over."""
ATTEMPTS = "attempts.log"
"""What all attempts of a training said, as Snakemake removes a job's log before it starts the job again."""

_GIVE_UP, _OURS = 1, 2
_LENGTH = 1024
"""Bytes of an owner's file: it is rewritten in place, so that no owner can bring back a file that was removed."""
_NAME = re.compile(r"owner-\d{8}\.json")
_REMOVED = (errno.ENOENT, errno.ESTALE)
"""What opening a file says that was removed; the second on NFS, by another machine."""


class LeaseLostError(Interrupted):
    """Another training took the state folder over; nothing was written since."""


class Owner(BaseModel):
    """A process that owns a state folder, or did, as its file says."""

    model_config = ConfigDict(strict=True, extra="forbid")

    host: str
    boot: str
    """Identity of the machine's start, with the space of process numbers; empty where the system tells none."""
    process: Annotated[int, Field(gt=0, lt=2**31)]
    started: str
    """Start of the process in the system's ticks; tells it from a later process of the same number."""
    job: str | None
    """Slurm's job id."""
    token: str
    beat: str = ""
    state: Literal["held", "left"] = "held"

    @property
    def certainly_gone(self) -> bool:
        """Whether the process is known to have ended: it ran on this machine, and there is no such process any more."""
        if self.boot == "" or self.boot != _boot():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, whose start the system may hide
            return False
        return _started(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}{f' (Slurm job {self.job})' if self.job else ''}"


def _boot() -> str:
    try:
        # Two containers on one machine may number their processes apart.
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process of this machine started; None if there is none, or only one that ended and was not waited for."""
    try:
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def holder_of(folder: Path) -> str | None:
    """Who has a state folder, or may have it, as its newest owner's file tells; None where nobody does, or only a
    process that is known to have ended. Changes nothing; raises OSError where the folder cannot be read.
    """
    files = _owners(folder)
    content, owner = _read(files[-1]) if files else (None, None)
    if content is None or (owner is not None and (owner.state == "left" or owner.certainly_gone)):
        return None
    return str(owner or "an unknown process")


class Lease:
    """The right to write to a state folder, held by one process at a time.

    Args:
        folder: made if it is not there.
        period: seconds between two signs of life.
    """

    def __init__(self, folder: Path, period: float) -> None:
        self.folder, self.period = folder, period
        self.owner = Owner(
            host=socket.gethostname(), boot=_boot(), process=os.getpid(), started=_started(os.getpid()) or "",
            job=os.environ.get("SLURM_JOB_ID"), token=secrets.token_hex(16),
        )  # fmt: skip
        self.waited = False
        """Whether another training had the folder when `leased` first asked."""
        self.lost = False
        """Whether it is known that another training took over; known a period late, without reading a file."""
        self.other: Owner | None = None
        """The owner that this process waits for; None where its file tells none."""
        self.pause = min(period / 5, 2.0)
        """Seconds between two attempts."""
        self.patience = STALE_AFTER * period
        """Seconds without a sign of life after which the other owner counts as dead."""
        self._path = folder / "owner"
        """The file of this owner, once it is one."""
        self._seen: tuple[Path, bytes] | None = None
        self._asked = self._unchanged = 0.0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._show_life, name="lease", daemon=True)

    def attempt(self) -> bool:
        """Take the folder if nobody has it, or nobody who is alive; returns whether this process owns it now.

        Raises OSError where the folder cannot be read or written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = _owners(self.folder)
        if not files:
            return self._take(1)
        last, (content, owner) = files[-1], _read(files[-1])
        left = owner is not None and owner.state == "left"
        # Where nothing is read, the folder was listed before its next owner took it.
        gone = content is not None and (left or self._gone(last, content, owner))
        return gone and self._take(int(last.stem.removeprefix("owner-")) + 1)

    def holds(self) -> bool:
        """Whether this process still owns the folder, which is read anew; once lost it stays lost.

        Raises OSError where the file system does not answer.
        """
        if not self.lost:
            owner = _read(self._path)[1]
            self.lost = owner is None or owner.token != self.owner.token
        return not self.lost

    def check(self) -> None:
        """Return if this process still owns the folder, as `holds` has it; raises LeaseLostError if not."""
        if not self.holds():
            files = _owners(self.folder)
            owner = (_read(files[-1])[1] if files else None) or "another training"
            raise LeaseLostError(
                f"{self.folder} was taken over by {owner}, as this process had given no sign of life for long; nothing "
                "was written since"
            )

    def give_back(self) -> None:
        """Let the next training have the folder at once; does nothing where it is not held."""
        # A forked child of the owner does not own anything.
        if self.owner.process != os.getpid() or not self._thread.is_alive():
            return
        self._left.set()
        self._thread.join(self.period)
        try:
            self._rewrite("left")
        except OSError as error:
            logger.warning("%s cannot be given back (%s); the next training waits for it", self.folder, error)

    def _gone(self, path: Path, content: bytes, owner: Owner | None) -> bool:
        """Whether the owner is known to have ended, or has given no sign of life for long enough."""
        if owner is not None and owner.certainly_gone:
            logger.info("%s: its owner, %s, has ended without giving it back", self.folder, owner)
            return True
        now = time.monotonic()
        if (path, content) != self._seen:
            self._seen, self.other, self._unchanged = (path, content), owner, 0.0
        else:
            # A process that was frozen itself has not waited in the meantime.
            self._unchanged += min(now - self._asked, 2 * self.pause)
        self._asked = now
        if self._unchanged <= self.patience:
            return False
        who = owner or f"an unknown process ({path} is damaged)"
        logger.warning("%s: no sign of life of %s for %.0f s, taking over", self.folder, who, self._unchanged)
        return True

    def _take(self, number: int) -> bool:
        path = self.folder / f"owner-{number:08d}.json"
        try:
            with path.open("xb") as stream:
                stream.write(self._entry("held"))
        except FileExistsError:
            return False
        except OSError:
            path.unlink(missing_ok=True)  # half of it would be waited for, as a damaged one
            raise
        *older, last = _owners(self.folder)
        if last != path:
            # An old listing of the folder was read: that number had been given out and removed before.
            path.unlink(missing_ok=True)
            return False
        for before in older:
            before.unlink(missing_ok=True)
        self._path = path
        self._thread.start()
        return True

    def _entry(self, state: Literal["held", "left"]) -> bytes:
        # Of constant length, field by field: who reads while it is written finds a mixture that is still readable.
        self.owner.beat, self.owner.state = f"{int(self.owner.beat or 0) + 1:012d}", state
        return self.owner.model_dump_json().encode().ljust(_LENGTH - 1) + b"\n"

    def _show_life(self) -> None:
        while not self.lost and not self._left.wait(self.period):
            try:
                self._rewrite("held")
            except OSError as error:
                logger.warning("no sign of life could be written to %s (%s); trying again", self.folder, error)

    def _rewrite(self, state: Literal["held", "left"]) -> None:
        """Write a sign of life into this owner's file, unless it is gone or names somebody else."""
        if self.holds():
            try:
                with self._path.open("r+b", buffering=0) as stream:
                    stream.write(self._entry(state))
            except OSError as error:
                if error.errno not in _REMOVED:
                    raise
                self.lost = True


def _owners(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _read(path: Path) -> tuple[bytes | None, Owner | None]:
    """What an owner's file holds and says; nothing where it was removed, nobody where it is damaged."""
    try:
        content = path.read_bytes()
        return content, Owner.model_validate_json(content)
    except ValidationError:
        return content, None
    except OSError as error:
        if error.errno in _REMOVED:
            return None, None
        raise


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
        while True:
            held = lease is not None and lease.attempt()
            reason = stop.reason()
            # A collective call per attempt, so that no process waits for another one longer than that.
            answer = group.largest(_OURS if held else _GIVE_UP if reason is not None else 0)
            if answer == _OURS:
                break
            owner = "" if lease is None else f" ({lease.other or 'an unknown process'})"
            if answer == _GIVE_UP:
                why = reason or "another process stopped"
                raise Interrupted(f"{why}, and {folder} is still in use by another training{owner}")
            if lease is None:
                time.sleep(0.1)
                continue
            if not lease.waited:
                logger.info(
                    "waiting: %s is in use by another training%s; it is taken over when that one ends, or shows no "
                    "sign of life for %g s", folder, owner, lease.patience,
                )  # fmt: skip
            lease.waited = True
            time.sleep(lease.pause)
        with nullcontext() if lease is None else _told(lease):
            yield lease
    finally:
        if lease is not None:
            lease.give_back()


@contextmanager
def _told(lease: Lease) -> Iterator[None]:
    """Append what is logged inside the block to `attempts.log`, and how the block ends, while the folder is held."""

    def held(record: logging.LogRecord) -> bool:
        try:
            return lease.holds()
        except OSError:  # nor could a line be appended
            return False

    handler = logging.FileHandler(lease.folder / ATTEMPTS, encoding="utf-8")
    handler.addFilter(held)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own = logging.Logger(__name__)  # heard by this file alone
    own.addHandler(handler)
    own.info("%s has the training", lease.owner)
    logging.getLogger().addHandler(handler)
    try:
        yield
        own.info("done")
    except BaseException as error:
        own.info("%s: %s", type(error).__name__, error)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
