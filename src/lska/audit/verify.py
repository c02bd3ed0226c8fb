"""Whether the numbers of a scale still follow from the files behind them, without data, weights or a GPU.

Every file is checked once, every cell is followed to its first broken link (`links`), and whatever is made of metric
files is made again and compared: tables, figures, claims, summaries. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import os
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lska.audit.explain import WIDTH, with_short_digests
from lska.audit.links import (
    COUNTED,
    MEANING,
    Finding,
    Level,
    ScaleFiles,
    broken,
    faulty,
)
from lska.claims.listing import CLAIMS, claim_files, read_claims
from lska.claims.summaries import summary_files
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, json_text, printable, read_bytes, read_text
from lska.provenance.metric_files import changed_files, commit_text
from lska.settings.scale import Config
from lska.tables.cell_text import cell_text
from lska.tables.collect import Cell, State, Table, collect
from lska.tables.measurements import read_paper
from lska.tables.specs import TARGETS, load_spec, outputs, requirements
from lska.tables.table_formats import WRITERS

Progress = Callable[[Iterable[str]], Iterable[str]]

SHOWN = 5
"""Findings of a kind that are told one by one where only their number matters, and chains of a broken link."""
AROUND = 40
"""Characters shown on each side of a difference within a long text."""

CODE = "code and metric files give"
"""Source of captions, legends and whatever else is outside of cells."""

NUMBERS = ("recomputed", "bounded", "unknown")
"""How far the evidence determines numbers of metric files."""

WHOLE = ("all rows", "all columns")
"""Row and column that stand for all cells of a table that cannot be filled."""


@dataclass(frozen=True)
class Verification:
    """What was found at a scale; `checked` has the number of files by what they are."""

    scale: str
    caption: str
    checked: Mapping[str, int]
    chains: int
    """Cells of tables and figures that were followed."""
    findings: tuple[Finding, ...]
    numbers: Counter[tuple[str, str]]
    """Numbers of the metric files, by how far the evidence determines them, and which they are (`speed: value`)."""

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(finding for finding in self.findings if finding.level is level)

    def counted(self, kind: str) -> dict[str, int]:
        """The numbers of one of `NUMBERS`."""
        return {name: number for (one, name), number in self.numbers.items() if one == kind}

    @property
    def broken_chains(self) -> int:
        """Cells that do not follow from their files."""
        return len({chain for finding in self.of(Level.BROKEN) for chain in finding.chains})

    def sound(self, strict: bool = False) -> bool:
        """Whether nothing is broken and, if `strict`, nothing is outdated or without a seal either."""
        bad = (Level.BROKEN, Level.OUTDATED, Level.UNSEALED) if strict else (Level.BROKEN,)
        return not any(finding.level in bad for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values for scripts."""
        return {
            "schema": 1,
            "scale": self.scale,
            "caption": self.caption,
            "sound": self.sound(),
            "checked": dict(self.checked),
            "numbers": {kind: self.counted(kind) for kind in NUMBERS},
            "chains": {"followed": self.chains, "broken": self.broken_chains},
            "findings": [one.to_json() | {"first_broken_of": list(one.chains)} for one in self.findings],
        }

    def to_text(self) -> str:
        """Counts, then the findings by level; what is broken one by one, with the cells that it breaks."""
        counts = ", ".join(f"{number:,} {what}" for what, number in self.checked.items() if number)
        lines = textwrap.wrap(f"{self.scale} scale: checked {counts}", WIDTH, subsequent_indent="  ")
        state = f"{self.broken_chains:,} are broken" if self.broken_chains else "none is broken"
        lines.append(f"{self.chains:,} cells of tables and figures were followed to their files; {state}.")
        lines += self._number_lines()
        for level in Level:
            if found := self.of(level):
                lines += ["", *textwrap.wrap(f"{str(level).upper()} ({len(found):,}): {MEANING[level]}", WIDTH)]
                lines += _finding_lines(level, found)
        lines += [] if self.of(Level.BROKEN) else ["", "Nothing is broken."]
        return printable("\n".join(lines) + "\n")

    def _number_lines(self) -> Iterator[str]:
        recomputed, bounded, unknown = (sum(self.counted(kind).values()) for kind in NUMBERS)
        text = (
            f"Of {recomputed + bounded + unknown:,} numbers in metric files, {recomputed:,} were recomputed; of "
            f"{bounded:,} only a range or a relation to others is known; {unknown:,} are not determined by the "
            "evidence that is kept"
        )
        yield from textwrap.wrap(f"{text}{':' if unknown else '.'}", WIDTH)
        counts = self.counted("unknown")
        for task, fields in itertools.groupby(sorted(counts), lambda name: name.partition(": ")[0]):
            kinds = ", ".join(f"{counts[name]:,} of {name.partition(': ')[2]}" for name in fields)
            yield f"  {task}: {kinds}{' (counted again by --recount)' if task.startswith(COUNTED) else ''}"


