"""What `lska plan` says: the jobs of a target with reasons and costs, as plain values for scripts and as text.

The dataclasses are the form for scripts: `PlanReport` as JSON, of which `lska plan --schema` prints the JSON schema.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from lska.data.roots import PlannedJob, missing
from lska.pipeline.dry_run import DryRun, SnakemakeJob, planned_jobs
from lska.pipeline.estimate import Amount, Attempts, attempts_of, estimate_of, storage_of
from lska.pipeline.plan_reasons import Reason, reasons_of
from lska.pipeline.products import Plan
from lska.pipeline.throughput import Assumptions, TimeEstimate, known_throughputs
from lska.pipeline.workload import ASPECT_RATIO, pass_of
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import code_version
from lska.provenance.strict import merge

Kind = Literal["fetch", "data", "training", "fine-tuning", "evaluation", "counting", "tables", "other", "targets"]

TITLES: dict[Kind, str] = {
    "fetch": "fetch", "data": "check or generate data", "training": "train", "fine-tuning": "fine-tune",
    "evaluation": "evaluate", "counting": "count operations", "tables": "tables and figures", "other": "other",
}  # fmt: skip
"""What jobs do, as the text calls it; `targets` only ask for the files of others and are in no sum."""

RULE_KINDS: dict[str, Kind] = {
    "fetch": "fetch", "data": "data", "train": "training", "fine_tune": "fine-tuning", "classification": "evaluation",
    "dense": "evaluation", "speed": "evaluation", "properties": "counting", "complexity": "counting",
    "examples": "tables", "notebook": "tables",
}  # fmt: skip
"""Kind by rule, or by what comes before the first `_` of its name; passes are evaluations, all others `other`."""

WIDTH, HOUR, DAY = 96, 3600.0, 86400.0


@dataclass(frozen=True)
class Span:
    """A number; `low` and `high` by the fastest and the slowest measurement."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, measure: Callable[[str], float]) -> Span:
        """What `measure` gives for the fields of `TimeEstimate` that are seconds."""
        return cls(measure("seconds"), measure("low"), measure("high"))


@dataclass(frozen=True)
class GroupCost:
    """What a group of jobs costs."""

    jobs: int
    unknown: int
    """Jobs without an estimate, in none of the hours."""
    gpu_hours: Span
    core_hours: Span
    """Of jobs that use no GPU."""


@dataclass(frozen=True)
class RuleCost(GroupCost):
    """Costs by Snakemake's rule; the passes of one set, and all notebooks, are one."""

    rule: str
    kind: Kind
    reasons: dict[str, int]
    """Reasons with the number of jobs, the most frequent first, without what differs by job."""


@dataclass(frozen=True)
class WallBound:
    """Lower bound of the wall time: the longest chain of jobs, or all work spread evenly."""

    gpus: int
    cores: int | None
    seconds: Span | None
    """None where the jobs in `unfit` ask for more GPUs. Jobs of unknown duration take no time."""
    unfit: list[int]


@dataclass(frozen=True)
class MissingData:
    """A data set that jobs read and that is not where the configuration says, on this machine."""

    name: str
    setting: str
    root: str


@dataclass(frozen=True)
class JobPlan:
    """A job of Snakemake's dry run."""

    id: int
    """Snakemake's jobid in this dry run."""
    rule: str
    kind: Kind
    wildcards: dict[str, str]
    reason: str
    """What differs, in the project's terms."""
    snakemake_reason: str
    needs: list[int]
    """Ids of the jobs that have to end before."""
    gpus: int
    threads: int
    outputs: list[str]
    estimate: TimeEstimate | None
    """None where nothing that was measured tells."""
    attempts: Attempts | None
    """Starts of a job that stops itself after `hours`; None for others."""


@dataclass(frozen=True)
class PlanReport:
    """What `lska plan --json` prints."""

    __pydantic_config__ = {"use_attribute_docstrings": True}

    schema: Literal[2]
    scale: str
    caption: str
    config: list[str]
    overrides: dict[str, Any]
    targets: list[str]
    code: dict[str, str | bool | None]
    """Commit, and whether tracked files differ from it."""
    totals: GroupCost
    kinds: dict[Kind, GroupCost]
    rules: list[RuleCost]
    hardware: dict[str, GroupCost]
    """By the hardware whose measurements GPU-hours rest on: hours of different cards do not compare."""
    sources: dict[str, int]
    """What estimates rest on, with the number of jobs."""
    largest_job_gpus: int
    wall: list[WallBound]
    """Lower bounds by number of GPUs."""
    critical_path: Span
    """Seconds of the longest chain of jobs: no number of GPUs makes it faster."""
    over_budget: list[int]
    """Jobs that need more attempts than Snakemake is allowed to start."""
    storage: list[Amount]
    missing_data: list[MissingData]
    assumptions: Assumptions
    aspect_ratio: float
    """Longer by shorter side assumed for real images whose sizes vary."""
    jobs: list[JobPlan]
    """Every job of Snakemake's dry run, in its order."""


