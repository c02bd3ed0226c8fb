"""Recipes: everything about a training that changes its numbers, resolved before it starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lska.strict import build, read_yaml

Triple = tuple[float, float, float]
HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Triple = (0.229, 0.224, 0.225)

# What the released code, its README and the text leave open or contradict (paper/protocol.md, section 2). The value
# chosen sets the fields on its right; a recipe may set those fields itself instead of naming the switch.
SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
    "batch": {
        "published": {"global_batch": 512},  # README of the released code: 4 GPUs x 128
        "published_script": {"global_batch": 128},  # training script of the released code: 2 GPUs x 64
        "corrected": {"global_batch": 1024},  # VAN's 8 x 128, for which the learning rate of 1e-3 was chosen
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

    def __post_init__(self) -> None:
        positive = ("epochs", "learning_rate", "global_batch", "micro_batch", "image_size")
        problems = [f"{name} must be positive, found {getattr(self, name)}" for name in positive if getattr(self, name) <= 0]
        if self.micro_batch > 0 and self.global_batch % self.micro_batch:
            problems.append(
                f"global_batch {self.global_batch} must be a multiple of micro_batch {self.micro_batch}"
            )
        if self.mixes and self.micro_batch % 2:
            problems.append(f"micro_batch must be even with mixup or cutmix, found {self.micro_batch}")
        if self.warmup_epochs >= self.epochs:
            problems.append(f"warmup_epochs {self.warmup_epochs} must be below epochs {self.epochs}")
        if not 0 < self.test_crop <= 1:
            problems.append(f"test_crop must be in (0, 1], found {self.test_crop}")
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
        """Plain values, as they enter the digest."""
        return dataclasses.asdict(self)


def load_recipe(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe file, apply `overrides` and resolve its switches.

    Raises:
        ValueError: names the file and every unknown key, wrong type, unknown switch, and every field that both a
            switch and the recipe set.
    """
    values = {**read_yaml(path), **(overrides or {})}
    return build(Recipe, resolve_switches(values, str(path)), str(path))


def resolve_switches(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Replace `switches: {name: choice}` by the fields that the choices set.

    Raises:
        ValueError: an unknown switch or choice, or a field that is also set directly.
    """
    values = dict(values)
    switches = values.pop("switches", {})
    problems = []
    for name, choice in switches.items():
        choices = SWITCHES.get(name, {})
        if choice not in choices:
            known = f"choices of {name}: {', '.join(choices)}" if choices else f"switches: {', '.join(SWITCHES)}"
            problems.append(f"unknown switch {name}: {choice}; {known}")
            continue
        doubled = [field for field in choices[choice] if field in values]
        problems += [f"{field} is set both directly and by switch {name}; remove one" for field in doubled]
        values.update(choices[choice])
    if problems:
        raise ValueError(f"{where}: {len(problems)} problem(s):\n" + "\n".join(f"  {p}" for p in problems))
    return values
