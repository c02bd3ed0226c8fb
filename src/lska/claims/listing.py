"""The paper's relative statements, `paper/claims.csv`: what each asserts, and the metric files that it needs.

    classification.top1(van_tiny-lska-k23) > classification.top1(van_tiny-lka-k23)
    100 * (1 - complexity.params(van_base-lska-k23) / complexity.params(van_base-lka-k23)) = 1.5
    texture_knn.top1_cosine(van_tiny-lka-k7) > texture_knn.top1_cosine(van_tiny-lka-k53) and ...

A quantity is `<task>.<metric>(<network>)`: a metric, in the unit of its metric file, of a network as run ids name it,
without a seed. There are +, -, *, / and numbers; `<`, `>` and `=` (equal within the claim's tolerance), which may be
chained; `and` between comparisons. Imports nothing heavy.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from lska.models.designs import ATTENTIONS
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import read_table

if TYPE_CHECKING:
    from lska.settings.scale import Config

CLAIMS = Path("paper/claims.csv")

MAIN_CLAIMS = {
    "The same accuracy at lower cost": ("A2",),
    "A cost that hardly grows with the kernel": ("F1",),
    "LSKA-Base goes on improving where LKA-Base saturates": ("R17", "R17b"),
    "Leaning more to shape than to texture with larger kernels": ("A3",),
    "More robust with larger kernels": ("R18b",),
}
"""What the paper is about, in a reader's words, with the claims that say so; those of a line have to hold together."""

PAPER_NUMBERS = ("agree", "agree when rounded", "disagree", "not known")
"""Whether the paper's own numbers bear a statement out; `agree when rounded`: only those that it rounded or cut."""

_QUANTITY = re.compile(
    r"(?P<task>[a-z][a-z0-9_]*(?:/[a-z][a-z0-9_-]*)?)\.(?P<metric>[a-z][a-z0-9_]*)"
    rf"\((?P<network>[a-z0-9_]+(?:-(?:{'|'.join(ATTENTIONS)})-k[1-9][0-9]*)?)\)"
)
_SINGLE_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_SIGNS = {ast.Lt: "<", ast.Gt: ">", ast.Eq: "="}
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_EXPECTED = "comparisons (<, > or =, joined by `and`) of + - * / over numbers and <task>.<metric>(<network>)"


@dataclass(frozen=True)
class Quantity:
    """A metric of a network (a run id without the seed), over all its seeds."""

    task: str
    metric: str
    network: str

    def __str__(self) -> str:
        return f"{self.task}.{self.metric}({self.network})"

    @property
    def counted(self) -> bool:
        """Whether it is fixed by the paper's architecture and known without training."""
        return self.task.partition("/")[0] == "complexity"


