"""What a scale has produced, for the end of `make demo`: every target with its state, and the accuracies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lska.claims.summaries import headlines
from lska.report.plain_words import number_text
from lska.report.site_paths import site_path
from lska.settings.scale import Config
from lska.tables.measurements import MetricFolder
from lska.tables.specs import TARGETS, load_spec, outputs


def summary(config: Config) -> str:
    """For people: the trained networks with their top-1, AP or mIoU, then where tables, figures and notebooks are."""
    lines = [f"\n{config.caption}", "", *_accuracies(config), "", *_fine_tunings(config), "", *_targets(config)]
    site = site_path(config.results)
    state = "" if site.exists() else "  (not made yet: snakemake report)"
    return "\n".join([*lines, "", f"Executed notebooks: {config.results / 'notebooks'}", f"Report: {site}{state}", ""])


def _accuracies(config: Config) -> Iterator[str]:
    folder = MetricFolder(config.scale, config.results)
    for run in config.runs:
        if not folder.path("classification", run).exists():
            yield f"  {run!s:<32} not evaluated yet"
            continue
        top1 = folder.measurement("classification", run, "top1")
        number = "" if top1.n is None else f" of {top1.n:,} images"
        yield f"  {run!s:<32} top-1 {number_text(top1.value, 1, top1.standard_error)} %{number}"


def _fine_tunings(config: Config) -> Iterator[str]:
    """The headline metrics of every fine-tuned detector and segmentor."""
    folder = MetricFolder(config.scale, config.results)
    for job in config.fine_tunings:
        name = f"  {job.task.partition('/')[2]:<24} {job.run!s:<24}"
        if not job.metrics.exists():
            yield f"{name} not evaluated yet"
            continue
        shown = []
        for label, metric in headlines(job.task).items():
            value = folder.measurement(job.task, job.run, metric, nullable=True).value
            shown.append(f"{label} {'n/a' if value is None else number_text(value, 1)}")
        yield f"{name} {', '.join(shown)}"


def _targets(config: Config) -> Iterator[str]:
    for target in TARGETS:
        spec = load_spec(target)
        files = outputs(target, config.results)
        state = "" if all(map(Path.exists, files)) else "  (not made yet)"
        yield f"  {spec.number:<11} {files[0]}{state}  {spec.title}"