def make_report(
    asked: DryRun, project: Path, gpus: int | None = None, cores: int | None = None, files: Sequence[Path] = (),
    hardware: str | None = None,
) -> PlanReport:  # fmt: skip
    """Plan what is `asked` and estimate what it costs.

    Args:
        gpus: for the wall time; None for as many as the largest job asks for.
        cores: to which jobs are scaled down; None for any number or, where no job uses a GPU, this machine's.
        files: throughputs that the user measured.
        hardware: part of the name of the only hardware whose measurements count; None for all.

    Raises:
        ValueError: a configuration or file of throughputs is wrong, or no measurement is of the hardware named.
        PlanningError: Snakemake refuses the targets.
    """
    values: dict[str, Any] = {}
    for path in asked.config:
        values = merge(values, read_yaml(path))
    plan = Plan(values, asked.config, asked.overrides)
    known, assumed = known_throughputs(plan.config, files, hardware)
    found = planned_jobs(asked, project)
    largest = max((job.gpus for job in found), default=0)
    gpus = largest if gpus is None else gpus
    cores = os.cpu_count() if cores is None and not largest else cores
    # As Snakemake does.
    found = [replace(job, threads=min(job.threads, cores or job.threads)) for job in found]
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    families: dict[str, list[JobPlan]] = defaultdict(list)
    jobs = []
    for job in found:
        why, estimate = reasons_of(plan, job), estimate_of(plan, job, known, assumed)
        jobs.append(_job_plan(plan, job, why, estimate))
        if job.outputs:
            families[_family(plan, job)].append(jobs[-1])
            reasons[_family(plan, job)]["; ".join(dict.fromkeys(one.what for one in why))] += 1
    working = [job for job in jobs if job.kind != "targets"]
    rules = [
        RuleCost(**_cost(group), rule=name, kind=group[0].kind, reasons=dict(reasons[name].most_common()))
        for name, group in families.items()
    ]
    by_hardware: dict[str, list[JobPlan]] = defaultdict(list)
    sources: Counter[str] = Counter()
    for job in working:
        if job.estimate is not None:
            sources.update(job.estimate.sources)
            if job.gpus and job.estimate.hardware:
                by_hardware[" + ".join(job.estimate.hardware)].append(job)
    absent = missing(plan.config, [PlannedJob(job.inputs, job.outputs) for job in found])
    return PlanReport(
        schema=2, scale=plan.config.scale, caption=plan.config.caption, config=[str(path) for path in asked.config],
        overrides=dict(asked.overrides), targets=list(asked.targets) or ["all"], code=code_version(),
        totals=GroupCost(**_cost(working)),
        kinds={kind: GroupCost(**_cost([job for job in working if job.kind == kind])) for kind in TITLES},
        rules=sorted(rules, key=lambda rule: (list(TITLES).index(rule.kind), rule.rule)),
        hardware={name: GroupCost(**_cost(group)) for name, group in sorted(by_hardware.items())},
        sources=dict(sorted(sources.items())),
        largest_job_gpus=largest,
        wall=[wall_bound(jobs, number, cores) for number in ((gpus, 2 * gpus, 4 * gpus) if gpus else (0,))],
        critical_path=Span.of(lambda field: longest_chain(jobs, field)),
        over_budget=[job.id for job in working if job.attempts and job.attempts.needed > job.attempts.allowed],
        storage=storage_of(plan, found),
        missing_data=[MissingData(one.data.name, one.setting, one.data.root) for one in absent],
        assumptions=assumed, aspect_ratio=ASPECT_RATIO, jobs=jobs,
    )  # fmt: skip


def report_schema() -> dict[str, Any]:
    """The JSON schema of a `PlanReport`, with what the dataclasses say of their fields."""
    from pydantic import TypeAdapter

    return TypeAdapter(PlanReport).json_schema(mode="serialization")


def _job_plan(plan: Plan, job: SnakemakeJob, why: list[Reason], estimate: TimeEstimate | None) -> JobPlan:
    kind = job_kind(job.rule, pass_of(plan, job) is not None) if job.outputs else "targets"
    return JobPlan(
        job.id, job.rule, kind, dict(job.wildcards), "; ".join(map(str, why)), job.reason, list(job.needs), job.gpus,
        job.threads, list(job.outputs), estimate, attempts_of(plan, job, estimate),
    )  # fmt: skip


