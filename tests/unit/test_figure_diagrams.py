"""Figures 2, 5 and 7: what is drawn is what the modules and the estimate do, and every text has its place."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from table_helpers import Scale, filled
from torch import nn

from lska.evaluate.pictures import styled
from lska.models import create
from lska.models.kernels import kernel_plan
from lska.models.runs import Run
from lska.models.van import SIZES
from lska.tables.figure_diagrams import DESIGNS, FIELD, SHARES, block_steps, correlation, gate_steps, planted_example
from lska.tables.figure_parts import LOOKS, WIDTH
from lska.tables.figures import DRAWINGS

GATE = "attn.spatial_gating_unit"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    found = {}
    for target in ("figure_02", "figure_05", "figure_07"):
        table = filled(target, Scale(tmp_path_factory.mktemp("results"), (Run("van_tiny", "lska", 15, 0),)))
        with styled():
            found[target] = DRAWINGS[table.spec.drawing](table)
            found[target].draw_without_rendering()
    return found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def boxes(figure: Figure) -> list[str]:
    """Names of the modules that boxes stand for, in the order of drawing."""
    return [patch.get_label() for patch in figure.axes[0].patches if patch.get_label()]


def layers(module: nn.Module) -> list[str]:
    """Paths of the innermost modules in their order, which is that of the forward pass; a gating unit inside is one."""
    found = [(name, part) for name, part in module.named_modules() if f"{GATE}." not in name]
    return [name for name, part in found if name == GATE or not any(part.children())]


def test_boxes_stand_for_the_modules_of_a_block_in_their_order(figures: dict[str, Figure]) -> None:
    block = create("van_tiny", attention="lska", kernel_size=23).block1[0]
    drawn = [step.name for half in block_steps(block) for step in half if step.name]
    assert [name for name in drawn if "scale" not in name] == [name for name in layers(block) if name != "drop_path"]
    assert [name for name in drawn if "scale" in name] == ["layer_scale_1", "layer_scale_2"]
    gate = block.get_submodule(GATE)
    steps = gate_steps(kernel_plan("lska", 23))
    assert [step.name for step in steps if step.name] == layers(gate)
    assert [step.sees for step in steps if step.part][-1] == (gate.plan.receptive_field,) * 2
    for step in steps[:-2]:
        module = gate.get_submodule(step.name)
        assert (module.kernel_size, max(module.dilation)) == (step.part.kernel, step.part.dilation)
    gates = {name: [step.name for step in gate_steps(kernel_plan(name, 23)) if step.name] for name in DESIGNS}
    assert boxes(figures["figure_02"]) == [name for design in DESIGNS for name in gates[design]]
    assert boxes(figures["figure_05"]) == [*drawn, *gates["lka"], *gates["lska"]]


@pytest.mark.parametrize("attention", ["lka_trivial", "lska"])
def test_chains_compute_what_the_block_and_its_gate_compute(attention: str) -> None:
    torch.manual_seed(0)
    block = create("van_tiny", attention=attention, kernel_size=7, drop_path_rate=0.1).eval().block2[1]
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)  # a scale of 0.01 would hide what it multiplies

    def run(module: nn.Module, steps: list, x: torch.Tensor) -> torch.Tensor:
        outputs = [x]
        for step in steps:
            last = outputs[-1]
            if step.bypass is not None:
                other = outputs[step.bypass]
                outputs.append(last + other if step.words == "+" else last * other)
            elif step.words == "channel scale":
                outputs.append(last * module.get_parameter(step.name)[:, None, None])
            else:
                outputs.append(module.get_submodule(step.name)(last))
        return outputs[-1]

    x, gate = torch.randn(1, 64, 6, 6), block.get_submodule(GATE)
    with torch.inference_mode():
        first, second = block_steps(block)
        torch.testing.assert_close(run(block, second, run(block, first, x)), block(x))
        torch.testing.assert_close(run(gate, gate_steps(kernel_plan(attention, 7)), x), gate(x))


def test_words_are_those_of_the_networks_and_kernels(figures: dict[str, Figure]) -> None:
    found, layout = texts(figures["figure_05"]), SIZES["van_tiny"]
    assert [text for text in found if text.startswith("block\n")] == [f"block\n× {n}" for n in layout["depths"]]
    shapes = zip(layout["embed_dims"], layout["mlp_ratios"], (4, 8, 16, 32), strict=True)
    assert {f"C = {c}, r = {r}\nH/{side} × W/{side}" for c, r, side in shapes} <= set(found)
    convolutions = [text for text in found if "\nstride" in text]
    assert convolutions == ["7×7 conv.\nstride 4\nBatchNorm"] + ["3×3 conv.\nstride 2\nBatchNorm"] * 3
    assert {"1×1 conv., C → rC", "3×3 depth-wise, rC", "1×1 conv., rC → C", "GELU", "BatchNorm"} <= set(found)
    assert {"7×7\n⌊k/d⌋×⌊k/d⌋\ndilation 3\nsees 23×23", "1×7\n1×⌊k/d⌋\ndilation 3\nsees 5×23"} <= set(found)
    weights = [text for text in texts(figures["figure_02"]) if text.startswith("output")]
    assert weights == [f"output; {n} depth-wise\nweights per channel" for n in (23 * 23, 2 * 23, 25 + 49, 24)]
    lists = [text for text in texts(figures["figure_02"]) if text.startswith("k=15")]
    assert lists == ["k=15:  15×15", "k=15:  1×15, 15×1", "k=15:  3×3, 7×7 d2", "k=15:  1×3, 3×1, 1×7 d2, 7×1 d2"]


def test_taps_are_drawn_to_scale(figures: dict[str, Figure]) -> None:
    pixel = FIELD / 23
    for attention in DESIGNS:
        plan = kernel_plan(attention, 23)
        ours = [p for p in figures["figure_02"].axes[0].patches if to_hex(p.get_facecolor()) == LOOKS[attention][0]]
        sizes = [(p.get_height() / pixel, p.get_width() / pixel) for p in ours]
        taps = [size for size, patch in zip(sizes, ours, strict=True) if patch.get_alpha() is None]
        seen = [size for size, patch in zip(sizes, ours, strict=True) if patch.get_alpha() is not None]
        assert seen[-1] == pytest.approx((plan.receptive_field,) * 2)
        dense = [part.kernel for part in plan.depthwise if part.dilation == 1]
        dilated = sum(part.kernel[0] * part.kernel[1] for part in plan.depthwise if part.dilation > 1)
        assert np.array(taps) == pytest.approx(np.array([*dense, *[(1, 1)] * dilated]))
        if plan.dilated:
            last = [patch.xy for patch in ours[-plan.dilated :]]  # the last kernel's last row, or a vertical one
            assert max(np.ptp(last, axis=0)) / pixel == pytest.approx(plan.dilation * (plan.dilated - 1))


@pytest.mark.parametrize("target", ["figure_02", "figure_05", "figure_07"])
def test_texts_stay_in_their_boxes(target: str, figures: dict[str, Figure]) -> None:
    """A text lies wholly in the last drawn box that its middle is in, and touches none that was drawn later."""
    figure = figures[target]
    # The layout makes room for what hangs over the axes by shrinking them.
    assert figure.axes[0].get_window_extent().width / figure.dpi > 0.97 * WIDTH
    frames = [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    inside = 0
    for text in (text for text in figure.axes[0].texts if text.get_text()):
        extent = text.get_window_extent()
        middle = (extent.x0 + extent.width / 2, extent.y0 + extent.height / 2)
        around = [number for number, frame in enumerate(frames) if frame.contains(*middle)]
        for frame in (frames[number] for number in around[-1:]):
            inside += 1
            assert all(frame.contains(*corner) for corner in extent.corners()), f"{text.get_text()!r} leaves its box"
        later = frames[around[-1] + 1 :] if around else frames
        assert not any(frame.overlaps(extent) for frame in later), f"{text.get_text()!r} crosses the edge of a box"
    assert inside > 3


def test_planted_neurons_follow_their_factor_and_their_estimate_is_drawn(figures: dict[str, Figure]) -> None:
    (neurons, result), found = planted_example(), texts(figures["figure_07"])
    relations = {factor: [correlation(pairs) for pairs in values] for factor, values in neurons.items()}
    expected = 0.95**2 / (0.95**2 + 0.3**2)
    assert relations["shape"] == pytest.approx([expected, 0, 0], abs=0.1)
    assert relations["texture"] == pytest.approx([0, expected, 0], abs=0.1)
    # The shares of the variance that were planted: unit variance of noise, 0.9925 of the neurons that encode something.
    total = (120 + 56) * (0.95**2 + 0.3**2) + 80
    assert result.scores == pytest.approx((120 * 0.95**2 / total, 56 * 0.95**2 / total, 1), abs=0.04)
    counts = dict(zip(("shape", "texture", "residual"), result.dimensions, strict=True))
    assert {f"{name}\n{count}\n{100 * count / 256:.0f} %" for name, count in counts.items()} <= set(found)
    assert {f"shape\nΣ cov / Σ var\n= {result.scores[0]:.3g}", "residual\nset to 1"} <= set(found)
    shown = [float(value.replace("\N{MINUS SIGN}", "-")) for text in found for value in re.findall("ρ = (.+)", text)]
    assert shown == pytest.approx([one for values in relations.values() for one in values], abs=0.0051)
    drawn = [line.get_xydata() for line in figures["figure_07"].axes[0].lines if line.get_marker() == "o"]
    assert [np.corrcoef(places.T)[0, 1] for places in drawn] == pytest.approx(shown, abs=0.3)  # of 40 pairs
    patches = {(to_hex(p.get_facecolor()), p.get_hatch() or ""): p for p in figures["figure_07"].axes[0].patches}
    heights = {name: patches[SHARES[name]].get_height() for name in counts}
    shares = {name: height / sum(heights.values()) for name, height in heights.items()}
    assert shares == pytest.approx({name: count / 256 for name, count in counts.items()})
