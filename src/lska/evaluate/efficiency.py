"""What networks cost and designs can do: parameters, FLOPs and throughput, and the properties of Table I.

Counts depend neither on training nor on how a scale shrinks networks: recipes are the paper's, classes those of
ImageNet, COCO and ADE20K. Backbone, pyramid and heads run on the meta device up to their raw outputs, without
suppression and pasting of masks. The regions that Mask R-CNN would choose are not known there, only their number
matters: the box head gets as many as the configuration keeps at test time (1,000), the mask head as many as it lets
through (100), as in mmdet's own `forward`. This gives the printed 221 GFLOPs with LSKA-Small.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lska.evaluate.measurement import Network, Subject, Values, measure, training_classes
from lska.models import create
from lska.models.attention import as_published
from lska.models.counting import Complexity, architecture_metrics, count
from lska.models.properties import MODULES, REASONS, measure_module
from lska.models.replknet import RepLKNet
from lska.models.runs import Run
from lska.models.scoring import memory_format
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric, project_root
from lska.provenance.progress_bar import Bar
from lska.provenance.sidecars import Normalization
from lska.settings.recipes import IMAGENET_DEVIATION, IMAGENET_MEAN, load_recipe
from lska.settings.schema import Evaluation, FineTuning, Speed
from lska.settings.tasks import CONTROL, HEADS, PAPER_RECIPES, ClassifierJob, FineTuningJob, MeasurementJob, ScaleData
from lska.train.classifier import build_network

logger = logging.getLogger(__name__)

INPUT_SIZE = (3, 224, 224)


def measure_complexity(task: MeasurementJob, runs: Sequence[Run]) -> None:
    """Count the network of every run, alone with 1,000 classes or in a detector or segmentor (`complexity/<head>`).

    Raises:
        ValueError: unknown model, attention, kernel size or head, or a network that is no backbone for a head.
    """
    head = task.task.partition("/")[2]
    for run in Bar(runs, unit="networks"):
        _write(task, str(run), functools.partial(dense_counts, head, run) if head else functools.partial(counts, run))


def measure_properties(task: MeasurementJob, designs: Sequence[str] = MODULES) -> None:
    """Measure long-range dependence, adaptability and scalability of designs of Table I on their actual modules."""
    for name in designs:
        _write(task, name, lambda name=name: (measure_module(name), {"reasons": REASONS.get(name, {})}))


def _write(task: MeasurementJob, name: str, counted: Callable[[], tuple[Mapping[str, Any], Any]]) -> None:
    """Measure something without weights; `counted` gives its metric entries and further facts."""

    def values(*_: Any) -> Iterator[Values]:
        metrics, detail = counted()
        yield Values(metrics, detail=detail)

    measure(task, [lambda device: Subject(name, nn.Identity())], values)


def counts(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """As `network_counts`, of the paper's network of a run; raises ValueError for an unknown model, attention or kernel
    size."""
    with torch.device("meta"):
        network = create(run.model, attention=run.attention, kernel_size=run.kernel)
    return network_counts(network)


def network_counts(
    network: nn.Module, input_size: tuple[int, int, int] = INPUT_SIZE
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Metric entries of any network for an image of `input_size` (channels, height, width), and the names of modules
    that are in no count; raises ValueError where the network refuses the size."""
    if isinstance(network, RepLKNet):
        # Counted as it is used and as its publication and the paper count it.
        network.eval().structural_reparam()
    cost = count(network, input_size)
    names = ("params", "macs", "flops", "flops_official_utility")
    metrics = {name: metric(getattr(cost, name), "1") for name in names}
    for name, value in architecture_metrics(network).items():
        metrics[name] = metric(value, "pixels" if name == "receptive_field" else "1")
    return metrics, {"uncounted_modules": list(cost.uncounted)}


# --- Detectors and segmentors ----------------------------------------------------------------------------------------


