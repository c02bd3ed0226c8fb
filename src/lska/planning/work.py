"""What a job has to do, in images and multiply-adds, before anything is known about the hardware."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lska.runs import Run

if TYPE_CHECKING:
    from lska.config import Config
    from lska.finetuning import FineTuningJob

Mode = Literal["training", "inference"]
Size = tuple[int, int]

ASPECT_RATIO = 4 / 3
"""Longer by shorter side assumed for real images whose sizes vary; generated ones are square."""


@dataclass(frozen=True)
class Network:
    """What decides the multiply-adds of one image: two equal networks cost the same."""

    model: str
    attention: str | None
    kernel: int | None
    architecture: str
    """Settings that shrink it, as canonical JSON; `{}` for the paper's own."""
    size: Size
    """Width and height of the image in pixels."""
    head: str | None = None
    job: FineTuningJob | None = field(default=None, compare=False)
    """Where the widths of a detector or segmentor come from."""
    config: Config | None = field(default=None, compare=False)
    """Where the number of classes comes from."""

    @property
    def name(self) -> str:
        """As a run without its seed, for file names."""
        return str(Run(self.model, self.attention, self.kernel, 0)).removesuffix("-s0")


def classifier(
    config: Config, run: Run, size: int, architecture: Mapping[str, Any] | None = None
) -> Network:
    """The classification network of a run on square images of `size`, by default as the scale shrinks it."""
    settings = config.architecture.get(run.model, {}) if architecture is None else architecture
    return Network(run.model, run.attention, run.kernel, _canonical(settings), (size, size), config=config)


def predictor(job: FineTuningJob, size: Size) -> Network:
    """The detector or segmentor of a fine-tuning on images of `size` (width, height)."""
    run, settings = job.run, job.config.architecture.get(job.run.model, {})
    return Network(run.model, run.attention, run.kernel, _canonical(settings), size, job.head, job, job.config)


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


@dataclass(frozen=True)
class Work:
    """Images that pass through a network, forward only or in training."""

    mode: Mode
    tasks: tuple[str, ...]
    """Whose measured throughput applies: the first where there is one, else the next."""
    images: int
    network: Network
    devices: int
    """GPUs that share the images; 0 for the processor."""
    precision: str = "fp32"


def training_size(job: FineTuningJob) -> Size:
    """Width and height of a training image."""
    crop = getattr(job.recipe, "crop", None)
    return scored_size(job) if crop is None else (crop, crop)


def scored_size(job: FineTuningJob) -> Size:
    """Width and height of a validation image: scaled into the recipe's longest and shortest side, keeping its ratio."""
    longest, shortest = max(job.recipe.image_scale), min(job.recipe.image_scale)
    aspect = 1.0 if job.data.generate is not None else ASPECT_RATIO
    return min(longest, round(shortest * aspect)), shortest


@dataclass(frozen=True)
class Measurement:
    """How fast some hardware was seen to do such work."""

    mode: Mode
    task: str
    hardware: str
    device: Literal["cuda", "cpu"]
    precision: str
    images_per_second: float
    """Of one GPU, or of one process without."""
    source: str
    """For people: who measured this, where."""
    rank: int
    """The lower, the more trusted."""
    network: Network | None = None
    macs: float | None = None
    """Multiply-adds of one image, where no `network` tells."""
