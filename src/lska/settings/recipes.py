"""Recipes: everything about a training that changes its numbers, resolved before it starts.

What the released code, its README and the text leave open or contradict is a switch with named choices
(paper/protocol.md, sections 2 and 12); `published` is what the released code does. A choice sets the fields on its
right; a recipe may set those fields itself instead of naming the switch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from lska.provenance.errors import InputError
from lska.provenance.files import read_yaml
from lska.provenance.strict import AtLeastOne, AtLeastZero, NotNegative, Positive, Share, build, checked, merge

Detector = Literal["retinanet", "mask_rcnn"]
Segmentor = Literal["semantic_fpn"]
DETECTORS: tuple[str, ...] = get_args(Detector)
SEGMENTORS: tuple[str, ...] = get_args(Segmentor)

Triple = tuple[float, float, float]
HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Triple = (0.229, 0.224, 0.225)

LARGEST_SIDE = 16_384
"""Pixels of the side of an image beyond which a setting is taken for a slip: no memory holds its feature maps."""

Switches = Mapping[str, Mapping[str, Mapping[str, Any]]]

SWITCHES: Switches = {
    "batch": {
        "published": {"global_batch": 512, "micro_batch": 128},  # released README: 4 GPUs x 128
        "published_script": {"global_batch": 128, "micro_batch": 64},  # released script: 2 GPUs x 64
        "corrected": {"global_batch": 1024, "micro_batch": 128},  # VAN: 8 GPUs x 128
    },
    "averaging": {
        "published": {"ema_decay": None},  # no flag in the published commands
        "corrected": {"ema_decay": 0.9999},  # the VAN paper says that averaging was used; timm's default decay
    },
    "normalization": {
        "published": {"mean": HALF, "deviation": HALF},  # timm 0.4.12's vision-transformer defaults
        "corrected": {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION},  # what the downstream code feeds
    },
}
"""Of classification."""

DENSE_SWITCHES: Switches = {
    "normalization": {
        # ImageNet's statistics, though the backbones were pretrained with 0.5 and 0.5.
        "published": {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION},
        "corrected": {"mean": None, "deviation": None},  # what the pretraining recipe fed
    },
    "layer_norm": {
        "published": {"layer_norm_eps": 1.0e-5},
        "corrected": {"layer_norm_eps": 1.0e-6},  # as the pretrained network has it
    },
}
"""Of detection and segmentation."""


def _divides(micro_batch: int, global_batch: int) -> str | None:
    return f"{micro_batch} must divide global_batch {global_batch}" if global_batch % micro_batch else None


def _increases(pair: tuple[float, float]) -> str | None:
    return f"expected the smaller number first, found {list(pair)}" if pair[0] > pair[1] else None


def _ends_in_time(warmup: int, epochs: int) -> str | None:
    return f"expected less than epochs {epochs}, found {warmup}" if warmup >= epochs else None


def _pairs(probability: float, micro_batch: int, mixup: float, cutmix: float) -> str | None:
    if probability > 0 and (mixup > 0 or cutmix > 0) and micro_batch % 2:
        return f"images are mixed in pairs, so micro_batch must be even, found {micro_batch}"
    return None


def _has_mean(deviation: Triple | None, mean: Triple | None) -> str | None:
    return "mean and deviation must both be set, or both be null" if (mean is None) != (deviation is None) else None


def _follow(milestones: tuple[int, ...], epochs: int) -> str | None:
    if list(milestones) == sorted(set(milestones)) and all(one < epochs for one in milestones):
        return None
    return f"expected increasing epochs below {epochs}, found {list(milestones)}"


def _falls(scale: tuple[int, int]) -> str | None:
    return None if scale[1] <= scale[0] else f"expected [longest, shortest side], found {list(scale)}"


BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Deviation = tuple[Positive, Positive, Positive]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
ImageScale = Annotated[tuple[Side, Side], checked(_falls)]
MicroBatch = Annotated[AtLeastOne, checked(_divides, "global_batch")]
Interval = checked(_increases)


@dataclass(frozen=True)
class Recipe:
    """A classification training (paper, Section IV; paper/protocol.md, section 2).

    Rates are per update, sizes in pixels, durations in epochs. An update takes `global_batch` images; `micro_batch` of
    them pass through the network at once. So neither the learning rate nor the batch statistics depend on the hardware.
    """

    epochs: AtLeastOne
    """Length of the cosine schedule, warm-up included."""
    cooldown_epochs: AtLeastZero
    """Epochs at the minimum rate after the schedule."""
    warmup_epochs: Annotated[AtLeastZero, checked(_ends_in_time, "epochs")]
    learning_rate: Positive
    """The highest one, after the warm-up."""
    warmup_learning_rate: NotNegative
    """At the start of the warm-up."""
    minimum_learning_rate: NotNegative
    """At the end of the schedule."""
    schedule_unit: Literal["epoch", "update"]
    """When the rate changes. The released code changes it per epoch."""
    optimizer: str
    """A name of timm's optimizer factory."""
    weight_decay: NotNegative
    """Not applied to biases and one-dimensional weights (timm's rule)."""
    clip_gradient: Positive | None
    """Largest norm of all gradients; null for no limit."""
    global_batch: AtLeastOne
    """Images per update."""
    micro_batch: MicroBatch
    """Images that pass through the network at once."""
    ema_decay: Share | None
    """Decay per update of the exponential moving average of the weights, which is then exported and evaluated. null: no
    average; the last weights are exported."""
    drop_path: BelowOne
    """Drop probability of the last block's path; smaller in earlier blocks."""
    label_smoothing: Share
    mixup: NotNegative
    """Alpha of mixup; 0 for none."""
    cutmix: NotNegative
    """Alpha of CutMix; 0 for none."""
    mixup_probability: Annotated[Share, checked(_pairs, "micro_batch", "mixup", "cutmix")]
    """How often a batch is mixed."""
    mixup_switch_probability: Share
    """How often CutMix is chosen if both are on."""
    image_size: Side
    """Side of the input."""
    crop_scale: Annotated[tuple[PositiveShare, PositiveShare], Interval]
    """Smallest and largest area of the random crop, as a share of the image."""
    crop_ratio: Annotated[tuple[Positive, Positive], Interval]
    """Smallest and largest width / height of the random crop."""
    horizontal_flip: Share
    """Probability of a flip."""
    rand_augment: str | None
    """timm's RandAugment string. null: none; `color_jitter` applies instead."""
    color_jitter: NotNegative
    """Strength of the random brightness, contrast and saturation."""
    erase_probability: Share
    """Probability of random erasing."""
    erase_mode: Literal["const", "rand", "pixel"]
    train_interpolation: Literal["random", "bilinear", "bicubic", "nearest"]
    test_crop: PositiveShare
    """Share of the resized image that the centre crop keeps. 0.9: resized to 248, cropped to 224."""
    test_interpolation: Literal["bilinear", "bicubic", "nearest"]
    mean: Triple
    """Per channel (RGB, 0 to 1), subtracted from the pixels."""
    deviation: Deviation
    """Per channel; the pixels are divided by it."""
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    """Memory format."""
    compile: bool
    """Whether torch.compile is used."""
    validation_interval: AtLeastZero
    """Epochs between measurements of top-1 during training, for the log only; 0 for none."""
    augmentation_repeats: AtLeastOne = 1
    """How often an epoch shows an image, each time augmented differently. With n, an epoch shows one in n images."""

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed (mixup or cutmix)."""
        return self.mixup_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    @property
    def total_epochs(self) -> int:
        """Schedule and cool-down together."""
        return self.epochs + self.cooldown_epochs

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they enter the digest; what came later than others is left out where it changes nothing."""
        values = dataclasses.asdict(self)
        if self.augmentation_repeats == 1:
            del values["augmentation_repeats"]
        return values