def verify_scale(
    config: Config,
    paper: Path = Path("paper"),
    progress: Progress = iter,
    drawings: bool = False,
    recount: bool = False,
) -> Verification:
    """Follow every cell of a scale's tables and figures to its origins, and check every file on the way.

    Needs neither data nor weights; weights that are there are compared by their MD5.

    Args:
        paper: folder with the paper's values.
        progress: goes through the names of what is checked and may show them.
        drawings: whether figures are drawn anew too, which takes half a minute.
        recount: whether what depends on the code alone is counted again, which takes minutes.

    Raises:
        ValueError: the scale has no results.
    """
    files = ScaleFiles(config, recount)
    targets = [target for target in TARGETS if any(map(os.path.lexists, outputs(target, config.results)))]
    if not files.metrics and not targets:
        raise InputError(f"{config.results} holds no metric files, tables or figures to verify; run snakemake first")
    shown = [_target(target, files, paper, drawings) for target in progress(targets)]
    every = [checked for group in (files.metrics, files.sidecars, files.records) for checked in list(group.values())]
    findings = [finding for checked in every for finding in checked.findings]
    findings += [fault for checked in every for fault in files.broken_behind(checked)]
    findings += [finding for one in shown for finding in one.findings]
    findings += [finding for checked in every for finding in files.outdated(checked)]
    findings += [*verify_claims(config, [path for path, checked in files.metrics.items() if checked.broken])]
    findings += [*verify_summaries(config), *_history(files)]
    chains = {
        f"{one.target}: {key[0]} / {key[1]}": next(_broken_cell(one.findings, key, paths, files), None)
        for one in shown
        for key, paths in one.cells.items()
    }
    numbers = sum((checked.tally for checked in files.metrics.values()), Counter())
    found, counts = _merged(findings, chains), _counts(files, shown)
    return Verification(config.scale, config.caption, counts, len(chains), found, numbers)


def first_broken(table: Table, cell: Cell, files: ScaleFiles) -> Finding | None:
    """The first broken link of one cell's chain, None where it is sound.

    Args:
        table: filled from metric files as they are, also edited ones.
        cell: one of its cells.
    """
    texts = [] if any(files.metric(path).broken for path in cell.files) else _present(table.spec.target, files.config)
    shown = (fault for path in texts for fault in verify_table(table, path))
    return next(_broken_cell(shown, (cell.row, cell.column), cell.files, files), None)


def _broken_cell(
    shown: Iterable[Finding], key: tuple[str, str], paths: Iterable[Path], files: ScaleFiles
) -> Iterator[Finding]:
    """What is broken of a cell: what a table shows of it, then what is behind its metric files."""
    yield from (finding for finding in shown if finding.cell == key)
    for path in paths:
        yield from files.broken_behind(files.metric(path))


def _merged(findings: Iterable[Finding], chains: Mapping[str, Finding | None]) -> tuple[Finding, ...]:
    """Each finding once, with the cells that it is the first of; a place that is broken is not outdated too."""
    first: dict[Finding, list[str]] = {}
    for name, finding in chains.items():
        if finding is not None:
            first.setdefault(finding, []).append(name)
    unique = dict.fromkeys((*findings, *first))
    faults = {(finding.file, finding.place) for finding in unique if finding.level is Level.BROKEN}
    kept = [one for one in unique if one.level is Level.BROKEN or (one.file, one.place) not in faults]
    kept.sort(key=lambda finding: list(Level).index(finding.level))
    return tuple(replace(finding, chains=tuple(first.get(finding, ()))) for finding in kept)


def _history(files: ScaleFiles) -> Iterator[Finding]:
    """What git knows: files that differ from the commit, and results of unknown commits or of changed sources."""
    results = files.config.results
    for path in map(Path, changed_files(results, files.weights_folder, Path("paper"))):
        state = "differs from the commit" if path.exists() else "is gone; the commit has it"
        yield Finding(Level.NOTE, path, "", state)
    every = [*files.metrics.values(), *files.sidecars.values()]
    commits = Counter((checked.get("code.commit"), checked.get("code.dirty")) for checked in every if checked.content)
    for (commit, dirty), number in commits.items():
        known = "" if commit is None else commit_text(commit)
        if not known.startswith(("in this checkout,", "the current", "not looked up")):
            text = "no commit" if commit is None else f"commit {commit}, which is {known}"
            yield Finding(Level.NOTE, results, "code.commit", f"{number:,} files name {text}")
        if dirty:
            text = f"{number:,} files were made from commit {commit} with uncommitted changes"
            yield Finding(Level.NOTE, results, "code.dirty", text)


