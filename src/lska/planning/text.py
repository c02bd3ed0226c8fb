"""The plan for people: a summary of one screen, then the rules, then every job where asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDTH = 96

TITLES = {
    "fetch": "fetch",
    "data": "check or generate data",
    "training": "train",
    "fine-tuning": "fine-tune",
    "evaluation": "evaluate",
    "counting": "count operations",
    "tables": "tables and figures",
    "other": "other",
}
"""What jobs do, as the summary calls it."""

_HEAD = f"{'':<24}{'jobs':>6}{'GPU-hours':>12}{'from - to':>18}{'core-hours':>12}{'from - to':>16}{'unknown':>8}"


def render(document: Mapping[str, Any], jobs: bool = False) -> str:
    """The plan as text of at most `WIDTH` columns, but for paths; with a line for every job where `jobs`."""
    makers = [_opening, _kinds, _wall, _notes, _basis, _rules, *([_jobs] if jobs else [])]
    parts = [list(maker(document)) for maker in makers]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _opening(document: Mapping[str, Any]) -> Iterator[str]:
    yield from textwrap.wrap(document["caption"], WIDTH)
    targets, number = ", ".join(document["targets"]), document["totals"]["jobs"]
    said = f"{number:,} job{'s'[: number != 1]}" if number else "nothing to do"
    yield from textwrap.wrap(f"Target {targets}: {said}, as Snakemake's dry run has it. Nothing was started.", WIDTH)


def _kinds(document: Mapping[str, Any]) -> Iterator[str]:
    yield _HEAD
    for kind, cost in document["kinds"].items():
        if cost["jobs"] or kind in ("fetch", "training", "fine-tuning", "evaluation"):
            yield _cost_line(TITLES[kind], cost)
    yield _cost_line("total", document["totals"])
    yield "from - to: by the fastest and the slowest measurement; where it is empty there is one only"


def _cost_line(name: str, cost: Mapping[str, Any]) -> str:
    gpu, core = cost["gpu_hours"], cost["core_hours"]
    unknown = f"{cost['unknown']:,}" if cost["unknown"] else ""
    line = f"{name[:24]:<24}{cost['jobs']:>6,}{_amount(gpu):>12}{_span(gpu):>18}{_amount(core):>12}{_span(core):>16}"
    return f"{line}{unknown:>8}".rstrip()


def _amount(hours: Mapping[str, float]) -> str:
    return _number(hours["value"]) if hours["high"] else ""


def _span(hours: Mapping[str, float]) -> str:
    low, high = _number(hours["low"]), _number(hours["high"])
    return "" if low == high else f"{low} - {high}"


def _number(value: float) -> str:
    """Three digits at least where there are some: 8,899, 12.3, 0.45."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else "<0.01"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: days, hours, minutes."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} second{'s'[: round(seconds) != 1]}"


def _range(times: Mapping[str, float]) -> str:
    low, high = duration(times["low"]), duration(times["high"])
    return duration(times["value"]) + ("" if low == high else f"  ({low} to {high})")


def _wall(document: Mapping[str, Any]) -> Iterator[str]:
    for wall in document["wall"]:
        cores = "" if wall["cores"] is None else f"{wall['cores']} core{'s'[: wall['cores'] != 1]}"
        gpus = f"{wall['gpus']:,} GPU{'s'[: wall['gpus'] != 1]}" if wall["gpus"] or not cores else ""
        place = f"wall time at {' and '.join(filter(None, (gpus, cores)))}"
        if wall["seconds"] is None:
            most = document["largest_job_gpus"]
            yield f"{place:<36}not possible: {_number_of(wall['unfit'])} asking for up to {most}; lower `gpus`"
        else:
            yield f"{place:<36}{_range(wall['seconds'])}"
    yield f"{'longest chain of jobs (lower bound)':<36}{_range(document['critical_path'])}"


def _notes(document: Mapping[str, Any]) -> Iterator[str]:
    """Storage, and what stands in the way."""
    amounts = [one for one in document["storage"] if one["files"]]
    known = sum(one["bytes"] or 0 for one in amounts)
    yield f"storage: {size(known)}" + ("" if all(one["bytes"] is not None for one in amounts) else ", and unknown:")
    for one in amounts:
        yield from _hanging(f"  {one['what']:<32}{size(one['bytes']):>10}   {one['basis']}", 47)
    yield from _warnings(document)


