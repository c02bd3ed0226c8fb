"""What jobs cost: multiply-adds of networks, hours by measured throughput, and bytes."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lska.models.runs import Run
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.products import Plan
from lska.pipeline.throughput import Assumptions, Throughput, TimeEstimate, estimated
from lska.pipeline.workload import (
    PlannedNetwork,
    Size,
    classifier,
    images_in,
    pass_of,
    predictor,
    training_size,
    workloads,
)
from lska.provenance.files import vouched
from lska.provenance.metric_files import project_root
from lska.provenance.pointers import read_pointer
from lska.settings.dense_recipes import load_dense_recipe
from lska.settings.fine_tunings import PAPER_RECIPES, FineTuningJob
from lska.settings.perturbed_sets import MASKED, set_of

COUNTED = {None: (224, 224), "retinanet": (1280, 800), "mask_rcnn": (1280, 800), "semantic_fpn": (512, 512)}
"""Width and height of the images for which metric files hold counts, by head."""

PAPER_DATA = ("imagenet1k", "coco2017", "ade20k")
"""Data sets whose numbers of classes the metric files count with."""

STRIDE = 32
"""Images are counted at multiples of the networks' largest stride."""

FLOAT = 4
"""Bytes of a weight."""

ROW = 20
"""Bytes of a prediction before compression: a label and five classes of 2 bytes, two probabilities of 4."""

_WIDTHS = ("fpn_channels", "head_channels", "head_convs", "fc_channels", "proposals", "detections")


@dataclass(frozen=True)
class NetworkCost:
    """Of a network: `params`, and `macs` for one image, the multiply-adds of one forward pass."""

    params: int
    macs: float


@functools.cache
def cost_of(network: PlannedNetwork) -> NetworkCost:
    """The cost of a network, looked up where it was counted, else counted on the meta device.

    Counting imports torch and, for detectors and segmentors, the OpenMMLab libraries, which takes seconds. The paper's
    own networks are in metric files of every scale, which depend on neither training nor scale.
    """
    known = _published(network) if _is_paper(network) else None
    return known or (count_head(network) if network.head else count_classifier(network))


def _published(network: PlannedNetwork) -> NetworkCost | None:
    task = "complexity" if network.head is None else f"complexity/{network.head}"
    width, height = COUNTED[network.head]
    name = "macs" if network.head is None else f"macs_{width}x{height}"
    for path in sorted(Path("results").glob(f"*/metrics/{task}/{network.name}-s*.json")):
        metrics = vouched(path).get("metrics", {})
        if name in metrics and "params" in metrics:
            scale = math.prod(network.size) / (width * height)
            return NetworkCost(metrics["params"]["value"], metrics[name]["value"] * scale)
    return None


def _is_paper(network: PlannedNetwork) -> bool:
    """Whether it is a network of the paper: not shrunken, with the paper's classes and widths of heads."""
    if network.architecture != "{}":
        return False
    if network.job is None:
        return network.config is not None and network.config.data.name in PAPER_DATA
    paper = load_dense_recipe(network.job.head, project_root() / PAPER_RECIPES[network.job.head])
    same = all(getattr(network.job.recipe, name, None) == getattr(paper, name, None) for name in _WIDTHS)
    return same and network.job.data.name in PAPER_DATA


def count_classifier(network: PlannedNetwork) -> NetworkCost:
    """Count a classification network; imports torch and timm."""
    import torch

    from lska.evaluate.measurement import training_classes
    from lska.models.counting import count
    from lska.train.classifier import build_network

    run, (width, height) = Run.parse(f"{network.name}-s0"), network.size
    shrunken, classes = json.loads(network.architecture), len(training_classes(network.config))
    with torch.device("meta"):
        model = build_network(network.config, run, classes, architecture=shrunken)
    cost = count(model, (3, height, width))
    return NetworkCost(cost.params, cost.macs)


def count_head(network: PlannedNetwork) -> NetworkCost:
    """Count a detector or segmentor; imports the OpenMMLab libraries."""
    import contextlib
    import sys
    import warnings

    import torch
    from mmengine.config import ConfigDict
    from mmengine.logging import MMLogger

    from lska.evaluate.dense_scores import build_dense
    from lska.evaluate.model_size import complexity
    from lska.train import mm_configs

    size: Size = tuple(STRIDE * max(1, math.ceil(side / STRIDE)) for side in network.size)
    # It warns whenever detectors and segmentors take turns.
    MMLogger.get_instance("mmengine").setLevel("ERROR")
    with torch.device("meta"), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        # About losses, which are not counted.
        warnings.simplefilter("ignore", category=UserWarning)
        model = build_dense(network.job, ConfigDict(mm_configs.model(network.job, number_of_classes(network.job))))
    cost = complexity(model, network.job.head, size)
    return NetworkCost(cost.params, cost.macs * math.prod(network.size) / math.prod(size))


def number_of_classes(job: FineTuningJob) -> int:
    """Classes that a detector or segmentor tells apart.

    Raises:
        ValueError: no manifest of the data, or a setting of their generator is wrong.
    """
    from lska.data.generators import generator_settings
    from lska.data.manifest import load_manifest

    if job.data.generate is not None:
        return len(generator_settings(job.kind, job.data).class_names)
    return len(load_manifest(job.data.manifest or job.data.name, job.kind).classes)


@dataclass(frozen=True)
class Attempts:
    """How often Snakemake has to start a job that stops itself after `hours`."""

    needed: int
    allowed: int
    hours: float


