"""One update after another: schedule, accumulation, averaging, precision, what a state brings back, and when a training
stops itself: divergence, signals, the wall-time budget.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from tiny_project import RECIPE, RUN, Project, fresh
from tiny_trainer import Batch, batches, linear, load_state, records, run, trainer
from torch import nn

from lska.models.runs import Run
from lska.train.classifier import Trainer
from lska.train.distributed import Processes
from lska.train.engine import DivergedError
from lska.train.interrupt import Interrupted, StopRequest, stop_request
from lska.train.saved_state import state_files

# Computed by hand from protocol.md, section 2: 1e-6 + t (1e-3 - 1e-6) / 5 for t < 5, then
# 1e-6 + (1e-3 - 1e-6) (1 + cos(pi t / 300)) / 2 for t < 300, then 1e-6; t in epochs.
PUBLISHED_RATES = {
    0: 1e-6, 1: 2.008e-4, 4: 8.002e-4, 5: 9.993154e-4, 100: 7.5025e-4, 150: 5.005e-4, 299: 1.0273879e-6, 300: 1e-6,
    309: 1e-6,
}  # fmt: skip
PUBLISHED = {
    "epochs": 300, "cooldown_epochs": 10, "warmup_epochs": 5, "learning_rate": 1e-3, "warmup_learning_rate": 1e-6,
    "minimum_learning_rate": 1e-6,
}  # fmt: skip


def updated(made: Trainer, *steps: int) -> Trainer:
    """The trainer after these updates, each on the same two micro-batches."""
    for step in steps:
        made.rate(step)
        made.update(batches())
    return made


def test_the_rate_follows_the_published_curve_by_epoch_and_by_update(tmp_path: Path) -> None:
    for unit, position in (("epoch", 0), ("epoch", 3), ("update", 0)):
        made = trainer(tmp_path, schedule_unit=unit, **PUBLISHED)
        rates = {epoch: made.rate(4 * epoch + position) for epoch in PUBLISHED_RATES}
        assert rates == pytest.approx(PUBLISHED_RATES, rel=1e-6)
    assert made.plan.steps == 4 * 310
    # In the middle of the first epoch and of the 151st.
    assert made.rate(2) == pytest.approx(1.009e-4, rel=1e-6)
    assert made.rate(602) == pytest.approx(4.978848e-4, rel=1e-6)


def test_an_update_is_the_mean_over_its_micro_batches(tmp_path: Path) -> None:
    made = trainer(tmp_path, optimizer="sgd", weight_decay=0.0, clip_gradient=None, channels_last=False)
    expected = linear()
    images, labels = map(torch.cat, zip(*itertools.islice(batches(), 2), strict=True))
    loss = nn.functional.cross_entropy(expected(images), labels, label_smoothing=0.1)
    loss.backward()
    rate = made.rate(0)
    assert made.update(batches()).item() == pytest.approx(loss.item(), rel=1e-6)
    for found, before in zip(made.network.parameters(), expected.parameters(), strict=True):
        # timm's sgd has Nesterov momentum of 0.9: its first step is 1.9 times the gradient.
        assert torch.allclose(found, before - 1.9 * rate * before.grad, atol=1e-7)
    assert made.progress.step == 1


def test_the_average_is_what_is_exported(tmp_path: Path) -> None:
    made = trainer(tmp_path, ema_decay=0.75)
    weights = [updated(made, step).network[1].weight.detach().clone() for step in range(4)]
    # timm averages from the third update on; until then it copies.
    expected = 0.75 * (0.75 * weights[1] + 0.25 * weights[2]) + 0.25 * weights[3]
    assert torch.allclose(made.exported[1].weight, expected, atol=1e-7)
    plain = trainer(tmp_path)
    assert plain.exported is plain.network


def test_precision_and_layout_are_those_of_the_recipe(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        made = trainer(tmp_path, precision=precision)
        losses[precision] = made.update(batches()).item()
        assert {weights.dtype for weights in made.network.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    for last in (True, False):
        made = trainer(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 3)), channels_last=last)
        assert made.network[0].weight.is_contiguous(memory_format=torch.channels_last) is last


def test_compilation_is_a_choice_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    trainer(tmp_path)
    assert compiled == [] and "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    made = trainer(tmp_path, compile=True)
    assert compiled == [made.network]
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).stat().st_mode & 0o777 == 0o700


def test_a_state_brings_everything_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"more": {"images": SimpleNamespace(skipped=3)}, "ema_decay": 0.9}
    first = updated(trainer(tmp_path, linear(batch_norm=True), **settings), *range(5))
    first.progress.last_loss = 1.5
    first.save()
    with caplog.at_level(logging.INFO):
        second = trainer(tmp_path, linear(batch_norm=True), **settings)
    assert "going on after update 5 of 12" in caplog.text
    assert second.progress == first.progress
    pairs = zip(*(updated(made, 5).exported.state_dict().values() for made in (second, first)), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
    second.save()
    assert second.progress.skipped == 6  # three in the first attempt and three in the second


def test_every_network_of_the_project_takes_the_scales_architecture(project: Project) -> None:
    network = fresh(project.config(), RUN, 4, drop_path=0.2)
    assert (network.num_features, network.num_classes) == (8, 4)
    again = fresh(project.config(), RUN, 4, drop_path=0.2)
    other = fresh(project.config(), RUN.with_seed(1), 4, drop_path=0.2)
    assert torch.equal(network.head.weight, again.head.weight)
    assert not torch.equal(network.head.weight, other.head.weight)


IMPOSSIBLE = [
    ("vit_tny-s0", {}),
    ("van_tiny-lska-k8-s0", {}),
    ("van_tiny-s0", {}),
    ("van_tiny-lska-k7-s0", {"embed_dim": [8]}),
    ("resnet18-s0", {"channels": [8, -8, 8, 8]}),
    ("van_tiny-lska-k7-s0", {"embed_dims": 8}),
    ("convnext_tiny-lska-k7-s0", {}),
]


def test_impossible_networks_and_optimizers_are_named(
    project: Project, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    said = []
    for text, architecture in IMPOSSIBLE:
        with pytest.raises(ValueError) as caught:
            fresh(project.config(), Run.parse(text), 4, architecture=architecture)
        said.append(f"{text} {architecture}: {caught.value}")
    with pytest.raises(ValueError) as caught:
        trainer(tmp_path, optimizer="nope")
    assert "\n".join([*said, str(caught.value)]) == snapshot


def test_the_record_has_every_interval_once(tmp_path: Path) -> None:
    made = trainer(tmp_path, epochs=2)
    lines = records(run(made))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["epoch"] for line in lines] == [0] * 4 + [1] * 4
    assert lines[0]["learning_rate"] == RECIPE["warmup_learning_rate"]
    assert lines[4]["learning_rate"] == pytest.approx((RECIPE["learning_rate"] + RECIPE["minimum_learning_rate"]) / 2)
    assert all(line["images_per_second"] > 0 and math.isfinite(line["loss"]) for line in lines)
    assert made.progress.last_loss == lines[-1]["loss"]


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


def test_a_signal_stops_after_the_update_with_a_state_and_during_the_last_one_lets_the_training_end(
    tmp_path: Path,
) -> None:
    made, stop = trainer(tmp_path), StopRequest(None)

    def feed() -> Iterator[Batch]:
        for number, batch in enumerate(batches()):
            if number == 10:
                stop.handle(signal.SIGTERM, None)
            yield batch

    with pytest.raises(Interrupted, match="received SIGTERM; state saved after update 6"):
        run(made, stop, feed())
    assert [path.name for path in state_files(tmp_path)] == ["state-00000006.pt"]
    made = trainer(tmp_path)
    made.progress.step = 11
    run(made, stop)
    assert [path.name for path in state_files(tmp_path)] == ["state-00000006.pt", "state-00000012.pt"]


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
