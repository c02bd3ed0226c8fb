"""Counts against every computed and printed complexity value of the paper's record, Table I's properties, throughput.

No test here depends on how fast anything is.
"""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from tiny_project import RECIPE, SETTINGS, Project
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lska.evaluate import efficiency
from lska.evaluate.efficiency import (
    batch_seconds,
    complexity,
    conventions,
    interleaved_seconds,
    measure_complexity,
    measure_speed,
    paper_job,
    paper_network,
)
from lska.models import create, properties
from lska.models.attention import DepthwiseConv2d, as_published
from lska.models.counting import architecture_metrics, count
from lska.models.properties import MODULES, measure_module
from lska.models.runs import Run
from lska.provenance.metric_files import validate
from lska.provenance.strict import merge
from lska.settings.scale import Config, from_dict
from lska.settings.schema import Speed

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


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
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
    assert project.command("evaluate", "complexity", "van_tiny-lska-k7-s0", "--head", "mask_rcnn") == 0
    stored = json.loads(Path("results/test/metrics/complexity/mask_rcnn/van_tiny-lska-k7-s0.json").read_text())
    assert stored["metrics"]["flops_1280x800"]["value"] == 186448399900
    assert project.command("evaluate", "complexity", "van_tiny-lska-k23-s0") == 0
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


def test_transposed_convolution_spreads_each_input() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=1, padding=1, groups=2, bias=False)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 4, 5, 7))
    counted = count(layer, (4, 5, 7))
    assert counted.macs == 4 * 5 * 7 * 9 * 6 // 2 and counted.biases == 0
    assert 2 * counted.macs == counter.get_total_flops()


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


# Properties of Table I

# VAN Table 1 for the first three, the LSKA paper's text for the last row and column; None: does not apply.
EXPECTED = {
    "convolution": (0, 0, 0, 0),
    "self_attention": (1, 1, 0, None),
    "lka": (1, 1, 1, 0),
    "lska": (1, 1, 1, 1),
}
NAMES = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")


def test_answers_are_those_of_the_papers_and_follow_from_the_kernels() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    measured = {module: {k: entry["value"] for k, entry in measure_module(module).items()} for module in MODULES}
    assert torch.equal(torch.get_rng_state(), state)
    assert {module: tuple(measured[module][name] for name in NAMES) for module in MODULES} == EXPECTED
    assert measured["convolution"]["weight_change"] == 0
    assert all(measured[module]["weight_change"] > 1e6 * properties.TOLERANCE for module in MODULES[1:])
    assert measured["self_attention"]["channel_spread"] < 1e-3 * properties.TOLERANCE
    assert all(measured[module]["channel_spread"] > 1e6 * properties.TOLERANCE for module in ("lka", "lska"))
    ranges = {module: values["range_pixels"] for module, values in measured.items()}
    assert ranges == {"convolution": 3, "self_attention": properties.MAP_SIZE, "lka": 23, "lska": 23}
    growth = {"convolution": 65**2 / 7**2, "lka": (5**2 + 21**2) / (3**2 + 3**2), "lska": (5 + 21) / (3 + 3)}
    found = {module: values["growth_k7_k65"] for module, values in measured.items()}
    assert found == {**{name: pytest.approx(value) for name, value in growth.items()}, "self_attention": None}
    with pytest.raises(ValueError, match="convolution, self_attention, lka, lska; found 'pooling'"):
        measure_module("pooling")


def test_attention_with_many_heads_adapts_per_channel() -> None:
    """The measure must see what one head lacks: with several heads, channels do differ."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, num_heads=8, batch_first=True).double()
    with torch.no_grad():
        attention.out_proj.weight.copy_(torch.eye(8))
    first, second = torch.randn(2, 1, 8, properties.MAP_SIZE, properties.MAP_SIZE, dtype=torch.double)
    change = properties._relative_change(properties._self_attention(attention), first, second)
    assert change.std() > 1e6 * properties.TOLERANCE


# Throughput


class Clock:
    """Time that passes only while a network works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(efficiency.time, "perf_counter", lambda: self.now)

    def network(self, name: str, *seconds: float) -> nn.Module:
        """A network whose calls take `seconds` in turn, the last one from then on."""
        left = list(seconds)

        class Timed(nn.Module):
            def forward(network, images: torch.Tensor) -> torch.Tensor:  # noqa: N805 - self is the clock
                assert torch.is_inference_mode_enabled()
                self.calls.append(name)
                self.now += left.pop(0) if len(left) > 1 else left[0]
                return images

        return Timed()


