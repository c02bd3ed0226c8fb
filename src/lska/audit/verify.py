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
from lska.audit.table_files import Apart, drawing_faults, line_fault, verify_table
from lska.claims.listing import CLAIMS, claim_files, read_claims
from lska.claims.summaries import summary_files
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, json_text, parse_json, printable, read_json, read_text
from lska.provenance.metric_files import changed_files, commit_text
from lska.settings.scale import Config
from lska.tables.collect import Cell, Table, collect
from lska.tables.measurements import read_paper
from lska.tables.specs import TARGETS, load_spec, outputs, requirements
from lska.tables.table_formats import WRITERS

Progress = Callable[[Iterable[str]], Iterable[str]]

SHOWN = 5
"""Findings of a kind that are told one by one where only their number matters, and chains of a broken link."""
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
        """Whether nothing is broken and, if `strict`, nothing is outdated, missing or without a seal either."""
        return not any(one.level is Level.BROKEN or (strict and one.level is not Level.NOTE) for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values for scripts."""
        return {
            "schema": 1,
            "scale": self.scale,
            "caption": self.caption,
            "sound": self.sound(),
            "levels": {str(level): len(self.of(level)) for level in Level},
            "checked": dict(self.checked),
            "numbers": {kind: self.counted(kind) for kind in NUMBERS},
            "chains": {"followed": self.chains, "broken": self.broken_chains},
            "findings": [one.to_json() | {"first_broken_of": list(one.chains)} for one in self.findings],
        }

    def to_text(self, command: str = "") -> str:
        """Counts, then the findings by level; what is broken one by one, with the cells that it breaks, what is missing
        by kind, with the `command` that makes it.
        """
        counts = ", ".join(f"{number:,} {what}" for what, number in self.checked.items() if number)
        lines = textwrap.wrap(f"{self.scale} scale: checked {counts}", WIDTH, subsequent_indent="  ")
        state = f"{self.broken_chains:,} are broken" if self.broken_chains else "none is broken"
        lines.append(f"{self.chains:,} cells of tables and figures were followed to their files; {state}.")
        lines += self._number_lines()
        for level in Level:
            if found := self.of(level):
                lines += ["", *textwrap.wrap(f"{str(level).upper()} ({len(found):,}): {MEANING[level]}", WIDTH)]
                lines += _missing_lines(found, command) if level is Level.MISSING else _finding_lines(level, found)
        lines += [] if self.of(Level.BROKEN) else ["", "Nothing is broken."]
        return printable("\n".join(lines) + "\n")

    def _number_lines(self) -> Iterator[str]:
        recomputed, bounded, unknown = (sum(self.counted(kind).values()) for kind in NUMBERS)
        text = (
            f"{recomputed + bounded + unknown:,} numbers in metric files: {recomputed:,} recomputed; {bounded:,} "
            f"compared with a range or with other numbers; {unknown:,} that no kept file determines"
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
    if not targets and not any(map(os.path.lexists, files.metrics)):
        raise InputError(f"{config.results} holds no metric files, tables or figures to verify; run snakemake first")
    shown = [_target(target, files, paper, drawings) for target in progress(targets)]
    every = [checked for group in (files.metrics, files.sidecars, files.records) for checked in list(group.values())]
    findings = [finding for checked in every for finding in checked.findings]
    findings += [fault for checked in every for fault in files.broken_behind(checked)]
    findings += [finding for one in shown for finding in one.findings]
    findings += [finding for checked in every for finding in files.outdated(checked)]
    findings += files.leftovers
    made = (path for target in TARGETS for path in outputs(target, config.results))
    findings += [_absent(path) for path in made if not os.path.lexists(path)]
    findings += [*verify_claims(config, [path for path, checked in files.metrics.items() if checked.broken])]
    findings += [*verify_summaries(config), *_history(files)]
    chains = {
        f"{one.target}: {key[0]} / {key[1]}": next(_grave_cell(one.findings, key, paths, files), None)
        for one in shown
        for key, paths in one.cells.items()
    }
    numbers = sum((checked.tally for checked in files.metrics.values()), Counter())
    found, counts = _merged(findings, chains), _counts(files, shown)
    return Verification(config.scale, config.caption, counts, len(chains), found, numbers)


def first_broken(table: Table, cell: Cell, files: ScaleFiles) -> Finding | None:
    """The first broken link of one cell's chain, else the first that is missing; None where it is sound and whole.

    Args:
        table: filled from metric files as they are, also edited ones.
        cell: one of its cells.
    """
    texts = [] if any(files.metric(path).broken for path in cell.files) else _present(table.spec.target, files.config)
    apart = Apart.of(table, texts, files.named)
    shown = (fault for path in texts for fault in verify_table(table, path, apart))
    return next(_grave_cell(shown, (cell.row, cell.column), cell.files, files), None)


def _absent(path: Path) -> Finding:
    return Finding(Level.MISSING, path, "", "is not there")


def _grave_cell(
    shown: Iterable[Finding], key: tuple[str, str], paths: Iterable[Path], files: ScaleFiles
) -> Iterator[Finding]:
    """What is broken of a cell, first what a table shows of it, then behind its metric files; then what is missing."""
    yield from (finding for finding in shown if finding.cell == key)
    checked = [files.metric(path) for path in paths]
    yield from (finding for one in checked for finding in files.broken_behind(one))
    yield from (finding for one in checked for finding in files.missing_behind(one))


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
        table = collect(spec, config, paper, config.results, seals=False, gaps=True)
        cells = {(cell.row, cell.column): cell.files for cell in table.cells}
    except (OSError, ValueError) as error:
        found = [] if distrusted else [broken(path, "", f"cannot be filled: {error}") for path in texts]
    if distrusted:
        text = f"not compared with its metric files, since {distrusted[0]} is broken"
        found = [Finding(Level.NOTE, path, "", text) for path in texts[:1]]
    elif table is not None:
        apart = Apart.of(table, texts, files.named)
        found = [fault for path in texts for fault in verify_table(table, path, apart)]
        found += drawing_faults(table, drawn) if drawn and not apart else ()
    return _Shown(target, len(texts) + len(drawn), cells, tuple(found))


# --- Claims and summaries --------------------------------------------------------------------------------------------


def verify_claims(config: Config, distrusted: Sequence[Path] = ()) -> Iterator[Finding]:
    """Compare claims.json and its pages with verdicts made now; nothing where none of them is there.

    Args:
        distrusted: metric files that are broken themselves; no verdicts are made from them.
    """
    from lska.claims.claims_page import claims_content, render_claims
    from lska.claims.verdicts import judge_claims

    paths = claim_files(config.results)
    absent = [path for path in paths if not os.path.lexists(path)]
    yield from map(_absent, absent)
    if len(absent) == len(paths):
        return
    try:
        read_claims()
    except ValueError as error:
        yield faulty(CLAIMS, error)
        return
    shown: dict[str, Any] = {}
    with contextlib.suppress(FileError):
        shown = read_json(paths[0])

    @functools.cache
    def judged() -> dict[str, Any]:
        if distrusted:
            raise InputError(f"{distrusted[0]} is broken")
        return claims_content(judge_claims(config), config)

    def outdated() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return _other_claims(shown, judged())
        return False

    def made(suffix: str) -> str:
        if suffix == ".json":
            return json_text(judged())
        if not outdated():
            return render_claims(judged(), suffix)
        # Pages of outdated verdicts are compared with these, which may have been called otherwise.
        counts = {name: shown["counts"].get(name, 0) for name in judged()["counts"]}
        return render_claims(shown | {"counts": counts}, suffix)

    for path in paths:
        if path.suffix == ".json" and outdated():
            text = "was made by another configuration, of other metric files than today's"
            yield Finding(Level.OUTDATED, path, "", text)
        elif path not in absent:
            source = "the metric files and the paper's statements give"
            yield from _remade(path, functools.partial(made, path.suffix), source)


def _other_claims(shown: Mapping[str, Any], judged: Mapping[str, Any]) -> bool:
    """Whether verdicts differ from today's in claims only that were judged by other metric files."""

    def by_id(content: Mapping[str, Any]) -> dict[str, Any]:
        return {one["id"]: one for one in content["claims"]}

    def files(content: Mapping[str, Any], claim: Mapping[str, Any]) -> list[list[str]]:
        tasks = (quantity["name"].partition(".")[0] for quantity in claim["quantities"])
        own = [quantity["files"] for quantity in claim["quantities"]]
        return own + [content["trainings"].get(task, []) for task in tasks]

    try:
        ours, theirs = by_id(shown), by_id(judged)
        other = {name for name in ours if files(shown, ours[name]) != files(judged, theirs[name])}
        alike = all(ours[name] == theirs[name] for name in ours if name not in other)
        same = all(shown[name] == judged[name] for name in judged if name not in ("claims", "counts", "trainings"))
        return bool(other) and alike and same and [*ours] == [*theirs] and [*sorted(judged)] == [*sorted(shown)]
    except (KeyError, TypeError):
        return False


def verify_summaries(config: Config) -> Iterator[Finding]:
    """Compare the files of `lska summary --write` with what it would write now; nothing where none of them is there."""
    from lska.claims.summaries import leftovers, summary_contents

    contents = summary_contents(config)
    if not any(map(os.path.lexists, contents)):
        return
    for path, make in contents.items():
        trained = path.suffix == ".csv" and path.stem != "networks"
        source = "the record of the training gives" if trained else "the metric files give"
        yield from _remade(path, make, source, _other_runs)
    for path in leftovers(config, contents):
        yield Finding(Level.OUTDATED, path, "", f"scale {config.scale} has no such run or training any more")


def _remade(
    path: Path, make: Callable[[], Mapping[str, Any] | str], source: str,
    other: Callable[[str, str], bool] = lambda found, expected: False,
) -> Iterator[Finding]:  # fmt: skip
    """Compare a file with what would be written now, as `source` (with its verb) gives it.

    Args:
        other: whether a text is of another configuration than the expected one, rather than edited.
    """
    if not os.path.lexists(path):
        yield _absent(path)
        return
    try:
        made = make()
    except (OSError, ValueError) as error:
        yield Finding(Level.NOTE, path, "", f"not compared: {error}")
        return
    expected = made if isinstance(made, str) else json_text(made)
    try:
        if (found := read_text(path, keep_mark=True)) != expected:
            text = "was made by another configuration, of other runs or tasks than today's"
            outdated = Finding(Level.OUTDATED, path, "", text)
            yield outdated if other(found, expected) else line_fault(path, found, expected, source)
    except FileError as error:
        yield faulty(path, error)


def _other_runs(found: str, expected: str) -> bool:
    """Whether two summaries, or two tables of a plot, differ only in runs and tasks that one of them lacks."""
    try:
        ours, theirs = _series(found), _series(expected)
    except (FileError, csv.Error, AttributeError, KeyError, TypeError):
        return False
    return ours.keys() != theirs.keys() and all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def _series(text: str) -> dict[str, Any]:
    """The parts of a summary that one task or run has: metrics by task, or lines by run; of the networks, values by run
    and column."""
    if text.startswith("{"):
        return dict(_tasks(parse_json(text, "summary")))
    found: dict[str, Any] = {}
    for line in csv.DictReader(io.StringIO(text), strict=True):
        if "run" in line:
            run = line["run"]
            tasks: dict[str, dict[str, str]] = {}
            for name, value in line.items():
                # Columns of tasks are called <task>.<metric>; a run without a task has nothing there.
                if value or "." not in name:
                    tasks.setdefault(name.rpartition(".")[0], {})[name] = value
            found |= {f"{run} {task}": values for task, values in tasks.items()}
        else:
            found.setdefault(line["series"], []).append(line)
    return found


def _tasks(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Metrics by task, of mappings in mappings."""
    values = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    if values:
        yield above, values
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _tasks(value, f"{above}/{name}")


# --- Words -----------------------------------------------------------------------------------------------------------


def _counts(files: ScaleFiles, shown: Sequence[_Shown]) -> dict[str, int]:
    config, metrics = files.config, files.metrics.values()
    return {
        "metric files": sum(path.is_file() for path in files.metrics),
        "files of outcomes": sum(checked.get("outcomes") is not None for checked in metrics),
        "sidecars of weights": sum(path.is_file() for path in files.sidecars),
        "weights by their MD5": sum(path.with_suffix(".safetensors").is_file() for path in files.sidecars),
        "data records": sum(path.is_file() for path in files.records),
        "tables": sum(one.target.startswith("table") for one in shown),
        "figures": sum(one.target.startswith("figure") for one in shown),
        "files of tables and figures": sum(one.files for one in shown),
        "pages of claims": sum(path.is_file() for path in claim_files(config.results)),
        "files that DVC compares": sum(Path(name).is_file() for name in summary_files(config)),
    }


def _missing_lines(findings: Iterable[Finding], command: str) -> Iterator[str]:
    """What is missing, by folder, and what makes it."""
    folders: dict[str, list[str]] = {}
    for one in findings:
        folders.setdefault(one.file.parent.as_posix(), []).append(one.file.as_posix())
    for folder, places in folders.items():
        yield f"  {places[0]}" if len(places) == 1 else f"  {folder}: {len(places):,} files, such as {places[0]}"
    if cells := sorted({chain for one in findings for chain in one.chains}):
        yield from textwrap.wrap(f"first missing link of {len(cells):,} cell(s): {'; '.join(_few(cells))}", **_INDENTED)
    if command:
        yield f"      make it: {command}"


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
