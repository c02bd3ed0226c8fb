"""Recipes: everything about a training that changes its numbers, resolved before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lska.files import read_yaml
from lska.strict import build, merge

Triple = tuple[float, float, float]
HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Triple = (0.229, 0.224, 0.225)

LARGEST_SIDE = 16_384
"""Pixels of the side of an image beyond which a setting is taken for a slip: no memory holds its feature maps."""

# What the released code, its README and the text leave open or contradict (paper/protocol.md, section 2). The value
# chosen sets the fields on its right; a recipe may set those fields itself instead of naming the switch.
SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
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


@dataclass(frozen=True)
class Recipe:
    """A resolved classification training (paper, Section IV; paper/protocol.md, section 2).

    Rates are per update, sizes in pixels, durations in epochs. `micro_batch` images pass through the network at once
    on one device; `global_batch` of them make one update, whatever the number of processes, so that neither the
    learning rate nor the batch statistics depend on the hardware.
    """

    epochs: int
    """Length of the cosine schedule, warm-up included."""
    cooldown_epochs: int
    """Epochs at the minimum rate after the schedule."""
    warmup_epochs: int
    learning_rate: float
    warmup_learning_rate: float
    minimum_learning_rate: float
    schedule_unit: Literal["epoch", "update"]
    """When the rate changes; the released code changes it per epoch."""
    optimizer: str
    """A name that timm's optimizer factory knows."""
    weight_decay: float
    """Not applied to biases and one-dimensional weights (timm's rule)."""
    clip_gradient: float | None
    """Largest global gradient norm; None for none."""
    global_batch: int
    micro_batch: int
    ema_decay: float | None
    """Decay per update of the weight average that is exported and evaluated; None exports the last weights."""
    drop_path: float
    label_smoothing: float
    mixup: float
    cutmix: float
    mixup_probability: float
    mixup_switch_probability: float
    image_size: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    horizontal_flip: float
    rand_augment: str | None
    """timm's RandAugment string; None for none, then `color_jitter` applies."""
    color_jitter: float
    erase_probability: float
    erase_mode: Literal["const", "rand", "pixel"]
    train_interpolation: Literal["random", "bilinear", "bicubic", "nearest"]
    test_crop: float
    """Share of the resized image that the centre crop keeps: 0.9 resizes to 248 and crops 224."""
    test_interpolation: Literal["bilinear", "bicubic", "nearest"]
    mean: Triple
    deviation: Triple
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    compile: bool
    """Whether torch.compile prepares the network."""
    validation_interval: int
    """Epochs between top-1 measurements during training, for the log only; 0 for none."""
    augmentation_repeats: int = 1
    """How often an epoch shows an image, each time changed otherwise; of all images it shows one in so many."""

    def __post_init__(self) -> None:
        problems = [*_out_of_range(self), *_contradictions(self)]
        if problems:
            raise ValueError("; ".join(problems))

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


def _out_of_range(recipe: Recipe) -> Iterator[str]:
    """Fields whose value is impossible whatever the others are."""
    positive = ("epochs", "learning_rate", "global_batch", "micro_batch", "image_size", "clip_gradient")
    positive += ("augmentation_repeats",)
    least_zero = ("cooldown_epochs", "warmup_epochs", "warmup_learning_rate", "minimum_learning_rate", "weight_decay")
    least_zero += ("mixup", "cutmix", "color_jitter", "validation_interval")
    shares = ("label_smoothing", "mixup_probability", "mixup_switch_probability", "horizontal_flip")
    shares += ("erase_probability", "ema_decay")
    values = {name: value for name, value in vars(recipe).items() if value is not None}
    for name, value in values.items():
        if name in positive and value <= 0:
            yield f"{name} must be positive, found {value}"
        if name in least_zero and value < 0:
            yield f"{name} must not be negative, found {value}"
        if name in shares and not 0 <= value <= 1:
            yield f"{name} must be in [0, 1], found {value}"
    # At 1 the last block would always be dropped.
    if not 0 <= recipe.drop_path < 1:
        yield f"drop_path must be in [0, 1), found {recipe.drop_path}"
    if recipe.image_size > LARGEST_SIDE:
        yield f"image_size must be at most {LARGEST_SIDE} pixels, found {recipe.image_size}"
    if not 0 < recipe.crop_ratio[0] <= recipe.crop_ratio[1]:
        yield f"crop_ratio must be two increasing positive ratios of width to height, found {list(recipe.crop_ratio)}"
    if min(recipe.deviation) <= 0:
        yield f"deviation must be positive, found {list(recipe.deviation)}"
    if not 0 < recipe.test_crop <= 1:
        yield f"test_crop must be in (0, 1], found {recipe.test_crop}"
    if not 0 < recipe.crop_scale[0] <= recipe.crop_scale[1] <= 1:
        yield f"crop_scale must be two increasing shares in (0, 1], found {list(recipe.crop_scale)}"


def _contradictions(recipe: Recipe) -> Iterator[str]:
    """Fields that do not go together."""
    if recipe.micro_batch > 0 and recipe.global_batch % recipe.micro_batch:
        yield f"global_batch {recipe.global_batch} must be a multiple of micro_batch {recipe.micro_batch}"
    if recipe.mixes and recipe.micro_batch % 2:
        yield f"micro_batch must be even with mixup or cutmix, found {recipe.micro_batch}"
    if recipe.warmup_epochs >= recipe.epochs:
        yield f"warmup_epochs {recipe.warmup_epochs} must be below epochs {recipe.epochs}"


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file, apply `overrides` and resolve its switches.

    Raises:
        ValueError: names the file and every unknown key, wrong type, unknown switch, and every field that both a
            switch and the recipe set.
    """
    values, problems = resolve_switches(merge(read_yaml(path), overrides or {}))
    return build(Recipe, values, str(path), problems)


def resolve_switches(
    values: Mapping[str, Any], known_switches: Mapping[str, Mapping[str, Mapping[str, Any]]] = SWITCHES
) -> tuple[dict[str, Any], list[str]]:
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
