"""Filling the cells of a table from metric files and the paper's values, and how ours stand to the paper's."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from lska.models.kernels import KernelPlan, kernel_plan
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.tables.measurements import REFERENCE, Measurement, MetricFolder, PaperValue, measurement_of, read_paper
from lska.tables.specs import DESIGN, ColumnSpec, Row, TableSpec, expand, sources

if TYPE_CHECKING:
    from lska.settings.scale import Config


class State(StrEnum):
    """How our value stands to the paper's; every cell has exactly one state."""

    REPRODUCED = "reproduced"
    DEVIATES = "deviates"
    OTHER_DATA = "other data"
    MEASURED = "measured here only"
    UNKNOWN = "no printed value known"
    NOT_RUN = "not run"
    REFERENCE = "reference"
    CONTROL = "control"
    FOREIGN = "your network"
    PARTIAL = "partial"
    NOT_APPLICABLE = "does not apply"


MEANING = {
    State.REPRODUCED: "equal at the printed digits, or within tolerance or noise",
    State.DEVIATES: "measured as the paper did, with another result",
    State.OTHER_DATA: "from other data, a shrunken model or another count; the paper's value is for reference only",
    State.MEASURED: "the paper's value was not found, so ours stands alone",
    State.UNKNOWN: "a row of another publication whose value was not found",
    State.NOT_RUN: "nothing was trained or measured at this scale",
    State.REFERENCE: "published elsewhere; nothing is measured here",
    State.CONTROL: "fine-tuned in the same way from a random backbone; no entry of the paper",
    State.FOREIGN: "a network from elsewhere, measured by the same protocols; no entry of the paper",
    State.PARTIAL: "a part of the data set was not there, so that there is no mean over it",
    State.NOT_APPLICABLE: "the row, or what it was measured on, has no such quantity",
}


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


Printed = dict[tuple[str, str], PaperValue]


def collect(
    spec: TableSpec, config: Config, paper: Path, results: Path, seals: bool = True, gaps: bool = False
) -> Table:
    """Fill every cell of `spec`; no cell is left out and none is invented.

    Args:
        paper: folder with the paper's values.
        results: folder that holds `metrics/`.
        seals: whether metric files that were edited after they were written are refused.
        gaps: whether cells of metric files that are not there are left without a value.

    Raises:
        FileNotFoundError: without `gaps`, a metric file that the configuration asks for is missing; names it and how to
            make it.
        ValueError: a metric file or a file of `paper` is faulty; names the file and the field.
    """
    printed, metrics = read_paper(paper / f"{spec.paper}.csv"), MetricFolder(config.scale, results, seals)
    rows = [
        TableRow(row.label, tuple(_cell(row, column, printed, config, metrics, gaps) for column in spec.columns), row)
        for row in expand(spec, config)
    ]
    # Each reference row stands after the last row of the table that precedes it in the paper's file.
    places = {row.source.paper_label: number for number, row in enumerate(rows)}
    after: dict[int, list[TableRow]] = defaultdict(list)
    last = -1
    for label in dict.fromkeys(row for row, _ in printed) if spec.references else ():
        if label.startswith(REFERENCE):
            after[last].append(_reference(label, spec, printed, rows[last].source if last >= 0 else None))
        last = max(last, places.get(label, -1))
    ordered = after[-1] + [one for number, row in enumerate(rows) for one in (row, *after[number])]
    return Table(spec, config.scale, config.caption, tuple(ordered))


def layers(plan: KernelPlan) -> list[str]:
    """The convolutions of a gating unit in order (paper Figure 2): `DW 1x7 dilation 3` and, last, `1x1`."""
    dilations = {part: f" dilation {part.dilation}" if part.dilation > 1 else "" for part in plan.depthwise}
    return [*(f"DW {part.kernel[0]}x{part.kernel[1]}{dilation}" for part, dilation in dilations.items()), "1x1"]


