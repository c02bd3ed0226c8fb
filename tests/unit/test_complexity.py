"""Counts against every computed and printed complexity value of the paper's record."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lska.models import create
from lska.models.attention import as_published
from lska.models.counting import architecture_metrics, count

PAPER = Path(__file__).resolve().parents[2] / "paper"


def rows(name: str) -> list[dict[str, str]]:
    with (PAPER / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def meta(model: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return create(model, **settings)


def network(row: str) -> nn.Module:
    """The network that a row such as ``VAN-Tiny LSKA-trivial k=7`` names."""
    model, attention, size = row.split()
    kernel = int(size.removeprefix("k="))
    return meta(model.lower().replace("-", "_"), attention=attention.lower().replace("-", "_"), kernel_size=kernel)


GRID = rows("complexity_grid.csv")
FIGURE_1 = [row for row in rows("figure_01.csv") if row["column"] == "FLOPs"]
FIGURE_3 = [row for row in rows("figure_03.csv") if "SLaK" not in row["row"] and row["source"] == "computed"]


def test_the_record_is_complete() -> None:
    assert (len(GRID), len(FIGURE_1)) == (84, 20)


@pytest.mark.parametrize("row", GRID, ids=lambda row: f"{row['model']}-{row['variant']}-{row['k']}")
def test_grid_to_the_last_digit(row: dict[str, str]) -> None:
    counted = count(network(f"{row['model']} {row['variant']} k={row['k']}"))
    assert counted.uncounted == ()
    assert [counted.params, counted.macs, counted.flops_official_utility, counted.flops] == [
        int(row[column])
        for column in ("params", "macs_conv_linear", "flops_official_utility", "flops_figure1_convention")
    ]


@pytest.mark.parametrize("row", FIGURE_1, ids=lambda row: row["row"])
def test_figure_1_to_the_printed_digit(row: dict[str, str]) -> None:
    assert f"{count(network(row['row'])).flops / 1e9:.2f}" == row["value"]


@pytest.mark.parametrize("row", FIGURE_3, ids=lambda row: f"{row['row']} {row['column']}")
def test_figure_3_to_the_printed_digit(row: dict[str, str]) -> None:
    counted = count(network(row["row"]))
    value = {"Params": counted.params / 1e6, "FLOPs": counted.macs / 1e9}[row["column"]]
    assert f"{value:.3f}" == row["value"]


def test_multiply_adds_agree_with_torchs_own_counter() -> None:
    model = as_published(meta("van_tiny", attention="lka", kernel_size=35)).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert 2 * count(model).macs == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "params", "gmacs"), [("resnet50", 25557032, 4.089), ("convnext_tiny", 28589128, 4.455)]
)
def test_other_networks_have_their_published_cost(name: str, params: int, gmacs: float) -> None:
    counted = count(meta(name))
    assert counted.params == params
    assert counted.macs / 1e9 == pytest.approx(gmacs, abs=6e-4)
    assert counted.uncounted == ()


def test_counting_leaves_the_model_as_it_was() -> None:
    model = create("van_tiny", kernel_size=7, num_classes=4).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, (3, 64, 64))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_each_convention_counts_what_it_says() -> None:
    layers = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 2, bias=False), nn.Flatten())
    counted = count(nn.Sequential(*layers, nn.Linear(2, 5)), (3, 2, 2))
    conv, linear = 3 * 4 * 4 + 2 * 4 * 4, 2 * 5
    assert counted.macs == conv + linear
    assert counted.flops == counted.macs + 2 * 16 + 16
    assert counted.flops_official_utility == conv + 16 // 2


def test_kinds_of_work_are_counted_apart() -> None:
    layers = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(2), nn.LayerNorm(4), nn.Linear(4, 5))
    counted = count(nn.Sequential(*layers, nn.Linear(5, 1, bias=False)), (3, 2, 2))
    assert (counted.conv, counted.linear, counted.macs) == (3 * 4 * 4, 4 * (4 * 5 + 5), 48 + 100)
    assert (counted.conv_biases, counted.linear_biases, counted.biases) == (16, 4 * 5, 36)
    assert (counted.batch_norm, counted.layer_norm, counted.gelu) == (16, 16, 16)
    assert counted.params == 16 + 8 + 8 + 25 + 5


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 2, 0), (2, 1, 1)])
def test_transposed_convolution_spreads_each_input(groups: int, stride: int, padding: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=stride, padding=padding, groups=groups, bias=False)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 4, 5, 7))
    counted = count(layer, (4, 5, 7))
    assert counted.macs == 4 * 5 * 7 * 9 * 6 // groups
    assert 2 * counted.macs == counter.get_total_flops()
    assert counted.biases == 0


class Parts(nn.Module):
    """Two parts that only a caller combines."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU())
        self.top = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.GELU())


