"""The plan as plain values, the form for scripts (src/lska/schemas/plan.schema.json), from which the text is made."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.files import read_yaml
from lska.passes import Measured
from lska.planning import schedule
from lska.planning.costs import Costs
from lska.planning.dag import Job, Request, planned_jobs
from lska.planning.estimates import Attempts, Estimator
from lska.planning.rates import Duration
from lska.planning.reasons import Reasons
from lska.planning.records import elsewhere, recorded
from lska.planning.schedule import Task
from lska.planning.storage import amounts, missing_roots
from lska.planning.throughput import ELSEWHERE, OWN, PUBLISHED, Assumptions, assume, given, published
from lska.planning.work import ASPECT_RATIO, Measurement
from lska.provenance import code_version, validate
from lska.strict import merge
from lska.workflow import Plan

SCHEMA = 1

KINDS = ("fetch", "data", "training", "fine-tuning", "evaluation", "counting", "tables", "other", "targets")
"""What jobs do. `targets` only ask for the files of others."""

_BY_RULE = {
    "data": "data", "train": "training", "fine_tune": "fine-tuning", "classification": "evaluation",
    "dense": "evaluation", "speed": "evaluation", "properties": "counting", "examples": "tables",
}  # fmt: skip
_BY_START = {"fetch": "fetch", "complexity": "counting", "notebook_": "tables"}

HOUR = 3600.0


@dataclass(frozen=True)
class Means:
    """What the wall time is estimated for."""

    gpus: int | None = None
    """None for as many as the largest job asks for."""
    cores: int | None = None
    """None for no limit."""
    throughput: Sequence[Path] = ()
    """The user's own measurements."""
    hardware: str | None = None
    """Part of the name of the only hardware whose measurements count; None for all."""


@dataclass(frozen=True)
class Costed:
    """A job with what is known of it."""

    job: Job
    kind: str
    why: str
    duration: Duration | None
    attempts: Attempts | None


def kind_of(rule: str, passes: Iterable[str]) -> str:
    """What the jobs of a rule do, one of `KINDS`; `passes` are the names of the rules of passes."""
    if rule in _BY_RULE or rule in set(passes):
        return _BY_RULE.get(rule, "evaluation")
    return next((kind for start, kind in _BY_START.items() if rule.startswith(start)), "other")


def make(request: Request, means: Means, project: Path) -> dict[str, Any]:
    """Plan `request` and estimate what it costs.

    Raises:
        ValueError: a configuration or file of throughputs is wrong, or no measurement is of the hardware named.
        PlanningError: Snakemake refuses the targets.
    """
    values: dict[str, Any] = {}
    for path in request.config:
        values = merge(values, read_yaml(path))
    plan = Plan(values, request.config, request.overrides)
    known, assumed = knowledge(plan.config, means)
    costs = Costs()
    jobs = planned_jobs(request, project)
    estimator = Estimator(plan, known, assumed, lambda network: costs.of(network).macs)
    costed = _costed(plan, jobs, estimator)
    document = {
        "schema": SCHEMA,
        "scale": plan.config.scale,
        "caption": plan.config.caption,
        "config": [str(path) for path in request.config],
        "overrides": dict(request.overrides),
        "targets": list(request.targets) or ["all"],
        "code": code_version(),
        **_summary(costed, means),
        "storage": [asdict(one) for one in amounts(plan, jobs, lambda network: costs.of(network).params)],
        "missing_data": [asdict(one) for one in missing_roots(plan, jobs)],
        "assumptions": {**asdict(assumed), "aspect_ratio": ASPECT_RATIO},
        "jobs": [_entry(one) for one in costed],
    }
    validate(document, "plan", "the plan")
    return document


def knowledge(config: Config, means: Means) -> tuple[list[Measurement], Assumptions]:
    """Everything measured that estimates may rest on, and what is assumed beside it.

    Raises:
        ValueError: a file of the user is wrong, or nothing was measured on the hardware named.
    """
    table = published()
    own, assumptions = given(means.throughput, config)
    known = [*own, *recorded(config, OWN, "this scale"), *elsewhere(config, ELSEWHERE)]
    known += [entry.measurement(PUBLISHED) for entry in table.entries]
    if means.hardware is not None:
        names = sorted({one.hardware for one in known})
        known = [one for one in known if means.hardware.lower() in one.hardware.lower()]
        if not known:
            raise ValueError(f"no measurement is of {means.hardware!r}; there are some of: {', '.join(names)}")
    return known, assume(table.assumptions, assumptions)


def _costed(plan: Plan, jobs: Sequence[Job], estimator: Estimator) -> list[Costed]:
    reasons, passes = Reasons(plan), [one.name for one in plan.passes]
    found = []
    for job in jobs:
        kind = kind_of(job.rule, passes) if job.outputs else "targets"
        estimate = estimator.estimate(job)
        found.append(Costed(job, kind, reasons.of(job), estimate, estimator.attempts(job, estimate)))
    return found


