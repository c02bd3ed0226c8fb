"""Recipes of detection and segmentation as configurations of mmengine, mmdet and mmseg (paper/protocol.md, 3 and 4).

A configuration is the library's own base file, as the released ones inherit it, with what the recipe says over it. What
is not set here is the base file's: anchors, assigners, losses, the steps of the data's pipeline.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lska.data import dense_sets
from lska.data.entries import DataError
from lska.models.openmmlab import base_config, stages, use
from lska.settings.recipes import DetectionRecipe, MaskRCNNRecipe, SegmentationRecipe
from lska.settings.tasks import FineTuningJob

if TYPE_CHECKING:
    from mmengine.config import Config

    from lska.data.dense_sets import DetectionSplit, SegmentationSplit

    Splits = dict[str, DetectionSplit] | dict[str, SegmentationSplit]

PAPER_CLASSES = {"detection": 80, "segmentation": 150}
PAPER_SIZES = {"detection": ((1280, 800),), "segmentation": ((512, 512), (2048, 1024))}
"""Width and height in pixels at which FLOPs are counted (paper/protocol.md, section 4)."""


def configuration(job: FineTuningJob, splits: Splits, world: int | None = None) -> Config:
    """The complete configuration of a fine-tuning: model, data sets, optimizer and schedule, for mmengine's registries.

    Args:
        splits: the opened data by split, `train` and `val`.
        world: processes that train; as many as GPUs are configured where None.

    Raises:
        DataError: masks are needed and the data set has none.
    """
    from mmengine.config import Config

    scope = use(job.kind)
    from lska.train import dense_loading  # noqa: F401 - registers what reads images and labels

    recipe, processes = job.recipe, max(1, job.settings.gpus) if world is None else world
    made: dict[str, Any] = {f"{name}_dataset": _dataset(job, split, name) for name, split in splits.items()}
    if "train" in splits:
        made["param_scheduler"] = _schedule(recipe, 1)
    # AdamW on every parameter, gradients accumulated so that an update takes `global_batch` images.
    rate, betas, decay = recipe.learning_rate, tuple(recipe.betas), recipe.weight_decay
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": rate, "betas": betas, "weight_decay": decay},
        "clip_grad": None if recipe.clip_gradient is None else {"max_norm": recipe.clip_gradient},
        "accumulative_counts": recipe.global_batch // recipe.micro_batch // processes,
    }
    if recipe.precision == "bf16":
        wrapper |= {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": 1.0}
    network, seed = model(job, len(next(iter(splits.values())).classes)), {"seed": job.run.seed}
    return Config({"default_scope": scope, "model": network, **made, "optim_wrapper": wrapper, "randomness": seed})


def configuration_file(job: FineTuningJob) -> str:
    """The text of a configuration file of the libraries' own, which mmengine's Runner takes in any folder.

    It trains by mmengine's loops what `lska train` trains by ours. Neither data nor weights have to be there.

    Raises:
        ValueError: masks are needed and the data set has none, or its manifest is missing.
    """
    from mmengine.config import Config

    splits: Splits = {}
    for name in ("train", "val"):
        about = (job.kind, job.data, name, job.data.cache)
        try:
            splits[name] = dense_sets.open_dense(*about)
        except DataError:
            splits[name] = dense_sets.expected_dense(*about)
    detection, masks = job.kind == "detection", job.head == "mask_rcnn"
    places = [split.images for split in splits.values()]
    places += [split.annotations if detection else split.labels for split in splits.values()]
    missing = [place.absolute() for place in (*places, job.backbone) if place and not place.exists()]
    made = configuration(job, splits).to_dict()
    steps, recipe, processes = made["optim_wrapper"]["accumulative_counts"], job.recipe, max(1, job.settings.gpus)
    train, val = made.pop("train_dataset"), made.pop("val_dataset")
    loader = {"num_workers": job.settings.workers, "persistent_workers": job.settings.workers > 0}
    if detection:
        shuffled = {
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "batch_sampler": {"type": "AspectRatioBatchSampler"},
        }
        loop = {"by_epoch": True, "max_epochs": recipe.epochs, "val_interval": 1}
        score = {
            "type": "CocoMetric", "ann_file": val["ann_file"], "metric": ["bbox", "segm"] if masks else "bbox",
        }  # fmt: skip
    else:
        shuffled = {"sampler": {"type": "InfiniteSampler", "shuffle": True}}
        updates = recipe.updates * steps
        loop = {"by_epoch": False, "max_iters": updates, "val_interval": max(1, updates // 10)}
        score = {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
        made["log_processor"] = {"by_epoch": False}
        made["default_hooks"] = {
            "logger": {"type": "LoggerHook", "log_metric_by_epoch": False},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": loop["val_interval"]},
        }
        # Without labels, as mmseg.apis.inference_model takes it.
        made["test_pipeline"] = [step for step in val["pipeline"] if "classes" not in step]
    scored = loader | {
        "batch_size": job.evaluation.batch_size if detection else 1, "dataset": val,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }  # fmt: skip
    made |= {
        "custom_imports": {"imports": ["lska.models.openmmlab", "lska.train.dense_loading"]},
        "work_dir": f"work_dirs/{job.task}/{job.run}",
        "train_dataloader": loader | shuffled | {"batch_size": recipe.micro_batch, "dataset": train},
        "train_cfg": loop,
        # mmengine steps its schedules with every micro-batch.
        "param_scheduler": _schedule(recipe, steps),
        "val_dataloader": scored, "val_cfg": {}, "val_evaluator": score,
        "test_dataloader": scored, "test_cfg": {}, "test_evaluator": score,
    }  # fmt: skip
    lines = [
        f"# {job.task} from {job.run} of the scale {job.scale}, printed by `lska mmconfig`; for {job.kind} with "
        f"{made['default_scope']} on {processes} process{'es' * (processes > 1)}, in any folder (docs/use.md).",
        *(f"# NOT THERE when this was printed: {place}" for place in missing),
    ]
    return "\n".join([*lines, Config(made).pretty_text])


def model(job: FineTuningJob, classes: int) -> dict[str, Any]:
    """The network's configuration alone, for `classes` classes; needs no data."""
    build = {"retinanet": _retinanet, "mask_rcnn": _mask_rcnn, "semantic_fpn": _semantic_fpn}[job.head]
    architecture, pixels = job.architecture, job.pixels
    widths, strides = stages(job.run.model, architecture)
    network = build(job, classes, strides)
    # The libraries normalise pixels from 0 to 255.
    for name, values in {"mean": pixels.mean, "std": pixels.deviation}.items():
        network["data_preprocessor"][name] = [255.0 * value for value in values]
    # Network and checkpoint of the backbone are both of the job's run.
    weights = job.backbone and {"type": "Pretrained", "checkpoint": str(job.backbone.absolute())}
    network["backbone"] = {
        "type": "LSKABackbone",
        "model": job.run.model,
        "attention": job.run.attention,
        "kernel_size": job.run.kernel,
        "architecture": architecture,
        "drop_path_rate": job.recipe.drop_path,
        "layer_norm_eps": job.recipe.layer_norm_eps,
        "init_cfg": weights,
    }
    if job.kind == "segmentation":
        network["backbone"]["synchronize"] = job.settings.gpus > 1
    network["neck"] |= {"in_channels": list(widths), "out_channels": job.recipe.fpn_channels}
    return network


