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

from lska.data.dtd import TextureSet, read_textures
from lska.data.synthetic import TextureSettings, write_texture_set
from lska.evaluate import neighbours, scoring_passes
from lska.evaluate.members import Member
from lska.evaluate.neighbours import DISTANCES, nearest, pooled_features, texture_hits, texture_metrics
from lska.evaluate.splits import accuracy, image_values
from lska.models import create
from lska.models.runs import Run
from lska.provenance.metric_files import validate
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
@pytest.mark.parametrize(("rows", "columns"), [(300, 1), (1, 5), (1500, 64), (40, 257)])
def test_random_rows_have_the_neighbours_that_scikit_learn_finds(distance: str, rows: int, columns: int) -> None:
    gallery, query = normal(rows, columns, 1) + 0.2, normal(1100, columns, 2)
    brute = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=distance)
    expected = brute.fit(gallery.double().numpy()).kneighbors(query.double().numpy(), return_distance=False)[:, 0]
    found = nearest(gallery, query, distance).numpy()
    if columns == 1 and distance == "cosine":  # only the sign counts, so that nearly all are equal
        assert (np.sign(gallery.numpy()[found, 0]) == np.sign(query.numpy()[:, 0])).all()
    else:
        assert (found == expected).all()


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


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("distance", DISTANCES)
def test_very_small_and_very_large_features_keep_their_neighbours(distance: str, scale: float) -> None:
    gallery, query = normal(50, 16, 4), normal(30, 16, 5)
    assert torch.equal(nearest(gallery * scale, query * scale, distance), nearest(gallery, query, distance))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("block", "pairs"), [(1, 1), (3, 2), (7, 1000), (50, 5)])
def test_blocks_change_nothing_and_of_equal_rows_the_first_counts(
    monkeypatch: pytest.MonkeyPatch, distance: str, block: int, pairs: int
) -> None:
    distinct = normal(9, 11, 6)
    gallery, query = distinct[torch.arange(40) % 9], normal(20, 11, 7)
    expected = nearest(distinct, query, distance)
    assert torch.equal(nearest(gallery, query, distance), expected)
    monkeypatch.setattr(neighbours, "BLOCK", block)
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    assert torch.equal(nearest(gallery, query, distance), expected)
    assert nearest(gallery, gallery, distance).tolist() == [index % 9 for index in range(40)]


@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_that_are_all_equal_take_the_first_within_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    largest, original = [], neighbours._sums
    monkeypatch.setattr(neighbours, "_sums", lambda rows: largest.append(rows.numel()) or original(rows))
    same = torch.full((700, 32), 3.7)
    assert nearest(same, same[:600], distance).tolist() == [0] * 600
    assert max(largest) == neighbours.PAIRS * 32


def test_no_more_than_a_block_is_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, original = [], neighbours._nearest_in_block
    monkeypatch.setattr(
        neighbours, "_nearest_in_block", lambda g, q: shapes.append((len(g), len(q))) or original(g, q)
    )
    nearest(normal(2500, 4, 8), normal(1300, 4, 9))
    assert shapes == [(g, q) for q in (1024, 276) for g in (1024, 1024, 452)]


def test_an_empty_query_has_no_neighbours() -> None:
    assert nearest(normal(5, 3, 0), torch.empty(0, 3)).shape == (0,)