Values = Mapping[Quantity, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """`left sign right`, the sides being arithmetic over quantities."""

    text: str
    left: ast.expr
    sign: str
    """One of <, > and =."""
    right: ast.expr
    quantities: tuple[Quantity, ...]
    """Those that the comparison is about, each once, from left to right."""

    @property
    def bare(self) -> bool:
        """Whether two quantities are compared, and nothing else."""
        return self.text == f" {self.sign} ".join(map(str, self.quantities))

    def sides(self, values: Values) -> tuple[float, float]:
        """Values of the left and the right side; ZeroDivisionError where a denominator is zero."""
        named = {str(quantity): value for quantity, value in values.items()}
        return _value(self.left, named), _value(self.right, named)

    def difference(self, values: Values) -> float:
        """What has to be positive for < and >, and zero for =: the side that should be larger less the other."""
        left, right = self.sides(values)
        return right - left if self.sign == "<" else left - right


def parse(text: str) -> tuple[Comparison, ...]:
    """The comparisons of a predicate, all of which have to hold.

    Raises:
        ValueError: the text is no predicate; says what was found and what is expected.
    """
    quantities = {match[0]: Quantity(**match.groupdict()) for match in _QUANTITY.finditer(text)}
    # As subscripts of a name, they can be read as Python's arithmetic.
    plain = _SINGLE_EQUALS.sub("==", _QUANTITY.sub(r"_['\g<0>']", text.strip()))

    def shown(node: ast.expr) -> str:
        return re.sub(r"_\['([^']*)'\]", r"\1", ast.unparse(node))

    def refused(what: str) -> InputError:
        return InputError(f"{text!r} is not a predicate ({what}); expected {_EXPECTED}")

    try:
        tree = ast.parse(plain, mode="eval").body
    except SyntaxError as error:
        raise refused(error.msg) from error
    found = []
    for part in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
        if not isinstance(part, ast.Compare) or not all(type(sign) in _SIGNS for sign in part.ops):
            raise refused(f"{shown(part)!r} is no such comparison")
        sides = [part.left, *part.comparators]
        for side in sides:
            try:
                with contextlib.suppress(ZeroDivisionError):  # of these values, not of the measured ones
                    _value(side, {name: 0.7 + 1.3 * place for place, name in enumerate(quantities)})
            except KeyError as error:
                raise refused(f"cannot read {shown(side)!r}") from error
        for left, right, sign in zip(sides, sides[1:], part.ops, strict=False):
            said = f"{shown(left)} {_SIGNS[type(sign)]} {shown(right)}"
            about = dict.fromkeys(quantities[match[0]] for match in _QUANTITY.finditer(said))
            found.append(Comparison(said, left, _SIGNS[type(sign)], right, tuple(about)))
    return tuple(found)


def _value(node: ast.expr, named: Mapping[str, float]) -> float:
    """What a side comes to; KeyError for everything but arithmetic over numbers and the quantities."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_value(left, named), _value(right, named))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, named)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Subscript(value=ast.Name(id="_"), slice=ast.Constant(value=str() as name)):
            return named[name]
    raise KeyError(type(node))


@dataclass(frozen=True)
class Claim:
    """One relative statement of the paper."""

    id: str
    source: str
    """Where the paper makes it."""
    statement: str
    predicate: str
    """What it asserts; empty where this project cannot measure it, which `note` explains."""
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
    def tolerances(self) -> tuple[float, ...]:
        """The tolerance of each comparison, 0 for < and >."""
        given = itertools.cycle(self.tolerance)
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
    claims = []
    for number, row in read_table(path, columns, key="id", filled=("id", "statement", "paper_numbers")):
        try:
            tolerance = tuple(float(part) for part in row["tolerance"].split(";") if row["tolerance"])
            claim = Claim(**{**{name: row[name] for name in columns}, "tolerance": tolerance})
            equal = sum(one.sign == "=" for one in claim.comparisons)
        except ValueError as error:
            raise InputError(f"{path}: line {number}: predicate or tolerance: {error}") from error
        wrong = []
        if claim.paper_numbers not in PAPER_NUMBERS:
            expected = ", ".join(PAPER_NUMBERS)
            wrong.append(f"paper_numbers: expected one of {expected}, found {claim.paper_numbers!r}")
        if not (claim.predicate or claim.note):
            wrong.append("expected a predicate, or a note that says why there is none")
        if min(tolerance, default=0) < 0 or len(tolerance) not in ({1, equal} if equal else {0}):
            wrong.append(
                f"expected a tolerance of 0 or more for all of the {equal} comparisons by =, or one for each, "
                f"found {list(tolerance)}"
            )
        if wrong:
            raise InputError(f"{path}: line {number}: {'; '.join(wrong)}")
        claims.append(claim)
    return tuple(claims)


def claim_runs(quantity: Quantity, config: Config) -> tuple[Run, ...]:
    """The runs of a quantity's network at a scale, one per seed; none where the scale has none.

    Counts belong to the paper's own architectures and are known at every scale.
    """
    wanted = Run.parse(f"{quantity.network}-s0")
    same = [wanted] if quantity.counted else [r for r in config.runs_of(quantity.task) if r.with_seed(0) == wanted]
    return tuple(sorted(same, key=lambda run: run.seed))


def repeated_runs(task: str, config: Config) -> list[Run]:
    """The runs of a task whose networks were trained with several seeds at a scale: they tell how trainings differ."""
    runs = config.runs_of(task)
    seeds = Counter(run.with_seed(0) for run in runs)
    return [run for run in runs if seeds[run.with_seed(0)] > 1]


def claim_needs(config: Config, claims: tuple[Claim, ...] | None = None) -> list[tuple[str, Run]]:
    """The metric files, as (task, run), that the claims can use at a scale, each once."""
    quantities = [one for claim in (read_claims() if claims is None else claims) for one in claim.quantities]
    needs = [(one.task, run) for one in quantities for run in claim_runs(one, config)]
    tasks = dict.fromkeys(one.task for one in quantities if not one.counted)
    return list(dict.fromkeys([*needs, *((task, run) for task in tasks for run in repeated_runs(task, config))]))
