"""The list of claims, what predicates assert, and the numbers behind them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claim_helpers import ONE, OTHER, RUNS, claim, measured, put_claims, quantity
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from table_helpers import PAPER, Scale

from lska.claims.listing import claim_needs, claim_runs, parse, read_claims
from lska.claims.verdicts import Unavailable, evidence_of
from lska.models.runs import Run
from lska.provenance.metric_files import digest, metric, write_metrics
from lska.provenance.outcomes import Outcomes
from lska.tables.measurements import MetricFolder


def said(tmp_path: Path, make: Callable[[], Any]) -> str:
    """The message that `make` fails with, without this machine's paths."""
    with pytest.raises((ValueError, Unavailable)) as caught:
        make()
    return str(caught.value).replace(str(tmp_path), "<folder>")


# The paper's list.


def test_the_claims_are_the_relations_of_the_paper() -> None:
    with (PAPER / "relations.csv").open() as stream:
        relations = {row["id"]: row for row in csv.DictReader(stream)}
    claims = {claim.id: claim for claim in read_claims(PAPER / "claims.csv")}
    assert {*relations, "A1", "A2", "A3", "F1"} <= set(claims)
    found = {name for name, row in relations.items() if re.search("inconsistency|label error", row["result"])}
    assert {one.id for one in claims.values() if one.paper_numbers == "disagree"} == found == {"R15", "R32"}
    unchecked = {name for name, row in relations.items() if row["result"] == "not checked"}
    assert {claims[name].paper_numbers for name in unchecked} == {"not known"}
    without = [claim for claim in claims.values() if not claim.predicate]
    assert [claim.id for claim in without] == ["R29b"]
    assert "no comparison of two numbers" in without[0].note


def test_gaps_in_numbers_are_bound_to_the_data_that_they_were_published_for() -> None:
    """A predicate that asks for a gap of 2.3 points says nothing on other images than the paper's."""
    for one in read_claims(PAPER / "claims.csv"):
        measured = [quantity for quantity in one.quantities if not quantity.counted]
        stated = any(re.search(r" = [0-9.]*[1-9]", comparison.text) for comparison in one.comparisons)
        assert bool(one.data) == bool(measured and stated), one.id


def test_faulty_lists_are_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    line = {"id": "C1", "source": "Text", "statement": "It holds", "predicate": f"{ONE} = 1", "tolerance": "0.5",
            "data": "", "paper_numbers": "agree", "note": "None."}  # fmt: skip
    changes = (
        {"predicate": f"{ONE} >= 1"}, {"predicate": f"{ONE} > 1"}, {"tolerance": ""}, {"tolerance": "-1"},
        {"tolerance": "small"}, {"paper_numbers": "perhaps"}, {"predicate": "", "tolerance": "", "note": ""},
        {"statement": ""},
    )  # fmt: skip
    found = {"missing": said(tmp_path, lambda: read_claims(tmp_path / "claims.csv"))}
    for change in changes:
        path = put_claims(tmp_path, {**line, **change})
        found[str(change).replace(ONE, "ONE")] = said(tmp_path, lambda path=path: read_claims(path))
    found["twice"] = said(tmp_path, lambda: read_claims(put_claims(tmp_path, line, line)))
    assert found == snapshot


# Predicates.


def test_the_difference_is_positive_where_the_statement_is_right() -> None:
    values = {quantity(ONE): 75.0, quantity(OTHER): 74.0}
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
    (comparison,) = parse(f"1 / ({ONE} - 75) > 0")
    with pytest.raises(ZeroDivisionError):
        comparison.sides(values)


def test_a_chain_and_a_conjunction_are_their_comparisons() -> None:
    found = parse(f"60 < {ONE} < 80 and {OTHER} = 3")
    assert [one.text for one in found] == [f"60 < {ONE}", f"{ONE} < 80", f"{OTHER} = 3"]
    assert [one.sign for one in found] == ["<", "<", "="]