# --- Tables and figures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """A table or figure on disk: its cells' metric files, and what is found of its own files."""

    target: str
    files: int
    cells: Mapping[tuple[str, str], tuple[Path, ...]]
    findings: tuple[Finding, ...]


def _present(target: str, config: Config, drawings: bool = False) -> list[Path]:
    """What is at the places of a target's files that hold numbers, or of its drawings."""
    every = outputs(target, config.results)
    return [path for path in every if (path.suffix not in WRITERS) == drawings and os.path.lexists(path)]


def _target(target: str, files: ScaleFiles, paper: Path, drawings: bool) -> _Shown:
    config, spec = files.config, load_spec(target)
    texts, drawn = _present(target, config), _present(target, config, drawings=True) if drawings else []
    values = paper / f"{spec.paper}.csv"
    needed = [config.metric_path(task, run) for task, run in requirements(spec, config)]
    distrusted = [path for path in needed if files.metric(path).broken]
    try:
        read_paper(values)
    except ValueError as error:
        return _Shown(target, len(texts), {}, (faulty(values, error),))
    cells: Mapping[tuple[str, str], tuple[Path, ...]] = {WHOLE: tuple(distrusted)} if distrusted else {}
    table, found = None, []
    try:
        table = collect(spec, config, paper, config.results, seals=False)
        cells = {(cell.row, cell.column): cell.files for cell in table.cells}
    except (OSError, ValueError) as error:
        found = [] if distrusted else [broken(path, "", f"cannot be filled: {error}") for path in texts]
    if distrusted:
        text = f"not compared with its metric files, since {distrusted[0]} is broken"
        found = [Finding(Level.NOTE, path, "", text) for path in texts[:1]]
    elif table is not None:
        found = [fault for path in texts for fault in verify_table(table, path)]
        found += _drawing_faults(table, drawn) if drawn else ()
    return _Shown(target, len(texts) + len(drawn), cells, tuple(found))


def verify_table(table: Table, path: Path) -> Iterator[Finding]:
    """Where a file of a table differs from the table as its metric files fill it; each finding names the cell, the
    file's text and the table's.
    """
    try:
        found, expected = read_text(path), WRITERS[path.suffix](table)
    except FileError as error:
        yield faulty(path, error)
        return
    if found != expected:
        yield from (_csv_faults if path.suffix == ".csv" else _line_faults)(table, path, found, expected)


def _csv_faults(table: Table, path: Path, found: str, expected: str) -> Iterator[Finding]:
    """The cells whose lines are others than expected, or the first line that differs where it is none of a cell."""
    here, faults = {}, []
    if found.partition("\n")[0] == expected.partition("\n")[0]:
        with contextlib.suppress(csv.Error):
            here = {(one["row"], one["column"]): one for one in csv.DictReader(io.StringIO(found))}
    for line in csv.DictReader(io.StringIO(expected)) if here else ():
        key = line["row"], line["column"]
        ours, place = here.get(key), f"row {key[0]!r}, column {key[1]!r}"
        if ours is None:
            faults.append(broken(path, place, "the line of this cell is missing", key))
            continue
        for name, value in line.items():
            if ours[name] != value:
                text = _shows(ours[name] or "", value, f"{_sources(table, key, name)} give")
                faults.append(broken(path, f"{place}, {name}", text, key))
    yield from faults or [_line_fault(path, found, expected, CODE)]


def _line_faults(table: Table, path: Path, found: str, expected: str) -> Iterator[Finding]:
    """The lines that a rendered table shows otherwise, with the cell in which each differs where it is in one."""
    ours, theirs = found.splitlines(), expected.splitlines()
    if len(ours) != len(theirs) or ours == theirs:
        yield _line_fault(path, found, expected, CODE)
        return
    layout = _Layout(table, WRITERS[path.suffix])
    for number, (line, wanted) in enumerate(zip(ours, theirs, strict=True)):
        if line == wanted:
            continue
        key = layout.cell(number, line, wanted)
        place = f"line {number + 1}" if key is None else f"row {key[0]!r}, column {key[1]!r}"
        source = CODE if key is None else f"{_sources(table, key)} give"
        yield broken(path, place, _shows(line, wanted, source), key)


