"""Figure 5 shows what the modules do; the texts of figures 5 and 7 are readable wherever they stand."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor, nn

from lska.models import create, kernel_plan
from lska.models.attention import GatingUnit
from lska.models.van import SIZES
from lska.tables.blocks import block_diagram
from lska.tables.curves import LOOKS, WIDTH
from lska.tables.diagram import DESIGNS
from lska.tables.estimate import estimate_diagram, planted_example
from lska.tables.structure import Step, Structure, reach, segments, steps, structure
from lska.tables.style import styled

CLASSES = ("star", "crescent", "house")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with styled():
        yield


def read(attention: str = "lska", kernel: int = 23, model: str = "van_tiny", **architecture: object) -> Structure:
    with torch.device("meta"):
        return structure(create(model, attention=attention, kernel_size=kernel, **architecture))


def blocks(kernel: int = 23, **architecture: object) -> Figure:
    return block_diagram(read("lka", kernel, **architecture), read("lska", kernel, **architecture))


def estimate(form: str = "reference", **planted: object) -> Figure:
    return estimate_diagram(CLASSES, *planted_example(form=form, **planted), form=form)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def run(module: nn.Module, chain: Sequence[Step], x: Tensor) -> Tensor:
    """What the steps of a chain compute, with the layers and parameters of `module`."""
    outputs = [x]
    for step in chain:
        last = outputs[-1]
        if step.kind == "product":
            outputs.append(last * outputs[step.bypass])
        elif step.kind == "sum":
            outputs.append(last + outputs[step.bypass])
        elif step.kind == "scale":
            outputs.append(last * module.get_parameter(step.name)[:, None, None])
        else:
            outputs.append(module.get_submodule(step.name)(last))
    return outputs[-1]


@pytest.mark.parametrize("attention", DESIGNS)
def test_steps_compute_what_the_block_and_its_attention_compute(attention: str) -> None:
    torch.manual_seed(0)
    network = create("van_tiny", attention=attention, kernel_size=7, drop_path_rate=0.1).eval()
    block = network.block2[1]
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)  # a scale of 0.01 would hide what it multiplies
    x = torch.randn(1, 64, 6, 6)
    gate = block.attn.spatial_gating_unit
    with torch.inference_mode():
        torch.testing.assert_close(run(block, steps(block), x), block(x))
        torch.testing.assert_close(run(gate, steps(gate), x), gate(x))


@pytest.mark.parametrize("model", SIZES)
def test_stages_are_those_of_the_modules(model: str) -> None:
    found = read(model=model, num_classes=10)
    layout = SIZES[model]
    assert [stage.channels for stage in found.stages] == list(layout["embed_dims"])
    assert [stage.blocks for stage in found.stages] == list(layout["depths"])
    assert [stage.expansion for stage in found.stages] == list(layout["mlp_ratios"])
    assert [stage.reduction for stage in found.stages] == [4, 8, 16, 32]
    assert [stage.embedding.kernel for stage in found.stages] == [(7, 7), (3, 3), (3, 3), (3, 3)]
    assert {(stage.embedding_norm, stage.norm) for stage in found.stages} == {("BatchNorm", "LayerNorm")}
    assert (found.pooling, found.classes) == ("avg", 10)


def test_order_of_a_block_is_that_of_the_released_code() -> None:
    attention, feed_forward = segments(read().block)
    assert [(step.kind, step.bypass) for step in attention] == [
        ("norm", None), ("convolution", None), ("activation", None), ("gate", None), ("convolution", None),
        ("sum", 1), ("scale", None), ("sum", 0),
    ]  # fmt: skip
    assert [(step.kind, step.bypass) for step in feed_forward] == [
        ("norm", None), ("convolution", None), ("convolution", None), ("activation", None), ("convolution", None),
        ("scale", None), ("sum", 0),
    ]  # fmt: skip
    assert [step.convolution.depthwise for step in feed_forward if step.convolution] == [False, True, False]


@pytest.mark.parametrize(("attention", "kernel"), list(itertools.product(DESIGNS, (7, 23, 65))))
def test_attention_kernels_are_those_of_the_kernel_plan(attention: str, kernel: int) -> None:
    convolutions = [step.convolution for step in read(attention, kernel).gate if step.convolution is not None]
    plan = kernel_plan(attention, kernel)
    assert [(c.kernel, c.dilation) for c in convolutions[:-1]] == [(p.kernel, p.dilation) for p in plan.depthwise]
    assert all(c.depthwise for c in convolutions[:-1])
    assert convolutions[-1].kernel == (1, 1) and not convolutions[-1].depthwise
    assert reach(convolutions) == (plan.receptive_field, plan.receptive_field)


def test_drawing_of_the_papers_tiny_network() -> None:
    texts = words(blocks())
    assert [text for text in texts if text.startswith("block\n")] == [f"block\n× {n}" for n in (3, 3, 5, 2)]
    assert "C = 160, r = 4\nH/16 × W/16" in texts
    assert texts.count("BatchNorm") == 2
    assert {"5×5\nsees 5×5", "7×7\ndilation 3\nsees 23×23", "1×7\ndilation 3\nsees 5×23"} <= set(texts)
    assert {"output; 74 depth-wise\nweights per channel", "output; 24 depth-wise\nweights per channel"} <= set(texts)


def test_another_architecture_gives_another_drawing() -> None:
    small = {"embed_dims": (8, 24), "depths": (1, 4), "mlp_ratios": (2, 3), "stem_kernel": 3, "stem_stride": 2}
    texts = words(blocks(7, num_classes=10, drop_path_rate=0.1, global_pool="max", **small))
    assert {"C = 8, r = 2\nH/2 × W/2", "C = 24, r = 3\nH/4 × W/4", "block\n× 1", "block\n× 4"} <= set(texts)
    assert {"maximum of map\nlinear\n10 classes", "(d) LSKA, k = 7", "1×3\ndilation 2\nsees 3×7"} <= set(texts)
    assert texts.count("3×3 conv.\nstride 2\nBatchNorm") == 2
    assert texts.count("channel scale, drop-path") == 2
    assert not any("stage 3" in text for text in texts)


def test_a_layer_that_is_replaced_is_seen() -> None:
    with torch.device("meta"):
        network = create("van_tiny", attention="lska", kernel_size=7)
        for number in range(1, 5):
            for block in getattr(network, f"block{number}"):
                block.mlp.act = nn.ReLU()
        changed = structure(network)
    assert words(block_diagram(changed, changed)).count("ReLU") == 1


@pytest.mark.parametrize("kernel", [23, 53])
def test_taps_are_drawn_to_scale(kernel: int) -> None:
    figure = blocks(kernel)
    for attention in ("lka", "lska"):
        plan = kernel_plan(attention, kernel)
        ours = [p for p in figure.axes[0].patches if to_hex(p.get_facecolor()) == LOOKS[attention][0]]
        squares = [p for p in ours if isinstance(p, Rectangle) and p.get_alpha() is None]
        assert len(squares) == sum(part.kernel[0] * part.kernel[1] for part in plan.depthwise)
        pixel = squares[0].get_width()
        last = squares[-plan.dilated :]  # along the last kernel's last row, or all of a vertical one
        length = max(np.ptp([square.xy for square in last], axis=0)) / pixel
        assert length == pytest.approx(plan.dilation * (plan.dilated - 1))
        seen = [p for p in ours if p.get_alpha() is not None][-1]
        assert seen.get_width() == pytest.approx(pixel * plan.receptive_field)
        assert seen.get_height() == pytest.approx(pixel * plan.receptive_field)


def test_networks_that_differ_beyond_their_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in attention and kernel size only"):
        block_diagram(read("lka"), read("lska", model="van_small"))


def test_blocks_that_differ_are_refused() -> None:
    network = create("van_tiny", attention="lska", kernel_size=7)
    network.block3[2].attn.activation = nn.ReLU()
    with pytest.raises(ValueError, match="differ in nothing but channels"):
        structure(network)


def test_operations_without_a_drawing_are_refused() -> None:
    network = create("van_tiny", attention="lska", kernel_size=7)
    network.block1[0].mlp.act = nn.Softplus()
    with pytest.raises(ValueError, match=r"mlp\.act: no drawing for a Softplus"):
        structure(network)

    class Difference(GatingUnit):
        def forward(self, x: Tensor) -> Tensor:
            return x - self.attention_map(x)

    with pytest.raises(ValueError, match="Difference: no drawing for .*sub"):
        steps(Difference(4, "lka", 7))


FIGURES: dict[str, Callable[[], Figure]] = {
    "blocks of the paper": blocks,
    "blocks with long words": lambda: blocks(65, model="van_base", drop_path_rate=0.1, global_pool="max"),
    "two stages": lambda: blocks(7, embed_dims=(8, 16), depths=(1, 1), mlp_ratios=(2, 2)),
    "reference": estimate,
    "printed": lambda: estimate("printed"),
    "many neurons": lambda: estimate(neurons=2048, encoding=(2000, 40)),
}


@pytest.fixture(params=FIGURES)
def drawn(request: pytest.FixtureRequest) -> Figure:
    figure = FIGURES[request.param]()
    figure.draw_without_rendering()
    return figure


def test_texts_stand_apart_and_inside_the_figure(drawn: Figure) -> None:
    texts = [text for text in drawn.axes[0].texts if text.get_text()]
    assert len(texts) > 20
    # The layout makes room for what hangs over the axes by shrinking them.
    assert drawn.axes[0].get_window_extent().width / drawn.dpi > 0.97 * WIDTH
    boxes = {text: text.get_window_extent() for text in texts}
    for one, other in itertools.combinations(texts, 2):
        assert not boxes[one].overlaps(boxes[other]), f"{one.get_text()!r} on {other.get_text()!r}"
    for text, extent in boxes.items():
        assert drawn.bbox.x0 < extent.x0 < extent.x1 < drawn.bbox.x1, text.get_text()
        assert drawn.bbox.y0 < extent.y0 < extent.y1 < drawn.bbox.y1, text.get_text()


def test_texts_stay_in_their_boxes(drawn: Figure) -> None:
    """A text lies wholly in the last drawn box that its middle is in, and touches none that was drawn later."""
    frames = [patch.get_window_extent() for patch in drawn.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    inside = 0
    for text in drawn.axes[0].texts:
        if not text.get_text():
            continue  # the annotation of an arrow
        extent = text.get_window_extent()
        middle = (extent.x0 + extent.width / 2, extent.y0 + extent.height / 2)
        around = [number for number, frame in enumerate(frames) if frame.contains(*middle)]
        for frame in (frames[number] for number in around[-1:]):
            inside += 1
            assert all(frame.contains(*corner) for corner in extent.corners()), f"{text.get_text()!r} leaves its box"
        later = frames[around[-1] + 1 :] if around else frames
        assert not any(frame.overlaps(extent) for frame in later), f"{text.get_text()!r} crosses the edge of a box"
    assert inside > 3


def test_room_for_a_footer_is_left_below() -> None:
    plain, high = blocks(), block_diagram(read("lka"), read("lska"), foot=0.5)
    assert high.get_figheight() == pytest.approx(plain.get_figheight() + 0.5)
    high.draw_without_rendering()
    lowest = min(text.get_window_extent().y0 for text in high.axes[0].texts if text.get_text())
    assert lowest / high.dpi > 0.5


@pytest.mark.parametrize("make", [blocks, estimate])
def test_equal_numbers_give_equal_files(make: Callable[[], Figure]) -> None:
    files = []
    for _ in range(2):
        stream = io.BytesIO()
        make().savefig(stream, format="svg", metadata={"Date": None})
        files.append(stream.getvalue())
    assert files[0] == files[1]
