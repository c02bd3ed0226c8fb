"""Writing the site: all pages into a temporary folder beside it, which then takes its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lska.claims.claims_page import numbers
from lska.files import replaced_folder, write_json
from lska.provenance import file_md5
from lska.report import inventory_path, site_path
from lska.report.claims import kind_of
from lska.report.gather import Results
from lska.report.pages import Page, downloads, pages
from lska.report.words import capital, duration, hours, minus, unbroken
from lska.tables.cell_text import shown

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
SCHEMA = 1


def write_site(results: Results) -> Path:
    """Write all pages and files of the site; returns the page to open.

    Raises:
        OSError: the folder of results cannot be written; the former site is as it was.
    """
    index, templates = site_path(results.config.results), environment()
    made = list(pages(results))
    with replaced_folder(index.parent) as folder:
        for page in made:
            (folder / page.name).write_text(render(page, made, results, templates), encoding="utf-8")
        shutil.copytree(HERE / "static", folder / "static")
        for source, place in downloads(results).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / place)
    files = (path for path in sorted(index.parent.rglob("*")) if path.is_file())
    inventory = {path.relative_to(index.parent).as_posix(): file_md5(path) for path in files}
    write_json(inventory_path(results.config.results), {"schema": SCHEMA, "files": inventory})
    return index


def environment() -> Environment:
    """The templates; what is put into them is escaped, and a name that is not given is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(HERE / "templates")
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (capital, duration, hours, kind_of, minus, numbers, shown, unbroken)
    made.filters |= {function.__name__: function for function in filters}
    return made


def render(page: Page, made: list[Page], results: Results, templates: Environment) -> str:
    """The HTML of a page."""
    menu = [other for other in made if other.menu]
    shared = {"page": page, "menu": menu, "scale": results.config.scale, "caption": results.config.caption}
    return templates.get_template(page.template).render(**shared, **page.content)
