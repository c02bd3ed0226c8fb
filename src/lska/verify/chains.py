"""The verification of a scale: every file once, every cell's chain to its first broken link."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lska.chain.checkout import changed_files, commit_text
from lska.claims.listing import claim_files
from lska.claims.summaries import summary_files
from lska.config import Config
from lska.tables.collect import Cell, Table, collect
from lska.tables.paper_values import read_paper
from lska.tables.specs import TARGETS, load_spec, outputs, requirements
from lska.tables.table_formats import WRITERS
from lska.verify.claims import check as check_claims
from lska.verify.drawn import check as check_drawings
from lska.verify.files import broken, edited_fields, said_of, unreadable
from lska.verify.findings import Finding, Level, Report, Tally
from lska.verify.links import Evidence
from lska.verify.shown import differences, name_of
from lska.verify.summaries import check as check_summaries

Progress = Callable[[Iterable[str]], Iterable[str]]


def verify(
    config: Config,
    paper: Path = Path("paper"),
    progress: Progress = iter,
    drawings: bool = False,
    recount: bool = False,
) -> Report:
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
    evidence = Evidence(config, recount)
    targets = [target for target in TARGETS if any(map(os.path.lexists, outputs(target, config.results)))]
    if not evidence.metrics and not targets:
        raise ValueError(f"{config.results} holds no metric files, tables or figures to verify; run snakemake first")
    shown = [_target(target, evidence, paper, drawings) for target in progress(targets)]
    findings = [*_of_files(evidence), *(finding for one in shown for finding in one.findings)]
    distrusted = [path for path, checked in evidence.metrics.items() if checked.broken]
    findings += [*evidence.outdated(), *check_claims(config, distrusted), *check_summaries(config)]
    findings += _history(config, evidence)
    chains = _chains(shown, evidence)
    numbers = sum((checked.tally for checked in evidence.metrics.values()), Tally())
    return Report(
        config.scale, config.caption, _counts(evidence, shown, config), len(chains), _merged(findings, chains), numbers
    )


def first_broken(table: Table, cell: Cell, config: Config) -> Finding | None:
    """The first broken link of one cell's chain, None where it is sound.

    Args:
        table: filled from metric files as they are, also edited ones.
        cell: one of its cells.
    """
    evidence = Evidence(config)
    behind = [next(evidence.broken_links(path), None) for path in cell.files]
    files = _files(table.spec.target, config)
    shown = _compared(table, files, [path for path in cell.files if evidence.metric(path).broken])
    found = [shown.by_cell.get((cell.row, cell.column)), *behind]
    return next((finding for finding in found if finding is not None), None)


@dataclass(frozen=True)
class Shown:
    """A table or figure on disk: its cells' metric files, and what is wrong with its own files."""

    target: str
    files: int
    cells: dict[tuple[str, str], tuple[Path, ...]]
    findings: tuple[Finding, ...]
    by_cell: dict[tuple[str, str], Finding]
    """The first finding of a file about each cell."""


def _target(target: str, evidence: Evidence, paper: Path, drawings: bool) -> Shown:
    config = evidence.config
    files = _files(target, config)
    values = paper / f"{load_spec(target).paper}.csv"
    try:
        read_paper(values)
    except ValueError as error:
        unusable = broken(values, "", said_of(values, error))
        return Shown(target, len(files), {}, (unusable, *unreadable(files)), {})
    needed = [config.metric_path(task, run) for task, run in requirements(load_spec(target), config)]
    without = [path for path in needed if not evidence.metric(path).content]
    distrusted = [path for path in needed if evidence.metric(path).broken]
    if without:
        return _uncompared(target, files, without, f"since {without[0]} cannot be read")
    try:
        table = collect(load_spec(target), config, paper, config.results, seals=False)
    except ValueError as error:
        if distrusted:
            return _uncompared(target, files, distrusted, f"which cannot fill it: {error}")
        faults = tuple(broken(path, "", f"cannot be filled: {error}") for path in files)
        return Shown(target, len(files), {}, faults, {})
    compared = _compared(table, files, distrusted)
    drawn = _files(target, config, drawings=True)
    if not drawings or distrusted or not drawn:
        return compared
    faults = tuple(check_drawings(table, drawn))
    return replace(compared, files=compared.files + len(drawn), findings=(*compared.findings, *faults))


def _files(target: str, config: Config, drawings: bool = False) -> list[Path]:
    """What is at the places of a target's files that hold numbers, or of its drawings."""
    every = outputs(target, config.results)
    return [path for path in every if (path.suffix not in WRITERS) == drawings and os.path.lexists(path)]


