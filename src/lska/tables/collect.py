"""Filling the cells of a table from metric files and the paper's values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from lska.runs import Run
from lska.tables.measurements import Measurement, MetricFolder
from lska.tables.paper import REFERENCE, PaperTable, PaperValue, read_paper
from lska.tables.specs import DESIGN, ColumnSpec, ConfigLike, Row, TableSpec, expand, sources
from lska.tables.states import State, compare, pool


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
        """The cell of a row and column label.

        Raises:
            KeyError: there is none.
        """
        for cell in self.cells:
            if (cell.row, cell.column) == (row, column):
                return cell
        raise KeyError(f"{self.spec.target} has no cell in row {row!r}, column {column!r}")


@dataclass(frozen=True)
class _Sources:
    """Where the cells of one table come from."""

    config: ConfigLike
    paper: PaperTable
    metrics: MetricFolder


def collect(spec: TableSpec, config: ConfigLike, paper: Path, results: Path, seals: bool = True) -> Table:
    """Fill every cell of `spec`; no cell is left out and none is invented.

    Args:
        paper: folder with the paper's values.
        results: folder that holds `metrics/`.
        seals: whether metric files that were edited after they were written are refused.

    Raises:
        FileNotFoundError: a metric file that the configuration asks for is missing; names it and how to make it.
        ValueError: a metric file or a file of `paper` is faulty; names the file and the field.
    """
    origin = _Sources(config, read_paper(paper / f"{spec.paper}.csv"), MetricFolder(config.scale, results, seals))
    rows = []
    for row in expand(spec, config):
        rows.append(TableRow(row.label, tuple(_cell(row, column, origin) for column in spec.columns), row))
    rows = _with_references(rows, spec, origin.paper) if spec.references else rows
    return Table(spec, config.scale, config.caption, tuple(rows))


def _cell(row: Row, column: ColumnSpec, origin: _Sources) -> Cell:
    empty = Cell(row.label, column.label, State.NOT_APPLICABLE, column.unit, column.digits)
    if not row.applies(column):
        return empty
    empty = replace(empty, note=row.spec.remarks.get(column.label, ""))
    empty = _with_paper(empty, origin.paper.get(row.paper_label, column.paper_label or column.label))
    if column.task == DESIGN and row.kernel is not None:
        return _design_cell(empty, column, row.kernel)
    found = _measure(row, column, origin)
    if not found:
        return replace(empty, state=State.NOT_RUN, note=_reason(row, column, origin.config) or empty.note)
    data = tuple(dict.fromkeys(item.data for item in found if item.data is not None))
    cell = replace(
        empty, n=len(found), seeds=_seeds(row, column, origin.config), files=tuple(item.path for item in found),
        data=data, conditions=_conditions(row, column, origin),
        other_data=_is_other(row, column, data, origin.config),
    )  # fmt: skip
    if any(item.value is None for item in found):
        return _without_value(cell, row, column, origin)
    cell = _measured_cell(cell, column, found)
    return replace(cell, state=State.CONTROL) if row.spec.control else cell


def _seeds(row: Row, column: ColumnSpec, config: ConfigLike) -> tuple[int, ...]:
    if column.measured_on == "architecture":
        return ()
    return tuple(run.seed for _, run in sources(row, column, config) if isinstance(run, Run))


def _without_value(cell: Cell, row: Row, column: ColumnSpec, origin: _Sources) -> Cell:
    """The cell of a metric that is null: the row has no such quantity, or a part of the data set is missing."""
    if not column.partial:
        return cell
    contents = [origin.metrics.read(task, run) for task, run in sources(row, column, origin.config)]
    missing = {name: found for content in contents for name, found in (content["detail"].get("missing") or {}).items()}
    listed = "; ".join(f"{name} {', '.join(map(str, found))}" for name, found in missing.items())
    return replace(cell, state=State.PARTIAL, note=f"missing: {listed or 'the clean images'}")


def _reason(row: Row, column: ColumnSpec, config: ConfigLike) -> str:
    """Why there is nothing to show."""
    return "" if row.model is None else f"scale {config.scale} has no {row.task(column)} of {row.network}"


def _with_paper(cell: Cell, printed: PaperValue | None) -> Cell:
    if printed is None:
        return cell
    return replace(cell, paper=printed.value, paper_source=printed.source, paper_detail=printed.detail)


def _measure(row: Row, column: ColumnSpec, origin: _Sources) -> list[Measurement]:
    metric = column.metric.format(**row.values)
    found = [
        origin.metrics.measurement(task, run, metric, column.nullable or column.partial)
        for task, run in sources(row, column, origin.config)
    ]
    for item in found:
        if column.factor == 1 and column.unit and item.unit != column.unit:
            raise ValueError(
                f"{item.path}: field 'metrics.{metric}.unit': expected {column.unit!r}, found {item.unit!r}; "
                f"the spec of column {column.label!r} or the file is wrong"
            )
    return found


def _measured_cell(cell: Cell, column: ColumnSpec, found: list[Measurement]) -> Cell:
    pooled = pool([item.value for item in found], [item.standard_error for item in found])
    value = Decimal(str(pooled.mean)) * Decimal(str(column.factor))
    if column.text or column.choices:
        return _text_cell(cell, _words(column, value, cell.files))
    low, high = _interval(found, column.factor)
    deviation = _scaled(pooled.deviation, column.factor)
    error, spread = _scaled(pooled.standard_error, column.factor), _scaled(pooled.spread, column.factor)
    cell = replace(cell, value=float(value), deviation=deviation, standard_error=error, low=low, high=high)
    if cell.paper is None:
        return replace(cell, state=State.UNKNOWN)
    if cell.other_data:
        return replace(cell, state=State.OTHER_DATA)
    state, note = compare(column, value, cell.paper, error, spread)
    return replace(cell, state=state, note="; ".join(filter(None, (note, cell.note))))


def _scaled(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def _interval(found: list[Measurement], factor: float) -> tuple[float | None, float | None]:
    if len(found) != 1 or found[0].interval is None:
        return None, None
    return found[0].interval[0] * factor, found[0].interval[1] * factor


def _words(column: ColumnSpec, value: Decimal, files: tuple[Path, ...]) -> str:
    if column.text:
        return column.text.format(value=f"{value:.{0 if value == value.to_integral_value() else column.digits}f}")
    if value not in column.choices:
        known = ", ".join(map(str, column.choices))
        raise ValueError(f"{files[0]}: field 'metrics.{column.metric}.value': expected one of {known}, found {value}")
    return column.choices[int(value)]


def _text_cell(cell: Cell, text: str) -> Cell:
    if cell.paper is None:
        return replace(cell, value=text, state=State.UNKNOWN)
    return replace(cell, value=text, state=State.REPRODUCED if text == cell.paper else State.DEVIATES)


def _design_cell(empty: Cell, column: ColumnSpec, kernel: int) -> Cell:
    from lska.tables.designs import describe

    return _text_cell(replace(empty, n=1), describe(column.metric, kernel))


def _conditions(row: Row, column: ColumnSpec, origin: _Sources) -> str:
    """Device and settings of the first run's measurement; the others were made by the same configuration."""
    if not column.conditions:
        return ""
    task, run = sources(row, column, origin.config)[0]
    found = {name: origin.metrics.measurement(task, run, name) for name in column.conditions}
    device = next(iter(found.values())).device
    settings = (f"{name.replace('_', ' ')} {_with_unit(item)}" for name, item in found.items())
    return ", ".join([device, *settings])