def _warnings(document: Mapping[str, Any]) -> Iterator[str]:
    if missing := document["missing_data"]:
        named = ", ".join(f"{one['name']} ({one['setting']}: {one['root']})" for one in missing)
        yield from _hanging(f"not on this machine, and of unknown size: {named}", 2)
    yield from _restarts(document)
    if document["over_budget"]:
        late = [job for job in document["jobs"] if job["id"] in document["over_budget"]]
        worst = max(late, key=lambda job: job["attempts"]["needed"] / job["attempts"]["allowed"])["attempts"]
        yield (
            f"{_number_of(late)} with more starts than allowed, up to {worst['needed']} of {worst['hours']:g} h "
            f"where {worst['allowed']} are: raise attempts or hours"
        )
    if unknown := document["totals"]["unknown"]:
        yield f"of unknown duration and in no estimate, as nothing like it was measured: {unknown:,} of the jobs"


def _number_of(jobs: Sequence[Any]) -> str:
    return f"{len(jobs):,} job{'s'[: len(jobs) != 1]}"


def _restarts(document: Mapping[str, Any]) -> Iterator[str]:
    """Jobs that are longer than one attempt."""
    several = [job for job in document["jobs"] if job["attempts"] is not None and job["attempts"]["needed"] > 1]
    if several:
        most = max((job["attempts"] for job in several), key=lambda attempts: attempts["needed"])
        yield f"{_number_of(several)} with several starts, up to {most['needed']} of {most['hours']:g} h each"


def size(number: int | None) -> str:
    """Bytes in the unit that suits them."""
    if number is None:
        return "unknown"
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _basis(document: Mapping[str, Any]) -> Iterator[str]:
    if len(document["hardware"]) > 0:
        yield "GPU-hours are those of the hardware that was measured:"
        for one in document["hardware"]:
            yield f"  {one['hardware']:<44}{_amount(one['gpu_hours']):>10} GPU-hours of {one['jobs']:,} jobs"
    if document["sources"]:
        yield "estimates rest on (number of jobs):"
    for one in document["sources"]:
        yield from _hanging(f"{one['jobs']:>6}  {one['source']}", 8)
    if document["hardware"]:
        assumed = document["assumptions"]
        yield from textwrap.wrap(
            "assumed: time grows with multiply-adds; reading images does not hold up the GPUs; of several GPUs each "
            f"keeps {100 * assumed['gpu_efficiency']:g} % of its throughput; images of COCO and ADE20K are "
            f"{assumed['aspect_ratio']:.2f} times as wide as high. Give your own measurements by --throughput.",
            WIDTH,
        )


def _hanging(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _rules(document: Mapping[str, Any]) -> Iterator[str]:
    if document["rules"]:
        yield _HEAD.replace(" " * 24, f"{'rule':<24}", 1)
    for rule in document["rules"]:
        yield _cost_line(rule["rule"], rule)
        for reason, number in rule["reasons"].items():
            yield from textwrap.wrap(f"{number}: {reason}", WIDTH, initial_indent="    ", subsequent_indent=" " * 8)


def _jobs(document: Mapping[str, Any]) -> Iterator[str]:
    """One line per job: rule and what it is for, how long on what, and why."""
    for job in document["jobs"]:
        if job["kind"] != "targets":
            name = " ".join([job["rule"], *job["wildcards"].values()])
            yield from _hanging(f"{name}: {_spent(job)}; {job['reason']}", 4)


def _spent(job: Mapping[str, Any]) -> str:
    found, means = job["estimate"], _means(job)
    if found is None:
        return f"unknown time {means}"
    attempts = job["attempts"]
    starts = f", {attempts['needed']} starts" if attempts is not None and attempts["needed"] > 1 else ""
    return f"{duration(found['seconds'])} {means}{starts}"


def _means(job: Mapping[str, Any]) -> str:
    number, unit = (job["gpus"], "GPU") if job["gpus"] else (job["threads"], "core")
    return f"on {number} {unit}{'s'[: number != 1]}"
