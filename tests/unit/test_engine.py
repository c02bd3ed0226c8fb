"""One update after another: schedule, accumulation, averaging, records, and when a training stops itself."""

from __future__ import annotations

import itertools
import json
import logging
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import RECIPE, RUN, Project
from torch import nn

from lska.strict import build
from lska.train import engine
from lska.train.distributed import Processes
from lska.train.engine import DivergedError, Job, Trainer, fit
from lska.train.interrupt import Interrupted, StopRequest, stop_request
from lska.train.loading import Plan
from lska.train.progress import Progress, TrainingLog
from lska.train.recipe import Recipe
from lska.train.scoring import Scores
from lska.train.state import load_state, state_files

ALONE = Processes(0, 1, torch.device("cpu"))
Batch = tuple[torch.Tensor, torch.Tensor]


def job(folder: Path, plan: dict[str, int] | None = None, **changes: Any) -> Job:
    recipe = build(Recipe, {**RECIPE, **changes}, "recipe")
    sizes = {
        "length": 76,
        "micro_batch": 8,
        "micro_batches": 2,
        "epochs": recipe.total_epochs,
        "seed": 0,
        **(plan or {}),
    }
    return Job(recipe, Plan(**sizes), 4, folder, "sha256:mine", state_seconds=math.inf)


def linear(batch_norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(3)] if batch_norm else []
    return nn.Sequential(*norm, nn.Flatten(), nn.Linear(3 * 4 * 4, 4))


def batches() -> Iterator[Batch]:
    for number in itertools.count():
        generator = torch.Generator().manual_seed(number)
        yield torch.randn(8, 3, 4, 4, generator=generator), torch.randint(0, 4, (8,), generator=generator)


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


@pytest.mark.parametrize("position", [0, 3])
def test_the_rate_follows_the_published_curve_by_epoch(tmp_path: Path, position: int) -> None:
    trainer = Trainer(job(tmp_path, schedule_unit="epoch", **PUBLISHED), linear(), ALONE)
    rates = {epoch: trainer.rate(4 * epoch + position) for epoch in PUBLISHED_RATES}
    assert rates == pytest.approx(PUBLISHED_RATES, rel=1e-6)
    assert trainer.job.plan.steps == 4 * 310


def test_the_rate_follows_the_same_curve_by_update(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path, schedule_unit="update", **PUBLISHED), linear(), ALONE)
    rates = {epoch: trainer.rate(4 * epoch) for epoch in PUBLISHED_RATES}
    assert rates == pytest.approx(PUBLISHED_RATES, rel=1e-6)
    # In the middle of the first epoch and of the 151st.
    assert trainer.rate(2) == pytest.approx(1.009e-4, rel=1e-6)
    assert trainer.rate(602) == pytest.approx(4.978848e-4, rel=1e-6)


def test_the_rate_reaches_every_weight(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path, weight_decay=0.05), linear(batch_norm=True), ALONE)
    rate = trainer.rate(5)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [rate, rate]
    decays = {len(group["params"]): group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decays == {3: 0.0, 1: 0.05}  # biases and norm weights, and the one matrix


def test_an_update_is_the_mean_over_its_micro_batches(tmp_path: Path) -> None:
    plain = {"optimizer": "sgd", "weight_decay": 0.0, "clip_gradient": None, "channels_last": False}
    trainer = Trainer(job(tmp_path, **plain), linear(), ALONE)
    expected = linear()
    images, labels = map(torch.cat, zip(*itertools.islice(batches(), 2), strict=True))
    loss = nn.functional.cross_entropy(expected(images), labels, label_smoothing=0.1)
    loss.backward()
    rate = trainer.rate(0)
    assert trainer.update(batches()).item() == pytest.approx(loss.item(), rel=1e-6)
    for found, before in zip(trainer.network.parameters(), expected.parameters(), strict=True):
        # timm's sgd has Nesterov momentum of 0.9: its first step is 1.9 times the gradient.
        assert torch.allclose(found, before - 1.9 * rate * before.grad, atol=1e-7)
    assert trainer.progress.step == 1


def test_large_gradients_are_clipped(tmp_path: Path) -> None:
    lengths = []
    for clip in (None, 1e-3):
        plain = {"optimizer": "sgd", "weight_decay": 0.0, "warmup_learning_rate": 0.1}
        trainer = Trainer(job(tmp_path, clip_gradient=clip, **plain), linear(), ALONE)
        before = [weights.detach().clone() for weights in trainer.network.parameters()]
        rate = trainer.rate(0)
        trainer.update(batches())
        moves = [new - old for new, old in zip(trainer.network.parameters(), before, strict=True)]
        lengths.append(torch.cat([move.flatten() for move in moves]).norm().item() / (1.9 * rate))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_average_is_what_is_exported(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path, ema_decay=0.75), linear(), ALONE)
    weights = []
    for step in range(4):
        trainer.rate(step)
        trainer.update(batches())
        weights.append(trainer.network[1].weight.detach().clone())
    # timm averages from the third update on; until then it copies.
    expected = 0.75 * (0.75 * weights[1] + 0.25 * weights[2]) + 0.25 * weights[3]
    assert torch.allclose(trainer.exported[1].weight, expected, atol=1e-7)
    assert Trainer(job(tmp_path), linear(), ALONE).exported[1].weight.shape == (4, 48)


