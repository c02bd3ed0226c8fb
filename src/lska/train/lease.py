"""One owner at a time for the state folder of a training, also where several machines share it.

Owners are numbered: `owner-<number>.json` with the highest number names the present one. The next number is taken by
creating its file exclusively, which is atomic on local file systems and on NFS, so that of several waiting trainings
exactly one succeeds; no file system has to support locks. The owner rewrites its file every few seconds. Who waits
compares the bytes with those seen before and counts by its own clock: neither two machines' clocks nor the times of
files are compared. The next owner removes the file of the one before, which so learns that it lost the folder.

An owner looks at its file right before each of its files replaces another. What remains possible on a file system
without compare-and-swap is that it stops for minutes between that look and the renaming; the file that then appears is
a complete one of the same training.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lska.train.attempts import told
from lska.train.interrupt import Interrupted, StopRequest
from lska.train.owners import HELD, LEFT, REMOVED, Entry, Owner, file_of, names, newest, numbers_of

if TYPE_CHECKING:
    from lska.train.distributed import Processes

logger = logging.getLogger(__name__)

STALE_AFTER = 12
"""Periods without a sign of life after which a folder is taken over."""

_GIVE_UP, _OURS = 1, 2
_REMIND_SECONDS = 60.0
_LONGEST_PAUSE = 2.0
_LENGTH = 1024
"""Bytes of an owner's file: it is rewritten in place, so that no owner can bring back a file that was removed."""


class LeaseLostError(Interrupted):
    """Another training took the state folder over; nothing was written since."""


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
        self._owner = Owner.this(period)
        self._number: int | None = None
        self._beats = 0
        self._seen: Entry | None = None
        self._asked = self._unchanged = 0.0
        self._lost, self._left = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pause(self) -> float:
        """Seconds between two attempts."""
        return min(self.period / 5, _LONGEST_PAUSE)

    @property
    def lost(self) -> bool:
        """Whether it is known that another training took over; knows it a period late, without reading a file."""
        return self._lost.is_set()

    @property
    def other(self) -> str:
        """The owner that this process waits for, in words."""
        owner = None if self._seen is None else self._seen.owner
        return "an unknown process" if owner is None else str(owner)

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which the other owner counts as dead, by the period that it keeps."""
        owner = None if self._seen is None else self._seen.owner
        return STALE_AFTER * (self.period if owner is None else owner.period)

    def attempt(self) -> bool:
        """Take the folder if nobody has it, or nobody who is alive; returns whether this process owns it now.

        Raises:
            OSError: the folder cannot be read or written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found = newest(self.folder)
        if found is None:
            return self._take(1)
        if found.given_back or self._is_gone(found):
            return self._take(found.number + 1)
        self.waited = True
        return False

    @property
    def proof(self) -> dict[str, str]:
        """Arguments of `require_owner`, in plain values."""
        return {"file": str(self._path(self._number)), "token": self._owner.token}

    def holds(self) -> bool:
        """Whether this process still owns the folder, which is read anew; once lost it stays lost.

        Raises:
            OSError: the file system does not answer.
        """
        if not self.lost and not names(self._path(self._number), self._owner.token):
            self._lost.set()
        return not self.lost

    def check(self) -> None:
        """Return if this process still owns the folder, as `holds` has it.

        Raises:
            LeaseLostError: it does not.
            OSError: the file system does not answer.
        """
        if not self.holds():
            raise _lost(self.folder)

    def give_back(self) -> None:
        """Let the next training have the folder at once; does nothing where it is not held."""
        # A forked child of the owner does not own anything.
        if self._number is None or self._owner.process != os.getpid():
            return
        self._left.set()
        if self._thread is not None:
            self._thread.join(self.period)
        try:
            self._rewrite(given_back=True)
        except OSError as error:
            logger.warning("%s cannot be given back (%s); the next training waits for it", self.folder, error)
        self._number = None

    def _path(self, number: int) -> Path:
        return file_of(self.folder, number)

    def _is_gone(self, found: Entry) -> bool:
        """Whether the owner is known to have ended, or has given no sign of life for long enough."""
        now, owner = time.monotonic(), found.owner
        if owner is not None and owner.certainly_gone:
            logger.info("%s: its owner, %s, has ended without giving it back", self.folder, owner)
            return True
        if found != self._seen:
            if owner is None:
                logger.warning("%s is damaged or just being written; it is replaced when it has not changed for %.0f s",
                               self._path(found.number), STALE_AFTER * self.period)  # fmt: skip
            self._seen, self._unchanged = found, 0.0
        else:
            # A process that was frozen itself has not waited in the meantime.
            self._unchanged += min(now - self._asked, 2 * self.pause)
        self._asked = now
        if self._unchanged <= self.patience:
            return False
        logger.warning("%s: no sign of life of %s for %.0f s, taking over", self.folder, self.other, self._unchanged)
        return True

    def _take(self, number: int) -> bool:
        try:
            descriptor = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            self.waited = True
            return False
        with os.fdopen(descriptor, "wb") as stream, self._removed_on_failure(number):
            stream.write(self._content(given_back=False))
            stream.flush()
            os.fsync(descriptor)
        numbers = numbers_of(self.folder)
        if numbers[-1] > number:
            # An old listing of the folder was read: that number had been given out and removed before.
            self._path(number).unlink(missing_ok=True)
            self.waited = True
            return False
        for older in numbers:
            if older < number:
                self._path(older).unlink(missing_ok=True)
        self._number = number
        self._thread = threading.Thread(target=self._show_life, name="lease", daemon=True)
        self._thread.start()
        return True

    @contextmanager
    def _removed_on_failure(self, number: int) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._path(number).unlink(missing_ok=True)
            raise

    def _content(self, given_back: bool) -> bytes:
        self._beats += 1
        # Of constant length, field by field: who reads while it is written finds a mixture that is still readable.
        values = {"owner": asdict(self._owner), "beat": f"{self._beats:012d}", "state": LEFT if given_back else HELD}
        return json.dumps(values).encode().ljust(_LENGTH - 1) + b"\n"

    def _show_life(self) -> None:
        while not self._left.wait(self.period):
            try:
                held = self._rewrite()
            except OSError as error:
                logger.warning("no sign of life could be written to %s (%s); trying again", self.folder, error)
                continue
            if not held:
                self._lost.set()
                return

    def _rewrite(self, given_back: bool = False) -> bool:
        """Write a sign of life into this owner's file; False where the file is gone or names somebody else."""
        path = self._path(self._number)
        try:
            if not names(path, self._owner.token):
                return False
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, self._content(given_back), 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in REMOVED:
                return False
            raise
        return True


def require_owner(file: str, token: str) -> None:
    """Return if the owner's `file` still names the process with that token; for those that have no `Lease` at hand.

    Raises:
        LeaseLostError: another training took the folder over.
        OSError: the file system does not answer.
    """
    if not names(Path(file), token):
        raise _lost(Path(file).parent)


def _lost(folder: Path) -> LeaseLostError:
    found = newest(folder)
    owner = None if found is None else found.owner
    return LeaseLostError(
        f"{folder} was taken over by {owner or 'another training'}, as this process had given no sign of life for "
        "long; nothing was written since"
    )


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
        with nullcontext() if lease is None else told(folder, str(lease._owner), lease.holds):
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
