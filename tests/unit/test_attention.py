"""The kernel rule and the four gating units."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from torch import Tensor, nn

from lska.models import create, gating_units
from lska.models.attention import DepthwiseConv2d, GatingUnit, gating_unit
from lska.models.counting import architecture_metrics
from lska.models.designs import ATTENTIONS, AttentionDesign
from lska.models.kernels import kernel_plan
from lska.provenance.errors import InputError

ODD_SIZES = st.integers(1, 60).map(lambda half: 2 * half + 1)


def test_plan_is_the_published_one() -> None:
    for kernel_size, *parts in (
        (7, 3, 3, 2), (11, 3, 5, 2), (23, 5, 7, 3), (35, 5, 11, 3), (41, 5, 13, 3), (53, 5, 17, 3), (65, 5, 21, 3)
    ):  # fmt: skip
        for attention in ("lka", "lska"):
            plan = kernel_plan(attention, kernel_size)
            assert [plan.first, plan.dilated, plan.dilation, plan.receptive_field] == [*parts, kernel_size]


@given(ODD_SIZES)
def test_receptive_field_is_exact_for_every_odd_size(kernel_size: int) -> None:
    plan = kernel_plan("lka", kernel_size)
    reached = {a + b for a in offsets(plan.first, 1) for b in offsets(plan.dilated, plan.dilation)}
    half = kernel_size // 2
    assert reached == set(range(-half, half + 1))
    assert plan.receptive_field == kernel_size
    assert (plan.first, plan.dilated) == (2 * plan.dilation - 1, kernel_size // plan.dilation)


def offsets(taps: int, dilation: int) -> list[int]:
    """Pixel offsets of the taps of a centred kernel."""
    assert dilation * (taps - 1) % 2 == 0, "a kernel off its centre would shift the map"
    return [dilation * tap - dilation * (taps - 1) // 2 for tap in range(taps)]


def test_impossible_sizes_and_attentions_name_the_possible_ones(snapshot: SnapshotAssertion) -> None:
    said = []
    for attention, kernel_size in [("slka", 7), *(("lska", size) for size in (0, 1, 8, 22, -7, 7.0, "7", True, None))]:
        with pytest.raises(InputError) as caught:
            gating_unit(8, attention, kernel_size)
        said.append(str(caught.value))
    assert "\n".join(said) == snapshot


def test_every_attention_is_made_by_its_entry_keeps_the_shape_and_has_names_that_files_and_tables_can_have() -> None:
    for name, design in ATTENTIONS.items():
        assert re.fullmatch("[a-z0-9_]+", name) and design.version >= 1
        for kernel_size in (3, 9, 23):
            unit, x = gating_unit(8, name, kernel_size), torch.randn(2, 8, 6, 11)
            assert unit(x).shape == x.shape
            assert not isinstance(unit, GatingUnit) or torch.equal(unit.eval()(x), x * unit.attention_map(x))
    assert len({design.label for design in ATTENTIONS.values()}) == len(ATTENTIONS)


class Squeezed(nn.Module):
    """No gating unit, and without convolutions that keep channels apart."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mix(x).mean((2, 3), keepdim=True).sigmoid()


def test_any_module_that_keeps_the_shape_is_an_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gating_units, "Squeezed", Squeezed, raising=False)
    monkeypatch.setitem(ATTENTIONS, "squeezed", AttentionDesign("Squeezed", "gating_units.Squeezed"))
    small = {"embed_dims": (8, 16), "depths": (1, 1), "mlp_ratios": (2, 2), "num_classes": 3}
    network = create("van_tiny", attention="squeezed", kernel_size=5, **small)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    weights = sum(parameter.numel() for name, parameter in network.named_parameters() if ".mix." in name)
    assert weights == sum(width * (25 * width + 1) for width in (8, 16))
    found = architecture_metrics(network)
    assert (found["depthwise_params"], found["receptive_field"]) == (0, None)


PUBLISHED = {
    "lka_trivial": {"conv0": (23, 23), "conv1": (1, 1)},
    "lska_trivial": {"conv0h": (1, 23), "conv0v": (23, 1), "conv1": (1, 1)},
    "lka": {"conv0": (5, 5), "conv_spatial": (7, 7), "conv1": (1, 1)},
    "lska": {"conv0h": (1, 5), "conv0v": (5, 1), "conv_spatial_h": (1, 7), "conv_spatial_v": (7, 1), "conv1": (1, 1)},
}


def test_parameters_have_published_names_and_shapes() -> None:
    for attention, kernels in PUBLISHED.items():
        expected = {}
        for name, kernel in kernels.items():
            expected[f"{name}.weight"] = (6, 6 if name == "conv1" else 1, *kernel)
            expected[f"{name}.bias"] = (6,)
        assert {name: tuple(p.shape) for name, p in gating_unit(6, attention, 23).named_parameters()} == expected


