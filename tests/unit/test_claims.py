"""Claims: the list, what predicates assert, the numbers behind them, differences and noise, verdicts and pages."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from syrupy.assertion import SnapshotAssertion
from table_helpers import PAPER, Scale

from lska.claims.claims_page import claims_content, claims_text, few, numbers, write_claims
from lska.claims.listing import Claim, Quantity, claim_files, claim_needs, claim_runs, parse, read_claims
from lska.claims.verdicts import (
    Difference,
    Evidence,
    Numbers,
    Pairing,
    Unavailable,
    Verdict,
    deviations,
    difference,
    judge_claim,
    judge_claims,
    mcnemar,
)
from lska.cli import main
from lska.models.runs import Run
from lska.provenance.metric_files import digest, metric, project_root, write_metrics
from lska.provenance.outcomes import Outcomes
from lska.settings.scale import load

ONE = "classification.top1(van_tiny-lska-k23)"
OTHER = "classification.top1(van_tiny-lka-k23)"
RUNS = tuple(Run("van_tiny", attention, 23, seed) for attention in ("lka", "lska") for seed in (0, 1))


def claim(predicate: str, *tolerance: float, **more: Any) -> Claim:
    fields = {"id": "C1", "source": "Table III", "statement": "One beats the other", "data": "", "note": "A note.",
              "paper_numbers": "agree"}  # fmt: skip
    return Claim(**{**fields, "predicate": predicate, "tolerance": tolerance, **more})


def quantity(text: str) -> Quantity:
    (comparison,) = parse(f"{text} > 0")
    return comparison.quantities[0]


def evidence(text: str, *values: float, **more: Any) -> Evidence:
    """A quantity measured with one seed per value."""
    runs = tuple(Run.parse(f"{quantity(text).network}-s{seed}") for seed in range(len(values)))
    fields = {"unit": "%", "n": None, "standard_error": None, "deviations": {}, "pairing": None, "outcomes": None,
              "data": ("shapes",), "devices": ("Some CPU",), "files": ()}  # fmt: skip
    return Evidence(quantity(text), runs, values, **{**fields, **more})


def on_images(
    text: str, outcomes: np.ndarray, kind: str = "images", data: str = "sha256:0", images: int | None = None
) -> Evidence:
    """A quantity of one seed with its outcomes."""
    pairing = Pairing(quantity(text).task, data, "", kind, len(outcomes), images)
    return evidence(text, float(np.nanmean(outcomes)), pairing=pairing, outcomes=outcomes.astype(float))


def measured(
    results: Path, task: str, run: str, name: str, outcomes: np.ndarray | None = None, value: float | None = None,
    data: str = "shapes", **more: Any,
) -> Path:  # fmt: skip
    """A metric file as evaluations write it, with one metric and what lies behind it."""
    path = results / "metrics" / task / f"{run}.json"
    found = float(np.mean(outcomes)) if value is None and outcomes is not None else value
    write_metrics(
        path, task=task, run=run, scale="demo", started=datetime.now(UTC), data={"name": data, "digest": digest(data)},
        metrics={name: metric(found, "%", n=None if outcomes is None else len(outcomes), **more)},
        weights={"md5": "0" * 32, "origin": "trained"}, recipe=digest(run),
        outcomes=None if outcomes is None else Outcomes(images={name: outcomes}),
    )  # fmt: skip
    return path


def put_claims(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "claims.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


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


def test_the_schema_knows_every_verdict() -> None:
    schema = json.loads((project_root() / "src" / "lska" / "schemas" / "claims.schema.json").read_text())
    assert schema["$defs"]["verdict"]["enum"] == list(Verdict)


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
        {"predicate": f"{ONE} >= 1"}, {"predicate": f"{ONE} > 1"}, {"tolerance": "-1"}, {"tolerance": "small"},
        {"paper_numbers": "perhaps"}, {"predicate": "", "tolerance": "", "note": ""}, {"statement": ""},
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
    found = parse(f"60 < {ONE} < 80 and {OTHER} = 3")
    assert [one.text for one in found] == [f"60 < {ONE}", f"{ONE} < 80", f"{OTHER} = 3"]


def test_everything_but_comparisons_of_arithmetic_is_refused(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    texts = (
        ONE, f"{ONE} > 1 or {OTHER} > 1", f"{ONE} >= {OTHER}", f"{ONE} ** 2 > 1", f"{ONE} > True",
        "__import__('os').getcwd() > 1", "classification.top1(van_tiny-lsca-k23) > 1", f"{ONE} >", "",
    )  # fmt: skip
    assert {text: said(tmp_path, lambda text=text: parse(text)) for text in texts} == snapshot


integers = st.integers(-50, 50)


@given(a=integers, b=integers, c=st.integers(1, 9), x=integers)
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
    found = Numbers(Scale(tmp_path, RUNS)).evidence(quantity(ONE))
    assert (found.values, found.value, found.n) == ((50.0, 75.0), 62.5, 4)
    np.testing.assert_array_equal(found.outcomes, [0, 50, 100, 100])
    assert not found.binary
    # Bootstrap samples are of images, also where a metric counts pairs of them.
    task, name, run = "shape_texture", "shape_dimensions_reference", "van_tiny-lska-k23-s0"
    write_metrics(
        tmp_path / "metrics" / task / f"{run}.json", task=task, run=run, scale="demo", started=datetime.now(UTC),
        metrics={name: metric(33, "1", n=4480)}, weights={"md5": "0" * 32, "origin": "trained"}, recipe=digest(run),
        data={"name": "cues", "digest": digest("cues")}, extra={"images": 1280},
        outcomes=Outcomes(samples={name: np.array([33.0, 34.0, 32.0])}),
    )  # fmt: skip
    found = Numbers(Scale(tmp_path, RUNS[2:3])).evidence(quantity(f"{task}.{name}(van_tiny-lska-k23)"))
    assert found.pairing[3:] == ("samples", 3, 1280) and found.n == 4480


def test_missing_and_faulty_numbers_are_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    run = "van_tiny-lska-k23-s0"

    def read(text: str = ONE) -> Any:
        return Numbers(Scale(tmp_path, RUNS[2:3])).evidence(quantity(text))

    found = {"no such run": said(tmp_path, lambda: read(OTHER)), "not measured": said(tmp_path, read)}
    measured(tmp_path, "classification", run, "top1")
    found["null"] = said(tmp_path, read)
    path = measured(tmp_path, "classification", run, "top5", value=90.0)
    found["no such metric"] = said(tmp_path, read)
    measured(tmp_path, "classification", run, "top1", value=90.0)
    sound = json.loads(path.read_text())
    for change in ({"value": float("nan")}, {"unit": None}):
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
    found = Numbers(Scale(tmp_path, RUNS[2:3])).evidence(quantity("speed.throughput(van_tiny-lska-k23)"))
    assert found.standard_error == pytest.approx(np.std(middle), rel=0.12)


# Differences and noise: against textbook results, and against what really happens by chance.


def compare(text: str, *parts: Evidence) -> Difference:
    """Of networks that are all that a scale has."""
    return difference(parse(text)[0], {part.quantity: part for part in among(*parts)})


def among(*parts: Evidence) -> list[Evidence]:
    """The same with the deviations of the trainings that they are of, metric by metric."""
    def metric(part: Evidence) -> tuple[str, str]:
        return part.quantity.task, part.quantity.metric

    values: dict[tuple[str, str], dict[Run, float]] = {}
    for part in parts:
        values.setdefault(metric(part), {}).update(zip(part.runs, part.values, strict=True))
    return [dataclasses.replace(part, deviations=deviations(values[metric(part)])) for part in parts]


def right(generator: np.random.Generator, n: int, share: float) -> np.ndarray:
    return 100.0 * (generator.random(n) < share)


def test_the_spread_between_trainings_is_pooled_over_networks() -> None:
    """Two networks alone: Student's test. A third one's seeds add to it, and make one of a network with one seed."""
    one, other, third = (71.2, 72.9, 72.0, 71.8), (70.1, 71.4, 70.2), (65.3, 66.9)
    found = compare(f"{ONE} > {OTHER}", evidence(ONE, *one), evidence(OTHER, *other))
    expected = stats.ttest_ind(one, other)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.value) == (pytest.approx(expected.pvalue), pytest.approx(np.mean(one) - np.mean(other)))
    assert found.interval() == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.basis == "spread over the seeds of 2 networks"
    more = "classification.top1(van_tiny-lska-k7)"
    alone, *parts = among(evidence(ONE, 72.0), evidence(OTHER, *other), evidence(more, *third))
    assert list(alone.deviations) == [run for part in parts for run in part.runs]
    found = difference(parse(f"{ONE} > {OTHER}")[0], {part.quantity: part for part in (alone, parts[0])})
    variance = sum(np.var(values, ddof=1) * (len(values) - 1) for values in (other, third)) / 3
    assert found.freedom == pytest.approx(3) and found.basis == "spread over the seeds of 2 networks"
    assert found.standard_error == pytest.approx(np.sqrt(variance * (1 + 1 / 3)))
    assert found.p == pytest.approx(2 * stats.t.sf(found.value / found.standard_error, 3))


def test_metrics_of_the_same_trainings_are_added_before_their_spread_is_taken() -> None:
    """Where shape rises as texture falls, their difference varies more than each; other tasks are independent."""
    generator, found, values = np.random.default_rng(11), [], []
    names = [f"shape_texture.{what}({net})" for what in ("shape", "texture") for net in ("resnet18", "convnext_tiny")]
    for _ in range(600):
        leaning = generator.normal(0, 1, (2, 4))
        shape, texture = 40 + leaning, 35 - leaning + generator.normal(0, 0.3, (2, 4))
        parts = [evidence(name, *seeds) for name, seeds in zip(names, (*shape, *texture), strict=True)]
        found.append(compare(f"({names[0]} - {names[2]}) - ({names[1]} - {names[3]}) > 0", *parts))
        values.append(found[-1].value)
    assert {round(one.freedom, 6) for one in found} == {6}
    assert np.mean([one.standard_error**2 for one in found]) == pytest.approx(np.var(values), rel=0.2)
    wrong = np.mean([one.p < 0.05 for one in found])
    assert abs(wrong - 0.05) < 4 * (0.05 * 0.95 / 600) ** 0.5
    # Of two tasks with as many seeds, the degrees of freedom add up where their shares are equal.
    one, other = (f"{task}.top1(van_tiny-lska-k23)" for task in ("classification", "robustness/a"))
    both = compare(f"{one} > {other}", evidence(one, 1.0, 2.0, 3.0), evidence(other, 5.0, 3.0, 4.0))
    assert both.freedom == pytest.approx(4) and both.standard_error == pytest.approx(np.sqrt(2 / 3))


def test_networks_of_one_seed_that_are_equally_good_differ_in_one_of_twenty_tests() -> None:
    """500 scales of five networks, of which two are compared that have one seed each."""
    generator, wrong = np.random.default_rng(7), []
    for _ in range(500):
        one, other, *several = (generator.normal(70, 1, count) for count in (1, 1, 3, 3, 2))
        names = [ONE, OTHER, *(f"classification.top1(van_tiny-lska-k{kernel})" for kernel in (7, 35, 53))]
        parts = among(*(evidence(name, *seeds) for name, seeds in zip(names, (one, other, *several), strict=True)))
        wrong.append(difference(parse(f"{ONE} > {OTHER}")[0], {part.quantity: part for part in parts[:2]}).p < 0.05)
    assert 0.05 - 4 * (0.05 * 0.95 / 500) ** 0.5 < np.mean(wrong) < 0.05 + 4 * (0.05 * 0.95 / 500) ** 0.5


def test_a_scale_pools_the_seeds_of_all_its_networks(tmp_path: Path) -> None:
    """Networks that no claim names count too; what is not measured yet is left out."""
    runs = (*RUNS, *(Run("resnet18", None, None, seed) for seed in (0, 1, 2)), Run("van_tiny", "lska", 7, 0))
    scores = dict(zip(map(str, runs), (70, 72, 74, 75, 60, 63, None, 71), strict=True))
    for run, value in scores.items():
        if value is not None:
            measured(tmp_path, "classification", run, "top1", value=value)
    scale = Scale(tmp_path, runs)
    found = Numbers(scale).evidence(quantity("classification.top1(van_tiny-lska-k7)"))
    assert {str(run): value for run, value in found.deviations.items()} == {
        "van_tiny-lka-k23-s0": -1, "van_tiny-lka-k23-s1": 1, "van_tiny-lska-k23-s0": -0.5, "van_tiny-lska-k23-s1": 0.5,
        "resnet18-s0": -1.5, "resnet18-s1": 1.5,
    }  # fmt: skip
    line = {"id": "C1", "source": "Text", "statement": "It is good", "predicate": f"{found.quantity} > 1",
            "tolerance": "", "data": "", "paper_numbers": "not known", "note": ""}  # fmt: skip
    (judged,) = judge_claims(scale, put_claims(tmp_path, line))
    assert judged.basis == "spread over the seeds of 3 networks"
    files = claims_content([judged], scale)["trainings"]["classification"]
    assert [Path(file).stem for file in files] == [str(run) for run in found.deviations]
    assert claim_needs(scale, (claim("classification.top1(van_tiny-lska-k7) > 1"),)) == [
        ("classification", run) for run in (runs[-1], *runs[:-1])
    ]  # fmt: skip


def test_the_spread_over_images_adds_to_that_over_seeds() -> None:
    """Networks of random seeds, scored on random images: the error of the difference is that of drawing both anew."""
    generator, found, errors = np.random.default_rng(5), [], []
    for _ in range(400):
        # Rows are seeds: each is better or worse by 1 on all images; both networks find the same images hard.
        hard = generator.normal(0, 20, 500)
        drawn = [hard + generator.normal(0, 10, (3, 500)) + generator.normal(0, 1, (3, 1)) for _ in range(2)]
        parts = [
            evidence(text, *one.mean(axis=1), pairing=images.pairing, outcomes=images.outcomes)
            for text, one in zip((ONE, OTHER), drawn, strict=True)
            for images in [on_images(text, one.mean(axis=0))]
        ]
        found.append(compare(f"{ONE} > {OTHER}", *parts))
        errors.append(found[-1].value)
    assert found[0].basis == "spread over the seeds of 2 networks, and paired over 500 images"
    assert np.std(errors) == pytest.approx(np.mean([one.standard_error**2 for one in found]) ** 0.5, rel=0.12)
    wrong = np.mean([one.p < 0.05 for one in found])
    assert 0 < wrong < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5


def test_seeds_that_are_alike_are_no_proof() -> None:
    """Whole numbers, such as dimensions, may be the same for two seeds; the spread over images decides then."""
    found = compare(f"{ONE} > {OTHER}", evidence(ONE, 5.1, 5.1, 5.1), evidence(OTHER, 6.3, 6.3, 6.3))
    assert (found.standard_error, found.p, found.basis) == (None, None, "no error is known")
    # Without outcomes the errors of the files are taken as independent.
    parts = (evidence(ONE, 6, 6, standard_error=0.3), evidence(OTHER, 5, 5, standard_error=0.4))
    found = compare(f"{ONE} > {OTHER}", *parts)
    assert found.standard_error == pytest.approx(0.5) and found.p == pytest.approx(2 * stats.norm.sf(2))
    assert found.basis == "unpaired errors of the metric files, means over 2 seeds, whose spread is left out"


def test_images_without_any_spread_are_no_proof() -> None:
    """Two networks alike on every one of a few images may well differ on others."""
    generator = np.random.default_rng(8)
    same = right(generator, 40, 0.6)
    for text in (f"{ONE} - {OTHER} > -0.5", f"{ONE} - {OTHER} = 0", f"{ONE} > {OTHER}", f"3 * {ONE} / {OTHER} > 1"):
        found = compare(text, on_images(ONE, same), on_images(OTHER, same))
        assert (found.standard_error, found.interval(), found.p) == (None, None, None), text
        assert found.basis == "paired over 40 images: without any spread, so no error is known"


def test_one_seed_is_compared_image_by_image() -> None:
    """Two networks that are right on nearly the same images: what is hard for both says nothing about either."""
    generator = np.random.default_rng(0)
    one = right(generator, 2000, 0.7)
    other = np.where(generator.random(2000) < 0.05, 0, one)
    found = compare(f"{ONE} > {OTHER}", on_images(ONE, one), on_images(OTHER, other))
    paired = stats.ttest_rel(one, other)
    assert found.standard_error == pytest.approx(found.value / paired.statistic)
    assert found.standard_error < 0.5 * np.hypot(*(np.std(part) / 2000**0.5 for part in (one, other)))
    assert found.basis == "paired over 2,000 images, one seed; exact McNemar test"
    assert found.p == pytest.approx(stats.binomtest(int((one > other).sum()), int((one != other).sum())).pvalue)


def test_a_difference_that_a_test_sees_is_found_four_times_of_five() -> None:
    generator, truth = np.random.default_rng(9), 2.0
    seeds = generator.normal(70, 1, (600, 2, 3))
    seeds[:, 0] += truth
    found = [compare(f"{ONE} > {OTHER}", evidence(ONE, *one), evidence(OTHER, *other)) for one, other in seeds]
    seen = np.mean([one.p < 0.05 for one in found])
    error = np.sqrt(2 / 3)
    planned = dataclasses.replace(found[0], standard_error=error, freedom=4)
    scale = planned.detectable(seen) / truth
    assert 0.85 < scale < 1.15
    assert planned.detectable(0.5) == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert compare(f"{ONE} = {OTHER}", evidence(ONE, 1, 2), evidence(OTHER, 2, 4)).detectable() is None


def test_mcnemar_counts_the_images_that_one_network_alone_gets_right() -> None:
    # 8 of 10 discordant images for the first: 2 (1 + 10 + 45) / 2^10.
    one, other = np.array([1] * 8 + [0] * 2 + [1, 0]), np.array([0] * 8 + [1] * 2 + [1, 0])
    assert mcnemar(one, other) == pytest.approx(2 * 56 / 1024)
    assert mcnemar(one, one) == 1


def test_the_error_of_a_quotient_follows_from_its_derivatives() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(50, 5, 4000)
    one, other = base + generator.normal(1, 2, 4000), base
    found = compare(f"{ONE} / {OTHER} > 1", on_images(ONE, one), on_images(OTHER, other))
    rows = generator.integers(0, 4000, (2000, 4000))
    resampled = one[rows].mean(axis=1) / other[rows].mean(axis=1)
    assert found.standard_error == pytest.approx(np.std(resampled), rel=0.06)


def test_bootstrap_samples_of_the_same_images_are_subtracted_from_each_other() -> None:
    generator = np.random.default_rng(4)
    shared = generator.normal(0, 3, 1000)
    one, other = 45 + shared + generator.normal(0, 0.5, 1000), 44 + shared
    parts = (on_images(text, part, "samples", images=87) for text, part in ((ONE, one), (OTHER, other)))
    found = compare(f"{ONE} > {OTHER}", *parts)
    assert found.standard_error == pytest.approx(np.std(one - other, ddof=1))
    assert found.standard_error < 0.6
    assert found.basis == "paired over 1,000 bootstrap samples of 87 images, one seed"


def test_samples_without_a_value_are_left_out() -> None:
    one, other = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 1.0, 1.0, np.nan])
    parts = [on_images(text, part, "samples") for text, part in ((ONE, one), (OTHER, other))]
    assert compare(f"{ONE} > {OTHER}", *parts).standard_error == pytest.approx(np.std([0, 1], ddof=1))
    few = [on_images(text, np.append(part, [np.nan] * 2), "samples") for text, part in ((ONE, one), (OTHER, other))]
    assert compare(f"{ONE} > {OTHER}", *few).standard_error is None


def test_a_metric_of_zero_has_its_derivative_too() -> None:
    """A network that gets nothing right: the step must not be lost beside the other network's 80 %."""
    parts = (evidence(text, value, standard_error=error) for text, value, error in ((ONE, 0, 1), (OTHER, 80, 0)))
    assert compare(f"{ONE} + {OTHER} < 90", *parts).standard_error == pytest.approx(1, rel=1e-5)


