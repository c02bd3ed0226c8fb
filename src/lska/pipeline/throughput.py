"""How fast some hardware was seen to train or score some network, and how long other work takes by that."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from lska.models.runs import Run
from lska.pipeline.workload import Mode, PlannedNetwork, Workload, dense_pixels, images_in, network_of, states_of
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, files_in, read_yaml, vouched
from lska.provenance.metric_files import project_root, vouched_for
from lska.provenance.sidecars import read_sidecar
from lska.provenance.strict import build
from lska.settings.scale import Config, load
from lska.settings.tasks import CONTROL, parse_task
from lska.train.progress import logged

logger = logging.getLogger(__name__)

GIVEN, OWN, ELSEWHERE, PUBLISHED = range(4)
"""Ranks of sources, the most trusted first: files given by the user, this scale's records, other scales', the table."""

PUBLISHED_TABLE = "config/throughput/published.yaml"
"""Published measurements, for hardware that this project has no records of."""

COUNTED = {None: (224, 224), "retinanet": (1280, 800), "mask_rcnn": (1280, 800), "semantic_fpn": (512, 512)}
"""Width and height of the images for which metric files hold counts, by head."""


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


@dataclass(frozen=True)
class Assumptions:
    """What measurements do not tell; each can be set in a file given by `--throughput`."""

    training_factor: float = 3.0
    """Cost of a forward and backward pass in forward passes, where only inference was measured."""
    gpu_efficiency: float = 1.0
    """Share of its own throughput that each GPU keeps where several train together."""

    def __post_init__(self) -> None:
        if self.training_factor <= 0 or not 0 < self.gpu_efficiency <= 1:
            found = f"{self.training_factor:g} and {self.gpu_efficiency:g}"
            raise InputError(f"training_factor must be positive, gpu_efficiency a share up to 1; found {found}")


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
        values = {name: getattr(self, name) for name in ("gmacs", "images_per_second", "gpus")}
        if low := {name: value for name, value in values.items() if value <= 0}:
            raise InputError(", ".join(f"{name} must be positive, found {value}" for name, value in low.items()))


@dataclass(frozen=True)
class ThroughputTable:
    """A file of throughputs."""

    entries: tuple[ThroughputEntry, ...] = ()
    assumptions: Assumptions | None = None


class Spent(NamedTuple):
    """Seconds that work takes, those that a resumed training has spent before, and what the estimate rests on."""

    seconds: float
    saved: float
    source: str


@dataclass(frozen=True)
class Throughputs:
    """Everything measured that estimates may rest on, and what is assumed beside it."""

    measured: list[Throughput]
    assumed: Assumptions

    def spent(self, work: Workload) -> Spent | None:
        """How long `work` takes; None where nothing that was measured tells.

        Of the measurements on the same kind of device, those of the best kind count: by rank, then by the task, whether
        they are of the same precision, and whether they are of the same mode (else a training costs `training_factor`
        forward passes). Among these, one of the same network is taken as it is; without one, that with the closest
        multiply-adds is scaled by them.
        """
        needed = _macs(work.network)

        def kind(one: Throughput) -> tuple[int, ...]:
            return one.rank, work.tasks.index(one.task), _mismatch(one, work), int(one.mode != work.mode)

        def ratio(one: Throughput) -> float | None:
            """Multiply-adds of the measured network by those of the needed one; None where they do not compare."""
            if one.network == work.network:
                return 1.0
            alike = (one.network.architecture if one.network else "{}") == work.network.architecture
            cost = one.macs if one.network is None else _macs(one.network)
            return cost / needed if alike else None

        # How fast a network trains tells nothing safe of how fast it scores: reading images may set the pace.
        fitting = [one for one in self.measured
                   if one.device == ("cuda" if work.devices else "cpu") and one.task in work.tasks
                   and (one.mode == work.mode or work.mode == "training") and ratio(one)]  # fmt: skip
        if not fitting:
            return None
        best = min(map(kind, fitting))
        chosen = min(
            (one for one in fitting if kind(one) == best),
            key=lambda one: (one.network != work.network, abs(math.log(ratio(one)))),
        )
        rate = chosen.images_per_second * ratio(chosen)
        notes = [chosen.source]
        if chosen.network != work.network:
            notes.append("scaled by multiply-adds")
        if chosen.mode != work.mode:
            rate /= self.assumed.training_factor
            notes.append(f"training taken as {self.assumed.training_factor:g} forward passes")
        if _mismatch(chosen, work):
            unknown = chosen.precision == "unknown"
            notes.append("precision not known" if unknown else f"{chosen.precision} in place of {work.precision}")
        if work.devices > 1:
            rate *= work.devices * self.assumed.gpu_efficiency
        return Spent(work.images / rate, work.done / rate, "; ".join(notes))


def _mismatch(one: Throughput, work: Workload) -> int:
    """0 for the precision that is needed, 1 for one that is not known, 2 for another one."""
    if one.precision == work.precision or (work.precision, one.precision) == ("bf16", "amp"):
        return 0
    return 1 if one.precision == "unknown" else 2


def _macs(network: PlannedNetwork) -> float:
    """Multiply-adds of a forward pass of the paper's network of this name.

    Shrunken networks are compared only among each other, in the proportion of the paper's; of a detector or segmentor
    that nobody counted, the median of all with its head is taken, as the head has most of them.
    """
    counts = _counts(network.head, str(Path.cwd()))
    if network.name in counts:
        return counts[network.name] * network.pixels
    return network.pixels * (median(counts.values()) if network.head and counts else _count(network.name))


@functools.cache
def _count(name: str) -> float:
    """Multiply-adds by pixel of a classifier; imports torch and timm."""
    import torch

    from lska.models import create
    from lska.models.counting import count

    run = Run.parse(f"{name}-s0")
    with torch.device("meta"):
        model = create(run.model, attention=run.attention, kernel_size=run.kernel)
    return count(model).macs / math.prod(COUNTED[None])


@functools.cache
def _counts(head: str | None, folder: str) -> dict[str, float]:
    """Multiply-adds by pixel of the paper's networks, which the metric files of every scale hold."""
    task, (width, height) = "complexity" if head is None else f"complexity/{head}", COUNTED[head]
    found = {}
    for path in Path(folder, "results").glob(f"*/metrics/{task}/*-s*.json"):
        count = (vouched(path).get("metrics") or {}).get("macs" if head is None else f"macs_{width}x{height}")
        if count is not None:
            found[path.stem.rpartition("-s")[0]] = count["value"] / (width * height)
    return found


