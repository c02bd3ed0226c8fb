"""Batches are a function of seed, epoch and position, whatever the workers, the processes and the interruptions."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from tiny_project import RECIPE, Project
from torchvision.transforms.functional import to_tensor

from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.data.folders_torch import ImageDataset
from lska.provenance.errors import InputError
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


def damaged_copy(image_set: Path, split: str) -> tuple[Path, Path]:
    """The image set in the working folder with one truncated image."""
    root = Path("damaged set")
    shutil.copytree(image_set, root)
    path = root / split / "green" / "003.jpg"
    path.write_bytes(path.read_bytes()[:400])
    return root, path


def test_training_skips_a_truncated_image_and_counts_it(project: Project, image_set: Path) -> None:
    root, path = damaged_copy(image_set, "train")
    for workers in (0, 2):
        images = ImageDataset(open_split(root, "train"), training_transform(recipe()), on_error="skip")
        bad = [str(path).endswith(sample.name) for sample in images.split.samples].index(True)
        keys = list(MicroBatches(plan(), 0, 0, 1))
        expected = sum(index == bad for epoch in range(3) for index in indices(keys, epoch))
        assert len(list(training_loader(images, plan(), 0, 0, 1, workers))) == 24
        assert images.skipped == expected > 0


def test_scoring_refuses_a_truncated_image(project: Project, image_set: Path) -> None:
    root, path = damaged_copy(image_set, "val")
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
