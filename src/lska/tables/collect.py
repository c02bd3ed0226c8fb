"""Filling the cells of a table from metric files and the paper's values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.models.kernels import KernelPlan, kernel_plan
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.tables.cell_states import State, compare, pool
from lska.tables.measurements import Measurement, MetricFolder, measurement_of
from lska.tables.paper_values import REFERENCE, PaperTable, PaperValue, read_paper
from lska.tables.specs import DESIGN, ColumnSpec, Row, TableSpec, expand, sources

if TYPE_CHECKING:
    from lska.settings.scale import Config


@dataclass(frozen=True)
class Cell:
    """One value of a table with everything that is known about it; numbers are in the column's unit.

    `value` is the mean over seeds, or text where the column shows words, and None where nothing was measured.
    `deviation` is the sample standard deviation over seeds (None for one), `n` the number of runs, `low` and `high` the
    interval that the measurement of one run gives, such as the quartiles of a throughput. `paper` keeps the digits that
    the paper printed.
    """

    row: str
    column: str
    state: State
    unit: str
    digits: int
    value: float | str | None = None
    deviation: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: tuple[int, ...] = ()
    """Seeds of the trained networks behind the value; empty where it depends on none."""
    paper: str | None = None
    paper_source: str | None = None
    paper_detail: str = ""
    cut: bool = False
    """Whether our value equals the paper's only if it is cut, not rounded, to the printed digits."""
    other_data: bool = False
    """Whether it was measured on other data, or on a shrunken model, than the paper's."""
    note: str = ""
    data: tuple[str, ...] = ()
    """Names of the data sets measured on."""
    conditions: str = ""
    """Device and settings of the measurement, where the column asks for them."""
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row with its cells in the order of the columns; `source` is None for reference rows."""

    label: str
    cells: tuple[Cell, ...]
    source: Row | None


@dataclass(frozen=True)
class Table:
    """A filled table: all that renderers and drawings need."""

    spec: TableSpec
    scale: str
    caption: str
    rows: tuple[TableRow, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row."""
        return tuple(cell for row in self.rows for cell in row.cells)

    @property
    def data(self) -> tuple[str, ...]:
        """Data sets measured on."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.data))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of measurements, such as the device and batch size of a throughput, each once."""
        return tuple(dict.fromkeys(f"{cell.column}: {cell.conditions}" for cell in self.cells if cell.conditions))

    def count(self) -> dict[State, int]:
        """Number of cells in each state that occurs."""
        found = Counter(cell.state for cell in self.cells)
        return {state: found[state] for state in State if found[state]}

    def cell(self, row: str, column: str) -> Cell:
        """The cell of a row and column label; KeyError where there is none."""
        return {(cell.row, cell.column): cell for cell in self.cells}[row, column]


def collect(spec: TableSpec, config: Config, paper: Path, results: Path, seals: bool = True) -> Table:
    """Fill every cell of `spec`; no cell is left out and none is invented.

    Args:
        paper: folder with the paper's values.
        results: folder that holds `metrics/`.
        seals: whether metric files that were edited after they were written are refused.

    Raises:
        FileNotFoundError: a metric file that the configuration asks for is missing; names it and how to make it.
        ValueError: a metric file or a file of `paper` is faulty; names the file and the field.
    """
    printed, metrics = read_paper(paper / f"{spec.paper}.csv"), MetricFolder(config.scale, results, seals)
    rows = [
        TableRow(row.label, tuple(_cell(row, column, printed, config, metrics) for column in spec.columns), row)
        for row in expand(spec, config)
    ]
    if not spec.references:
        return Table(spec, config.scale, config.caption, tuple(rows))
    # Each reference row stands after the last row of the table that precedes it in the paper's file.
    places = {row.source.paper_label: number for number, row in enumerate(rows)}
    after: list[list[TableRow]] = [[] for _ in range(len(rows) + 1)]
    place = -1
    for label in printed.rows:
        if label.startswith(REFERENCE):
            after[place + 1].append(_reference(label, spec, printed, rows[place].source if place >= 0 else None))
        place = max(place, places.get(label, -1))
    ordered = [*after[0], *(item for row, more in zip(rows, after[1:], strict=True) for item in (row, *more))]
    return Table(spec, config.scale, config.caption, tuple(ordered))


def layers(plan: KernelPlan) -> list[str]:
    """The convolutions of a gating unit in order (paper Figure 2): `DW 1x7 dilation 3` and, last, `1x1`."""
    sizes = {part: f"DW {part.kernel[0]}x{part.kernel[1]}" for part in plan.depthwise}
    return [*(f"{size} dilation {part.dilation}" if part.dilation > 1 else size for part, size in sizes.items()), "1x1"]


