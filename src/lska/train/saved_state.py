"""Training state on disk: written atomically, checksummed, the last two kept, read safely."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lska.provenance.errors import LskaError
from lska.provenance.files import atomic_path, quoted

logger = logging.getLogger(__name__)

_MAGIC = b"LSKASTATE1"
_NAME = re.compile(r"state-(\d+)\.pt")
_KEPT = 2


class StateError(LskaError, RuntimeError):
    """A training state cannot be written or read; the message says which and what to do."""


class OtherTrainingError(LskaError, ValueError):
    """A state is one of another training, whose folder this is then."""


def save_state(folder: Path, step: int, state: dict[str, Any], check: Callable[[], None] | None = None) -> None:
    """Write the state after update `step`, a SHA-256 and what `torch.save` makes of it; the last two are kept.

    Args:
        state: tensors and plain containers only, so that reading it back needs no pickled code.
        check: raises where this process may no longer write to the folder; called before anything is changed in it,
            and again right before the file appears under its name.

    Raises:
        StateError: the disk is full or the folder cannot be written; earlier states are untouched.
    """
    import torch

    path, buffer = folder / f"state-{step:08d}.pt", io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    try:
        if check is not None:
            check()
        with atomic_path(path, check) as temporary, temporary.open("wb") as stream:
            stream.write(_MAGIC + hashlib.sha256(payload).digest())
            stream.write(payload)
    except OSError as error:
        earlier = state_files(folder)
        kept = f"the last good state is {earlier[-1].name}" if earlier else "no earlier state exists"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        room = f"free at least {math.ceil(2 * len(payload) / 2**20)} MiB"
        reason = error if error.errno is None else os.strerror(error.errno)
        raise StateError(
            f"cannot write training state {path}: {reason}; {kept}; "
            f"{room if full else 'check disk, limits and permissions'} and start the training again"
        ) from error
    files = state_files(folder)
    end = files.index(path) + 1
    # States of later updates are damaged ones that the training fell back from.
    for surplus in files[: max(0, end - _KEPT)] + files[end:]:
        surplus.unlink()


def state_files(folder: Path) -> list[Path]:
    """State files of a training, oldest first."""
    return sorted(path for path in folder.glob("state-*.pt") if _NAME.fullmatch(path.name) and not path.is_dir())


def read_state(path: Path) -> dict[str, Any]:
    """Read one state, on the processor; raises StateError where it cannot be read or is damaged."""
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"training state {path} cannot be read ({error.strerror})") from error
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        raise StateError(f"training state {path} is damaged (its checksum does not match; {len(content)} bytes)")
    return torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)


def restore(folder: Path, digest: str, take: Callable[[dict[str, Any]], None]) -> bool:
    """Have `take` go on from the newest intact state; returns whether the training has states at all.

    A damaged one is reported, and the one before it is taken. Raises OtherTrainingError where the folder holds states
    of a training with another `digest`, StateError where states exist and none is intact.
    """
    problems: list[str] = []
    for path in reversed(state_files(folder)):
        try:
            state = read_state(path)
            if state["digest"] != digest:
                raise OtherTrainingError(
                    f"{folder} holds states of another training ({quoted(state['digest'])}, expected {digest}); choose "
                    "another folder or delete it"
                )
            take(state)
            return True
        except StateError as error:
            problems.append(str(error))
            logger.warning("%s; trying the state before it", error)
    if problems:
        raise StateError(
            f"no training state in {folder} is intact; delete that folder to train from the beginning ({problems[0]})"
        )
    return False
