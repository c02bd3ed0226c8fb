"""How fast some hardware was seen to train or score some network, and how long other work takes by that."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from lska.models.runs import Run
from lska.pipeline.workload import (
    Mode,
    PlannedNetwork,
    Workload,
    classifier,
    images_in,
    pass_mode,
    predictor,
    scored_images,
    scored_side,
    scored_size,
    states_of,
    training_size,
)
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, files_in, read_json, read_yaml
from lska.provenance.metric_files import project_root, validate, vouched_for
from lska.provenance.sidecars import check_sidecar, read_sidecar
from lska.provenance.strict import build
from lska.settings.fine_tunings import CONTROL
from lska.settings.passes import Measured
from lska.settings.perturbed_sets import set_of
from lska.settings.scale import Config, load
from lska.train.progress import logged

logger = logging.getLogger(__name__)

GIVEN, OWN, ELSEWHERE, PUBLISHED = range(4)
"""Ranks of sources, the most trusted first: files given by the user, this scale's records, other scales', the table."""

PUBLISHED_TABLE = "config/throughput/published.yaml"
"""Published measurements, for hardware that this project has no records of."""


@dataclass(frozen=True)
class Throughput:
    """How fast some hardware was seen to do such work."""

    mode: Mode
    task: str
    hardware: str
    device: Literal["cuda", "cpu"]
    precision: str
    images_per_second: float
    """Of one GPU, or of one process without."""
    source: str
    """For people: who measured this, where."""
    rank: int
    """The lower, the more trusted."""
    network: PlannedNetwork | None = None
    macs: float | None = None
    """Multiply-adds of one image, where no `network` tells."""


def _check_positive(settings: Any, *names: str) -> None:
    if low := {name: getattr(settings, name) for name in names if getattr(settings, name) <= 0}:
        raise InputError(", ".join(f"{name} must be positive, found {value}" for name, value in low.items()))


@dataclass(frozen=True)
class Assumptions:
    """What measurements do not tell; each can be set in a file given by `--throughput`."""

    training_factor: float = 3.0
    """Cost of a forward and backward pass in forward passes, where only inference was measured."""
    gpu_efficiency: float = 1.0
    """Share of its own throughput that each GPU keeps where several train together."""

    def __post_init__(self) -> None:
        _check_positive(self, "training_factor", "gpu_efficiency")
        if self.gpu_efficiency > 1:
            raise InputError(f"gpu_efficiency is a share, expected at most 1, found {self.gpu_efficiency}")


@dataclass(frozen=True)
class ThroughputEntry:
    """A line of a table of throughputs."""

    hardware: str
    mode: Literal["training", "inference"]
    task: str
    """`classification`, `speed` (without reading images), or as in metric files, such as `detection/retinanet`."""
    network: str
    """For people."""
    gmacs: float
    """Cost of one image as measured: 10^9 multiply-adds of a forward pass."""
    images_per_second: float
    """Of all GPUs together."""
    source: str
    precision: Literal["fp32", "bf16", "amp", "unknown"] = "unknown"
    device: Literal["cuda", "cpu"] = "cuda"
    gpus: int = 1

    def __post_init__(self) -> None:
        _check_positive(self, "gmacs", "images_per_second", "gpus")

    def ranked(self, rank: int) -> Throughput:
        """As the estimates take it."""
        return Throughput(
            self.mode, self.task, self.hardware, self.device, self.precision, self.images_per_second / self.gpus,
            self.source, rank, macs=1e9 * self.gmacs,
        )  # fmt: skip


@dataclass(frozen=True)
class ThroughputTable:
    """A file of throughputs."""

    entries: tuple[ThroughputEntry, ...] = ()
    assumptions: dict[str, float] = field(default_factory=dict)


def known_throughputs(
    config: Config, files: Iterable[Path] = (), hardware: str | None = None
) -> tuple[list[Throughput], Assumptions]:
    """Everything measured that estimates may rest on, the most trusted first, and what is assumed beside it.

    Args:
        files: of the user: tables (YAML), metric files and sidecars of trainings (JSON); a metric file is taken to be
            of the networks of `config`.
        hardware: part of the name of the only hardware whose measurements count; None for all.

    Raises:
        ValueError: a file of the user is wrong and named, or nothing was measured on the hardware named.
    """
    known = [_given(path, config) for path in files if path.suffix == ".json"]
    known += [*_recorded(config, OWN, "this scale"), *_elsewhere(config)]
    tables = [(project_root() / PUBLISHED_TABLE, PUBLISHED)]
    tables += [(path, GIVEN) for path in files if path.suffix != ".json"]
    assumed: dict[str, float] = {}
    for path, rank in tables:
        table = build(ThroughputTable, read_yaml(path), str(path))
        build(Assumptions, table.assumptions, f"{path}: assumptions")
        known += [entry.ranked(rank) for entry in table.entries]
        assumed |= table.assumptions
    if hardware is not None:
        names = sorted({one.hardware for one in known})
        known = [one for one in known if hardware.lower() in one.hardware.lower()]
        if not known:
            raise InputError(f"no measurement is of {hardware!r}; there are some of: {', '.join(names)}")
    return sorted(known, key=lambda one: one.rank), Assumptions(**assumed)


def _given(path: Path, config: Config) -> Throughput:
    content = read_json(path)
    if "images_seen" in content:
        check_sidecar(content, str(path))
    else:
        validate(content, "metrics", str(path))
    made = _of_record(content, config, str(path), GIVEN)
    if made is None:
        raise InputError(
            f"{path}: expected a metric file of `lska evaluate speed` or `classification`, or the sidecar of a training"
        )
    return made


def _elsewhere(config: Config) -> Iterator[Throughput]:
    """The records of all other scales that have a complete configuration in `config/` and results."""
    for path in files_in(Path("config"), "*.yaml"):
        scale = read_yaml(path).get("scale")
        if scale in (None, config.scale) or not (Path("results") / str(scale)).is_dir():
            continue
        try:
            other = load([path])
        except ValueError as error:
            logger.info("records of scale %s are not used: %s", scale, error)
            continue
        yield from _recorded(other, ELSEWHERE, f"scale {scale}")


def _recorded(config: Config, rank: int, whose: str) -> Iterator[Throughput]:
    """Every measurement among the results of a scale, called `whose` in their sources; damaged files tell nothing."""
    trained = [config.weights_path(run) for run in (*config.runs, *config.references)]
    trained += [job.weights for job in config.fine_tunings]
    scored = [config.metric_path(task, run) for task in ("classification", "speed") for run in config.runs]
    scored += [job.metrics for job in config.fine_tunings]
    contents = [read_sidecar(path.with_suffix(".json")) for path in trained]
    contents += [vouched_for(path, "metrics") for path in scored]
    yield from filter(None, (_of_record(content, config, whose, rank) for content in contents))
    yield from filter(None, (_of_log(run, config, whose, rank) for run in config.runs))
    for item in config.measured:
        if set_of(item.task) is None:
            yield from _of_passes(item, config, whose, rank)


def _of_record(content: Mapping[str, Any], config: Config, whose: str, rank: int) -> Throughput | None:
    """The throughput of a training or evaluation, from a sidecar or a metric file; None where it tells none.

    A training gives the images that it saw. Of evaluations, `speed` gives the forward pass alone, others the images of
    the metric file by its whole duration. Classification says itself which network it was. The widths of a detector or
    segmentor are those of `config`, so one that was trained by another recipe than today's is left out.
    """
    try:
        run = Run.parse(content.get("run") or "")
    except ValueError:
        return None
    task, trained = content.get("task") or "classification", "images_seen" in content
    metrics, spec, seconds = content.get("metrics") or {}, content.get("spec") or {}, content.get("seconds")
    recipe, images = spec.get("recipe") or {}, content.get("images_seen")
    job = next((job for job in config.fine_tunings if (job.task, job.run) == (task, run)), None)
    kind = "trainings" if trained else "evaluations"
    if job is not None and job.digest() == content.get("recipe"):
        network = predictor(job, training_size(job) if trained else scored_size(job))
        images = images if trained else images_in(config, job.kind, "val")
    elif trained and task == "classification" and "image_size" in recipe:
        network = classifier(config, run, recipe["image_size"], spec.get("architecture"))
    elif task == "speed" and {"throughput", "image_size"} <= metrics.keys():
        kind, images, seconds = "speed", metrics["throughput"]["value"], 1.0
        network = classifier(config, run, metrics["image_size"]["value"])
    elif not trained and task == "classification" and "top1" in metrics:
        images, network = metrics["top1"].get("n"), classifier(config, run, config.recipe_of(run).image_size)
    else:
        return None
    if not images or not seconds:
        return None
    speed, mode = images / seconds / max(1, content.get("processes") or 1), "training" if trained else "inference"
    return _throughput(content, mode, task, speed, f"{kind} of {whose}", rank, network)


def _of_log(run: Run, config: Config, whose: str, rank: int) -> Throughput | None:
    """The throughput of a training that has not ended yet, from its own log: the median over what was logged."""
    try:
        lines = logged(states_of(config, run) / "train.jsonl")
    except FileError as error:
        logger.warning("%s; it is not used", error)
        return None
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second", 0) > 0]
    if not speeds or config.weights_path(run).is_file():
        return None
    gpus, recipe = config.training.gpus, config.recipe_of(run)
    return Throughput(
        "training", "classification", f"the hardware that {run} is trained on", "cuda" if gpus else "cpu",
        recipe.precision, median(speeds) / max(1, gpus), f"trainings in progress of {whose}", rank,
        classifier(config, run, recipe.image_size),
    )  # fmt: skip


def _of_passes(item: Measured, config: Config, whose: str, rank: int) -> Iterator[Throughput]:
    """Throughputs of passes for many networks: each of their metric files keeps the time since the pass began."""
    images, runs = scored_images(config, item.task), config.runs_of(item.task)
    contents = {run: vouched_for(item.metrics(run), "metrics") for run in runs}
    timed = {run: content for run, content in contents.items() if content.get("seconds")}
    for run, content in timed.items() if images else ():
        alike = [other["seconds"] for other in timed.values() if other["started"] == content["started"]]
        speed, network = images * len(alike) / max(alike), classifier(config, run, scored_side(config, item.task, run))
        yield _throughput(content, pass_mode(item.task), item.task, speed, f"passes of {whose}", rank, network)


def _throughput(
    content: Mapping[str, Any], mode: Mode, task: str, speed: float, source: str, rank: int, network: PlannedNetwork
) -> Throughput:
    """By what a sidecar or metric file says of the environment."""
    environment = content.get("environment") or {}
    device = "cuda" if str(environment.get("device", "cpu")).startswith("cuda") else "cpu"
    hardware = environment.get("hardware") or "unknown hardware"
    precision = ((content.get("spec") or {}).get("recipe") or {}).get("precision", "fp32")
    task = task.removesuffix(CONTROL)
    return Throughput(mode, task, hardware, device, precision, speed, f"{source}, {hardware}", rank, network)


@dataclass(frozen=True)
class TimeEstimate:
    """Estimated seconds with what they rest on.

    `low` and `high` are what the fastest and the slowest measurement of the same kind give; where there is one
    measurement only they are equal, and the uncertainty is not known.
    """

    seconds: float
    low: float
    high: float
    sources: tuple[str, ...]
    hardware: tuple[str, ...] = ()

    def __add__(self, other: TimeEstimate) -> TimeEstimate:
        return TimeEstimate(
            self.seconds + other.seconds, self.low + other.low, self.high + other.high,
            tuple(dict.fromkeys(self.sources + other.sources)), tuple(dict.fromkeys(self.hardware + other.hardware)),
        )  # fmt: skip


Macs = Callable[[PlannedNetwork], float]
"""Multiply-adds of one image."""


def estimated(work: Workload, known: Sequence[Throughput], assumed: Assumptions, macs: Macs) -> TimeEstimate | None:
    """How long `work` takes; None where nothing that was measured tells.

    Of the measurements on the same kind of device, those of the best kind count: by rank, then by the task, whether
    they are of the same precision, and whether they are of the same mode (else a training costs `training_factor`
    forward passes). Among these, one of the same network is taken as it is; without one, that with the closest
    multiply-adds is scaled by them.
    """
    device = "cuda" if work.devices else "cpu"
    # How fast a network trains tells nothing safe of how fast it scores: reading images may set the pace.
    fitting = [one for one in known if one.device == device and one.task in work.tasks
               and (one.mode == work.mode or work.mode == "training")]  # fmt: skip
    if not fitting:
        return None
    best = min(_kind(one, work) for one in fitting)
    alike = [one for one in fitting if _kind(one, work) == best]
    same = [one for one in alike if one.network == work.network]

    def cost(one: Throughput) -> float:
        return macs(one.network) if one.macs is None else one.macs

    def rate(one: Throughput) -> float:
        """Images of `work` per second, of all its devices."""
        scaled = 1.0 if one.network == work.network else cost(one) / macs(work.network)
        passes = assumed.training_factor if one.mode != work.mode else 1.0
        together = 1.0 if work.devices <= 1 else work.devices * assumed.gpu_efficiency
        return one.images_per_second * scaled / passes * together

    chosen = same[0] if same else min(alike, key=lambda one: abs(math.log(cost(one) / macs(work.network))))
    rates = [rate(one) for one in same or alike]
    seconds, low, high = (work.images / speed for speed in (rate(chosen), max(rates), min(rates)))
    return TimeEstimate(seconds, low, high, (_named(chosen, work, assumed),), (chosen.hardware,))


def _precision(one: Throughput, work: Workload) -> int:
    """0 for the one that is needed, 1 for one that is not known, 2 for another one."""
    if one.precision == work.precision or (work.precision, one.precision) == ("bf16", "amp"):
        return 0
    return 1 if one.precision == "unknown" else 2


def _kind(one: Throughput, work: Workload) -> tuple[int, ...]:
    """How well a measurement fits, the lower the better."""
    return one.rank, work.tasks.index(one.task), _precision(one, work), int(one.mode != work.mode)


def _named(one: Throughput, work: Workload, assumed: Assumptions) -> str:
    """The source with what is doubtful about it."""
    parts = [one.source]
    if one.network != work.network:
        parts.append("scaled by multiply-adds")
    if one.mode != work.mode:
        parts.append(f"training taken as {assumed.training_factor:g} forward passes")
    doubts = ("", "precision not known", f"measured with {one.precision}, needed is {work.precision}")
    return "; ".join(filter(None, [*parts, doubts[_precision(one, work)]]))