def known_throughputs(config: Config, files: Iterable[Path] = (), hardware: str | None = None) -> Throughputs:
    """What was measured here, what others published, and what the user gives.

    Args:
        files: of the user: tables like the published one.
        hardware: part of the name of the only hardware whose measurements count; None for all.

    Raises:
        ValueError: a file of the user is wrong and named, or nothing was measured on the hardware named.
    """
    known = list(_recorded(config, OWN, "this scale"))
    for path in files_in(Path("config"), "*.yaml"):
        scale = read_yaml(path).get("scale")
        if scale not in (None, config.scale) and (Path("results") / str(scale)).is_dir():
            try:
                known += _recorded(load([path]), ELSEWHERE, f"scale {scale}")
            except ValueError as error:
                logger.info("records of scale %s are not used: %s", scale, error)
    assumed = Assumptions()
    for path, rank in [(project_root() / PUBLISHED_TABLE, PUBLISHED), *((path, GIVEN) for path in files)]:
        table = build(ThroughputTable, read_yaml(path), str(path))
        assumed = table.assumptions or assumed
        known += [
            Throughput(one.mode, one.task, one.hardware, one.device, one.precision, one.images_per_second / one.gpus,
                       one.source, rank, macs=1e9 * one.gmacs) for one in table.entries
        ]  # fmt: skip
    if hardware is not None:
        names = sorted({one.hardware for one in known})
        known = [one for one in known if hardware.lower() in one.hardware.lower()]
        if not known:
            raise InputError(f"no measurement is of {hardware!r}; there are some of: {', '.join(names)}")
    return Throughputs(known, assumed)