def test_everything_but_comparisons_of_arithmetic_is_refused(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    texts = (
        ONE, f"{ONE} > 1 or {OTHER} > 1", f"{ONE} >= {OTHER}", f"{ONE} != {OTHER}", f"{ONE} ** 2 > 1",
        f"abs({ONE}) > 1", f"{ONE} > True", f"{ONE} > '1'", "__import__('os').getcwd() > 1",
        "top1(van_tiny-lska-k23) > 1",
        "classification.top1(van_tiny-lsca-k23) > 1", f"not {ONE} > 1", f"{ONE} >", "",
    )  # fmt: skip
    assert {text: said(tmp_path, lambda text=text: parse(text)) for text in texts} == snapshot


numbers = st.integers(-50, 50)


@given(a=numbers, b=numbers, c=st.integers(1, 9), x=numbers)
def test_arithmetic_is_that_of_python(a: int, b: int, c: int, x: int) -> None:
    (found,) = parse(f"({a} + {ONE}) * ({b} - {ONE}) / {c} > -{ONE}")
    assert found.difference({quantity(ONE): float(x)}) == pytest.approx((a + x) * (b - x) / c + x)


# The numbers.


def test_a_network_is_all_its_seeds_and_counts_are_those_of_the_architecture() -> None:
    scale = Scale(Path("results"), RUNS)
    assert [run.seed for run in claim_runs(quantity(ONE), scale)] == [0, 1]
    assert claim_runs(quantity("complexity.params(van_base-lska-k35)"), scale) == (Run("van_base", "lska", 35, 0),)
    assert claim_runs(quantity("classification.top1(van_base-lska-k35)"), scale) == ()
    needs = claim_needs(scale, (claim(f"{ONE} > {OTHER} and {ONE} > 3"),))
    assert needs == [("classification", run) for run in (*RUNS[2:], *RUNS[:2])]


def test_outcomes_of_several_seeds_are_averaged_image_by_image(tmp_path: Path) -> None:
    for seed, outcomes in enumerate(([0, 0, 100, 100], [0, 100, 100, 100])):
        measured(tmp_path, "classification", f"van_tiny-lska-k23-s{seed}", "top1", np.array(outcomes))
    found = evidence_of(quantity(ONE), Scale(tmp_path, RUNS), MetricFolder("demo", tmp_path))
    assert (found.values, found.value, found.n) == ((50.0, 75.0), 62.5, 4)
    np.testing.assert_array_equal(found.outcomes, [0, 50, 100, 100])
    assert not found.binary


def test_samples_are_of_the_images_also_where_a_metric_counts_pairs_of_them(tmp_path: Path) -> None:
    task, name, run = "shape_texture", "shape_dimensions_reference", "van_tiny-lska-k23-s0"
    write_metrics(
        tmp_path / "metrics" / task / f"{run}.json", task=task, run=run, scale="demo", started=datetime.now(UTC),
        metrics={name: metric(33, "1", n=4480)}, weights={"md5": "0" * 32, "origin": "trained"}, recipe=digest(run),
        data={"name": "cues", "digest": digest("cues")}, extra={"images": 1280},
        outcomes=Outcomes(samples={name: np.array([33.0, 34.0, 32.0])}),
    )  # fmt: skip
    folder = MetricFolder("demo", tmp_path)
    found = evidence_of(quantity(f"{task}.{name}(van_tiny-lska-k23)"), Scale(tmp_path, RUNS[2:3]), folder)
    pairing = found.pairing
    assert pairing is not None
    assert (pairing.kind, pairing.length, pairing.images, found.n) == ("samples", 3, 1280, 4480)


def test_missing_and_faulty_numbers_are_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    run, scale, folder = "van_tiny-lska-k23-s0", Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path)

    def read(text: str = ONE) -> Any:
        return evidence_of(quantity(text), scale, folder)

    found = {"no such run": said(tmp_path, lambda: read(OTHER)), "not measured": said(tmp_path, read)}
    measured(tmp_path, "classification", run, "top1")
    found["null"] = said(tmp_path, read)
    path = measured(tmp_path, "classification", run, "top5", value=90.0)
    found["no such metric"] = said(tmp_path, read)
    measured(tmp_path, "classification", run, "top1", value=90.0)
    sound = json.loads(path.read_text())
    for change in ({"value": "high"}, {"value": float("nan")}, {"standard_error": "small"}, {"unit": None}):
        entry = sound["metrics"]["top1"] | change
        kept = {name: value for name, value in entry.items() if value is not None}
        content = {name: value for name, value in sound.items() if name != "seal"} | {"metrics": {"top1": kept}}
        path.write_text(json.dumps(content))
        found[str(change)] = said(tmp_path, read)
    measured(tmp_path, "classification", run, "top1", np.array([0, 100]))
    path.with_suffix(".npz").write_bytes(b"other")
    found["other outcomes"] = re.sub("[0-9a-f]{32}", "<md5>", said(tmp_path, read))
    assert found == snapshot


def test_the_error_of_a_median_throughput_follows_from_its_quartiles(tmp_path: Path) -> None:
    """1,000 medians of 15 normal timings scatter as the quartiles of such timings say."""
    timings = np.random.default_rng(0).normal(500, 10, (4000, 15))
    low, middle, high = np.percentile(timings, [25, 50, 75], axis=1)
    half = float(np.mean(high - low)) / 2
    path = measured(tmp_path, "speed", "van_tiny-lska-k23-s0", "throughput", value=500.0,
                    interval=(500 - half, 500 + half))  # fmt: skip
    content = json.loads(path.read_text())
    content["metrics"]["throughput"]["n"] = 15
    del content["seal"]
    path.write_text(json.dumps(content))
    scale, folder = Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path)
    found = evidence_of(quantity("speed.throughput(van_tiny-lska-k23)"), scale, folder)
    assert found.standard_error == pytest.approx(np.std(middle), rel=0.12)
