"""Where the site of a scale lies, what Snakemake asks of it while it reads its rules, and what a terminal says of the
products of a scale. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.claims.summaries import headlines, measured_networks
from lska.models.runs import Run
from lska.provenance.files import files_in, read_bytes, read_yaml
from lska.settings.scale import Config
from lska.tables.cell_text import shown
from lska.tables.measurements import MetricFolder
from lska.tables.specs import TARGETS, outputs

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
    """For people, on one screen: by task how many networks were measured, with the lowest and the highest value of its
    main metric; and where tables, figures, notebooks and the report are. The report has each network's numbers.

    Raises:
        ValueError: a metric file is faulty; names it.
    """
    folder = MetricFolder(config.scale, config.results)
    tasks: dict[str, list[Run]] = {}
    for task, run in measured_networks(config):
        tasks.setdefault(task, []).append(run)
    lines = [_measured(folder, task, runs) for task, runs in tasks.items()]
    for kind in ("table", "figure"):
        files = [outputs(target, config.results) for target in TARGETS if target.startswith(kind)]
        made = sum(all(map(Path.exists, one)) for one in files)
        lines.append((f"{kind}s", f"{made} of {len(files)}", str(config.results / f"{kind}s")))
    notebooks = config.results / "notebooks"
    lines.append(("notebooks", f"{len(files_in(notebooks, '*.ipynb'))} of {len(TARGETS)}", str(notebooks)))
    site = site_path(config.results)
    lines.append(("report", "", f"{site}{'' if site.exists() else ' (not made yet: snakemake report)'}"))
    width = max(len(name) for name, *_ in lines)
    told = (f"  {name:<{width}} {count:>9}   {said}".rstrip() for name, count, said in lines)
    return "\n".join(["", config.caption, "", *told, ""])


def _measured(folder: MetricFolder, task: str, runs: Sequence[Run]) -> tuple[str, str, str]:
    """A task, how many of its networks were measured, and between which values of its first headline."""
    there = [run for run in runs if folder.path(task, run).exists()]
    label, metric = next(iter(headlines(task).items()))
    found = ((folder.measurement(task, run, metric, nullable=True).value, str(run)) for run in there)
    values = sorted(one for one in found if one[0] is not None)
    ends = [f"{shown(value, 3)} ({run})" for value, run in dict.fromkeys((*values[:1], *values[-1:]))]
    return task, f"{len(there)} of {len(runs)}", f"{label} {' to '.join(ends)}" if ends else ""
