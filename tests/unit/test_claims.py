"""The list of claims, and the numbers behind them."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from claim_helpers import ONE, OTHER, RUNS, claim, measured, put_claims, quantity
from table_helpers import PAPER, Scale

from lska.claims.claim_evidence import Unavailable, evidence_of
from lska.claims.listing import claim_needs, read_claims, runs_of
from lska.files import read_yaml
from lska.outcomes import Outcomes, OutcomesError
from lska.provenance import digest, metric, project_root, write_metrics
from lska.runs import Run
from lska.tables.measurements import MetricFolder
from lska.workflow import Plan


def rows() -> dict[str, dict[str, str]]:
    with (PAPER / "relations.csv").open() as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


# The list.


def test_every_relation_of_the_paper_is_a_claim() -> None:
    claims = {claim.id: claim for claim in read_claims(PAPER / "claims.csv")}
    assert set(rows()) <= set(claims)
    assert {"A1", "A2", "A3", "F1"} <= set(claims)


def test_claims_say_that_the_paper_disagrees_exactly_where_the_relations_found_so() -> None:
    found = {name for name, row in rows().items() if re.search("inconsistency|label error", row["result"])}
    claims = read_claims(PAPER / "claims.csv")
    assert {claim.id for claim in claims if claim.paper_numbers == "disagree"} == found == {"R15", "R32"}
    for one in claims:
        unchecked = one.id in rows() and rows()[one.id]["result"] == "not checked"
        assert not unchecked or one.paper_numbers == "not known", one.id


def test_gaps_in_numbers_are_bound_to_the_data_that_they_were_published_for() -> None:
    """A predicate that asks for a gap of 2.3 points says nothing on other images than the paper's."""
    for one in read_claims(PAPER / "claims.csv"):
        measured = [quantity for quantity in one.quantities if not quantity.counted]
        stated = any(re.search(r" = [0-9.]*[1-9]", comparison.text) for comparison in one.comparisons)
        assert bool(one.data) == bool(measured and stated), one.id


def test_only_a_claim_that_compares_no_numbers_has_no_predicate() -> None:
    without = [claim for claim in read_claims(PAPER / "claims.csv") if not claim.predicate]
    assert [claim.id for claim in without] == ["R29b"]
    assert "no comparison of two numbers" in without[0].note


@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
def test_every_metric_that_claims_need_is_measured_for_the_tables_too(scale: str) -> None:
    path = project_root() / "config" / f"{scale}.yaml"
    plan = Plan(read_yaml(path), [path], {})
    made = {file for target in plan._needs for file in plan.metrics(target)} | set(plan.accuracies())
    assert set(plan.claimed) <= made
    assert plan.claimed


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"predicate": f"{ONE} >= 1"}, "line 2: predicate: .* compares by GtE"),
        ({"predicate": f"{ONE} > 1", "tolerance": "0.5"}, "line 2: expected a tolerance of 0 or more"),
        ({"predicate": f"{ONE} = 1", "tolerance": ""}, r"for all of the 1 comparisons by =, .* found \[\]"),
        ({"tolerance": "-1"}, "expected a tolerance of 0 or more"),
        ({"tolerance": "small"}, "tolerance: expected numbers separated by ';', found 'small'"),
        ({"paper_numbers": "perhaps"}, "paper_numbers: expected one of agree, agree when rounded, disagree, not known"),
        ({"predicate": "", "tolerance": "", "note": ""}, "a predicate, or a note that says why there is none"),
        ({"statement": ""}, "line 2: nothing stands in column .statement."),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, change: dict[str, str], problem: str) -> None:
    line = {"id": "C1", "source": "Text", "statement": "It holds", "predicate": f"{ONE} = 1", "tolerance": "0.5",
            "data": "", "paper_numbers": "agree", "note": "None."}  # fmt: skip
    with pytest.raises(ValueError, match=problem):
        read_claims(put_claims(tmp_path, {**line, **change}))


def test_files_that_are_no_list_of_claims_are_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    with pytest.raises(ValueError, match=r"claims\.csv: no such file"):
        read_claims(path)
    path.write_text("id,statement\nC1,It holds\n")
    with pytest.raises(ValueError, match=r"has no column 'source', .*; expected the headings id,source,"):
        read_claims(path)
    head = (PAPER / "claims.csv").read_text().splitlines()[0]
    path.write_text(f"{head}\nC1,Text,It holds, and more,,,,agree,Note\n")
    with pytest.raises(ValueError, match="line 2: expected 8 fields, found"):
        read_claims(path)
    line = f'C1,Text,It holds,"{ONE} > 1",,,agree,'
    path.write_text(f"{head}\n{line}\n{line}\n")
    with pytest.raises(ValueError, match="id 'C1' stands in line 2 already"):
        read_claims(path)