def test_without_an_average_the_network_itself_is_exported(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path), linear(), ALONE)
    assert trainer.exported is trainer.network


def test_bfloat16_computes_in_fewer_bits_and_keeps_weights_in_32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(job(tmp_path, precision=precision), linear(), ALONE)
        losses[precision] = trainer.update(batches()).item()
        assert {weights.dtype for weights in trainer.network.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_the_layout_is_that_of_the_recipe(tmp_path: Path) -> None:
    for last in (True, False):
        trainer = Trainer(job(tmp_path, channels_last=last), nn.Sequential(nn.Conv2d(3, 4, 3)), ALONE)
        assert trainer.network[0].weight.is_contiguous(memory_format=torch.channels_last) is last


def test_compilation_is_a_choice_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    Trainer(job(tmp_path), linear(), ALONE)
    assert compiled == []
    trainer = Trainer(job(tmp_path, compile=True), linear(), ALONE)
    assert compiled == [trainer.network]


def run(trainer: Trainer, stop: StopRequest | None = None, feed: Iterator[Batch] | None = None, **more: Any) -> Path:
    plan, path = trainer.job.plan, trainer.job.folder / "train.jsonl"
    log = TrainingLog(path, trainer.progress, plan.steps, plan.steps_per_epoch, 16)
    fit(trainer, feed or batches(), log, stop or StopRequest(None), **more)
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_record_has_every_interval_once(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path, epochs=2), linear(), ALONE)
    lines = records(run(trainer))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["epoch"] for line in lines] == [0] * 4 + [1] * 4
    assert lines[0]["learning_rate"] == RECIPE["warmup_learning_rate"]
    assert lines[4]["learning_rate"] == pytest.approx((RECIPE["learning_rate"] + RECIPE["minimum_learning_rate"]) / 2)
    assert all(line["images_per_second"] > 0 and math.isfinite(line["loss"]) for line in lines)
    assert trainer.progress.last_loss == lines[-1]["loss"]


def test_a_long_training_is_recorded_at_intervals_and_ends_of_epochs(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "train.jsonl", Progress(), steps=1000, steps_per_epoch=333, images_per_step=1)
    due = [step for step in range(1, 1001) if log.due(step)]
    assert due == sorted({*range(5, 1001, 5), 333, 666, 999})


def test_validation_falls_on_its_epochs(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path, epochs=4, validation_interval=2), linear(), ALONE)
    lines = records(run(trainer, validate=lambda: Scores(n=8, top1=2, top5=8, loss=4.0)))
    assert {line["step"]: line["validation_top1"] for line in lines if "validation_top1" in line} == {8: 25.0, 16: 25.0}
    assert lines[7]["validation_loss"] == 0.5


def test_a_resumed_record_drops_what_comes_after_the_state_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    log = TrainingLog(path, Progress(step=2, seconds=1.0), 10, 5, 1)
    log.record(Progress(step=3, seconds=1.5, last_loss=0.5), 0, 0.1)
    assert [line["step"] for line in records(path)] == [1, 2, 3]
    assert records(path)[2]["images_per_second"] == pytest.approx(2.0)


def test_only_the_main_process_writes_a_record(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "train.jsonl", Progress(), 10, 5, 1, active=False)
    log.record(Progress(step=1, seconds=1.0, last_loss=0.5), 0, 0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_the_name_of_the_record(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "train.jsonl", Progress(), 10, 5, 1)
    log.path = Path("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        log.record(Progress(step=1, seconds=1.0, last_loss=0.5), 0, 0.1)


def poisoned(after: int) -> Iterator[Batch]:
    for number, (images, labels) in enumerate(batches()):
        yield images * (math.nan if number >= 2 * after else 1.0), labels


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    trainer = Trainer(replace(job(tmp_path), state_seconds=-1.0), linear(), ALONE)
    with pytest.raises(DivergedError) as caught:
        run(trainer, feed=poisoned(after=5))
    message = str(caught.value)
    assert "training diverged: the loss is nan at update 6 of 12" in message
    assert f"the last good state is {tmp_path / 'state-00000005.pt'}" in message
    assert "Lower learning_rate, set clip_gradient, or use precision fp32" in message
    state = load_state(tmp_path)
    assert state is not None
    assert state["progress"]["step"] == 5
    assert all(torch.isfinite(weights).all() for weights in state["network"].values())
    assert [line["step"] for line in records(tmp_path / "train.jsonl")] == [1, 2, 3, 4, 5]


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path), linear(), ALONE)
    trainer.save()
    trainer.progress.step = 1
    with torch.no_grad():
        trainer.network[1].bias[0] = math.inf
    with pytest.raises(DivergedError, match="weights are no longer finite at update 1 of 12"):
        trainer.save()
    assert [path.name for path in state_files(tmp_path)] == ["state-00000000.pt"]


