"""Which process owns a folder: what it writes about itself, and whether it is known to have ended."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.files import FileError, decode_text, open_regular, parse_json
from lska.sections import LONGEST_HEARTBEAT
from lska.strict import build

HELD, LEFT = "held", "left"
"""What an owner's file says of it; words of one length."""

REMOVED = (errno.ENOENT, errno.ESTALE)
"""What opening a file says that was removed; the second on NFS, by another machine."""

_LONGEST = 4096
_NAME = re.compile(r"owner-(\d{8})\.json")


@dataclass(frozen=True)
class Owner:
    """A process that owns a state folder, or did."""

    host: str
    boot: str
    """Identity of the machine's start, with the space of process numbers; empty where the system tells none."""
    process: int
    started: str
    """Start of the process in the system's ticks; tells it from a later process of the same number."""
    job: str | None
    """Slurm's job id."""
    restarts: int
    """How often Slurm has requeued that job."""
    period: float
    """Seconds between two signs of life."""
    token: str

    def __post_init__(self) -> None:
        # What the system takes for the number of a process, and patience that has an end.
        if not (0 < self.process < 2**31 and 0 < self.period <= LONGEST_HEARTBEAT):
            raise ValueError(f"process {self.process} with a period of {self.period} s is none")

    @classmethod
    def this(cls, period: float) -> Owner:
        """This process, with a new token."""
        process, restarts = os.getpid(), os.environ.get("SLURM_RESTART_COUNT", "")[:9]
        return cls(
            socket.gethostname(), _boot(), process, _started(process) or "", os.environ.get("SLURM_JOB_ID"),
            int(restarts) if restarts.isdecimal() else 0, period, secrets.token_hex(16),
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


@dataclass(frozen=True)
class Entry:
    """An owner's file as it was found."""

    number: int
    content: bytes

    @property
    def values(self) -> dict[str, Any]:
        """What it says; nothing where it is being written, or is damaged."""
        try:
            return parse_json(decode_text(self.content, "owner"), "owner")
        except FileError:
            return {}

    @property
    def owner(self) -> Owner | None:
        """The owner that it names, if it is readable."""
        named = self.values.get("owner")
        try:
            return build(Owner, named, "owner") if isinstance(named, dict) else None
        except ValueError:
            return None

    @property
    def given_back(self) -> bool:
        """Whether the owner left."""
        return self.owner is not None and self.values.get("state") == LEFT


def names(path: Path, token: str) -> bool:
    """Whether an owner's file is there and is that of the process with `token`."""
    try:
        owner = Entry(0, _content(path)).owner
    except OSError as error:
        if error.errno in REMOVED:
            return False
        raise
    return owner is not None and owner.token == token


def newest(folder: Path) -> Entry | None:
    """The file of the present owner, or of the last one; None where there was none."""
    for number in reversed(numbers_of(folder)):
        try:
            return Entry(number, _content(file_of(folder, number)))
        except OSError as error:
            if error.errno not in REMOVED:
                raise
    return None


def _content(path: Path) -> bytes:
    """The beginning of a file; nothing of what is no regular one, which names nobody.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open_regular(path) as stream:
            return stream.read(_LONGEST)
    except FileError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        return b""


def numbers_of(folder: Path) -> list[int]:
    """Numbers of the owners whose files are in the folder, in order."""
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def file_of(folder: Path, number: int) -> Path:
    """Place of an owner's file."""
    return folder / f"owner-{number:08d}.json"
