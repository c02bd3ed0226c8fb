"""Batches are a function of seed, epoch and position, whatever the workers, the processes and the interruptions; and
processes that load images or make them are not waited for when they are killed or stand still.
"""

from __future__ import annotations

import itertools
import logging
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lease_helpers import until
from syrupy.assertion import SnapshotAssertion
from tiny_project import RECIPE, Project, in_child
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_tensor

from lska.data.entries import DataError
from lska.data.folders import ImageDataset, open_split
from lska.data.perturbed.corrupted_set import in_processes
from lska.provenance.errors import InputError, WorkerError
from lska.provenance.strict import build
from lska.settings.recipes import Recipe
from lska.train import loading
from lska.train.interrupt import Interrupted
from lska.train.loading import (
    BatchPlan,
    Loader,
    MicroBatches,
    SeededImages,
    batch_mixer,
    scoring_loader,
    seed_of,
    training_loader,
    training_transform,
)
from lska.train.loading import test_transform as scoring_transform

STRONG = {
    "rand_augment": "rand-m9-mstd0.5-inc1", "erase_probability": 0.5, "train_interpolation": "random",
    "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0,
}  # fmt: skip
Batch = tuple[torch.Tensor, torch.Tensor]


def recipe(**changes: Any) -> Recipe:
    return build(Recipe, {**RECIPE, **changes}, "recipe")


def plan(length: int = 76, seed: int = 0, **changes: Any) -> BatchPlan:
    return BatchPlan.of(recipe(**changes), length, seed)


def batches(root: Path, start: int = 0, workers: int = 0, rank: int = 0, world: int = 1, count: int = 6) -> list[Batch]:
    images = ImageDataset(open_split(root, "train"), training_transform(recipe(**STRONG)), on_error="skip")
    loader = training_loader(images, plan(len(images)), start, rank, world, workers)
    return [(images.clone(), labels.clone()) for images, labels in itertools.islice(loader, count)]


def equal(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_batches_depend_neither_on_workers_nor_processes_nor_the_start(image_set: Path) -> None:
    through = batches(image_set, count=12)
    # Update 3 is the last of the first epoch, and each update takes two micro-batches.
    assert equal(batches(image_set, start=3, workers=2), through[6:])
    first, second = (batches(image_set, rank=rank, world=2, count=3) for rank in (0, 1))
    assert equal([batch for pair in zip(first, second, strict=True) for batch in pair], through[:6])


def indices(keys: list[list[tuple[int, int]]], epoch: int) -> list[int]:
    return [index for batch in keys for number, index in batch if number == epoch]


def test_no_image_comes_twice_in_an_epoch_and_epochs_differ() -> None:
    keys = list(MicroBatches(plan(), 0, 0, 1))
    assert len(keys) == 3 * 4 * 2
    assert {len(batch) for batch in keys} == {8}
    epochs = [indices(keys, epoch) for epoch in range(3)]
    assert all(len(set(epoch)) == len(epoch) == 64 for epoch in epochs)
    assert all(set(epoch) <= set(range(76)) for epoch in epochs)
    # The images left out of an epoch are others in the next one.
    assert len({tuple(epoch) for epoch in epochs}) == len({frozenset(epoch) for epoch in epochs}) == 3


def test_repeats_of_an_image_are_changed_otherwise_and_go_to_different_micro_batches(image_set: Path) -> None:
    repeated = BatchPlan(60, 8, 4, 2, 0, repeats=3)
    keys = list(MicroBatches(repeated, 0, 0, 1))
    assert len(keys) == 1 * 4 * 2
    (first, *_), images = [indices(keys, epoch) for epoch in range(2)], len(open_split(image_set, "train"))
    shown = [index % 60 for index in first]
    assert len(set(first)) == len(first) == 32 and len(set(shown)) == 11
    # 10 images three times and one twice, in the order of an epoch without repeats.
    assert set(shown) == set(BatchPlan(60, 8, 4, 2, 0).order(0)[:11].tolist())
    assert all(len({index % 60 for _, index in batch}) == 8 for batch in keys)
    seeded = SeededImages(ImageDataset(open_split(image_set, "train"), training_transform(recipe(**STRONG))), 0)
    assert not torch.equal(seeded[0, 5][0], seeded[0, 5 + images][0])
    assert seeded[0, 5][1] == seeded[0, 5 + images][1]


def test_seeds_and_orders() -> None:
    # The first 63 bits of `printf "(0, 'image', 1, 2)" | b2sum -l 64`.
    assert seed_of(0, "image", 1, 2) == 0x5BF936A419BD6BFB >> 1
    assert not torch.equal(plan(seed=0).order(0), plan(seed=1).order(0))
    assert torch.equal(plan(seed=1).order(2), plan(seed=1).order(2))
    assert sorted(plan().order(1).tolist()) == list(range(76))


def test_the_number_of_micro_batches_is_known_and_what_does_not_fit_is_refused(snapshot: SnapshotAssertion) -> None:
    for world, lengths in ((1, [24]), (2, [12, 12])):
        samplers = [MicroBatches(plan(), 0, rank, world) for rank in range(world)]
        assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers] == lengths
    assert len(MicroBatches(plan(), 5, 0, 2)) == len(list(MicroBatches(plan(), 5, 0, 2))) == 7
    assert (plan(length=16).steps_per_epoch, plan(micro_batch=4).share(4), plan(cooldown_epochs=2).steps) == (1, 1, 20)
    said = []
    for refused in (
        lambda: plan(micro_batch=4).share(3),
        lambda: plan(length=15),
        lambda: training_transform(recipe(rand_augment="rand-m9-foo3")),
        lambda: training_transform(recipe(rand_augment="strong")),
    ):
        with pytest.raises(InputError) as caught:
            refused()
        said.append(str(caught.value))
    assert "\n".join(said) == snapshot


