"""What a training says while it runs: train.jsonl, and a bar on a terminal or plain lines in a log."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.files import FileError, MissingFileError, decode_text, kind_of, parse_json, quoted, read_bytes, write_text
from lska.strict import build

if TYPE_CHECKING:
    from lska.train.lease import Lease

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

    @classmethod
    def restored(cls, values: Any, where: str, steps: int) -> Progress:
        """That of a state, which `where` names, of a training with `steps` updates.

        Raises:
            ValueError: it cannot be that.
        """
        if not isinstance(values, dict):
            raise FileError(f"{where}: progress: expected a mapping, found {kind_of(values)}")
        made = build(cls, values, f"{where}, progress")
        if not (0 <= made.step <= steps and made.seconds >= 0 and made.skipped >= 0):
            raise FileError(f"{where}: progress: expected a step from 0 to {steps}, found {quoted(values)}")
        return made


def logged(path: Path) -> list[dict[str, Any]]:
    """What a training has recorded in its train.jsonl; a damaged line is told and left out.

    Raises:
        FileError: there is something else in its place, or it cannot be read.
    """
    try:
        lines = read_bytes(path).split(b"\n")
    except MissingFileError:
        return []
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(_record(line, f"{path}: line {number}"))
        except FileError as error:
            logger.warning("%s; this line is not used", error)
    # A process that writes, or was killed, leaves half a line at the end.
    return found


def _record(line: bytes, where: str) -> dict[str, Any]:
    record = parse_json(decode_text(line, where), where)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in record.values())
    if not numbers or not isinstance(record.get("step"), int) or record["step"] < 0:
        raise FileError(f"{where}: expected numbers, `step` a whole one, found {quoted(record)}")
    return record


class TrainingLog:
    """train.jsonl with one record per interval: step, epoch, loss of that update (nats), rate, images per second.

    A resumed training drops the records after the state it goes on from, so that no update is logged twice. Records
    fall on the last update of every epoch and on `LINES_PER_TRAINING` evenly spaced ones. Only the main process of a
    training writes (`active`), and only while it holds its lease; the others use `due` alone.
    """

    def __init__(
        self,
        path: Path,
        start: Progress,
        steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        active: bool = True,
        lease: Lease | None = None,
    ) -> None:
        self.path, self.steps = path, steps
        self.steps_per_epoch, self.images_per_step = steps_per_epoch, images_per_step
        self.interval = max(1, steps // LINES_PER_TRAINING)
        self.active, self.lease = active, lease
        self._step, self._seconds = start.step, start.seconds
        if active:
            self._keep_until(start.step)
        self._bar = self._make_bar(start.step) if active and sys.stderr.isatty() else None

    def _keep_until(self, step: int) -> None:
        kept = [json.dumps(record) + "\n" for record in logged(self.path) if record["step"] <= step]
        write_text(self.path, "".join(kept))

    def _make_bar(self, start: int) -> Any:
        from tqdm import tqdm

        return tqdm(total=self.steps, initial=start, unit="update", dynamic_ncols=True)

    def due(self, step: int) -> bool:
        """Whether the loss after update `step` (counted from 1) is to be recorded."""
        return step % self.interval == 0 or step % self.steps_per_epoch == 0 or step == self.steps

    def record(self, progress: Progress, epoch: int, rate: float, **more: float) -> None:
        """Append one record and show it."""
        if not self.active or (self.lease is not None and not self.lease.holds()):
            return
        step, loss = progress.step, progress.last_loss
        speed = (step - self._step) * self.images_per_step / (progress.seconds - self._seconds)
        entry = {"step": step, "epoch": epoch, "loss": loss, "learning_rate": rate, "images_per_second": speed, **more}
        self._append(json.dumps(entry) + "\n")
        self._show(step, epoch, loss, rate, speed, more)
        self._step, self._seconds = step, progress.seconds

    def _append(self, line: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            # Python names no file where writing fails for want of space.
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _show(self, step: int, epoch: int, loss: float, rate: float, speed: float, more: dict[str, float]) -> None:
        extra = "".join(f", {name} {value:.2f}" for name, value in more.items())
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.3f}{extra}")
        elif more or step == self.steps or step % (10 * self.interval) == 0:
            line = "update %d of %d, epoch %d: loss %.4f, rate %.3g, %.0f images/s%s"
            logger.info(line, step, self.steps, epoch + 1, loss, rate, speed, extra)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._bar is not None:
            self._bar.close()