def test_tolerances_belong_to_the_comparisons_by_equality() -> None:
    one = claim(f"{ONE} = 1 and {ONE} > 2 and {ONE} = 3", 0.5)
    assert one.tolerances == (0.5, 0.0, 0.5)
    assert claim(one.predicate, 0.5, 0.1).tolerances == (0.5, 0.0, 0.1)


# The numbers.


def test_a_network_is_all_its_seeds_and_counts_are_those_of_the_architecture() -> None:
    scale = Scale(Path("results"), RUNS)
    assert [run.seed for run in runs_of(quantity(ONE), scale)] == [0, 1]
    assert runs_of(quantity("complexity.params(van_base-lska-k35)"), scale) == (Run("van_base", "lska", 35, 0),)
    assert runs_of(quantity("classification.top1(van_base-lska-k35)"), scale) == ()
    needs = claim_needs(scale, (claim(f"{ONE} > {OTHER} and {ONE} > 3"),))
    assert needs == [("classification", run) for run in (*RUNS[2:], *RUNS[:2])]


def test_outcomes_of_several_seeds_are_averaged_image_by_image(tmp_path: Path) -> None:
    scale = Scale(tmp_path, RUNS)
    for seed, outcomes in enumerate(([0, 0, 100, 100], [0, 100, 100, 100])):
        measured(tmp_path, "classification", f"van_tiny-lska-k23-s{seed}", "top1", np.array(outcomes))
    found = evidence_of(quantity(ONE), scale, MetricFolder("demo", tmp_path))
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
    scale, folder = Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path)
    found = evidence_of(quantity(f"{task}.{name}(van_tiny-lska-k23)"), scale, folder)
    assert found.pairing is not None
    assert (found.pairing.kind, found.pairing.length, found.pairing.images, found.n) == ("samples", 3, 1280, 4480)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    scale = Scale(tmp_path, RUNS[2:3])
    folder = MetricFolder("demo", tmp_path)
    with pytest.raises(Unavailable, match="scale demo has no classification of van_tiny-lka-k23"):
        evidence_of(quantity(OTHER), scale, folder)
    with pytest.raises(Unavailable, match="classification of van_tiny-lska-k23-s0: not measured yet"):
        evidence_of(quantity(ONE), scale, folder)
    path = measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top1")
    with pytest.raises(Unavailable, match=f"without a value in {path}"):
        evidence_of(quantity(ONE), scale, folder)


def test_a_metric_that_does_not_exist_is_an_error_of_the_list(tmp_path: Path) -> None:
    measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top5", value=90.0)
    with pytest.raises(ValueError, match="no metric 'top1', which a claim reads; it has top5"):
        evidence_of(quantity(ONE), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": "high"}, "metrics.top1.value': expected a finite number, found 'high'"),
        ({"value": float("nan")}, "expected a finite number, found 'NaN'"),
        ({"standard_error": "small"}, "metrics.top1.standard_error': expected a finite number"),
        ({"unit": None}, "metrics.top1.unit': 'unit' is missing"),
    ],
)
def test_a_metric_that_is_no_number_is_named(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    path = measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top1", value=90.0)
    content = json.loads(path.read_text())
    entry = content["metrics"]["top1"] | change
    content["metrics"]["top1"] = {name: value for name, value in entry.items() if value is not None}
    del content["seal"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        evidence_of(quantity(ONE), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))
    assert str(path) in str(error.value)


def test_outcomes_of_another_measurement_are_refused(tmp_path: Path) -> None:
    path = measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top1", np.array([0, 100]))
    path.with_suffix(".npz").write_bytes(b"other")
    with pytest.raises(OutcomesError, match=r"s0\.npz: MD5"):
        evidence_of(quantity(ONE), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))


def test_the_error_of_a_median_throughput_follows_from_its_quartiles(tmp_path: Path) -> None:
    """1,000 medians of 15 normal timings scatter as the quartiles of such timings say."""
    generator = np.random.default_rng(0)
    timings = generator.normal(500, 10, (4000, 15))
    low, middle, high = np.percentile(timings, [25, 50, 75], axis=1)
    text = "speed.throughput(van_tiny-lska-k23)"
    measured(tmp_path, "speed", "van_tiny-lska-k23-s0", "throughput", value=500.0,
             interval=(500 - float(np.mean(high - low)) / 2, 500 + float(np.mean(high - low)) / 2))  # fmt: skip
    path = tmp_path / "metrics" / "speed" / "van_tiny-lska-k23-s0.json"
    content = json.loads(path.read_text())
    content["metrics"]["throughput"]["n"] = 15
    del content["seal"]
    path.write_text(json.dumps(content))
    found = evidence_of(quantity(text), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))
    assert found.standard_error == pytest.approx(np.std(middle), rel=0.12)