def test_networks_that_are_equally_good_differ_in_one_of_twenty_tests() -> None:
    """300 pairs of networks without a difference: 5 % and four standard errors of that share."""
    generator = np.random.default_rng(6)
    hard = generator.random(400)
    found = []
    for _ in range(300):
        parts = (on_images(text, 100.0 * (hard + generator.normal(0, 0.3, 400) < 0.6)) for text in (ONE, OTHER))
        found.append(compare(f"{ONE} > {OTHER}", *parts).p < 0.05)
    assert np.mean(found) < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5
    assert np.mean(found) > 0


# Verdicts, and how they are shown.


def verdict(one: str, *parts: object, tolerance: tuple[float, ...] = (), **more: object) -> Verdict:
    return judge_claim(claim(one, *tolerance, **more), {part.quantity: part for part in parts}).verdict


def known(text: str, value: float, error: float = 0.5) -> object:
    return evidence(text, value, standard_error=error)


def test_measurements_are_judged_with_their_noise_and_counts_exactly() -> None:
    holds, noise, fails = Verdict.HOLDS, Verdict.NOISE, Verdict.CONTRADICTED
    for value, expected in ((73.0, holds), (71.5, noise), (70.5, noise), (69.0, fails)):
        assert verdict(f"{ONE} > 71", known(ONE, value)) is expected, value
        assert verdict(f"71 < {ONE}", known(ONE, value)) is expected, value
    # An equality holds if the whole interval, of which half is 0.98 wide, is within the tolerance.
    for value, tolerance, expected in (
        (71.0, 1.0, holds), (71.1, 1.0, noise), (71.1, 1.2, holds), (72.9, 1.0, noise), (73.1, 1.0, fails),
        (68.9, 1.0, fails),
    ):  # fmt: skip
        assert verdict(f"{ONE} = 71", known(ONE, value), tolerance=(tolerance,)) is expected, (value, tolerance)
    assert verdict(f"{ONE} > 71", evidence(ONE, 99.0)) is noise, "no error is known"
    count = "complexity.params(van_tiny-lska-k23)"
    for predicate, tolerance, expected in (
        (f"{count} > 9", (), holds), (f"{count} > 10", (), fails), (f"{count} = 10", (0.0,), holds),
        (f"{count} = 10.5", (0.5,), holds), (f"{count} = 10.51", (0.5,), fails),
        (f"{count} * 0.1 + 0.1 + 0.2 = 1.3", (0.0,), holds), (f"{count} * 0.1 + 0.2 > 1.2", (), fails),
    ):  # fmt: skip
        assert verdict(predicate, evidence(count, 10, standard_error=0.0), tolerance=tolerance) is expected, predicate


