"""What a training says while it runs: train.jsonl, and a bar on a terminal or plain lines in a log."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.provenance.files import MissingFileError, WriteError, read_bytes, write_text

if TYPE_CHECKING:
    from lska.train.lease import Lease
    from lska.train.loading import BatchPlan

logger = logging.getLogger(__name__)

LINES_PER_TRAINING = 200


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
            if type(record["step"]) is not int or not all(map(math.isfinite, record.values())) or record["step"] < 0:
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
        self._bar: Any = None
        if active:
            write_text(path, "".join(json.dumps(kept) + "\n" for kept in logged(path) if kept["step"] <= start.step))
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(total=plan.steps, initial=start.step, unit="update", dynamic_ncols=True)

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
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.3f}{extra}")
        elif more or step == self.plan.steps or step % (10 * self.interval) == 0:
            line = "update %d of %d, epoch %d: loss %.4f, rate %.3g, %.0f images/s%s"
            logger.info(line, step, self.plan.steps, epoch + 1, loss, rate, speed, extra)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._bar is not None:
            self._bar.close()