@dataclass(frozen=True)
class FineTuningRecipe:
    """What recipes of detection and segmentation share. Sizes are in pixels. An update takes `global_batch` images;
    `micro_batch` of them pass through the network at once."""

    learning_rate: Positive
    """AdamW's rate after the warm-up, if there is one."""
    betas: tuple[BelowOne, BelowOne]
    weight_decay: NotNegative
    """Applied to every parameter, as published."""
    clip_gradient: Positive | None
    """Largest norm of all gradients; null for no limit."""
    global_batch: AtLeastOne
    """Images per update."""
    micro_batch: MicroBatch
    """Images that pass through the network at once."""
    drop_path: BelowOne
    """Drop probability of the last block's path; smaller in earlier blocks."""
    mean: Triple | None
    """Per channel (RGB, 0 to 1), subtracted from the pixels. null: the statistics of the pretraining recipe."""
    deviation: Annotated[Deviation | None, checked(_has_mean, "mean")]
    """Per channel; the pixels are divided by it."""
    layer_norm_eps: Positive
    """eps of the LayerNorm at the end of each backbone stage."""
    horizontal_flip: Share
    fpn_channels: AtLeastOne
    precision: Literal["fp32", "bf16"]
    channels_last: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they enter the digest."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class DetectionRecipe(FineTuningRecipe):
    """RetinaNet with FPN; Mask R-CNN adds to it (paper/protocol.md, section 3)."""

    epochs: AtLeastOne
    milestones: Annotated[tuple[int, ...], checked(_follow, "epochs")]
    """Epochs after which the rate falls to a tenth."""
    warmup_updates: AtLeastZero
    warmup_factor: PositiveShare
    """The linear warm-up starts at this share of the rate."""
    image_scale: ImageScale
    """Longest and shortest side of a scaled image; its ratio is kept."""
    smallest_image: AtLeastZero
    """Training images with a shorter side below this are left out, and those without objects (mmdet's filter)."""
    head_channels: AtLeastOne
    """Channels of RetinaNet's head, or of the region proposal and mask heads."""
    head_convs: AtLeastOne
    """Convolutions in each branch of RetinaNet's head, or in the mask head."""
    score_threshold: Share
    """Detections below this score are dropped."""
    suppression_iou: Share
    """Of two detections with a larger IoU, the one with the lower score is dropped."""
    detections: AtLeastOne
    """Most detections per image."""