IMAGES = torch.zeros(2, 3, 8, 8)


def test_a_measurement_lasts_as_long_as_asked_and_gives_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert batch_seconds(clock.network("a", 0.2, 0.4, 0.3), IMAGES, least_seconds=0.85) == pytest.approx(0.3)
    assert batch_seconds(clock.network("b", 0.5), IMAGES, least_seconds=0.0) == 0.5
    assert clock.calls == ["a"] * 3 + ["b"]


def test_networks_take_turns_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # The first two calls of each are warm-up and slow; they must not count.
    networks = [clock.network("a", 9.0, 9.0, 0.1), clock.network("b", 9.0, 9.0, 0.2), clock.network("c", 9.0, 9.0, 0.3)]
    times = interleaved_seconds(networks, [IMAGES] * 3, Speed(batch_size=2, warmup=2, repeats=3, seconds=0.0))
    assert times == pytest.approx(torch.tensor([[0.1, 0.2, 0.3]] * 3).numpy())
    assert "".join(clock.calls) == "aabbcc" + "abc" + "cba" + "abc"


def content_of(project: Project, run: Run, **changes: Any) -> dict[str, Any]:
    config = project.config({"speed": changes})
    measure_speed(config.measurement("speed"), list(map(config.classifier, [run, run.with_seed(1)])))
    return json.loads(config.metric_path("speed", run).read_text(encoding="utf-8"))


def test_the_file_states_the_median_and_the_conditions(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    networks = iter([clock.network("a", 1.0, 0.5, 0.25, 0.2, 0.1), clock.network("b", 1.0)])
    monkeypatch.setattr(efficiency, "build_network", lambda *_: next(networks))
    content = content_of(project, project.run, batch_size=2, repeats=4, warmup=1)
    # Repeats of 0.5, 0.25, 0.2 and 0.1 seconds are 4, 8, 10 and 20 images per second.
    assert content["metrics"] == {
        "throughput": {"value": pytest.approx(9.0), "unit": "images/s", "n": 4, "interval": pytest.approx([7.0, 12.5])},
        "latency": {"value": pytest.approx(225.0), "unit": "ms/batch", "n": 4},
        "batch_size": {"value": 2, "unit": "1"},
        "image_size": {"value": 32, "unit": "pixels"},
    }
    assert content["weights"] == {"md5": None, "origin": "random"}
    assert content["environment"]["device"] == "cpu"
    assert content["detail"].pop("protocol").startswith("sha256:")
    assert content["detail"] == {"threads": 1, "warmup_batches": 1, "least_seconds": 0.0}
    assert (content["recipe"], content["data"]) == (None, None)


def test_the_real_networks_are_measured_as_published_in_evaluation_mode(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[nn.Module, torch.Size]] = []
    monkeypatch.setattr(
        efficiency, "batch_seconds",
        lambda network, images, least: seen.append((network, images.shape)) or batch_seconds(network, images, least),
    )  # fmt: skip
    # The names of the classes are needed, but no image.
    monkeypatch.setitem(project.settings["data"], "root", "none")
    content = content_of(project, project.run, repeats=1, warmup=0, batch_size=3)
    assert [shape for _, shape in seen] == [(3, 3, 32, 32)] * 2
    assert all(not network.training and network.num_classes == 4 for network, _ in seen)
    convolutions = [part for network, _ in seen for part in network.modules() if isinstance(part, DepthwiseConv2d)]
    assert len(convolutions) > 20 and all(part.as_published for part in convolutions)
    throughput, latency = (content["metrics"][name]["value"] for name in ("throughput", "latency"))
    assert throughput * latency == pytest.approx(3 * 1000)
    other = project.config().metric_path("speed", project.run.with_seed(1))
    assert json.loads(other.read_text())["run"] == "van_tiny-lska-k7-s1"
    with pytest.raises(ValueError, match=r"none\.yaml"):
        config = project.config({"data": {"manifest": "none.yaml"}})
        measure_speed(config.measurement("speed"), [config.classifier(project.run)])
