"""What planned jobs have to do: images that pass through networks, before anything is known about the hardware.

Imports nothing heavy, and reads no data set: numbers of images come from records and manifests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.models.runs import Run
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, vouched
from lska.settings.scale import Config
from lska.settings.tasks import CORRUPTED, CUE_CONFLICT, HEADS, FineTuningJob, Pass, set_of
from lska.train.saved_state import state_files

Mode = Literal["training", "inference"]

ASPECT_RATIO = 4 / 3
"""Longer by shorter side assumed for real images whose sizes vary; generated ones are square."""

SCORING = ("classification", "speed")
"""Whose throughput scoring goes by: with reading of images, else the forward pass alone."""

PUBLISHED_CUE_CONFLICT = 1280
"""Images of the cue-conflict set of Geirhos et al. (ICLR 2019): 16 categories x 80."""


class PlannedNetwork(NamedTuple):
    """What decides the multiply-adds of one image: two equal networks cost the same."""

    name: str
    """A run without its seed."""
    architecture: str
    """Settings that shrink it, as canonical JSON; `{}` for the paper's own."""
    pixels: int
    """Width times height of the image."""
    head: str | None = None


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
    done: int = 0
    """Images besides, of the training's part that a saved state holds."""


def network_of(run: Run, pixels: int, architecture: Mapping[str, Any], head: str | None = None) -> PlannedNetwork:
    """The classifier of a run, or its detector or segmentor with `head`."""
    return PlannedNetwork(str(run).rpartition("-s")[0], json.dumps(architecture, sort_keys=True), pixels, head)


def dense_pixels(recipe: Mapping[str, Any], generated: bool, training: bool) -> int:
    """Pixels of an image for a detector or segmentor: scaled into the recipe's longest and shortest side, or cropped.

    Args:
        recipe: in plain values.
        generated: whether images are square.
    """
    if training and (crop := recipe.get("crop")) is not None:
        return crop**2
    longest, shortest = max(recipe["image_scale"]), min(recipe["image_scale"])
    return min(longest, round(shortest * (1.0 if generated else ASPECT_RATIO))) * shortest


def workloads(plan: Plan, job: SnakemakeJob) -> list[Workload] | None:
    """What a training, fine-tuning or evaluation has to do.

    None for other jobs, and where a number of images is not known.
    """
    config, one = plan.config, pass_of(plan, job)
    if one is not None:
        task = one.item.task
        gpus, field = min(one.item.section.evaluation.gpus, 1), config.receptive_field
        if task == "receptive_field":
            # Gradients, of networks before and after training.
            networks = [_classifier(config, run, field.size) for run in one.runs]
            return [Workload("training", SCORING, 2 * field.images, network, gpus) for network in networks]
        images = images_in(config, set_of(task) or task, "test")
        networks = [_classifier(config, run, config.recipe_of(run).image_size) for run in one.runs]
        return images and [Workload("inference", SCORING, images, network, gpus) for network in networks]
    if job.rule == "classification":
        run, images = Run.parse(job.wildcards["run"]), images_in(config, "classification", "val")
        network, gpus = _classifier(config, run, config.recipe_of(run).image_size), min(config.evaluation.gpus, 1)
        return None if images is None else [Workload("inference", SCORING, images, network, gpus)]
    if job.rule == "train":
        return _training(config, Run.parse(job.wildcards["run"]))
    if job.rule not in ("fine_tune", "dense"):
        return None
    tuned, training = plan.job(job.wildcards["task"], job.wildcards["run"]), job.rule == "fine_tune"
    pixels = dense_pixels(tuned.recipe.to_dict(), tuned.data.generate is not None, training)
    network = network_of(tuned.run, pixels, config.architecture.get(tuned.run.model, {}), tuned.head)
    # Its own task, then the other heads of its kind.
    kin = tuple(f"{tuned.kind}/{head}" for head in sorted(HEADS[tuned.kind], key=lambda head: head != tuned.head))
    if not training:
        images, gpus = images_in(config, tuned.kind, "val"), min(tuned.evaluation.gpus, 1)
        return None if images is None else [Workload("inference", kin, images, network, gpus)]
    done, updates = updates_of(config, tuned)
    if updates is None:
        return None
    left, saved = ((updates - done) * tuned.recipe.global_batch, done * tuned.recipe.global_batch)
    return [Workload("training", kin, left, network, tuned.settings.gpus, tuned.recipe.precision, saved)]


