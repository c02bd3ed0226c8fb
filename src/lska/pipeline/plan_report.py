"""What `lska plan` says: the jobs of a target with reasons and costs, as plain values for scripts and as text.

The dataclasses are the form for scripts: `PlanReport` as JSON, of which `lska plan --schema` prints the JSON schema.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from lska.data.roots import PlannedJob, missing
from lska.models.runs import Run
from lska.pipeline.dry_run import DryRun, SnakemakeJob, planned_jobs
from lska.pipeline.products import Plan
from lska.pipeline.throughput import Assumptions, Throughputs, known_throughputs
from lska.pipeline.workload import ASPECT_RATIO, pass_of, updates_of, workloads
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import code_version
from lska.provenance.strict import merge

WIDTH, HOUR, DAY = 96, 3600.0, 86400.0


@dataclass(frozen=True)
class JobPlan(SnakemakeJob):
    """A job with what it costs; its `reason` is in the project's terms, and Snakemake's where it has none."""

    seconds: float | None = None
    """None where nothing that was measured tells, and for jobs that pass no images through networks."""
    saved_seconds: float = 0.0
    """What an interrupted training has taken already and goes on from."""
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
    """Reasons with the number of jobs, the most frequent first, without what differs by job."""


@dataclass(frozen=True)
class PlanReport:
    """What a target takes."""

    scale: str
    caption: str
    config: list[str]
    overrides: dict[str, Any]
    targets: list[str]
    code: dict[str, Any]
    """Commit, and whether tracked files differ from it."""
    totals: GroupCost
    rules: dict[str, GroupCost]
    """By kind of job: Snakemake's rule; the passes of one set, and all notebooks, are one."""
    hours_saved: float
    """What interrupted trainings have taken already and go on from."""
    largest_job_gpus: int
    cores: int | None
    """That jobs share; None for any number."""
    wall: dict[int, float | None]
    """Lower bound of the seconds by number of GPUs; None where a job asks for more."""
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
    known = known_throughputs(plan.config, files, hardware)
    found = planned_jobs(asked, project)
    largest = max((job.gpus for job in found), default=0)
    gpus = gpus or largest
    cores = os.cpu_count() if cores is None and not largest else cores
    makers, jobs = plan.makers(), []
    groups: dict[str, list[JobPlan]] = defaultdict(list)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for job in found:
        # Snakemake scales threads down to the cores that there are.
        job = replace(job, threads=min(job.threads, cores or job.threads))
        products = dict.fromkeys(makers[file] for file in job.outputs if file in makers)
        # Other jobs have Snakemake's reasons, without the files and parameters that follow a colon.
        why = "; ".join(dict.fromkeys(map(plan.reason, products))) or re.sub(r":.*?(?=; [A-Z]|$)", "", job.reason)
        jobs.append(_planned(plan, replace(job, reason=why), known))
        if job.outputs:
            one = pass_of(plan, job)
            family = re.sub("^notebook_.*", "notebook", job.rule) if one is None else one.item.rule
            groups[family].append(jobs[-1])
            reasons[family][why] += 1
    absent = missing(plan.config.sources, [PlannedJob(job.inputs, job.outputs) for job in found])
    working = [job for job in jobs if job.outputs]
    return PlanReport(
        scale=plan.config.scale, caption=plan.config.caption, config=[str(path) for path in asked.config],
        overrides=dict(asked.overrides), targets=list(asked.targets) or ["all"], code=code_version(),
        totals=_cost(working, sum(reasons.values(), Counter())),
        rules={name: _cost(groups[name], reasons[name]) for name in sorted(groups)},
        hours_saved=sum(job.saved_seconds for job in jobs) / HOUR,
        largest_job_gpus=largest, cores=cores,
        wall={number: wall_seconds(jobs, number, cores) for number in ((gpus, 2 * gpus, 4 * gpus) if gpus else (0,))},
        critical_path=longest_chain(jobs),
        sources=dict(sorted(Counter(source for job in working for source in job.sources).items())),
        missing_data={one.data.name: f"{one.setting}: {one.data.root}" for one in absent},
        assumptions=known.assumed, jobs=jobs,
    )  # fmt: skip


def report_schema() -> dict[str, Any]:
    """The JSON schema of a `PlanReport`, with what the dataclasses say of their fields."""
    from pydantic import TypeAdapter

    return TypeAdapter(PlanReport).json_schema(mode="serialization")


