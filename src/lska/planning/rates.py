"""From work and measurements to seconds: the most trusted measurement that fits, scaled by exact multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lska.planning.throughput import Assumptions
from lska.planning.work import Measurement, Network, Work

Macs = Callable[[Network], float]
"""Multiply-adds of one image."""


@dataclass(frozen=True)
class Duration:
    """Estimated seconds with what they rest on.

    `low` and `high` are what the fastest and the slowest measurement of the same kind give; where there is one
    measurement only they are equal, and the uncertainty is not known.
    """

    seconds: float
    low: float
    high: float
    sources: tuple[str, ...]
    hardware: tuple[str, ...] = ()

    def __add__(self, other: Duration) -> Duration:
        return Duration(
            self.seconds + other.seconds, self.low + other.low, self.high + other.high,
            tuple(dict.fromkeys(self.sources + other.sources)), tuple(dict.fromkeys(self.hardware + other.hardware)),
        )  # fmt: skip


def total(durations: Iterable[Duration | None]) -> Duration | None:
    """One after the other; None where one of them is not known, and where there is none."""
    added: Duration | None = None
    for duration in durations:
        if duration is None:
            return None
        added = duration if added is None else added + duration
    return added


def duration(work: Work, known: Sequence[Measurement], assumed: Assumptions, macs: Macs) -> Duration | None:
    """How long `work` takes; None where nothing that was measured tells.

    Of the measurements on the same kind of device, those of the best kind count: by rank, then by the task, whether
    they are of the same precision, and whether they are of the same mode (else a training costs `training_factor`
    forward passes). Among these, one of the same network is taken as it is; without one, that with the closest
    multiply-adds is scaled by them.
    """
    fitting = [one for one in known if _fits(one, work)]
    if not fitting:
        return None
    best = min(_kind(one, work) for one in fitting)
    alike = [one for one in fitting if _kind(one, work) == best]
    same = [one for one in alike if one.network == work.network]
    rates = [(_rate(one, work, assumed, macs), one) for one in same or alike]
    cost = 0.0 if same else math.log(macs(work.network))
    chosen = min(rates, key=lambda pair: 0.0 if same else abs(math.log(_cost(pair[1], macs)) - cost))
    speeds = sorted(rate for rate, _ in rates)
    seconds, low, high = (work.images / rate for rate in (chosen[0], speeds[-1], speeds[0]))
    return Duration(seconds, low, high, (_source(chosen[1], work, assumed, bool(same)),), (chosen[1].hardware,))


def _fits(one: Measurement, work: Work) -> bool:
    device = "cuda" if work.devices else "cpu"
    # How fast a network trains tells nothing safe of how fast it scores: reading images may set the pace.
    return one.device == device and one.task in work.tasks and (one.mode == work.mode or work.mode == "training")


def _kind(one: Measurement, work: Work) -> tuple[int, ...]:
    """How well a measurement fits, the lower the better."""
    precision = 0 if one.precision == work.precision else 1 if one.precision == "unknown" else 2
    if work.precision == "bf16" and one.precision == "amp":
        precision = 0
    return one.rank, work.tasks.index(one.task), precision, int(one.mode != work.mode)


def _cost(one: Measurement, macs: Macs) -> float:
    return macs(one.network) if one.macs is None else one.macs


def _rate(one: Measurement, work: Work, assumed: Assumptions, macs: Macs) -> float:
    """Images of `work` per second, of all its devices."""
    scaled = 1.0 if one.network == work.network else _cost(one, macs) / macs(work.network)
    passes = assumed.training_factor if one.mode != work.mode else 1.0
    together = 1.0 if work.devices <= 1 else work.devices * assumed.gpu_efficiency
    return one.images_per_second * scaled / passes * together


def _source(one: Measurement, work: Work, assumed: Assumptions, same: bool) -> str:
    parts = [one.source]
    if not same:
        parts.append("scaled by multiply-adds")
    if one.mode != work.mode:
        parts.append(f"training taken as {assumed.training_factor:g} forward passes")
    if one.precision not in (work.precision, "unknown") and (work.precision, one.precision) != ("bf16", "amp"):
        parts.append(f"measured with {one.precision}, needed is {work.precision}")
    if one.precision == "unknown":
        parts.append("precision not known")
    return "; ".join(parts)
