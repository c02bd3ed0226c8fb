"""What a scale has produced, for the end of `make demo`: every target with its state, and the accuracies."""

from __future__ import annotations

from pathlib import Path

from lska.claims.summaries import headlines
from lska.report.site_paths import site_path
from lska.settings.scale import Config
from lska.tables.cell_text import shown
from lska.tables.measurements import MetricFolder
from lska.tables.specs import TARGETS, load_spec, outputs


def summary(config: Config) -> str:
    """For people: the trained networks with their top-1, AP or mIoU, then where tables, figures and notebooks are."""
    folder, lines = MetricFolder(config.scale, config.results), [f"\n{config.caption}", ""]
    for run in config.runs:
        said = "not evaluated yet"
        if folder.path("classification", run).exists():
            top1 = folder.measurement("classification", run, "top1")
            said = f"top-1 {shown(top1.value, decimals=1, spread=top1.standard_error)} %"
            said += "" if top1.n is None else f" of {top1.n:,} images"
        lines.append(f"  {run!s:<32} {said}")
    lines.append("")
    for job in config.fine_tunings:
        values = []
        for label, metric in headlines(job.task).items() if job.metrics.exists() else ():
            value = folder.measurement(job.task, job.run, metric, nullable=True).value
            values.append(f"{label} {'n/a' if value is None else shown(value, decimals=1)}")
        said = ", ".join(values) or "not evaluated yet"
        lines.append(f"  {job.task.partition('/')[2]:<24} {job.run!s:<24} {said}")
    lines.append("")
    for spec in map(load_spec, TARGETS):
        files = outputs(spec.target, config.results)
        state = "" if all(map(Path.exists, files)) else "  (not made yet)"
        lines.append(f"  {spec.number:<11} {files[0]}{state}  {spec.title}")
    site = site_path(config.results)
    state = "" if site.exists() else "  (not made yet: snakemake report)"
    return "\n".join([*lines, "", f"Executed notebooks: {config.results / 'notebooks'}", f"Report: {site}{state}", ""])
