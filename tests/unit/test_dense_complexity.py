"""Counts of complete detectors and segmentors against every computed and printed value of the paper's record."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import yaml
from tiny_project import RECIPE, SETTINGS, Project

from lska.evaluate import dense_complexity
from lska.models.counting import Complexity
from lska.models.runs import Run
from lska.provenance.metric_files import validate
from lska.provenance.strict import merge
from lska.settings.scale import Config, from_dict

PAPER = Path(__file__).resolve().parents[2] / "paper"
HEADS = {"retina": "retinanet", "mask_rcnn": "mask_rcnn", "semfpn": "semantic_fpn"}
COLUMNS = {
    "params": "params",
    "macs": "macs_{}",
    "macs_plus_bias": "flops_low_{}",
    "macs_plus_bias_bn_gelu": "flops_{}",
}


def rows(name: str) -> list[dict[str, str]]:
    with (PAPER / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def run_of(network: str, kernel: str) -> Run:
    """The run that names such as ``VAN-LSKA-Tiny`` and ``VAN-Tiny LSKA`` stand for."""
    words = network.lower().replace(" ", "-").split("-")
    size, attention = sorted(set(words) - {"van"}, key=lambda word: word in ("lka", "lska"))
    return Run(f"van_{size}", attention, int(kernel.removeprefix("k=")), 0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A scale with shrunken networks, which must not matter."""
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return from_dict(merge(SETTINGS, {"training": {"recipe": str(recipe)}}), "test configuration")


def counted(config: Config, head: str, run: Run, size: tuple[int, int]) -> tuple[Complexity, dict[str, int]]:
    network = dense_complexity.paper_network(dense_complexity.paper_job(config, head, run))
    cost = dense_complexity.complexity(network, head, size)
    return cost, dense_complexity.conventions(cost, size)


DOWNSTREAM = rows("complexity_downstream.csv")
TABLE_5 = [row for row in rows("table_05.csv") if "2048x1024 (" in row["column"] and row["source"] == "computed"]


def test_the_record_is_complete() -> None:
    assert (len(DOWNSTREAM), len(TABLE_5)) == (90, 12)


@pytest.mark.parametrize("row", DOWNSTREAM, ids=lambda row: f"{row['task']}-{row['model']}-{row['variant']}-{row['k']}")
def test_downstream_record_to_the_last_digit(row: dict[str, str], config: Config) -> None:
    width, height = map(int, row["input"].split("x"))
    run = run_of(f"{row['model']} {row['variant']}", row["k"])
    cost, values = counted(config, HEADS[row["task"]], run, (width, height))
    assert cost.uncounted == ()
    assert {column: values[name.format(row["input"])] for column, name in COLUMNS.items()} == {
        column: int(row[column]) for column in COLUMNS
    }


@pytest.mark.parametrize("size", ["Tiny", "Small", "Base"])
@pytest.mark.parametrize("attention", ["LKA", "LSKA"])
def test_table_5_at_the_size_of_the_counting_tool(size: str, attention: str, config: Config) -> None:
    label = f"VAN-{attention}-{size}"
    printed = {row["column"]: row["value"] for row in TABLE_5 if row["row"].endswith(f"/ {label}")}
    _, values = counted(config, "semantic_fpn", run_of(label, "23"), (2048, 1024))
    found = {f"FLOPs at 2048x1024 ({kind})": values[f"flops_{kind}_2048x1024"] / 1e9 for kind in ("low", "high")}
    assert len(printed) == 2
    assert {name: float(f"{value:.2f}") for name, value in found.items()} == {
        name: float(value) for name, value in printed.items()
    }


def test_mask_rcnn_with_lska_small_is_as_printed(config: Config) -> None:
    _, values = counted(config, "mask_rcnn", Run("van_small", "lska", 23, 0), (1280, 800))
    assert (f"{values['params'] / 1e6:.1f}", f"{values['flops_1280x800'] / 1e9:.0f}") == ("33.4", "221")


def test_metric_files_hold_the_papers_networks(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    config, run = project.config(), Run("van_small", "lka_trivial", 65, 3)
    with caplog.at_level(logging.WARNING, logger="lska"):
        for head in HEADS.values():
            dense_complexity.measure_dense_complexity(config, head, [run, Run("van_tiny", "lska", 23, 0)])
    assert not caplog.records
    names = {}
    for head in HEADS.values():
        path = Path(f"results/test/metrics/complexity/{head}/{run}.json")
        content = json.loads(path.read_text(encoding="utf-8"))
        validate(content, "metrics", str(path))
        assert (content["task"], content["run"], content["weights"]["origin"]) == (
            f"complexity/{head}",
            str(run),
            "none",
        )
        assert {entry["unit"] for entry in content["metrics"].values()} == {"1"}
        names[head] = set(content["metrics"])
    kinds = ("macs", "flops_low", "flops_high", "flops")
    assert names["retinanet"] == names["mask_rcnn"] == {"params", *(f"{kind}_1280x800" for kind in kinds)}
    assert names["semantic_fpn"] == {
        "params", *(f"{kind}_{size}" for kind in kinds for size in ("512x512", "2048x1024"))
    }  # fmt: skip
    tiny = json.loads(Path("results/test/metrics/complexity/retinanet/van_tiny-lska-k23-s0.json").read_text())
    assert tiny["metrics"]["params"]["value"] == 13309268


def test_the_command_counts_a_head(project: Project) -> None:
    assert project.command("complexity", "van_tiny-lska-k7-s0", "--head", "mask_rcnn") == 0
    stored = json.loads(Path("results/test/metrics/complexity/mask_rcnn/van_tiny-lska-k7-s0.json").read_text())
    assert stored["metrics"]["flops_1280x800"]["value"] == 186448399900


def test_a_head_that_is_unknown_is_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="'upernet' is no detector or segmentor; expected one of retinanet"):
        dense_complexity.measure_dense_complexity(config, "upernet", [Run("van_tiny", "lska", 23, 0)])
