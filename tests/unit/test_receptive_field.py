"""Effective receptive field: exact supports, images that are left out, and what a pass does to the network."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.evaluate.receptive_field import area_ratio, contribution, erf_images, mean_contribution
from lska.models import create
from lska.models.attention import DepthwiseConv2d, GatingUnit
from lska.models.kernels import KernelPlan, kernel_plan

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


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("kernel", [3, 7, 31])
def test_one_depthwise_layer_contributes_its_kernel(kernel: int, size: int) -> None:
    layer = DepthwiseConv2d(CHANNELS, (kernel, kernel))
    nn.init.uniform_(layer.weight, 0.1, 1.0)
    scores = contribution(Features(layer), picture(size))
    expected = np.zeros((size, size))
    window = slice(size // 2 - kernel // 2, size // 2 + kernel // 2 + 1)
    expected[window, window] = layer.weight.detach().double().sum((0, 1))
    assert np.count_nonzero(scores) == kernel**2
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_dilated_layer_contributes_its_taps_only() -> None:
    layer = ones(DepthwiseConv2d(CHANNELS, (5, 5), dilation=3))
    rows, columns = np.nonzero(contribution(Features(layer), picture(20)))
    assert set(rows) == set(columns) == {4, 7, 10, 13, 16}
    assert len(rows) == 25


@pytest.mark.parametrize("kernel", [5, 7, 11, 23, 35])
@pytest.mark.parametrize("attention", ["lka_trivial", "lska_trivial", "lka", "lska"])
def test_a_cascade_contributes_by_its_chains_of_taps(attention: str, kernel: int) -> None:
    unit, size, plan = ones(GatingUnit(CHANNELS, attention, kernel)), kernel + 7, kernel_plan(attention, kernel)
    scores = contribution(Features(Weights(unit)), picture(size))
    # The 1x1 convolution of ones gives each input channel to each output channel.
    expected = CHANNELS**2 * as_map(paths(plan), size)
    assert np.count_nonzero(expected) == plan.receptive_field**2
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("attention", ["lka", "lska"])
def test_the_gated_unit_sees_what_its_cascade_sees(attention: str) -> None:
    scores = contribution(Features(ones(GatingUnit(CHANNELS, attention, 23))), picture(32))
    np.testing.assert_array_equal(scores > 0, as_map(paths(kernel_plan(attention, 23)), 32) > 0)
    assert scores.argmax() == 16 * 32 + 16


@pytest.mark.parametrize("size", [64, 63])
def test_strides_lead_to_the_centre(size: int) -> None:
    """A 7x7 and a 3x3 convolution with strides 4 and 2 see 7 + 2 * 4 pixels, around 8 times the output's centre."""
    stages = nn.Sequential(nn.Conv2d(3, 2, 7, stride=4, padding=3), nn.Conv2d(2, 2, 3, stride=2, padding=1))
    scores = contribution(Features(ones(stages)), picture(size))
    seen, centre = np.flatnonzero(scores.any(axis=0)), 8 * (-(-size // 8) // 2)
    assert seen.tolist() == list(range(centre - 7, centre + 8))
    assert np.count_nonzero(scores) == 15**2
    assert (size, centre) in {(64, 32), (63, 32)}


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
    for row, column in [(16, 16), (12, 19), (15, 10), (3, 16)]:
        slopes = []
        for channel in range(CHANNELS):
            shift = torch.zeros_like(image)
            shift[0, channel, row, column] = step
            slopes.append((centre(image + shift) - centre(image - shift)) / (2 * step))
        assert scores[row, column] == pytest.approx(sum(max(slope, 0) for slope in slopes), rel=1e-5, abs=1e-9)


def test_channels_last_maps_are_turned() -> None:
    class Turned(Features):
        output_fmt = "NHWC"

        def forward_features(self, x: Tensor) -> Tensor:
            return self.layer(x).permute(0, 2, 3, 1)

    layer = ones(DepthwiseConv2d(CHANNELS, (3, 3)))
    np.testing.assert_array_equal(contribution(Turned(layer), picture(8)), contribution(Features(layer), picture(8)))


def test_recomputing_changes_nothing_but_memory() -> None:
    network, image = small_van().eval(), picture(64)
    calls = Counter()
    network.block2[0].register_forward_pre_hook(lambda *_: calls.update(["block"]))
    kept = contribution(network, image)
    assert calls["block"] == 1
    calls.clear()
    recomputed = mean_contribution(network, [image], CPU)
    assert calls["block"] == 2
    np.testing.assert_allclose(recomputed.scores, kept, rtol=1e-5, atol=1e-9)


def test_the_network_is_left_as_it_was() -> None:
    network = small_van(drop_path_rate=0.5)
    network.block1[0].eval()
    network.head.weight.requires_grad_(False)
    network.patch_embed1.norm(torch.randn(2, 8, 4, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    scores = [mean_contribution(network, [picture(32)], CPU).scores for _ in range(2)]
    np.testing.assert_array_equal(*scores)
    assert [module.training for module in network.modules()] == modes
    assert len(set(modes)) == 2
    assert not network.head.weight.requires_grad
    assert network.head.bias.requires_grad
    assert not network.grad_checkpointing
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_network_is_left_as_it_was_after_an_error() -> None:
    network = small_van()
    with pytest.raises(ValueError, match="square"):
        mean_contribution(network, [torch.zeros(1, 3, 32, 40)], CPU)
    assert network.training
    assert not network.grad_checkpointing
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_images_without_finite_scores_are_skipped_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    network, good = small_van(), [picture(32, seed) for seed in range(4)]
    broken = torch.full((1, 3, 32, 32), float("nan"))
    result = mean_contribution(network, [good[0], broken, good[1], broken, good[2], good[3]], CPU, count=3)
    assert (result.used, result.skipped) == (3, 2)
    assert "2 images left out" in caplog.text
    single = [contribution(network.eval(), image) for image in good[:3]]
    np.testing.assert_allclose(result.scores, np.mean(single, axis=0), rtol=1e-5, atol=1e-9)
    assert result.scores.dtype == np.float64
    with pytest.raises(ValueError, match="of 2 images none gave finite"):
        mean_contribution(network, [broken, broken], CPU)


def test_no_image_more_than_asked_for_is_taken() -> None:
    taken = []

    def images() -> Iterator[Tensor]:
        for seed in range(5):
            taken.append(seed)
            yield picture(32, seed)

    assert mean_contribution(small_van(), images(), CPU, count=2).used == len(taken) == 2
    with pytest.raises(ValueError, match="count: expected an integer from 1 up"):
        mean_contribution(small_van(), images(), CPU, count=0)


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected all of size"):
        mean_contribution(small_van(), [picture(32), picture(64)], CPU)


def test_it_works_where_gradients_are_off() -> None:
    network, image = small_van(), picture(32)
    expected = mean_contribution(network, [image], CPU).scores
    with torch.inference_mode():
        found = mean_contribution(network, [picture(32)], CPU).scores
    np.testing.assert_array_equal(found, expected)


def test_networks_of_others_take_part_or_say_why_not() -> None:
    scores = [
        mean_contribution(create(name, num_classes=0), [picture(64)], CPU).scores
        for name in ("convnext_atto", "mobilenetv3_small_050")
    ]
    assert all(map.shape == (64, 64) and map.max() > 0 for map in scores)
    with pytest.raises(ValueError, match="feature map of 4 dimensions"):
        contribution(create("vit_tiny_patch16_224", img_size=32), picture(32))


def test_a_network_that_cannot_recompute_keeps_its_activations() -> None:
    class Unable(Features):
        def set_grad_checkpointing(self, enable: bool = True) -> None:
            assert not enable, "gradient checkpointing not supported"

    network = Unable(ones(DepthwiseConv2d(CHANNELS, (3, 3))))
    assert np.count_nonzero(mean_contribution(network, [picture(8)], CPU).scores) == 9


def test_images_are_squashed_in_folder_order(tmp_path: Path) -> None:
    for number, place in enumerate(["val/a/1.png", "val/a/2.png", "val/b/0.png"]):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((20, 40, 3), dtype=np.uint8)
        picture[:, 20:] = 50 * (number + 1)  # the right half, which a centre crop would widen
        Image.fromarray(picture).save(tmp_path / place)
    split, mean, deviation = open_split(tmp_path, "val"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = list(erf_images(split, 2, 32, mean, deviation))
    assert [tuple(image.shape) for image in images] == [(1, 3, 32, 32)] * 2
    for number, image in enumerate(images):
        assert image.dtype == torch.float32
        for channel in range(3):
            left, right = ((v - mean[channel]) / deviation[channel] for v in (0, 50 * (number + 1) / 255))
            np.testing.assert_allclose(image[0, channel, :, :12], left, rtol=1e-4)
            np.testing.assert_allclose(image[0, channel, :, 20:], right, rtol=1e-4)
    assert len(list(erf_images(split, None, 32, mean, deviation))) == 3
    with pytest.raises(DataError, match="at least 4 images, found 3"):
        next(erf_images(split, 4, 32, mean, deviation))


def test_larger_kernels_see_more() -> None:
    shares = []
    for kernel in (3, 7, 15):
        torch.manual_seed(0)
        layout = {"embed_dims": (8,), "depths": (2,), "mlp_ratios": (2,)}
        network = create("van_tiny", attention="lska", kernel_size=kernel, **layout)
        result = mean_contribution(network, [picture(128, seed) for seed in range(3)], CPU)
        shares.append(area_ratio(result.scores, 0.99)[1])
    assert shares == sorted(set(shares))
