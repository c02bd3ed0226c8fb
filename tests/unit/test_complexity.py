"""Counts against every computed and printed complexity value of the paper's record, alone and in detectors."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import timm
import torch
import yaml
from tiny_project import RECIPE, SETTINGS, Project
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lska.evaluate.efficiency import complexity, conventions, measure_complexity, paper_job, paper_network
from lska.models import create
from lska.models.attention import as_published
from lska.models.counting import architecture_metrics, count
from lska.models.runs import Run
from lska.provenance.metric_files import validate
from lska.provenance.strict import merge
from lska.settings.scale import Config, from_dict

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


# The paper's record


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_networks_to_the_last_digit(step: int) -> None:
    grid, costs = rows("complexity_grid.csv"), {}
    columns = ("params", "macs_conv_linear", "flops_official_utility", "flops_figure1_convention")
    for row in grid[::step]:
        name = f"{row['model']} {row['variant']} k={row['k']}"
        costs[name] = cost = count(network(name))
        assert cost.uncounted == ()
        found = [cost.params, cost.macs, cost.flops_official_utility, cost.flops]
        assert found == [int(row[column]) for column in columns], name
    figure = [row for row in rows("figure_01.csv") if row["column"] == "FLOPs"]
    assert (len(grid), len(figure)) == (84, 20)
    for row in figure[::step]:
        cost = costs.get(row["row"]) or count(network(row["row"]))
        assert f"{cost.flops / 1e9:.2f}" == row["value"], row
    for row in rows("figure_03.csv")[::step]:
        if "SLaK" not in row["row"] and row["source"] == "computed":
            cost = costs.get(row["row"]) or count(network(row["row"]))
            value = {"Params": cost.params / 1e6, "FLOPs": cost.macs / 1e9}[row["column"]]
            assert f"{value:.3f}" == row["value"], row


TABLE_2 = {"channels C": "channels", "blocks L": "blocks", "CFFN expansion": "expansion"}
TABLE_2 |= {"embedding kernel": "embedding_kernel", "embedding stride": "embedding_stride", "output size": "stride"}


def test_architectures_are_those_of_table_2() -> None:
    table = [row for row in rows("table_02.csv") if row["row"].startswith("VAN-LSKA-")]
    assert len(table) == 72
    metrics = {size: architecture_metrics(meta(f"van_{size.lower()}")) for size in ("Tiny", "Small", "Base")}
    for row in table:
        value = metrics[row["row"].split("-")[2].split()[0]][f"stage{row['row'][-1]}_{TABLE_2[row['column']]}"]
        printed = f"H/{value} x W/{value}" if row["column"] == "output size" else str(value)
        assert printed == row["value"], row


HEADS = {"retina": "retinanet", "mask_rcnn": "mask_rcnn", "semfpn": "semantic_fpn"}
COLUMNS = {"params": "params", "macs": "macs_{}", "macs_plus_bias": "flops_low_{}"}
COLUMNS |= {"macs_plus_bias_bn_gelu": "flops_{}"}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A scale with shrunken networks, which must not matter."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return from_dict(merge(SETTINGS, {"training": {"recipe": str(tmp_path / "recipe.yaml")}}), "test configuration")


def counted(config: Config, head: str, label: str, kernel: str, size: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Counts of the network that names such as ``VAN-LSKA-Tiny`` and ``VAN-Tiny LSKA`` stand for."""
    words = set(label.lower().replace(" ", "-").split("-")) - {"van"}
    which, attention = sorted(words, key=lambda word: word in ("lka", "lska"))
    run = Run(f"van_{which}", attention, int(kernel.removeprefix("k=")), 0)
    width, height = map(int, size.split("x"))
    cost = complexity(paper_network(paper_job(head, run)), head, (width, height))
    return cost.uncounted, conventions(cost, (width, height))