def _with_unit(item: Measurement) -> str:
    return f"{item.value:g}" if item.unit in ("", "1") else f"{item.value:g} {item.unit}"


def _is_other(row: Row, column: ColumnSpec, data: tuple[str, ...], config: ConfigLike) -> bool:
    """Whether the paper's number was measured on something else, so that a comparison would say nothing."""
    if column.label in row.spec.counted_otherwise:
        return True
    if column.data is None or row.spec.control:
        return False
    shrunken = row.model in getattr(config, "architecture", {})
    return shrunken or any(name != column.data for name in data)


def _with_references(rows: list[TableRow], spec: TableSpec, paper: PaperTable) -> list[TableRow]:
    """Put each reference row after the last row of the table that precedes it in the paper's file."""
    places = {row.source.paper_label: number for number, row in enumerate(rows) if row.source}
    after: dict[int, list[TableRow]] = {}
    place = -1
    for label in paper.rows:
        if label.startswith(REFERENCE):
            after.setdefault(place, []).append(
                _reference(label, spec, paper, rows[place].source if place >= 0 else None)
            )
        place = max(place, places.get(label, -1))
    return after.get(-1, []) + [item for number, row in enumerate(rows) for item in (row, *after.get(number, []))]


def _reference(label: str, spec: TableSpec, paper: PaperTable, before: Row | None) -> TableRow:
    """A row of another publication's values; it has the quantities of the row that it follows."""
    cells = []
    for column in spec.columns:
        printed = paper.get(label, column.paper_label or column.label)
        applies = before is None or before.applies(column)
        state = State.REFERENCE if printed else State.UNKNOWN if applies else State.NOT_APPLICABLE
        cells.append(_with_paper(Cell(label, column.label, state, column.unit, column.digits), printed))
    return TableRow(label, tuple(cells), None)