def test_impulse_spreads_over_exactly_the_kernel_size() -> None:
    for attention, kernel_size in itertools.product(PUBLISHED, (3, 5, 7, 9, 23, 35)):
        unit = gating_unit(2, attention, kernel_size).double()
        for parameter in unit.parameters():
            nn.init.constant_(parameter, 0.5)
        size = 2 * kernel_size + 1
        x = torch.zeros(1, 2, size, size, dtype=torch.double, requires_grad=True)
        unit.attention_map(x)[0, 0, kernel_size, kernel_size].backward()
        window = slice(kernel_size - kernel_size // 2, kernel_size + kernel_size // 2 + 1)
        expected = torch.zeros(size, size, dtype=torch.bool)
        expected[window, window] = True
        assert torch.equal(x.grad[0, 0] != 0, expected), (attention, kernel_size)


def test_slaks_strips_cross_and_reach_the_kernel_size() -> None:
    unit, size = gating_unit(2, "slak", 23).eval().double(), 47
    x = torch.zeros(1, 2, size, size, dtype=torch.double, requires_grad=True)
    unit.attention_map(x)[0, 0, 23, 23].backward()
    expected = torch.zeros(size, size, dtype=torch.bool)
    expected[12:35, 21:26] = expected[21:26, 12:35] = True
    assert torch.equal(x.grad[0, 0] != 0, expected)
    assert unit.plan.receptive_field == 23 and unit.plan.depthwise[0].kernel == (23, 5)


def test_separable_unit_equals_its_outer_product_kernels() -> None:
    separable, square = gating_unit(3, "lska", 23).double(), gating_unit(3, "lka", 23).double()
    pairs = (("conv0", "conv0h", "conv0v"), ("conv_spatial", "conv_spatial_h", "conv_spatial_v"))
    for joint, horizontal, vertical in pairs:
        h, v = getattr(separable, horizontal), getattr(separable, vertical)
        nn.init.zeros_(h.bias)
        getattr(square, joint).weight.data = v.weight.data * h.weight.data
        getattr(square, joint).bias.data = v.bias.data
    square.conv1.load_state_dict(separable.conv1.state_dict())
    x = torch.randn(1, 3, 30, 30, dtype=torch.double)
    torch.testing.assert_close(separable(x), square(x))


def test_gating_is_the_product_of_input_and_linear_map() -> None:
    unit = gating_unit(3, "lska", 7).double()
    for name, parameter in unit.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    x = torch.randn(1, 3, 9, 9, dtype=torch.double)
    torch.testing.assert_close(unit(3 * x), 9 * unit(x))


CROPPED = [
    ((53, 53), 1, (7, 7)), ((1, 65), 1, (4, 7)), ((21, 1), 3, (5, 5)), ((4, 4), 2, (1, 2)), ((17, 17), 3, (2, 9)),
]  # fmt: skip
WHOLE = [
    ((1, 3), 1, (6, 6)), ((5, 1), 1, (12, 7)), ((1, 5), 1, (7, 12)), ((1, 7), 3, (5, 23)), ((4, 1), 2, (9, 3)),
    ((1, 4), 2, (3, 8)), ((4, 4), 2, (9, 10)), ((3, 3), 2, (8, 8)), ((7, 7), 3, (23, 25)), ((1, 53), 1, (9, 56)),
    ((7, 1), 3, (24, 10)),  # phases longer than the kernel
    ((7, 1), 3, (13, 4)),  # shorter
    ((53, 1), 1, (56, 9)),  # the plain form has wrong gradients of the weights here, in float32 and NCHW
]  # fmt: skip


def results(
    conv: DepthwiseConv2d, size: tuple[int, int], layout: torch.memory_format, dtype: torch.dtype
) -> list[Tensor]:
    """Output of a batch of two maps, and the gradients of map, weights and bias."""
    conv = copy.deepcopy(conv).to(dtype)
    x = torch.linspace(-1, 1, 2 * conv.in_channels * size[0] * size[1], dtype=dtype).sin()
    x = x.view(2, -1, *size).contiguous(memory_format=layout).requires_grad_()
    y = conv(x)
    gradients = torch.autograd.grad(
        (y * torch.arange(y.numel(), dtype=dtype).view_as(y).cos()).sum(), [x, *conv.parameters()]
    )
    return [y.detach(), *gradients]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_saving_work_changes_neither_output_nor_gradients(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    for case in CROPPED + WHOLE:
        kernel, dilation, size = case
        conv = DepthwiseConv2d(3, kernel, dilation)
        skipped = any(conv._unseen_taps(torch.empty(1, 3, *size)))
        assert skipped == (case in CROPPED)
        ours = results(conv, size, layout, torch.float32)
        conv.as_published = True
        for mine, exact in zip(ours, results(conv, size, layout, torch.float64), strict=True):
            assert (mine - exact).abs().max() <= 1e-5 * exact.abs().max(), case
        assert bool((ours[2] == 0).any()) == skipped


def test_no_tap_is_skipped_that_can_reach_the_map() -> None:
    conv = DepthwiseConv2d(1, (53, 53))
    unseen = [conv._unseen_taps(torch.empty(1, 1, *size)) for size in ((27, 27), (60, 28), (26, 27))]
    assert unseen == [(0, 0), (0, 0), (1, 0)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_traced_module_works_at_other_sizes() -> None:
    conv = DepthwiseConv2d(2, (23, 23))
    traced = torch.jit.trace(conv, torch.randn(1, 2, 4, 4))
    x = torch.randn(1, 2, 30, 30)
    torch.testing.assert_close(traced(x), conv(x))