def _recorded(config: Config, rank: int, whose: str) -> Iterator[Throughput]:
    """Every measurement among the results of a scale, called `whose` in their sources; damaged files tell nothing."""
    contents = [read_sidecar(config.weights_path(name).with_suffix(".json")) for name in config.network_names]
    scored = [config.metric_path(task, run) for task in ("classification", "speed") for run in config.runs]
    scored += [job.metrics for job in config.fine_tunings]
    contents += [vouched_for(path, "metrics") for path in scored]
    yield from filter(None, (_of_record(content, config, whose, rank) for content in contents))
    # Trainings that have not ended yet tell their speed in their logs.
    for run in config.runs:
        try:
            lines = logged(states_of(config, run) / "train.jsonl")
        except FileError as error:
            logger.warning("%s; it is not used", error)
            continue
        speeds = [line["images_per_second"] for line in lines if line.get("images_per_second", 0) > 0]
        if speeds and not config.weights_path(run).is_file():
            gpus, recipe = config.training.gpus, config.recipe_of(run)
            network = network_of(run, recipe.image_size**2, config.architecture.get(run.model, {}))
            yield Throughput(
                "training", "classification", f"the hardware that {run} is trained on", "cuda" if gpus else "cpu",
                recipe.precision, median(speeds) / max(1, gpus), f"trainings in progress of {whose}", rank, network,
            )  # fmt: skip


def _of_record(content: Mapping[str, Any], config: Config, whose: str, rank: int) -> Throughput | None:
    """The throughput of a training or evaluation, from a sidecar or a metric file; None where it tells none.

    A training gives the images that it saw, `speed` the forward pass alone, other evaluations the images of the metric
    file by its whole duration.
    """
    try:
        run = Run.parse(content.get("run") or "")
    except ValueError:
        return None
    task, trained = content.get("task") or "classification", "images_seen" in content
    metrics, seconds, spec = content.get("metrics") or {}, content.get("seconds"), content.get("spec") or {}
    recipe, architecture = spec.get("recipe") or {}, config.architecture.get(run.model, {})
    kind, images, head = "trainings" if trained else "evaluations", content.get("images_seen"), None
    if (parsed := parse_task(task)) is not None:
        job = next((job for job in config.fine_tunings if (job.task, job.run) == (task, run)), None)
        if job is None:
            return None
        images, head = images if trained else images_in(config, job.kind, "val"), parsed.head
        recipe = recipe if trained and "image_scale" in recipe else job.recipe.to_dict()
        pixels = dense_pixels(recipe, job.data.generate is not None, trained)
    elif trained and "image_size" in recipe:
        pixels, architecture = recipe["image_size"] ** 2, spec.get("architecture") or {}
    elif task == "speed" and {"throughput", "image_size"} <= metrics.keys():
        kind, images, seconds = "speed", metrics["throughput"]["value"], 1.0
        pixels = metrics["image_size"]["value"] ** 2
    elif not trained and task == "classification" and "top1" in metrics:
        images, pixels = metrics["top1"].get("n"), config.recipe_of(run).image_size ** 2
    else:
        return None
    if not images or not seconds:
        return None
    environment = content.get("environment") or {}
    hardware = environment.get("hardware") or "unknown hardware"
    return Throughput(
        "training" if trained else "inference", task.removesuffix(CONTROL), hardware,
        "cuda" if str(environment.get("device", "cpu")).startswith("cuda") else "cpu",
        (spec.get("recipe") or {}).get("precision", "fp32"), images / seconds / max(1, content.get("processes") or 1),
        f"{kind} of {whose}, {hardware}", rank, network_of(run, pixels, architecture, head),
    )  # fmt: skip