def test_only_as_much_as_a_printed_step_is_the_papers_rounding() -> None:
    few, many = ("complexity.params(van_tiny-lska-k23)", "complexity.params(van_tiny-lka-k23)")
    saved = f"100 * (1 - {few} / {many}) = 2.4"

    def judged(predicate: str, *values: float, paper: str = "agree when rounded") -> Verdict:
        one = dataclasses.replace(claim(predicate, 0.05), paper_numbers=paper)
        pairs = zip(map(str, one.quantities), values, strict=True)
        counted = [evidence(part, value, standard_error=0.0) for part, value in pairs]
        return judge_claim(one, {part.quantity: part for part in counted}).verdict

    assert judged(saved, 4_029_000, 4_105_800) is Verdict.ROUNDING
    assert judged(saved, 4_000_000, 4_100_000) is Verdict.HOLDS
    # An attention of ours with other counts is no rounding of theirs; nor is what the paper did not round.
    assert judged(saved, 3_029_000, 4_105_800) is Verdict.CONTRADICTED
    assert judged(saved, 4_029_000, 4_105_800, paper="agree") is Verdict.CONTRADICTED
    both = f"{saved} and {few} > {many}"
    assert judged(both, 3_000_000, 4_105_800) is Verdict.CONTRADICTED
    # Whole GFLOPs of detectors, tenths of backbones.
    for task, expected in (("complexity/retinanet", Verdict.ROUNDING), ("complexity", Verdict.CONTRADICTED)):
        one, other = (f"{task}.flops(van_base-{attention}-k23)" for attention in ("lka", "lska"))
        assert judged(f"({one} - {other}) / 1000000000 = 1", 253.8e9, 252.1e9) is expected
    # What is measured has no printed step.
    one = dataclasses.replace(claim(f"{ONE} > 71"), paper_numbers="agree when rounded")
    assert judge_claim(one, {part: known(ONE, 69.0) for part in one.quantities}).verdict is Verdict.CONTRADICTED


