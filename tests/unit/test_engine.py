"""One update after another: schedule, accumulation, averaging, precision, and what a state brings back."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from tiny_project import RUN, Project, fresh
from tiny_trainer import batches, linear, trainer
from torch import nn

from lska.models.runs import Run
from lska.train.classifier import Trainer

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
    for run, architecture in IMPOSSIBLE:
        with pytest.raises(ValueError) as caught:
            fresh(project.config(), Run.parse(run), 4, architecture=architecture)
        said.append(f"{run} {architecture}: {caught.value}")
    with pytest.raises(ValueError) as caught:
        trainer(tmp_path, optimizer="nope")
    assert "\n".join([*said, str(caught.value)]) == snapshot