def pass_of(plan: Plan, job: SnakemakeJob) -> Pass | None:
    """The pass that a job is; None for other jobs."""
    return next((one for one in plan.passes if one.name == job.rule), None)


def _classifier(config: Config, run: Run, side: int) -> PlannedNetwork:
    return network_of(run, side**2, config.architecture.get(run.model, {}))


def _training(config: Config, run: Run) -> list[Workload] | None:
    """What is left from the last state on, with the scoring in between."""
    recipe, gpus = config.recipe_of(run), config.training.gpus
    done, updates = updates_of(config, run)
    validation = images_in(config, "classification", "val")
    if updates is None or validation is None:
        return None
    network, batch = _classifier(config, run, recipe.image_size), recipe.global_batch
    left, saved = (updates - done) * batch, done * batch
    works = [Workload("training", SCORING, left, network, gpus, recipe.precision, saved)]
    if recipe.validation_interval:
        scorings = recipe.total_epochs // recipe.validation_interval
        before = round(scorings * done / max(1, updates))
        # The first process scores, the others wait for it.
        counts = (scorings - before) * validation, before * validation
        works.append(Workload("inference", SCORING, counts[0], network, min(gpus, 1), done=counts[1]))
    return works


def updates_of(config: Config, training: Run | FineTuningJob) -> tuple[int, int | None]:
    """Updates that the newest state of a training holds, and those of all of it; None where the number of images is not
    known.

    Images that do not fill an update are left out of an epoch. Detection also leaves out images without objects and
    fills updates by orientation, so its number is a few too many (COCO: one percent).
    """
    dense = isinstance(training, FineTuningJob)
    recipe = training.recipe if dense else config.recipe_of(training)
    images = images_in(config, training.kind if dense else "classification", "train")
    updates = getattr(recipe, "updates", None)
    if updates is None and images is not None:
        updates = images // recipe.global_batch * (recipe.epochs if dense else recipe.total_epochs)
    files = state_files(training.states if dense else states_of(config, training))
    done = int(re.search(r"\d+", files[-1].name)[0]) if files else 0
    return done if updates is None else min(done, updates), updates


def states_of(config: Config, run: Run) -> Path:
    """Folder of the states of a classifier's training."""
    return config.classifier(run).states


def images_in(config: Config, kind: str, split: str) -> int | None:
    """Images of a split of the data set that serves `kind` (see `Config.sources`), by the record of the checked data,
    else by the manifest; None where neither tells, as of sets that are still to be generated."""
    data = dict(config.sources)[kind]
    record, parts = vouched(config.record_of(data)), len(FAMILIES.get(kind, ())) * len(SEVERITIES)
    each = record.get("images")
    if kind in CORRUPTED and each is not None:
        parts = len(record.get("contents") or ())
    elif each is not None or "splits" in record:
        return record.get("splits", {}).get(split, each)
    else:
        if data.name == CUE_CONFLICT:
            return PUBLISHED_CUE_CONFLICT
        if data.generate is not None or not data.manifest_file.is_file():
            return None
        manifest = read_yaml(data.manifest_file)
        if kind == "texture_knn":
            return len(manifest["classes"]) * sum(manifest["parts"].values())
        if kind not in CORRUPTED:
            return (manifest["splits"].get(split) or {}).get("count")
        each = manifest["count"]
    # ImageNet-C is measured on the clean images too.
    return each * (parts + (kind == "c")) if parts else None
