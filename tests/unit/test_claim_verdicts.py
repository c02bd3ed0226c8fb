"""Verdicts, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from claim_helpers import ONE, OTHER, RUNS, claim, evidence, measured, put_claims, quantity
from syrupy.assertion import SnapshotAssertion
from table_helpers import Scale

from lska.claims.claims_page import claims_content, claims_text, few, numbers, write_claims
from lska.claims.listing import claim_files
from lska.claims.verdicts import Verdict, judge_claim, judge_claims
from lska.cli import main
from lska.provenance.metric_files import project_root
from lska.settings.scale import load

# Verdicts.


def verdict(one: str, *parts: object, tolerance: tuple[float, ...] = (), **more: object) -> Verdict:
    return judge_claim(claim(one, *tolerance, **more), {part.quantity: part for part in parts}).verdict


def known(text: str, value: float, error: float = 0.5) -> object:
    return evidence(text, value, standard_error=error)


def test_an_order_holds_or_fails_only_beyond_noise() -> None:
    for value, expected in ((73.0, Verdict.HOLDS), (71.5, Verdict.NOISE), (70.5, Verdict.NOISE), (69.0, Verdict.FAILS)):
        assert verdict(f"{ONE} > 71", known(ONE, value)) is expected, value
        assert verdict(f"71 < {ONE}", known(ONE, value)) is expected, value


def test_equality_holds_if_the_whole_interval_is_within_the_tolerance() -> None:
    # Half the interval is 0.98 wide.
    for value, tolerance, expected in (
        (71.0, 1.0, Verdict.HOLDS), (71.1, 1.0, Verdict.NOISE), (71.1, 1.2, Verdict.HOLDS),
        (72.9, 1.0, Verdict.NOISE), (73.1, 1.0, Verdict.FAILS), (68.9, 1.0, Verdict.FAILS),
    ):  # fmt: skip
        assert verdict(f"{ONE} = 71", known(ONE, value), tolerance=(tolerance,)) is expected, (value, tolerance)


def test_counts_are_judged_exactly() -> None:
    text = "complexity.params(van_tiny-lska-k23)"
    for predicate, tolerance, expected in (
        (f"{text} > 9", (), Verdict.HOLDS), (f"{text} > 10", (), Verdict.FAILS),
        (f"{text} = 10", (0.0,), Verdict.HOLDS),
        (f"{text} = 10.5", (0.5,), Verdict.HOLDS), (f"{text} = 10.51", (0.5,), Verdict.FAILS),
        (f"{text} / 100 = 0.1", (0.0,), Verdict.HOLDS),
        (f"{text} * 0.1 + 0.1 + 0.2 = 1.3", (0.0,), Verdict.HOLDS), (f"{text} * 0.1 + 0.2 > 1.2", (), Verdict.FAILS),
    ):  # fmt: skip
        assert verdict(predicate, evidence(text, 10, standard_error=0.0), tolerance=tolerance) is expected, predicate


def test_of_several_comparisons_chance_has_several_tries_to_fail_one() -> None:
    # 2.1 standard errors: p = 0.036 is under 5 %, but not under 5 % / 2.
    alone = verdict(f"{ONE} > 71", known(ONE, 71 - 2.1 * 0.5))
    both = verdict(f"{ONE} > 71 and {OTHER} > 50", known(ONE, 71 - 2.1 * 0.5), known(OTHER, 71))
    assert (alone, both) == (Verdict.FAILS, Verdict.NOISE)
    # Half the interval of an equality is 0.98 wide at 5 %, 1.12 at 5 % / 2.
    alone = verdict(f"{ONE} = 71", known(ONE, 73.05), tolerance=(1.0,))
    both = verdict(f"{ONE} = 71 and {OTHER} > 50", known(ONE, 73.05), known(OTHER, 71), tolerance=(1.0,))
    assert (alone, both) == (Verdict.FAILS, Verdict.NOISE)


def test_a_quotient_by_zero_is_not_run_and_says_why() -> None:
    said = claim(f"{OTHER} / {ONE} > 1 and {OTHER} > 50")
    found = judge_claim(said, {quantity(ONE): known(ONE, 0.0), quantity(OTHER): known(OTHER, 60)})
    assert (found.verdict, len(found.outcomes)) == (Verdict.NOT_RUN, 1)
    assert found.missing == (f"{OTHER} / {ONE} > 1: divides by zero",)


def test_speeds_of_different_hardware_are_not_compared() -> None:
    one, other = (f"speed.throughput(van_tiny-lska-k{kernel})" for kernel in (7, 65))
    parts = [evidence(one, 500.0, standard_error=1.0, devices=("Some GPU",)), known(other, 90.0)]
    found = judge_claim(claim(f"{one} > {other}"), {part.quantity: part for part in parts})
    assert (found.verdict, found.outcomes) == (Verdict.NOT_RUN, ())
    assert found.missing == (f"{one} > {other}: speeds of different hardware (Some GPU, Some CPU)",)
    assert verdict(f"{one} > {other}", known(one, 500.0), parts[1]) is Verdict.HOLDS


def test_an_unknown_error_decides_nothing() -> None:
    assert verdict(f"{ONE} > 71", evidence(ONE, 99.0)) is Verdict.NOISE
    assert verdict(f"{ONE} = 99", evidence(ONE, 99.0), tolerance=(1.0,)) is Verdict.NOISE


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
    assert [one.verdict for one in (held, larger, lost)] == [Verdict.HOLDS, Verdict.NOT_RUN, Verdict.FAILS]
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
    wanted = {"R33": Verdict.HOLDS, "R15": Verdict.DISAGREE, "R01": Verdict.FAILS, "R21": Verdict.NOT_RUN}
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
    assert main(["claims", "--config", "config/small.yaml", "--only", "R07", "--write"]) == 1
    assert "--write: page and JSON always hold all claims; leave out --only" in capsys.readouterr().err
    assert main(["claims", "--config", "config/small.yaml", "--only", "R33"]) == 0
    assert "✓ holds  (Section III-D)" in capsys.readouterr().out
