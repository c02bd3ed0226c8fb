"""Writing the site: all pages into a temporary folder beside it, which then takes its place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lska.claims.page import numbers, shown
from lska.provenance import file_md5, write_json
from lska.report import inventory_path, site_path
from lska.report.gather import Results
from lska.report.pages import Page, downloads, pages

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
    made.filters |= {"duration": duration, "hours": hours, "shown": shown, "numbers": numbers, "capital": capital}
    return made


def hours(number: float) -> str:
    """Core-hours and GPU-hours: two digits that count, or one after the point."""
    return "0" if number == 0 else f"{number:.2g}" if number < 10 else f"{number:,.1f}"


def capital(text: str) -> str:
    """Text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def duration(seconds: float) -> str:
    """`0.4 s`, `35 s`, `12 min` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def render(page: Page, made: list[Page], results: Results, templates: Environment) -> str:
    """The HTML of a page."""
    menu = [other for other in made if other.menu]
    shared = {"page": page, "menu": menu, "scale": results.config.scale, "caption": results.config.caption}
    return templates.get_template(page.template).render(**shared, **page.content)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling of `folder` that takes its place when the block ends well and vanishes otherwise.

    Two renames follow each other; between them there is no folder of this name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        made, former = Path(place) / "new", Path(place) / "former"
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(former)
        made.rename(folder)
