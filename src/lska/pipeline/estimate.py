"""How long planned jobs take: the images that they pass through networks, by how fast such work was seen to be done.

Numbers of images come from records and manifests, multiply-adds from the complexity tables, throughputs from the
records of this and other scales and from config/throughput/published.yaml.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.models.runs import Run
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.products import Plan
from lska.provenance.files import FileError, files_in, read_yaml, vouched
from lska.provenance.metric_files import project_root, vouched_for
from lska.provenance.sidecars import read_sidecar
from lska.provenance.strict import AtLeastOne, Positive, build
from lska.settings.scale import Config, load
from lska.settings.tasks import CORRUPTED, CUE_CONFLICT, HEADS, FineTuningJob, Pass, ScaleData, TrainingJob
from lska.train.saved_state import logged, state_files

logger = logging.getLogger(__name__)

Mode = Literal["training", "inference"]

GIVEN, OWN, ELSEWHERE, PUBLISHED = range(4)
"""Ranks of sources, the most trusted first: files given by the user, this scale's records, other scales', the table."""

PUBLISHED_TABLE = "config/throughput/published.yaml"
"""Published measurements, for hardware that this project has no records of."""

ASPECT_RATIO = 4 / 3
"""Longer by shorter side assumed for real images whose sizes vary; generated ones are square."""

SCORING = ("classification", "speed")
"""Whose throughput scoring goes by: with reading of images, else the forward pass alone."""

OF_NETWORKS = ("train", "fine_tune", "classification", "dense")
"""Rules whose jobs pass images through one network; passes do so for several."""

PUBLISHED_CUE_CONFLICT = 1280
"""Images of the cue-conflict set of Geirhos et al. (ICLR 2019): 16 categories x 80."""

COUNTED = {None: (224, 224), "retinanet": (1280, 800), "mask_rcnn": (1280, 800), "semantic_fpn": (512, 512)}
"""Width and height of the images for which metric files hold counts, by head."""


# --- Work ------------------------------------------------------------------------------------------------------------


class PlannedNetwork(NamedTuple):
    """What decides the multiply-adds of one image: two equal networks cost the same."""

    name: str
    """A run without its seed."""
    architecture: str
    """Settings that shrink it, as canonical JSON; `{}` for the paper's own."""
    pixels: int
    """Width times height of the image."""
    head: str | None = None

    def macs(self) -> float:
        """Multiply-adds of a forward pass of the paper's network of this name.

        Shrunken networks are compared only among each other, in the proportion of the paper's; of a detector or
        segmentor that nobody counted, the median of all with its head is taken, as the head has most of them.
        """
        counts = _counts(self.head, str(Path.cwd()))
        if self.name in counts:
            return counts[self.name] * self.pixels
        return self.pixels * (median(counts.values()) if self.head and counts else _count(self.name))


@dataclass(frozen=True)
class Workload:
    """Images that pass through a network, forward only or in training."""

    mode: Mode
    tasks: tuple[str, ...]
    """Whose measured throughput applies: the first where there is one, else the next."""
    images: int
    network: PlannedNetwork
    devices: int
    """GPUs that share the images; 0 for the processor."""
    precision: str = "fp32"


def network_of(job: TrainingJob, training: bool, spec: Mapping[str, Any] | None = None) -> PlannedNetwork:
    """The network of a training or of its scoring, by today's settings or by the `spec` of weights.

    Images of detectors and segmentors are scaled into the recipe's longest and shortest side, or cropped.
    """
    spec = spec or {"recipe": job.recipe.to_dict(), "architecture": job.architecture}
    recipe, head = spec["recipe"], getattr(job, "head", None)
    if head is None:
        pixels = recipe["image_size"] ** 2
    elif training and recipe.get("crop") is not None:
        pixels = recipe["crop"] ** 2
    else:
        longest, shortest = max(recipe["image_scale"]), min(recipe["image_scale"])
        ratio = ASPECT_RATIO if job.data.generate is None else 1.0
        pixels = min(longest, round(shortest * ratio)) * shortest
    name, shrunken = job.run.network, json.dumps(spec.get("architecture") or {}, sort_keys=True)
    return PlannedNetwork(name, shrunken, pixels, head)


