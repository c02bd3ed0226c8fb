"""Measurements among the results of a scale: how long trainings and evaluations took, by sidecars and metric files."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from lska.config import Config, load
from lska.files import FileError, files_in, read_yaml, vouched
from lska.finetuning import CONTROL
from lska.planning.images import count
from lska.planning.progress import states
from lska.planning.work import Measurement, Network, classifier, predictor, scored_size, training_size
from lska.runs import Run
from lska.train.progress import logged

T = TypeVar("T")

logger = logging.getLogger(__name__)

UNREADABLE = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError)
"""What reading a damaged sidecar or metric file raises."""


def recorded(config: Config, rank: int, whose: str) -> Iterator[Measurement]:
    """Every measurement among the results of a scale.

    Args:
        whose: how the scale is called in the source of each.
    """
    sidecars = [config.weights_path(run) for run in (*config.runs, *config.references)]
    sidecars += [job.weights for job in config.fine_tunings]
    yield from _sound(from_sidecar, [path.with_suffix(".json") for path in sidecars], config, whose, rank)
    yield from _in_progress(config, whose, rank)
    scored = [config.metric_path(task, run) for task in ("classification", "speed") for run in config.runs]
    scored += [job.metrics for job in config.fine_tunings]
    yield from _sound(from_metrics, scored, config, whose, rank)
    for task in ("shape_texture", "texture_knn", "receptive_field"):
        yield from _passes(config, task, whose, rank)


def _sound(
    make: Callable[..., Measurement | None], paths: Iterable[Path], config: Config, whose: str, rank: int
) -> Iterator[Measurement]:
    """What files tell; a damaged one tells nothing, and is no reason not to plan."""
    for path in paths:
        found = _told(path, lambda path=path: make(vouched(path), config, whose, rank))
        if found is not None:
            yield found


def _told(path: Path, make: Callable[[], T]) -> T | None:
    """What a file tells; None, and a warning, where it is damaged."""
    try:
        return make()
    except UNREADABLE as error:
        logger.warning("%s is damaged and not used (%s: %s)", path, type(error).__name__, error)
        return None


def elsewhere(config: Config, rank: int, folder: Path = Path("config")) -> Iterator[Measurement]:
    """As `recorded`, of all other scales that have a complete configuration in `folder` and results."""
    for path in files_in(folder, "*.yaml"):
        scale = read_yaml(path).get("scale")
        if scale in (None, config.scale) or not (Path("results") / str(scale)).is_dir():
            continue
        try:
            other = load([path])
        except ValueError as error:
            logger.info("records of scale %s are not used: %s", scale, error)
            continue
        yield from recorded(other, rank, f"scale {scale}")


def from_sidecar(content: Mapping[str, Any], config: Config, whose: str, rank: int) -> Measurement | None:
    """The throughput of a training, from the sidecar of its weights; None where it tells none.

    Classification says itself which network it was. The widths of a detector or segmentor are those of `config`, so
    one that was trained by another recipe than today's is left out.
    """
    seconds, images, spec = content.get("seconds"), content.get("images_seen"), content.get("spec")
    if not seconds or not images or not isinstance(spec, Mapping):
        return None
    task = str(content.get("task") or "classification").removesuffix(CONTROL)
    network = _trained_network(content, spec, config)
    if network is None:
        return None
    speed = images / seconds / max(1, content.get("processes") or 1)
    return _measurement("training", task, content, speed, f"trainings of {whose}", rank, network)


def _in_progress(config: Config, whose: str, rank: int) -> Iterator[Measurement]:
    """Throughputs of trainings that have not ended yet, from their own logs: the median over what was logged."""
    for run in config.runs:
        try:
            lines = logged(states(config, run) / "train.jsonl")
        except FileError as error:
            logger.warning("%s; it is not used", error)
            continue
        speeds = [line["images_per_second"] for line in lines if line.get("images_per_second", 0) > 0]
        if not speeds or config.weights_path(run).is_file():
            continue
        gpus, recipe = config.training.gpus, config.recipe_of(run)
        yield Measurement(
            "training", "classification", f"the hardware that {run} is trained on", "cuda" if gpus else "cpu",
            recipe.precision, median(speeds) / max(1, gpus), f"trainings in progress of {whose}", rank,
            classifier(config, run, recipe.image_size),
        )  # fmt: skip


def _trained_network(content: Mapping[str, Any], spec: Mapping[str, Any], config: Config) -> Network | None:
    run, recipe = Run.parse(content["run"]), spec.get("recipe") or {}
    if content.get("task") is None:
        size = recipe.get("image_size")
        return None if size is None else classifier(config, run, size, spec.get("architecture") or {})
    job = next((job for job in config.fine_tunings if job.task == content["task"] and job.run == run), None)
    if job is None or job.digest() != content.get("recipe"):
        return None
    return predictor(job, training_size(job))


def from_metrics(content: Mapping[str, Any], config: Config, whose: str, rank: int) -> Measurement | None:
    """The throughput of an evaluation, from its metric file; None where it tells none.

    `speed` gives the forward pass alone; other tasks give the images of the metric file by its whole duration.
    """
    task, metrics, seconds = content.get("task"), content.get("metrics") or {}, content.get("seconds")
    if task == "speed" and "throughput" in metrics:
        network = classifier(config, Run.parse(content["run"]), metrics["image_size"]["value"])
        speed = metrics["throughput"]["value"]
        return _measurement("inference", "speed", content, speed, f"speed of {whose}", rank, network)
    if task == "classification" and seconds and "top1" in metrics:
        run = Run.parse(content["run"])
        network = classifier(config, run, config.recipe_of(run).image_size)
        speed = metrics["top1"]["n"] / seconds
        return _measurement("inference", task, content, speed, f"evaluations of {whose}", rank, network)
    job = next((job for job in config.fine_tunings if (job.task, str(job.run)) == (task, content.get("run"))), None)
    images = None if job is None else count(config, job.kind, "val")
    if not images or not seconds or job.digest() != content.get("recipe"):
        return None
    network = predictor(job, scored_size(job))
    task = job.task.removesuffix(CONTROL)
    return _measurement("inference", task, content, images / seconds, f"evaluations of {whose}", rank, network)


def _passes(config: Config, task: str, whose: str, rank: int) -> Iterator[Measurement]:
    """Throughputs of passes for many networks: each of their metric files keeps the time since the pass began."""
    item = next((item for item in config.measured if item.name == task), None)
    if item is None:
        return
    together: dict[str, list[tuple[Path, dict[str, Any]]]] = defaultdict(list)
    for path in map(item.metrics, config.runs_of(task)):
        content = vouched(path)
        if isinstance(content.get("seconds"), int | float) and content["seconds"] > 0:
            together[str(content.get("started"))].append((path, content))
    images, mode = scored_images(config, task), "training" if task == "receptive_field" else "inference"
    for contents in together.values() if images else ():
        speed = images * len(contents) / max(content["seconds"] for _, content in contents)

        def measured(content: Mapping[str, Any], speed: float = speed) -> Measurement:
            run = Run.parse(content["run"])
            network = classifier(config, run, scored_side(config, task, run))
            return _measurement(mode, task, content, speed, f"passes of {whose}", rank, network)

        found = (_told(path, lambda content=content: measured(content)) for path, content in contents)
        yield from (one for one in found if one is not None)


def scored_images(config: Config, task: str) -> int | None:
    """Images of a pass for one network; a receptive field is measured before and after training."""
    if task == "receptive_field":
        return 2 * config.receptive_field.images
    return count(config, task, "test")


def scored_side(config: Config, task: str, run: Run) -> int:
    """Side in pixels of the images of a pass for the network of `run`."""
    return config.receptive_field.size if task == "receptive_field" else config.recipe_of(run).image_size


def _measurement(
    mode: Any, task: str, content: Mapping[str, Any], speed: float, source: str, rank: int, network: Network
) -> Measurement:
    environment = content.get("environment") or {}
    recipe = (content.get("spec") or {}).get("recipe") or {}
    device = "cuda" if str(environment.get("device", "cpu")).startswith("cuda") else "cpu"
    hardware = environment.get("hardware") or "unknown hardware"
    precision = recipe.get("precision", "fp32")
    return Measurement(mode, task, hardware, device, precision, speed, f"{source}, {hardware}", rank, network)
