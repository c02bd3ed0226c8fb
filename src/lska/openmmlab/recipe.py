"""Recipes of fine-tuning: everything about a detection or segmentation training that changes its numbers.

Two traps of the released code are switches (paper/protocol.md, sections 2 and 12); `published` is what it does:

- `normalization`: the released configurations feed pixels with ImageNet's statistics to backbones that were pretrained
  with 0.5 and 0.5; `corrected` feeds what the pretraining recipe fed.
- `layer_norm`: the released backbones normalise with eps 1e-5; `corrected` takes the 1e-6 of the pretrained network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lska.files import read_yaml
from lska.strict import build, merge
from lska.train.recipe import IMAGENET_DEVIATION, IMAGENET_MEAN, LARGEST_SIDE, Triple, resolve_switches

DETECTORS = ("retinanet", "mask_rcnn")
SEGMENTORS = ("semantic_fpn",)

SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
    "normalization": {
        "published": {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION},
        "corrected": {"mean": None, "deviation": None},
    },
    "layer_norm": {
        "published": {"layer_norm_eps": 1.0e-5},
        "corrected": {"layer_norm_eps": 1.0e-6},
    },
}


@dataclass(frozen=True)
class FineTuningRecipe:
    """What both kinds share. Sizes are in pixels; an update takes `global_batch` images, `micro_batch` at once."""

    learning_rate: float
    """AdamW's rate, reached after the warm-up where there is one."""
    betas: tuple[float, float]
    weight_decay: float
    """Applied to every parameter, as published."""
    clip_gradient: float | None
    """Largest global gradient norm; None for none."""
    global_batch: int
    micro_batch: int
    drop_path: float
    mean: Triple | None
    """Per channel (RGB, 0 to 1), subtracted from the pixels; None for the statistics of the pretraining recipe."""
    deviation: Triple | None
    layer_norm_eps: float
    """Of the LayerNorm that ends each stage of the backbone."""
    horizontal_flip: float
    fpn_channels: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ValueError("; ".join(problems))

    def problems(self) -> Iterator[str]:
        """What is impossible about the values, one phrase each."""
        yield from _not_positive(
            self, "learning_rate", "clip_gradient", "global_batch", "micro_batch", "layer_norm_eps", "fpn_channels"
        )
        yield from _no_share(self, "horizontal_flip")
        if not 0 <= self.drop_path < 1:
            yield f"drop_path must be in [0, 1), found {self.drop_path}"
        if self.deviation is not None and min(self.deviation) <= 0:
            yield f"deviation must be positive, found {list(self.deviation)}"
        if not all(0 <= beta < 1 for beta in self.betas):
            yield f"betas must be in [0, 1), found {list(self.betas)}"
        if self.weight_decay < 0:
            yield f"weight_decay must not be negative, found {self.weight_decay}"
        if (self.mean is None) != (self.deviation is None):
            yield "mean and deviation must both be set, or both be null"
        if self.micro_batch > 0 and self.global_batch % self.micro_batch:
            yield f"global_batch {self.global_batch} must be a multiple of micro_batch {self.micro_batch}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they enter the digest."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class DetectionRecipe(FineTuningRecipe):
    """RetinaNet with FPN on COCO-style data, and what Mask R-CNN shares with it (paper/protocol.md, section 3)."""

    epochs: int
    milestones: tuple[int, ...]
    """Epochs after which the rate falls to a tenth."""
    warmup_updates: int
    warmup_factor: float
    """Share of the rate at which the linear warm-up starts."""
    image_scale: tuple[int, int]
    """Longest side and shortest side that an image is scaled to, keeping its ratio."""
    smallest_image: int
    """Training images with a shorter side below this, and those without objects, are left out (mmdet's filter)."""
    head_channels: int
    """Of the convolutions in RetinaNet's head, or in the region proposals' and the mask head."""
    head_convs: int
    """Convolutions in each branch of RetinaNet's head, or in the mask head."""
    score_threshold: float
    suppression_iou: float
    detections: int
    """Most detections per image."""

    def problems(self) -> Iterator[str]:
        """As the base class, and what is impossible about detection."""
        yield from super().problems()
        yield from _not_positive(self, "epochs", "warmup_factor", "head_channels", "head_convs", "detections")
        yield from _no_share(self, "warmup_factor", "score_threshold", "suppression_iou")
        if self.warmup_updates < 0 or self.smallest_image < 0:
            yield "warmup_updates and smallest_image must not be negative"
        if list(self.milestones) != sorted(set(self.milestones)) or any(m >= self.epochs for m in self.milestones):
            yield f"milestones must be increasing epochs below {self.epochs}, found {list(self.milestones)}"
        yield from _no_scale(self.image_scale)


