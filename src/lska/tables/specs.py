"""What a table or figure shows and which files it needs and makes, read from `specs/<target>.yaml`.

A figure is described like a table, because its numbers are one; `drawing` names how they are drawn. This module is
imported while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lska.models.designs import ATTENTIONS
from lska.models.runs import Run
from lska.provenance.errors import InputError, did_you_mean
from lska.provenance.files import read_yaml
from lska.provenance.strict import build
from lska.settings.tasks import CONTROL, parse_task

if TYPE_CHECKING:
    from lska.settings.scale import Config

SPECS = Path(__file__).parent / "specs"
TARGETS = tuple(path.stem for kind in ("table", "figure") for path in sorted(SPECS.glob(f"{kind}_*.yaml")))
"""Every table and figure with a spec."""

SUPPLEMENT = "s"
"""Start of the number of a target that the paper lacks: `figure_s1`."""

DESIGN = "design"
"""Task of columns that show the kernels of the models' own code instead of a metric."""

TABLE_FORMATS = (".md", ".tex", ".csv", ".html")
FIGURE_FORMATS = (".png", ".pdf", ".svg", ".csv")

ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI", "XVII"]


@dataclass(frozen=True)
class RowSpec:
    """A template of rows: one row per model, attention, kernel size and value, in this order of nesting."""

    label: str
    """Format string over `model`, `attention`, `kernel`, `module` and the keys of `values`, as named in names.yaml."""
    paper_label: str | None = None
    """Format string of the row's name in the paper's file, where it differs from `label`."""
    models: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()
    kernels: tuple[int, ...] = ()
    """The paper's kernel sizes."""
    extend: bool = False
    """Whether kernel sizes that have the columns' tasks at the scale, and that the paper lacks, get rows too."""
    modules: tuple[str, ...] = ()
    """Names of metric files that belong to no run (`properties/<module>.json`)."""
    values: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Further variables of labels, tasks and metrics, such as `stage` or `head`."""
    columns: tuple[str, ...] = ()
    """Labels of the columns that apply; empty for all."""
    remarks: dict[str, str] = field(default_factory=dict)
    """By column label, what a reader must know to compare these rows' values with the printed ones."""
    counted_otherwise: tuple[str, ...] = ()
    """Labels of the columns whose printed values count something else, as a remark says: they are not compared."""
    control: bool = False
    """Whether the rows are controls: the same fine-tuning from a randomly initialised backbone (`<task>-untrained`).
    They are no entries of the paper; each appears only where the configuration has its run."""

    def __post_init__(self) -> None:
        known = {"model", "attention", "kernel", "module", *self.values}
        parts = string.Formatter().parse(self.label + (self.paper_label or ""))
        unknown = sorted({name for _, name, _, _ in parts if name} - known)
        if unknown:
            raise InputError(f"row {self.label!r}: unknown variables {unknown}, expected some of {sorted(known)}")

    def applies(self, column: ColumnSpec) -> bool:
        """Whether the table has cells for these rows in `column`."""
        return not self.columns or column.label in self.columns

    def task(self, column: ColumnSpec, values: Mapping[str, int | str]) -> str:
        """Task whose metric files fill the cell of `column` in the row with these `values`."""
        control = self.control and column.measured_on != "architecture"
        return column.task.format(**values) + (CONTROL if control else "")


