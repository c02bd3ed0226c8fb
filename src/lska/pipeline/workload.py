"""What jobs have to do, in images that pass through networks, before anything is known about the hardware.

Imports nothing heavy, and reads no data set: numbers of images come from records, settings and manifests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.models.runs import Run
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, vouched
from lska.settings.fine_tunings import HEADS, FineTuningJob
from lska.settings.passes import Pass
from lska.settings.perturbed_sets import CORRUPTED, CUE_CONFLICT, MANIFESTS, set_of
from lska.settings.scale import Config
from lska.settings.sections import DataSource
from lska.train.saved_state import state_files

Mode = Literal["training", "inference"]
Size = tuple[int, int]

ASPECT_RATIO = 4 / 3
"""Longer by shorter side assumed for real images whose sizes vary; generated ones are square."""

SCORING = ("classification", "speed")
"""Whose throughput classification goes by: scoring with reading of images, else the forward pass alone."""

PUBLISHED_CUE_CONFLICT = 1280
"""Images of the cue-conflict set of Geirhos et al. (ICLR 2019): 16 categories x 80."""


@dataclass(frozen=True)
class PlannedNetwork:
    """What decides the multiply-adds of one image: two equal networks cost the same."""

    name: str
    """A run without its seed."""
    architecture: str
    """Settings that shrink it, as canonical JSON; `{}` for the paper's own."""
    size: Size
    """Width and height of the image in pixels."""
    head: str | None = None
    job: FineTuningJob | None = field(default=None, compare=False)
    """Where the widths of a detector or segmentor come from."""
    config: Config | None = field(default=None, compare=False)
    """Where the number of classes comes from."""


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


def classifier(
    config: Config, run: Run, size: int, architecture: Mapping[str, Any] | None = None
) -> PlannedNetwork:
    """The classification network of a run on square images of `size`, by default as the scale shrinks it."""
    settings = config.architecture.get(run.model, {}) if architecture is None else architecture
    return PlannedNetwork(_unseeded(run), json.dumps(settings, sort_keys=True), (size, size), config=config)


def predictor(job: FineTuningJob, size: Size) -> PlannedNetwork:
    """The detector or segmentor of a fine-tuning on images of `size` (width, height)."""
    settings = json.dumps(job.config.architecture.get(job.run.model, {}), sort_keys=True)
    return PlannedNetwork(_unseeded(job.run), settings, size, job.head, job, job.config)


def _unseeded(run: Run) -> str:
    return str(run).rpartition("-s")[0]


def training_size(job: FineTuningJob) -> Size:
    """Width and height of a training image."""
    crop = getattr(job.recipe, "crop", None)
    return scored_size(job) if crop is None else (crop, crop)


def scored_size(job: FineTuningJob) -> Size:
    """Width and height of a validation image: scaled into the recipe's longest and shortest side, keeping its ratio."""
    longest, shortest = max(job.recipe.image_scale), min(job.recipe.image_scale)
    aspect = 1.0 if job.data.generate is not None else ASPECT_RATIO
    return min(longest, round(shortest * aspect)), shortest


def workloads(plan: Plan, job: SnakemakeJob) -> list[Workload] | None:
    """What a training, fine-tuning or evaluation has to do.

    None for other jobs, and where a number of images is not known.
    """
    config = plan.config
    if job.rule == "train":
        return _training(config, Run.parse(job.wildcards["run"]))
    if job.rule == "classification":
        run, images = Run.parse(job.wildcards["run"]), images_in(config, "classification", "val")
        return None if images is None else [_scoring(config, run, images, SCORING, config.evaluation.gpus)]
    if job.rule in ("fine_tune", "dense"):
        tuned = plan.job(job.wildcards["task"], job.wildcards["run"])
        return _fine_tuning(config, tuned) if job.rule == "fine_tune" else _dense(config, tuned)
    one = pass_of(plan, job)
    return None if one is None else _pass(config, one)


def pass_of(plan: Plan, job: SnakemakeJob) -> Pass | None:
    """The pass that a job is; None for other jobs."""
    return next((one for one in plan.passes if one.name == job.rule), None)