def job_kind(rule: str, a_pass: bool = False) -> Kind:
    """What the jobs of a rule do."""
    return "evaluation" if a_pass else RULE_KINDS.get(rule) or RULE_KINDS.get(rule.partition("_")[0], "other")


def _family(plan: Plan, job: SnakemakeJob) -> str:
    """Name that the jobs of alike rules share: passes of one set, all notebooks."""
    one = pass_of(plan, job)
    return one.item.rule if one is not None else re.sub("^notebook_.*", "notebook", job.rule)


def _cost(group: Sequence[JobPlan]) -> dict[str, Any]:
    """The fields of a `GroupCost`; hours are summed as if all were low, or high, at once."""
    timed = [job for job in group if job.estimate is not None]

    def hours(weights: Iterable[int]) -> Span:
        pairs = list(zip(timed, weights, strict=True))
        return Span.of(lambda field: sum(getattr(job.estimate, field) * weight for job, weight in pairs) / HOUR)

    return {
        "jobs": len(group),
        "unknown": len(group) - len(timed),
        "gpu_hours": hours(job.gpus for job in timed),
        "core_hours": hours(0 if job.gpus else job.threads for job in timed),
    }


def _seconds(job: JobPlan, field: str) -> float:
    return 0.0 if job.estimate is None else getattr(job.estimate, field)


def longest_chain(jobs: Sequence[JobPlan], field: str = "seconds") -> float:
    """Seconds of the longest chain of jobs that wait for each other."""
    by_id, ends = {job.id: job for job in jobs}, {}
    for number in TopologicalSorter({job.id: job.needs for job in jobs}).static_order():
        before = max((ends[need] for need in by_id[number].needs), default=0.0)
        ends[number] = before + _seconds(by_id[number], field)
    return max(ends.values(), default=0.0)


def wall_bound(jobs: Sequence[JobPlan], gpus: int, cores: int | None) -> WallBound:
    """The least time that jobs take on so many GPUs and cores (None for any number)."""
    if unfit := [job.id for job in jobs if job.gpus > gpus]:
        return WallBound(gpus, cores, None, unfit)

    def least(field: str) -> float:
        on_gpus = sum(job.gpus * _seconds(job, field) for job in jobs) / max(1, gpus)
        on_cores = sum(job.threads * _seconds(job, field) for job in jobs) / cores if cores else 0.0
        return max(on_gpus, on_cores, longest_chain(jobs, field))

    return WallBound(gpus, cores, Span.of(least), [])


def render_plan(report: PlanReport, jobs: bool = False) -> str:
    """The plan as text of at most `WIDTH` columns, but for paths; with a line for every job where `jobs`."""
    makers = [_opening, _kinds, _walls, _notes, _basis, _rules, *([_jobs] if jobs else [])]
    parts = [list(maker(report)) for maker in makers]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _opening(report: PlanReport) -> Iterator[str]:
    yield from textwrap.wrap(report.caption, WIDTH)
    said = _counted(report.totals.jobs, "job") if report.totals.jobs else "nothing to do"
    targets = ", ".join(report.targets)
    yield from textwrap.wrap(f"Target {targets}: {said}, as Snakemake's dry run has it. Nothing was started.", WIDTH)


_COLUMNS = f"{'jobs':>6}{'GPU-hours':>12}{'from - to':>18}{'core-hours':>12}{'from - to':>16}{'unknown':>8}"


def _kinds(report: PlanReport) -> Iterator[str]:
    yield " " * 24 + _COLUMNS
    for kind, cost in report.kinds.items():
        if cost.jobs or kind in ("fetch", "training", "fine-tuning", "evaluation"):
            yield _cost_line(TITLES[kind], cost)
    yield _cost_line("total", report.totals)
    yield "from - to: by the fastest and the slowest measurement; where it is empty there is one only"


def _cost_line(name: str, cost: GroupCost) -> str:
    gpu, core = cost.gpu_hours, cost.core_hours
    unknown = f"{cost.unknown:,}" if cost.unknown else ""
    line = f"{name[:24]:<24}{cost.jobs:>6,}{_amount(gpu):>12}{_range(gpu):>18}{_amount(core):>12}{_range(core):>16}"
    return f"{line}{unknown:>8}".rstrip()


def _amount(hours: Span) -> str:
    return _number(hours.value) if hours.high else ""


def _range(hours: Span) -> str:
    low, high = _number(hours.low), _number(hours.high)
    return "" if low == high else f"{low} - {high}"


