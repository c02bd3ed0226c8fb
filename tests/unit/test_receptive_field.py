"""Effective receptive field: exact supports, what a pass does to the network, and area ratios of known maps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from lska.data.folders import open_split
from lska.evaluate.receptive_field import (
    area_ratio,
    contribution,
    erf_images,
    mean_contribution,
    ratios,
    resampled_ratios,
    scaled,
)
from lska.models import create
from lska.models.attention import DepthwiseConv2d, GatingUnit, gating_unit
from lska.models.kernels import KernelPlan, kernel_plan
from lska.provenance.outcomes import resample_counts, standard_error

CPU = torch.device("cpu")
CHANNELS = 3


class Features(nn.Module):
    """An otherwise empty network with `layer` as its features."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Weights(nn.Module):
    """A gating unit without its product with the input."""

    def __init__(self, unit: GatingUnit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return self.unit.attention_map(x)


def picture(size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values from 0.5 to 1.5: with positive weights no ReLU cuts anything off."""
    return torch.rand(1, CHANNELS, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.5


def small_van(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    layout = {"embed_dims": (8, 16), "depths": (1, 2), "mlp_ratios": (2, 2)}
    network = create("van_tiny", attention="lska", kernel_size=7, **layout | settings)
    for name, parameter in network.named_parameters():
        if "layer_scale" in name:
            nn.init.constant_(parameter, 0.5)
    return network


def ones(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return module


def paths(plan: KernelPlan) -> Counter[tuple[int, int]]:
    """By how many chains of taps the output at the origin sees each pixel (row, column)."""
    reached = Counter({(0, 0): 1})
    for part in plan.depthwise:
        rows, columns = ([part.dilation * (2 * tap - n + 1) // 2 for tap in range(n)] for n in part.kernel)
        further: Counter[tuple[int, int]] = Counter()
        for (row, column), number in reached.items():
            for y, x in itertools.product(rows, columns):
                further[row + y, column + x] += number
        reached = further
    return reached


def as_map(numbers: Counter[tuple[int, int]], size: int) -> np.ndarray:
    found = np.zeros((size, size))
    for (row, column), number in numbers.items():
        found[size // 2 + row, size // 2 + column] = number
    return found


# Contributions


def test_a_cascade_contributes_by_its_chains_of_taps() -> None:
    for attention, kernel in itertools.product(("lka_trivial", "lska_trivial", "lka", "lska"), (5, 11, 23)):
        unit, size, plan = ones(gating_unit(CHANNELS, attention, kernel)), kernel + 7, kernel_plan(attention, kernel)
        scores = contribution(Features(Weights(unit)), picture(size))
        # The 1x1 convolution of ones gives each input channel to each output channel.
        expected = CHANNELS**2 * as_map(paths(plan), size)
        assert np.count_nonzero(expected) == plan.receptive_field**2
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        # The gated unit sees what its cascade sees.
        gated = contribution(Features(unit), picture(size))
        np.testing.assert_array_equal(gated > 0, expected > 0)


@pytest.mark.parametrize("size", [64, 63])
def test_strides_lead_to_the_centre(size: int) -> None:
    """A 7x7 and a 3x3 convolution with strides 4 and 2 see 7 + 2 * 4 pixels, around 8 times the output's centre."""
    stages = nn.Sequential(nn.Conv2d(3, 2, 7, stride=4, padding=3), nn.Conv2d(2, 2, 3, stride=2, padding=1))
    scores = contribution(Features(ones(stages)), picture(size))
    assert np.flatnonzero(scores.any(axis=0)).tolist() == list(range(32 - 7, 32 + 8))
    assert np.count_nonzero(scores) == 15**2


def test_both_relus_cut_off_what_is_negative() -> None:
    layer = nn.Conv2d(2, 3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0], [3.0, 1.0], [-9.0, -9.0]])[..., None, None]
    image = torch.ones(1, 2, 3, 3) * torch.tensor([1.0, 0.25])[:, None, None]
    # Features 0.5, 3.25 and -11.25: the third is cut off; gradients 1 + 3 and -2 + 1: the second is.
    assert contribution(Features(layer), image)[1, 1] == 4


