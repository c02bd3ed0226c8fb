"""Tables and figures: what they need (`requirements`), and one call that makes them (`build`).

    from lska import config, tables
    table = tables.build("table_03", config.load([Path("config/demo.yaml")]))

Importing this package imports nothing heavy; drawings import matplotlib when they are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lska.finetuning import parse_task
from lska.robustness import set_of
from lska.tables.specs import TARGETS, ConfigLike, TableSpec, load_spec, requirements

if TYPE_CHECKING:
    from lska.tables.collect import Table

__all__ = ["TARGETS", "TableSpec", "build", "examples", "load_spec", "outputs", "requirements", "samples"]

TABLE_FORMATS = (".md", ".tex", ".csv", ".html")
FIGURE_FORMATS = (".png", ".pdf", ".svg", ".csv")


def outputs(target: str, folder: Path) -> tuple[Path, ...]:
    """Files of a table or figure under `folder` (usually `results/<scale>`): `tables/table_03.md` and so on."""
    kind = target.partition("_")[0]
    formats = TABLE_FORMATS if kind == "table" else FIGURE_FORMATS
    return tuple(folder / f"{kind}s" / f"{target}{suffix}" for suffix in formats)


def samples(spec: TableSpec, config: ConfigLike, results: Path | None = None) -> list[Path]:
    """Pictures of sample predictions behind a table, `<results>/samples/<task>/<run>.png`; most tables have none.

    Every fine-tuned detector and segmentor whose metric file the table reads has one.

    Args:
        results: folder of the scale's results; `config.results` where None.
    """
    folder = (config.results if results is None else results) / "samples"
    fine_tuned = [(task, run) for task, run in requirements(spec, config) if parse_task(task) is not None]
    return [folder / task / f"{run}.png" for task, run in fine_tuned]


def examples(spec: TableSpec, config: ConfigLike, results: Path | None = None) -> list[Path]:
    """Pictures of the perturbed sets that a table reads, `<results>/samples/robustness/<set>/examples.png`.

    Args:
        results: folder of the scale's results; `config.results` where None.
    """
    folder = (config.results if results is None else results) / "samples"
    tasks = dict.fromkeys(task for task, _ in requirements(spec, config) if set_of(task) is not None)
    return [folder / task / "examples.png" for task in tasks]


def build(
    target: str,
    config: ConfigLike,
    files: Iterable[Path] | None = None,
    paper: Path = Path("paper"),
    results: Path | None = None,
) -> Table:
    """Fill a table or figure from metric files, write it, and return its numbers.

    Args:
        target: one of `TARGETS`.
        config: the scale: its runs and captions.
        files: what to write, each in the format of its suffix; `outputs(target, results)` where None. A figure can be
            written as a table too.
        paper: folder with the paper's values.
        results: folder that holds `metrics/<task>/<run>.json`; `config.results` where None.

    Raises:
        FileNotFoundError: a metric file that the configuration asks for is missing.
        ValueError: unknown target or format, or a faulty spec, metric file or file of the paper.
    """
    from lska.tables.collect import collect
    from lska.tables.render import write

    spec = load_spec(target)
    folder = config.results if results is None else results
    table = collect(spec, config, paper, folder)
    drawn = []
    for path in map(Path, outputs(target, folder) if files is None else files):
        if spec.drawing and path.suffix not in TABLE_FORMATS:
            drawn.append(path)
        else:
            write(table, path)
    if drawn:
        from lska.tables.figures import draw

        draw(table, drawn)
    return table
