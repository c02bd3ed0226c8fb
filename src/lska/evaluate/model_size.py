"""Parameters and FLOPs of the paper's networks, alone and in detectors and segmentors; properties of attention designs.

Nothing here depends on training or on how a scale shrinks networks: recipes are the paper's, classes those of ImageNet,
COCO and ADE20K. Backbone, pyramid and heads run on the meta device up to their raw outputs, without suppression and
pasting of masks. The regions that Mask R-CNN would choose are not known there, only their number matters: the box head
gets as many as the configuration keeps at test time (1,000), the mask head as many as it lets through (100), as in
mmdet's own `forward`. This gives the printed 221 GFLOPs with LSKA-Small.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lska.evaluate.measurement import Frame, Subject, Values, measure
from lska.models import create
from lska.models.counting import Complexity, architecture_metrics, count
from lska.models.replknet import RepLKNet
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric, project_root
from lska.provenance.sidecars import Normalization
from lska.settings.recipes import IMAGENET_DEVIATION, IMAGENET_MEAN, load_recipe
from lska.settings.schema import Evaluation, FineTuning
from lska.settings.tasks import CONTROL, HEADS, PAPER_RECIPES, FineTuningJob, MeasurementJob, ScaleData

INPUT_SIZE = (3, 224, 224)


def measure_complexity(task: MeasurementJob, runs: Sequence[Run]) -> None:
    """Count the network of every run, alone with 1,000 classes or in a detector or segmentor (`complexity/<head>`).

    Raises:
        ValueError: unknown model, attention, kernel size or head, or a network that is no backbone for a head.
    """
    head = task.task.partition("/")[2]
    for run in tqdm(runs, unit="network", disable=None):
        _write(task, str(run), lambda run=run: dense_counts(head, run) if head else counts(run))


def measure_properties(task: MeasurementJob) -> None:
    """Measure long-range dependence, adaptability and scalability of each design of Table I on its actual module."""
    from lska.models.properties import MODULES, REASONS, measure_module

    for name in MODULES:
        reasons = {"reasons": REASONS.get(name, {})}
        _write(task, name, lambda name=name, reasons=reasons: (measure_module(name), reasons))


def _write(task: MeasurementJob, name: str, counted: Callable[[], tuple[Mapping[str, Any], Any]]) -> None:
    """Measure something without weights; `counted` gives its metric entries and further facts."""

    def values(*_: Any) -> Iterator[Values]:
        metrics, detail = counted()
        yield Values(metrics, detail=detail)

    measure(Frame.of(task), [lambda device: Subject(name, nn.Identity())], values)


def counts(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Metric entries of the paper's network of a run, and the names of modules that are in no count.

    Raises:
        ValueError: unknown model, attention or kernel size.
    """
    with torch.device("meta"):
        network = create(run.model, attention=run.attention, kernel_size=run.kernel)
    if isinstance(network, RepLKNet):
        # Counted as it is used and as its publication and the paper count it.
        network.eval().structural_reparam()
    cost = count(network, INPUT_SIZE)
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

    with torch.device("meta"), warnings.catch_warnings():
        # About losses, which are not counted.
        warnings.simplefilter("ignore", category=UserWarning)
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