@dataclass(frozen=True)
class ColumnSpec:
    """One column: which metric of which task, how it is shown and how it is compared."""

    label: str
    task: str
    """Task whose metric files are read; a format string over the row's `values`; or `design`."""
    metric: str
    """Metric in these files; a format string over the row's `values`."""
    unit: str = ""
    factor: float = 1.0
    """What the metric is multiplied with to be in `unit`, such as 1.0e-6 for M."""
    digits: int = 2
    """Decimals shown of our value; the comparison uses the decimals that the paper printed."""
    measured_on: Literal["every seed", "architecture"] = "every seed"
    """`architecture`: seed 0, known for every row without training; otherwise the configuration's runs of the row."""
    tolerance: Literal["printed", "printed or cut", "noise", "absolute"] = "printed"
    """`printed`: equal after rounding to the printed decimals; `printed or cut`: or after cutting (protocol.md,
    Section 11); `noise`: within max(`margin`, 2 standard errors of the difference); `absolute`: within `margin`."""
    margin: float = 0.0
    data: str | None = None
    """Manifest name of the data set that the paper measured on; None where the value depends on no data."""
    paper_label: str | None = None
    """Column's name in the paper's file, where it differs from `label`."""
    text: str | None = None
    """Format string over `value` for cells that are text, such as "H/{value} x W/{value}"."""
    choices: dict[int, str] = field(default_factory=dict)
    """Words for the values of a metric, such as 0: no, 1: yes."""
    nullable: bool = False
    """Whether the metric may be null, for rows that have no such quantity."""
    partial: bool = False
    """Whether the metric is null where a part of the data set, which the file names, was not there."""
    conditions: tuple[str, ...] = ()
    """Metrics in the same files that the caption must state, with the device, such as batch_size."""