def test_scoring_takes_every_image_once_in_order_and_sees_its_normalised_centre(image_set: Path) -> None:
    settings, split = recipe(mean=[0.2, 0.3, 0.4], deviation=[0.5, 0.6, 0.7]), open_split(image_set, "val")
    loaded = list(scoring_loader(split, settings, 7, 2))
    assert [len(labels) for _, labels in loaded] == [7, 7, 7, 3]
    assert torch.cat([labels for _, labels in loaded]).tolist() == [label for label in range(4) for _ in range(6)]
    pixels = to_tensor(ImageDataset(split)[0][0])
    expected = (pixels - torch.tensor(settings.mean)[:, None, None]) / torch.tensor(settings.deviation)[:, None, None]
    assert torch.allclose(loaded[0][0][0], expected, atol=1e-6)
    text = repr(scoring_transform(recipe(image_size=224, test_crop=0.9, test_interpolation="bicubic")))
    assert "Resize(size=248, interpolation=bicubic" in text and "CenterCrop(size=(224, 224))" in text


def test_training_skips_a_truncated_image_and_counts_it_and_scoring_refuses_it(
    project: Project, image_set: Path
) -> None:
    root = Path("damaged set")
    shutil.copytree(image_set, root)
    for split in ("train", "val"):
        path = root / split / "green" / "003.jpg"
        path.write_bytes(path.read_bytes()[:400])
    for workers in (0, 2):
        images = ImageDataset(open_split(root, "train"), training_transform(recipe()), on_error="skip")
        bad = [sample.name.endswith("green/003.jpg") for sample in images.split.samples].index(True)
        keys = list(MicroBatches(plan(), 0, 0, 1))
        expected = sum(index == bad for epoch in range(3) for index in indices(keys, epoch))
        assert len(list(training_loader(images, plan(), 0, 0, 1, workers))) == 24
        assert images.skipped == expected > 0
    with pytest.raises(DataError, match=f"{path}: expected an image, found 400 bytes that cannot be used"):
        list(scoring_loader(open_split(root, "val"), recipe(), 5, 0))