def dense_counts(head: str, run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """As `counts`, of the head on the paper's network for all its sizes of images; raises ValueError for an unknown
    head or a network that is no backbone."""
    from lska.train.mm_configs import PAPER_CLASSES, PAPER_SIZES

    job = paper_job(head, run)
    network, metrics, uncounted = paper_network(job), {}, {}
    for size in PAPER_SIZES[job.kind]:
        cost = complexity(network, head, size)
        metrics |= {name: metric(value, "1") for name, value in conventions(cost, size).items()}
        uncounted |= dict.fromkeys(cost.uncounted)
    return metrics, {"classes": PAPER_CLASSES[job.kind], "uncounted_modules": list(uncounted)}


def paper_job(head: str, run: Run) -> FineTuningJob:
    """The fine-tuning of the paper's network: the paper's recipe, nothing shrunken, no pretrained weights."""
    kind = next((kind for kind, heads in HEADS.items() if head in heads), None)
    if kind is None:
        raise InputError(f"{head!r} is no detector or segmentor; expected one of {', '.join(PAPER_RECIPES)}")
    recipe = project_root() / PAPER_RECIPES[head]
    # Counting needs no data and, as for a control, no backbone that the scale trains.
    data = ScaleData(name="none", root="none", kind=kind, record=Path("none"), cache=Path("none"))
    return FineTuningJob(
        scale="paper", caption="", task=f"{kind}/{head}{CONTROL}", run=run, data=data, architecture={}, retrained=False,
        recipe=load_recipe(recipe, head=head), settings=FineTuning(str(recipe)), evaluation=Evaluation(batch_size=1),
        classifier=None, normalization=Normalization(IMAGENET_MEAN, IMAGENET_DEVIATION),
    )  # fmt: skip


def paper_network(job: FineTuningJob) -> nn.Module:
    """The detector or segmentor of `paper_job`, on the meta device."""
    from mmengine.config import ConfigDict

    from lska.evaluate.dense_scores import build_dense
    from lska.train import mm_configs

    with torch.device("meta"):
        return build_dense(job, ConfigDict(mm_configs.model(job, mm_configs.PAPER_CLASSES[job.kind])))


def complexity(network: nn.Module, head: str, size: tuple[int, int]) -> Complexity:
    """Cost of one image of `size` (width, height); normalisations and GELUs are those of the backbone alone.

    The record of the paper's values (paper/complexity_downstream.csv) leaves out the BatchNorm in Semantic FPN's head.
    """

    def run(network: Any, images: Tensor) -> None:
        maps = network.extract_feat(images)
        if head == "semantic_fpn":
            network.decode_head(maps)
            return
        if head == "retinanet":
            network.bbox_head(maps)
            return
        network.rpn_head(maps)
        heads, limits = network.roi_head, network.test_cfg
        for part, extractor, regions in (
            (heads.bbox_head, heads.bbox_roi_extractor, limits.rpn.max_per_img),
            (heads.mask_head, heads.mask_roi_extractor, limits.rcnn.max_per_img),
        ):
            part(images.new_empty(regions, extractor.out_channels, *extractor.roi_layers[0].output_size))

    width, height = size
    return count(network, (3, height, width), run, elementwise="backbone.")


def conventions(cost: Complexity, size: tuple[int, int]) -> dict[str, int]:
    """The countings that the paper's values follow, by metric name for images of `size` (width, height).

    All contain multiply-adds. `flops_low` adds biases; `flops_high` (Table V) also two per element of the backbone's
    BatchNorm and LayerNorm; `flops` adds to `flops_low` two per element of its BatchNorm and one per GELU.
    """
    low = cost.macs + cost.biases
    values = {
        "macs": cost.macs,
        "flops_low": low,
        "flops_high": low + 2 * (cost.batch_norm + cost.layer_norm),
        "flops": low + 2 * cost.batch_norm + cost.gelu,
    }
    width, height = size
    return {"params": cost.params, **{f"{name}_{width}x{height}": value for name, value in values.items()}}


# --- Throughput ------------------------------------------------------------------------------------------------------


def measure_speed(task: MeasurementJob, networks: Sequence[Network]) -> None:
    """Measure the throughput of networks, of a scale's runs with fresh weights, on which it does not depend, and write
    the metric files (Figure 6d, Table XVII).

    GPU, batch size and precision of the paper's measurement are not known (paper/protocol.md, section 10). Here all
    networks take turns within each repetition, so that a slow moment of the machine touches all of them. Convolutions
    are run in the plain form of the released code, with all their taps, although faster forms exist
    (`DepthwiseConv2d`). Images have the size of the network's recipe, those of imported weights and of networks from
    elsewhere the size of their preprocessing. Raises ValueError for unknown networks, or without a manifest of the
    training data, whose number of classes they need.
    """
    protocol, classes = task.means, len(training_classes(task.data))
    first, sizes = networks[0], []
    layout = memory_format(isinstance(first, ClassifierJob) and first.recipe.channels_last)

    def opened(one: Network, device: torch.device) -> Subject:
        if isinstance(one, ClassifierJob):
            network = build_network(one.run, one.architecture, classes).eval()
            kept = {"protocol": one.speed_protocol(protocol)}
            subject = Subject(str(one.run), network, {"md5": None, "origin": "random"}, detail=kept)
            sizes.append(one.image_size)
        else:
            subject = one.open(device)
            sizes.append(subject.own.image_size)
        as_published(subject.network).to(device, memory_format=layout)
        return subject

    def throughputs(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        images = {}
        for size in sizes:
            drawn = torch.randn((protocol.batch_size, 3, size, size), generator=torch.Generator().manual_seed(0))
            images[size] = drawn.to(device, memory_format=layout)
        batches = [images[size] for size in sizes]
        times = interleaved_seconds([subject.network for subject in subjects], batches, protocol)
        for size, seconds in zip(sizes, times.T, strict=True):
            low, middle, high = map(float, np.quantile(protocol.batch_size / seconds, [0.25, 0.5, 0.75]))
            metrics = {
                "throughput": metric(middle, "images/s", n=len(seconds), interval=(low, high)),
                "latency": metric(1000 * float(np.median(seconds)), "ms/batch", n=len(seconds)),
                "batch_size": metric(protocol.batch_size, "1"),
                "image_size": metric(size, "pixels"),
            }
            conditions = {"threads": protocol.threads, "warmup_batches": protocol.warmup}
            yield Values(metrics, detail={**conditions, "least_seconds": protocol.seconds})

    measure(task, [functools.partial(opened, one) for one in networks], throughputs)


def interleaved_seconds(networks: Sequence[nn.Module], images: Sequence[torch.Tensor], protocol: Speed) -> np.ndarray:
    """Seconds per batch, (repeats, networks), of images (B, 3, H, W) for each network; every other repetition takes the
    networks in reversed order."""
    for network, batch in zip(networks, images, strict=True):
        for _ in range(protocol.warmup):
            batch_seconds(network, batch, 0.0)
    times = np.empty((protocol.repeats, len(networks)))
    for repeat in range(protocol.repeats):
        order = range(len(networks)) if repeat % 2 == 0 else reversed(range(len(networks)))
        for index in order:
            times[repeat, index] = batch_seconds(networks[index], images[index], protocol.seconds)
        logger.info("repetition %d of %d", repeat + 1, protocol.repeats)
    return times


@torch.inference_mode()
def batch_seconds(network: nn.Module, images: torch.Tensor, least_seconds: float) -> float:
    """Mean seconds per forward pass of `images` (B, 3, H, W), over at least `least_seconds`."""
    wait = torch.cuda.synchronize if images.is_cuda else lambda device: None
    wait(images.device)
    begun, batches, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < least_seconds or batches == 0:
        network(images)
        wait(images.device)
        batches += 1
        elapsed = time.perf_counter() - begun
    return elapsed / batches
