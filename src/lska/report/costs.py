"""What the results of a scale cost: wall time, core-hours and GPU-hours, by rule, from the results' own records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.finetuning import parse_task
from lska.launching import evaluation_threads, training_threads
from lska.report.gather import Contents, Results
from lska.runs import Run

HOUR = 3600.0


@dataclass(frozen=True)
class Job:
    """One training, pass or measurement: what it made, its wall time in seconds, and the cores and GPUs it held."""

    rule: str
    made: str
    results: int
    """Metric files, weights or notebooks that it made."""
    seconds: float
    cores: int
    gpus: int
    hardware: str

    @property
    def core_hours(self) -> float:
        """Cores held, times hours."""
        return self.seconds * self.cores / HOUR

    @property
    def gpu_hours(self) -> float:
        """GPUs held, times hours."""
        return self.seconds * self.gpus / HOUR


@dataclass(frozen=True)
class Cost:
    """The jobs of a rule, or of all."""

    rule: str
    jobs: tuple[Job, ...]

    @property
    def seconds(self) -> float:
        """Wall time of all jobs, as if one followed the other."""
        return sum(job.seconds for job in self.jobs)

    @property
    def results(self) -> int:
        """Metric files, weights or notebooks that the jobs made."""
        return sum(job.results for job in self.jobs)

    @property
    def longest(self) -> float:
        """Wall time of the longest job, in seconds."""
        return max((job.seconds for job in self.jobs), default=0.0)

    @property
    def core_hours(self) -> float:
        """Core-hours of all jobs."""
        return sum(job.core_hours for job in self.jobs)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all jobs."""
        return sum(job.gpu_hours for job in self.jobs)

    @property
    def hardware(self) -> str:
        """Where the jobs ran."""
        return ", ".join(sorted({job.hardware for job in self.jobs if job.hardware}))


def costs(results: Results) -> list[Cost]:
    """The cost of each rule, in the order of the workflow."""
    jobs = [*trainings(results), *measurements(results), *notebooks(results.executed)]
    rules = dict.fromkeys(job.rule for job in jobs)
    return [Cost(rule, tuple(job for job in jobs if job.rule == rule)) for rule in rules]


def total(found: Iterable[Cost]) -> Cost:
    """All rules together."""
    return Cost("all", tuple(job for cost in found for job in cost.jobs))


def trainings(results: Results) -> Iterator[Job]:
    """One job per sidecar: what made its weights; pretraining before fine-tuning, runs in the order of the tables."""
    config = results.config
    folder = config.weights_path("run").parent
    for path, content in sorted(results.sidecars.items(), key=lambda item: _order(item[0].relative_to(folder))):
        task = path.parent.relative_to(folder).as_posix()
        if content.get("origin", "trained") == "trained" and "seconds" in content:
            rule, cores = ("train", training_threads(config.training)) if task == "." else _fine_tuning(config, task)
            yield _job(rule, path.relative_to(folder), content, cores)


def _fine_tuning(config: Config, task: str) -> tuple[str, int]:
    parsed = parse_task(task)
    section = config.dense.get(parsed.kind) if parsed else None
    settings = section.heads.get(parsed.head) if section else None
    return "fine_tune", 1 if settings is None else training_threads(settings)


def measurements(results: Results) -> Iterator[Job]:
    """One job per metric file, or per pass where many runs were measured in one."""
    together = {item.task for item in results.config.measured} | {"speed"}
    passes: dict[tuple[str, str], Contents] = {}
    for path, content in results.metrics.items():
        key = (content["task"], content["started"] if content["task"] in together else content["run"])
        passes.setdefault(key, {})[path] = content
    for files in passes.values():
        # The files of a pass share its start; the time until the last one is that of the pass.
        path, content = max(files.items(), key=lambda item: item[1]["seconds"])
        rule, cores = _rule(results.config, content["task"])
        yield _job(rule, path.relative_to(results.config.results / "metrics"), content, cores, len(files))


def _rule(config: Config, task: str) -> tuple[str, int]:
    """The rule that measures `task`, and the cores that it holds in today's configuration."""
    for item in config.measured:
        if item.task == task:
            return item.rule, evaluation_threads(item.section.evaluation)
    parsed = parse_task(task)
    if parsed is not None:
        section = config.dense.get(parsed.kind)
        return "dense", 1 if section is None else evaluation_threads(section.evaluation)
    if task == "classification":
        return task, evaluation_threads(config.evaluation)
    return task.replace("/", "_"), config.speed.threads if task == "speed" else 1


def _job(rule: str, made: Path, content: dict[str, Any], cores: int, count: int = 1) -> Job:
    where = content.get("environment") or {}
    on_gpu = str(where.get("device", "")).startswith("cuda")
    gpus = int(content.get("processes") or 1) if on_gpu else 0
    name = made.with_suffix("").as_posix()
    return Job(rule, name, count, float(content.get("seconds", 0)), cores, gpus, str(where.get("hardware") or ""))


def notebooks(executed: Contents) -> Iterator[Job]:
    """One job per executed notebook, as papermill timed it."""
    for path, content in executed.items():
        seconds = content.get("metadata", {}).get("papermill", {}).get("duration")
        if seconds is not None:
            yield Job(f"notebook_{path.stem.partition('_')[0]}_*", path.stem, 1, float(seconds), 1, 0, "")


@dataclass(frozen=True)
class Training:
    """A network's training, as its sidecar tells it."""

    name: str
    seconds: float
    images: int | None
    updates: int | None
    gpu_hours: float
    hardware: str


def training_rows(results: Results) -> list[Training]:
    """Every training with its length."""
    folder = results.config.weights_path("run").parent
    contents = {path.relative_to(folder).with_suffix("").as_posix(): each for path, each in results.sidecars.items()}
    rows = []
    for job in trainings(results):
        counts = contents[job.made].get("images_seen"), contents[job.made].get("updates")
        rows.append(Training(job.made, job.seconds, *counts, job.gpu_hours, job.hardware))
    return rows


def _order(path: Path) -> tuple[Any, ...]:
    return (path.parent.as_posix(), Run.parse(path.stem).sort_key)
