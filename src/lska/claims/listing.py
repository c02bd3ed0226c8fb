"""The paper's relative statements, `paper/claims.csv`, and the metric files that they need. Imports nothing heavy."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path

from lska.claims.predicates import Comparison, PredicateError, Quantity, parse
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import read_table
from lska.tables.specs import ConfigLike

CLAIMS = Path("paper/claims.csv")

PAPER_NUMBERS = ("agree", "agree when rounded", "disagree", "not known")
"""Whether the paper's own numbers bear a statement out; `agree when rounded`: only those that it rounded or cut."""


@dataclass(frozen=True)
class Claim:
    """One relative statement of the paper."""

    id: str
    source: str
    """Where the paper makes it."""
    statement: str
    predicate: str
    """What it asserts (`lska.claims.predicates`); empty where this project cannot measure it, which `note` explains."""
    tolerance: tuple[float, ...]
    """By how much the two sides of each = may differ, in the unit of the comparison; one number counts for all."""
    data: str
    """Manifest name of the only data set that the statement can be checked on, because the predicate holds numbers
    published for it; empty for any."""
    paper_numbers: str
    """One of `PAPER_NUMBERS`."""
    note: str

    @functools.cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of the predicate."""
        return parse(self.predicate) if self.predicate else ()

    @property
    def equalities(self) -> int:
        """Number of comparisons by =."""
        return sum(one.sign == "=" for one in self.comparisons)

    @property
    def tolerances(self) -> tuple[float, ...]:
        """The tolerance of each comparison, 0 for < and >."""
        given = iter(self.tolerance * self.equalities if len(self.tolerance) == 1 else self.tolerance)
        return tuple(next(given) if one.sign == "=" else 0.0 for one in self.comparisons)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What the predicate is about, each once."""
        return tuple(dict.fromkeys(quantity for one in self.comparisons for quantity in one.quantities))


def claim_files(results: Path) -> tuple[Path, ...]:
    """JSON and pages of the verdicts, under the folder of a scale's results."""
    return tuple(results / "claims" / f"claims{suffix}" for suffix in (".json", ".md", ".html"))


def read_claims(path: Path = CLAIMS) -> tuple[Claim, ...]:
    """Read and check the statements.

    Raises:
        ValueError: names the file, the line and what is wrong with it.
    """
    columns = [field.name for field in fields(Claim)]
    rows = read_table(path, columns, key="id", filled=("id", "statement", "paper_numbers"))
    return tuple(_claim({name: row[name] for name in columns}, f"{path}: line {number}") for number, row in rows)


def _claim(row: dict[str, str], where: str) -> Claim:
    try:
        tolerance = tuple(float(number) for number in row["tolerance"].split(";") if row["tolerance"])
    except ValueError as error:
        found = row["tolerance"]
        raise InputError(f"{where}: tolerance: expected numbers separated by ';', found {found!r}") from error
    if row["paper_numbers"] not in PAPER_NUMBERS:
        known = ", ".join(PAPER_NUMBERS)
        raise InputError(f"{where}: paper_numbers: expected one of {known}, found {row['paper_numbers']!r}")
    if not (row["predicate"] or row["note"]):
        raise InputError(f"{where}: expected a predicate, or a note that says why there is none")
    claim = Claim(**{**row, "tolerance": tolerance})
    try:
        equal = claim.equalities
    except PredicateError as error:
        raise InputError(f"{where}: predicate: {error}") from error
    if min(tolerance, default=0) < 0 or len(tolerance) not in ({1, equal} if equal else {0}):
        raise InputError(
            f"{where}: expected a tolerance of 0 or more for all of the {equal} comparisons by =, or one for each, "
            f"found {list(tolerance)}"
        )
    return claim


def claim_runs(quantity: Quantity, config: ConfigLike) -> tuple[Run, ...]:
    """The runs of a quantity's network at a scale, one per seed; none where the scale has none.

    Counts belong to the paper's own architectures and are known at every scale.
    """
    wanted = Run.parse(f"{quantity.network}-s0")
    if quantity.counted:
        return (wanted,)
    same = (run for run in config.runs_of(quantity.task) if run.with_seed(0) == wanted)
    return tuple(sorted(same, key=lambda run: run.seed))


def claim_needs(config: ConfigLike, claims: tuple[Claim, ...] | None = None) -> list[tuple[str, Run]]:
    """The metric files, as (task, run), that the claims can use at a scale, each once."""
    quantities = (one for claim in (read_claims() if claims is None else claims) for one in claim.quantities)
    return list(dict.fromkeys((one.task, run) for one in quantities for run in claim_runs(one, config)))
