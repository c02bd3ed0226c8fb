"""Why a job is to run, in the project's terms (`lska.pipeline.current`), where Snakemake says which files it lacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lska.models.runs import Run
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.products import Plan
from lska.pipeline.workload import updates_done, updates_of

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
    makers = plan.makers()
    made = list(dict.fromkeys(makers[file] for file in job.outputs if file in makers))
    if not made:
        return list(_shortened(job.reason))
    counted = Counter(plan.reason(name) for name in made)
    reasons = [Reason(why, f" ({number} networks)" if number > 1 else "") for why, number in counted.items()]
    return reasons + list(_continued(plan, job))


def _continued(plan: Plan, job: SnakemakeJob) -> Iterator[Reason]:
    """How far a training is that goes on."""
    if job.rule not in ("train", "fine_tune"):
        return
    run = job.wildcards["run"]
    training = Run.parse(run) if job.rule == "train" else plan.job(job.wildcards["task"], run)
    done, updates = updates_done(plan.config, training), updates_of(plan.config, training)
    if done and updates:
        yield Reason("goes on", f" after update {done:,} of {updates:,}")


def _shortened(reason: str) -> Iterator[Reason]:
    """Snakemake's reasons with long lists of files cut to the first and a number."""
    for part in re.split(r"; (?=[A-Z])", reason):
        head, _, listed = part.partition(": ")
        names = sorted(Path(file).name for file in listed.split(", "))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        # After other heads, Snakemake quotes whole parameters.
        yield Reason(_WORDS[head], f": {names[0]}{more}") if head in _WORDS else Reason(head.strip())
