"""Table I: properties measured on modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lska.models import properties
from lska.models.properties import MODULES, REASONS, measure_module

# VAN Table 1 for the first three, the LSKA paper's text for the last row and column; None: does not apply.
EXPECTED = {
    "convolution": (0, 0, 0, 0),
    "self_attention": (1, 1, 0, None),
    "lka": (1, 1, 1, 0),
    "lska": (1, 1, 1, 1),
}
NAMES = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float | None]]:
    return {module: {k: entry["value"] for k, entry in measure_module(module).items()} for module in MODULES}


def test_answers_are_those_of_the_papers_and_clear_of_the_threshold(measured: dict) -> None:
    assert {module: tuple(measured[module][name] for name in NAMES) for module in MODULES} == EXPECTED
    assert measured["convolution"]["weight_change"] == 0
    assert all(measured[module]["weight_change"] > 1e6 * properties.TOLERANCE for module in MODULES[1:])
    assert measured["self_attention"]["channel_spread"] < 1e-3 * properties.TOLERANCE
    assert all(measured[module]["channel_spread"] > 1e6 * properties.TOLERANCE for module in ("lka", "lska"))
    with pytest.raises(ValueError, match="convolution, self_attention, lka, lska; found 'pooling'"):
        measure_module("pooling")


def test_ranges_are_the_kernels_and_the_whole_map(measured: dict) -> None:
    ranges = {module: values["range_pixels"] for module, values in measured.items()}
    assert ranges == {"convolution": 3, "self_attention": properties.MAP_SIZE, "lka": 23, "lska": 23}


def test_growth_follows_from_the_kernels(measured: dict) -> None:
    assert measured["convolution"]["growth_k7_k65"] == pytest.approx(65**2 / 7**2)
    assert measured["lka"]["growth_k7_k65"] == pytest.approx((5**2 + 21**2) / (3**2 + 3**2))
    assert measured["lska"]["growth_k7_k65"] == pytest.approx((5 + 21) / (3 + 3))
    assert measured["self_attention"]["growth_k7_k65"] is None
    assert "no kernel" in REASONS["self_attention"]["scalability"]


def test_measurement_repeats_and_leaves_the_random_state(measured: dict) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = {name: entry["value"] for name, entry in measure_module("lska").items()}
    assert again == measured["lska"]
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_with_many_heads_adapts_per_channel() -> None:
    """The measure must see what one head lacks: with several heads, channels do differ."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, num_heads=8, batch_first=True).double()
    with torch.no_grad():
        attention.out_proj.weight.copy_(torch.eye(8))
    first, second = torch.randn(2, 1, 8, properties.MAP_SIZE, properties.MAP_SIZE, dtype=torch.double)
    change = properties._relative_change(properties._self_attention(attention), first, second)
    assert change.std() > 1e6 * properties.TOLERANCE
