"""Writing the site: the executed notebooks as HTML, and all pages, which take the place of the former site at once."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lska.claims.claims_page import numbers
from lska.provenance.files import parse_json, read_text, replaced_folder, write_json, write_text
from lska.provenance.metric_files import file_md5
from lska.provenance.surroundings import ADDRESSES, absent
from lska.report.gather import gather
from lska.report.pages import all_pages, downloads, kind_of_claim, subjects_of_claim
from lska.report.site_paths import inventory_path, rendered_notebook, site_path
from lska.settings.scale import Config
from lska.tables.cell_text import cell_text, heading, shown
from lska.tables.collect import MEANING
from lska.tables.notebooks import NotebookError
from lska.tables.specs import TARGETS, data_names

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = Path(__file__).parent
SCHEMA = 1
NO_BREAK = "\xa0"


def build_site(config: Config) -> Path:
    """Build the site of a scale from what is in its results, and return the page to open.

    What is missing (a table, notebooks, claims) is named on its page. Equal results give equal bytes. The site appears
    at once, when it is complete; until then, and after any failure, the former one stays.

    Raises:
        ValueError: a metric file, sidecar or another file of the results is faulty; names it.
        OSError: the folder of results cannot be written.
    """
    results, templates = gather(config), _templates()
    index, pages = site_path(config.results), list(all_pages(results))
    shared = {"menu": [page for page in pages if page.menu], "scale": config.scale, "caption": config.caption}
    with replaced_folder(index.parent) as folder:
        for page in pages:
            text = templates.get_template(page.template).render(page=page, **shared, **page.content)
            (folder / page.name).write_text(text, encoding="utf-8")
        shutil.copytree(HERE / "static", folder / "static")
        for source, place in downloads(results).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / place)
    files = (path for path in sorted(index.parent.rglob("*")) if path.is_file())
    inventory = {path.relative_to(index.parent).as_posix(): file_md5(path) for path in files}
    write_json(inventory_path(config.results), {"schema": SCHEMA, "files": inventory})
    return index


def _templates() -> Environment:
    """The templates; what is put into them is escaped, and a name that is not given is an error."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters = (
        breakable, cell_text, data_names, duration, first_capital, heading, hours, kind_of_claim, minus, numbers, shown,
        subjects_of_claim, unbroken,
    )  # fmt: skip
    templates.filters |= {function.__name__: function for function in filters}
    templates.filters["meaning"] = MEANING.get
    # A state or verdict as a name for styles and links.
    templates.filters["style"] = lambda name: re.sub(r"\W", "-", name)
    return templates


def hours(number: float) -> str:
    """Core-hours and GPU-hours, to a hundredth or a tenth; less than a hundredth is said to be that."""
    if 0 < number < 0.01:
        return "< 0.01"
    return "0" if number == 0 else f"{number:.2f}" if number < 10 else f"{number:,.1f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `35 s`, `12 min` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def unbroken(text: str) -> str:
    """A heading whose unit of up to 18 letters, in brackets at its end, is not broken over lines."""
    name, opened, unit = text.partition(" (")
    return f"{name} ({unit.replace(' ', NO_BREAK)}" if opened and len(unit) <= 18 else text


def breakable(name: str) -> Markup:
    """A name of a task, a file or a data set, which may be broken behind its slashes and underscores."""
    from markupsafe import Markup, escape

    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(name))))


def minus(text: str) -> str:
    """Numbers in a text with real minus signs; hyphens within words and run ids stay."""
    return re.sub(r"(?<![\w)-])-(?=\d)", "−", text)


def first_capital(text: str) -> str:
    """Text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def render_notebooks(config: Config) -> list[Path]:
    """Render the executed notebooks of a scale, each beside its notebook, and return the files written.

    Raises:
        NotebookError: none has been executed yet, or one cannot be read.
    """
    folder = config.results / "notebooks"
    executed = [path for path in (folder / f"{target}.ipynb" for target in TARGETS) if path.is_file()]
    if not executed:
        raise NotebookError(f"{folder}: no executed notebook here; make them with `snakemake all` of this scale")
    pages = [rendered_notebook(config.results, path.stem) for path in executed]
    for notebook, page in zip(executed, pages, strict=True):
        write_text(page, notebook_html(notebook))
    return pages


def notebook_html(notebook: Path) -> str:
    """The cells of a notebook with their outputs, as HTML without a head, scripts, styles or anything from elsewhere.
    Of cells that are tagged `remove_input`, as nbconvert calls it, there are the outputs alone.

    Raises:
        NotebookError: the file is no notebook.
    """
    with absent(ADDRESSES):
        import nbformat
    from jupyter_core.paths import ENV_JUPYTER_PATH
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    try:
        text = read_text(notebook)
        nbformat.validate(parse_json(text, str(notebook)))
    except (ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookError(f"{notebook}: not a notebook ({error}); execute it again") from error
    # The template `basic` has neither MathJax nor require.js, which the others fetch.
    # A user may have another one of this name, so that of this environment comes first.
    own = [str(Path(place) / "nbconvert" / "templates") for place in ENV_JUPYTER_PATH]
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, extra_template_basedirs=own)
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags={"remove_input"}), enabled=True)
    # The text and table beside them say what its pictures show.
    exporter.log.addFilter(_not_about_alternative_text)
    return exporter.from_notebook_node(nbformat.reads(text, as_version=4))[0]


def _not_about_alternative_text(record: logging.LogRecord) -> bool:
    return "Alternative text is missing" not in record.getMessage()
