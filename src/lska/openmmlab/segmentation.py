"""Semantic FPN on ADE20K-style data, as mmengine configurations (paper/protocol.md, section 4).

What is not set here is the library's base file: losses, the head's design, the data pipeline's steps.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lska.finetuning import FineTuningJob
from lska.openmmlab import configs
from lska.openmmlab.recipe import SegmentationRecipe
from lska.openmmlab.setup import base_config

if TYPE_CHECKING:
    from lska.data.dense_sets import SegmentationSplit

PAPER_CLASSES = 150
SIZES = ((512, 512), (2048, 1024))
"""Width and height in pixels at which FLOPs are counted (paper/protocol.md, section 4)."""


def parts(job: FineTuningJob, splits: dict[str, SegmentationSplit]) -> dict[str, Any]:
    """Model, data and schedule of a segmentor."""
    recipe: SegmentationRecipe = job.recipe
    loaders = {}
    if "train" in splits:
        steps = [configs.load_image(), _labels(splits["train"]), *_augment(recipe), {"type": "PackSegInputs"}]
        loaders["train_dataloader"] = configs.train_loader(
            job, _dataset(splits["train"], steps, False), updates=recipe.updates
        )
        loaders["param_scheduler"] = schedule(recipe)
    if "val" in splits:
        # Labels are loaded after resizing: they are scored at their own size.
        resize = {"type": "Resize", "scale": tuple(recipe.image_scale), "keep_ratio": True}
        steps = [configs.load_image(), resize, _labels(splits["val"]), {"type": "PackSegInputs"}]
        # One image at a time: mmseg stacks only images of equal size.
        loader = configs.test_loader(job, _dataset(splits["val"], steps, True))
        loaders["test_dataloader"] = {**loader, "batch_size": 1}
    classes = next(iter(splits.values())).classes
    return {"model": model(job, len(classes)), **loaders}


def schedule(recipe: SegmentationRecipe) -> list[dict[str, Any]]:
    """Polynomial decay that ends with the training: the rate after the last update is the minimum."""
    # mmengine reaches the minimum one update before `end`.
    return [
        {
            "type": "PolyLR", "power": recipe.power, "eta_min": recipe.minimum_learning_rate, "begin": 0,
            "end": recipe.updates + 1, "by_epoch": False,
        }
    ]  # fmt: skip


def model(job: FineTuningJob, classes: int) -> dict[str, Any]:
    """The segmentor's configuration."""
    recipe: SegmentationRecipe = job.recipe
    network = copy.deepcopy(base_config("segmentation", "models/fpn_r50")["model"])
    network.pop("pretrained")
    network["data_preprocessor"] |= {**configs.pixels(job), "size": (recipe.crop, recipe.crop)}
    network["backbone"] = {**configs.backbone(job), "synchronize": job.settings.gpus > 1}
    network["neck"] |= {"in_channels": list(configs.stage_widths(job)), "out_channels": recipe.fpn_channels}
    network["decode_head"] |= {
        "in_channels": [recipe.fpn_channels] * 4, "feature_strides": list(configs.stage_strides(job)),
        "channels": recipe.head_channels, "dropout_ratio": recipe.dropout, "num_classes": classes,
        # The library's synchronised normalisation needs GPUs.
        "norm_cfg": {"type": "SyncBN" if job.settings.gpus > 1 else "BN", "requires_grad": True},
    }  # fmt: skip
    return network


def _labels(split: SegmentationSplit) -> dict[str, Any]:
    return {
        "type": "mmengine.LoadLabelMap", "classes": len(split.classes),
        "zero_is_unlabelled": split.zero_is_unlabelled, "ignore": tuple(split.ignore),
    }  # fmt: skip


def _augment(recipe: SegmentationRecipe) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {
            "type": "RandomResize", "scale": tuple(recipe.image_scale), "ratio_range": tuple(recipe.scale_range),
            "keep_ratio": True,
        },
        {"type": "RandomCrop", "crop_size": (recipe.crop, recipe.crop), "cat_max_ratio": recipe.largest_class},
        {"type": "RandomFlip", "prob": recipe.horizontal_flip},
    ]  # fmt: skip
    return [*steps, {"type": "PhotoMetricDistortion"}] if recipe.photometric else steps


def _dataset(split: SegmentationSplit, steps: list[dict[str, Any]], test: bool) -> dict[str, Any]:
    return {
        "type": "BaseSegDataset",
        "metainfo": {"classes": tuple(split.classes)},
        "data_prefix": {"img_path": str(split.images.resolve()), "seg_map_path": str(split.labels.resolve())},
        "img_suffix": split.image_suffix,
        "seg_map_suffix": split.label_suffix,
        "reduce_zero_label": split.zero_is_unlabelled,
        "test_mode": test,
        "pipeline": steps,
    }
