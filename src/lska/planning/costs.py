"""Parameters and multiply-adds of networks: from metric files where they were counted, else counted on the spot."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path

from lska.files import vouched
from lska.finetuning import PAPER_RECIPES, FineTuningJob
from lska.openmmlab.recipe import load_dense_recipe
from lska.planning.work import Network, Size
from lska.provenance import project_root

COUNTED = {None: (224, 224), "retinanet": (1280, 800), "mask_rcnn": (1280, 800), "semantic_fpn": (512, 512)}
"""Width and height of the images for which metric files hold counts, by head."""

PAPER_DATA = ("imagenet1k", "coco2017", "ade20k")
"""Data sets whose numbers of classes the metric files count with."""

STRIDE = 32
"""Images are counted at multiples of the networks' largest stride."""

_WIDTHS = ("fpn_channels", "head_channels", "head_convs", "fc_channels", "proposals", "detections")


@dataclasses.dataclass(frozen=True)
class Count:
    """Cost of a network: `params`, and `macs` for one image, the multiply-adds of one forward pass."""

    params: int
    macs: float


class Costs:
    """Counts of networks, each looked up or counted once.

    Counting imports torch and, for detectors and segmentors, the OpenMMLab libraries, which takes seconds. The paper's
    own networks are in metric files of every scale, which depend on neither training nor scale.

    Args:
        results: folder of the scales' results.
    """

    def __init__(self, results: Path = Path("results")) -> None:
        self.results = results
        self.of = functools.cache(self._of)

    def _of(self, network: Network) -> Count:
        known = self._published(network) if is_paper(network) else None
        if known is not None:
            return Count(known.params, known.macs * _pixels(network.size) / _pixels(COUNTED[network.head]))
        return count_head(network) if network.head else count_classifier(network)

    def _published(self, network: Network) -> Count | None:
        """The count of a metric file of any scale, None where there is none."""
        task = "complexity" if network.head is None else f"complexity/{network.head}"
        width, height = COUNTED[network.head]
        name = "macs" if network.head is None else f"macs_{width}x{height}"
        for path in sorted(self.results.glob(f"*/metrics/{task}/{network.name}-s*.json")):
            metrics = vouched(path).get("metrics", {})
            if name in metrics and "params" in metrics:
                return Count(metrics["params"]["value"], metrics[name]["value"])
        return None


def is_paper(network: Network) -> bool:
    """Whether it is a network of the paper: not shrunken, with the paper's classes and widths of heads."""
    if network.architecture != "{}":
        return False
    if network.job is None:
        return network.config is not None and network.config.data.name in PAPER_DATA
    paper = load_dense_recipe(network.job.head, project_root() / PAPER_RECIPES[network.job.head])
    same = all(getattr(network.job.recipe, name, None) == getattr(paper, name, None) for name in _WIDTHS)
    return same and network.job.data.name in PAPER_DATA


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _aligned(size: Size) -> Size:
    width, height = (STRIDE * max(1, math.ceil(side / STRIDE)) for side in size)
    return width, height


def count_classifier(network: Network) -> Count:
    """Count a classification network on the meta device; imports torch and timm."""
    import torch

    from lska.evaluate.robustness.measure import training_classes
    from lska.models.complexity import count
    from lska.runs import Run
    from lska.train.classifier import build_network

    run = Run(network.model, network.attention, network.kernel, 0)
    config = dataclasses.replace(network.config, architecture={network.model: json.loads(network.architecture)})
    with torch.device("meta"):
        model = build_network(config, run, len(training_classes(config)))
    width, height = network.size
    cost = count(model, (3, height, width))
    return Count(cost.params, cost.macs)


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


def count_head(network: Network) -> Count:
    """Count a detector or segmentor on the meta device; imports the OpenMMLab libraries."""
    import contextlib
    import sys
    import warnings

    import torch
    from mmengine.config import ConfigDict
    from mmengine.logging import MMLogger

    from lska.evaluate.dense import build
    from lska.evaluate.dense_complexity import complexity
    from lska.train import mm_configs

    job, size = network.job, _aligned(network.size)
    # It warns whenever detectors and segmentors take turns.
    MMLogger.get_instance("mmengine").setLevel("ERROR")
    with torch.device("meta"), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        # About losses, which are not counted.
        warnings.simplefilter("ignore", category=UserWarning)
        model = build(job, ConfigDict(mm_configs.model(job, number_of_classes(job))))
    cost = complexity(model, job.head, size)
    return Count(cost.params, cost.macs * _pixels(network.size) / _pixels(size))