@pytest.mark.slow
def test_detectors_and_segmentors_to_the_last_digit(config: Config) -> None:
    downstream = rows("complexity_downstream.csv")
    assert len(downstream) == 90
    for row in downstream:
        label = f"{row['model']} {row['variant']}"
        uncounted, values = counted(config, HEADS[row["task"]], label, row["k"], row["input"])
        assert uncounted == ()
        found = {column: values[name.format(row["input"])] for column, name in COLUMNS.items()}
        assert found == {column: int(row[column]) for column in COLUMNS}, row


def test_detectors_and_segmentors_by_one_row_each_and_as_printed(config: Config) -> None:
    downstream = rows("complexity_downstream.csv")
    for task, head in HEADS.items():
        row = next(row for row in downstream if row["task"] == task)
        _, values = counted(config, head, f"{row['model']} {row['variant']}", row["k"], row["input"])
        assert {c: values[n.format(row["input"])] for c, n in COLUMNS.items()} == {c: int(row[c]) for c in COLUMNS}
    _, values = counted(config, "mask_rcnn", "VAN-Small LSKA", "23", "1280x800")
    assert (f"{values['params'] / 1e6:.1f}", f"{values['flops_1280x800'] / 1e9:.0f}") == ("33.4", "221")
    table = [row for row in rows("table_05.csv") if "2048x1024 (" in row["column"] and row["source"] == "computed"]
    assert len(table) == 12
    for label in {row["row"].rpartition("/ ")[2] for row in table}:
        _, values = counted(config, "semantic_fpn", label, "23", "2048x1024")
        for kind in ("low", "high"):
            column = f"FLOPs at 2048x1024 ({kind})"
            (printed,) = (r["value"] for r in table if r["row"].endswith(f"/ {label}") and r["column"] == column)
            assert f"{values[f'flops_{kind}_2048x1024'] / 1e9:.2f}" == f"{float(printed):.2f}"
    with pytest.raises(ValueError, match="'upernet' is no detector or segmentor; expected one of retinanet"):
        paper_job("upernet", Run("van_tiny", "lska", 23, 0))


def test_metric_files_hold_the_papers_networks(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    config, run = project.config(), Run("van_small", "lka_trivial", 65, 3)
    kinds = ("macs", "flops_low", "flops_high", "flops")
    sizes = {"retinanet": ["1280x800"], "mask_rcnn": ["1280x800"], "semantic_fpn": ["512x512", "2048x1024"]}
    with caplog.at_level(logging.WARNING, logger="lska"):
        for head, of_head in sizes.items():
            measure_complexity(config.measurement(f"complexity/{head}" if head else "complexity"), [run])
            path = Path(f"results/test/metrics/complexity/{head}/{run}.json")
            content = json.loads(path.read_text(encoding="utf-8"))
            validate(content, "metrics", str(path))
            assert (content["task"], content["run"]) == (f"complexity/{head}", str(run))
            assert content["weights"] == {"md5": None, "origin": "none"} and content["data"] is None
            assert content["detail"] == {"classes": 150 if head == "semantic_fpn" else 80, "uncounted_modules": []}
            assert set(content["metrics"]) == {"params", *(f"{kind}_{size}" for kind in kinds for size in of_head)}
    assert not caplog.records
    assert project.command("complexity", "van_tiny-lska-k7-s0", "--head", "mask_rcnn") == 0
    stored = json.loads(Path("results/test/metrics/complexity/mask_rcnn/van_tiny-lska-k7-s0.json").read_text())
    assert stored["metrics"]["flops_1280x800"]["value"] == 186448399900
    assert project.command("complexity", "van_tiny-lska-k23-s0") == 0
    stored = json.loads(Path("results/test/metrics/complexity/van_tiny-lska-k23-s0.json").read_text())
    assert stored["metrics"]["receptive_field"] == {"value": 23, "unit": "pixels"}
    assert stored["detail"] == {"uncounted_modules": []}


# Counting


def test_multiply_adds_agree_with_torchs_own_counter_and_published_costs() -> None:
    model = as_published(meta("van_tiny", attention="lka", kernel_size=35)).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert 2 * count(model).macs == counter.get_total_flops()
    for name, params, gmacs in (("resnet50", 25557032, 4.089), ("convnext_tiny", 28589128, 4.455)):
        counted = count(meta(name))
        assert (counted.params, counted.uncounted) == (params, ())
        assert counted.macs / 1e9 == pytest.approx(gmacs, abs=6e-4)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = create("van_tiny", kernel_size=7, num_classes=4).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, (3, 64, 64))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"cannot count VAN at input size \(4, 224, 224\)"):
        count(meta("van_tiny"), (4, 224, 224))