def workloads(plan: Plan, job: SnakemakeJob) -> list[Workload]:
    """What a training (from its newest state on), a fine-tuning or an evaluation has to do; nothing for other jobs, and
    where a number of images is not known."""
    if (one := next((one for one in plan.passes if one.name == job.rule), None)) is not None:
        return _measuring(plan.config, one)
    if job.rule in ("train", "classification"):
        task: TrainingJob = plan.config.classifier(Run.parse(job.wildcards["run"]))
        kin: tuple[str, ...] = SCORING
    elif job.rule in ("fine_tune", "dense"):
        task = plan.job(job.wildcards["task"], job.wildcards["run"])
        # Its own task, then the other heads of its kind.
        kin = tuple(f"{task.kind}/{head}" for head in sorted(HEADS[task.kind], key=lambda head: head != task.head))
    else:
        return []
    validation = images_in(task.data, "val")
    scoring = Workload("inference", kin, validation or 0, network_of(task, False), min(task.evaluation.gpus, 1))
    if job.rule in ("classification", "dense"):
        return [scoring] if validation else []
    (done, updates), gpus = updates_of(task), task.settings.gpus
    if updates is None or validation is None:
        return []
    images = (updates - done) * task.recipe.global_batch
    works = [Workload("training", kin, images, network_of(task, True), gpus, task.recipe.precision)]
    if interval := getattr(task.recipe, "validation_interval", 0):
        scorings = task.recipe.total_epochs // interval
        left = scorings - round(scorings * done / max(1, updates))
        # The first process scores, the others wait for it.
        works.append(replace(scoring, images=left * validation, devices=min(gpus, 1)))
    return works


def expected_seconds(plan: Plan) -> dict[str, float]:
    """Seconds that a job of a family (`Plan.family`) takes, the mean of those that are to be done, by what was recorded
    and published; families of which nothing tells are not in it."""
    known, found = known_throughputs(plan.config), defaultdict(list)
    jobs = [*filter(None, (_job_of(plan, product) for product in plan.decided.pending))]
    for job in [*jobs, *(SnakemakeJob.named(one.name) for one in plan.passes)]:
        parts = [known.spent(work) for work in workloads(plan, job)]
        if parts and None not in parts:
            found[plan.family(job.rule)].append(sum(seconds for seconds, _ in parts))
    return {family: mean(seconds) for family, seconds in found.items()}


def _job_of(plan: Plan, product: str) -> SnakemakeJob | None:
    """The job that trains or scores one network; None for other products."""
    kind, _, name = product.partition("/")
    task, _, run = name.rpartition("/")
    if kind == "weights" and plan.decided.weights.get(name) == "train":
        return SnakemakeJob.named("fine_tune", run=run, task=task) if task else SnakemakeJob.named("train", run=run)
    if kind == "metrics" and task.partition("/")[0] in HEADS:
        return SnakemakeJob.named("dense", run=run, task=task)
    return SnakemakeJob.named("classification", run=run) if kind == "metrics" and task == "classification" else None


def _measuring(config: Config, one: Pass) -> list[Workload]:
    """A pass of a perturbed set or an inspection."""
    gpus = min(one.item.means.gpus, 1)
    networks = [network_of(config.classifier(run), False) for run in one.runs]
    if one.item.name == "receptive_field":
        # Gradients, of networks before and after training.
        images, side = 2 * one.item.section.images, one.item.section.size
        return [Workload("training", SCORING, images, one._replace(pixels=side**2), gpus) for one in networks]
    images = images_in(one.item.data, "test")
    return [Workload("inference", SCORING, images, network, gpus) for network in networks] if images else []


def updates_of(job: TrainingJob) -> tuple[int, int | None]:
    """Updates that the newest state of a training holds, and those of all of it; None where the number of images is not
    known.

    Images that do not fill an update are left out of an epoch. Detection also leaves out images without objects and
    fills updates by orientation, so its number is a few too many (COCO: one percent).
    """
    recipe, images = job.recipe, images_in(job.data, "train")
    updates = getattr(recipe, "updates", None)
    if updates is None and images is not None:
        epochs = recipe.epochs if isinstance(job, FineTuningJob) else recipe.total_epochs
        updates = images // recipe.global_batch * epochs
    files = state_files(job.states)
    done = int(re.search(r"\d+", files[-1].name)[0]) if files else 0
    return done if updates is None else min(done, updates), updates


def images_in(data: ScaleData, split: str) -> int | None:
    """Images of a split by the record of the checked data, else by the manifest; None where neither tells, as of sets
    that are still to be generated."""
    record, corrupted = vouched(data.record), data.kind in CORRUPTED
    if record and not corrupted:
        return record.get("splits", {}).get(split, record.get("images"))
    if record:
        images, parts = record.get("images"), len(record.get("contents") or ())
    elif data.name == CUE_CONFLICT:
        return PUBLISHED_CUE_CONFLICT
    elif data.generate is not None or not data.manifest_file.is_file():
        return None
    else:
        manifest = read_yaml(data.manifest_file)
        if data.kind == "texture_knn":
            return len(manifest["classes"]) * sum(manifest["parts"].values())
        if not corrupted:
            return (manifest["splits"].get(split) or {}).get("count")
        images, parts = manifest["count"], len(FAMILIES[data.kind]) * len(SEVERITIES)
    # ImageNet-C is measured on the clean images too.
    return images * (parts + (data.kind == "c")) if images and parts else None


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


