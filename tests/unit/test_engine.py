"""One update after another: schedule, accumulation, averaging, precision, and what a state brings back."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from tiny_project import RUN, Project, fresh
from tiny_trainer import batches, linear, trainer
from torch import nn

from lska.models.runs import Run
from lska.train.classifier import Trainer
from lska.train.saved_state import StateError, read_state, save_state, state_files

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


def test_the_rate_reaches_every_weight(tmp_path: Path) -> None:
    made = trainer(tmp_path, linear(batch_norm=True), weight_decay=0.05)
    rate = made.rate(5)
    assert [group["lr"] for group in made.optimizer.param_groups] == [rate, rate]
    decays = {len(group["params"]): group["weight_decay"] for group in made.optimizer.param_groups}
    assert decays == {3: 0.0, 1: 0.05}  # biases and norm weights, and the one matrix


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


def test_large_gradients_are_clipped(tmp_path: Path) -> None:
    lengths = []
    for clip in (None, 1e-3):
        made = trainer(
            tmp_path, clip_gradient=clip, optimizer="sgd", weight_decay=0.0, warmup_learning_rate=0.1
        )  # fmt: skip
        before = [weights.detach().clone() for weights in made.network.parameters()]
        rate = made.rate(0)
        made.update(batches())
        moves = [new - old for new, old in zip(made.network.parameters(), before, strict=True)]
        lengths.append(torch.cat([move.flatten() for move in moves]).norm().item() / (1.9 * rate))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(1e-3, rel=1e-3)


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


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """A state with other content and a checksum that is right."""
    state = read_state(path)
    edit(state)
    save_state(path.parent, int(path.stem.removeprefix("state-")), state)


UNFIT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "other shapes": lambda state: state["network"].update({"1.weight": torch.ones(4, 7)}),
    "other names": lambda state: state["network"].pop("1.weight"),
    "not a tensor": lambda state: state["network"].update({"1.weight": "heavy"}),
    "not finite": lambda state: state["network"]["1.weight"].fill_(math.nan),
    "no average": lambda state: state.update(average=None),
    "no optimizer": lambda state: state.update(optimizer=[]),
    "other moments": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(2)),
    "no progress": lambda state: state.pop("progress"),
    "progress a list": lambda state: state.update(progress=[]),
    "beyond the end": lambda state: state["progress"].update(step=13),
    "before the beginning": lambda state: state["progress"].update(step=-1),
    "step a text": lambda state: state["progress"].update(step="four"),
    "unknown progress": lambda state: state["progress"].update(luck=1),
    "endless seconds": lambda state: state["progress"].update(seconds=math.inf),
    "attempts a number": lambda state: state["progress"].update(attempts=3),
}


def test_a_state_that_does_not_fit_is_told_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(tmp_path / "sound", ema_decay=0.9)
    for step in range(8):
        updated(made, step).progress.last_loss = 1.0
        if step in (3, 7):
            made.save()
    for name, edit in UNFIT.items():
        folder = tmp_path / name.replace(" ", "-")
        shutil.copytree(tmp_path / "sound", folder)
        edited(folder / "state-00000008.pt", edit)
        caplog.clear()
        again = trainer(folder, ema_decay=0.9)
        assert again.progress.step == 4, name
        assert f"{folder / 'state-00000008.pt'}" in caplog.text and "trying the state before it" in caplog.text, name
        again.update(batches())
        assert [path.name for path in state_files(folder)] == ["state-00000004.pt", "state-00000008.pt"]
        edited(folder / "state-00000004.pt", edit)
        with pytest.raises(StateError, match=f"no training state in {folder} is intact"):
            trainer(folder, ema_decay=0.9)
    with pytest.raises(ValueError, match=r"sound holds states of another training \(sha256:mine, expected sha256:oth"):
        trainer(tmp_path / "sound", digest="sha256:other", ema_decay=0.9)


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
    for run, architecture in IMPOSSIBLE:
        with pytest.raises(ValueError) as caught:
            fresh(project.config(), Run.parse(run), 4, architecture=architecture)
        said.append(f"{run} {architecture}: {caught.value}")
    with pytest.raises(ValueError) as caught:
        trainer(tmp_path, optimizer="nope")
    assert "\n".join([*said, str(caught.value)]) == snapshot