def _cell(row: Row, column: ColumnSpec, printed: PaperTable, config: Config, metrics: MetricFolder) -> Cell:
    """The paper's value, and what was measured for it."""
    cell = Cell(row.label, column.label, State.NOT_APPLICABLE, column.unit, column.digits)
    if not row.applies(column):
        return cell
    cell = replace(cell, note=row.spec.remarks.get(column.label, ""))
    cell = _with_paper(cell, printed.values.get((row.paper_label, column.paper_label or column.label)))
    if column.task == DESIGN and row.kernel is not None:
        # The kernels of the models' own code, in the words of paper/figure_02.csv.
        if column.metric in ("dilation", "receptive_field"):
            return _worded(replace(cell, n=1), str(getattr(kernel_plan("lska", row.kernel), column.metric)))
        return _worded(replace(cell, n=1), "; ".join(layers(kernel_plan(column.metric, row.kernel))))
    runs = sources(row, column, config)
    if not runs:
        reason = "" if row.model is None else f"scale {config.scale} has no {row.task(column)} of {row.network}"
        return replace(cell, state=State.NOT_RUN, note=reason or cell.note)
    contents = {metrics.path(*source): metrics.read(*source) for source in runs}
    found = [_measurement(content, path, row, column) for path, content in contents.items()]
    data = tuple(dict.fromkeys(item.data for item in found if item.data is not None))
    trained = [run for _, run in runs if isinstance(run, Run) and column.measured_on != "architecture"]
    # Whether the paper's number was measured on something else, so that a comparison would say nothing.
    shrunken = row.model in getattr(config, "architecture", {})
    elsewhere = shrunken or any(name != column.data for name in data)
    comparable = column.data is None or row.spec.control or not elsewhere
    cell = replace(
        cell, n=len(found), seeds=tuple(run.seed for run in trained), files=tuple(contents), data=data,
        conditions="; ".join(dict.fromkeys(_conditions(content, path, column) for path, content in contents.items())),
        other_data=column.label in row.spec.counted_otherwise or not comparable,
    )  # fmt: skip
    if all(item.value is not None for item in found):
        cell = _measured(cell, column, found)
        return replace(cell, state=State.CONTROL) if row.spec.control else cell
    if not column.partial:
        return cell
    parts = {name: absent for one in contents.values() for name, absent in (one["detail"].get("missing") or {}).items()}
    listed = "; ".join(f"{name} {', '.join(map(str, absent))}" for name, absent in parts.items())
    return replace(cell, state=State.PARTIAL, note=f"missing: {listed or 'the clean images'}")


def _with_paper(cell: Cell, entry: PaperValue | None) -> Cell:
    if entry is None or entry.value is None:
        return cell
    return replace(cell, paper=entry.value, paper_source=entry.source, paper_detail=entry.detail)


def _measurement(content: dict[str, Any], path: Path, row: Row, column: ColumnSpec) -> Measurement:
    metric = column.metric.format(**row.values)
    found = measurement_of(content, metric, path, column.nullable or column.partial)
    if column.factor == 1 and column.unit and found.unit != column.unit:
        raise InputError(
            f"{path}: field 'metrics.{metric}.unit': expected {column.unit!r}, found {found.unit!r}; "
            f"the spec of column {column.label!r} or the file is wrong"
        )
    return found


def _conditions(content: dict[str, Any], path: Path, column: ColumnSpec) -> str:
    """Device and settings of one measurement."""
    found = {name: measurement_of(content, name, path) for name in column.conditions}
    units = {name: "" if item.unit in ("", "1") else f" {item.unit}" for name, item in found.items()}
    settings = [f"{name.replace('_', ' ')} {item.value:g}{units[name]}" for name, item in found.items()]
    return ", ".join([next(iter(found.values())).device, *settings]) if found else ""


def _measured(cell: Cell, column: ColumnSpec, found: list[Measurement]) -> Cell:
    """The cell with its value, compared with the paper's."""
    pooled = pool([item.value for item in found], [item.standard_error for item in found])
    value = Decimal(str(pooled.mean)) * Decimal(str(column.factor))
    if column.text:
        decimals = 0 if value == value.to_integral_value() else column.digits
        return _worded(cell, column.text.format(value=f"{value:.{decimals}f}"))
    if column.choices:
        if value not in column.choices:
            known = ", ".join(map(str, column.choices))
            raise InputError(
                f"{cell.files[0]}: field 'metrics.{column.metric}.value': expected one of {known}, found {value}"
            )
        return _worded(cell, column.choices[int(value)])
    interval = (found[0].interval if len(found) == 1 else None) or (None, None)
    spreads = (pooled.deviation, pooled.standard_error, pooled.spread, *interval)
    deviation, error, spread, low, high = (None if one is None else one * column.factor for one in spreads)
    cell = replace(cell, value=float(value), deviation=deviation, standard_error=error, low=low, high=high)
    if cell.paper is None or cell.other_data:
        return replace(cell, state=State.UNKNOWN if cell.paper is None else State.OTHER_DATA)
    agreement = compare(column, value, cell.paper, error, spread)
    note = "; ".join(filter(None, (agreement.note, cell.note)))
    return replace(cell, state=agreement.state, note=note, cut=agreement.cut)


def _worded(cell: Cell, text: str) -> Cell:
    same = State.REPRODUCED if text == cell.paper else State.DEVIATES
    return replace(cell, value=text, state=State.UNKNOWN if cell.paper is None else same)


def _reference(label: str, spec: TableSpec, printed: PaperTable, before: Row | None) -> TableRow:
    """A row of another publication's values; it has the quantities of the row that it follows."""
    cells = []
    for column in spec.columns:
        entry = printed.values.get((label, column.paper_label or column.label))
        applies = before is None or before.applies(column)
        known = entry is not None and entry.value is not None
        state = State.REFERENCE if known else State.UNKNOWN if applies else State.NOT_APPLICABLE
        cells.append(_with_paper(Cell(label, column.label, state, column.unit, column.digits), entry))
    return TableRow(label, tuple(cells), None)
