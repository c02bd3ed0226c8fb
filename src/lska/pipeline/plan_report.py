"""What `lska plan` says: the jobs of a target with reasons and costs, as plain values for scripts and as text."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from textwrap import fill
from typing import Any

from lska.data.roots import PlannedJob, missing
from lska.pipeline.dry_run import SnakemakeJob, planned_jobs
from lska.pipeline.estimate import ASPECT_RATIO, OF_NETWORKS, Assumptions, Throughputs, known_throughputs, workloads
from lska.pipeline.products import Plan
from lska.settings.scale import read_settings
from lska.settings.tasks import place

HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class JobPlan(SnakemakeJob):
    """A job with what it costs; its `reason` is in the project's terms, and Snakemake's where it has none."""

    seconds: float | None = None
    """None where nothing that was measured tells, and for jobs that pass no images through networks."""
    sources: tuple[str, ...] = ()
    """What the estimate rests on."""


@dataclass(frozen=True)
class GroupCost:
    """What a group of jobs costs."""

    jobs: int
    unknown: int
    """Jobs without an estimate, in none of the hours."""
    gpu_hours: float
    core_hours: float
    """Of jobs that use no GPU."""
    reasons: dict[str, int]
    """Reasons with the number of jobs, the most frequent first."""


@dataclass(frozen=True)
class PlanReport:
    """What a target takes; as JSON, what `lska plan --json` prints."""

    scale: str
    caption: str
    targets: list[str]
    totals: GroupCost
    rules: dict[str, GroupCost]
    """By kind of job: Snakemake's rule; the passes of one set, and all notebooks, are one."""
    cores: int | None
    """That jobs share: this machine's, where no job uses a GPU; else None for any number."""
    wall: dict[int, float | None]
    """Lower bound of the seconds by number of GPUs; None where a job asks for more."""
    unmeasured: dict[str, int]
    """Jobs that pass images through networks and of whose duration nothing tells, by kind; in none of the times."""
    critical_path: float
    """Seconds of the longest chain of jobs: no number of GPUs makes it faster."""
    sources: dict[str, int]
    """What estimates rest on, with the number of jobs."""
    missing_data: dict[str, str]
    """Data sets that jobs read and that are not on this machine, with the setting and the place that it names."""
    assumptions: Assumptions
    jobs: list[JobPlan]
    """Every job of Snakemake's dry run, in its order; those without outputs only ask for the files of others."""


def make_report(
    config: Sequence[Path], overrides: Mapping[str, Any], targets: Sequence[str] = (), gpus: int | None = None,
    files: Sequence[Path] = (),
) -> PlanReport:  # fmt: skip
    """Plan what Snakemake would be asked for in the current folder, and estimate what it costs.

    Args:
        config: files, with `overrides` over their settings.
        gpus: for the wall time; None for as many as the largest job asks for.
        files: throughputs that the user measured.

    Raises:
        ValueError: a configuration or file of throughputs is wrong.
        PlanningError: Snakemake refuses the targets.
    """
    plan = Plan(read_settings(config), config, overrides)
    known = known_throughputs(plan.config, files)
    found = planned_jobs(Path.cwd(), config, overrides, targets)
    largest = max((job.gpus for job in found), default=0)
    cores, gpus = None if largest else os.cpu_count(), gpus or largest
    jobs, groups = [], defaultdict(list)
    for job in found:
        reason = plan.reasons(job.outputs, job.reason)
        # Snakemake scales threads down to the cores that there are.
        threads = min(job.threads, cores or job.threads)
        jobs.append(JobPlan(**{**vars(job), "reason": reason, "threads": threads, **_estimate(plan, job, known)}))
        if job.outputs:
            groups[plan.family(job.rule)].append(jobs[-1])
    absent = missing(plan.config.sources, [PlannedJob(job.inputs, job.outputs) for job in found])
    working = [job for job in jobs if job.outputs]
    return PlanReport(
        scale=plan.config.scale, caption=plan.config.caption, targets=list(targets) or ["all"], totals=_cost(working),
        rules={name: _cost(group) for name, group in sorted(groups.items())},
        cores=cores,
        wall={number: wall_seconds(jobs, number, cores) for number in ((gpus, 2 * gpus, 4 * gpus) if gpus else (0,))},
        unmeasured=dict(sorted(Counter(plan.family(job.rule) for job in working if _unmeasured(plan, job)).items())),
        critical_path=longest_chain(jobs),
        sources=dict(sorted(Counter(source for job in working for source in job.sources).items())),
        missing_data={data.name: f"{place(data.kind)}.root: {data.root}" for data in absent},
        assumptions=known.assumed, jobs=jobs,
    )  # fmt: skip


def _estimate(plan: Plan, job: SnakemakeJob, known: Throughputs) -> dict[str, Any]:
    """The fields of a `JobPlan` that say what the job costs; none where nothing tells."""
    if job.rule == "speed":
        # Every network runs for a least time in every repetition, apart from warming up.
        least = len(job.outputs) * plan.config.speed.repeats * plan.config.speed.seconds
        return {"seconds": least, "sources": ("the protocol of `speed`: its least duration",)}
    parts = [known.spent(work) for work in workloads(plan, job)]
    if not parts or None in parts:
        return {}
    seconds, sources = zip(*parts, strict=True)
    return {"seconds": sum(seconds), "sources": tuple(dict.fromkeys(sources))}