def _schedule(recipe: DetectionRecipe | SegmentationRecipe, steps: int) -> list[dict[str, Any]]:
    """Detection: linear warm-up in updates, then a tenth of the rate after each milestone, in epochs. Segmentation:
    polynomial decay that ends with the training: the rate after the last update is the minimum.

    mmengine ends a ramp one update before its `end`. An update counts as `steps`.
    """
    if isinstance(recipe, SegmentationRecipe):
        return [
            {
                "type": "PolyLR", "power": recipe.power, "eta_min": recipe.minimum_learning_rate, "begin": 0,
                "end": recipe.updates * steps + 1, "by_epoch": False,
            }
        ]  # fmt: skip
    decay = {
        "type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": recipe.epochs, "gamma": 0.1,
        "milestones": list(recipe.milestones), "convert_to_iter_based": True,
    }  # fmt: skip
    # Update `warmup_updates` (from 0) is the first at the full rate.
    warmup = {
        "type": "LinearLR", "start_factor": recipe.warmup_factor, "by_epoch": False, "begin": 0,
        "end": recipe.warmup_updates * steps + 1,
    }  # fmt: skip
    return [warmup, decay] if recipe.warmup_updates else [decay]


def _levels(strides: tuple[int, ...], first: int) -> list[int]:
    """Strides of the five pyramid levels, from the backbone's stage `first` (from 0) on."""
    levels = list(strides)[first:]
    while len(levels) < 5:
        levels.append(2 * levels[-1])
    return levels


def _found(recipe: DetectionRecipe) -> dict[str, Any]:
    """What a detector keeps of its detections."""
    return {
        "score_thr": recipe.score_threshold, "max_per_img": recipe.detections,
        "nms": {"type": "nms", "iou_threshold": recipe.suppression_iou},
    }  # fmt: skip


def _retinanet(job: FineTuningJob, classes: int, strides: tuple[int, ...]) -> dict[str, Any]:
    recipe: DetectionRecipe = job.recipe
    network = copy.deepcopy(base_config("detection", "models/retinanet_r50_fpn")["model"])
    network["bbox_head"] |= {
        "num_classes": classes, "in_channels": recipe.fpn_channels, "feat_channels": recipe.head_channels,
        "stacked_convs": recipe.head_convs,
    }  # fmt: skip
    network["bbox_head"]["anchor_generator"]["strides"] = _levels(strides, network["neck"]["start_level"])
    network["test_cfg"] |= _found(recipe)
    return network


