"""The site of a scale: `results/<scale>/report/`, static pages that open from the file system and need no network.

    from lska import config, report
    report.build(config.load([Path("config/demo.yaml")]))

`gather` reads what a scale has, `pages` says which pages there are and what each shows, `templates` and `static` how
it looks. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lska.config import Config

__all__ = ["build", "graph_path", "inventory_path", "other_scales", "rendered_notebook", "site_outputs", "site_path"]


def site_path(results: Path) -> Path:
    """The page to open, under the folder of a scale's results."""
    return results / "report" / "index.html"


def inventory_path(results: Path) -> Path:
    """Every file of the finished site with its MD5; written last, so it vouches for a complete site."""
    return results / "report.json"


def site_outputs(results: Path) -> list[Path]:
    """What Snakemake takes for the output of the site's rule: the list of its files, and the page to open only where
    there is none yet. It removes outputs before it makes them anew, while the former site is to stay until then."""
    index = site_path(results)
    return [inventory_path(results), *([] if index.exists() else [index])]


def other_scales(scale: str) -> str:
    """Identity of the tables of all scales but `scale`, which its site shows beside its own if they are there."""
    from lska.report.scales import scales, tables_digest

    return tables_digest([other for other in scales() if other.name != scale])


def graph_path(results: Path) -> Path:
    """The rules of the workflow and what they pass on (`lska.report.rules`)."""
    return results / "rules.json"


def rendered_notebook(results: Path, target: str) -> Path:
    """The executed notebook of a table or figure as HTML."""
    return results / "notebooks" / f"{target}.html"


def build(config: Config) -> Path:
    """Build the site of a scale from what is in its results, and return the page to open.

    What is missing (a table, notebooks, claims, the graph of rules) is named on its page. Equal results give equal
    bytes. The site appears at once, when it is complete; until then, and after any failure, the former one stays.

    Raises:
        ValueError: a metric file, sidecar or another file of the results is faulty; names it.
        OSError: the folder of results cannot be written.
    """
    from lska.report.gather import gather
    from lska.report.site import write_site

    return write_site(gather(config))
