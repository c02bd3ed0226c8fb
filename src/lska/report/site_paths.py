"""Where the site of a scale lies, what Snakemake asks of it while it reads its rules, and what a terminal says of the
products of a scale. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lska.claims.summaries import headlines
from lska.provenance.files import files_in, read_bytes, read_yaml
from lska.settings.scale import Config
from lska.tables.cell_text import shown
from lska.tables.measurements import MetricFolder
from lska.tables.specs import TARGETS, load_spec, outputs

ORDER = ("demo", "small", "small_gpu", "paper")
"""Scales from the smallest on; others follow by name."""


def site_path(results: Path) -> Path:
    """The page to open, under the folder of a scale's results."""
    return results / "report" / "index.html"


def inventory_path(results: Path) -> Path:
    """Every file of the finished site with its MD5; written last, so it vouches for a complete site."""
    return results / "report.json"


def rendered_notebook(results: Path, target: str) -> Path:
    """The executed notebook of a table or figure as HTML."""
    return results / "notebooks" / f"{target}.html"


def site_outputs(results: Path) -> list[Path]:
    """What Snakemake takes for the output of the site's rule: the list of its files, and the page to open only where
    there is none yet. It removes outputs before it makes them anew, while the former site is to stay until then."""
    index = site_path(results)
    return [inventory_path(results), *([] if index.exists() else [index])]


@dataclass(frozen=True)
class TabledScale:
    """A scale that has tables; `caption` says what its numbers were measured on."""

    name: str
    caption: str
    tables: Path
    """The folder of its tables."""


def tabled_scales() -> list[TabledScale]:
    """The configured scales that have written tables, from the smallest on."""
    found = {}
    for path in files_in(Path("config"), "*.yaml"):
        values = read_yaml(path)
        name = str(values.get("scale", ""))
        tables = Path("results") / name / "tables"
        if name and files_in(tables, "table_*.csv"):
            found[name] = TabledScale(name, str(values.get("caption", "")), tables)
    return [found[name] for name in (*ORDER, *sorted(set(found) - set(ORDER))) if name in found]


def other_scales(scale: str) -> str:
    """Identity of the tables of all scales but `scale`: its site shows them, and is made anew when one changes."""
    state = hashlib.sha256()
    for other in tabled_scales():
        for path in files_in(other.tables, "table_*.csv") if other.name != scale else ():
            state.update(path.as_posix().encode() + b"\0" + read_bytes(path))
    return state.hexdigest()


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
