"""Configurations and metric files for the tests of tables and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lska.data.perturbed.names import FAMILIES, GROUPS, SEVERITIES
from lska.models.runs import ATTENTIONS, Run, first_seeds
from lska.provenance.files import write_json
from lska.provenance.metric_files import project_root
from lska.tables.collect import Table, collect
from lska.tables.specs import TARGETS, ColumnSpec, RowSpec, TableSpec, load_spec, requirements

PAPER = project_root() / "paper"


@dataclass(frozen=True)
class Scale:
    """What tables need of a configuration."""

    results: Path
    runs: tuple[Run, ...] = ()
    scale: str = "demo"
    caption: str = "demo scale: generated data"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    fine_tuned: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    """Runs by task of detection or segmentation."""

    def runs_of(self, task: str) -> tuple[Run, ...]:
        if task == "speed":
            return first_seeds(self.runs)
        return self.fine_tuned.get(task, ()) if task.startswith(("detection/", "segmentation/")) else self.runs


def entry(value: float | None, unit: str, **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, **more}


def put(scale: Scale, task: str, run: Run | str, metrics: Mapping[str, Any], data: str | None = None) -> Path:
    """Write a metric file as `write_metrics` does, without asking git and the processor."""
    path = scale.results / "metrics" / task / f"{run}.json"
    content = {
        "schema": 1, "task": task, "run": str(run), "scale": scale.scale, "metrics": metrics, "recipe": None,
        "weights": {"md5": None, "origin": "none"}, "code": {"commit": None, "dirty": None}, "detail": {},
        "data": data and {"name": data, "digest": "sha256:" + "0" * 64}, "seconds": 1.0,
        "environment": {"lock": None, "torch": "2", "device": "cpu", "hardware": "Some CPU"},
        "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    write_json(path, content)
    return path


def grid() -> dict[Run, dict[str, int]]:
    """Params, MACs and FLOPs of all networks that were counted on the official code."""
    attentions = dict(zip(("LKA-trivial", "LSKA-trivial", "LKA", "LSKA"), ATTENTIONS, strict=False))
    names = {"params": "params", "macs": "macs_conv_linear", "flops": "flops_figure1_convention"}
    with (PAPER / "complexity_grid.csv").open() as stream:
        return {
            Run(line["model"].lower().replace("-", "_"), attentions[line["variant"]], int(line["k"]), 0): {
                name: int(line[column]) for name, column in names.items()
            }
            for line in csv.DictReader(stream)
        }


def downstream() -> dict[tuple[str, Run], dict[str, int]]:
    """Costs of all detectors and segmentors that were counted on the official code, by head, under our metric names."""
    heads = {"retina": "retinanet", "mask_rcnn": "mask_rcnn", "semfpn": "semantic_fpn"}
    found = {}
    with (PAPER / "complexity_downstream.csv").open() as stream:
        for line in csv.DictReader(stream):
            run = Run(line["model"].lower().replace("-", "_"), line["variant"].lower(), int(line["k"]), 0)
            low, full = int(line["macs_plus_bias"]), int(line["macs_plus_bias_bn_gelu"])
            costs = {"params": int(line["params"]), f"flops_{line['input']}": full}
            if line["task"] == "semfpn":
                # Without attention over pixels, the cost grows with the area, here eightfold.
                wide = {"flops_low_2048x1024": 8 * low, "flops_high_2048x1024": 8 * low + norms(run.model, 2048 * 1024)}
                costs |= wide
            found[heads[line["task"]], run] = costs
    return found


def norms(model: str, pixels: int) -> int:
    """Two operations per element of every BatchNorm (embedding, two per block) and LayerNorm (one per stage)."""
    stages = enumerate(zip(*STAGES[model], strict=True))
    return sum(2 * channels * (2 + 2 * blocks) * (pixels // 16 // 4**stage) for stage, (channels, blocks) in stages)


STAGES = {
    "van_tiny": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "van_small": ((64, 128, 320, 512), (2, 2, 4, 2)),
    "van_base": ((64, 128, 320, 512), (3, 3, 12, 3)),
}


def put_required(target: str, scale: Scale, data: str = "shapes") -> list[Path]:
    """Write exactly the metric files that `target` requires, with the true counts and invented measurements."""
    counts, heads = grid(), downstream()
    paths = []
    for number, (task, run) in enumerate(requirements(load_spec(target), scale)):
        if task == "complexity":
            found = counts.get(run, {"params": 10**7 + number, "macs": 10**9, "flops": 10**9})
            metrics = {name: entry(value, "1") for name, value in found.items()} | stage_metrics(run.model)
        elif task == "classification":
            metrics = {"top1": entry(60 + number / 7, "%", n=1000, standard_error=1.5)}
        elif task.startswith("complexity/"):
            metrics = {name: entry(value, "1") for name, value in heads[task.partition("/")[2], run].items()}
        elif task.startswith(("detection/", "segmentation/")):
            metrics = {name: entry(30 + number / 7, "%", n=500) for name in dense_metrics(task)}
        elif task.startswith("robustness/"):
            metrics = perturbed_metrics(task, 20 + number / 7)
        elif task in INSPECTED:
            metrics = inspection_metrics(task, 10 + number / 7)
        elif task == "speed":
            interval = [99.0 + number, 102.5 + number]
            metrics = {"throughput": entry(100.25 + number, "images/s", n=5, interval=interval)}
            metrics |= {"batch_size": entry(32, "1"), "image_size": entry(64, "pixels")}
        else:
            names = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")
            metrics = {name: entry(1, "1") for name in names}
        measured = task in TRAINED or task.startswith("robustness/")
        paths.append(put(scale, task, run, metrics, data if measured else None))
        if task == "receptive_field":
            put_field(scale, run)
    return paths


def put_field(scale: Scale, run: Run, size: int = 32) -> Path:
    """Made-up contribution maps beside the metric file, wider for larger kernels and flat before training."""
    distance = np.abs(np.arange(size) - size // 2)
    trained = np.exp(-np.maximum(distance[:, None], distance) / run.kernel).astype(np.float32)
    path = scale.results / "fields" / f"{run}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, trained=trained, untrained=np.ones_like(trained))
    return path


def inspection_metrics(task: str, start: float) -> dict[str, Any]:
    """The metrics of looking inside that tables show, each another number from `start` on."""
    factors, forms = ("shape", "texture", "residual"), ("reference", "printed")
    names = {
        "shape_texture": {
            **{f"{factor}_dimensions_{form}": "1" for factor in factors for form in forms},
            **{f"{factor}_share_{form}": "%" for factor in factors for form in forms},
            **{f"{factor}_score_{form}": "1" for factor in factors for form in forms},
            "shape_bias": "%", "cue_decisions": "%",
        },
        "texture_knn": {f"top1_{kind}{what}": "%" for kind in ("cosine", "euclidean") for what in ("", "_deviation")},
        "receptive_field": {f"area_ratio_{t}{what}": "%" for t in (20, 30, 50, 99) for what in ("", "_untrained")},
    }[task]  # fmt: skip
    return {name: entry(start + place / 100, unit, n=20) for place, (name, unit) in enumerate(names.items())}


def perturbed_metrics(task: str, start: float) -> dict[str, Any]:
    """All metrics of a perturbed set with its parts at hand, each another number from `start` on."""
    family = task.partition("/")[2]
    if family not in FAMILIES:
        names = ["top1", "error", "ece"] + ["top1_unmasked", "error_unmasked"] * (family != "sketch")
    else:
        names = [f"top1_{name}_{level}" for name in FAMILIES[family] for level in SEVERITIES]
        for means in ("19", "15") if family == "c" else ("10",):
            names += [f"top1_mean_{means}", f"error_mean_{means}", f"mce_{means}", f"relative_mce_{means}"]
        names += [f"top1_{group}" for group in GROUPS]
    return {name: entry(start + place / 100, "%", n=50, standard_error=1.25) for place, name in enumerate(names)}


def dense_metrics(task: str) -> list[str]:
    if task.startswith("segmentation/"):
        return ["miou", "aacc", "macc"]
    kinds = ("box", "mask") if "mask_rcnn" in task else ("box",)
    return [f"{kind}_{name}" for kind in kinds for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")]


def stage_metrics(model: str) -> dict[str, Any]:
    metrics = {}
    for stage, (channels, blocks) in enumerate(zip(*STAGES.get(model, ((), ())), strict=True), start=1):
        values = {
            "channels": channels, "blocks": blocks, "expansion": 8 if stage < 3 else 4, "stride": 2 ** (stage + 1),
            "embedding_kernel": 7 if stage == 1 else 3, "embedding_stride": 4 if stage == 1 else 2,
        }  # fmt: skip
        metrics |= {f"stage{stage}_{name}": entry(value, "1") for name, value in values.items()}
    return metrics


def demo(tmp_path: Path, **more: Any) -> Scale:
    runs = [Run("van_tiny", attention, kernel, 0) for attention in ATTENTIONS for kernel in (7, 23)]
    runs += [Run(model, attention, 23, 0) for model in ("van_small", "van_base") for attention in ("lka", "lska")]
    return Scale(tmp_path / "results" / "demo", tuple(runs), **{"fine_tuned": DENSE, **more})


DENSE = {
    "detection/retinanet": tuple(Run("van_tiny", attention, 23, 0) for attention in ("lka", "lska")),
    "detection/retinanet-untrained": (Run("van_tiny", "lska", 23, 0),),
    "detection/mask_rcnn": (Run("van_tiny", "lska", 23, 0),),
    "segmentation/semantic_fpn": tuple(Run("van_tiny", "lska", kernel, 0) for kernel in (7, 23)),
    "segmentation/semantic_fpn-untrained": (Run("van_tiny", "lska", 23, 0),),
}
INSPECTED = ("shape_texture", "texture_knn", "receptive_field")
TRAINED = {"classification", *DENSE, *INSPECTED}


TOP1 = ColumnSpec("top-1", "classification", "top1", unit="%", digits=1, tolerance="noise", data="imagenet1k")
ROW = RowSpec("VAN-{attention}", models=("van_tiny",), attentions=("lka",), kernels=(23,))


def filled(target: str, scale: Scale, data: str = "shapes") -> Table:
    """A table from the metric files that it requires, written anew."""
    put_required(target, scale, data)
    return collect(load_spec(target), scale, PAPER, scale.results)


def every_table(scale: Scale) -> dict[str, Table]:
    """All tables and figures from one set of metric files."""
    for target in TARGETS:
        put_required(target, scale)
    return {target: collect(load_spec(target), scale, PAPER, scale.results) for target in TARGETS}


def one_cell(tmp_path: Path, column: ColumnSpec, printed: str, source: str = "printed", **more: Any) -> TableSpec:
    """A table of one row and column with the paper's value `printed`, empty for unknown."""
    lines = [["table", "row", "column", "value", "unit", "source", "detail"]]
    lines.append(["table_03", "VAN-LKA", column.label, printed, column.unit, source if printed else "null", ""])
    with (tmp_path / "table_03.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    return TableSpec("table_03", "Title", "model", (more.pop("row", ROW),), (column,), "Prose.", "table_03", **more)


def only_cell(spec: TableSpec, scale: Scale, tmp_path: Path) -> Any:
    (cell,) = collect(spec, scale, tmp_path, scale.results).cells
    return cell


def metric_file(scale: Scale, task: str, run: Run) -> Path:
    return scale.results / "metrics" / task / f"{run}.json"


def value(scale: Scale, task: str, run: Run, name: str) -> float:
    return json.loads(metric_file(scale, task, run).read_text())["metrics"][name]["value"]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def without(*missing: str) -> Callable[[dict[str, Any]], None]:
    """As measured without these corruptions: no means over them, and the file says so."""

    def change(content: dict[str, Any]) -> None:
        for name, metric in content["metrics"].items():
            absent = any(name.startswith(f"top1_{corruption}_") for corruption in missing)
            if absent or "mean" in name or "mce" in name:
                metric["value"] = None
        content["detail"] = {"missing": {corruption: list(SEVERITIES) for corruption in missing}}

    return change