def _cell(row: Row, column: ColumnSpec, printed: Printed, config: Config, metrics: MetricFolder, gaps: bool) -> Cell:
    """The paper's value, and what was measured for it."""
    cell = Cell(row.label, column.label, State.NOT_APPLICABLE, column.unit, column.digits)
    if not row.applies(column):
        return cell
    cell = replace(cell, note=row.spec.remarks.get(column.label, ""), **_paper(printed, row.paper_label, column))
    if column.task == DESIGN and row.kernel is not None:
        # The kernels of the models' own code, in the words of paper/figure_02.csv.
        if column.metric in ("dilation", "receptive_field"):
            return _worded(replace(cell, n=1), str(getattr(kernel_plan("lska", row.kernel), column.metric)))
        return _worded(replace(cell, n=1), "; ".join(layers(kernel_plan(column.metric, row.kernel))))
    runs = sources(row, column, config)
    if not runs:
        reason = "" if row.model is None else f"scale {config.scale} has no {row.task(column)} of {row.network}"
        return replace(cell, state=State.NOT_RUN, note=reason or cell.note)
    paths = tuple(metrics.path(*source) for source in runs)
    if gaps and not all(path.exists() for path in paths):
        return replace(cell, state=State.NOT_RUN, files=paths)
    contents = {metrics.path(*source): metrics.read(*source) for source in runs}
    found = [_measurement(content, path, row, column) for path, content in contents.items()]
    data = tuple(dict.fromkeys(item.data for item in found if item.data is not None))
    trained = [run for _, run in runs if isinstance(run, Run) and column.measured_on != "architecture"]
    # Whether the paper's number was measured on something else, so that a comparison would say nothing.
    elsewhere = row.model in config.architecture or any(name != column.data for name in data)
    comparable = column.data is None or row.spec.control or not elsewhere
    cell = replace(
        cell, n=len(found), seeds=tuple(run.seed for run in trained), files=tuple(contents), data=data,
        conditions="; ".join(dict.fromkeys(conditions(content, path, column) for path, content in contents.items())),
        other_data=column.label in row.spec.counted_otherwise or not comparable,
    )  # fmt: skip
    if all(item.value is not None for item in found):
        cell = filled(cell, column, found)
        return replace(cell, state=State.CONTROL) if row.spec.control else cell
    return lacking(cell, column, list(contents.values()))


def lacking(cell: Cell, column: ColumnSpec, contents: Sequence[dict[str, Any]]) -> Cell:
    """The cell of metric files whose metric is null: there is no such quantity, or a part of the data was missing."""
    if not column.partial:
        return cell
    parts = {name: absent for one in contents for name, absent in (one["detail"].get("missing") or {}).items()}
    listed = "; ".join(f"{name} {', '.join(map(str, absent))}" for name, absent in parts.items())
    return replace(cell, state=State.PARTIAL, note=f"missing: {listed or 'the clean images'}")


def _paper(printed: Printed, label: str, column: ColumnSpec) -> dict[str, str]:
    """What a cell says of the paper's value; nothing where there is none."""
    entry = printed.get((label, column.paper_label or column.label))
    if entry is None or entry.value is None:
        return {}
    return {"paper": entry.value, "paper_source": entry.source, "paper_detail": entry.detail}


def _measurement(content: dict[str, Any], path: Path, row: Row, column: ColumnSpec) -> Measurement:
    metric = column.metric.format(**row.values)
    found = measurement_of(content, metric, path, column.nullable or column.partial)
    if column.factor == 1 and column.unit and found.unit != column.unit:
        raise InputError(
            f"{path}: field 'metrics.{metric}.unit': expected {column.unit!r}, found {found.unit!r}; "
            f"the spec of column {column.label!r} or the file is wrong"
        )
    return found


def conditions(content: dict[str, Any], path: Path, column: ColumnSpec) -> str:
    """Device and settings of one measurement; empty where the column asks for none."""
    said: list[str] = []
    for name in column.conditions:
        found = measurement_of(content, name, path)
        unit = "" if found.unit in ("", "1") else f" {found.unit}"
        said += [*([] if said else [found.device]), f"{name.replace('_', ' ')} {found.value:g}{unit}"]
    return ", ".join(said)


