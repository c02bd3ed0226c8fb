"""What predicates assert, and what is refused."""

from __future__ import annotations

import pytest
from claim_helpers import ONE, OTHER
from hypothesis import given
from hypothesis import strategies as st

from lska.claims.predicates import PredicateError, Quantity, parse


def test_quantities_are_named_by_task_metric_and_network() -> None:
    text = "robustness/c.top1_mean_19(convnext_tiny) / complexity/mask_rcnn.flops_1280x800(van_base-lka-k7)"
    (found,) = parse(f"{text} > 1")
    assert found.quantities == (
        Quantity("robustness/c", "top1_mean_19", "convnext_tiny"),
        Quantity("complexity/mask_rcnn", "flops_1280x800", "van_base-lka-k7"),
    )
    assert [one.counted for one in found.quantities] == [False, True]
    assert str(found.quantities[0]) == "robustness/c.top1_mean_19(convnext_tiny)"


def test_the_difference_is_positive_where_the_statement_is_right() -> None:
    one, other = (Quantity("classification", "top1", f"van_tiny-{name}-k23") for name in ("lska", "lka"))
    values = {one: 75.0, other: 74.0}
    for text, expected in {
        f"{ONE} > {OTHER}": 1.0,
        f"{ONE} < {OTHER}": -1.0,
        f"{ONE} - {OTHER} = 1.5": -0.5,
        f"100 * (1 - {OTHER} / {ONE}) > 0": 100 / 75,
        f"-{ONE} + 2 * {OTHER} < 74": 1.0,
    }.items():
        (comparison,) = parse(text)
        assert comparison.difference(values) == pytest.approx(expected), text
        left, right = comparison.sides(values)
        assert abs(left - right) == pytest.approx(abs(expected))


def test_a_chain_and_a_conjunction_are_their_comparisons() -> None:
    found = parse(f"60 < {ONE} < 80 and {OTHER} = 3")
    assert [one.text for one in found] == [f"60 < {ONE}", f"{ONE} < 80", f"{OTHER} = 3"]
    assert [one.sign for one in found] == ["<", "<", "="]


def test_a_quantity_that_occurs_twice_is_one() -> None:
    (found,) = parse(f"({ONE} - {OTHER}) / {ONE} > 0")
    assert len(found.quantities) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ONE, "a part without comparison"),
        (f"{ONE} > 1 or {OTHER} > 1", "a part without comparison"),
        (f"{ONE} >= {OTHER}", "compares by GtE; expected <, > or ="),
        (f"{ONE} != {OTHER}", "compares by NotEq"),
        (f"{ONE} ** 2 > 1", r"cannot read 'classification\.top1\(van_tiny-lska-k23\) \*\* 2'"),
        (f"abs({ONE}) > 1", "cannot read 'abs"),
        (f"{ONE} > True", "cannot read 'True'"),
        (f"{ONE} > '1'", "cannot read"),
        ("__import__('os').getcwd() > 1", "cannot read"),
        ("top1(van_tiny-lska-k23) > 1", "cannot read 'top1"),
        ("classification.top1(van_tiny-lsca-k23) > 1", "cannot read"),
        (f"{ONE} >", "is not a predicate"),
        ("", "is not a predicate"),
    ],
)
def test_everything_but_comparisons_of_arithmetic_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PredicateError, match=problem):
        parse(text)


numbers = st.integers(-50, 50)


@given(a=numbers, b=numbers, c=st.integers(1, 9), x=numbers)
def test_arithmetic_is_that_of_python(a: int, b: int, c: int, x: int) -> None:
    quantity = Quantity("classification", "top1", "van_tiny-lska-k23")
    (found,) = parse(f"({a} + {ONE}) * ({b} - {ONE}) / {c} > -{ONE}")
    assert found.difference({quantity: float(x)}) == pytest.approx((a + x) * (b - x) / c + x)


def test_a_quotient_by_zero_says_so() -> None:
    (found,) = parse(f"1 / {ONE} > 0")
    with pytest.raises(ZeroDivisionError):
        found.sides({found.quantities[0]: 0.0})