def test_of_several_comparisons_chance_has_several_tries_to_contradict_one() -> None:
    # 2.1 standard errors: p = 0.036 is under 5 %, but not under 5 % / 2.
    alone = verdict(f"{ONE} > 71", known(ONE, 71 - 2.1 * 0.5))
    both = verdict(f"{ONE} > 71 and {OTHER} > 50", known(ONE, 71 - 2.1 * 0.5), known(OTHER, 71))
    assert (alone, both) == (Verdict.CONTRADICTED, Verdict.NOISE)
    # Half the interval of an equality is 0.98 wide at 5 %, 1.12 at 5 % / 2.
    alone = verdict(f"{ONE} = 71", known(ONE, 73.05), tolerance=(1.0,))
    both = verdict(f"{ONE} = 71 and {OTHER} > 50", known(ONE, 73.05), known(OTHER, 71), tolerance=(1.0,))
    assert (alone, both) == (Verdict.CONTRADICTED, Verdict.NOISE)


def test_what_cannot_be_compared_is_not_run_and_says_why() -> None:
    said = claim(f"{OTHER} / {ONE} > 1 and {OTHER} > 50")
    found = judge_claim(said, {quantity(ONE): known(ONE, 0.0), quantity(OTHER): known(OTHER, 60)})
    assert (found.verdict, len(found.outcomes)) == (Verdict.NOT_RUN, 1)
    assert found.missing == (f"{OTHER} / {ONE} > 1: divides by zero",)
    one, other = (f"speed.throughput(van_tiny-lska-k{kernel})" for kernel in (7, 65))
    parts = [evidence(one, 500.0, standard_error=1.0, devices=("Some GPU",)), known(other, 90.0)]
    found = judge_claim(claim(f"{one} > {other}"), {part.quantity: part for part in parts})
    assert (found.verdict, found.outcomes) == (Verdict.NOT_RUN, ())
    assert found.missing == (f"{one} > {other}: speeds of different hardware (Some GPU, Some CPU)",)
    assert verdict(f"{one} > {other}", known(one, 500.0), parts[1]) is Verdict.HOLDS