def _training(config: Config, run: Run) -> list[Workload] | None:
    """What is left from the last state on, with the scoring in between."""
    recipe, updates = config.recipe_of(run), updates_of(config, run)
    validation = images_in(config, "classification", "val")
    if updates is None or validation is None:
        return None
    left, gpus = _left(config, run, updates), config.training.gpus
    network, images = classifier(config, run, recipe.image_size), round(left * updates * recipe.global_batch)
    works = [Workload("training", SCORING, images, network, gpus, recipe.precision)]
    if recipe.validation_interval:
        scorings = round(left * (recipe.total_epochs // recipe.validation_interval))
        # The first process scores, the others wait for it.
        works.append(Workload("inference", SCORING, scorings * validation, network, min(gpus, 1)))
    return works


def _fine_tuning(config: Config, job: FineTuningJob) -> list[Workload] | None:
    """As a training; it is not scored in between."""
    updates = updates_of(config, job)
    if updates is None:
        return None
    images = round(_left(config, job, updates) * updates * job.recipe.global_batch)
    network = predictor(job, training_size(job))
    return [Workload("training", _kin(job), images, network, job.settings.gpus, job.recipe.precision)]


def _dense(config: Config, job: FineTuningJob) -> list[Workload] | None:
    images, network = images_in(config, job.kind, "val"), predictor(job, scored_size(job))
    gpus = min(job.section.evaluation.gpus, 1)
    return None if images is None else [Workload("inference", _kin(job), images, network, gpus)]


def _kin(job: FineTuningJob) -> tuple[str, ...]:
    """The job's own task, then the other heads of its kind."""
    return tuple(f"{job.kind}/{head}" for head in sorted(HEADS[job.kind], key=lambda head: head != job.head))


def _pass(config: Config, one: Pass) -> list[Workload] | None:
    """All images of a pass through each of its networks, as if no prediction were kept."""
    task, gpus = one.item.task, one.item.section.evaluation.gpus
    tasks = SCORING if set_of(task) is not None else (task, *SCORING)
    images, mode = scored_images(config, task), pass_mode(task)
    if images is None:
        return None
    return [_scoring(config, run, images, tasks, gpus, scored_side(config, task, run), mode) for run in one.runs]


def _scoring(
    config: Config, run: Run, images: int, tasks: tuple[str, ...], gpus: int, side: int | None = None,
    mode: Mode = "inference",
) -> Workload:  # fmt: skip
    side = config.recipe_of(run).image_size if side is None else side
    return Workload(mode, tasks, images, classifier(config, run, side), min(gpus, 1))


def pass_mode(task: str) -> Mode:
    """What a pass does with its images: a receptive field takes gradients."""
    return "training" if task == "receptive_field" else "inference"


def scored_images(config: Config, task: str) -> int | None:
    """Images of a pass for one network; a receptive field is measured before and after training."""
    if task == "receptive_field":
        return 2 * config.receptive_field.images
    return images_in(config, set_of(task) or task, "test")


def scored_side(config: Config, task: str, run: Run) -> int:
    """Side in pixels of the images of a pass for the network of `run`."""
    return config.receptive_field.size if task == "receptive_field" else config.recipe_of(run).image_size


def updates_of(config: Config, training: Run | FineTuningJob) -> int | None:
    """Updates of a training of classification, or of a fine-tuning; None where the number of images is not known.

    Images that do not fill an update are left out of an epoch. Detection also leaves out images without objects and
    fills updates by orientation, so its number is a few too many (COCO: one percent).
    """
    dense = isinstance(training, FineTuningJob)
    recipe = training.recipe if dense else config.recipe_of(training)
    if hasattr(recipe, "updates"):
        return recipe.updates
    images = images_in(config, training.kind if dense else "classification", "train")
    epochs = recipe.epochs if dense else recipe.total_epochs
    return None if images is None else images // recipe.global_batch * epochs


def states_of(config: Config, training: Run | FineTuningJob) -> Path:
    """Folder of a training's states."""
    if isinstance(training, FineTuningJob):
        return training.states
    return config.state_folder(str(training), config.training_digest(training))


def updates_done(config: Config, training: Run | FineTuningJob) -> int:
    """Updates that the newest state of a training holds; 0 where it has none."""
    files = state_files(states_of(config, training))
    return int(re.search(r"\d+", files[-1].name)[0]) if files else 0


def _left(config: Config, training: Run | FineTuningJob, updates: int) -> float:
    """Share of a training's `updates` that are still to be done."""
    return 1 - min(1.0, updates_done(config, training) / updates) if updates else 1.0


def images_in(config: Config, kind: str, split: str) -> int | None:
    """Images of a split of the data set that serves `kind` (see `Config.sources`).

    The record of the checked data comes first, then the settings of generated data, then the manifest; None where none
    of them tells.
    """
    data = dict(config.sources)[kind]
    record = vouched(config.record_of(data))
    if kind in CORRUPTED:
        each, parts = record.get("images"), len(record.get("contents") or ())
        found = each * (parts + (kind == "c")) if each is not None and parts else None
    else:
        found = record.get("splits", {}).get(split, record.get("images"))
    if found is not None:
        return found
    return _generated(config, kind, data, split) if data.generate is not None else _described(kind, data, split)


def _described(kind: str, data: DataSource, split: str) -> int | None:
    """By the manifest."""
    if data.name == CUE_CONFLICT:
        return PUBLISHED_CUE_CONFLICT
    path = Path(data.manifest) if data.manifest else MANIFESTS / f"{data.name}.yaml"
    if not path.is_file():
        return None
    values = read_yaml(path)
    if kind in CORRUPTED:
        return _parts(kind) * values["count"]
    if kind == "texture_knn":
        return len(values["classes"]) * sum(values["parts"].values())
    return (values["splits"].get(split) or {}).get("count")


def _parts(kind: str) -> int:
    """Parts of a set of corruptions; ImageNet-C is measured on the clean images too."""
    return len(FAMILIES[kind]) * len(SEVERITIES) + (kind == "c")


def _generated(config: Config, kind: str, data: DataSource, split: str) -> int | None:
    """By the settings of the generator."""
    from lska.data.generators import generator_settings

    settings = generator_settings(kind, data)
    if kind in CORRUPTED:
        each = images_in(config, "classification", "val") if settings.images is None else settings.images
        return None if each is None else _parts(kind) * each
    if kind in HEADS:
        return getattr(settings, f"{split}_images", None)
    classes = len(settings.class_names)
    if kind in ("a", "r", "sketch"):
        return settings.per_class * classes
    if kind == "shape_texture":
        return classes * settings.shapes_per_class * settings.textures_per_shape
    if kind == "texture_knn":
        return classes * 3 * settings.per_part
    each = getattr(settings, f"{split}_per_class", None)
    return None if each is None else classes * each
