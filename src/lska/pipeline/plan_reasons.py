"""Why a job is to run, in the project's terms: what differs between what is there and what the configuration asks for.

Snakemake says which files are missing or newer; why, the sidecars, metric files and records tell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lska.files import vouched
from lska.finetuning import FineTuningJob
from lska.passes import Pass
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.workload import pass_of, updates_done, updates_of
from lska.roots import images_gone
from lska.runs import Run
from lska.weights.sidecars import measured_alike, read_sidecar
from lska.workflow import Plan

_WORDS = {
    "Missing output files": "missing",
    "Incomplete output files": "incomplete",
    "Updated input files": "newer input",
    "Input files updated by another job": "its input is made anew",
}
"""Snakemake's reasons that are followed by files."""


@dataclass(frozen=True)
class Reason:
    """A reason for a job; `detail` are the files and numbers in which jobs that run for the same reason differ."""

    what: str
    detail: str = ""

    def __str__(self) -> str:
        return self.what + self.detail


def reasons_of(plan: Plan, job: SnakemakeJob) -> list[Reason]:
    """Why a job runs, as far as the project knows more than Snakemake; otherwise Snakemake's reasons, shortened."""
    return list(_known(plan, job)) or list(_shortened(job.reason))


def _known(plan: Plan, job: SnakemakeJob) -> Iterator[Reason]:
    config = plan.config
    if (one := pass_of(plan, job)) is not None:
        counted = Counter(_unmeasured(plan, one, run) for run in one.runs)
        for reason, number in counted.items():
            yield Reason(reason, f" ({number} network{'s'[: number > 1]})")
    elif job.rule == "fetch":
        choice = plan.choices.of(job.wildcards["weights"])
        yield from [Reason(choice.reason)] if choice.fetched else []
    elif job.rule == "train":
        yield from _untrained(plan, job.wildcards["run"], Run.parse(job.wildcards["run"]))
    elif job.rule == "classification":
        run = job.wildcards["run"]
        yield from _score(plan, config.metric_path("classification", run), run, config.data_record)
    elif job.rule in ("fine_tune", "dense"):
        tuned = plan.job(job.wildcards["task"], job.wildcards["run"])
        scored = _score(plan, tuned.metrics, tuned.place, config.record_of(tuned.data))
        yield from scored if job.rule == "dense" else _untrained(plan, tuned.place, tuned)
    elif job.rule == "data":
        yield from _unmade(plan, job.wildcards["name"])


def _untrained(plan: Plan, name: str, training: Run | FineTuningJob) -> Iterator[Reason]:
    choice = plan.choices.of(name)
    if not choice.here:
        yield Reason(choice.reason)
    done, updates = updates_done(plan.config, training), updates_of(plan.config, training)
    if done and updates:
        yield Reason("goes on", f" after update {done:,} of {updates:,}")


def _unmade(plan: Plan, name: str) -> Iterator[Reason]:
    kind, data = plan.data_set(name)
    path = plan.config.record_of(data)
    record, item = vouched(path), next((item for item in plan.config.measured if item.name == kind), None)
    if not record and path.exists():
        yield Reason("its record is damaged")
    elif not record:
        yield Reason("not generated yet") if data.generate is not None else Reason(
            "not checked yet", f" (root {data.root})"
        )
    elif item is not None and record.get("inputs") != item.inputs():
        yield Reason("what the set is made of has changed")
    elif images_gone(data):
        yield Reason("its record is there, the generated images are not")


def _unmeasured(plan: Plan, one: Pass, run: Run) -> str:
    """Why a run is in a pass."""
    item = one.item
    for reason in _score(plan, item.metrics(run), str(run), item.record):
        return reason.what
    if (vouched(item.metrics(run)).get("detail") or {}).get("protocol") != item.protocol():
        return "measured in another way than today's settings"
    if vouched(item.record).get("inputs") != item.inputs():
        return "the data are to be made anew"
    return "a file of its results is missing"


def _score(plan: Plan, metrics: Path, name: str, record: Path) -> Iterator[Reason]:
    """Why a measurement on the weights of a network is missing or outdated; nothing where it is neither."""
    measured, sidecar = vouched(metrics), read_sidecar(plan.config.weights_path(name).with_suffix(".json"))
    known = vouched(record).get("digest")
    if not measured:
        yield Reason("its metric file is damaged" if metrics.exists() else "never measured")
    elif not plan.choices.of(name).vouched:
        yield Reason("its weights are to be trained anew")
    elif not measured_alike(measured, sidecar):
        same = (measured.get("weights") or {}).get("md5") == sidecar.get("md5")
        yield Reason("measured with other preprocessing" if same else "measured on other weights")
    elif known is not None and (measured.get("data") or {}).get("digest") != known:
        yield Reason("measured on other data")


def _shortened(reason: str) -> Iterator[Reason]:
    """Snakemake's reasons with long lists of files cut to the first and a number."""
    for part in re.split(r"; (?=[A-Z])", reason):
        head, _, listed = part.partition(": ")
        names = sorted(Path(file).name for file in listed.split(", "))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        # After other heads, Snakemake quotes whole parameters.
        yield Reason(_WORDS[head], f": {names[0]}{more}") if head in _WORDS else Reason(head.strip())