def test_published_numbers_are_compared_only_with_the_papers_networks_on_their_data() -> None:
    said = claim(f"{ONE} - 71 = 1.5", 0.5, data="imagenet1k")
    there = evidence(ONE, 72.5, standard_error=0.1, data=("imagenet1k",))
    assert judge_claim(said, {there.quantity: there}).verdict is Verdict.HOLDS
    small = judge_claim(said, {there.quantity: there}, ["van_tiny"])
    assert (small.verdict, small.outcomes) == (Verdict.NOT_RUN, ())
    assert small.missing == ("compares with published numbers; shrunken here: van_tiny",)
    other = judge_claim(said, {there.quantity: known(ONE, 72.5)})
    assert other.verdict is Verdict.NOT_RUN
    assert other.missing == ("compares with numbers published for imagenet1k; measured here: shapes",)


def scale_with_results(tmp_path: Path) -> tuple[Scale, Path]:
    generator = np.random.default_rng(0)
    results = tmp_path / "results"
    worse = 100.0 * (generator.random(400) < 0.6)
    better = np.where(generator.random(400) < 0.4, 100.0, worse)
    for attention, outcomes in (("lka", worse), ("lska", better)):
        measured(results, "classification", f"van_tiny-{attention}-k23-s0", "top1", outcomes)
    line = {"id": "C1", "source": "Text", "statement": "One <b>beats</b> the | other", "predicate": f"{ONE} > {OTHER}",
            "tolerance": "", "data": "", "paper_numbers": "not known", "note": ""}  # fmt: skip
    more = {**line, "id": "C2", "predicate": ONE.replace("k23", "k35") + " > 1", "statement": "There is a larger one"}
    claims = put_claims(tmp_path, line, more, {**line, "id": "C3", "predicate": f"{ONE} < {OTHER}"})
    return Scale(results, (RUNS[0], RUNS[2])), claims


