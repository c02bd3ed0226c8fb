"""The configuration of a scale (config/{demo,small,paper}.yaml): what is trained, on which data, with which means."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lska.provenance import digest
from lska.runs import Run
from lska.strict import build, read_yaml
from lska.train.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class RunGroup:
    """Runs as a product: every model with every attention, kernel size and seed listed."""

    model: str | tuple[str, ...]
    seed: int | tuple[int, ...]
    attention: str | tuple[str, ...] | None = None
    kernel: int | tuple[int, ...] | None = None

    def expand(self) -> list[Run]:
        """All runs of the group.

        Raises:
            ValueError: attention without kernel, or an unknown attention.
        """
        axes = (_as_tuple(axis) for axis in (self.model, self.attention, self.kernel, self.seed))
        return [Run(*values) for values in itertools.product(*axes)]


@dataclass(frozen=True)
class ClassificationData:
    """The image classification set of a scale."""

    name: str
    """Name of its manifest (src/lska/data/manifests), or of the generated set."""
    root: str
    """Folder with train/ and val/, or with train.tar and val.tar."""
    manifest: str | None = None
    """YAML file of the manifest, for a data set whose manifest does not come with the project."""
    generate: dict[str, Any] | None = None
    """Settings of the generator for data that is made, not downloaded."""


@dataclass(frozen=True)
class Training:
    """Means of a training; nothing here changes its numbers on one kind of hardware."""

    recipe: str
    threads: int = 1
    """Processor threads of a training without GPU."""
    gpus: int = 0
    workers: int = 0
    """Data loading processes per GPU (or per training without GPU)."""
    hours: float = 12.0
    """Wall time of one attempt; a training that needs more goes on in the next attempt."""
    state_minutes: float = 10.0
    """Time between two saved states."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Recipe fields set by the scale or on the command line, without another recipe file."""


@dataclass(frozen=True)
class Evaluation:
    """Means of scoring checkpoints."""

    batch_size: int = 256
    threads: int = 1
    gpus: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Speed:
    """Protocol of the throughput measurement (Figure 6d, Table XVII); the paper's batch and GPU are not known."""

    batch_size: int
    warmup: int
    """Batches before the first timed one."""
    repeats: int
    """Timed measurements per network, interleaved over the networks; the median is reported."""
    seconds: float
    """Least duration of one timed measurement."""
    threads: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Config:
    """A scale, complete and checked."""

    scale: str
    caption: str
    """What stands in every caption: the scale and the data."""
    groups: tuple[RunGroup, ...]
    data: ClassificationData
    training: Training
    evaluation: Evaluation
    speed: Speed
    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Keyword arguments by model name that shrink networks; empty for the paper's own."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.architecture) - {run.model for run in self.runs})
        if unknown:
            raise ValueError(f"architecture names models that no run uses: {', '.join(unknown)}")
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("runs lists the same run more than once")

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run that is trained at this scale, in the order of the tables."""
        return tuple(sorted(itertools.chain.from_iterable(g.expand() for g in self.groups), key=lambda r: r.sort_key))

    @property
    def results(self) -> Path:
        """Folder of metric files, tables, figures and notebooks."""
        return Path("results") / self.scale

    @property
    def work(self) -> Path:
        """Folder of training states and caches: may be deleted, is never an output."""
        return Path("work") / self.scale

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The resolved classification recipe."""
        return load_recipe(Path(self.training.recipe), self.training.overrides)

    def training_spec(self, run: Run) -> dict[str, Any]:
        """Everything that decides the weights of `run`, in plain values; its digest is kept with every result."""
        return {
            "run": str(run),
            "architecture": self.architecture.get(run.model, {}),
            "recipe": self.recipe.to_dict(),
            "data": {"name": self.data.name, "generate": self.data.generate},
        }

    def training_digest(self, run: Run) -> str:
        """Digest of `training_spec(run)`."""
        return digest(self.training_spec(run))

    def metric_path(self, task: str, run: Run | str) -> Path:
        """Place of a metric file."""
        return self.results / "metrics" / task / f"{run}.json"

    def weights_path(self, run: Run | str) -> Path:
        """Place of the weights of `run`; the sidecar has the same name with `.json`."""
        return Path("checkpoints") / self.scale / f"{run}.safetensors"

    def training_log(self, run: Run | str) -> Path:
        """Place of the record of losses (JSON lines) of a finished training."""
        return self.results / "training" / f"{run}.jsonl"

    @property
    def data_record(self) -> Path:
        """The checked data set's manifest with its digest, as evidence beside the metrics."""
        return self.results / "data" / f"{self.data.name}.json"


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def load(paths: Iterable[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read configuration files, later ones over earlier ones key by key, and check the result.

    Raises:
        ValueError: names the file and every unknown key, missing key and wrong type at once.
    """
    paths = list(paths)
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return from_dict(merge(merged, overrides or {}), " + ".join(map(str, paths)))


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """Check a merged configuration (what Snakemake calls `config`).

    Raises:
        ValueError: as `load`.
    """
    values = dict(values)
    if "runs" in values:
        values["groups"] = values.pop("runs")
    try:
        config = build(Config, values, where)
    except ValueError as error:
        raise ValueError(str(error).replace("'groups'", "'runs'").replace("  groups:", "  runs:")) from error
    config.recipe  # noqa: B018 - resolving it here reports its errors before anything runs
    return config


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, mappings key by key, everything else replaced (Snakemake's rule for config files)."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged
