"""What DVC compares between commits: the headline numbers of each run, and the series that its plots draw.

Every number is that of a metric file or of a training's record; `lska summary --write` takes them together. This module
is imported while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import (
    MissingFileError,
    csv_text,
    files_in,
    parse_json,
    quoted,
    read_lines,
    write_json,
    write_text,
)
from lska.provenance.sidecars import imported, read_sidecar
from lska.settings.scale import Config
from lska.settings.tasks import CONTROL
from lska.tables.measurements import MetricFolder, measurement_of
from lska.tables.specs import TARGETS, load_spec, requirements

HEADLINES: dict[str, dict[str, str]] = {
    "classification": {"top-1": "top1", "top-5": "top5"},
    "detection/retinanet": {"box AP": "box_ap", "box AP50": "box_ap50"},
    "detection/mask_rcnn": {"box AP": "box_ap", "box AP50": "box_ap50", "mask AP": "mask_ap"},
    "segmentation/semantic_fpn": {"mIoU": "miou"},
    "robustness/c": {"mean top-1 of 19": "top1_mean_19", "mCE of 15": "mce_15"},
    "robustness/c_bar": {"mean top-1": "top1_mean_10"},
    "robustness/a": {"top-1": "top1"},
    "robustness/r": {"top-1": "top1"},
    "robustness/sketch": {"top-1": "top1"},
    "shape_texture": {"shape score": "shape_score_reference", "texture score": "texture_score_reference"},
    "texture_knn": {"1-NN top-1, cosine": "top1_cosine"},
    "receptive_field": {"r at t=50%": "area_ratio_50", "r at t=99%": "area_ratio_99"},
    "complexity": {"parameters": "params", "FLOPs": "flops"},
}
"""The few metrics that stand for a task, by what they are called; each is in every metric file of its task. Tasks
without any, such as `speed`, have numbers of a machine."""

COUNTED = "complexity"
"""Task that is counted for seed 0 of a network and holds for all of its seeds."""

FIELDS = {"step": "update", "epoch": "epoch", "loss": "loss", "learning_rate": "learning_rate"}
"""Fields of every line of a training's record by their columns; throughput is left out, it is a machine's."""

VALIDATED = "validation_"
"""Start of the fields that some of the lines have."""


def headlines(task: str) -> Mapping[str, str]:
    """The `HEADLINES` of a task; those of a control are its task's. KeyError where it has none."""
    return HEADLINES[task.removesuffix(CONTROL)]


def measured_networks(config: Config) -> Iterator[tuple[str, Run]]:
    """Every task that a scale measures a network by, with the run: classification, fine-tunings, all others."""
    yield from (("classification", run) for run in config.runs)
    yield from ((job.task, job.run) for job in config.fine_tunings)
    yield from ((item.task, run) for item in config.measured for run in config.runs_of(item.task))


def summary_needs(config: Config, counted: Collection[str] | None = None) -> dict[Run, list[tuple[str, Run]]]:
    """The metric files, as (task, run), with the headline numbers of every run that a scale trains or measures, runs as
    listed.

    Args:
        counted: runs whose operations are counted, because a table or figure shows them; found out where None.
    """
    found: dict[Run, list[tuple[str, Run]]] = {}
    for task, run in measured_networks(config):
        found.setdefault(run, []).append((task, run))
    if counted is None:
        shown = (need for target in TARGETS for need in requirements(load_spec(target), config))
        counted = {str(run) for task, run in shown if task == COUNTED}
    for run, listed in found.items():
        if str(run.with_seed(0)) in counted:
            listed.append((COUNTED, run.with_seed(0)))
    return found


def summary_inputs(config: Config, counted: Collection[str] | None = None) -> list[str]:
    """The metric files that the summaries of a scale are made of; `counted` as in `summary_needs`.

    The records of trainings are not among them: whoever asks for a record asks for a training, and in a clone without
    weights its time would decide. A training's metric files are younger than its record, and change with it.
    """
    listed = (need for one in summary_needs(config, counted).values() for need in one)
    return [str(config.metric_path(task, run)) for task, run in dict.fromkeys(listed)]


def summary_files(config: Config) -> list[str]:
    """All files that `lska summary --write` writes."""
    return [str(path) for path in summary_contents(config, counted=())]