BAD: dict[str, tuple[Any, Any, str, str]] = {
    "distance": (normal(2, 3, 0), normal(2, 3, 0), "manhattan", "unknown distance 'manhattan'; choose from cosine"),
    "columns": (normal(2, 3, 0), normal(2, 4, 0), "cosine", r"found \(2, 3\) and \(2, 4\)"),
    "empty": (torch.empty(0, 3), normal(2, 3, 0), "cosine", r"at least one number .* found \(0, 3\)"),
    "nan": (normal(2, 3, 0), torch.full((2, 3), torch.nan), "euclidean", "query: expected finite numbers"),
    "type": (normal(2, 3, 0).double(), normal(2, 3, 0), "cosine", "gallery: expected float32, found torch.float64"),
    "zeros": (torch.tensor([[1.0], [0.0]]), normal(2, 1, 0), "cosine", r"gallery: rows of zeros .*\(1, first 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_input_without_an_answer_is_refused(case: str) -> None:
    gallery, query, distance, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        nearest(gallery, query, distance)


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


def texture_accuracy(*arguments: Any, **settings: Any) -> dict[str, Any]:
    return accuracy(texture_hits(*arguments, **settings))


def test_the_accuracy_is_the_share_of_neighbours_of_the_same_class() -> None:
    assert texture_accuracy(FEATURES, TARGETS, SPLITS[1])["value"] == 100
    found = texture_accuracy(FEATURES, TARGETS, SPLITS[2])
    assert found["value"] == pytest.approx(200 / 3) and found["n"] == 3 and found["unit"] == "%"
    assert found["standard_error"] == pytest.approx(100 * (2 / 9 / 3) ** 0.5)
    assert texture_accuracy(FEATURES, TARGETS, SPLITS[2], distance="euclidean")["value"] == pytest.approx(100 / 3)


def test_the_gallery_may_be_everything_that_is_not_asked_for() -> None:
    """Image 4, (4, 5), lies nearest to image 5 of the other class, which only the part `test` has."""
    alone = texture_accuracy(FEATURES, TARGETS, SPLITS[1])
    wider = texture_accuracy(FEATURES, TARGETS, SPLITS[1], gallery=("train", "test"))
    assert (alone["value"], wider["value"]) == (100, pytest.approx(200 / 3))
    assert texture_accuracy(FEATURES, TARGETS, SPLITS[1], query="test")["n"] == 1


@pytest.mark.parametrize("gallery", [("train", "val"), ("train", "tset"), ()])
def test_a_gallery_with_the_query_or_of_unknown_parts_is_refused(gallery: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="query val: expected different ones of train, val, test"):
        texture_accuracy(FEATURES, TARGETS, SPLITS[1], gallery=gallery)


def test_metrics_hold_every_split_their_mean_and_its_deviation() -> None:
    found, outcomes = texture_metrics(FEATURES, TARGETS, SPLITS)
    names = ("_split1", "_split2", "", "_deviation")
    assert set(found) == {f"top1_{distance}{name}" for distance in DISTANCES for name in names}
    assert found["top1_cosine_split2"] == texture_accuracy(FEATURES, TARGETS, SPLITS[2])
    values = [100, 200 / 3]
    assert found["top1_cosine"]["value"] == pytest.approx(np.mean(values))
    assert found["top1_cosine_deviation"]["value"] == pytest.approx(np.std(values, ddof=1))
    assert found["top1_cosine_deviation"]["n"] == 2 and found["top1_cosine"]["n"] == 6
    errors = [found[f"top1_cosine_split{number}"]["standard_error"] for number in (1, 2)]
    assert found["top1_cosine"]["standard_error"] == pytest.approx(np.mean(errors))
    for distance in DISTANCES:
        assert outcomes.images[f"top1_{distance}"].mean() == pytest.approx(found[f"top1_{distance}"]["value"])
    single, alone = texture_metrics(FEATURES, TARGETS, {1: SPLITS[1]})
    assert set(alone.images["top1_cosine"]) <= {0, 100}
    assert set(single) == {f"top1_{distance}{name}" for distance in DISTANCES for name in ("_split1", "", "_deviation")}
    assert single["top1_cosine_deviation"]["value"] is None


def test_metrics_fit_a_metric_file() -> None:
    content = {"schema": 1, "task": "texture_knn", "run": "r", "scale": "s", "weights": {"md5": None, "origin": "none"},
               "recipe": None, "data": None, "code": {"commit": None, "dirty": None}, "detail": {},
               "started": "2026-01-01T00:00:00+00:00",
               "environment": {"lock": None, "torch": "", "device": "", "hardware": ""}, "seconds": 0.0}  # fmt: skip
    validate(content | {"metrics": texture_metrics(FEATURES, TARGETS, SPLITS)[0]}, "metrics", "test")


def crossed_splits(images: int, number: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Random thirds of the images, one for each split."""
    generator = np.random.default_rng(seed)
    return {split: generator.permutation(images)[: images // 3] for split in range(1, number + 1)}


def test_values_of_images_have_the_mean_over_splits_in_the_order_of_the_set() -> None:
    asked = crossed_splits(30, 4)
    right = np.random.default_rng(1).random(30) < 0.6
    values = image_values(asked, {split: right[images] for split, images in asked.items()})
    queried = np.unique(np.concatenate(list(asked.values())))
    assert values.mean() == pytest.approx(100 * np.mean([right[images].mean() for images in asked.values()]))
    assert len(values) == len(queried) < 30
    # An image that is right adds to the mean, one that is wrong takes from it.
    assert ((values > values.mean()) == right[queried]).all()


def test_the_spread_of_values_is_the_error_over_sets_of_images() -> None:
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
    assert image_values(crossed_splits(images, number), alike).std() < 1e-9


def test_a_paired_difference_of_textures_has_a_smaller_error() -> None:
    asked, generator = crossed_splits(300, 10), np.random.default_rng(2)
    right = generator.random(300) < 0.5
    better = right | (generator.random(300) < 0.05)
    first, second = (
        image_values(asked, {split: each[images] for split, images in asked.items()}) for each in (right, better)
    )
    unpaired = np.hypot(first.std(ddof=1), second.std(ddof=1))
    assert 0 < (second - first).std(ddof=1) < unpaired / 2


# Features


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> TextureSet:
    """24 images of 30 pixels; read only."""
    root = tmp_path_factory.mktemp("textures") / "set"
    write_texture_set(root, TextureSettings(image_size=30, families=2, per_part=4, splits=1))
    return read_textures(root)


def member(seed: int, channels_last: bool = True, **recipe: Any) -> Member:
    torch.manual_seed(seed)
    network = create("van_tiny", attention="lska", kernel_size=7, **TINY, num_classes=3).eval()
    own = Preprocessing.of(RECIPE | recipe, "test recipe")
    return Member(Run("van_tiny", "lska", 7, seed), network, {"md5": "0" * 32}, own, {}, channels_last)


def by_hand(one: Member, textures: TextureSet) -> torch.Tensor:
    """Pooled last map, from images as timm's own validation transform gives them."""
    recipe = one.own.to_dict()
    transform = create_transform(
        recipe["image_size"], is_training=False, crop_pct=recipe["test_crop"], mean=recipe["mean"],
        std=recipe["deviation"], interpolation=recipe["test_interpolation"],
    )  # fmt: skip
    files = [textures.folder / "images" / name for name in textures.names]
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        return one.network.forward_features(images).mean(dim=(2, 3))


def test_features_are_the_pooled_last_maps_of_each_members_own_images(
    textures: TextureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, original = [], scoring_passes.decode
    monkeypatch.setattr(scoring_passes, "decode", lambda data, place: places.append(place) or original(data, place))
    other = {"image_size": 48, "test_crop": 0.8, "test_interpolation": "bicubic", "mean": (0.48, 0.45, 0.4)}
    members = [member(0), member(1, channels_last=False), member(2, **other)]
    found = pooled_features(members, textures.images, batch_size=7, workers=0, device=CPU)
    assert [Path(place).name for place in places] == [name.rpartition("/")[2] for name in textures.names]
    for one, features in zip(members, found, strict=True):
        assert features.dtype == np.float32 and features.shape == (24, 16)
        torch.testing.assert_close(torch.from_numpy(features), by_hand(one, textures), rtol=1e-4, atol=1e-5)
    metrics, _ = texture_metrics(found[0], textures.targets, textures.splits)
    assert metrics["top1_cosine_split1"]["n"] == 8


def test_loading_processes_change_nothing(textures: TextureSet) -> None:
    first, second = (
        pooled_features([member(0)], textures.images, batch_size=7, workers=workers, device=CPU)[0]
        for workers in (0, 1)
    )
    assert np.array_equal(first, second)


def test_a_network_of_no_use_is_named(textures: TextureSet) -> None:
    broken = member(0)
    nn.init.constant_(broken.network.patch_embed1.proj.weight, torch.nan)
    with pytest.raises(ValueError, match="lska-k7-s0: the network's features are not finite; .*train it again"):
        pooled_features([member(1), broken], textures.images, batch_size=24, workers=0, device=CPU)
