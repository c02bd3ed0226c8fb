"""Verdicts as a terminal's table, as JSON, and as a page in Markdown and HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.claims.listing import claim_files
from lska.claims.verdicts import MARKS, MEANING, Result, Verdict
from lska.provenance.files import write_json, write_text
from lska.tables.cell_text import shown
from lska.tables.table_formats import escape_markdown, relative_place

if TYPE_CHECKING:
    from lska.settings.scale import Config

WIDTH = 100


def write_claims(results: Sequence[Result], config: Config, folder: Path) -> None:
    """Write JSON, Markdown and HTML to `claim_files(folder)`, each atomically."""
    content = claims_content(results, config)
    path, *pages = claim_files(folder)
    write_json(path, content)
    for page in pages:
        write_text(page, render_claims(content, page.suffix))


def claims_content(results: Sequence[Result], config: Config) -> dict[str, Any]:
    """Everything behind the verdicts, in plain values; numbers are not rounded."""
    verdicts, claims = [result.verdict for result in results], []
    trainings: dict[str, dict[str, None]] = {}
    for result in results:
        comparisons, quantities = [], []
        for outcome in result.outcomes:
            found, interval = outcome.difference, outcome.difference.interval()
            comparisons.append({
                "text": outcome.comparison.text, "sign": outcome.comparison.sign,
                "tolerance": outcome.tolerance if outcome.comparison.sign == "=" else None,
                "left": found.left, "right": found.right, "difference": found.value, "unit": outcome.unit,
                "standard_error": None if found.exact else found.standard_error,
                "interval": None if interval is None else list(interval),
                "p": found.p, "detectable": found.detectable(), "verdict": str(outcome.verdict), "basis": found.basis,
            })  # fmt: skip
        for part in result.evidence:
            counted = part.quantity.counted
            for run in part.deviations:
                path = part.files[0].with_name(f"{run}.json")
                trainings.setdefault(part.quantity.task, {})[relative_place(path)] = None
            quantities.append({
                "name": str(part.quantity), "value": part.value, "unit": part.unit, "n": part.n,
                "standard_error": None if counted else part.standard_error,
                "runs": [str(run) for run in part.runs], "seeds": [] if counted else [run.seed for run in part.runs],
                "files": [relative_place(path) for path in part.files], "data": list(part.data),
                "hardware": list(part.devices),
            })  # fmt: skip
        said = ("id", "source", "statement", "predicate", "paper_numbers", "note")
        claims.append({
            **{name: getattr(result.claim, name) for name in said},
            "verdict": str(result.verdict), "measured": str(result.measured), "basis": result.basis,
            "comparisons": comparisons, "quantities": quantities, "missing": list(result.missing),
        })  # fmt: skip
    return {
        "schema": 1, "scale": config.scale, "caption": config.caption, "claims": claims,
        # The files that tell how trainings of a task differ.
        "trainings": {task: list(files) for task, files in trainings.items()},
        "counts": {str(verdict): verdicts.count(verdict) for verdict in Verdict},
    }  # fmt: skip


def render_claims(content: dict[str, Any], suffix: str) -> str:
    """The page of `claims_content` in the format of `suffix`, `.md` or `.html`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=suffix == ".html",
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "numbers": numbers, "few": few, "verdict": verdict_of}
    environment.filters["cell"] = escape_markdown
    return environment.get_template(f"claims{suffix}.jinja").render(**content, marks=MARKS, meaning=MEANING)


def numbers(comparison: dict[str, Any]) -> str:
    """What a comparison comes to: `73 > 71.8 by 1.2 ± 0.6 points (p = 0.04)`, `71 > 71.8 missed by 0.8 ± 0.6 points
    (p = 0.2)`; `1.87 for 2.4 ± 0.05, off by -0.529`.
    """
    sign, error, p, found = (comparison[name] for name in ("sign", "standard_error", "p", "difference"))
    by = shown(found if sign == "=" else abs(found), 3) + (f" ± {shown(error, 2)}" if error is not None else "")
    by += f" {'points' if comparison['unit'] == '%' else comparison['unit']}".rstrip()
    by += f" (p = {p:.2g})" if p is not None else ""
    left, right = shown(comparison["left"]), shown(comparison["right"])
    if sign == "=":
        tolerance = f" ± {shown(comparison['tolerance'])}" if comparison["tolerance"] else ""
        return f"{left} for {right}{tolerance}, off by {by}"
    return f"{left} {sign} {right} {'by' if found > 0 else 'missed by'} {by}"


def verdict_of(claim: dict[str, Any]) -> str:
    """The verdict with its mark, and what a reader must know beside it."""
    beside = f" (ours: {claim['measured']})" if claim["verdict"] != claim["measured"] else ""
    return f"{MARKS[Verdict(claim['verdict'])]} {claim['verdict']}{beside}"


def few(texts: Sequence[str], most: int = 2) -> str:
    """The first of many texts, and how many more there are."""
    more = len(texts) - most
    return "; ".join([*texts[:most], *([f"and {more} more"] if more > 0 else [])])


def claims_text(content: dict[str, Any]) -> str:
    """For a terminal: every claim with its verdict, statement and numbers, then the counts."""
    lines = [content["caption"], ""]
    for claim in content["claims"]:
        lines.append(f"{claim['id']:<5} {verdict_of(claim)}  ({claim['source']})")
        for text in (claim["statement"], *map(numbers, claim["comparisons"]), few(claim["missing"])):
            lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 10)
    found = ", ".join(f"{number} {verdict}" for verdict, number in content["counts"].items() if number)
    return "\n".join([*lines, "", found, ""])
