"""Fine-tunings with the paper's recipes and networks, on data sets in name only, and what mmengine builds of them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_project import SETTINGS

from lska.data.dense_sets import DetectionSplit, SegmentationSplit
from lska.models.runs import Run
from lska.provenance.strict import merge
from lska.settings.scale import Config, from_dict
from lska.settings.tasks import FineTuningJob

if TYPE_CHECKING:
    from torch import nn

RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"
RUN = Run("van_tiny", "lska", 23, 0)
TASKS = {
    "retinanet": "detection/retinanet",
    "mask_rcnn": "detection/mask_rcnn",
    "semantic_fpn": "segmentation/semantic_fpn",
}


def group(run: Run) -> dict[str, Any]:
    """The entry of a configuration that stands for one run."""
    entry = {"model": run.model, "attention": run.attention, "kernel": run.kernel, "seed": run.seed}
    return {name: value for name, value in entry.items() if value is not None}


def head(recipe: str, **means: Any) -> dict[str, Any]:
    """The section of a head, with a control."""
    return {"recipe": str(RECIPES / f"{recipe}.yaml"), "runs": [group(RUN)], "untrained": [group(RUN)], **means}


SECTIONS: dict[str, Any] = {
    **SETTINGS,
    "runs": [group(RUN)],
    "architecture": {},
    "training": {"recipe": str(RECIPES / "imagenet.yaml")},
    "detection": {
        "data": {"name": "coco", "root": "coco"},
        "heads": {"retinanet": head("coco_retinanet"), "mask_rcnn": head("coco_mask_rcnn")},
    },
    "segmentation": {
        "data": {"name": "ade", "root": "ade"},
        "heads": {"semantic_fpn": head("ade20k_semantic_fpn")},
    },
}


def config(*changes: dict[str, Any]) -> Config:
    """The configuration with `changes` merged over it, in order."""
    settings = SECTIONS
    for change in changes:
        settings = merge(settings, change)
    return from_dict(settings, "here")


def means(name: str, **values: Any) -> dict[str, Any]:
    """A change of how a head is trained."""
    return {TASKS[name].partition("/")[0]: {"heads": {name: values}}}


def job(name: str, *changes: dict[str, Any], control: bool = False, run: Run = RUN) -> FineTuningJob:
    """The fine-tuning of the head `name` from `run`, the only one of its scale."""
    if run != RUN:
        changes = ({"runs": [group(RUN), group(run)]}, means(name, runs=[group(run)]), *changes)
    return config(*changes).fine_tuning(TASKS[name] + "-untrained" * control, run)


def detection_split(split: str, folder: Path = Path("coco's")) -> DetectionSplit:
    """As COCO: 80 classes, ids with gaps."""
    ids = tuple(range(1, 161, 2))
    classes = tuple(f"thing {number} of 'COCO'" for number in ids)
    return DetectionSplit(split, folder / split, folder / f"{split}.json", classes, ids, 4, True)


def segmentation_split(split: str, folder: Path = Path("ade"), **other: Any) -> SegmentationSplit:
    """As ADE20K: 150 classes from 1 on, 0 is unlabelled."""
    values = {"zero_is_unlabelled": True, "ignore": (), **other}
    classes = tuple(f"stuff {number}" for number in range(1, 151))
    return SegmentationSplit(
        split, folder / "images" / split, folder / "labels" / split, ".png", ".png", classes, count=4, **values
    )


def splits(name: str) -> dict[str, Any]:
    """Both splits of the data set that a head is trained on."""
    make = segmentation_split if name == "semantic_fpn" else detection_split
    return {split: make(split) for split in ("train", "val")}


@functools.cache
def published(name: str) -> Any:
    """The paper's configuration of a head, on one process; to be read only."""
    return generated(name)


def generated(name: str, *changes: dict[str, Any], data: dict[str, Any] | None = None) -> Any:
    """The mmengine configuration with `changes` merged over ours, on `data` or on sets that only exist in name."""
    from lska.train.mm_configs import configuration

    return configuration(job(name, *changes), data or splits(name))


def on_scope(made: Any, build: Callable[[], Any]) -> Any:
    """Build with the registries of the configuration's library."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(made.default_scope):
        return build()


def network(made: Any) -> nn.Module:
    """The detector or segmentor of a configuration on the meta device."""
    import torch
    from mmengine.registry import MODELS

    # The libraries write into the settings that they build from.
    with torch.device("meta"):
        return on_scope(made, lambda: MODELS.build(copy.deepcopy(made.model)))


def data_set(made: Any, name: str, **settings: Any) -> Any:
    """The `train` or `test` data set of a configuration."""
    from mmengine.registry import DATASETS

    return on_scope(made, lambda: DATASETS.build({**made[f"{name}_dataset"], **settings}))


def steps(made: Any, name: str) -> dict[str, Any]:
    """The steps of a data set's pipeline by name, in order."""
    return {step.type: step for step in made[f"{name}_dataset"].pipeline}


def rates(made: Any, epoch_length: int, updates: int) -> list[float]:
    """The rate of every update that mmengine's schedulers set, as the fine-tuner builds and steps them."""
    import torch
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS

    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), made.optim_wrapper.copy())
    built = {"optimizer": wrapper, "epoch_length": epoch_length}
    schedulers = [PARAM_SCHEDULERS.build(dict(values), default_args=built) for values in made.param_scheduler]
    found = []
    for _ in range(updates):
        found += wrapper.get_lr()["lr"]
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
    return found
