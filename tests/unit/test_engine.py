"""One update after another: schedule, accumulation, averaging, precision, and what a state brings back."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import RUN, Project
from tiny_trainer import ALONE, batches, job, linear
from torch import nn

from lska.runs import Run
from lska.train.engine import Trainer, _optimizer
from lska.train.launch import build_network
from lska.train.state import StateError, read_state, save_state, state_files

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
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    Trainer(job(tmp_path), linear(), ALONE)
    assert compiled == [] and "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    trainer = Trainer(job(tmp_path, compile=True), linear(), ALONE)
    assert compiled == [trainer.network]
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).stat().st_mode & 0o777 == 0o700


def test_states_of_another_training_are_refused(tmp_path: Path) -> None:
    Trainer(job(tmp_path), linear(), ALONE).save()
    with pytest.raises(ValueError) as caught:
        Trainer(replace(job(tmp_path), digest="sha256:other"), linear(), ALONE)
    assert f"{tmp_path} holds states of another training (sha256:mine, expected sha256:other)" in str(caught.value)


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
    settings = job(tmp_path / "sound", ema_decay=0.9)
    trainer = Trainer(settings, linear(), ALONE)
    for step in range(8):
        trainer.rate(step)
        trainer.update(batches())
        trainer.progress.last_loss = 1.0
        if step in (3, 7):
            trainer.save()
    for name, edit in UNFIT.items():
        folder = tmp_path / name.replace(" ", "-")
        shutil.copytree(tmp_path / "sound", folder)
        edited(folder / "state-00000008.pt", edit)
        caplog.clear()
        again = Trainer(replace(settings, folder=folder), linear(), ALONE)
        assert again.progress.step == 4, name
        assert f"{folder / 'state-00000008.pt'}" in caplog.text and "trying the state before it" in caplog.text, name
        again.update(batches())
        assert [path.name for path in state_files(folder)] == ["state-00000004.pt", "state-00000008.pt"]
        edited(folder / "state-00000004.pt", edit)
        with pytest.raises(StateError, match=f"no training state in {folder} is intact"):
            Trainer(replace(settings, folder=folder), linear(), ALONE)


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


def test_every_network_of_the_project_takes_the_scales_architecture(project: Project) -> None:
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
        ("vit_tny-s0", {}, "unknown name 'vit_tny'.*did you mean .*vit"),
        ("van_tiny-lska-k8-s0", {}, "kernel_size: .*found 8; nearest: 7 or 9"),
        ("van_tiny-s0", {}, "van_tiny-s0: van_tiny needs an attention and a kernel, for example van_tiny-lska-k23-s0"),
        ("van_tiny-lska-k7-s0", {"embed_dim": [8]}, "unknown setting embed_dim"),
        ("resnet18-s0", {"channels": [8, -8, 8, 8]}, "architecture.resnet18 .*-8.* does not fit the model: .*negative"),
        ("van_tiny-lska-k7-s0", {"embed_dims": 8}, "architecture.van_tiny .*'embed_dims': 8.* does not fit the model"),
        ("convnext_tiny-lska-k7-s0", {}, "unknown model 'convnext_tiny'; attentions belong to van_tiny, van_small"),
    ],
)
def test_impossible_networks_are_named(
    project: Project, run_id: str, architecture: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(project.config(), Run.parse(run_id), 4, architecture=architecture)


def test_an_unknown_optimizer_is_named(project: Project) -> None:
    config = project.config({"training": {"overrides": {"optimizer": "nope"}}})
    with pytest.raises(ValueError, match=r"recipe: optimizer: expected a name .*, such as adamw, found 'nope'"):
        _optimizer(build_network(config, project.run, 4), config.recipe_of(project.run))
