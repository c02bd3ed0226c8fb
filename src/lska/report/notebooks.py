"""Executed notebooks as HTML that a page of the site can hold: no scripts, styles or anything from elsewhere."""

from __future__ import annotations

from pathlib import Path

from lska.config import Config
from lska.files import parse_json, read_text, write_text
from lska.imports import ADDRESSES, absent
from lska.report import rendered_notebook
from lska.tables.notebooks import NotebookError
from lska.tables.specs import TARGETS


def render_all(config: Config) -> list[Path]:
    """Render the executed notebooks of a scale, each beside its notebook, and return the files written.

    Raises:
        NotebookError: none has been executed yet, or one cannot be read.
    """
    folder = config.results / "notebooks"
    executed = [path for path in (folder / f"{target}.ipynb" for target in TARGETS) if path.is_file()]
    if not executed:
        raise NotebookError(f"{folder}: no executed notebook here; make them with `snakemake all` of this scale")
    return [_write(path, rendered_notebook(config.results, path.stem)) for path in executed]


def _write(notebook: Path, page: Path) -> Path:
    write_text(page, fragment(notebook))
    return page


def fragment(notebook: Path) -> str:
    """The cells of a notebook with their outputs, as HTML without a head.

    Raises:
        NotebookError: the file is no notebook.
    """
    with absent(ADDRESSES):
        import nbformat
    from jupyter_core.paths import ENV_JUPYTER_PATH
    from nbconvert import HTMLExporter

    try:
        text = read_text(notebook)
        nbformat.validate(parse_json(text, str(notebook)))
    except (ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookError(f"{notebook}: not a notebook ({error}); execute it again") from error
    # The template `basic` has neither MathJax nor require.js, which the others fetch.
    # A user may have another one of this name, so that of this environment comes first.
    own = [str(Path(place) / "nbconvert" / "templates") for place in ENV_JUPYTER_PATH]
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, extra_template_basedirs=own)
    return exporter.from_notebook_node(nbformat.reads(text, as_version=4))[0]