def filled(cell: Cell, column: ColumnSpec, found: Sequence[Measurement]) -> Cell:
    """The cell with its value, the mean of what was `found`, compared with the paper's."""
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
        return replace(cell, state=State.MEASURED if cell.paper is None else State.OTHER_DATA)
    state, note, cut = compare(column, value, cell.paper, error, spread)
    return replace(cell, state=state, note="; ".join(filter(None, (note, cell.note))), cut=cut)


def _worded(cell: Cell, text: str) -> Cell:
    same = State.REPRODUCED if text == cell.paper else State.DEVIATES
    return replace(cell, value=text, state=State.MEASURED if cell.paper is None else same)


def _reference(label: str, spec: TableSpec, printed: Printed, before: Row | None) -> TableRow:
    """A row of another publication's values; it has the quantities of the row that it follows."""
    cells = []
    for column in spec.columns:
        known = _paper(printed, label, column)
        absent = State.UNKNOWN if before is None or before.applies(column) else State.NOT_APPLICABLE
        state = State.REFERENCE if known else absent
        cells.append(Cell(label, column.label, state, column.unit, column.digits, **known))
    return TableRow(label, tuple(cells), None)


def compare(
    column: ColumnSpec, value: Decimal, printed: str, standard_error: float | None, spread: float | None
) -> tuple[State, str, bool]:
    """How a number that was measured as the paper measured it stands to the printed one, all in the column's unit: its
    state, how they were compared, and whether they are equal only if ours is cut, not rounded, to the printed digits.

    Args:
        printed: the paper's value with its printed digits.
        standard_error: of our mean.
        spread: standard deviation that one run would show; the paper's single run is given it.

    Raises:
        ValueError: `printed` is not a number.
    """
    try:
        paper = Decimal(printed)
    except InvalidOperation as error:
        raise InputError(f"the paper's value {printed!r} in column {column.label!r} is not a number") from error
    place = Decimal(1).scaleb(int(paper.as_tuple().exponent))
    if column.tolerance in ("printed", "printed or cut"):
        rounded = value.quantize(place, ROUND_HALF_UP)
        if rounded == paper:
            return State.REPRODUCED, "equal when rounded to the printed digits", False
        if column.tolerance == "printed or cut" and value.quantize(place, ROUND_DOWN) == paper:
            return State.REPRODUCED, "equal when cut, not rounded, to the printed digits", True
        return State.DEVIATES, f"{rounded} when rounded to the printed digits", False
    allowed = column.margin
    if column.tolerance == "noise":
        allowed = max(allowed, 2 * math.hypot(standard_error or 0.0, spread or 0.0))
    allowed += float(place) / 2
    difference = abs(float(value - paper))
    state = State.REPRODUCED if difference <= allowed else State.DEVIATES
    return state, f"differs by {difference:.3g}, {allowed:.3g} allowed", False


class Pooled(NamedTuple):
    """A value over seeds; None where nothing is known."""

    mean: float
    deviation: float | None
    """Sample standard deviation over seeds; None for one seed."""
    standard_error: float | None
    """Of the mean: sqrt(sampling error^2 + deviation^2 / seeds)."""
    spread: float | None
    """Standard deviation of a single run: sqrt(sampling error^2 + deviation^2)."""

    @property
    def error(self) -> float | None:
        """What stands after ±: the deviation over seeds where there are several, else the standard error."""
        return self.standard_error if self.deviation is None else self.deviation


def pool(values: Sequence[float], errors: Sequence[float | None]) -> Pooled:
    """Combine the runs of all seeds, given their values and standard errors.

    All seeds are scored on the same images, so the sampling error of these images does not shrink with the number of
    seeds, while the deviation between seeds does.
    """
    deviation = stdev(values) if len(values) > 1 else None
    known = [error for error in errors if error is not None]
    if deviation is None and not known:
        return Pooled(fmean(values), None, None, None)
    sampling = fmean(error**2 for error in known) if known else 0.0
    between = (deviation or 0.0) ** 2
    error = math.sqrt(sampling + between / len(values))
    return Pooled(fmean(values), deviation, error, math.sqrt(sampling + between))
