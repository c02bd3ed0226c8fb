"""What a claim asserts: comparisons of arithmetic over metrics.

    classification.top1(van_tiny-lska-k23) > classification.top1(van_tiny-lka-k23)
    100 * (1 - complexity.params(van_base-lska-k23) / complexity.params(van_base-lka-k23)) = 1.5
    texture_knn.top1_cosine(van_tiny-lka-k7) > texture_knn.top1_cosine(van_tiny-lka-k53) and ...

A quantity is `<task>.<metric>(<network>)`: a metric, in the unit of its metric file, of a network as run ids name it,
without a seed. There are +, -, *, / and numbers; `<`, `>` and `=` (equal within the claim's tolerance), which may be
chained; `and` between comparisons.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lska.models.kernels import ATTENTIONS
from lska.provenance.errors import LskaError

_QUANTITY = re.compile(
    r"(?P<task>[a-z][a-z0-9_]*(?:/[a-z][a-z0-9_-]*)?)\.(?P<metric>[a-z][a-z0-9_]*)"
    rf"\((?P<network>[a-z0-9_]+(?:-(?:{'|'.join(ATTENTIONS)})-k[1-9][0-9]*)?)\)"
)
_SINGLE_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_SIGNS = {ast.Lt: "<", ast.Gt: ">", ast.Eq: "="}
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_EXPECTED = "comparisons (<, > or =, joined by `and`) of + - * / over numbers and <task>.<metric>(<network>)"


class PredicateError(LskaError, ValueError):
    """A predicate that cannot be read."""


@dataclass(frozen=True)
class Quantity:
    """A metric of a network, over all its seeds."""

    task: str
    metric: str
    network: str
    """Run id without the seed."""

    def __str__(self) -> str:
        return f"{self.task}.{self.metric}({self.network})"

    @property
    def counted(self) -> bool:
        """Whether it is fixed by the paper's architecture and known without training."""
        return self.task.partition("/")[0] == "complexity"


Values = Mapping[Quantity, float]


@dataclass(frozen=True)
class Comparison:
    """`left sign right`, the sides being arithmetic over quantities, which they are computed from."""

    text: str
    left: Callable[[Values], float]
    sign: str
    """One of <, > and =."""
    right: Callable[[Values], float]
    quantities: tuple[Quantity, ...]
    """Those that the comparison is about, each once, from left to right."""

    @property
    def bare(self) -> bool:
        """Whether two quantities are compared, and nothing else."""
        return self.text == f" {self.sign} ".join(map(str, self.quantities))

    def sides(self, values: Values) -> tuple[float, float]:
        """Values of the left and the right side.

        Raises:
            ZeroDivisionError: a quotient has a denominator of zero.
        """
        return self.left(values), self.right(values)

    def difference(self, values: Values) -> float:
        """What has to be positive for < and >, and zero for =: the side that should be larger less the other.

        Raises:
            ZeroDivisionError: as `sides`.
        """
        left, right = self.sides(values)
        return right - left if self.sign == "<" else left - right


def parse(text: str) -> tuple[Comparison, ...]:
    """The comparisons of a predicate, all of which have to hold.

    Raises:
        PredicateError: the text is no predicate; says what was found and what is expected.
    """
    quantities = list(dict.fromkeys(Quantity(**match.groupdict()) for match in _QUANTITY.finditer(text)))
    # As names, they can be read as Python's arithmetic.
    names = {f"q{number}": quantity for number, quantity in enumerate(quantities)}
    plain = _QUANTITY.sub(lambda match: f"q{quantities.index(Quantity(**match.groupdict()))}", text.strip())
    try:
        tree = ast.parse(_SINGLE_EQUALS.sub("==", plain), mode="eval").body
    except SyntaxError as error:
        raise PredicateError(f"{text!r} is not a predicate ({error.msg}); expected {_EXPECTED}") from error
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    found = []
    for part in parts:
        if not isinstance(part, ast.Compare):
            shown = _shown(part, names)
            raise PredicateError(f"{text!r} has a part without comparison, {shown!r}; expected {_EXPECTED}")
        sides = [part.left, *part.comparators]
        computed = [_computed(side, names, text) for side in sides]
        for place, sign in enumerate(part.ops):
            if type(sign) not in _SIGNS:
                raise PredicateError(f"{text!r} compares by {type(sign).__name__}; expected <, > or =")
            said = f" {_SIGNS[type(sign)]} ".join(_shown(side, names) for side in sides[place : place + 2])
            about = (Quantity(**match.groupdict()) for match in _QUANTITY.finditer(said))
            left, right = computed[place : place + 2]
            found.append(Comparison(said, left, _SIGNS[type(sign)], right, tuple(dict.fromkeys(about))))
    return tuple(found)


def _computed(node: ast.expr, names: Mapping[str, Quantity], text: str) -> Callable[[Values], float]:
    """The function that a side is; everything but arithmetic is refused."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            operation, one, other = _OPERATIONS[type(op)], *(_computed(part, names, text) for part in (left, right))
            return lambda values: operation(one(values), other(values))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            positive = _computed(operand, names, text)
            return lambda values: -positive(values)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return lambda values: value
        case ast.Name(id=name) if name in names:
            return lambda values: values[names[name]]
    raise PredicateError(f"{text!r}: cannot read {_shown(node, names)!r}; expected {_EXPECTED}")


def _shown(node: ast.expr, names: Mapping[str, Quantity]) -> str:
    return re.sub(r"\bq\d+\b", lambda match: str(names.get(match[0], match[0])), ast.unparse(node))