def test_a_scale_is_judged_by_its_metric_files(tmp_path: Path) -> None:
    scale, claims = scale_with_results(tmp_path)
    held, larger, lost = judge_claims(scale, claims)
    assert [one.verdict for one in (held, larger, lost)] == [Verdict.HOLDS, Verdict.NOT_RUN, Verdict.CONTRADICTED]
    assert held.basis == "paired over 400 images, one seed; exact McNemar test"
    assert larger.missing == ("scale demo has no classification of van_tiny-lska-k35",)
    assert [path.name for part in held.evidence for path in part.files] == [
        "van_tiny-lska-k23-s0.json", "van_tiny-lka-k23-s0.json",
    ]  # fmt: skip


# The pages.


def test_committed_verdicts_of_the_small_scale_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    small = load([Path("config/small.yaml")])
    results = judge_claims(small)
    found = {one.claim.id: one.verdict for one in results}
    wanted = {"R33": Verdict.HOLDS, "R15": Verdict.DISAGREE, "R01": Verdict.ROUNDING, "R20": Verdict.NOISE,
              "R21": Verdict.NOT_RUN}  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    write_claims(results, small, tmp_path)
    pairs = zip(claim_files(small.results), claim_files(tmp_path), strict=True)
    outdated = [path for path, made in pairs if path.read_bytes() != made.read_bytes()]
    assert outdated == [], "lska claims --write --config config/small.yaml"
    assert len(list((tmp_path / "claims").iterdir())) == 3