def test_kinds_of_work_are_counted_apart() -> None:
    layers = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(2), nn.LayerNorm(4), nn.Linear(4, 5))
    counted = count(nn.Sequential(*layers, nn.Linear(5, 1, bias=False)), (3, 2, 2))
    assert (counted.conv, counted.linear, counted.macs) == (3 * 4 * 4, 4 * (4 * 5 + 5), 48 + 100)
    assert (counted.conv_biases, counted.linear_biases, counted.biases) == (16, 4 * 5, 36)
    assert (counted.batch_norm, counted.layer_norm, counted.gelu) == (16, 16, 16)
    assert counted.params == 16 + 8 + 8 + 25 + 5
    layers = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 2, bias=False), nn.Flatten())
    counted = count(nn.Sequential(*layers, nn.Linear(2, 5)), (3, 2, 2))
    conv = 3 * 4 * 4 + 2 * 4 * 4
    assert counted.macs == conv + 2 * 5 and counted.flops == counted.macs + 2 * 16 + 16
    assert counted.flops_official_utility == conv + 16 // 2


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 2, 0), (2, 1, 1)])
def test_transposed_convolution_spreads_each_input(groups: int, stride: int, padding: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=stride, padding=padding, groups=groups, bias=False)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 4, 5, 7))
    counted = count(layer, (4, 5, 7))
    assert counted.macs == 4 * 5 * 7 * 9 * 6 // groups and counted.biases == 0
    assert 2 * counted.macs == counter.get_total_flops()


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
    assert (every.batch_norm, every.gelu, body.batch_norm, body.gelu) == (4 * 6, 4 * 6, 4 * 4, 4 * 4)
    assert every.macs == body.macs == 4 * (3 * 4 + 4 * 2)
    part = count(model, (3, 2, 2), lambda parts, image: parts.body(image))
    assert part.uncounted == ("top.0 (Conv2d)", "top.1 (BatchNorm2d)")


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
        assert count(Odd(), (2,)).uncounted == ("mixing (Bilinear)", "linear (Linear)")
    assert "mixing (Bilinear), linear (Linear)" in caplog.text


def test_architecture_is_read_off_the_modules() -> None:
    blocks = 3 * 32 + 3 * 64 + 5 * 160 + 2 * 256
    lka, lska = (architecture_metrics(meta("van_tiny", attention=name, kernel_size=35)) for name in ("lka", "lska"))
    assert lka["depthwise_params"] == blocks * (5 * 5 + 11 * 11 + 2)
    assert lska["depthwise_params"] == blocks * (2 * 5 + 2 * 11 + 4)
    assert lka["receptive_field"] == lska["receptive_field"] == 35
    model = create("van_tiny", embed_dims=(8, 12, 16, 24), mlp_ratios=(1.5, 2, 2, 2), stem_kernel=3, stem_stride=2)
    metrics = architecture_metrics(model)
    assert [metrics[f"stage{i}_channels"] for i in range(1, 5)] == [8, 12, 16, 24]
    assert [metrics[f"stage{i}_stride"] for i in range(1, 5)] == [2, 4, 8, 16]
    assert (metrics["stage1_expansion"], metrics["stage1_embedding_kernel"]) == (1.5, 3)
    assert architecture_metrics(timm.create_model("resnet18")) == {"depthwise_params": None, "receptive_field": None}