def _number(value: float) -> str:
    """Three digits, where there are some: 8,899, 12.3, 0.45."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else "<0.01"


def time_text(seconds: float) -> str:
    """Seconds in the unit that suits them: days, hours, minutes."""
    for unit, size in (("days", DAY), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} second{'s'[: round(seconds) != 1]}"


def _walls(report: PlanReport) -> Iterator[str]:
    def told(times: Span) -> str:
        low, high = time_text(times.low), time_text(times.high)
        return time_text(times.value) + ("" if low == high else f"  ({low} to {high})")

    yield "wall time, lower bounds:"
    for wall in report.wall:
        places = [_counted(wall.gpus, "GPU")] if wall.gpus or wall.cores is None else []
        places += [] if wall.cores is None else [_counted(wall.cores, "core")]
        most = f"{_counted(len(wall.unfit), 'job')} asking for up to {report.largest_job_gpus}"
        said = f"not possible: {most}; lower `gpus`" if wall.seconds is None else f"at least {told(wall.seconds)}"
        yield f"  {'on ' + ' and '.join(places):<28}{said}"
    yield f"  {'longest chain of jobs':<28}at least {told(report.critical_path)}"


def _notes(report: PlanReport) -> Iterator[str]:
    """Storage, and what stands in the way."""
    known = sum(one.bytes or 0 for one in report.storage)
    unknown = any(one.bytes is None for one in report.storage)
    yield f"storage: {size_text(known)}" + (", and unknown:" if unknown else "")
    for one in report.storage:
        yield from _hanging(f"  {one.what:<32}{size_text(one.bytes):>10}   {one.basis}", 47)
    if report.missing_data:
        named = ", ".join(f"{one.name} ({one.setting}: {one.root})" for one in report.missing_data)
        yield from _hanging(f"not on this machine, and of unknown size: {named}", 2)
    several = [job.attempts for job in report.jobs if job.attempts is not None and job.attempts.needed > 1]
    if several:
        most = max(several, key=lambda attempts: attempts.needed)
        yield f"{_counted(len(several), 'job')} with several starts, up to {most.needed} of {most.hours:g} h each"
    late = [job.attempts for job in report.jobs if job.id in report.over_budget]
    if late:
        worst = max(late, key=lambda attempts: attempts.needed / attempts.allowed)
        yield (
            f"{_counted(len(late), 'job')} with more starts than allowed, up to {worst.needed} of {worst.hours:g} h "
            f"where {worst.allowed} are: raise attempts or hours"
        )
    if unknown := report.totals.unknown:
        yield f"of unknown duration and in no estimate, as nothing like it was measured: {unknown:,} of the jobs"


def size_text(number: int | None) -> str:
    """Bytes in the unit that suits them."""
    if number is None:
        return "unknown"
    value, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _basis(report: PlanReport) -> Iterator[str]:
    if report.hardware:
        yield "GPU-hours are those of the hardware that was measured:"
        for name, cost in report.hardware.items():
            yield f"  {name:<44}{_amount(cost.gpu_hours):>10} GPU-hours of {_counted(cost.jobs, 'job')}"
    if report.sources:
        yield "estimates rest on (number of jobs):"
    for source, number in report.sources.items():
        yield from _hanging(f"{number:>6}  {source}", 8)
    if report.hardware:
        yield from textwrap.wrap(
            "assumed: time grows with multiply-adds; reading images does not hold up the GPUs; of several GPUs each "
            f"keeps {100 * report.assumptions.gpu_efficiency:g} % of its throughput; images of COCO and ADE20K are "
            f"{report.aspect_ratio:.2f} times as wide as high. Give your own measurements by --throughput.",
            WIDTH,
        )


def _hanging(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _rules(report: PlanReport) -> Iterator[str]:
    if report.rules:
        yield f"{'rule':<24}{_COLUMNS}"
    for rule in report.rules:
        yield _cost_line(rule.rule, rule)
        for reason, number in rule.reasons.items():
            yield from textwrap.wrap(f"{number}: {reason}", WIDTH, initial_indent="    ", subsequent_indent=" " * 8)


def _jobs(report: PlanReport) -> Iterator[str]:
    """One line per job: rule and what it is for, how long on what, and why."""
    for job in report.jobs:
        if job.kind != "targets":
            spent = "unknown time" if job.estimate is None else time_text(job.estimate.seconds)
            means = _counted(job.gpus, "GPU") if job.gpus else _counted(job.threads, "core")
            starts = f", {job.attempts.needed} starts" if job.attempts and job.attempts.needed > 1 else ""
            name = " ".join([job.rule, *job.wildcards.values()])
            yield from _hanging(f"{name}: {spent} on {means}{starts}; {job.reason}", 4)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s'[: number != 1]}"