def test_the_caller_may_run_the_model_and_choose_where_elements_count() -> None:
    model = Parts()
    every = count(model, (3, 2, 2), lambda parts, image: parts.top(parts.body(image)))
    body = count(model, (3, 2, 2), lambda parts, image: parts.top(parts.body(image)), elementwise="body.")
    assert (every.batch_norm, every.gelu) == (4 * 6, 4 * 6)
    assert (body.batch_norm, body.gelu) == (4 * 4, 4 * 4)
    assert every.macs == body.macs == 4 * (3 * 4 + 4 * 2)
    assert count(model, (3, 2, 2), lambda parts, image: parts.body(image)).uncounted == (
        "top.0 (Conv2d)",
        "top.1 (BatchNorm2d)",
    )


class Odd(nn.Module):
    """Multiplies by a matrix that no counter knows of, and uses a linear layer's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Bilinear(2, 2, 2)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixing(x, x @ self.linear.weight)


def test_uncounted_work_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        counted = count(Odd(), (2,))
    assert counted.uncounted == ("mixing (Bilinear)", "linear (Linear)")
    assert "mixing (Bilinear), linear (Linear)" in caplog.text


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot count VAN at input size \(4, 224, 224\)"):
        count(meta("van_tiny"), (4, 224, 224))


TABLE_2 = {"channels C": "channels", "blocks L": "blocks", "CFFN expansion": "expansion"}
TABLE_2 |= {"embedding kernel": "embedding_kernel", "embedding stride": "embedding_stride", "output size": "stride"}


@pytest.mark.parametrize("size", ["Tiny", "Small", "Base"])
def test_architecture_is_that_of_table_2(size: str) -> None:
    metrics = architecture_metrics(meta(f"van_{size.lower()}"))
    of_this_size = [row for row in rows("table_02.csv") if row["row"].startswith(f"VAN-LSKA-{size} ")]
    assert len(of_this_size) == 24
    for row in of_this_size:
        value = metrics[f"stage{row['row'][-1]}_{TABLE_2[row['column']]}"]
        printed = f"H/{value} x W/{value}" if row["column"] == "output size" else str(value)
        assert printed == row["value"], row


def test_depthwise_parameters_and_receptive_field() -> None:
    blocks = 3 * 32 + 3 * 64 + 5 * 160 + 2 * 256
    lka, lska = (architecture_metrics(meta("van_tiny", attention=name, kernel_size=35)) for name in ("lka", "lska"))
    assert lka["depthwise_params"] == blocks * (5 * 5 + 11 * 11 + 2)
    assert lska["depthwise_params"] == blocks * (2 * 5 + 2 * 11 + 4)
    assert lka["receptive_field"] == lska["receptive_field"] == 35


def test_architecture_of_a_shrunken_model_is_read_off_its_modules() -> None:
    model = create("van_tiny", embed_dims=(8, 12, 16, 24), mlp_ratios=(1.5, 2, 2, 2), stem_kernel=3, stem_stride=2)
    metrics = architecture_metrics(model)
    assert [metrics[f"stage{i}_channels"] for i in range(1, 5)] == [8, 12, 16, 24]
    assert [metrics[f"stage{i}_stride"] for i in range(1, 5)] == [2, 4, 8, 16]
    assert (metrics["stage1_expansion"], metrics["stage1_embedding_kernel"]) == (1.5, 3)


def test_other_networks_have_no_receptive_field_of_an_attention_module() -> None:
    metrics = architecture_metrics(timm.create_model("resnet18"))
    assert metrics == {"depthwise_params": None, "receptive_field": None}