def test_mixing_gives_smoothed_distributions() -> None:
    assert batch_mixer(recipe(), 4) is None
    mixer = batch_mixer(recipe(**STRONG), 4)
    assert mixer is not None
    images, labels = mixer(torch.rand(8, 3, 32, 32), torch.arange(8) % 4)
    assert labels.shape == (8, 4)
    assert torch.allclose(labels.sum(1), torch.ones(8))
    assert labels.min().item() == pytest.approx(RECIPE["label_smoothing"] / 4)


Act = Callable[[int], Any]


class Numbers(Dataset):
    """Tensors of their own index, which do something before they come."""

    def __init__(self, act: Act) -> None:
        self.act = act

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        self.act(index)
        return torch.tensor(index)


def loaded(act: Act, reason: str | None = None) -> list[int]:
    loader = Loader(Numbers(act), 2, lambda: reason, batch_size=2)
    return [int(number) for batch in loader for number in batch]


def at_three(act: Callable[[], Any]) -> Act:
    return lambda index: act() if index == 3 else None


def fail() -> None:
    time.sleep(0.5)
    raise RuntimeError("of a data set")


def fill() -> None:
    """Have no room left for files, those in memory included."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(loading, "_STOP_SECONDS", 0.3)
    monkeypatch.setattr(loading, "BATCH_SECONDS", 1.0)


SILENT: list[tuple[Act, str | None, type[Exception], str]] = [
    (at_three(lambda: os.kill(os.getpid(), signal.SIGKILL)), None, WorkerError, "was ended by SIGKILL"),
    (at_three(lambda: os.kill(os.getpid(), signal.SIGSTOP)), None, WorkerError, "gave no batch for 1 s"),
    (at_three(lambda: time.sleep(60)), "received SIGTERM", Interrupted, "received SIGTERM, while no batch came"),
    (at_three(fail), None, RuntimeError, "of a data set"),
    (at_three(fill), None, WorkerError, r"no room in shared memory .*: unable to .*--shm-size"),
]


def test_a_process_that_gives_no_batch_is_told(hasty: None) -> None:
    for act, reason, kind, message in SILENT:
        began = time.monotonic()
        with pytest.raises(kind, match=message):
            loaded(act, reason)
        assert time.monotonic() - began < 30


def test_slow_batches_all_come_in_order_and_are_told(
    hasty: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "_STOP_SECONDS", 60.0)
    monkeypatch.setattr(loading, "BATCH_SECONDS", 60.0)
    caplog.set_level(logging.INFO)
    assert loaded(lambda index: time.sleep(0.2)) == list(range(6))
    assert loaded(lambda index: time.sleep(0.2), "received SIGTERM") == list(range(6))
    assert "waiting for a batch from 2 process(es) that load images" in caplog.text


def test_batches_and_pools_with_a_long_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("scratch_of_a_job_" * 8)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert loaded(lambda index: None) == list(range(6))
    with in_processes(2) as mapper:
        assert list(mapper(abs, [-1, -2, 3])) == [1, 2, 3]


def test_a_process_of_a_pool_that_ends_is_told() -> None:
    message = "one of 2 processes ended early, perhaps because memory ran out"
    with pytest.raises(WorkerError, match=message), in_processes(2) as mapper:
        list(mapper(os._exit, [3]))


def test_processes_of_a_pool_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    def body() -> None:
        with in_processes(2) as mapper:
            (tmp_path / "children").write_text(" ".join(map(str, mapper(os.getpgid, [0, 0]))))
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
            (tmp_path / "started").write_text(children)
            time.sleep(60)

    parent = in_child(body)
    until(lambda: (tmp_path / "started").exists(), 60)
    parent.kill()
    parent.join()
    children = (tmp_path / "started").read_text().split()
    assert len(children) >= 2
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