def _mask_rcnn(job: FineTuningJob, classes: int, strides: tuple[int, ...]) -> dict[str, Any]:
    recipe: MaskRCNNRecipe = job.recipe
    network = copy.deepcopy(base_config("detection", "models/mask-rcnn_r50_fpn")["model"])
    levels = _levels(strides, 0)
    network["rpn_head"] |= {"in_channels": recipe.fpn_channels, "feat_channels": recipe.head_channels}
    network["rpn_head"]["anchor_generator"]["strides"] = levels
    regions = network["roi_head"]
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        regions[extractor] |= {"out_channels": recipe.fpn_channels, "featmap_strides": levels[:4]}
        # The scale at which a region moves up one level is 56 pixels at stride 4.
        regions[extractor]["finest_scale"] = 14 * levels[0]
        # The same on every machine, whether mmcv was compiled there or not.
        regions[extractor]["roi_layer"]["use_torchvision"] = True
    regions["bbox_head"] |= {
        "in_channels": recipe.fpn_channels, "fc_out_channels": recipe.fc_channels, "num_classes": classes,
    }  # fmt: skip
    regions["mask_head"] |= {
        "in_channels": recipe.fpn_channels, "conv_out_channels": recipe.head_channels,
        "num_convs": recipe.head_convs, "num_classes": classes,
    }  # fmt: skip
    train, test = network["train_cfg"], network["test_cfg"]
    train["rpn"]["sampler"]["num"] = recipe.proposal_samples
    train["rcnn"]["sampler"]["num"] = recipe.region_samples
    train["rpn_proposal"] |= {"nms_pre": recipe.proposals_kept, "max_per_img": recipe.proposals}
    test["rpn"] |= {"nms_pre": max(1, recipe.proposals_kept // 2), "max_per_img": recipe.proposals}
    test["rcnn"] |= _found(recipe)
    return network


def _semantic_fpn(job: FineTuningJob, classes: int, strides: tuple[int, ...]) -> dict[str, Any]:
    recipe: SegmentationRecipe = job.recipe
    network = copy.deepcopy(base_config("segmentation", "models/fpn_r50")["model"])
    network.pop("pretrained")
    network["data_preprocessor"] |= {"size": (recipe.crop, recipe.crop)}
    network["decode_head"] |= {
        "in_channels": [recipe.fpn_channels] * 4, "feature_strides": list(strides), "channels": recipe.head_channels,
        "dropout_ratio": recipe.dropout, "num_classes": classes,
        # The library's synchronised normalisation needs GPUs.
        "norm_cfg": {"type": "SyncBN" if job.settings.gpus > 1 else "BN", "requires_grad": True},
    }  # fmt: skip
    return network


def _dataset(job: FineTuningJob, split: DetectionSplit | SegmentationSplit, name: str) -> dict[str, Any]:
    recipe, train = job.recipe, name == "train"
    # An image is read as it is stored: annotations are made for, and checked against, the pixels before any turn. The
    # recipe gives the longest side first, as the libraries do.
    read = {"type": "mmengine.LoadPicture"}
    resize = {"type": "Resize", "scale": tuple(recipe.image_scale), "keep_ratio": True}
    flip = {"type": "RandomFlip", "prob": recipe.horizontal_flip}
    common = {"metainfo": {"classes": tuple(split.classes)}, "test_mode": not train}
    if job.kind == "detection":
        masks = job.head == "mask_rcnn"
        if masks and not split.masks:
            has = f"{job.data.name} has boxes only"
            raise DataError(f"{split.annotations}: {job.task} needs objects with masks, and {has}")
        load = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks}
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pack = {"type": "PackDetInputs"} if train else {"type": "PackDetInputs", "meta_keys": keys}
        return common | {
            "type": "CocoDataset",
            "ann_file": str(split.annotations.resolve()),
            "data_prefix": {"img": f"{split.images.resolve()}/"},
            "filter_cfg": {"filter_empty_gt": True, "min_size": recipe.smallest_image} if train else None,
            "pipeline": [read, load, resize, flip, pack] if train else [read, resize, pack],
        }
    labels = {
        "type": "mmengine.LoadLabelMap", "classes": len(split.classes),
        "zero_is_unlabelled": split.zero_is_unlabelled, "ignore": tuple(split.ignore),
    }  # fmt: skip
    if train:
        scale = resize | {"type": "RandomResize", "ratio_range": tuple(recipe.scale_range)}
        crop = {"type": "RandomCrop", "crop_size": (recipe.crop, recipe.crop), "cat_max_ratio": recipe.largest_class}
        distort = [{"type": "PhotoMetricDistortion"}] if recipe.photometric else []
        steps = [read, labels, scale, crop, flip, *distort]
    else:
        # Labels are loaded after resizing: they are scored at their own size.
        steps = [read, resize, labels]
    return common | {
        "type": "BaseSegDataset",
        "data_prefix": {"img_path": str(split.images.resolve()), "seg_map_path": str(split.labels.resolve())},
        "img_suffix": split.image_suffix,
        "seg_map_suffix": split.label_suffix,
        "reduce_zero_label": split.zero_is_unlabelled,
        "pipeline": [*steps, {"type": "PackSegInputs"}],
    }
