"""Where the site of a scale lies, and what Snakemake asks of it while it reads its rules. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lska.provenance.files import files_in, read_bytes, read_yaml

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