@dataclass(frozen=True)
class TableSpec:
    """A table, or a figure when `drawing` is given."""

    target: str
    title: str
    stub: str
    """Head of the column of row labels."""
    rows: tuple[RowSpec, ...]
    columns: tuple[ColumnSpec, ...]
    explanation: str
    """What is shown, and how it is read and compared, true at every scale, in Markdown; the paper's findings are called
    so ("The paper finds: ...")."""
    paper: str
    """Stem of the file in paper/ with the paper's values."""
    references: bool = True
    """Whether rows of that file that start with `reference:` are shown."""
    drawing: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the drawing."""
    notes: tuple[str, ...] = ()
    """What a reader without the notebook must know of rows and columns: abbreviations, and how a value was made."""
    trend: tuple[str, ...] = ()
    """Labels of the columns of which the caption says at which kernel size each attention is highest."""
    counted_at: str = "224x224"
    """Width and height of the images, in pixels, for which costs are counted, as the caption names them."""

    @property
    def number(self) -> str:
        """`Table III` or `Figure 3`, as the paper counts; `Figure S1` for those that the paper lacks; the target's
        name of what is neither."""
        kind, _, count = self.target.partition("_")
        if not count:
            return kind.capitalize()
        shown = count.upper() if count.startswith(SUPPLEMENT) else int(count)
        return f"{kind.capitalize()} {ROMAN[int(count) - 1] if kind == 'table' else shown}"

    @property
    def lead(self) -> str:
        """The first paragraph of the explanation, on one line."""
        return " ".join(self.explanation.strip().partition("\n\n")[0].split())

    def __post_init__(self) -> None:
        labels = [column.label for column in self.columns]
        wrong = {label for label in labels if labels.count(label) > 1}
        wrong |= {name for names in (self.trend, *(row.columns for row in self.rows)) for name in names} - set(labels)
        if wrong:
            raise InputError(f"columns listed twice, or named and not listed: {', '.join(sorted(wrong))}")


@dataclass(frozen=True)
class Row:
    """One row of an expanded table. `kernel` is None for networks without large kernel attention."""

    label: str
    paper_label: str
    spec: RowSpec
    model: str | None
    attention: str | None
    kernel: int | None
    module: str | None
    values: dict[str, int | str]

    @property
    def network(self) -> str:
        """The network as run ids name it, without a seed."""
        return "-".join([str(self.model), *([] if self.kernel is None else [str(self.attention), f"k{self.kernel}"])])

    def applies(self, column: ColumnSpec) -> bool:
        """As `RowSpec.applies`."""
        return self.spec.applies(column)

    def task(self, column: ColumnSpec) -> str:
        """Task whose metric files fill the cell in `column`."""
        return self.spec.task(column, self.values)


def load_spec(target: str, folder: Path = SPECS) -> TableSpec:
    """Read `<folder>/<target>.yaml`.

    Raises:
        ValueError: no such target, or unknown keys, missing keys and wrong types, all named with the file.
    """
    path = folder / f"{target}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*_*.yaml"))
        raise InputError(f"{target!r} is no table or figure; {did_you_mean(target, known)}There are {', '.join(known)}")
    return build(TableSpec, {"target": target, "paper": target, **read_yaml(path)}, str(path))


@functools.cache
def display_names() -> dict[str, dict[str, str]]:
    """What readers know models, attentions, heads, modules and `data` sets by (names.yaml)."""
    attentions = {name: design.label for name, design in ATTENTIONS.items()}
    return {**read_yaml(SPECS / "names.yaml"), "attentions": attentions}


def data_names(names: Iterable[str]) -> str:
    """Data sets as a reader knows them, each once: `CIFAR-10, CIFAR-10-C`."""
    known = display_names()["data"]
    return ", ".join(known.get(name, name) for name in dict.fromkeys(names))


def expand(spec: TableSpec, config: Config) -> list[Row]:
    """All rows of a table in order, without its reference rows; control rows only where the scale has their run."""
    measured = [column for column in spec.columns if column.measured_on != "architecture"]
    rows = (row for template in spec.rows for row in _rows(template, measured, config))
    return [row for row in rows if not row.spec.control or any(sources(row, column, config) for column in measured)]


def _rows(spec: RowSpec, measured: Sequence[ColumnSpec], config: Config) -> Iterator[Row]:
    names, keys = display_names(), tuple(spec.values)
    options = [dict(zip(keys, values, strict=True)) for values in itertools.product(*spec.values.values())]
    for module, model in itertools.product(spec.modules or (None,), spec.models or (None,)):
        kernels = spec.kernels
        if spec.extend:
            # The paper's kernel sizes, and those of the configuration's runs.
            tasks = {spec.task(column, given) for column in measured if spec.applies(column) for given in options}
            runs = [run for task in tasks for run in config.runs_of(task) if model in (None, run.model)]
            kernels = tuple(sorted({run.kernel for run in runs if run.kernel is not None} | set(kernels)))
        axes = (spec.attentions or (None,), kernels or (None,), options)
        for attention, kernel, given in itertools.product(*axes):
            parts = {"model": model, "attention": attention, "module": module}
            shown = {key: names.get(f"{key}s", {}).get(value, value) for key, value in {**parts, **given}.items()}
            label = spec.label.format(kernel=kernel, **shown)
            paper_label = (spec.paper_label or spec.label).format(kernel=kernel, **shown)
            yield Row(label, paper_label, spec, kernel=kernel, values=given, **parts)


def sources(row: Row, column: ColumnSpec, config: Config) -> list[tuple[str, Run | str]]:
    """Metric files of one cell as (task, run) or (task, module); empty where nothing is measured."""
    if column.task == DESIGN or not row.applies(column) or row.module is None and row.model is None:
        return []
    task = row.task(column)
    if row.module is not None:
        return [(task, row.module)]
    if column.measured_on == "architecture":
        return [(task, Run(row.model, row.attention, row.kernel, 0))]
    wanted = (row.model, row.attention, row.kernel)
    found = [run for run in config.runs_of(task) if (run.model, run.attention, run.kernel) == wanted]
    return [(task, run) for run in sorted(found, key=lambda run: run.seed)]


def requirements(spec: TableSpec, config: Config) -> list[tuple[str, Run | str]]:
    """Exactly the metric files that the table reads, `results/<scale>/metrics/<task>/<run>.json`, each once.

    The second item is a run, or the name of a module for tasks that belong to no run (Table I).
    """
    cells = itertools.product(expand(spec, config), spec.columns)
    return list(dict.fromkeys(source for row, column in cells for source in sources(row, column, config)))


def outputs(target: str, folder: Path) -> tuple[Path, ...]:
    """Files of a table or figure under `folder` (usually `results/<scale>`): `tables/table_03.md` and so on."""
    kind = target.partition("_")[0]
    formats = TABLE_FORMATS if kind == "table" else FIGURE_FORMATS
    return tuple(folder / f"{kind}s" / f"{target}{suffix}" for suffix in formats)


def samples(spec: TableSpec, config: Config, results: Path | None = None) -> list[Path]:
    """Pictures of sample predictions of every fine-tuned detector and segmentor whose metric file a table reads,
    `<results>/samples/<task>/<run>.png`; `config.results` where `results` is None."""
    folder = (config.results if results is None else results) / "samples"
    return [folder / task / f"{run}.png" for task, run in requirements(spec, config) if parse_task(task) is not None]
