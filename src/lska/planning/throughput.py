"""Measured throughputs: what is known of how fast some hardware trains or scores some network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lska.config import Config
from lska.files import read_json, read_yaml
from lska.planning.records import UNREADABLE, from_metrics, from_sidecar
from lska.planning.work import Measurement
from lska.provenance import project_root
from lska.strict import build

GIVEN, OWN, ELSEWHERE, PUBLISHED = range(4)
"""Ranks of sources, the most trusted first: files given by the user, this scale's records, other scales', the table."""

TABLE = "config/throughput/published.yaml"
"""Published measurements, for hardware that this project has no records of."""


@dataclass(frozen=True)
class Assumptions:
    """What measurements do not tell; each can be set in a file given by `--throughput`."""

    training_factor: float = 3.0
    """Cost of a forward and backward pass in forward passes, where only inference was measured."""
    gpu_efficiency: float = 1.0
    """Share of its own throughput that each GPU keeps where several train together."""

    def __post_init__(self) -> None:
        low = {name: value for name, value in vars(self).items() if value <= 0}
        if low:
            raise ValueError(", ".join(f"{name} must be positive, found {value}" for name, value in low.items()))
        if self.gpu_efficiency > 1:
            raise ValueError(f"gpu_efficiency is a share, expected at most 1, found {self.gpu_efficiency}")


@dataclass(frozen=True)
class Entry:
    """A line of a table of throughputs."""

    hardware: str
    mode: Literal["training", "inference"]
    task: str
    """`classification`, `speed` (without reading images), or as in metric files, such as `detection/retinanet`."""
    network: str
    """For people."""
    gmacs: float
    """Cost of one image as measured: 10^9 multiply-adds of a forward pass."""
    images_per_second: float
    """Of all GPUs together."""
    source: str
    precision: Literal["fp32", "bf16", "amp", "unknown"] = "unknown"
    device: Literal["cuda", "cpu"] = "cuda"
    gpus: int = 1

    def __post_init__(self) -> None:
        low = {name: getattr(self, name) for name in ("gmacs", "images_per_second", "gpus") if getattr(self, name) <= 0}
        if low:
            raise ValueError(", ".join(f"{name} must be positive, found {value}" for name, value in low.items()))

    def measurement(self, rank: int) -> Measurement:
        """As the estimates take it."""
        return Measurement(
            self.mode, self.task, self.hardware, self.device, self.precision, self.images_per_second / self.gpus,
            self.source, rank, macs=1e9 * self.gmacs,
        )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A file of throughputs."""

    entries: tuple[Entry, ...] = ()
    assumptions: dict[str, float] = field(default_factory=dict)


def published() -> Table:
    """The table that comes with the project."""
    path = project_root() / TABLE
    return build(Table, read_yaml(path), str(path))


def given(paths: Iterable[Path], config: Config) -> tuple[list[Measurement], dict[str, float]]:
    """Measurements and assumptions of the user's files: tables (YAML), metric files and sidecars of trainings (JSON).

    A metric file is taken to be of the networks of `config`.

    Raises:
        ValueError: a file is none of these, or is wrong; it is named.
    """
    found: list[Measurement] = []
    assumptions: dict[str, float] = {}
    for path in paths:
        if path.suffix == ".json":
            found.append(_record(path, config))
            continue
        table = build(Table, read_yaml(path), str(path))
        build(Assumptions, table.assumptions, f"{path}: assumptions")
        found += [entry.measurement(GIVEN) for entry in table.entries]
        assumptions |= table.assumptions
    return found, assumptions


def _record(path: Path, config: Config) -> Measurement:
    content = read_json(path)
    make = from_sidecar if "images_seen" in content else from_metrics
    try:
        made = make(content, config, str(path), GIVEN)
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {error}); give another file") from error
    if made is None:
        raise ValueError(
            f"{path}: expected a metric file of `lska evaluate speed` or `classification`, or the sidecar of a training"
        )
    return made


def assume(*layers: Mapping[str, Any]) -> Assumptions:
    """Assumptions, later layers over earlier ones.

    Raises:
        ValueError: an unknown name or an impossible value.
    """
    merged = {name: value for layer in layers for name, value in layer.items()}
    return build(Assumptions, merged, "assumptions of the throughput files")
