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
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lska.models.kernels import ATTENTIONS

_QUANTITY = re.compile(
    r"(?P<task>[a-z][a-z0-9_]*(?:/[a-z][a-z0-9_-]*)?)\.(?P<metric>[a-z][a-z0-9_]*)"
    rf"\((?P<network>[a-z0-9_]+(?:-(?:{'|'.join(ATTENTIONS)})-k[1-9][0-9]*)?)\)"
)
_SINGLE_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_SIGNS = {ast.Lt: "<", ast.Gt: ">", ast.Eq: "="}
_OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


class PredicateError(ValueError):
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


@dataclass(frozen=True)
class Comparison:
    """`left sign right`, the sides being arithmetic over quantities."""

    left: ast.expr
    sign: str
    """One of <, > and =."""
    right: ast.expr
    names: Mapping[str, Quantity]
    """The quantities by their names in the two trees."""
    text: str

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Those that the comparison is about, each once, from left to right."""
        walked = (node for side in (self.left, self.right) for node in _names(side))
        return tuple(dict.fromkeys(self.names[node.id] for node in walked))

    def sides(self, values: Mapping[Quantity, float]) -> tuple[float, float]:
        """Values of the left and the right side.

        Raises:
            ZeroDivisionError: a quotient has a denominator of zero.
        """
        return _value(self.left, self.names, values), _value(self.right, self.names, values)

    def difference(self, values: Mapping[Quantity, float]) -> float:
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
    names: dict[str, Quantity] = {}

    def name(match: re.Match[str]) -> str:
        quantity = Quantity(match["task"], match["metric"], match["network"])
        key = next((known for known, other in names.items() if other == quantity), f"q{len(names)}")
        names[key] = quantity
        return key

    plain = _QUANTITY.sub(name, text.strip())
    try:
        tree = ast.parse(_SINGLE_EQUALS.sub("==", plain), mode="eval").body
    except SyntaxError as error:
        raise PredicateError(f"{text!r} is not a predicate ({error.msg}); expected {_EXPECTED}") from error
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    return tuple(found for part in parts for found in _comparisons(part, names, text))


_EXPECTED = "comparisons (<, > or =, joined by `and`) of + - * / over numbers and <task>.<metric>(<network>)"


def _comparisons(node: ast.expr, names: Mapping[str, Quantity], text: str) -> Iterator[Comparison]:
    if not isinstance(node, ast.Compare):
        raise PredicateError(f"{text!r} has a part without comparison, {_shown(node, names)!r}; expected {_EXPECTED}")
    sides = [node.left, *node.comparators]
    for side in sides:
        _check(side, names, text)
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        if type(operator) not in _SIGNS:
            raise PredicateError(f"{text!r} compares by {type(operator).__name__}; expected <, > or =")
        sign = _SIGNS[type(operator)]
        yield Comparison(left, sign, right, names, f"{_shown(left, names)} {sign} {_shown(right, names)}")


def _check(node: ast.expr, names: Mapping[str, Quantity], text: str) -> None:
    """Refuse everything but arithmetic, before anything is computed."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            _check(left, names, text)
            _check(right, names, text)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, names, text)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return
        case ast.Name(id=name) if name in names:
            return
        case _:
            raise PredicateError(f"{text!r}: cannot read {_shown(node, names)!r}; expected {_EXPECTED}")


def _value(node: ast.expr, names: Mapping[str, Quantity], values: Mapping[Quantity, float]) -> float:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_value(left, names, values), _value(right, names, values))
        case ast.UnaryOp(operand=operand):
            return -_value(operand, names, values)
        case ast.Name(id=name):
            return values[names[name]]
        case ast.Constant(value=value):
            return value
    raise TypeError(f"unchecked expression {ast.dump(node)}")


def _names(node: ast.expr) -> Iterator[ast.Name]:
    """In the order of the text; `ast.walk` goes by depth."""
    if isinstance(node, ast.Name):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _names(child)


def _shown(node: ast.expr, names: Mapping[str, Quantity]) -> str:
    return re.sub(r"\bq\d+\b", lambda match: str(names.get(match[0], match[0])), ast.unparse(node))