def test_the_terminal_names_every_claim_with_its_verdict(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    scale, claims = scale_with_results(tmp_path)
    assert claims_text(claims_content(judge_claims(scale, claims), scale)) == snapshot


def test_comparisons_read_as_a_person_writes_them() -> None:
    def said(predicate: str, value: float, *tolerance: float, error: float | None = 0.5) -> str:
        one = claim(predicate, *tolerance)
        (part,) = one.quantities
        found = judge_claim(one, {part: evidence(str(part), value, standard_error=0.0 if part.counted else error)})
        (comparison,) = claims_content([found], Scale(Path("results")))["claims"][0]["comparisons"]
        return numbers(comparison)

    counted = "complexity.params(van_tiny-lska-k23) / 100 = 2.4"
    assert said(counted, 187.05, 0.05) == "1.871 for 2.4 ± 0.05, off by -0.529"
    assert said(f"{ONE} > 71.8", 73.0) == "73 > 71.8 by 1.2 ± 0.5 points (p = 0.016)"
    assert said(f"{ONE} > 71.8", 73.0, error=None) == "73 > 71.8 by 1.2 points"
    assert said(f"{ONE} < 71.8", 73.0) == "73 < 71.8 missed by 1.2 ± 0.5 points (p = 0.016)"
    assert said(f"{ONE} = 71.8", 73.0, 2.5) == "73 for 71.8 ± 2.5, off by 1.2 ± 0.5 points"
    assert (few(["a", "b", "c", "d"]), few(["a"])) == ("a; b; and 2 more", "a")


def test_the_command_shows_chosen_claims_and_refuses_unknown_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root())
    assert main(["claims", "--config", "config/small.yaml", "--only", "R99"]) == 1
    assert "--only: no claim R99 in paper/claims.csv; expected R01, R02" in capsys.readouterr().err
    assert main(["claims", "--config", "config/small.yaml", "--only", "R33"]) == 0
    assert "✓ holds  (Section III-D)" in capsys.readouterr().out