def test_divergence_before_the_first_state_is_told(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="no state was saved before"):
        run(Trainer(job(tmp_path), linear(), ALONE), feed=poisoned(after=0))


def test_states_of_another_training_are_refused(tmp_path: Path) -> None:
    Trainer(job(tmp_path), linear(), ALONE).save()
    with pytest.raises(ValueError) as caught:
        Trainer(replace(job(tmp_path), digest="sha256:other"), linear(), ALONE)
    assert f"{tmp_path} holds states of another training (sha256:mine, expected sha256:other)" in str(caught.value)


def test_a_state_brings_everything_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(job(tmp_path, ema_decay=0.9), skipped=lambda: 3)
    first = Trainer(settings, linear(batch_norm=True), ALONE)
    for step in range(5):
        first.rate(step)
        first.update(batches())
    first.progress.last_loss = 1.5
    first.save()
    with caplog.at_level(logging.INFO):
        second = Trainer(settings, linear(batch_norm=True), ALONE)
    assert "going on after update 5 of 12" in caplog.text
    assert second.progress == first.progress
    for trainer in (first, second):
        trainer.rate(5)
        trainer.update(batches())
    for found, expected in zip(
        second.exported.state_dict().values(), first.exported.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected)
    second.save()
    assert second.progress.skipped == 6  # three in the first attempt and three in the second


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


def test_the_longest_update_counts_scoring_and_saving_and_the_training_time_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(engine.time, "monotonic", lambda: now)
    watch = engine._Watch(state_seconds=50.0)
    now = 2.0
    assert watch.lap() == 2.0
    now = 32.0  # half a minute of scoring
    watch.resume()
    assert watch.longest == 32.0
    now = 35.0
    assert watch.lap() == 3.0
    assert not watch.state_due()
    now = 50.1
    assert watch.state_due()
    watch.state_saved()
    assert not watch.state_due()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_becomes_a_reason_and_handlers_come_back(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with stop_request(None) as stop:
        assert stop.reason() is None
        signal.raise_signal(number)
        assert stop.reason() == f"received {number.name}"
    assert signal.getsignal(number) is former


def test_a_second_interrupt_from_the_keyboard_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_request(None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_signal_stops_after_the_update_with_a_state(tmp_path: Path) -> None:
    trainer, stop = Trainer(job(tmp_path), linear(), ALONE), StopRequest(None)

    def feed() -> Iterator[Batch]:
        for number, batch in enumerate(batches()):
            if number == 10:
                stop.handle(signal.SIGTERM, None)
            yield batch

    with pytest.raises(Interrupted, match="received SIGTERM; state saved after update 6"):
        run(trainer, stop, feed())
    assert [path.name for path in state_files(tmp_path)] == ["state-00000006.pt"]


def test_a_signal_during_the_last_update_lets_the_training_end(tmp_path: Path) -> None:
    trainer, stop = Trainer(job(tmp_path), linear(), ALONE), StopRequest(None)
    trainer.progress.step = 11
    stop.handle(signal.SIGTERM, None)
    run(trainer, stop)
    assert [path.name for path in state_files(tmp_path)] == ["state-00000012.pt"]


def test_every_network_of_the_project_takes_the_scales_architecture(project: Project) -> None:
    from lska.train.launch import build_network

    network = build_network(project.config(), RUN, 4, drop_path=0.2)
    assert network.num_features == 8
    assert network.num_classes == 4
    again = build_network(project.config(), RUN, 4, drop_path=0.2)
    other = build_network(project.config(), RUN.with_seed(1), 4, drop_path=0.2)
    assert torch.equal(network.head.weight, again.head.weight)
    assert not torch.equal(network.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("run_id", "architecture", "message"),
    [
        ("van_tny-lska-k7-s0", {}, "unknown name 'van_tny'.*van_tiny"),
        ("van_tiny-lska-k8-s0", {}, "kernel_size: .*found 8; nearest: 7 or 9"),
        ("van_tiny-s0", {}, "van_tiny-s0: van_tiny needs an attention and a kernel, for example van_tiny-lska-k23-s0"),
        ("van_tiny-lska-k7-s0", {"embed_dim": [8]}, "unknown setting embed_dim"),
        ("van_tiny-lska-k7-s0", {"embed_dims": 8}, "architecture.van_tiny .*'embed_dims': 8.* does not fit the model"),
        ("convnext_tiny-lska-k7-s0", {}, "'convnext_tiny' has no attention or kernel_size setting"),
    ],
)
def test_impossible_networks_are_named(project: Project, run_id: str, architecture: dict, message: str) -> None:
    from lska.runs import Run
    from lska.train.launch import build_network

    config = project.config({"architecture": {"van_tiny": architecture}})
    with pytest.raises(ValueError, match=message):
        build_network(config, Run.parse(run_id), 4)