def _sources(table: Table, key: tuple[str, str], field: str = "") -> str:
    """The files that give a cell, or one of its fields: metric files, the paper's values, or both."""
    measured = next((list(map(str, cell.files)) for cell in table.cells if (cell.row, cell.column) == key), [])
    printed = [f"paper/{table.spec.paper}.csv"] if "paper" in field or not field else []
    return " and ".join(([] if field.startswith("paper") else measured or ["the metric files"]) + printed)


class _Layout:
    """Where the cells of a rendered table stand: what changes in its text when a row or a column has other cells."""

    def __init__(self, table: Table, write: Callable[[Table], str]) -> None:
        self._table, self._write = table, write

    @functools.cached_property
    def _rows(self) -> dict[str, list[str]]:
        return {row.label: self._other("row", row.label) for row in self._table.rows}

    @functools.cached_property
    def _columns(self) -> dict[str, list[str]]:
        return {column.label: self._other("column", column.label) for column in self._table.spec.columns}

    def cell(self, number: int, found: str, expected: str) -> tuple[str, str] | None:
        """Row and column of the first cell in which a line differs; None where it is no row, or differs beside them."""
        rows = [label for label, lines in self._rows.items() if lines[number : number + 1] != [expected]]
        place = _differing_span(expected, found)[0]
        for label, lines in self._columns.items():
            start, end = _differing_span(expected, lines[number]) if number < len(lines) else (0, 0)
            if len(rows) == 1 and lines[number] != expected and start <= place <= end:
                return rows[0], label
        return None

    def _other(self, kind: str, label: str) -> list[str]:
        """The lines of the table in which the cells of a row or column look otherwise, and are as wide as they are."""

        def other(cell: Cell, reference: bool) -> Cell:
            # A column applies to a reference row where it has a cell.
            if getattr(cell, kind) != label or (reference and cell.state is State.NOT_APPLICABLE):
                return cell
            return replace(cell, state=State.CONTROL, value=str(cell_text(cell))[::-1].translate(_OTHERS))

        rows = (
            replace(row, cells=tuple(other(cell, row.source is None) for cell in row.cells)) for row in self._table.rows
        )
        return self._write(replace(self._table, rows=tuple(rows))).splitlines()


_ALIKE = "0123456789", "abcdefghknopqrstuvxyz"
_OTHERS = {ord(one): other for alike in _ALIKE for one, other in zip(alike, alike[1:] + alike[:1], strict=True)}
"""For each character another one of its width."""


def _differing_span(one: str, other: str) -> tuple[int, int]:
    """Start and end of the part of a text that differs from another text."""
    start = len(os.path.commonprefix([one, other]))
    return start, max(start, len(one) - len(os.path.commonprefix([one[start:][::-1], other[start:][::-1]])))


def _drawing_faults(table: Table, paths: Sequence[Path]) -> Iterator[Finding]:
    """Draw a table anew and compare bytes, which are equal for equal numbers, code, matplotlib and fonts."""
    from lska.tables.figures import draw_figure

    with tempfile.TemporaryDirectory(prefix="lska-") as folder:
        copies = [Path(folder) / path.name for path in paths]
        draw_figure(table, copies)
        for path, copy in zip(paths, copies, strict=True):
            try:
                same = read_bytes(path) == copy.read_bytes()
            except FileError as error:
                yield faulty(path, error)
                continue
            if not same:
                yield broken(path, "", "is not what is drawn now from the metric files by this code and matplotlib")


# --- Claims and summaries --------------------------------------------------------------------------------------------


def verify_claims(config: Config, distrusted: Sequence[Path] = ()) -> Iterator[Finding]:
    """Compare claims.json and its pages with verdicts made now; nothing where none of them is there.

    Args:
        distrusted: metric files that are broken themselves; no verdicts are made from them.
    """
    from lska.claims.claims_page import claims_content, render_claims
    from lska.claims.verdicts import judge_claims

    paths = claim_files(config.results)
    there = [one for one in paths if os.path.lexists(one)]
    if not there:
        return
    try:
        read_claims()
    except ValueError as error:
        yield faulty(CLAIMS, error)
        return

    @functools.cache
    def judged() -> dict[str, Any]:
        if distrusted:
            raise InputError(f"{distrusted[0]} is broken")
        return claims_content(judge_claims(config), config)

    def made(suffix: str) -> str:
        return json_text(judged()) if suffix == ".json" else render_claims(judged(), suffix)

    for path in paths:
        missing = broken(path, "", f"is missing, but {there[0].name} beside it shows its verdicts")
        source = "the metric files and the paper's statements give"
        yield from _remade(path, functools.partial(made, path.suffix), source, missing)


