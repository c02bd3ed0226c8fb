"""Recipes: everything about a training that changes its numbers, resolved before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from lska.provenance.files import read_yaml
from lska.provenance.strict import (
    AtLeastOne,
    AtLeastZero,
    NotNegative,
    Positive,
    Share,
    build,
    checked,
    merge,
)

T = TypeVar("T")

Triple = tuple[float, float, float]
Deviation = tuple[Positive, Positive, Positive]
HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Triple = (0.229, 0.224, 0.225)

LARGEST_SIDE = 16_384
"""Pixels of the side of an image beyond which a setting is taken for a slip: no memory holds its feature maps."""

Switches = Mapping[str, Mapping[str, Mapping[str, Any]]]

# What the released code, its README and the text leave open or contradict (paper/protocol.md, section 2). The value
# chosen sets the fields on its right; a recipe may set those fields itself instead of naming the switch.
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


def micro_batch_problem(micro_batch: int, global_batch: int) -> str | None:
    """Why an update cannot be made of micro-batches of this size; None where it can."""
    return f"{micro_batch} must divide global_batch {global_batch}" if global_batch % micro_batch else None


def increasing_problem(pair: tuple[float, float]) -> str | None:
    """Why `pair` is no range; None where it is."""
    return f"expected the smaller number first, found {list(pair)}" if pair[0] > pair[1] else None


def _warmup_problem(warmup: int, epochs: int) -> str | None:
    return f"expected less than epochs {epochs}, found {warmup}" if warmup >= epochs else None


def _mixing_problem(probability: float, micro_batch: int, mixup: float, cutmix: float) -> str | None:
    if probability > 0 and (mixup > 0 or cutmix > 0) and micro_batch % 2:
        return f"images are mixed in pairs, so micro_batch must be even, found {micro_batch}"
    return None


BelowOne = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
MicroBatch = Annotated[AtLeastOne, checked(micro_batch_problem, "global_batch")]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Interval = checked(increasing_problem)


@dataclass(frozen=True)
class Recipe:
    """A resolved classification training (paper, Section IV; paper/protocol.md, section 2).

    Rates are per update, sizes in pixels, durations in epochs. `micro_batch` images pass through the network at once
    on one device; `global_batch` of them make one update, whatever the number of processes, so that neither the
    learning rate nor the batch statistics depend on the hardware.
    """

    epochs: AtLeastOne
    """Length of the cosine schedule, warm-up included."""
    cooldown_epochs: AtLeastZero
    """Epochs at the minimum rate after the schedule."""
    warmup_epochs: Annotated[AtLeastZero, checked(_warmup_problem, "epochs")]
    learning_rate: Positive
    warmup_learning_rate: NotNegative
    minimum_learning_rate: NotNegative
    schedule_unit: Literal["epoch", "update"]
    """When the rate changes; the released code changes it per epoch."""
    optimizer: str
    """A name that timm's optimizer factory knows."""
    weight_decay: NotNegative
    """Not applied to biases and one-dimensional weights (timm's rule)."""
    clip_gradient: Positive | None
    """Largest global gradient norm; None for none."""
    global_batch: AtLeastOne
    micro_batch: MicroBatch
    ema_decay: Share | None
    """Decay per update of the weight average that is exported and evaluated; None exports the last weights."""
    drop_path: BelowOne
    """Largest share of dropped paths; at 1 the last block would always be dropped."""
    label_smoothing: Share
    mixup: NotNegative
    cutmix: NotNegative
    mixup_probability: Annotated[Share, checked(_mixing_problem, "micro_batch", "mixup", "cutmix")]
    mixup_switch_probability: Share
    image_size: Side
    crop_scale: Annotated[tuple[PositiveShare, PositiveShare], Interval]
    crop_ratio: Annotated[tuple[Positive, Positive], Interval]
    horizontal_flip: Share
    rand_augment: str | None
    """timm's RandAugment string; None for none, then `color_jitter` applies."""
    color_jitter: NotNegative
    erase_probability: Share
    erase_mode: Literal["const", "rand", "pixel"]
    train_interpolation: Literal["random", "bilinear", "bicubic", "nearest"]
    test_crop: PositiveShare
    """Share of the resized image that the centre crop keeps: 0.9 resizes to 248 and crops 224."""
    test_interpolation: Literal["bilinear", "bicubic", "nearest"]
    mean: Triple
    deviation: Deviation
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    compile: bool
    """Whether torch.compile prepares the network."""
    validation_interval: AtLeastZero
    """Epochs between top-1 measurements during training, for the log only; 0 for none."""
    augmentation_repeats: AtLeastOne = 1
    """How often an epoch shows an image, each time changed otherwise; of all images it shows one in so many."""

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


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file, apply `overrides` and resolve its switches.

    Raises:
        ValueError: names the file and every unknown key, wrong type, unknown switch, and every field that both a
            switch and the recipe set.
    """
    return read_recipe(Recipe, path, overrides, SWITCHES)


def read_recipe(cls: type[T], path: Path, overrides: Mapping[str, Any] | None, known_switches: Switches) -> T:
    """As `load_recipe`, for a recipe of any class."""
    values, problems = resolve_switches(merge(read_yaml(path), overrides or {}), known_switches)
    return build(cls, values, str(path), problems)


def resolve_switches(values: Mapping[str, Any], known_switches: Switches) -> tuple[dict[str, Any], list[str]]:
    """Replace `switches: {name: choice}` by the fields that the choices set; also says what is wrong with them.

    Wrong are an unknown switch or choice, and a field that is also set directly. `known_switches` holds the choices of
    each switch and the fields that each choice sets.
    """
    values = dict(values)
    switches = values.pop("switches", {})
    if not isinstance(switches, dict):
        return values, [f"switches: expected a mapping, found {type(switches).__name__} {switches!r}"]
    problems = []
    for name, choice in switches.items():
        choices = known_switches.get(name, {})
        if choice not in list(choices):
            known = f"choices of {name}: {', '.join(choices)}" if choices else f"switches: {', '.join(known_switches)}"
            problems.append(f"unknown switch {name}: {choice}; {known}")
            # What a right choice would have set is not missing too.
            values = {**next(iter(choices.values()), {}), **values}
            continue
        doubled = [field for field in choices[choice] if field in values]
        problems += [f"{field} is set both directly and by switch {name}; remove one" for field in doubled]
        values = {**choices[choice], **values}
    return values, problems
