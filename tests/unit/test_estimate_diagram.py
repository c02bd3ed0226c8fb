"""Figure 7 shows pairs that share one factor, and the numbers that the estimate gives."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lska.data.synthetic.textures import texture_field
from lska.evaluate.shape_texture import Estimate
from lska.tables.estimate import LOOKS, correlation, estimate_diagram, pair_scenes, planted_example
from lska.tables.style import styled

CLASSES = ("star", "crescent", "house")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with styled():
        yield


def test_pairs_share_one_factor_and_not_the_other() -> None:
    pairs = pair_scenes(CLASSES)
    assert {factor: len(found) for factor, found in pairs.items()} == {"shape": 3, "texture": 3}
    for one, other in pairs["shape"]:
        assert np.array_equal(one.objects[0].coverage, other.objects[0].coverage)
        assert one.objects[0].labels.texture != other.objects[0].labels.texture
    for one, other in pairs["texture"]:
        assert one.objects[0].paint == other.objects[0].paint
        fields = [
            texture_field(scene.objects[0].labels.texture, scene.objects[0].labels.texture_instance, 32, scene.seed)
            for scene in (one, other)
        ]
        assert np.array_equal(*fields)
        assert one.objects[0].labels.shape != other.objects[0].labels.shape


def test_planted_neurons_follow_their_factor() -> None:
    neurons, result = planted_example()
    found = {factor: [correlation(pairs) for pairs in values] for factor, values in neurons.items()}
    expected = 0.95**2 / (0.95**2 + 0.3**2)
    assert found["shape"] == pytest.approx([expected, 0, 0], abs=0.1)
    assert found["texture"] == pytest.approx([0, expected, 0], abs=0.1)
    # The shares of the variance that were planted: unit variance of noise, 0.9925 of the neurons that encode something.
    total = (120 + 56) * (0.95**2 + 0.3**2) + 80
    assert result.scores == pytest.approx((120 * 0.95**2 / total, 56 * 0.95**2 / total, 1), abs=0.04)


def test_correlation_does_not_depend_on_the_order_of_a_pair() -> None:
    pairs = np.random.default_rng(1).normal(size=(50, 2)) + [0, 3]
    turned = pairs.copy()
    turned[::2] = turned[::2, ::-1]
    assert correlation(pairs) == pytest.approx(correlation(turned))
    assert correlation(np.ones((5, 2))) == 0


@pytest.mark.parametrize("form", ["reference", "printed"])
def test_the_estimates_numbers_are_drawn(form: str) -> None:
    neurons, result = planted_example(form=form)
    figure = estimate_diagram(CLASSES, neurons, result, form)
    texts = [text.get_text() for text in figure.axes[0].texts]
    how = {"reference": "Σ cov / Σ var", "printed": "Σ ρ"}[form]
    assert f"shape\n{how}\n= {result.scores[0]:.3g}" in texts
    assert f"residual\nset to {result.scores[2]:.3g}" in texts
    for factor, count in zip(("shape", "texture", "residual"), result.dimensions, strict=True):
        assert f"{factor}\n{count}\n{100 * count / 256:.0f} %" in texts
    shown = [float(value.replace("\N{MINUS SIGN}", "-")) for text in texts for value in re.findall("ρ = (.+)", text)]
    assert shown == pytest.approx([correlation(p) for values in neurons.values() for p in values], abs=0.0051)


def test_the_bar_is_split_as_the_dimensions_are() -> None:
    neurons, result = planted_example()
    patches = estimate_diagram(CLASSES, neurons, result).axes[0].patches
    heights = {}
    for factor, (colour, hatch) in LOOKS.items():
        (part,) = [p for p in patches if to_hex(p.get_facecolor()) == colour and (p.get_hatch() or "") == hatch]
        heights[factor] = part.get_height()
    total = sum(heights.values())
    shares = [heights[factor] / total for factor in ("shape", "texture", "residual")]
    assert shares == pytest.approx([count / 256 for count in result.dimensions])


def test_numbers_that_do_not_fit_are_refused() -> None:
    neurons, result = planted_example()
    wrong = Estimate(result.scores, (100, 100, 56), result.score_intervals, result.dimension_intervals)
    with pytest.raises(ValueError, match=r"give the dimensions \(\d+, \d+, \d+\), not \(100, 100, 56\)"):
        estimate_diagram(CLASSES, neurons, wrong)
    with pytest.raises(ValueError, match="form: expected one of reference, printed; found 'other'"):
        estimate_diagram(CLASSES, neurons, result, "other")
    with pytest.raises(ValueError, match="at least three different ones, found star, star, house"):
        estimate_diagram(("star", "star", "house"), neurons, result)
    with pytest.raises(ValueError, match=r"neurons: expected \(neurons, pairs, 2\)"):
        estimate_diagram(CLASSES, neurons | {"texture": neurons["texture"][:2]}, result)
