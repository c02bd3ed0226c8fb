"""RetinaNet and Mask R-CNN with FPN on COCO-style data, as mmengine configurations (paper/protocol.md, section 3).

What is not set here is the library's base file: anchors, assigners, losses, the data pipeline's steps.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lska.data.entries import DataError
from lska.finetuning import FineTuningJob
from lska.openmmlab import configs
from lska.openmmlab.recipe import DetectionRecipe, MaskRCNNRecipe
from lska.openmmlab.setup import base_config

if TYPE_CHECKING:
    from lska.data.dense_sets import DetectionSplit

PAPER_CLASSES = 80
SIZE = (1280, 800)
"""Width and height in pixels at which the paper counts FLOPs."""


def parts(job: FineTuningJob, splits: dict[str, DetectionSplit]) -> dict[str, Any]:
    """Model, data and schedule of a detector."""
    recipe: DetectionRecipe = job.recipe
    datasets = {name: _dataset(job, split, name) for name, split in splits.items()}
    loaders = {}
    if "train" in datasets:
        loaders["train_dataloader"] = configs.train_loader(
            job, datasets["train"], epochs=recipe.epochs, by_orientation=True
        )
        loaders["param_scheduler"] = schedule(recipe)
    if "val" in datasets:
        loaders["test_dataloader"] = configs.test_loader(job, datasets["val"])
    classes = next(iter(splits.values())).classes
    return {"model": model(job, len(classes)), **loaders}


def schedule(recipe: DetectionRecipe) -> list[dict[str, Any]]:
    """Linear warm-up in updates, then a tenth of the rate after each milestone, in epochs."""
    steps = {
        "type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": recipe.epochs, "gamma": 0.1,
        "milestones": list(recipe.milestones), "convert_to_iter_based": True,
    }  # fmt: skip
    # mmengine ends one update before `end`; update `warmup_updates` (from 0) is the first at the full rate.
    warmup = {
        "type": "LinearLR", "start_factor": recipe.warmup_factor, "by_epoch": False, "begin": 0,
        "end": recipe.warmup_updates + 1,
    }  # fmt: skip
    return [warmup, steps] if recipe.warmup_updates else [steps]


def model(job: FineTuningJob, classes: int) -> dict[str, Any]:
    """The detector's configuration."""
    build = {"retinanet": _retinanet, "mask_rcnn": _mask_rcnn}[job.head]
    network = build(job, classes)
    network["data_preprocessor"] |= configs.pixels(job)
    network["backbone"] = configs.backbone(job)
    network["neck"] |= {
        "in_channels": list(configs.stage_widths(job)),
        "out_channels": job.recipe.fpn_channels,
    }
    return network


def _levels(job: FineTuningJob, first: int) -> list[int]:
    """Strides of the five pyramid levels, from the backbone's stage `first` (from 0) on."""
    levels = list(configs.stage_strides(job))[first:]
    while len(levels) < 5:
        levels.append(2 * levels[-1])
    return levels


def _retinanet(job: FineTuningJob, classes: int) -> dict[str, Any]:
    recipe: DetectionRecipe = job.recipe
    network = copy.deepcopy(base_config("detection", "models/retinanet_r50_fpn")["model"])
    network["bbox_head"] |= {
        "num_classes": classes, "in_channels": recipe.fpn_channels, "feat_channels": recipe.head_channels,
        "stacked_convs": recipe.head_convs,
    }  # fmt: skip
    network["bbox_head"]["anchor_generator"]["strides"] = _levels(job, network["neck"]["start_level"])
    network["test_cfg"] |= {
        "score_thr": recipe.score_threshold, "max_per_img": recipe.detections,
        "nms": {"type": "nms", "iou_threshold": recipe.suppression_iou},
    }  # fmt: skip
    return network


def _mask_rcnn(job: FineTuningJob, classes: int) -> dict[str, Any]:
    recipe: MaskRCNNRecipe = job.recipe
    network = copy.deepcopy(base_config("detection", "models/mask-rcnn_r50_fpn")["model"])
    levels = _levels(job, 0)
    network["rpn_head"] |= {"in_channels": recipe.fpn_channels, "feat_channels": recipe.head_channels}
    network["rpn_head"]["anchor_generator"]["strides"] = levels
    regions = network["roi_head"]
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        regions[extractor] |= {"out_channels": recipe.fpn_channels, "featmap_strides": levels[:4]}
        # The scale at which a region moves up one level is 56 pixels at stride 4.
        regions[extractor]["finest_scale"] = 14 * levels[0]
    regions["bbox_head"] |= {
        "in_channels": recipe.fpn_channels, "fc_out_channels": recipe.fc_channels, "num_classes": classes,
    }  # fmt: skip
    regions["mask_head"] |= {
        "in_channels": recipe.fpn_channels, "conv_out_channels": recipe.head_channels,
        "num_convs": recipe.head_convs, "num_classes": classes,
    }  # fmt: skip
    _limit_regions(network["train_cfg"], network["test_cfg"], recipe)
    return network


def _limit_regions(train: dict[str, Any], test: dict[str, Any], recipe: MaskRCNNRecipe) -> None:
    train["rpn"]["sampler"]["num"] = recipe.proposal_samples
    train["rcnn"]["sampler"]["num"] = recipe.region_samples
    train["rpn_proposal"] |= {"nms_pre": recipe.proposals_kept, "max_per_img": recipe.proposals}
    test["rpn"] |= {"nms_pre": max(1, recipe.proposals_kept // 2), "max_per_img": recipe.proposals}
    test["rcnn"] |= {
        "score_thr": recipe.score_threshold, "max_per_img": recipe.detections,
        "nms": {"type": "nms", "iou_threshold": recipe.suppression_iou},
    }  # fmt: skip


def _dataset(job: FineTuningJob, split: DetectionSplit, name: str) -> dict[str, Any]:
    recipe: DetectionRecipe = job.recipe
    masks = job.head == "mask_rcnn"
    if masks and not split.masks:
        raise DataError(f"{split.annotations}: {job.task} needs objects with masks, and {job.data.name} has boxes only")
    load = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks}
    # The recipe gives the longest side first, as the library does.
    resize = {"type": "Resize", "scale": tuple(recipe.image_scale), "keep_ratio": True}
    steps: list[dict[str, Any]] = [configs.load_image()]
    if name == "train":
        steps += [load, resize, {"type": "RandomFlip", "prob": recipe.horizontal_flip}, {"type": "PackDetInputs"}]
    else:
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        steps += [resize, {"type": "PackDetInputs", "meta_keys": keys}]
    return {
        "type": "CocoDataset",
        "metainfo": {"classes": tuple(split.classes)},
        "ann_file": str(split.annotations.resolve()),
        "data_prefix": {"img": f"{split.images.resolve()}/"},
        "test_mode": name != "train",
        "filter_cfg": {"filter_empty_gt": True, "min_size": recipe.smallest_image} if name == "train" else None,
        "pipeline": steps,
    }
