"""Verdicts, and how they are shown."""


from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from claim_helpers import ONE, OTHER, RUNS, claim, evidence, measured, put_claims, quantity
from table_helpers import PAPER, Scale

from lska import config
from lska.claims.claims_page import claims_content, claims_text, few, numbers, render_claims, verdict_of, write_claims
from lska.claims.listing import claim_files
from lska.claims.verdicts import Verdict, combine, count_verdicts, judge, judge_claims
from lska.cli import main
from lska.provenance import project_root
from lska.tables.cell_text import shown

# Verdicts.


def verdict(one: str, *parts: object, tolerance: tuple[float, ...] = (), **more: object) -> Verdict:
    return judge(claim(one, *tolerance, **more), {part.quantity: part for part in parts}).verdict


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


def test_an_equality_too_fails_among_several_only_beyond_the_chance_of_all() -> None:
    # Half the interval is 0.98 wide at 5 %, 1.12 at 5 % / 2.
    alone = verdict(f"{ONE} = 71", known(ONE, 73.05), tolerance=(1.0,))
    both = verdict(f"{ONE} = 71 and {OTHER} > 50", known(ONE, 73.05), known(OTHER, 71), tolerance=(1.0,))
    assert (alone, both) == (Verdict.FAILS, Verdict.NOISE)


def test_a_quotient_by_zero_is_not_run_and_says_why() -> None:
    said = claim(f"{OTHER} / {ONE} > 1 and {OTHER} > 50")
    found = judge(said, {quantity(ONE): known(ONE, 0.0), quantity(OTHER): known(OTHER, 60)})
    assert (found.verdict, len(found.outcomes)) == (Verdict.NOT_RUN, 1)
    assert found.missing == (f"{OTHER} / {ONE} > 1: divides by zero",)


def test_speeds_of_different_hardware_are_not_compared() -> None:
    one, other = (f"speed.throughput(van_tiny-lska-k{kernel})" for kernel in (7, 65))
    parts = [evidence(one, 500.0, standard_error=1.0, devices=("Some GPU",)), known(other, 90.0)]
    found = judge(claim(f"{one} > {other}"), {part.quantity: part for part in parts})
    assert (found.verdict, found.outcomes) == (Verdict.NOT_RUN, ())
    assert found.missing == (f"{one} > {other}: speeds of different hardware (Some GPU, Some CPU)",)
    assert verdict(f"{one} > {other}", known(one, 500.0), parts[1]) is Verdict.HOLDS


def test_all_comparisons_have_to_hold() -> None:
    every = list(Verdict)[:3]
    assert combine(every, complete=True) is Verdict.FAILS
    assert combine([Verdict.HOLDS, Verdict.NOISE], complete=True) is Verdict.NOISE
    assert combine([Verdict.HOLDS], complete=True) is Verdict.HOLDS
    assert combine([Verdict.HOLDS], complete=False) is Verdict.NOT_RUN
    assert combine([Verdict.FAILS], complete=False) is Verdict.FAILS
    assert combine([], complete=True) is Verdict.NOT_RUN


def test_an_unknown_error_decides_nothing() -> None:
    assert verdict(f"{ONE} > 71", evidence(ONE, 99.0)) is Verdict.NOISE
    assert verdict(f"{ONE} = 99", evidence(ONE, 99.0), tolerance=(1.0,)) is Verdict.NOISE


def test_published_numbers_are_compared_only_with_the_papers_networks_on_their_data() -> None:
    said = claim(f"{ONE} - 71 = 1.5", 0.5, data="imagenet1k")
    there = evidence(ONE, 72.5, standard_error=0.1, data=("imagenet1k",))
    assert judge(said, {there.quantity: there}).verdict is Verdict.HOLDS
    small = judge(said, {there.quantity: there}, ["van_tiny"])
    assert (small.verdict, small.outcomes) == (Verdict.NOT_RUN, ())
    assert small.missing == ("compares with published numbers; shrunken here: van_tiny",)
    other = judge(said, {there.quantity: known(ONE, 72.5)})
    assert other.verdict is Verdict.NOT_RUN
    assert other.missing == ("compares with numbers published for imagenet1k; measured here: shapes",)


def test_where_the_paper_contradicts_itself_our_verdict_stands_beside() -> None:
    found = judge(claim(f"{ONE} > 71", paper_numbers="disagree"), {quantity(ONE): known(ONE, 80)})
    assert (found.verdict, found.measured) == (Verdict.DISAGREE, Verdict.HOLDS)
    assert count_verdicts([found])[Verdict.DISAGREE] == 1


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


def test_the_committed_results_of_the_small_scale_can_be_judged() -> None:
    results = project_root() / "results" / "small"
    found = {one.claim.id: one for one in judge_claims(small(), PAPER / "claims.csv", results)}
    assert found["R33"].verdict is Verdict.HOLDS
    assert found["R15"].verdict is Verdict.DISAGREE
    assert found["R01"].verdict is Verdict.FAILS
    assert round(found["R01"].outcomes[0].difference.left, 1) == 1.9
    assert found["R21"].verdict is Verdict.NOT_RUN
    assert len(found["R07"].evidence) == 2


def small() -> config.Config:
    return config.load([project_root() / "config" / "small.yaml"])


# The pages.


def content(tmp_path: Path) -> dict:
    scale, claims = scale_with_results(tmp_path)
    return claims_content(judge_claims(scale, claims), scale)


