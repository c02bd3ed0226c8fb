"""The configuration of a scale (config/{demo,small,paper}.yaml): what is trained, on which data, with which means."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lska.provenance import digest
from lska.runs import Run
from lska.strict import build, merge, read_yaml
from lska.train.recipe import Recipe, load_recipe

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class RunGroup:
    """Runs as a product: every model with every attention, kernel size and seed listed."""

    model: str | tuple[str, ...]
    seed: int | tuple[int, ...]
    attention: str | tuple[str, ...] | None = None
    kernel: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.expand()

    def expand(self) -> list[Run]:
        """All runs of the group.

        Raises:
            ValueError: attention without kernel, an unknown attention, or an impossible kernel size.
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
    attempts: int = 1
    """How often Snakemake starts a training that stopped itself or failed before it gives up."""
    state_minutes: float = 10.0
    """Time between two saved states."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Recipe fields set by the scale or on the command line, without another recipe file."""

    def __post_init__(self) -> None:
        _check_least(self, threads=1, gpus=0, workers=0, hours=0, attempts=1, state_minutes=0)
        if self.hours == 0:
            raise ValueError(f"hours must be positive, found {self.hours}")


@dataclass(frozen=True)
class Evaluation:
    """Means of scoring checkpoints."""

    batch_size: int = 256
    threads: int = 1
    gpus: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        _check_least(self, batch_size=1, threads=1, gpus=0, workers=0)


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

    def __post_init__(self) -> None:
        _check_least(self, batch_size=1, warmup=0, repeats=1, seconds=0, threads=1, gpus=0)


@dataclass(frozen=True)
class Config:
    """A scale, complete and checked."""

    scale: str
    caption: str
    """What stands in every caption: the scale and the data."""
    groups: tuple[RunGroup, ...] = field(metadata={"key": "runs"})
    data: ClassificationData
    training: Training
    evaluation: Evaluation
    speed: Speed
    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Keyword arguments by model name that shrink networks; empty for the paper's own."""

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("data.name", self.data.name)):
            if _FILE_NAME.fullmatch(value) is None:
                raise ValueError(f"{name} {value!r} becomes a file name: use letters, digits, '.', '_' and '-' only")
        unknown = sorted(set(self.architecture) - {run.model for run in self.runs})
        if unknown:
            raise ValueError(f"architecture names models that no run uses: {', '.join(unknown)}")
        if len(set(self.runs)) < len(self.runs):
            twice = sorted({str(run) for run in self.runs if self.runs.count(run) > 1})
            raise ValueError(f"runs lists the same run more than once: {', '.join(twice)}")

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run that is trained at this scale: models as listed, then attention, kernel size, seed."""
        runs = list(itertools.chain.from_iterable(group.expand() for group in self.groups))
        models = list(dict.fromkeys(run.model for run in runs))
        return tuple(sorted(runs, key=lambda run: (models.index(run.model), *run.sort_key[1:])))

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

    def data_identity(self) -> dict[str, str]:
        """Name and digest of the checked data set, as results keep them.

        Raises:
            ValueError: the data set was not prepared, or its record is damaged.
        """
        try:
            record = json.loads(self.data_record.read_text(encoding="utf-8"))
            return {"name": record["name"], "digest": record["digest"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.data_record} is missing or damaged ({type(error).__name__}): expected the record of the "
                f"checked data set {self.data.name!r}; make it with `lska data prepare` and the same configuration"
            ) from error


def _check_least(section: Any, **least: int) -> None:
    low = {name: getattr(section, name) for name, bound in least.items() if getattr(section, name) < bound}
    if low:
        found = ", ".join(f"{name} must be at least {least[name]}, found {value}" for name, value in low.items())
        raise ValueError(found)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def load(paths: Iterable[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read configuration files, later ones over earlier ones key by key, and check the result.

    Raises:
        ValueError: names the file and every unknown key, missing key and wrong type at once.
    """
    paths = list(paths)
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ValueError(f"overrides: expected a mapping of settings, found {type(overrides).__name__} {overrides!r}")
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return from_dict(merge(merged, overrides or {}), " + ".join(map(str, paths)))


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """Check a merged configuration (what Snakemake calls `config`).

    Raises:
        ValueError: as `load`.
    """
    config = build(Config, values, where)
    micro_batches, gpus = config.recipe.global_batch // config.recipe.micro_batch, max(1, config.training.gpus)
    if micro_batches % gpus:
        raise ValueError(
            f"{where}: an update has {micro_batches} micro-batches (global_batch / micro_batch of the recipe), which "
            f"cannot be divided among training.gpus: {gpus}; change one of them"
        )
    return config
