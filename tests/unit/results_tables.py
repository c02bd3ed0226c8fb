"""The tables of README.md and docs/results.md, made of the committed results of the small scale.

    python tests/unit/results_tables.py     # writes them anew

Each stands below a comment with its name. "±" is one standard error, over images and trainings. Intervals are of
95 %, by the tests that judge the claims.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from lska.claims.verdicts import Difference, Numbers, Unavailable, networks_and_freedom
from lska.models.runs import Run
from lska.provenance.files import write_text
from lska.provenance.metric_files import project_root
from lska.settings.scale import Config, load

ATTENTIONS = {"LKA": "lka", "LSKA": "lska"}
MODELS = {"van_tiny": "VAN-Tiny", "van_base": "VAN-Base"}
TOP1 = ("classification", "top1")
CORRUPTED = {
    "clean top-1": ("robustness/c", "top1_clean"), "C, top-1 of 19": ("robustness/c", "top1_mean_19"),
    "C, mCE of 15": ("robustness/c", "mce_15"), "C-bar, top-1": ("robustness/c_bar", "top1_mean_10"),
}  # fmt: skip
DENSE = {
    "box AP, RetinaNet on BCCD": ("detection/retinanet", "box_ap"),
    "box AP50, RetinaNet on BCCD": ("detection/retinanet", "box_ap50"),
    "mIoU, Semantic FPN on CamVid": ("segmentation/semantic_fpn", "miou"),
}
INSIDE = {
    "nearest texture": ("texture_knn", "top1_cosine", 1), "shape score": ("shape_texture", "shape_score_reference", 2),
    "texture score": ("shape_texture", "texture_score_reference", 2),
    "receptive field, 50 %": ("receptive_field", "area_ratio_50", 1),
}  # fmt: skip
MARK = re.compile(r"(<!-- (\w+) -->\n\n)((?:\|.*\n)*)")

Table = list[list[str]]
"""Rows of cells, the head first."""


class Results:
    """What a scale's metric files say, as text."""

    def __init__(self, config: Config) -> None:
        self.config, self.numbers = config, Numbers(config)

    def found(self, predicate: str) -> Difference | None:
        """What a comparison comes to; None where something was not measured."""
        try:
            return self.numbers.difference(predicate)[0]
        except Unavailable:
            return None

    def shown(self, quantity: str, digits: int = 1) -> str:
        """A quantity with its standard error, or a dash."""
        one = self.found(f"{quantity} > 0")
        if one is None:
            return "–"
        error = "" if one.standard_error is None else f" ± {one.standard_error:.{digits}f}"
        return f"{one.value:,.{digits}f}{error}"

    def value(self, task: str, metric: str, network: str, digits: int = 1) -> str:
        """A metric of a network with its standard error, or a dash."""
        return self.shown(f"{task}.{metric}({network})", digits)

    def gap(self, task: str, metric: str, one: str, other: str) -> Difference | None:
        """The second network less the first."""
        return self.found(f"{task}.{metric}({one}) < {task}.{metric}({other})")

    def kernels(self, task: str, model: str = "van_tiny") -> list[int]:
        """Kernel sizes for which a model has a task with LKA or LSKA."""
        runs = self.config.runs_of(task)
        return sorted({run.kernel for run in runs if run.model == model and run.attention in ATTENTIONS.values()})


def named(attention: str, kernel: int, model: str = "van_tiny") -> str:
    """A network as run ids name it."""
    return Run(model, attention, kernel, 0).network


def signed(gap: Difference | None) -> str:
    """A difference with its interval."""
    if gap is None:
        return "–"
    # Adding zero takes its sign away.
    value, *ends = (round(number, 1) + 0.0 for number in (gap.value, *(gap.interval() or ())))
    return f"{value:+}{f' [{ends[0]}, {ends[1]}]' if ends else ''}".replace("-", "−")


def seen(gap: Difference | None) -> str:
    """The difference that a test would find in four of five repetitions."""
    return "–" if gap is None or not math.isfinite(gap.detectable() or math.nan) else f"{gap.detectable():.1f}"


def accuracy(results: Results) -> Table:
    """Top-1 against the kernel size, with the difference of the two attentions and their speed."""
    rows = [["model", "k", *ATTENTIONS, "LSKA − LKA", "would see", *(f"{name}, images/s" for name in ATTENTIONS)]]
    for model, shown in MODELS.items():
        kernels = results.kernels("classification", model)
        for k in kernels:
            both = [named(attention, k, model) for attention in ATTENTIONS.values()]
            gap = results.gap(*TOP1, *both)
            speeds = [results.value("speed", "throughput", one, 0).partition(" ")[0] for one in both]
            rows.append([shown, str(k), *(results.value(*TOP1, one) for one in both), signed(gap), seen(gap), *speeds])
        if len(kernels) > 1:
            top1 = ([f"{'.'.join(TOP1)}({named(one, k, model)})" for k in kernels] for one in ATTENTIONS.values())
            both = [f"({' + '.join(quantities)}) / {len(kernels)}" for quantities in top1]
            gap = results.found(" < ".join(both))
            rows.append([f"{shown}, mean", "–", *map(results.shown, both), signed(gap), seen(gap), "–", "–"])
    return rows


def growth(results: Results) -> Table:
    """How much a larger kernel gains."""
    rows = [["from k to k", "metric", *ATTENTIONS, "would see"]]
    for model, shown in MODELS.items():
        kernels = [k for k in results.kernels("classification", model) if k in (7, 23, 53)]
        whole = [(kernels[0], kernels[-1])] if len(kernels) > 1 else []
        steps = list(dict.fromkeys([*itertools.pairwise(kernels), *whole]))
        for name, metric in {"top-1": TOP1, **dict(list(CORRUPTED.items())[1:])}.items():
            for step in steps if metric is TOP1 else whole:
                gaps = [results.gap(*metric, *(named(one, k, model) for k in step)) for one in ATTENTIONS.values()]
                sizes = " and ".join(map(seen, gaps))
                rows.append([f"{shown}, {step[0]} to {step[1]}", name, *map(signed, gaps), sizes])
    return rows


def trainings(results: Results) -> Table:
    """How trainings with other seeds differ."""
    rows = [["metric", "standard deviation", "trainings", "networks"]]
    corrupted, inside = dict(list(CORRUPTED.items())[1:]), {name: one[:2] for name, one in INSIDE.items()}
    for shown, metric in ({"top-1": TOP1} | corrupted | DENSE | inside).items():
        if found := results.numbers.deviations(*metric):
            networks, freedom = networks_and_freedom(found)
            variance = math.fsum(value**2 for value in found.values()) / freedom
            digits = 3 if variance < 0.01 else 1
            rows.append([shown, f"{math.sqrt(variance):.{digits}f}", f"{len(found)}", f"{networks}"])
    return rows


def others(results: Results) -> Table:
    """Top-1 of all networks without LKA or LSKA."""
    rows = [["network", "top-1", "C, top-1 of 19"]]
    networks = [run for run in results.config.runs if run.attention not in ATTENTIONS.values()]
    for run in networks:
        rows.append([run.network, *(results.value(*one, run.network) for one in (TOP1, CORRUPTED["C, top-1 of 19"]))])
    return rows


def robustness(results: Results) -> Table:
    """Corruptions by network."""
    rows = [["network", *CORRUPTED]]
    for model, shown in MODELS.items():
        for name, attention in ATTENTIONS.items():
            for k in results.kernels("robustness/c", model):
                values = (results.value(*metric, named(attention, k, model)) for metric in CORRUPTED.values())
                rows.append([f"{shown} {name} k={k}", *values])
    return rows


def dense(results: Results) -> Table:
    """Detection and segmentation."""
    rows = [["metric", "k", *ATTENTIONS, "LSKA − LKA", "would see"]]
    for shown, (task, metric) in DENSE.items():
        for k in results.kernels(task):
            both = [named(attention, k) for attention in ATTENTIONS.values()]
            gap = results.gap(task, metric, *both)
            rows.append([shown, str(k), *(results.value(task, metric, one) for one in both), signed(gap), seen(gap)])
    return rows


def inside(results: Results) -> Table:
    """What inspections found, by kernel size."""
    kernels = results.kernels("texture_knn")
    rows = [["", *(f"k = {k}" for k in kernels)]]
    for shown, (task, metric, digits) in INSIDE.items():
        for name, attention in ATTENTIONS.items():
            values = (results.value(task, metric, named(attention, k), digits) for k in kernels)
            rows.append([f"{shown}, {name}", *values])
    return rows


def key(results: Results) -> Table:
    """The numbers of the README."""

    def row(shown: str, task: str, metric: str, kernel: int, data: str) -> list[str]:
        return [shown, *(results.value(task, metric, named(one, kernel)) for one in ATTENTIONS.values()), data]

    def plain(task: str, metric: str, kernel: int) -> Iterable[float]:
        return (results.found(f"{task}.{metric}({named(one, kernel)}) > 0").value for one in ATTENTIONS.values())

    flops = zip(*(plain("complexity", "flops", k) for k in (7, 65)), strict=True)
    counted = [f"{low / 1e9:.2f} G, {high / 1e9:.2f} G" for low, high in flops]
    speeds = [f"{value:,.0f}" for value in plain("speed", "throughput", 53)]
    size = results.config.recipe_of(results.config.runs[0]).image_size
    return [
        ["VAN-Tiny", *ATTENTIONS, "measured on"],
        ["FLOPs, k = 7 and 65", *counted, "the paper's networks; all 84 counts agree"],
        ["images/s on a CPU, k = 53", *speeds, f"{size} pixels"],
        *(row(f"top-1, k = {k}", *TOP1, k, "CIFAR-10") for k in (7, 23, 53)),
        row("corrupted, top-1 of 19, k = 53", *CORRUPTED["C, top-1 of 19"], 53, "CIFAR-10"),
        row("box AP, RetinaNet, k = 23", "detection/retinanet", "box_ap", 23, "BCCD"),
        row("mIoU, Semantic FPN, k = 23", "segmentation/semantic_fpn", "miou", 23, "CamVid"),
    ]


TABLES: tuple[Callable[[Results], Table], ...] = (key, accuracy, growth, trainings, others, robustness, dense, inside)


def filled(text: str) -> str:
    """A document with all tables that it names."""
    results, makers = Results(load([Path("config/small.yaml")])), {one.__name__: one for one in TABLES}

    def table(found: re.Match[str]) -> str:
        head, *rows = makers[found[2]](results)
        # Columns of numbers stand to the right.
        numbers = [all(re.match(r"[−+–\d]", cell) for cell in column) for column in zip(*rows, strict=True)]
        rule = ["---:" if number else "---" for number in numbers] or ["---"] * len(head)
        return found[1] + "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *rows))

    return MARK.sub(table, text)


if __name__ == "__main__":
    for path in (project_root() / "README.md", project_root() / "docs" / "results.md"):
        write_text(path, filled(path.read_text(encoding="utf-8")))