def _summary(costed: Sequence[Costed], means: Means) -> dict[str, Any]:
    working = [one for one in costed if one.kind != "targets"]
    kinds = {kind: _cost([one for one in working if one.kind == kind]) for kind in KINDS if kind != "targets"}
    families: dict[str, list[Costed]] = defaultdict(list)
    for one in working:
        families[family(one)].append(one)
    rules = [
        {"rule": name, "kind": group[0].kind, "reasons": _reasons(group), **_cost(group)}
        for name, group in families.items()
    ]
    largest = max((one.job.gpus for one in costed), default=0)
    gpus = largest if means.gpus is None else means.gpus
    return {
        "totals": _cost(working),
        "kinds": kinds,
        "rules": sorted(rules, key=lambda rule: (KINDS.index(rule["kind"]), rule["rule"])),
        "hardware": _by_hardware(working),
        "sources": _sources(working),
        "largest_job_gpus": largest,
        "wall": walls(costed, gpus, means.cores),
        "critical_path": _bounds(costed, schedule.critical_path),
        "over_budget": [one.job.id for one in working if one.attempts and one.attempts.needed > one.attempts.allowed],
    }


def _reasons(group: Sequence[Costed]) -> dict[str, int]:
    """Reasons with the number of jobs, the most frequent first, without the files and numbers that differ by job."""
    own = re.compile(r"(?P<kept>missing|newer input|made anew|incomplete): [^;]+| \((root [^)]*|\d+ networks?)\)")
    return dict(Counter(own.sub(lambda match: match["kept"] or "", one.why) for one in group).most_common())


def family(one: Costed) -> str:
    """Name that the jobs of alike rules share: passes of one set, all notebooks."""
    if one.kind == "evaluation" and one.job.rule not in _BY_RULE:
        return re.sub(r"_\d+$", "", one.job.rule)
    return "notebook" if one.job.rule.startswith("notebook_") else one.job.rule


def _cost(group: Sequence[Costed]) -> dict[str, Any]:
    timed = [one for one in group if one.duration is not None]
    return {
        "jobs": len(group),
        "unknown": len(group) - len(timed),
        "gpu_hours": _hours((one, one.job.gpus) for one in timed if one.job.gpus),
        "core_hours": _hours((one, one.job.threads) for one in timed if not one.job.gpus),
    }


def _hours(weighted: Iterable[tuple[Costed, int]]) -> dict[str, float]:
    """Hours times GPUs or cores, summed as if all were low, or high, at once."""
    pairs = list(weighted)
    return {
        name: sum(getattr(one.duration, field) * weight for one, weight in pairs) / HOUR
        for name, field in (("value", "seconds"), ("low", "low"), ("high", "high"))
    }


def _by_hardware(group: Sequence[Costed]) -> list[dict[str, Any]]:
    """GPU-hours by the hardware whose measurements they rest on: hours of different cards do not compare."""
    found: dict[str, list[Costed]] = defaultdict(list)
    for one in group:
        if one.duration is not None and one.job.gpus and one.duration.hardware:
            found[" + ".join(one.duration.hardware)].append(one)
    return [{"hardware": name, **_cost(jobs)} for name, jobs in sorted(found.items())]


def _sources(group: Sequence[Costed]) -> list[dict[str, Any]]:
    counts: dict[str, int] = defaultdict(int)
    for one in group:
        for source in one.duration.sources if one.duration is not None else ():
            counts[source] += 1
    return [{"source": source, "jobs": number} for source, number in sorted(counts.items())]


def walls(costed: Sequence[Costed], gpus: int, cores: int | None) -> list[dict[str, Any]]:
    """Wall times at `gpus` GPUs and, where jobs use some, at two and four times as many."""
    limit = schedule.ANY if cores is None else cores
    numbers = [gpus, 2 * gpus, 4 * gpus] if gpus else [0]
    found = []
    for number in numbers:
        too_large = schedule.unfit(_tasks(costed, "seconds"), number)
        times = None if too_large else _bounds(costed, partial(_makespan, gpus=number, cores=limit))
        found.append({"gpus": number, "cores": cores, "seconds": times, "unfit": [task.id for task in too_large]})
    return found


def _makespan(tasks: list[Task], gpus: float, cores: float) -> float:
    return schedule.schedule(tasks, gpus, cores).makespan


def _bounds(costed: Sequence[Costed], measure: Callable[[list[Task]], float]) -> dict[str, float]:
    fields = (("value", "seconds"), ("low", "low"), ("high", "high"))
    return {name: measure(_tasks(costed, field)) for name, field in fields}


def _tasks(costed: Sequence[Costed], field: str) -> list[Task]:
    """For the schedule; jobs of unknown duration take no time in it."""
    return [
        Task(one.job.id, 0.0 if one.duration is None else getattr(one.duration, field), one.job.gpus,
             one.job.threads, one.job.needs)
        for one in costed
    ]  # fmt: skip


def _entry(one: Costed) -> dict[str, Any]:
    job = one.job
    return {
        "id": job.id, "rule": job.rule, "kind": one.kind, "wildcards": dict(job.wildcards), "reason": one.why,
        "snakemake_reason": job.reason, "needs": list(job.needs), "gpus": job.gpus, "threads": job.threads,
        "outputs": list(job.outputs), "estimate": None if one.duration is None else _estimate(one.duration),
        "attempts": None if one.attempts is None else asdict(one.attempts),
    }  # fmt: skip


def _estimate(found: Duration) -> dict[str, Any]:
    return {**asdict(found), "sources": list(found.sources), "hardware": list(found.hardware)}


def uses_gpus(config: Config) -> bool:
    """Whether any job of a scale asks for a GPU."""
    parts: list[Any] = [config.training, config.evaluation, config.speed]
    dense = [section for section in config.dense.values() if section is not None]
    parts += [head for section in dense for head in section.heads.values()] + [section.evaluation for section in dense]
    items: Sequence[Measured] = config.measured
    return any(part.gpus for part in [*parts, *(item.section.evaluation for item in items)])