def _planned(plan: Plan, job: SnakemakeJob, known: Throughputs) -> JobPlan:
    """A job with its estimate; of an interrupted training, its reason says where it goes on."""
    reason = job.reason
    if job.rule in ("train", "fine_tune"):
        run = job.wildcards["run"]
        training = Run.parse(run) if job.rule == "train" else plan.job(job.wildcards["task"], run)
        done, updates = updates_of(plan.config, training)
        reason += f"; goes on after update {done:,} of {updates:,}" if done and updates else ""
    made = JobPlan(**{**vars(job), "reason": reason})
    if job.rule == "speed":
        # Every network runs for a least time in every repetition, apart from warming up.
        least = len(job.outputs) * plan.config.speed.repeats * plan.config.speed.seconds
        return replace(made, seconds=least, sources=("the protocol of `speed`: its least duration",))
    parts = [known.spent(work) for work in workloads(plan, job) or ()]
    if not parts or None in parts:
        return made
    seconds, saved, sources = zip(*parts, strict=True)
    return replace(made, seconds=sum(seconds), saved_seconds=sum(saved), sources=tuple(dict.fromkeys(sources)))


def _cost(group: Sequence[JobPlan], reasons: Counter[str]) -> GroupCost:
    timed = [job for job in group if job.seconds is not None]
    return GroupCost(
        len(group), len(group) - len(timed), sum(job.seconds * job.gpus for job in timed) / HOUR,
        sum(job.seconds * job.threads for job in timed if not job.gpus) / HOUR, dict(reasons.most_common()),
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
    """The plan as text of at most `WIDTH` columns, but for paths; with a line for every job where `jobs`."""
    lines = textwrap.wrap(report.caption, WIDTH)
    count = _counted(report.totals.jobs, "job") if report.totals.jobs else "nothing to do"
    asked = f"Target {', '.join(report.targets)}: {count}, as Snakemake's dry run has it. Nothing was started."
    lines += [*textwrap.wrap(asked, WIDTH), "", "wall time, lower bounds:"]
    for gpus, seconds in report.wall.items():
        places = [_counted(gpus, "GPU")] if gpus or report.cores is None else []
        places += [] if report.cores is None else [_counted(report.cores, "core")]
        most = f"not possible: a job asks for {report.largest_job_gpus}; lower `gpus`"
        said = most if seconds is None else f"at least {time_text(seconds)}"
        lines.append(f"  {'on ' + ' and '.join(places):<28}{said}")
    lines.append(f"  {'longest chain of jobs':<28}at least {time_text(report.critical_path)}")
    if report.hours_saved:
        lines.append(f"interrupted trainings go on: {time_text(HOUR * report.hours_saved)} of theirs are done already")
    if report.missing_data:
        named = ", ".join(f"{name} ({place})" for name, place in report.missing_data.items())
        lines += _hanging(f"not on this machine: {named}", 2)
    lines += ["", f"{'rule':<24}{'jobs':>6}{'GPU-hours':>12}{'core-hours':>12}{'unknown':>9}"]
    for name, cost in [*report.rules.items(), ("total", report.totals)]:
        hours = "".join(f"{_number(value) if value else '':>12}" for value in (cost.gpu_hours, cost.core_hours))
        lines.append(f"{name[:24]:<24}{cost.jobs:>6,}{hours}{cost.unknown or '':>9}".rstrip())
        for reason, number in cost.reasons.items() if name != "total" else ():
            lines += textwrap.wrap(f"{number}: {reason}", WIDTH, initial_indent="    ", subsequent_indent=" " * 8)
    if report.totals.unknown:
        lines.append("unknown: nothing like it was measured, or no images pass through networks (tables, checks)")
    if report.sources:
        lines += ["", "estimates rest on (number of jobs):"]
        for source, number in report.sources.items():
            lines += _hanging(f"{number:>6}  {source}", 8)
        share = f"{100 * report.assumptions.gpu_efficiency:g} %"
        lines += textwrap.wrap(
            "assumed: time grows with multiply-adds; reading images does not hold up the GPUs; of several GPUs each "
            f"keeps {share} of its throughput; images of COCO and ADE20K are {ASPECT_RATIO:.2f} times as wide as high. "
            "GPU-hours of different cards do not compare. Give your own measurements by --throughput.",
            WIDTH,
        )
    for job in report.jobs if jobs else ():
        if job.outputs:
            spent = "unknown time" if job.seconds is None else time_text(job.seconds)
            means = _counted(job.gpus, "GPU") if job.gpus else _counted(job.threads, "core")
            name = " ".join([job.rule, *job.wildcards.values()])
            lines += _hanging(f"{name}: {spent} on {means}; {job.reason}", 4)
    return "\n".join(lines) + "\n"


def _hanging(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


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


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s'[: number != 1]}"
