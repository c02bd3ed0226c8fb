"""Training state on disk: written atomically, checksummed, the last two kept, read safely."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import math
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lska.provenance.errors import LskaError
from lska.provenance.files import FileError, atomic_path, kind_of, open_regular, printable, quoted

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
        raise StateError(_write_problem(path, len(payload), error)) from error
    files = state_files(folder)
    end = files.index(path) + 1
    # States of later updates are damaged ones that the training fell back from.
    for surplus in files[: max(0, end - _KEPT)] + files[end:]:
        surplus.unlink()


def _write_problem(path: Path, size: int, error: OSError) -> str:
    earlier = state_files(path.parent)
    kept = f"the last good state is {earlier[-1].name}" if earlier else "no earlier state exists"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = f"free at least {math.ceil(2 * size / 2**20)} MiB" if full else "check disk, limits and permissions"
    reason = error if error.errno is None else os.strerror(error.errno)
    return f"cannot write training state {path}: {reason}; {kept}; {advice} and start the training again"


def state_files(folder: Path) -> list[Path]:
    """State files of a training, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_dir())


def restore(folder: Path, take: Callable[[Path], None]) -> bool:
    """Go on from the newest state that is intact and fits; returns whether the training has states at all.

    One that does not is reported, and the one before it is taken.

    Args:
        take: reads a state by `read_state` and goes on from it. What is said by KeyError, TypeError, ValueError and the
            like of torch means that it does not fit; a later call makes good what an earlier one has changed.

    Raises:
        OtherTrainingError: as `take` raises it.
        StateError: states exist and none can be taken.
    """
    import torch

    problems: list[str] = []
    for path in reversed(state_files(folder)):
        try:
            take(path)
            return True
        except (OtherTrainingError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except StateError as error:
            problems.append(str(error))
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = quoted(" ".join(str(error).split())[:200])
            problems.append(f"training state {path} does not fit this training ({type(error).__name__}: {reason})")
        logger.warning("%s; trying the state before it", problems[-1])
    if problems:
        raise StateError(
            f"no training state in {folder} is intact; delete that folder to train from the beginning ({problems[0]})"
        )
    return False


def require_identity(found: Any, expected: str, folder: Path) -> None:
    """Make sure that a state is one of the training with the digest `expected`.

    Raises:
        OtherTrainingError: it is another one's.
    """
    if found != expected:
        raise OtherTrainingError(
            f"{folder} holds states of another training ({printable(str(found), 80)}, expected {expected}); choose "
            "another folder or delete it"
        )


def require_shapes(found: Any, expected: Mapping[str, Any], what: str) -> None:
    """Make sure that `found`, a mapping in a state, holds finite tensors of the names and shapes of `expected`.

    Raises:
        StateError: it does not.
    """
    import torch

    if not isinstance(found, Mapping) or found.keys() != expected.keys():
        raise StateError(f"{what}: expected the tensors of this network, found others")
    for name, tensor in expected.items():
        other = found[name]
        if not isinstance(other, torch.Tensor) or other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise StateError(f"{what}: {name}: expected {tensor.dtype} of shape {tuple(tensor.shape)}, found another")
        if not bool(torch.isfinite(other).all()):
            raise StateError(f"{what}: {name} has values that are not finite")


def read_state(path: Path) -> dict[str, Any]:
    """Read one state, on the processor.

    Types beyond tensors and plain containers are refused.

    Raises:
        StateError: it cannot be read, is damaged, or holds something else.
    """
    import torch

    try:
        with open_regular(path) as stream:
            content = stream.read()
    except FileError as error:
        raise StateError(f"training state {error}") from error
    except OSError as error:
        raise StateError(f"training state {path} cannot be read ({error.strerror})") from error
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        raise StateError(f"training state {path} is damaged (its checksum does not match; {len(content)} bytes)")
    try:
        state = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, LookupError, EOFError, TypeError, ValueError, RuntimeError) as error:
        # What torch says here is how to run the code that a file may hold.
        raise StateError(
            f"training state {path} is none that this program wrote: expected tensors and plain values alone "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise StateError(f"training state {path}: expected a mapping, found {kind_of(state)}")
    return state
