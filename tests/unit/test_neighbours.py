"""The nearest neighbour, compared with other implementations and with exact arithmetic, and the accuracies from it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from timm.data import create_transform
from tiny_project import RECIPE
from torch import nn

from lska.data.dtd import read_textures
from lska.data.synthetic.generated import write_set
from lska.data.synthetic.texture_set import TextureSettings
from lska.evaluate import inspecting
from lska.evaluate.inspecting import DISTANCES, nearest, pooled_features, texture_metrics
from lska.evaluate.measurement import Subject
from lska.evaluate.scores import image_values
from lska.models import create
from lska.provenance.sidecars import Preprocessing

CPU = torch.device("cpu")
TINY = {"embed_dims": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


def exact(gallery: torch.Tensor, query: torch.Tensor, distance: str) -> list[int]:
    """Nearest rows by exact arithmetic, the smallest of equal ones."""
    rows = [[[Fraction(value) for value in row] for row in part.tolist()] for part in (gallery, query)]
    score = {"euclidean": _squared, "cosine": _turned}[distance]
    return [min(range(len(rows[0])), key=lambda index: (score(rows[0][index], q), index)) for q in rows[1]]


def _squared(gallery: list[Fraction], query: list[Fraction]) -> Fraction:
    return sum((a - b) ** 2 for a, b in zip(gallery, query, strict=True))


def _turned(gallery: list[Fraction], query: list[Fraction]) -> Fraction:
    """What grows with the angle: minus the signed square of the cosine, times the query's squared length."""
    product = sum(a * b for a, b in zip(gallery, query, strict=True))
    return -product * abs(product) / sum(a * a for a in gallery)


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


# Search


@pytest.mark.parametrize("distance", DISTANCES)
def test_random_rows_have_the_neighbours_that_scikit_learn_finds(distance: str) -> None:
    for rows, columns in ((1, 5), (1500, 64), (40, 257)):
        gallery, query = normal(rows, columns, 1) + 0.2, normal(1100, columns, 2)
        brute = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=distance).fit(gallery.double().numpy())
        expected = brute.kneighbors(query.double().numpy(), return_distance=False)[:, 0]
        assert (nearest(gallery, query, distance).numpy() == expected).all()
    assert nearest(normal(5, 3, 0), torch.empty(0, 3), distance).shape == (0,)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("offset", [1.0, 1000.0])
def test_near_ties_are_told_apart_as_exact_arithmetic_does(distance: str, offset: float) -> None:
    """Rows that differ in their last bits only, where products of matrices in 32 bits say nothing."""
    step = float(np.spacing(np.float32(offset)))
    generator = torch.Generator().manual_seed(3)
    gallery, query = (
        offset + step * torch.randint(0, 4, (rows, 12), generator=generator).float() for rows in (60, 40)
    )
    expected = exact(gallery, query, distance)
    assert nearest(gallery, query, distance).tolist() == expected
    products = query @ gallery.T - (gallery.square().sum(dim=1) / 2 if distance == "euclidean" else 0)
    assert products.argmax(dim=1).tolist() != expected
    for scale in (1e-30, 1e30):
        few = normal(50, 16, 4), normal(30, 16, 5)
        assert torch.equal(nearest(*(rows * scale for rows in few), distance), nearest(*few, distance))


@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_change_nothing_and_of_equal_rows_the_first_counts(
    monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    distinct = normal(9, 11, 6)
    gallery, query = distinct[torch.arange(40) % 9], normal(20, 11, 7)
    expected = nearest(distinct, query, distance)
    assert torch.equal(nearest(gallery, query, distance), expected)
    largest, original = [], inspecting._sums
    monkeypatch.setattr(inspecting, "_sums", lambda rows: largest.append(len(rows)) or original(rows))
    for block, pairs in ((1, 1), (3, 2), (7, 1000), (50, 5)):
        monkeypatch.setattr(inspecting, "BLOCK", block)
        monkeypatch.setattr(inspecting, "PAIRS", pairs)
        largest.clear()
        assert torch.equal(nearest(gallery, query, distance), expected)
        assert max(largest) <= max(len(gallery), pairs), "memory is bounded"
        assert nearest(gallery, gallery, distance).tolist() == [index % 9 for index in range(40)]


def test_a_row_of_zeros_has_no_direction() -> None:
    with pytest.raises(ValueError, match="all zero have no direction"):
        nearest(torch.tensor([[1.0], [0.0]]), normal(2, 1, 0), "cosine")
    assert nearest(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.1]]), "euclidean").tolist() == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_gpu_finds_the_same_rows(distance: str) -> None:
    gallery = (1000 + torch.randint(0, 3, (1500, 12), generator=torch.Generator().manual_seed(1)) / 8192).float()
    query = normal(1200, 12, 2) / 8192 + 1000
    assert torch.equal(nearest(gallery.cuda(), query.cuda(), distance).cpu(), nearest(gallery, query, distance))


# Accuracy

FEATURES = np.array([[1, 0], [0, 1], [9, 1], [1, 9], [4, 5], [0.5, 0.6]], dtype=np.float32)
TARGETS = np.array([0, 1, 0, 1, 1, 0], dtype=np.int32)
SPLITS = {
    1: {"train": np.array([0, 1]), "val": np.array([2, 3, 4]), "test": np.array([5])},
    2: {"train": np.array([2, 4]), "val": np.array([0, 1, 5]), "test": np.array([3])},
}