def estimate_of(
    plan: Plan, job: SnakemakeJob, known: Sequence[Throughput], assumed: Assumptions
) -> TimeEstimate | None:
    """How long a job takes; None where nothing measured tells."""
    if not job.outputs:
        return TimeEstimate(0.0, 0.0, 0.0, ())
    if job.rule == "speed":
        # Every network runs for a least time in every repetition, apart from warming up.
        seconds = len(job.outputs) * plan.config.speed.repeats * plan.config.speed.seconds
        return TimeEstimate(seconds, seconds, seconds, ("the protocol of `speed`: its least duration",))
    works = workloads(plan, job)
    if works is None:
        return _as_before(job)
    found = [estimated(work, known, assumed, lambda network: cost_of(network).macs) for work in works]
    return None if None in found or not found else sum(found[1:], found[0])


def _as_before(job: SnakemakeJob) -> TimeEstimate | None:
    """Notebooks and counts: as long as their namesakes of any scale took, which is in their files."""
    if job.rule.startswith("notebook_"):
        outputs = [path for path in job.outputs if path.endswith(".ipynb")]
        source = "executed notebooks here, of any scale"
    elif job.rule.startswith(("complexity", "properties")):
        outputs, source = job.outputs, "counts of any scale here, without the start of the process"
    else:
        return None
    times = [_seconds_of_namesakes(Path(path)) for path in outputs]
    if not times or not all(times):
        return None
    return TimeEstimate(*(sum(pick(each) for each in times) for pick in (median, min, max)), (source,))


def _seconds_of_namesakes(output: Path) -> list[float]:
    # results/<scale>/metrics/...: the same file of whichever scale and seed.
    inner = Path(*output.parts[2:])
    name = inner.name.rpartition("-s")[0]
    pattern = f"*/{inner.parent}/{name}-s*.json" if name else f"*/{inner}"
    contents = [vouched(path) for path in sorted(Path("results").glob(pattern))]
    papermill = [(content.get("metadata") or {}).get("papermill") or content for content in contents]
    return [seconds for one in papermill if (seconds := one.get("duration", one.get("seconds"))) is not None]


def attempts_of(plan: Plan, job: SnakemakeJob, found: TimeEstimate | None) -> Attempts | None:
    """How often a job that knows its budget has to be started; None for jobs that end by themselves."""
    one, limits = pass_of(plan, job), None
    if job.rule == "train":
        limits = plan.config.training
    elif job.rule == "fine_tune":
        limits = plan.job(job.wildcards["task"], job.wildcards["run"]).settings
    elif one is not None and set_of(one.item.task) is not None:
        limits = one.item.section
    if limits is None or found is None:
        return None
    return Attempts(max(1, math.ceil(found.seconds / (3600 * limits.hours))), limits.attempts, limits.hours)


@dataclass(frozen=True)
class Amount:
    """Bytes of one kind of file; None where they are not known. `basis` says what the number rests on."""

    what: str
    bytes: int | None
    basis: str
    files: int


def storage_of(plan: Plan, jobs: Sequence[SnakemakeJob]) -> list[Amount]:
    """What the jobs write, by kind, as far as that follows from exact counts; metric files and tables are small."""
    weights, states = [], []
    for job in jobs:
        if job.rule == "train":
            run = Run.parse(job.wildcards["run"])
            recipe = plan.config.recipe_of(run)
            network, averaged = classifier(plan.config, run, recipe.image_size), recipe.ema_decay is not None
        elif job.rule == "fine_tune":
            tuned = plan.job(job.wildcards["task"], job.wildcards["run"])
            network, averaged = predictor(tuned, training_size(tuned)), False
        else:
            continue
        weights.append(FLOAT * cost_of(network).params)
        # Weights, AdamW's two moments and perhaps the weights' average; two states are kept.
        states.append(2 * weights[-1] * (3 + averaged))
    pointers = [read_pointer(plan.config.weights_path(job.wildcards["weights"])) for job in jobs if job.rule == "fetch"]
    fetched = [pointer.size for pointer in pointers if pointer is not None]
    maps = [path for job in jobs for path in job.outputs if Path(path).parts[2:3] == ("fields",)]
    side = 0 if plan.config.receptive_field is None else plan.config.receptive_field.size
    made = [job.wildcards["name"] for job in jobs if job.rule == "data"]
    made = [name for name in made if plan.data_set(name)[1].generate is not None]
    found = [
        Amount("weights", sum(weights), "exact parameters, 4 bytes each", len(weights)),
        Amount("weights from DVC", sum(fetched), "sizes in DVC's pointers; as much again in its cache", len(fetched)),
        Amount("training states", sum(states), "weights and two moments, twice; the last of each stays", len(states)),
        _predictions(plan, jobs),
        Amount("contribution maps", 2 * FLOAT * side**2 * len(maps), "two maps, before compression", len(maps)),
        Amount("generated data", None, ", ".join(made), len(made)),
    ]
    return [one for one in found if one.files]


def _predictions(plan: Plan, jobs: Sequence[SnakemakeJob]) -> Amount:
    rows, files = 0, 0
    for one in filter(None, (pass_of(plan, job) for job in jobs)):
        perturbed = set_of(one.item.task)
        if perturbed is None:
            continue
        images = images_in(plan.config, perturbed, "test")
        if images is None:
            return Amount("predictions", None, f"the number of images of {one.item.data.name} is not known", 1)
        rows += images * len(one.runs) * (2 if perturbed in MASKED else 1)
        files += len(one.runs)
    return Amount("predictions", ROW * rows, "20 bytes each before compression; may be deleted", files)