def verify_summaries(config: Config) -> Iterator[Finding]:
    """Compare the files of `lska summary --write` with what it would write now; nothing where none of them is there."""
    from lska.claims.summaries import leftovers, summary_contents

    contents = summary_contents(config)
    if not any(map(os.path.lexists, contents)):
        return
    for path, make in contents.items():
        trained = path.suffix == ".csv" and path.stem != "networks"
        source = "the record of the training gives" if trained else "the metric files give"
        missing = Finding(Level.OUTDATED, path, "", "is missing, although others of its kind are there")
        yield from _remade(path, make, source, missing)
    for path in leftovers(config, contents):
        yield Finding(Level.OUTDATED, path, "", f"scale {config.scale} has no such run or training any more")


def _remade(
    path: Path, make: Callable[[], Mapping[str, Any] | str], source: str, missing: Finding
) -> Iterator[Finding]:
    """Compare a file with what would be written now, as `source` (with its verb) gives it."""
    try:
        made = make()
    except (OSError, ValueError) as error:
        if os.path.lexists(path):
            yield Finding(Level.NOTE, path, "", f"not compared: {error}")
        return
    expected = made if isinstance(made, str) else json_text(made)
    try:
        if not os.path.lexists(path):
            yield missing
        elif (found := read_text(path)) != expected:
            yield _line_fault(path, found, expected, source)
    except FileError as error:
        yield faulty(path, error)


# --- Comparing texts -------------------------------------------------------------------------------------------------


def _line_fault(path: Path, found: str, expected: str, source: str) -> Finding:
    """The first line in which a text differs from what it should be."""
    ours, theirs = found.splitlines(), expected.splitlines()
    if ours == theirs:
        return broken(path, "", "line endings, or the end of the file, are others than those written")
    pairs = enumerate(itertools.zip_longest(ours, theirs, fillvalue=""), start=1)
    number, (line, wanted) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    counts = "" if len(ours) == len(theirs) else f" (the file has {len(ours)} lines, expected {len(theirs)})"
    return broken(path, f"line {number}", _shows(line, wanted, source) + counts)


def _shows(ours: str, theirs: str, source: str) -> str:
    """Both texts, of long ones what is around their difference."""
    start = max(0, _differing_span(theirs, ours)[0] - AROUND) if max(len(ours), len(theirs)) > 3 * AROUND else 0
    cut = slice(start, start + 3 * AROUND)
    return f"shows {ours[cut]!r}, {source} {theirs[cut]!r}"


# --- Words -----------------------------------------------------------------------------------------------------------


def _counts(files: ScaleFiles, shown: Sequence[_Shown]) -> dict[str, int]:
    config, metrics = files.config, files.metrics.values()
    return {
        "metric files": sum(path.is_file() for path in files.metrics),
        "files of outcomes": sum(checked.get("outcomes") is not None for checked in metrics),
        "sidecars of weights": len(files.sidecars),
        "weights by their MD5": sum(path.with_suffix(".safetensors").is_file() for path in files.sidecars),
        "data records": len(files.records),
        "tables": sum(one.target.startswith("table") for one in shown),
        "figures": sum(one.target.startswith("figure") for one in shown),
        "files of tables and figures": sum(one.files for one in shown),
        "pages of claims": sum(path.is_file() for path in claim_files(config.results)),
        "files that DVC compares": sum(Path(name).is_file() for name in summary_files(config)),
    }


def _finding_lines(level: Level, findings: Iterable[Finding]) -> Iterator[str]:
    """What is broken one by one, with the cells that it breaks; what is said of several files alike once."""
    groups: dict[tuple[str, str, tuple[str, ...], Path | None], list[str]] = {}
    for one in findings:
        place = f"{one.file.as_posix()}{f': {one.place}' if one.place else ''}"
        alike = (one.place, one.text, one.chains, one.file if level is Level.BROKEN else None)
        groups.setdefault(alike, []).append(place)
    for (_, text, chains, _), places in groups.items():
        yield from (f"  {place}" for place in _few(places))
        counted = f"{len(places):,} {text}" if level is Level.UNSEALED else text
        yield from textwrap.wrap(with_short_digests(counted), **_INDENTED)
        if chains:
            cells = "; ".join(_few(chains))
            yield from textwrap.wrap(f"first broken link of {len(chains):,} cell(s): {cells}", **_INDENTED)


_INDENTED: dict[str, Any] = {
    "width": WIDTH, "initial_indent": " " * 6, "subsequent_indent": " " * 6,
    "break_long_words": False, "break_on_hyphens": False,
}  # fmt: skip


def _few(texts: Sequence[str]) -> list[str]:
    return [*texts[:SHOWN], *([f"and {len(texts) - SHOWN:,} more"] if len(texts) > SHOWN else [])]