@dataclass(frozen=True)
class MaskRCNNRecipe(DetectionRecipe):
    """Mask R-CNN with FPN."""

    fc_channels: AtLeastOne
    """Width of the two fully connected layers of the box head."""
    proposals_kept: AtLeastOne
    """Proposals per pyramid level before suppression in training; half as many at test time."""
    proposals: AtLeastOne
    """Proposals per image after suppression."""
    proposal_samples: AtLeastOne
    """Anchors per image in the loss of the region proposals."""
    region_samples: AtLeastOne
    """Regions per image in the loss of the box and mask heads."""


@dataclass(frozen=True)
class SegmentationRecipe(FineTuningRecipe):
    """Semantic FPN (paper/protocol.md, section 4)."""

    updates: AtLeastOne
    power: Positive
    """Power of the polynomial decay of the rate."""
    minimum_learning_rate: NotNegative
    image_scale: ImageScale
    """Longest and shortest side of a scaled image; its ratio is kept."""
    scale_range: Annotated[tuple[Positive, Positive], Interval]
    """Range of the random factor on `image_scale` in training."""
    crop: Side
    """Side of the square training crop."""
    largest_class: Share
    """A crop in which one class fills more than this share is drawn again, up to ten times."""
    photometric: bool
    """Random brightness, contrast, saturation and hue (mmseg's distortion)."""
    head_channels: AtLeastOne
    dropout: Share


RECIPES: dict[str | None, type[Recipe | FineTuningRecipe]] = {
    None: Recipe, "retinanet": DetectionRecipe, "mask_rcnn": MaskRCNNRecipe, "semantic_fpn": SegmentationRecipe,
}  # fmt: skip
"""The kind of recipe by head; None for classification."""


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None, head: str | None = None) -> Any:
    """Read the recipe of a classification, or of a detector or segmentor; apply `overrides` and resolve its switches.

    Raises:
        ValueError: unknown head, or the file is wrong: names it and every unknown key, wrong value, unknown switch, and
            every field that both a switch and the recipe set.
    """
    if head not in RECIPES:
        raise InputError(f"{head!r} is no detector or segmentor; expected one of {', '.join(filter(None, RECIPES))}")
    known = SWITCHES if head is None else DENSE_SWITCHES
    values, problems = _resolved(merge(read_yaml(path), overrides or {}), known)
    return build(RECIPES[head], values, str(path), problems)


def _resolved(values: dict[str, Any], known: Switches) -> tuple[dict[str, Any], list[str]]:
    """Replace `switches: {name: choice}` by the fields that the choices set; also says what is wrong with them."""
    switches, problems = values.pop("switches", {}), []
    if not isinstance(switches, dict):
        return values, [f"switches: expected a mapping, found {type(switches).__name__} {switches!r}"]
    for name, choice in switches.items():
        choices = known.get(name, {})
        if choice in list(choices):
            doubled = [field for field in choices[choice] if field in values]
            problems += [f"{field} is set both directly and by switch {name}; remove one" for field in doubled]
            values = {**choices[choice], **values}
        else:
            names = f"choices of {name}: {', '.join(choices)}" if choices else f"switches: {', '.join(known)}"
            problems.append(f"unknown switch {name}: {choice}; {names}")
            # What a right choice would have set is not missing too.
            values = {**next(iter(choices.values()), {}), **values}
    return values, problems