def test_json_holds_the_numbers_runs_and_seeds_behind_each_verdict(tmp_path: Path) -> None:
    found = content(tmp_path)
    assert found["counts"] == {
        "holds": 1, "fails": 1, "within noise": 0, "not run": 1, "the paper's own numbers disagree": 0,
    }  # fmt: skip
    one = found["claims"][0]
    (comparison,), (first, second) = one["comparisons"], one["quantities"]
    assert comparison["difference"] == pytest.approx(first["value"] - second["value"])
    low, high = comparison["interval"]
    assert low < comparison["difference"] < high
    assert first["runs"] == ["van_tiny-lska-k23-s0"]
    assert (first["seeds"], first["n"], first["data"], first["unit"]) == ([0], 400, ["shapes"], "%")
    assert Path(first["files"][0]).name == "van_tiny-lska-k23-s0.json"
    json.dumps(found, allow_nan=False)


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_pages_show_every_claim_and_escape_its_text(tmp_path: Path) -> None:
    found = content(tmp_path)
    page = render_claims(found, ".html")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "One &lt;b&gt;beats&lt;/b&gt; the | other" in page
    assert "<b>" not in page
    assert not re.search("https?:", page)
    for one in found["claims"]:
        assert f'<section id="{one["id"]}">' in page


def test_the_markdown_page_has_one_row_per_claim(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    found = content(tmp_path)
    tokens = MarkdownIt("commonmark").enable("table").parse(render_claims(found, ".md"))
    heads = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "th_open"]
    assert heads[3:8] == ["id", "source", "statement", "verdict", "numbers"]
    inside = [tokens[n + 1] for n, token in enumerate(tokens) if token.type == "td_open"]
    cells = ["".join(child.content for child in token.children) for token in inside]
    assert "One <b>beats</b> the | other" in cells
    assert cells.count("C1") == cells.count("C2") == 1


def test_files_are_written_whole_and_alike(tmp_path: Path) -> None:
    scale, claims = scale_with_results(tmp_path)
    results = judge_claims(scale, claims)
    write_claims(results, scale, tmp_path)
    first = [path.read_bytes() for path in claim_files(tmp_path)]
    write_claims(results, scale, tmp_path)
    assert [path.read_bytes() for path in claim_files(tmp_path)] == first
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == ["claims.html", "claims.json", "claims.md"]


def test_comparisons_read_as_a_person_writes_them() -> None:
    (counted,) = judged(f"{'complexity.params(van_tiny-lska-k23)'} / 100 = 2.4", 187.05, 0.05)
    assert numbers(counted) == "1.871 for 2.4 ± 0.05, off by -0.529"
    (ordered,) = judged(f"{ONE} > 71.8", 73.0)
    assert numbers(ordered) == "73 > 71.8 by 1.2 ± 0.5 points (p = 0.016)"
    (unknown,) = judged(f"{ONE} > 71.8", 73.0, error=None)
    assert numbers(unknown) == "73 > 71.8 by 1.2 points"
    (against,) = judged(f"{ONE} < 71.8", 73.0)
    assert numbers(against) == "73 < 71.8 missed by 1.2 ± 0.5 points (p = 0.016)"
    (equal,) = judged(f"{ONE} = 71.8", 73.0, 2.5)
    assert numbers(equal) == "73 for 71.8 ± 2.5, off by 1.2 ± 0.5 points"


def test_a_percentage_that_came_from_rounding_says_so_beside_its_verdict() -> None:
    text = "complexity.params(van_tiny-lska-k23)"
    for paper_numbers, beside in (("agree when rounded", " (the paper's rounded numbers agree)"), ("agree", "")):
        said = claim(f"{text} = 1", 0.05, paper_numbers=paper_numbers)
        found = judge(said, {quantity(text): evidence(text, 2.0, standard_error=0.0)})
        assert verdict_of(claims_content([found], Scale(Path("results")))["claims"][0]) == f"✗ fails{beside}"


def judged(predicate: str, value: float, *tolerance: float, error: float | None = 0.5) -> list[dict]:
    said = claim(predicate, *tolerance)
    (part,) = said.quantities
    found = judge(said, {part: evidence(str(part), value, standard_error=0.0 if part.counted else error)})
    return claims_content([found], Scale(Path("results")))["claims"][0]["comparisons"]


def test_numbers_and_lists_are_short() -> None:
    assert [shown(value) for value in (4029000, 0.0001234567, 76800, 2.0, -0.52948)] == [
        "4,029,000", "0.0001235", "76,800", "2", "-0.5295",
    ]  # fmt: skip
    assert few(["a", "b", "c", "d"]) == "a; b; and 2 more"
    assert few(["a"]) == "a"


def test_the_terminal_names_every_claim_with_its_verdict(tmp_path: Path) -> None:
    text = claims_text(content(tmp_path))
    assert re.search(r"C1    ✓ holds  \(Text\)\n +One <b>beats", text)
    assert re.search(r"C2    – not run .*\n.*\n +scale demo has no classification of van_tiny-lska-k35", text)
    assert text.endswith("\n\n1 holds, 1 fails, 1 not run\n")
    assert max(map(len, text.splitlines())) <= 100


def test_an_unknown_claim_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    assert main(["claims", "--config", "config/small.yaml", "--only", "R99"]) == 1
    assert "--only: no claim R99 in paper/claims.csv; expected R01, R02" in capsys.readouterr().err
    assert main(["claims", "--config", "config/small.yaml", "--only", "R07", "--write"]) == 1
    assert "--write: page and JSON always hold all claims; leave out --only" in capsys.readouterr().err
    assert main(["claims", "--config", "config/small.yaml", "--only", "R33"]) == 0
    assert "✓ holds  (Section III-D)" in capsys.readouterr().out
