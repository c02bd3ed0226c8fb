"""What a training leaves in its folder: states, written atomically, checksummed, the last two kept, read safely; and
train.jsonl with what it says while it runs, which a terminal shows as a bar and a log as plain lines. Imports little.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lska.provenance.errors import LskaError
from lska.provenance.files import MissingFileError, WriteError, atomic_path, quoted, read_bytes, write_text
from lska.provenance.progress_bar import BETWEEN_LINES

if TYPE_CHECKING:
    from lska.train.lease import Lease
    from lska.train.loading import BatchPlan

logger = logging.getLogger(__name__)

_MAGIC = b"LSKASTATE1"
_NAME = re.compile(r"state-(\d+)\.pt")
_KEPT = 2

LINES_PER_TRAINING = 200


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
        reason = error if error.errno is None else os.strerror(error.errno)
        raise StateError(
            f"cannot write training state {path}: {reason}; {kept}; make sure that the folder can be written and has "
            f"room for {math.ceil(2 * len(payload) / 2**20)} MiB, and start the training again"
        ) from error
    files = state_files(folder)
    end = files.index(path) + 1
    # States of later updates are damaged ones that the training fell back from.
    for surplus in files[: max(0, end - _KEPT)] + files[end:]:
        surplus.unlink()


def state_files(folder: Path) -> list[Path]:
    """State files of a training, oldest first."""
    return sorted(path for path in folder.glob("state-*.pt") if _NAME.fullmatch(path.name) and not path.is_dir())


def restore(folder: Path, digest: str, take: Callable[[dict[str, Any]], None]) -> bool:
    """Have `take` go on from the newest intact state; returns whether the training has states at all.

    A damaged one is reported, and the one before it is taken. Raises OtherTrainingError where the folder holds states
    of a training with another `digest`, StateError where states exist and none is intact.
    """
    import torch

    start, problem = len(_MAGIC) + hashlib.sha256().digest_size, None
    for path in reversed(state_files(folder)):
        try:
            content = path.read_bytes()
        except OSError as error:
            content, problem = b"", f"training state {path} cannot be read ({error.strerror})"
        else:
            problem = f"training state {path} is damaged (its checksum does not match; {len(content)} bytes)"
        if content[:start] != _MAGIC + hashlib.sha256(content[start:]).digest():
            logger.warning("%s; trying the state before it", problem)
            continue
        state = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
        if state["digest"] != digest:
            raise OtherTrainingError(
                f"{folder} holds states of another training ({quoted(state['digest'])}, expected {digest}); choose "
                "another folder or delete it"
            )
        take(state)
        return True
    if problem is not None:
        raise StateError(
            f"no training state in {folder} is intact; delete that folder to train from the beginning ({problem})"
        )
    return False


# --- What is told of a training --------------------------------------------------------------------------------------


@dataclass
class Progress:
    """Position of a training (updates done) and what is told of it beside the weights."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in updates, in all attempts."""
    last_loss: float = math.nan
    """The last loss looked at, in nats."""
    attempts: tuple[dict[str, Any], ...] = ()
    """Code version and environment of every attempt that trained, in order."""
    skipped: int = 0
    """Unreadable images met, in all attempts and processes; one counts each time it is met."""


def logged(path: Path) -> list[dict[str, Any]]:
    """What a training has recorded in its train.jsonl; a damaged line is told and left out.

    Raises FileError where there is something else in its place, or it cannot be read.
    """
    try:
        lines = read_bytes(path).split(b"\n")
    except MissingFileError:
        return []
    found = []
    # A process that writes, or was killed, leaves half a line at the end.
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            if type(record["step"]) is not int or record["step"] < 0 or not all(map(math.isfinite, record.values())):
                raise ValueError("expected numbers, `step` a whole one")
            found.append(record)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            logger.warning("%s: line %d: %s (%s); this line is not used", path, number, type(error).__name__, error)
    return found


class TrainingLog:
    """train.jsonl with one record per interval: step, epoch, loss of that update (nats), rate, images per second.

    A resumed training drops the records after the state it goes on from, so that no update is logged twice. Records
    fall on the last update of every epoch and on `LINES_PER_TRAINING` evenly spaced ones. Only the main process of a
    training writes (`active`), and only while it holds its lease; the others use `due` alone.
    """

    def __init__(
        self, path: Path, start: Progress, plan: BatchPlan, active: bool = True, lease: Lease | None = None
    ) -> None:
        self.path, self.plan, self.active, self.lease = path, plan, active, lease
        self.interval = max(1, plan.steps // LINES_PER_TRAINING)
        self._step, self._seconds = start.step, start.seconds
        if active:
            write_text(path, "".join(json.dumps(kept) + "\n" for kept in logged(path) if kept["step"] <= start.step))
        self._told = time.monotonic()
        shown = None if active else True  # None: on a terminal only
        self._bar = tqdm(total=plan.steps, initial=start.step, unit="update", dynamic_ncols=True, disable=shown)

    def due(self, step: int) -> bool:
        """Whether the loss after update `step` (counted from 1) is to be recorded."""
        return step % self.interval == 0 or step % self.plan.steps_per_epoch == 0 or step == self.plan.steps

    def record(self, progress: Progress, epoch: int, rate: float, **more: float) -> None:
        """Append one record and show it; raises WriteError that names the file, as Python does not where space ends."""
        if not self.active or (self.lease is not None and not self.lease.holds()):
            return
        step, loss, images = progress.step, progress.last_loss, self.plan.micro_batch * self.plan.micro_batches
        speed = (step - self._step) * images / (progress.seconds - self._seconds)
        entry = {"step": step, "epoch": epoch, "loss": loss, "learning_rate": rate, "images_per_second": speed, **more}
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise WriteError(error.errno, f"{self.path}: cannot be written ({error.strerror})") from error
        self._step, self._seconds = step, progress.seconds
        extra = "".join(f", {name} {value:.2f}" for name, value in more.items())
        if not self._bar.disable:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.3f}{extra}")
        elif more or step == self.plan.steps or time.monotonic() - self._told >= BETWEEN_LINES:
            self._told = time.monotonic()
            left = tqdm.format_interval((self.plan.steps - step) * images / max(speed, 1e-9))
            line = "update %d of %d, epoch %d: loss %.4f, rate %.3g, %.0f images/s%s, %s left"
            logger.info(line, step, self.plan.steps, epoch + 1, loss, rate, speed, extra, left)

    def close(self) -> None:
        """Leave the terminal clean."""
        self._bar.close()