# --- Throughput ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Throughput:
    """How fast some hardware was seen to do such work."""

    mode: Mode
    task: str
    device: str
    """`cuda` or `cpu`."""
    precision: str
    rate: float
    """Images per second of one GPU, or of one process without."""
    source: str
    """For people: who measured this, where."""
    rank: int
    network: PlannedNetwork | None = None
    macs: float | None = None
    """Multiply-adds of one image, where no `network` tells."""

    def mismatch(self, precision: str) -> int:
        """0 for the precision that is needed, 1 for one that is not known, 2 for another one."""
        if self.precision == precision or (precision, self.precision) == ("bf16", "amp"):
            return 0
        return 1 if self.precision == "unknown" else 2

    def ratio(self, network: PlannedNetwork) -> float | None:
        """Multiply-adds of what was measured by those of `network`; None where they do not compare."""
        if self.network == network:
            return 1.0
        if (self.network.architecture if self.network else "{}") != network.architecture:
            return None
        return (self.macs if self.network is None else self.network.macs()) / network.macs()


@dataclass(frozen=True)
class Assumptions:
    """What measurements do not tell; each can be set in a file given by `--throughput`."""

    training_factor: Positive = 3.0
    """Cost of a forward and backward pass in forward passes, where only inference was measured."""
    gpu_efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of its own throughput that each GPU keeps where several train together."""


@dataclass(frozen=True)
class ThroughputEntry:
    """A line of a table of throughputs."""

    hardware: str
    mode: Mode
    task: str
    """`classification`, `speed` (without reading images), or as in metric files, such as `detection/retinanet`."""
    network: str
    """For people, as `hardware`."""
    gmacs: Positive
    """Cost of one image as measured: 10^9 multiply-adds of a forward pass."""
    images_per_second: Positive
    """Of all GPUs together."""
    source: str
    precision: Literal["fp32", "bf16", "amp", "unknown"] = "unknown"
    device: Literal["cuda", "cpu"] = "cuda"
    gpus: AtLeastOne = 1


@dataclass(frozen=True)
class ThroughputTable:
    """A file of throughputs."""

    entries: tuple[ThroughputEntry, ...] = ()
    assumptions: Assumptions | None = None


@dataclass(frozen=True)
class Throughputs:
    """Everything measured that estimates may rest on, and what is assumed beside it."""

    measured: list[Throughput]
    assumed: Assumptions

    def spent(self, work: Workload) -> tuple[float, str] | None:
        """Seconds that `work` takes, and what says so; None where nothing that was measured tells.

        Of the measurements on the same kind of device, those of the best kind count: by rank, then by the task, whether
        they are of the same precision, and whether they are of the same mode (else a training costs `training_factor`
        forward passes). Among these, one of the same network is taken as it is; without one, that with the closest
        multiply-adds is scaled by them. Of a network that was only trained yet, scoring is taken to be as slow.
        """
        ranked = []
        for one in self.measured:
            # Reading images may set the pace of scoring: how fast a network trains tells only that it is no slower.
            slower = one.mode == "training" and work.mode == "inference"
            usable = one.task in work.tasks and (not slower or one.network == work.network)
            usable = usable and one.device == ("cuda" if work.devices else "cpu")
            if usable and (ratio := one.ratio(work.network)) is not None:
                kind = slower, one.rank, work.tasks.index(one.task), one.mismatch(work.precision), one.mode != work.mode
                ranked.append((*kind, one.network != work.network, abs(math.log(ratio)), one, ratio))
        if not ranked:
            return None
        *_, chosen, ratio = min(ranked, key=lambda entry: entry[:-2])
        rate, notes = chosen.rate * ratio, [chosen.source]
        if chosen.network != work.network:
            notes.append("scaled by multiply-adds")
        if chosen.mode != work.mode and work.mode == "training":
            rate /= self.assumed.training_factor
            notes.append(f"training taken as {self.assumed.training_factor:g} forward passes")
        elif chosen.mode != work.mode:
            notes.append("scoring taken as slow as training")
        if chosen.mismatch(work.precision):
            unknown = chosen.precision == "unknown"
            notes.append("precision not known" if unknown else f"{chosen.precision} in place of {work.precision}")
        if work.devices > 1:
            rate *= work.devices * self.assumed.gpu_efficiency
        return work.images / rate, "; ".join(notes)


def known_throughputs(config: Config, files: Iterable[Path] = ()) -> Throughputs:
    """What was measured here, what others published, and what the user gives in `files`, tables like the published one.

    Raises:
        ValueError: a file of the user is wrong; names it.
    """
    known = list(_recorded(config, OWN, "this scale"))
    for path in files_in(Path("config"), "*.yaml"):
        scale = read_yaml(path).get("scale")
        if scale not in (None, config.scale) and (Path("results") / str(scale)).is_dir():
            try:
                known += _recorded(load([path]), ELSEWHERE, f"scale {scale}")
            except ValueError as error:
                logger.info("records of scale %s are not used: %s", scale, error)
    tabulated = published_throughputs(files)
    return Throughputs(known + tabulated.measured, tabulated.assumed)


def published_throughputs(files: Iterable[Path] = ()) -> Throughputs:
    """What others published, and what the user gives in `files`; raises as `known_throughputs`."""
    known, assumed = [], Assumptions()
    for path, rank in [(project_root() / PUBLISHED_TABLE, PUBLISHED), *((path, GIVEN) for path in files)]:
        table = build(ThroughputTable, read_yaml(path), str(path))
        assumed = table.assumptions or assumed
        for one in table.entries:
            rate, macs = one.images_per_second / one.gpus, 1e9 * one.gmacs
            known.append(Throughput(one.mode, one.task, one.device, one.precision, rate, one.source, rank, macs=macs))
    return Throughputs(known, assumed)


def _recorded(config: Config, rank: int, whose: str) -> Iterator[Throughput]:
    """Every measurement among the results of a scale, called `whose` in their sources; damaged files tell nothing.

    A training gives the median of what it logged, so that other work beside it for a while does not count; `speed` the
    forward pass alone, other evaluations the images of the set by their whole duration.
    """

    def seen(kind: str, task: str, content: Mapping[str, Any], rate: float, network: PlannedNetwork) -> Throughput:
        mode, recipe = ("training" if "trainings" in kind else "inference"), (content.get("spec") or {}).get("recipe")
        environment, precision = content.get("environment") or {}, (recipe or {}).get("precision", "fp32")
        device = "cuda" if str(environment.get("device", "cpu")).startswith("cuda") else "cpu"
        hardware = environment.get("hardware")
        source = f"{kind} of {whose}{f', {hardware}' if hardware else ''}"
        return Throughput(mode, task, device, precision, rate, source, rank, network)

    for job in (*map(config.classifier, config.runs), *config.fine_tunings):
        tuned = isinstance(job, FineTuningJob)
        task = f"{job.kind}/{job.head}" if tuned else "classification"
        sidecar = read_sidecar(job.weights.with_suffix(".json"))
        # Weights from elsewhere name the preparation of their images alone, and have no log.
        spec = sidecar.get("spec") if sidecar.get("images_seen") else None
        trainings = [("trainings", job.log, sidecar, spec)] if spec else []
        if not job.weights.is_file():
            gpus, recipe = job.settings.gpus, {"precision": job.recipe.precision}
            device = {"device": "cuda" if gpus else "cpu"}
            now = {"environment": device, "processes": gpus, "spec": {"recipe": recipe}}
            trainings.append(("trainings in progress", job.states / "train.jsonl", now, None))
        for kind, log, content, trained in trainings:
            try:
                lines = logged(log)
            except FileError as error:
                logger.warning("%s; nothing is learnt from it", error)
                continue
            if speeds := [line["images_per_second"] for line in lines if line.get("images_per_second", 0) > 0]:
                rate = median(speeds) / max(1, content.get("processes") or 1)
                yield seen(kind, task, content, rate, network_of(job, True, trained))
        scored = vouched_for(config.metric_path(job.task if tuned else task, job.run), "metrics")
        images, seconds = images_in(job.data, "val"), scored.get("seconds")
        # Of other weights, such as those before a change of settings, it is not known which network they were of.
        if images and seconds and scored.get("weights", {}).get("md5") == sidecar.get("md5"):
            yield seen("evaluations", task, scored, images / seconds, network_of(job, False, spec))
        if tuned:
            continue
        speed = vouched_for(config.metric_path("speed", job.run), "metrics")
        values = {name: entry["value"] for name, entry in speed.get("metrics", {}).items()}
        if (speed.get("detail") or {}).get("protocol") == job.speed_protocol(config.speed):
            network = network_of(job, False)._replace(pixels=values["image_size"] ** 2)
            yield seen("speed", "speed", speed, values["throughput"], network)
