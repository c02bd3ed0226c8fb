"""Training state on disk: written atomically, checksummed, the last two kept, read safely."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lska.files import atomic_path

logger = logging.getLogger(__name__)

_MAGIC = b"LSKASTATE1"
_NAME = re.compile(r"state-(\d+)\.pt")
_KEPT = 2


class StateError(RuntimeError):
    """A training state cannot be written or read; the message says which and what to do."""


def save_state(folder: Path, step: int, state: dict[str, Any], check: Callable[[], None] | None = None) -> Path:
    """Write the state after update `step`, what `torch.save` makes of `state`, and drop all but the last two.

    `state` holds tensors and plain containers only, so that reading it back needs no pickled code. `check` and what is
    raised are those of `write_state`.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_state(folder / f"state-{step:08d}.pt", buffer.getbuffer(), check)


def write_state(path: Path, payload: bytes | memoryview, check: Callable[[], None] | None = None) -> Path:
    """Write a state file, a header with the SHA-256 of `payload` and then that, and drop all but the last two.

    Args:
        check: raises where this process may no longer write to the folder; called before anything is changed in it,
            and again right before the file appears under its name.

    Raises:
        StateError: the disk is full or the folder cannot be written; earlier states are untouched.
    """
    folder = path.parent
    try:
        if check is not None:
            check()
        _remove_unfinished(folder)
        with atomic_path(path, check) as temporary, temporary.open("wb") as stream:
            stream.write(_MAGIC + hashlib.sha256(payload).digest())
            stream.write(payload)
    except OSError as error:
        raise StateError(_write_problem(path, len(payload), error)) from error
    files = state_files(folder)
    end = files.index(path) + 1
    # States of later updates are damaged ones that the training fell back from.
    for surplus in files[: max(0, end - _KEPT)] + files[end:]:
        surplus.unlink()
    return path


def _remove_unfinished(folder: Path) -> None:
    """A process that is killed while it writes a state leaves the temporary file."""
    for path in folder.glob(".state-*.tmp.pt"):
        path.unlink(missing_ok=True)


def _write_problem(path: Path, size: int, error: OSError) -> str:
    earlier = state_files(path.parent)
    kept = f"the last good state is {earlier[-1].name}" if earlier else "no earlier state exists"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = f"free at least {math.ceil(2 * size / 2**20)} MiB" if full else "check disk, limits and permissions"
    reason = error.strerror or error
    return f"cannot write training state {path}: {reason}; {kept}; {advice} and start the training again"


def state_files(folder: Path) -> list[Path]:
    """State files of a training, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_state(folder: Path) -> dict[str, Any] | None:
    """Read the newest intact state; None if the training has none yet.

    A damaged newest state is reported and the one before is used. Types beyond tensors and plain containers are
    refused, but for those that the caller allows by `torch.serialization.safe_globals`.

    Raises:
        StateError: states exist and none is intact.
    """
    files = state_files(folder)
    for path in reversed(files):
        try:
            return _read(path)
        except StateError as error:
            logger.warning("%s; trying the state before it", error)
    if files:
        raise StateError(f"no training state in {folder} is intact; delete that folder to train from the beginning")
    return None


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"training state {path} cannot be read ({error.strerror})") from error
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        raise StateError(f"training state {path} is damaged (its checksum does not match; {len(content)} bytes)")
    return torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