def test_metrics_hold_every_split_their_mean_and_its_deviation() -> None:
    found, outcomes = texture_metrics(FEATURES, TARGETS, SPLITS)
    names = ("_split1", "_split2", "", "_deviation")
    assert set(found) == {f"top1_{distance}{name}" for distance in DISTANCES for name in names}
    shares = [found[f"top1_cosine_split{number}"]["value"] for number in (1, 2)]
    assert shares == pytest.approx([100, 200 / 3])
    assert found["top1_euclidean_split2"]["value"] == pytest.approx(100 / 3)
    assert found["top1_cosine_split2"]["n"] == 3
    assert found["top1_cosine_split2"]["standard_error"] == pytest.approx(100 * (2 / 9 / 3) ** 0.5)
    assert found["top1_cosine"]["value"] == pytest.approx(np.mean(shares)) and found["top1_cosine"]["n"] == 6
    assert found["top1_cosine_deviation"] == {"value": pytest.approx(np.std(shares, ddof=1)), "unit": "%", "n": 2}
    errors = [found[f"top1_cosine_split{number}"]["standard_error"] for number in (1, 2)]
    assert found["top1_cosine"]["standard_error"] == pytest.approx(np.mean(errors))
    assert outcomes.images["top1_cosine"].mean() == pytest.approx(found["top1_cosine"]["value"])
    single, alone = texture_metrics(FEATURES, TARGETS, {1: SPLITS[1]})
    assert set(alone.images["top1_cosine"]) <= {0, 100} and single["top1_cosine_deviation"]["value"] is None
    # Image 4, (4, 5), lies nearest to image 5 of the other class, which only the part `test` has.
    wider, _ = texture_metrics(FEATURES, TARGETS, {1: SPLITS[1]}, gallery=("train", "test"))
    assert (single["top1_cosine"]["value"], wider["top1_cosine"]["value"]) == (100, pytest.approx(200 / 3))


def crossed_splits(images: int, number: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Random thirds of the images, one for each split."""
    generator = np.random.default_rng(seed)
    return {split: generator.permutation(images)[: images // 3] for split in range(1, number + 1)}


def test_values_of_images_have_the_mean_over_splits_in_the_order_of_the_set() -> None:
    asked, right = crossed_splits(30, 4), np.random.default_rng(1).random(30) < 0.6
    values = image_values(asked, {split: right[images] for split, images in asked.items()})
    queried = np.unique(np.concatenate(list(asked.values())))
    assert values.mean() == pytest.approx(100 * np.mean([right[images].mean() for images in asked.values()]))
    assert len(values) == len(queried) < 30
    # An image that is right adds to the mean, one that is wrong takes from it.
    assert ((values > values.mean()) == right[queried]).all()


def test_the_spread_of_values_is_the_error_over_sets_and_smaller_for_a_difference() -> None:
    number, images, generator = 10, 300, np.random.default_rng(0)
    errors, means = [], []
    for trial in range(300):
        asked = crossed_splits(images, number, trial)
        right = generator.random(images) < 0.6
        values = image_values(asked, {split: right[places] for split, places in asked.items()})
        errors.append(values.std(ddof=1) / len(values) ** 0.5)
        means.append(values.mean())
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.12)
    # That an image is in more splits than another is no error where all are alike.
    alike = {split: np.ones(images // 3, bool) for split in range(1, number + 1)}
    assert image_values(asked, alike).std() < 1e-9
    better = right | (generator.random(images) < 0.05)
    other = image_values(asked, {split: better[places] for split, places in asked.items()})
    assert 0 < (other - values).std(ddof=1) < np.hypot(values.std(ddof=1), other.std(ddof=1)) / 2


# Features


def test_features_are_the_pooled_last_maps_of_each_networks_own_images(
    tmp_path: Path, decoded: list[str]
) -> None:
    write_set(tmp_path / "set", TextureSettings(image_size=30, families=2, per_part=4, splits=1))
    textures = read_textures(tmp_path / "set")
    other = {"image_size": 48, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": (0.48, 0.45, 0.4)}
    subjects = [subject(0), subject(1, channels_last=False), subject(2, **other)]
    found = pooled_features(subjects, textures.images, 7, 0, CPU)
    assert [Path(place).name for place in decoded] == [name.rpartition("/")[2] for name in textures.names]
    files = [textures.folder / "images" / name for name in textures.names]
    for one, features in zip(subjects, found, strict=True):
        how = one.own.to_dict()
        transform = create_transform(
            how["image_size"], is_training=False, crop_pct=how["test_crop"], mean=how["mean"], std=how["deviation"],
            interpolation=how["test_interpolation"],
        )  # fmt: skip
        images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
        with torch.inference_mode():
            expected = one.network.forward_features(images).mean(dim=(2, 3))
        assert features.dtype == np.float32 and features.shape == (24, 16)
        torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(pooled_features(subjects[:1], textures.images, 7, 1, CPU)[0], found[0])
    nn.init.constant_(subjects[0].network.patch_embed1.proj.weight, torch.nan)
    with pytest.raises(ValueError, match="lska-k7-s0: the network's features are not finite; .*train it again"):
        pooled_features(subjects, textures.images, 24, 0, CPU)


def subject(seed: int, channels_last: bool = True, **recipe: Any) -> Subject:
    torch.manual_seed(seed)
    network = create("van_tiny", attention="lska", kernel_size=7, **TINY, num_classes=3).eval()
    own = Preprocessing.of(RECIPE | recipe, "test recipe")
    return Subject(f"van_tiny-lska-k7-s{seed}", network, {"md5": "0" * 32}, own, {}, channels_last)
