"""Recipes of fine-tuning: everything about a detection or segmentation training that changes its numbers.

Two traps of the released code are switches (paper/protocol.md, sections 2 and 12); `published` is what it does:

- `normalization`: the released configurations feed pixels with ImageNet's statistics to backbones that were pretrained
  with 0.5 and 0.5; `corrected` feeds what the pretraining recipe fed.
- `layer_norm`: the released backbones normalise with eps 1e-5; `corrected` takes the 1e-6 of the pretrained network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from lska.provenance.errors import InputError
from lska.provenance.strict import AtLeastOne, AtLeastZero, NotNegative, Positive, Share, checked
from lska.settings.recipes import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    BelowOne,
    Deviation,
    Interval,
    MicroBatch,
    PositiveShare,
    Side,
    Switches,
    Triple,
    read_recipe,
)

Detector = Literal["retinanet", "mask_rcnn"]
Segmentor = Literal["semantic_fpn"]
DETECTORS: tuple[str, ...] = get_args(Detector)
SEGMENTORS: tuple[str, ...] = get_args(Segmentor)

SWITCHES: Switches = {
    "normalization": {
        "published": {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION},
        "corrected": {"mean": None, "deviation": None},
    },
    "layer_norm": {
        "published": {"layer_norm_eps": 1.0e-5},
        "corrected": {"layer_norm_eps": 1.0e-6},
    },
}


def _deviation_problem(deviation: Triple | None, mean: Triple | None) -> str | None:
    return "mean and deviation must both be set, or both be null" if (mean is None) != (deviation is None) else None


def _milestones_problem(milestones: tuple[int, ...], epochs: int) -> str | None:
    if list(milestones) == sorted(set(milestones)) and all(one < epochs for one in milestones):
        return None
    return f"expected increasing epochs below {epochs}, found {list(milestones)}"


def _scale_problem(scale: tuple[int, int]) -> str | None:
    return None if scale[1] <= scale[0] else f"expected [longest, shortest side], found {list(scale)}"


ImageScale = Annotated[tuple[Side, Side], checked(_scale_problem)]


@dataclass(frozen=True)
class FineTuningRecipe:
    """What both kinds share. Sizes are in pixels; an update takes `global_batch` images, `micro_batch` at once."""

    learning_rate: Positive
    """AdamW's rate, reached after the warm-up where there is one."""
    betas: tuple[BelowOne, BelowOne]
    weight_decay: NotNegative
    """Applied to every parameter, as published."""
    clip_gradient: Positive | None
    """Largest global gradient norm; None for none."""
    global_batch: AtLeastOne
    micro_batch: MicroBatch
    drop_path: BelowOne
    mean: Triple | None
    """Per channel (RGB, 0 to 1), subtracted from the pixels; None for the statistics of the pretraining recipe."""
    deviation: Annotated[Deviation | None, checked(_deviation_problem, "mean")]
    layer_norm_eps: Positive
    """Of the LayerNorm that ends each stage of the backbone."""
    horizontal_flip: Share
    fpn_channels: AtLeastOne
    precision: Literal["fp32", "bf16"]
    channels_last: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they enter the digest."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class DetectionRecipe(FineTuningRecipe):
    """RetinaNet with FPN on COCO-style data, and what Mask R-CNN shares with it (paper/protocol.md, section 3)."""

    epochs: AtLeastOne
    milestones: Annotated[tuple[int, ...], checked(_milestones_problem, "epochs")]
    """Epochs after which the rate falls to a tenth."""
    warmup_updates: AtLeastZero
    warmup_factor: PositiveShare
    """Share of the rate at which the linear warm-up starts."""
    image_scale: ImageScale
    """Longest side and shortest side that an image is scaled to, keeping its ratio."""
    smallest_image: AtLeastZero
    """Training images with a shorter side below this, and those without objects, are left out (mmdet's filter)."""
    head_channels: AtLeastOne
    """Of the convolutions in RetinaNet's head, or in the region proposals' and the mask head."""
    head_convs: AtLeastOne
    """Convolutions in each branch of RetinaNet's head, or in the mask head."""
    score_threshold: Share
    suppression_iou: Share
    detections: AtLeastOne
    """Most detections per image."""


@dataclass(frozen=True)
class MaskRCNNRecipe(DetectionRecipe):
    """Mask R-CNN with FPN: detection with proposals of regions."""

    fc_channels: AtLeastOne
    """Width of the two fully connected layers of the box head."""
    proposals_kept: AtLeastOne
    """Proposals per pyramid level before suppression, in training; half as many at test time."""
    proposals: AtLeastOne
    """Proposals per image after suppression."""
    proposal_samples: AtLeastOne
    """Anchors sampled per image for the loss of the region proposals."""
    region_samples: AtLeastOne
    """Regions sampled per image for the loss of the box and mask heads."""


@dataclass(frozen=True)
class SegmentationRecipe(FineTuningRecipe):
    """Semantic FPN on ADE20K-style data (paper/protocol.md, section 4)."""

    updates: AtLeastOne
    power: Positive
    """Of the polynomial decay of the rate."""
    minimum_learning_rate: NotNegative
    image_scale: ImageScale
    """Longest side and shortest side that an image is scaled to, keeping its ratio."""
    scale_range: Annotated[tuple[Positive, Positive], Interval]
    """Random factor on `image_scale` in training."""
    crop: Side
    """Side of the square training crop."""
    largest_class: Share
    """A crop in which one class fills more than this share is drawn again, up to ten times."""
    photometric: bool
    """Random brightness, contrast, saturation and hue (mmseg's distortion)."""
    head_channels: AtLeastOne
    dropout: Share


def load_dense_recipe(
    head: str, path: Path, overrides: Mapping[str, Any] | None = None
) -> DetectionRecipe | SegmentationRecipe:
    """Read the recipe of a detector or segmentor, apply `overrides` and resolve its switches.

    Raises:
        ValueError: unknown head, or the file is wrong: it and every unknown key, wrong type and unknown switch are
            named.
    """
    kinds = {"retinanet": DetectionRecipe, "mask_rcnn": MaskRCNNRecipe, "semantic_fpn": SegmentationRecipe}
    if head not in kinds:
        raise InputError(f"{head!r} is no detector or segmentor; expected one of {', '.join(kinds)}")
    return read_recipe(kinds[head], path, overrides, SWITCHES)
