"""What a training records, and when it stops itself: divergence, signals, the wall-time budget."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import RECIPE
from tiny_trainer import Batch, batches, load_state, records, run, trainer

from lska.train.classifier import Trainer
from lska.train.dense_loading import DensePlan
from lska.train.distributed import Processes
from lska.train.engine import DivergedError
from lska.train.interrupt import Interrupted, StopRequest, stop_request
from lska.train.loading import BatchPlan
from lska.train.progress import Progress, TrainingLog, logged
from lska.train.saved_state import state_files

# Ten updates of one image, five an epoch.
PLAN = BatchPlan(5, 1, 1, 2, 0)


def test_the_record_has_every_interval_once(tmp_path: Path) -> None:
    made = trainer(tmp_path, epochs=2)
    lines = records(run(made))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["epoch"] for line in lines] == [0] * 4 + [1] * 4
    assert lines[0]["learning_rate"] == RECIPE["warmup_learning_rate"]
    assert lines[4]["learning_rate"] == pytest.approx((RECIPE["learning_rate"] + RECIPE["minimum_learning_rate"]) / 2)
    assert all(line["images_per_second"] > 0 and math.isfinite(line["loss"]) for line in lines)
    assert made.progress.last_loss == lines[-1]["loss"]


def test_damaged_lines_of_a_record_are_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "train.jsonl"
    damaged = [
        b"[]", b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}", b'{"step": true}', b"{}", b"", b'{"step": 1.5}',
        b'{"step": -1}', b'{"step": 1, "loss": NaN}', b'{"step": 1, "loss": {}}', b"\0" * 512, b"\xff",
    ]  # fmt: skip
    sound = [b'{"step": 1, "images_per_second": 5.0}', b'{"step": 2}']
    path.write_bytes(b"\n".join([sound[0], *damaged, sound[1], b'{"step": 3, "lo']))
    assert logged(path) == [{"step": 1, "images_per_second": 5.0}, {"step": 2}]
    for number in range(2, 2 + len(damaged)):
        assert f"{path}: line {number}: " in caplog.text
    log = TrainingLog(path, Progress(step=2, seconds=1.0), PLAN)
    assert [line["step"] for line in records(path)] == [1, 2]
    log.path = Path("/dev/full")
    with pytest.raises(OSError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        log.record(Progress(step=3, seconds=1.5, last_loss=0.5), 0, 0.1)
    path.unlink()
    assert logged(path) == []
    TrainingLog(path, Progress(), PLAN, active=False).record(Progress(step=1, seconds=1.0, last_loss=0.5), 0, 0.1)
    assert list(tmp_path.iterdir()) == [], "only the main process writes"
    long = TrainingLog(path, Progress(), DensePlan(333, 1, 1, 1, 0, updates=1000))
    assert [step for step in range(1, 1001) if long.due(step)] == sorted({*range(5, 1001, 5), 333, 666, 999})


def poisoned(after: int) -> Iterator[Batch]:
    for number, (images, labels) in enumerate(batches()):
        yield images * (math.nan if number >= 2 * after else 1.0), labels


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    made = trainer(tmp_path, seconds=-1.0)
    with pytest.raises(DivergedError) as caught:
        run(made, feed=poisoned(after=5))
    message = str(caught.value)
    assert "training diverged: the loss is nan at update 6 of 12" in message
    assert f"the last good state is {tmp_path / 'state-00000005.pt'}" in message
    assert "Lower learning_rate, set clip_gradient, or use precision fp32" in message
    state = load_state(tmp_path)
    assert state is not None
    assert state["progress"]["step"] == 5
    assert all(torch.isfinite(weights).all() for weights in state["network"].values())
    assert [line["step"] for line in records(tmp_path / "train.jsonl")] == [1, 2, 3, 4, 5]


def test_the_budget_ends_an_attempt_with_room_for_one_more_update(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("lska.train.interrupt.time.monotonic", lambda: now)
    stop = StopRequest(200.0)  # keeps 10 seconds, a twentieth, for what comes after the last update
    now = 1150.0
    assert stop.reason(longest_update=40.0) is None
    assert stop.reason(longest_update=40.1) == "the wall-time budget is nearly used up"
    now = 1190.1
    assert stop.reason() == "the wall-time budget is nearly used up"
    assert StopRequest(None).reason(1e9) is None


class Apart(Processes):
    """Two processes on GPUs, of which the other one wishes nothing, and how often they agreed."""

    agreements = 0

    def largest_of(self, *values: int) -> list[int]:
        Apart.agreements += 1
        return list(values)


def test_scoring_and_saving_count_for_the_budget_and_not_as_training_and_processes_agree_about_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("lska.train.engine.time.monotonic", lambda: now)

    def score(made: Any) -> dict[str, float]:
        nonlocal now
        now += 30.0
        return {}

    asked = []

    class Asked(StopRequest):
        def reason(self, longest_update: float = 0.0) -> str | None:
            asked.append(longest_update)

    class Timed(Trainer):
        def update(self, batches: Any) -> torch.Tensor:
            nonlocal now
            now += 0.25
            self.progress.step += 1
            return torch.tensor(1.0)

    monkeypatch.setattr("tiny_trainer.Trainer", Timed)
    made = trainer(tmp_path, more={"score_held_out": score}, validation_interval=1)
    run(made, Asked(None))
    assert made.progress.seconds == 12 * 0.25
    assert asked == [0.25] * 4 + [30.25] * 8
    made = trainer(tmp_path / "apart")
    made.group = Apart(0, 2, torch.device("cuda"))
    made.finite, made.save = float, lambda: None
    run(made, Asked(None))
    assert Apart.agreements == 4  # after updates 1, 5, 9 and the last
    assert asked[-3:] == [1.0] * 3


def test_a_signal_stops_after_the_update_with_a_state(tmp_path: Path) -> None:
    made, stop = trainer(tmp_path), StopRequest(None)

    def feed() -> Iterator[Batch]:
        for number, batch in enumerate(batches()):
            if number == 10:
                stop.handle(signal.SIGTERM, None)
            yield batch

    with pytest.raises(Interrupted, match="received SIGTERM; state saved after update 6"):
        run(made, stop, feed())
    assert [path.name for path in state_files(tmp_path)] == ["state-00000006.pt"]


def test_a_signal_during_the_last_update_lets_the_training_end(tmp_path: Path) -> None:
    made, stop = trainer(tmp_path), StopRequest(None)
    made.progress.step = 11
    stop.handle(signal.SIGTERM, None)
    run(made, stop)
    assert [path.name for path in state_files(tmp_path)] == ["state-00000012.pt"]


def test_a_signal_becomes_a_reason_and_a_second_interrupt_stops_at_once() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        former = signal.getsignal(number)
        with stop_request(None) as stop:
            assert stop.reason() is None
            signal.raise_signal(number)
            assert stop.reason() == f"received {number.name}"
        assert signal.getsignal(number) is former
    with pytest.raises(KeyboardInterrupt), stop_request(None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
