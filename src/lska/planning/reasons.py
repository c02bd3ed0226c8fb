"""Why a job is to run, in the project's terms: what differs between what is there and what the configuration asks for.

Snakemake says which files are missing or newer; why, the sidecars, metric files and records tell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lska.data.roots import images_gone
from lska.files import vouched
from lska.passes import Pass
from lska.planning.dag import Job
from lska.planning.progress import done, steps
from lska.runs import Run
from lska.weights.sidecars import measured_alike, read_sidecar
from lska.workflow import Plan


@dataclass(frozen=True)
class Reasons:
    """Reasons for the jobs of a scale."""

    plan: Plan

    def of(self, job: Job) -> str:
        """Why a job runs, as far as the project knows more than Snakemake; otherwise Snakemake's reason, shortened."""
        by_rule: dict[str, Callable[[Job], str | None]] = {
            "train": self._training,
            "fine_tune": self._fine_tuning,
            "fetch": self._fetch,
            "classification": self._classification,
            "dense": self._dense,
            "data": self._data,
        }
        one = next((one for one in self.plan.passes if one.name == job.rule), None)
        found = self._pass(one) if one is not None else by_rule.get(job.rule, lambda job: None)(job)
        return found or shortened(job.reason)

    def _training(self, job: Job) -> str | None:
        config, run = self.plan.config, Run.parse(job.wildcards["run"])
        return _joined(self._untrained(str(run)), _resumed(done(config, run), steps(config, run)))

    def _fine_tuning(self, job: Job) -> str | None:
        tuned = self.plan.job(job.wildcards["task"], job.wildcards["run"])
        resumed = _resumed(done(self.plan.config, tuned), steps(self.plan.config, tuned))
        return _joined(self._untrained(tuned.place), resumed)

    def _untrained(self, name: str) -> str | None:
        """Why the weights of a network are to be trained; None where Snakemake alone knows."""
        choice = self.plan.choices.of(name)
        return None if choice.here else choice.reason

    def _fetch(self, job: Job) -> str | None:
        choice = self.plan.choices.of(job.wildcards["weights"])
        return choice.reason if choice.fetched else None

    def _classification(self, job: Job) -> str | None:
        config, run = self.plan.config, Run.parse(job.wildcards["run"])
        return self._score(config.metric_path("classification", run), str(run), config.data_record)

    def _dense(self, job: Job) -> str | None:
        tuned = self.plan.job(job.wildcards["task"], job.wildcards["run"])
        return self._score(tuned.metrics, tuned.place, self.plan.config.record_of(tuned.data))

    def _data(self, job: Job) -> str | None:
        kind, data = self.plan.data_set(job.wildcards["name"])
        record = vouched(self.plan.config.record_of(data))
        if not record:
            made = "not generated yet" if data.generate is not None else f"not checked yet (root {data.root})"
            return made if not self.plan.config.record_of(data).exists() else "its record is damaged"
        item = next((item for item in self.plan.config.measured if item.name == kind), None)
        if item is not None and record.get("inputs") != item.inputs():
            return "what the set is made of has changed"
        return "its record is there, the generated images are not" if images_gone(data) else None

    def _pass(self, one: Pass) -> str:
        counted = Counter(self._unmeasured(one, run) for run in one.runs)
        return "; ".join(f"{reason} ({number} network{'s'[: number > 1]})" for reason, number in counted.items())

    def _unmeasured(self, one: Pass, run: Run) -> str:
        item = one.item
        found = self._score(item.metrics(run), str(run), item.record)
        if found is not None:
            return found
        measured = vouched(item.metrics(run))
        if (measured.get("detail") or {}).get("protocol") != item.protocol():
            return "measured in another way than today's settings"
        if vouched(item.record).get("inputs") != item.inputs():
            return "the data are to be made anew"
        return "a file of its results is missing"

    def _score(self, metrics: Path, name: str, record: Path) -> str | None:
        """Why a measurement on the weights of a network is missing or outdated; None where it is neither."""
        measured, sidecar = vouched(metrics), read_sidecar(self.plan.config.weights_path(name).with_suffix(".json"))
        if not measured:
            return "never measured" if not metrics.exists() else "its metric file is damaged"
        if not self.plan.choices.of(name).vouched:
            return "its weights are to be trained anew"
        if not measured_alike(measured, sidecar):
            same = (measured.get("weights") or {}).get("md5") == sidecar.get("md5")
            return "measured with other preprocessing" if same else "measured on other weights"
        known = vouched(record).get("digest")
        if known is not None and (measured.get("data") or {}).get("digest") != known:
            return "measured on other data"
        return None


def _resumed(updates: int, of: int | None) -> str | None:
    return f"goes on after update {updates:,} of {of:,}" if updates and of else None


def _joined(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None


_FILES = {
    "Missing output files": "missing: {files}",
    "Incomplete output files": "incomplete: {files}",
    "Updated input files": "newer input: {files}",
    "Input files updated by another job": "its input is made anew: {files}",
}


def shortened(reason: str) -> str:
    """Snakemake's reason with long lists of files cut to the first and a number.

    >>> shortened("Missing output files: a/b.json, a/c.json; Code has changed since last execution")
    'missing: b.json and 1 more; Code has changed since last execution'
    """
    parts = []
    for part in re.split(r"; (?=[A-Z])", reason):
        head, _, listed = part.partition(": ")
        # After other heads, Snakemake quotes whole parameters.
        parts.append(_FILES[head].format(files=_first(listed.split(", "))) if head in _FILES else head.strip())
    return "; ".join(parts)


def _first(files: list[str]) -> str:
    names = sorted(Path(file).name for file in files)
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