def write_summaries(config: Config) -> list[Path]:
    """Write the files of a scale, each atomically, and remove those of runs and tasks that it no longer has.

    Raises:
        FileNotFoundError: a metric file or a training's record is missing; nothing was written.
        ValueError: one of them is faulty; names the file and the field; nothing was written.
    """
    contents = {path: make() for path, make in summary_contents(config).items()}
    for path, content in contents.items():
        write_text(path, content) if isinstance(content, str) else write_json(path, content)
    for path in leftovers(config, contents):
        path.unlink()
    return list(contents)


def leftovers(config: Config, current: Iterable[Path]) -> list[Path]:
    """Files of former runs and tasks, in the folders that hold the `current` ones and nothing else."""
    found = (*files_in(config.results / "summary", "*.json"), *files_in(config.results / "plots", "**/*.csv"))
    return sorted(set(found) - set(current))


def summary_contents(
    config: Config, counted: Collection[str] | None = None
) -> dict[Path, Callable[[], dict[str, Any] | str]]:
    """What each file holds: the headline numbers of a run, as mappings in mappings by task and metric; or the table of
    a plot, of all networks or of the trainings of a task, where `series` is what is drawn as one line.

    Each is made when it is asked for, by a function that raises FileNotFoundError or ValueError as `MetricFolder.read`,
    or for a missing or faulty record; each metric file is read once. `counted` as in `summary_needs`.
    """
    folder, needs = MetricFolder(config.scale, config.results), summary_needs(config, counted)

    @functools.cache
    def numbers(run: Run) -> dict[tuple[str, ...], float | int]:
        """By the parts of task and metric; what a file says is not there (null) is left out."""
        found = {}
        for task, measured in needs[run]:
            content = folder.read(task, measured)
            for metric in headlines(task).values():
                value = measurement_of(content, metric, folder.path(task, measured), nullable=True).value
                if value is not None:
                    found[*task.split("/"), metric] = value
        return found

    def nested(run: Run) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for (*above, last), value in numbers(run).items():
            functools.reduce(lambda place, part: place.setdefault(part, {}), above, tree)[last] = value
        return tree

    def networks() -> str:
        lines = []
        for run in sorted(needs, key=lambda run: run.sort_key):
            series = "-".join([run.model, *([] if run.attention is None else [run.attention]), f"s{run.seed}"])
            about = {name: getattr(run, name) for name in ("model", "attention", "kernel", "seed")}
            found = {".".join(parts): value for parts, value in numbers(run).items()}
            lines.append({"series": series, "run": run, **about, **found})
        names = {".".join(parts) for run in needs for parts in numbers(run)}
        return csv_text(["series", "run", "model", "attention", "kernel", "seed", *sorted(names)], lines)

    records = {"classification": {run: (config.training_log(run), config.weights_path(run)) for run in config.runs}}
    for job in config.fine_tunings:
        records.setdefault(job.task, {})[job.run] = job.log, job.weights
    plots = {"networks": networks, **{task: functools.partial(_trainings, logs) for task, logs in records.items()}}
    return {config.results / "summary" / f"{run}.json": functools.partial(nested, run) for run in needs} | {
        config.results / "plots" / f"{name}.csv": make for name, make in plots.items()
    }


def _trainings(logs: Mapping[Run, tuple[Path, Path]]) -> str:
    """The records of a task's trainings, one after the other, given their places and those of the weights; nothing of
    weights that were imported.
    """
    found: list[dict[str, Any]] = []
    remedy = "restore it with git where it was committed, or delete the weights of this run and train again"
    for run, (path, weights) in logs.items():
        if imported(read_sidecar(weights.with_suffix(".json"))):
            continue
        try:
            lines = read_lines(path)
        except MissingFileError as error:
            raise MissingFileError(f"{path}: the record of a training is missing; {remedy}") from error
        for number, line in lines:
            entry = parse_json(line, f"{path}: line {number}")
            more = {name: value for name, value in entry.items() if name.startswith(VALIDATED)}
            wanted = {name: entry.get(name) for name in FIELDS} | {k: v for k, v in more.items() if v is not None}
            # True is an int, and no number.
            wrong = [quoted(name) for name, value in wanted.items() if type(value) not in (int, float)]
            if wrong:
                raise InputError(f"{path}: line {number}: expected numbers for {', '.join(wrong)}; {remedy}")
            found.append({"series": run, **{column: entry[name] for name, column in FIELDS.items()}, **more})
    validated = sorted({name for line in found for name in line if name.startswith(VALIDATED)})
    return csv_text(["series", *FIELDS.values(), *validated], found)