def _unmeasured(plan: Plan, job: JobPlan) -> bool:
    uses = job.rule in OF_NETWORKS or job.rule in {one.name for one in plan.passes}
    return uses and job.seconds is None


def _cost(group: Sequence[JobPlan]) -> GroupCost:
    timed = [job for job in group if job.seconds is not None]
    return GroupCost(
        len(group), len(group) - len(timed), sum(job.seconds * job.gpus for job in timed) / HOUR,
        sum(job.seconds * job.threads for job in timed if not job.gpus) / HOUR,
        dict(Counter(job.reason for job in group).most_common()),
    )  # fmt: skip


def longest_chain(jobs: Sequence[JobPlan]) -> float:
    """Seconds of the longest chain of jobs that wait for each other."""
    by_id, ends = {job.id: job for job in jobs}, {}
    for number in TopologicalSorter({job.id: job.needs for job in jobs}).static_order():
        before = max((ends[need] for need in by_id[number].needs), default=0.0)
        ends[number] = before + (by_id[number].seconds or 0.0)
    return max(ends.values(), default=0.0)


def wall_seconds(jobs: Sequence[JobPlan], gpus: int, cores: int | None) -> float | None:
    """The least time that jobs take on so many GPUs and cores: the longest chain of them or, where that is more, all
    work spread evenly; None where a job asks for more GPUs. Jobs of unknown duration take no time."""
    if any(job.gpus > gpus for job in jobs):
        return None
    on_gpus = sum(job.gpus * (job.seconds or 0.0) for job in jobs) / max(1, gpus)
    on_cores = sum(job.threads * (job.seconds or 0.0) for job in jobs) / cores if cores else 0.0
    return max(on_gpus, on_cores, longest_chain(jobs))


def render_plan(report: PlanReport, jobs: bool = False) -> str:
    """The plan as text; with a line for every job where `jobs`."""
    asked = f"Target {', '.join(report.targets)}: {report.totals.jobs:,} job(s)"
    lines = [report.caption, f"{asked}, by Snakemake's dry run. Nothing was started.", ""]
    if report.unmeasured:
        jobs_of = ", ".join(f"{number:,} {name}" for name, number in report.unmeasured.items())
        unknown = f"Not known is how long these jobs take, as nothing like them was measured: {jobs_of}."
        lines += [fill(unknown, 110), "Run one of each and plan again.", "wall time of all others, lower bounds:"]
    else:
        lines.append("wall time, lower bounds:")
    for gpus, seconds in report.wall.items():
        said = "not possible: a job asks for more" if seconds is None else f"at least {time_text(seconds)}"
        lines.append(f"  {f'on {gpus} GPU(s)' if gpus else f'on {report.cores} core(s)':<24}{said}")
    lines.append(f"  {'longest chain of jobs':<24}at least {time_text(report.critical_path)}")
    lines += [f"not on this machine: {name} ({place})" for name, place in report.missing_data.items()]
    lines += ["", f"{'rule':<24}{'jobs':>6}{'GPU-hours':>12}{'core-hours':>12}{'unknown':>9}  reason"]
    for name, cost in [*report.rules.items(), ("total", report.totals)]:
        hours = "".join(f"{f'{value:,.2f}' if value else '':>12}" for value in (cost.gpu_hours, cost.core_hours))
        reasons = [] if name == "total" else [f"{number}: {reason}" for reason, number in cost.reasons.items()]
        only = next(iter(cost.reasons)) if len(reasons) == 1 else ""
        lines.append(f"{name:<24}{cost.jobs:>6,}{hours}{cost.unknown or '':>9}  {only}".rstrip())
        lines += [f"    {reason}" for reason in reasons if not only]
    if report.totals.unknown:
        lines.append("unknown: nothing like it was measured, or no images pass through networks (tables, checks)")
    if report.sources:
        lines += ["", "estimates rest on (number of jobs):"]
        lines += [f"{number:>6}  {source}" for source, number in report.sources.items()]
        lines += [
            "assumed: time grows with multiply-adds; reading images does not hold up the GPUs; of several GPUs each",
            f"keeps {100 * report.assumptions.gpu_efficiency:g} % of its throughput; images of COCO and ADE20K are "
            f"{ASPECT_RATIO:.2f} times as wide as high.",
            "GPU-hours of different cards do not compare. Give your own measurements by --throughput.",
        ]
    for job in report.jobs if jobs else ():
        if job.outputs:
            spent = "unknown time" if job.seconds is None else time_text(job.seconds)
            means = f"{job.gpus} GPU(s)" if job.gpus else f"{job.threads} core(s)"
            lines.append(f"{' '.join([job.rule, *job.wildcards.values()])}: {spent} on {means}; {job.reason}")
    return "\n".join(lines) + "\n"


def time_text(seconds: float) -> str:
    """Seconds in the unit that suits them: days, hours, minutes, seconds."""
    for unit, size in (("days", DAY), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
