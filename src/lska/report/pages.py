"""Which pages a site has, with the template of each and what is put into it. Another page is one more function here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.report import claims, costs, environment, overview, rules, scales, tables
from lska.report.evidence import place
from lska.report.gather import Results, Target

if TYPE_CHECKING:
    from markupsafe import Markup

LONG = 120
"""Rows of the longest table that a figure's page shows unfolded."""

TITLE = "Large Separable Kernel Attention, reproduced"


@dataclass(frozen=True)
class Page:
    """A page: its file in the folder of the site, its title, its template and what that gets."""

    name: str
    title: str
    template: str
    content: dict[str, Any] = field(default_factory=dict)
    menu: str = ""
    """What the menu calls it; pages without stand below another."""
    above: str = ""
    """The page in the menu that this one belongs to; itself where empty."""

    @property
    def section(self) -> str:
        """The page that the menu marks as the current one."""
        return self.above or self.name


def pages(results: Results) -> Iterator[Page]:
    """All pages of a site, those in the menu in its order."""
    for make in MAKERS:
        yield from make(results)


def downloads(results: Results) -> dict[Path, str]:
    """Files that are copied into the site, with their places there: tables and figures, and what numbers rest on."""
    written = [path for target in results.targets for path in target.files]
    printed = [path for target in results.targets if (path := Path("paper") / f"{target.spec.paper}.csv").is_file()]
    evidence = (*results.metrics, *results.sidecars, *results.records, *printed)
    copied = {path: place(path, results.config) for path in (*written, *evidence)}
    return copied | ({environment.LOCK: "files/requirements.txt"} if environment.LOCK.is_file() else {})


def _overview(results: Results) -> Iterator[Page]:
    content = {
        "counted": overview.counted(results),
        "measured": overview.measured(results),
        "elsewhere": overview.elsewhere(results),
        "networks": overview.networks(results),
        "seeds": overview.seeds(results),
        "verified": results.verified,
        "states": overview.count(results.cells),
        "tallies": [overview.tally(target) for target in results.targets],
        "verdicts": claims.groups(results.claims),
        "kinds": claims.kinds(results.claims),
    }
    yield Page("index.html", TITLE, "overview.html", content, menu="Overview")


def _claims(results: Results) -> Iterator[Page]:
    content = {
        "claims": results.claims,
        "groups": claims.groups(results.claims),
        "kinds": claims.kinds(results.claims),
        "known": _known(results),
    }
    yield Page("claims.html", "What the paper claims, and what came out", "claims.html", content, menu="Claims")


def _known(results: Results) -> dict[str, str]:
    """Places in the site of metric files by their paths, which claims name."""
    return {path.as_posix(): place(path, results.config) for path in results.metrics}


def _tables(results: Results) -> Iterator[Page]:
    found = results.of("table")
    tallies = [overview.tally(target) for target in found]
    yield Page("tables.html", "The tables", "tables.html", {"tallies": tallies}, menu="Tables")
    yield from _targets(found, results, "tables.html", "table.html")


def _figures(results: Results) -> Iterator[Page]:
    found = results.of("figure")
    content = {"targets": [(target, _pictures(target, results)) for target in found]}
    yield Page("figures.html", "The figures", "figures.html", content, menu="Figures")
    yield from _targets(found, results, "figures.html", "figure.html")


def _targets(found: tuple[Target, ...], results: Results, above: str, template: str) -> Iterator[Page]:
    for number, target in enumerate(found):
        question, _, explanation = target.spec.explanation.strip().partition("\n\n")
        content = {
            "target": target,
            "question": markdown(question),
            "explanation": markdown(explanation),
            "view": None if target.table is None else tables.view(target.table, results.config),
            "files": [(path.suffix[1:].upper(), place(path, results.config)) for path in target.files],
            "pictures": _pictures(target, results),
            "before": found[number - 1] if number else None,
            "after": found[number + 1] if number + 1 < len(found) else None,
            "long": LONG,
        }
        title = f"{target.spec.number}. {target.spec.title}"
        yield Page(f"{target.name}.html", title, template, content, above=above)


def _pictures(target: Target, results: Results) -> dict[str, str]:
    """Places of a figure's pictures by format."""
    pictures = [path for path in target.files if path.suffix in (".svg", ".png")]
    return {path.suffix[1:]: place(path, results.config) for path in pictures}


def markdown(text: str) -> Markup:
    """Prose of a spec as HTML; HTML inside of it is shown as text."""
    import mistune
    from markupsafe import Markup

    return Markup(mistune.create_markdown(escape=True, plugins=["table"])(text))


def _notebooks(results: Results) -> Iterator[Page]:
    from markupsafe import Markup

    rendered = [target for target in results.targets if target.notebook is not None]
    durations = {job.made: job.seconds for job in costs.notebooks(results.executed)}
    content = {"targets": results.targets, "durations": durations}
    yield Page("notebooks.html", "The notebooks", "notebooks.html", content, menu="Notebooks")
    for target in rendered:
        # Rendered from the notebook by nbconvert, which escapes what is not HTML already.
        content = {"target": target, "cells": Markup(target.notebook.read_text(encoding="utf-8"))}
        title = f"Notebook of {target.spec.number}"
        yield Page(f"notebook_{target.name}.html", title, "notebook.html", content, above="notebooks.html")


def _scales(results: Results) -> Iterator[Page]:
    found = scales.scales()
    content = {"scales": found, "comparisons": scales.compare(found)}
    yield Page("scales.html", "The same cells at several scales", "scales.html", content, menu="Scales")


def _workflow(results: Results) -> Iterator[Page]:
    picture = None if results.graph is None else rules.draw(results.graph)
    behind = {} if results.graph is None else rules.behind(results.graph)
    numbers = {target.name: target.spec.number for target in results.targets}
    content = {"picture": picture, "behind": behind, "numbers": numbers, "row": rules.ROW}
    yield Page("workflow.html", "From images to tables", "workflow.html", content, menu="Workflow")


def _costs(results: Results) -> Iterator[Page]:
    found = costs.costs(results)
    content = {"costs": found, "total": costs.total(found), "trainings": costs.training_rows(results)}
    yield Page("costs.html", "What it cost", "costs.html", content, menu="Costs")


def _environment(results: Results) -> Iterator[Page]:
    kinds = {"commit": "Commit", "machine": "Machine and versions", "lock": "Lock file"}
    found = {heading: environment.groups(results, what) for what, heading in kinds.items()}
    content = {"groups": found, "data_sets": environment.data_sets(results), "lock": environment.lock_digest()}
    content |= {"verified": results.verified, "findings": environment.findings(results.verified)}
    yield Page("environment.html", "Where it was made", "environment.html", content, menu="Environment")


MAKERS: tuple[Callable[[Results], Iterator[Page]], ...] = (
    _overview, _claims, _tables, _figures, _notebooks, _scales, _workflow, _costs, _environment,
)  # fmt: skip
"""The pages in the order of the menu."""
