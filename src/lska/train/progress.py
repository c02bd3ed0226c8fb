"""What a training says while it runs: train.jsonl, and a bar on a terminal or plain lines in a log."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.files import atomic_path

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
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """Code version and environment of every attempt that trained, in order."""
    skipped: int = 0
    """Unreadable images met, in all attempts and processes; one counts each time it is met."""


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
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        # A killed process may leave half a line at the end.
        records = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

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