def _uncompared(target: str, files: list[Path], metrics: list[Path], reason: str) -> Shown:
    """A target that cannot be made again; all of it hangs on `metrics`."""
    notes = (Finding(Level.NOTE, path, "", f"not compared with its metric files, {reason}") for path in files[:1])
    found = (*unreadable(files), *notes)
    return Shown(target, len(files), {("all rows", "all columns"): tuple(metrics)}, found, {})


def _compared(table: Table, files: list[Path], distrusted: list[Path]) -> Shown:
    findings = [finding for path in files for finding in differences(table, path, distrusted)]
    cells = {(cell.row, cell.column): cell.files for cell in table.cells}
    first: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        for key in cells:
            if finding.place.startswith(f"row {key[0]!r}, column {key[1]!r}"):
                first.setdefault(key, finding)
    return Shown(table.spec.target, len(files), cells, tuple(findings), first)


def _chains(shown: Iterable[Shown], evidence: Evidence) -> dict[str, Finding | None]:
    """The first broken link of every cell; None where there is none."""
    behind: dict[Path, Finding | None] = {}
    chains: dict[str, Finding | None] = {}
    for one in shown:
        for key, files in one.cells.items():
            for path in files:
                if path not in behind:
                    behind[path] = next(evidence.broken_links(path), None)
            found = [one.by_cell.get(key), *(behind[path] for path in files)]
            chains[name_of(one.target, key)] = next((finding for finding in found if finding is not None), None)
    return chains


def _of_files(evidence: Evidence) -> Iterator[Finding]:
    """What every file says by itself and of the next, also of files that no table shows."""
    for files in (evidence.metrics, evidence.sidecars, evidence.records):
        for checked in list(files.values()):
            yield from checked.findings
    for path in list(evidence.metrics):
        yield from evidence.broken_links(path)
    yield from evidence.unlike()
    for path in list(evidence.sidecars):
        yield from evidence.broken_behind(path)


def _merged(findings: Iterable[Finding], chains: dict[str, Finding | None]) -> tuple[Finding, ...]:
    """Each finding once, with the cells that it is the first of; a place that is broken is not outdated too."""
    first: dict[Finding, list[str]] = {}
    for name, finding in chains.items():
        if finding is not None:
            first.setdefault(finding, []).append(name)
    unique = dict.fromkeys((*findings, *first))
    faulty = {(finding.file, finding.place) for finding in unique if finding.level is Level.BROKEN}
    kept = [one for one in unique if one.level is Level.BROKEN or (one.file, one.place) not in faulty]
    return tuple(replace(finding, chains=tuple(first.get(finding, ()))) for finding in sorted(kept, key=_order))


def _order(finding: Finding) -> int:
    return list(Level).index(finding.level)


def _history(config: Config, evidence: Evidence) -> Iterator[Finding]:
    """What git knows: files that differ from the commit, and results of unknown commits or of changed sources."""
    for name in changed_files(config.results, config.weights_path("any").parent, Path("paper")):
        state = "differs from the commit" if Path(name).exists() else "is gone; the commit has it"
        text = ": ".join(filter(None, [state, edited_fields(Path(name))]))
        yield Finding(Level.NOTE, Path(name), "", text)
    every = [*evidence.metrics.values(), *evidence.sidecars.values()]
    commits = Counter((checked.get("code.commit"), checked.get("code.dirty")) for checked in every if checked.content)
    for (commit, dirty), number in commits.items():
        known = "" if commit is None else commit_text(commit)
        if commit is None or not known.startswith(("in this checkout,", "the current", "not looked up")):
            text = "no commit" if commit is None else f"commit {commit}, which is {known}"
            yield Finding(Level.NOTE, config.results, "code.commit", f"{number:,} files name {text}")
        if dirty:
            text = f"{number:,} files were made from commit {commit} with uncommitted changes"
            yield Finding(Level.NOTE, config.results, "code.dirty", text)


def _counts(evidence: Evidence, shown: list[Shown], config: Config) -> dict[str, int]:
    metrics, sidecars = evidence.metrics.values(), evidence.sidecars
    return {
        "metric files": sum(path.is_file() for path in evidence.metrics),
        "files of outcomes": sum(checked.get("outcomes") is not None for checked in metrics),
        "sidecars of weights": len(sidecars),
        "weights by their MD5": sum(path.with_suffix(".safetensors").is_file() for path in sidecars),
        "data records": len(evidence.records),
        "tables": sum(one.target.startswith("table") for one in shown),
        "figures": sum(one.target.startswith("figure") for one in shown),
        "files of tables and figures": sum(one.files for one in shown),
        "pages of claims": sum(path.is_file() for path in claim_files(config.results)),
        "files that DVC compares": sum(Path(name).is_file() for name in summary_files(config)),
    }
