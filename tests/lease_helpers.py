"""Processes that own state folders: on this machine, and as if on another one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lska.train import lease as leases
from lska.train.lease import Lease

PERIOD = 0.1
"""Seconds between two signs of life in tests; a folder is taken over after twelve times as long."""


def elsewhere(name: str = "another machine") -> None:
    """Have this process, a forked one, look to others as one of a machine of which they know nothing but its files."""
    leases._boot = lambda: name


def until(met: Callable[[], object], seconds: float = 30.0) -> None:
    """Return as soon as `met()` holds."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.005)


def own(folder: Path, period: float = PERIOD, seconds: float = 30.0) -> Lease:
    """Wait for the folder and own it."""
    lease = Lease(folder, period)
    until(lambda: lease.attempt() or time.sleep(lease.pause), seconds)
    return lease


def owner_file(folder: Path) -> Path:
    """The file of the present owner."""
    return max(folder.glob("owner-*.json"))


def said(folder: Path) -> dict[str, Any]:
    """What the present owner says; nothing where there is none, or it is just writing."""
    files = list(folder.glob("owner-*.json"))
    try:
        return json.loads(max(files).read_bytes()) if files else {}
    except ValueError:
        return {}


def owned(folder: Path) -> bool:
    """Whether somebody has taken the folder and not given it back."""
    return said(folder).get("state") == "held"


def end(process: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a child process and wait for its end."""
    os.kill(process, number)
    os.waitpid(process, 0)


def forked(body: Callable[[], object]) -> int:
    """Do `body` in a forked process, which then ends without this one's clean-up; returns its number."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return process