def test_scores_equal_difference_quotients() -> None:
    network, image = small_van().double().eval(), picture(32, dtype=torch.float64)

    @torch.no_grad()
    def centre(x: Tensor) -> float:
        features = network.forward_features(x)
        return float(features[0, :, features.shape[2] // 2, features.shape[3] // 2].relu().sum())

    scores, step = contribution(network, image), 1e-5
    for row, column in [(16, 16), (12, 19), (3, 16)]:
        slopes = []
        for channel in range(CHANNELS):
            shift = torch.zeros_like(image)
            shift[0, channel, row, column] = step
            slopes.append((centre(image + shift) - centre(image - shift)) / (2 * step))
        assert scores[row, column] == pytest.approx(sum(max(slope, 0) for slope in slopes), rel=1e-5, abs=1e-9)


def test_networks_of_others_take_part_or_say_why_not() -> None:
    class Turned(Features):
        output_fmt = "NHWC"

        def forward_features(self, x: Tensor) -> Tensor:
            return self.layer(x).permute(0, 2, 3, 1)

        def set_grad_checkpointing(self, enable: bool = True) -> None:
            assert not enable, "gradient checkpointing not supported"

    layer = ones(DepthwiseConv2d(CHANNELS, (3, 3)))
    scores = mean_contribution(Turned(layer), [picture(8)], CPU).scores
    np.testing.assert_array_equal(scores, contribution(Features(layer), picture(8)))
    assert mean_contribution(create("convnext_atto", num_classes=0), [picture(64)], CPU).scores.max() > 0
    with pytest.raises(ValueError, match="feature map of 4 dimensions"):
        contribution(create("vit_tiny_patch16_224", img_size=32), picture(32))


def test_activations_are_recomputed_and_statistics_stay() -> None:
    network, calls = small_van(drop_path_rate=0.5), Counter()
    network.block2[0].register_forward_pre_hook(lambda *_: calls.update(["block"]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = mean_contribution(network, [picture(32)], CPU).scores
    assert calls["block"] == 2
    with torch.inference_mode():
        np.testing.assert_array_equal(first, mean_contribution(network, [picture(32)], CPU).scores)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    np.testing.assert_allclose(first, contribution(network, picture(32)), rtol=1e-5, atol=1e-9)


def test_images_without_finite_scores_are_skipped_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    network, good, taken = small_van(), [picture(32, seed) for seed in range(4)], []
    broken = torch.full((1, 3, 32, 32), float("nan"))

    def images() -> Iterator[Tensor]:
        for image in (good[0], broken, good[1], broken, good[2], good[3]):
            taken.append(image)
            yield image

    result = mean_contribution(network, images(), CPU, count=3)
    assert (len(result.maps), result.skipped, len(taken)) == (3, 2, 5), "no image more than asked for is taken"
    assert "2 images left out" in caplog.text
    single = [contribution(network.eval(), image) for image in good[:3]]
    np.testing.assert_allclose(result.scores, np.mean(single, axis=0), rtol=1e-5, atol=1e-9)
    assert result.scores.dtype == np.float64 and result.maps.dtype == np.float32
    with pytest.raises(ValueError, match="at least one image with finite contribution scores, found none in 2"):
        mean_contribution(network, [broken, broken], CPU)


def test_images_are_squashed_in_folder_order(tmp_path: Path) -> None:
    for number, place in enumerate(["val/a/1.png", "val/a/2.png"]):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((20, 40, 3), dtype=np.uint8)
        pixels[:, 20:] = 50 * (number + 1)  # the right half, which a centre crop would widen
        Image.fromarray(pixels).save(tmp_path / place)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = list(erf_images(open_split(tmp_path, "val"), 32, mean, deviation))
    assert [(tuple(image.shape), image.dtype) for image in images] == [((1, 3, 32, 32), torch.float32)] * 2
    for number, image in enumerate(images):
        for channel in range(3):
            left, right = ((v - mean[channel]) / deviation[channel] for v in (0, 50 * (number + 1) / 255))
            np.testing.assert_allclose(image[0, channel, :, :12], left, rtol=1e-4)
            np.testing.assert_allclose(image[0, channel, :, 20:], right, rtol=1e-4)


# Area ratios


def published(scores: np.ndarray, threshold: float) -> tuple[int, float]:
    """What is known of RepLKNet's search, pixel by pixel; the whole map where it finds nothing."""
    size = len(scores)
    for reach in range(1, size // 2):
        rows = [row for row in range(size) if abs(row - size // 2) <= reach]
        if sum(scores[row, column] for row in rows for column in rows) / scores.sum() > threshold:
            return 2 * reach + 1, 100 * (2 * reach + 1) ** 2 / size**2
    return size, 100.0


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 14), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.booleans())
def test_search_is_the_published_one(size: int, seed: int, threshold: float, peaked: bool) -> None:
    scores = np.random.default_rng(seed).random((size, size)) ** (8 if peaked else 1)
    logarithms = np.log10(scores + 1)
    side, share = published(logarithms / logarithms.max(), threshold)
    assert area_ratio(scores, threshold) == (side, pytest.approx(share))


def test_borders_of_the_search() -> None:
    def one_pixel(size: int, *places: tuple[int, int, float]) -> np.ndarray:
        scores = np.zeros((size, size))
        for row, column, score in places:
            scores[row, column] = 10**score - 1
        return scores

    # Thresholds are exceeded, not met.
    scores = one_pixel(9, (4, 4, 3), (2, 4, 1))
    assert area_ratio(scores, 0.74) == (3, pytest.approx(100 / 9))
    assert area_ratio(scores, 0.75) == (5, pytest.approx(100 * 25 / 81))
    # No square is smaller than three pixels, and those of even maps end before the first row.
    assert area_ratio(one_pixel(8, (4, 4, 1)), 0.2) == (3, pytest.approx(100 * 9 / 64))
    assert area_ratio(one_pixel(8, (7, 7, 1)), 0.5)[0] == 7
    assert area_ratio(one_pixel(8, (7, 7, 1), (0, 0, 2)), 0.5) == (8, 100.0)
    np.testing.assert_allclose(scaled(np.array([[0.0, 9.0], [99.0, 999.0]])), [[0, 1 / 3], [2 / 3, 1]])
    bad = [np.zeros((4, 4)), np.ones((4, 5)), np.ones(4), -np.ones((4, 4)), np.full((4, 4), np.nan)]
    for scores in [*bad, np.full((4, 4), np.inf)]:
        with pytest.raises(ValueError, match="scores: expected a contribution map"):
            area_ratio(scores, 0.5)


@pytest.mark.parametrize("size", [16, 17])
def test_samples_are_the_ratios_of_the_mean_map_of_the_images_drawn(size: int) -> None:
    generator, distance = np.random.default_rng(0), np.abs(np.arange(size) - size // 2)
    reach = np.maximum(distance[:, None], distance)
    maps = np.stack([
        np.exp(-reach / generator.uniform(1, 6)) * generator.exponential(2, (size, size)) for _ in range(9)
    ]).astype(np.float32)  # fmt: skip
    samples = resampled_ratios(maps, 30)
    for number, counts in enumerate(resample_counts(9, resamples=30)):
        mean = np.repeat(maps, counts, axis=0).mean(axis=0, dtype=np.float64)
        entries = ratios(mean, n=9)
        assert entries["side_50"] == {"value": area_ratio(mean, 0.5)[0], "unit": "pixels", "n": 9}
        expected = {name: entry["value"] for name, entry in entries.items() if name.startswith("area")}
        assert {name: values[number] for name, values in samples.items()} == pytest.approx(expected)
    assert standard_error(samples["area_ratio_50"]) > 0
    alike = resampled_ratios(np.repeat(maps[:1], 9, axis=0), 30)
    assert all(standard_error(values) < 1e-9 for values in alike.values())