@dataclass(frozen=True)
class MaskRCNNRecipe(DetectionRecipe):
    """Mask R-CNN with FPN: detection with proposals of regions."""

    fc_channels: int
    """Width of the two fully connected layers of the box head."""
    proposals_kept: int
    """Proposals per pyramid level before suppression, in training; half as many at test time."""
    proposals: int
    """Proposals per image after suppression."""
    proposal_samples: int
    """Anchors sampled per image for the loss of the region proposals."""
    region_samples: int
    """Regions sampled per image for the loss of the box and mask heads."""

    def problems(self) -> Iterator[str]:
        """As the base class, and what is impossible about regions."""
        yield from super().problems()
        yield from _not_positive(
            self, "fc_channels", "proposals_kept", "proposals", "proposal_samples", "region_samples"
        )


@dataclass(frozen=True)
class SegmentationRecipe(FineTuningRecipe):
    """Semantic FPN on ADE20K-style data (paper/protocol.md, section 4)."""

    updates: int
    power: float
    """Of the polynomial decay of the rate."""
    minimum_learning_rate: float
    image_scale: tuple[int, int]
    """Longest side and shortest side that an image is scaled to, keeping its ratio."""
    scale_range: tuple[float, float]
    """Random factor on `image_scale` in training."""
    crop: int
    """Side of the square training crop."""
    largest_class: float
    """A crop in which one class fills more than this share is drawn again, up to ten times."""
    photometric: bool
    """Random brightness, contrast, saturation and hue (mmseg's distortion)."""
    head_channels: int
    dropout: float

    def problems(self) -> Iterator[str]:
        """As the base class, and what is impossible about segmentation."""
        yield from super().problems()
        yield from _not_positive(self, "updates", "power", "crop", "head_channels")
        yield from _no_share(self, "largest_class", "dropout")
        if self.minimum_learning_rate < 0:
            yield f"minimum_learning_rate must not be negative, found {self.minimum_learning_rate}"
        yield from _no_scale(self.image_scale)
        if self.crop > LARGEST_SIDE:
            yield f"crop must be at most {LARGEST_SIDE} pixels, found {self.crop}"
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            yield f"scale_range must be two increasing positive factors, found {list(self.scale_range)}"


def _not_positive(recipe: Any, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(recipe, name)
        if value is not None and value <= 0:
            yield f"{name} must be positive, found {value}"


def _no_share(recipe: Any, *names: str) -> Iterator[str]:
    for name in names:
        if not 0 <= getattr(recipe, name) <= 1:
            yield f"{name} must be in [0, 1], found {getattr(recipe, name)}"


def _no_scale(scale: tuple[int, int]) -> Iterator[str]:
    if not 0 < scale[1] <= scale[0] <= LARGEST_SIDE:
        expected = f"[longest, shortest side], at most {LARGEST_SIDE} pixels"
        yield f"image_scale must be {expected}, found {list(scale)}"


def load_recipe(
    head: str, path: Path, overrides: Mapping[str, Any] | None = None
) -> DetectionRecipe | SegmentationRecipe:
    """Read the recipe of a detector or segmentor, apply `overrides` and resolve its switches.

    Raises:
        ValueError: unknown head, or the file is wrong: it and every unknown key, wrong type and unknown switch are
            named.
    """
    kinds = {"retinanet": DetectionRecipe, "mask_rcnn": MaskRCNNRecipe, "semantic_fpn": SegmentationRecipe}
    if head not in kinds:
        raise ValueError(f"{head!r} is no detector or segmentor; expected one of {', '.join(kinds)}")
    values, problems = resolve_switches(merge(read_yaml(path), overrides or {}), SWITCHES)
    return build(kinds[head], values, str(path), problems)
