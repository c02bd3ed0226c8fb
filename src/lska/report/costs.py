"""What the results of a scale cost: wall time, core-hours and GPU-hours by task, from the results' own records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.report.gather import Contents, Results
from lska.settings.tasks import CONTROL, parse_task

HOUR = 3600.0
TRAINING, TUNING, NOTEBOOK = "training", "fine-tuning", "notebook"


@dataclass(frozen=True)
class RecordedJob:
    """One training, pass or measurement, as the file that it made tells it.

    `task` is `training`, `fine-tuning detection/retinanet`, `notebook table`, or the task of the metric files;
    `seconds` is wall time; `cores` are those held in today's configuration; `results` is the number of metric files,
    weights or notebooks that it made, `record` the content of one.
    """

    task: str
    made: str
    seconds: float
    cores: int = 1
    results: int = 1
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def core_hours(self) -> float:
        """Cores held, times hours."""
        return self.seconds * self.cores / HOUR

    @property
    def gpu_hours(self) -> float:
        """GPUs held, times hours."""
        on_gpu = str((self.record.get("environment") or {}).get("device", "")).startswith("cuda")
        return self.seconds * int(self.record.get("processes") or 1) / HOUR if on_gpu else 0.0

    @property
    def hardware(self) -> str:
        """Where it ran; empty where that is not known."""
        return str((self.record.get("environment") or {}).get("hardware") or "")


def recorded_jobs(results: Results) -> dict[str, list[RecordedJob]]:
    """All jobs by task: trainings, measurements, notebooks."""
    tasks: dict[str, list[RecordedJob]] = {}
    for job in (*recorded_trainings(results), *recorded_measurements(results), *recorded_notebooks(results.executed)):
        tasks.setdefault(job.task, []).append(job)
    return tasks


def recorded_trainings(results: Results) -> Iterator[RecordedJob]:
    """One job per sidecar: what made its weights; pretraining before fine-tuning, runs in the order of the tables."""
    config = results.config
    files = {path.relative_to(config.checkpoints): content for path, content in results.sidecars.items()}
    for path in sorted(files, key=lambda path: (path.parent.as_posix(), Run.parse(path.stem).sort_key)):
        content, parsed = files[path], parse_task(path.parent.as_posix())
        if content.get("origin", "trained") != "trained" or "seconds" not in content:
            continue
        task, settings = TRAINING, config.training
        if parsed is not None:
            section = config.dense.get(parsed.kind)
            task, settings = f"{TUNING} {parsed.kind}/{parsed.head}", section and section.heads.get(parsed.head)
        cores = settings.cores if settings else 1
        yield RecordedJob(task, path.with_suffix("").as_posix(), float(content["seconds"]), cores, record=content)


def recorded_measurements(results: Results) -> Iterator[RecordedJob]:
    """One job per metric file, or per pass where many runs were measured in one."""
    config = results.config
    sections = {item.task: item.section for item in config.measured}
    passes: dict[tuple[str, str], Contents] = {}
    for path, content in results.metrics.items():
        together = content["task"] in sections or content["task"] == "speed"
        passes.setdefault((content["task"], content["started" if together else "run"]), {})[path] = content
    for (task, _), files in passes.items():
        # The files of a pass share its start; the time until the last one is that of the pass.
        path, content = max(files.items(), key=lambda item: item[1]["seconds"])
        made = path.relative_to(config.results / "metrics").with_suffix("").as_posix()
        parsed = parse_task(task)
        section = sections.get(task, config if task == "classification" else parsed and config.dense.get(parsed.kind))
        cores = section.evaluation.cores if section else config.speed.cores if task == "speed" else 1
        yield RecordedJob(task.removesuffix(CONTROL), made, float(content["seconds"]), cores, len(files), content)


def recorded_notebooks(executed: Mapping[Path, Mapping[str, Any]]) -> Iterator[RecordedJob]:
    """One job per executed notebook, as papermill timed it."""
    for path, content in executed.items():
        seconds = content.get("metadata", {}).get("papermill", {}).get("duration")
        if seconds is not None:
            yield RecordedJob(f"{NOTEBOOK} {path.stem.partition('_')[0]}", path.stem, float(seconds))
