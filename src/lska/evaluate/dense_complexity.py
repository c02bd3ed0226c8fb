"""Parameters and FLOPs of complete detectors and segmentors on the paper's networks (Tables IV, V, IX and XI).

Nothing here depends on training or on how a scale shrinks networks: recipes are the paper's, classes those of COCO and
ADE20K. Backbone, pyramid and heads run on the meta device up to their raw outputs, without suppression and pasting of
masks. The regions that Mask R-CNN would choose are not known there, only their number matters: the box head gets as
many as the configuration keeps at test time (1,000), the mask head as many as it lets through (100), as in mmdet's own
`forward`. This gives the printed 221 GFLOPs with LSKA-Small.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lska.evaluate.dense_scores import build_dense
from lska.models.counting import Complexity, count
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric, project_root, write_metrics
from lska.settings.fine_tunings import CONTROL, HEADS, PAPER_RECIPES, FineTuningJob
from lska.settings.scale import Config
from lska.settings.sections import DataSource, DenseTask, FineTuning, RunGroup
from lska.train import mm_configs

SIZES, CLASSES = mm_configs.PAPER_SIZES, mm_configs.PAPER_CLASSES


def measure_dense_complexity(config: Config, head: str, runs: Sequence[Run]) -> None:
    """Count a detector or segmentor on the network of every run and write the metric files of `complexity/<head>`.

    Raises:
        ValueError: unknown head, or a run whose network is no backbone for detection and segmentation.
    """
    for run in tqdm(runs, unit="network", disable=None):
        started, job = datetime.now(UTC), paper_job(config, head, run)
        metrics, uncounted = dense_counts(job, head)
        write_metrics(
            config.metric_path(f"complexity/{head}", run),
            task=f"complexity/{head}",
            run=str(run),
            scale=config.scale,
            metrics=metrics,
            started=started,
            extra={"classes": CLASSES[job.kind], "uncounted_modules": list(uncounted)},
        )


def dense_counts(job: FineTuningJob, head: str) -> tuple[dict[str, dict[str, Any]], dict[str, None]]:
    """Metric entries of a `paper_job` for all sizes of images, and the names of modules that are in no count."""
    network, metrics, uncounted = paper_network(job), {}, {}
    for size in SIZES[job.kind]:
        cost = complexity(network, head, size)
        metrics |= {name: metric(value, "1") for name, value in conventions(cost, size).items()}
        uncounted |= dict.fromkeys(cost.uncounted)
    return metrics, uncounted


def paper_job(config: Config, head: str, run: Run) -> FineTuningJob:
    """The fine-tuning of the paper's network: the paper's recipe, nothing shrunken, no pretrained weights.

    Raises:
        ValueError: unknown head, or the run's network is no backbone for detection and segmentation.
    """
    kind = next((kind for kind, heads in HEADS.items() if head in heads), None)
    if kind is None:
        raise InputError(f"{head!r} is no detector or segmentor; expected one of {', '.join(PAPER_RECIPES)}")
    recipe = project_root() / PAPER_RECIPES[head]
    # Counting needs no data and, as for a control, no backbone that the scale trains.
    settings = FineTuning(str(recipe), untrained=(RunGroup(run.model, run.seed, run.attention, run.kernel),))
    sections = {**dict.fromkeys(HEADS), kind: DenseTask(DataSource("none", root="none"), {head: settings})}
    paper = dataclasses.replace(config, architecture={}, **sections)
    return FineTuningJob(paper, f"{kind}/{head}{CONTROL}", run)


def paper_network(job: FineTuningJob) -> nn.Module:
    """The detector or segmentor of `paper_job`, on the meta device."""
    from mmengine.config import ConfigDict

    with torch.device("meta"), warnings.catch_warnings():
        # About losses, which are not counted.
        warnings.simplefilter("ignore", category=UserWarning)
        return build_dense(job, ConfigDict(mm_configs.model(job, CLASSES[job.kind])))


def complexity(network: nn.Module, head: str, size: tuple[int, int]) -> Complexity:
    """Cost of one image of `size` (width, height); normalisations and GELUs are those of the backbone alone.

    The record of the paper's values (paper/complexity_downstream.csv) leaves out the BatchNorm in Semantic FPN's head.
    """
    run = {"retinanet": _run_retinanet, "mask_rcnn": _run_mask_rcnn, "semantic_fpn": _run_semantic_fpn}[head]
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


def _run_retinanet(network: Any, images: Tensor) -> None:
    network.bbox_head(network.extract_feat(images))


def _run_semantic_fpn(network: Any, images: Tensor) -> None:
    network.decode_head(network.extract_feat(images))


def _run_mask_rcnn(network: Any, images: Tensor) -> None:
    network.rpn_head(network.extract_feat(images))
    heads, limits = network.roi_head, network.test_cfg
    for head, extractor, regions in (
        (heads.bbox_head, heads.bbox_roi_extractor, limits.rpn.max_per_img),
        (heads.mask_head, heads.mask_roi_extractor, limits.rcnn.max_per_img),
    ):
        size = extractor.roi_layers[0].output_size
        head(images.new_empty(regions, extractor.out_channels, *size))
