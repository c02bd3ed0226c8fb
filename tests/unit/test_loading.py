"""Batches are a function of seed, epoch and position, whatever the workers, the processes and the interruptions."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import RECIPE, Project
from torchvision.transforms.functional import to_tensor

from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.data.folders_torch import ImageDataset
from lska.provenance.strict import build
from lska.settings.recipes import Recipe
from lska.train.loading import (
    BatchPlan,
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


def test_workers_change_nothing(image_set: Path) -> None:
    assert equal(batches(image_set), batches(image_set, workers=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle_of_an_epoch_gives_what_would_have_come(image_set: Path, workers: int) -> None:
    # Update 3 is the last of the first epoch, and each update takes two micro-batches.
    assert equal(batches(image_set, start=3, workers=workers), batches(image_set, count=12)[6:])


def test_two_processes_share_the_micro_batches_of_one(image_set: Path) -> None:
    first, second = (batches(image_set, rank=rank, world=2, count=3) for rank in (0, 1))
    shared = [batch for pair in zip(first, second, strict=True) for batch in pair]
    assert equal(shared, batches(image_set))


def test_an_image_looks_different_in_another_epoch(image_set: Path) -> None:
    images = ImageDataset(open_split(image_set, "train"), training_transform(recipe(**STRONG)))
    loader = training_loader(images, plan(), 0, 0, 1, 0)
    first, again, second = (loader.dataset[key][0] for key in ((0, 5), (0, 5), (1, 5)))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


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


def test_another_seed_gives_another_order() -> None:
    assert not torch.equal(plan(seed=0).order(0), plan(seed=1).order(0))
    assert torch.equal(plan(seed=1).order(2), plan(seed=1).order(2))
    assert sorted(plan().order(1).tolist()) == list(range(76))


def test_seeds_are_the_same_on_every_machine() -> None:
    # The first 63 bits of `printf "(0, 'image', 1, 2)" | b2sum -l 64`.
    assert seed_of(0, "image", 1, 2) == 0x5BF936A419BD6BFB >> 1
    assert len({seed_of(0, "image", a, b) for a in range(10) for b in range(10)}) == 100


def test_the_number_of_micro_batches_is_known_and_what_does_not_fit_is_refused() -> None:
    for world, lengths in ((1, [24]), (2, [12, 12])):
        samplers = [MicroBatches(plan(), 0, rank, world) for rank in range(world)]
        assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers] == lengths
        assert len(MicroBatches(plan(), 5, 0, world)) == len(list(MicroBatches(plan(), 5, 0, world))) == 14 // world
    assert (plan(length=16).steps_per_epoch, plan(micro_batch=4).share(4), plan(cooldown_epochs=2).steps) == (1, 1, 20)
    for refused, message in (
        (
            lambda: plan(micro_batch=4).share(3),
            "4 micro-batches .* cannot be divided among 3 processes; change micro_b",
        ),
        (lambda: plan(length=15), "training set has 15 images, fewer than the global batch of 16; lower global_batch"),
        (
            lambda: training_transform(recipe(rand_augment="rand-m9-foo3")),
            "expected timm's form .*, found 'rand-m9",
        ),
        (
            lambda: training_transform(recipe(rand_augment="strong")),
            "rand_augment: expected timm's form .*, found 's",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            refused()


def test_scoring_takes_every_image_once_in_order(image_set: Path) -> None:
    split = open_split(image_set, "val")
    for workers in (0, 2):
        loaded = list(scoring_loader(split, recipe(), 7, workers))
        assert [len(labels) for _, labels in loaded] == [7, 7, 7, 3]
        assert torch.cat([labels for _, labels in loaded]).tolist() == [label for label in range(4) for _ in range(6)]


def test_scoring_sees_the_normalised_centre(image_set: Path) -> None:
    settings = recipe(mean=[0.2, 0.3, 0.4], deviation=[0.5, 0.6, 0.7])
    split = open_split(image_set, "val")
    (images, _), *_ = scoring_loader(split, settings, 1, 0)
    pixels = to_tensor(ImageDataset(split)[0][0])
    expected = (pixels - torch.tensor(settings.mean)[:, None, None]) / torch.tensor(settings.deviation)[:, None, None]
    assert torch.allclose(images[0], expected, atol=1e-6)


def test_the_paper_resizes_to_248_and_crops_224() -> None:
    text = repr(scoring_transform(recipe(image_size=224, test_crop=0.9, test_interpolation="bicubic")))
    assert "Resize(size=248, interpolation=bicubic" in text
    assert "CenterCrop(size=(224, 224))" in text


def damaged_copy(image_set: Path, split: str) -> tuple[Path, Path]:
    """The image set in the working folder with one truncated image."""
    root = Path("damaged set")
    shutil.copytree(image_set, root)
    path = root / split / "green" / "003.jpg"
    path.write_bytes(path.read_bytes()[:400])
    return root, path


@pytest.mark.parametrize("workers", [0, 2])
def test_training_skips_a_truncated_image_and_counts_it(
    project: Project, image_set: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    root, path = damaged_copy(image_set, "train")
    config = project.config({"data": {"root": str(root)}, "training": {"workers": workers}})
    plan_of_run = plan()
    images = ImageDataset(open_split(root, "train"), training_transform(config.recipe_of(project.run)), on_error="skip")
    bad = [str(path).endswith(sample.name) for sample in images.split.samples].index(True)
    expected = sum(
        index == bad for epoch in range(3) for index in indices(list(MicroBatches(plan_of_run, 0, 0, 1)), epoch)
    )
    with caplog.at_level(logging.WARNING):
        loaded = list(training_loader(images, plan_of_run, 0, 0, 1, workers))
    assert len(loaded) == 24
    assert images.skipped == expected > 0
    if not workers:
        assert caplog.text.count(f"skipped: {path}") == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_scoring_refuses_a_truncated_image(
    project: Project, image_set: Path, workers: int, child: Callable[[Callable[[], int]], int]
) -> None:
    root, path = damaged_copy(image_set, "val")

    def body() -> int:
        with pytest.raises(DataError, match=f"{path}: expected an image, found 400 bytes that cannot be used"):
            list(scoring_loader(open_split(root, "val"), recipe(), 5, workers))
        return 3

    # In a process of its own: torch's loader waits ten seconds for its workers when an error is collected as garbage.
    assert child(body) == 3


def test_mixing_gives_smoothed_distributions() -> None:
    assert batch_mixer(recipe(), 4) is None
    mixer = batch_mixer(recipe(**STRONG), 4)
    assert mixer is not None
    images, labels = mixer(torch.rand(8, 3, 32, 32), torch.arange(8) % 4)
    assert labels.shape == (8, 4)
    assert torch.allclose(labels.sum(1), torch.ones(8))
    assert labels.min().item() == pytest.approx(RECIPE["label_smoothing"] / 4)
