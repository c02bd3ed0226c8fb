"""From the list of claims and metric files to verdicts and pages."""

from __future__ import annotations

import csv
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from claim_helpers import ONE, OTHER, claim, evidence, measured, quantity
from table_helpers import PAPER, Scale

from lska import config
from lska.claims import check, read_claims, requirements
from lska.claims.evidence import Unavailable, collect
from lska.claims.listing import outputs, runs_of
from lska.claims.page import few, numbers, render, shown, to_json, to_text, verdict_of, write
from lska.claims.verdicts import Verdict, combine, count, judge
from lska.cli import main
from lska.outcomes import OutcomesError
from lska.provenance import project_root
from lska.runs import Run
from lska.strict import read_yaml
from lska.tables.measurements import MetricFolder
from lska.workflow import Plan

RUNS = tuple(Run("van_tiny", attention, 23, seed) for attention in ("lka", "lska") for seed in (0, 1))


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


def test_only_claims_about_networks_that_are_not_here_have_no_predicate() -> None:
    without = [claim for claim in read_claims(PAPER / "claims.csv") if not claim.predicate]
    assert [claim.id for claim in without] == ["R25", "R27", "R31"]
    assert all(re.search("has no (RepLKNet|SLaK)", claim.note) for claim in without)


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
        ({"predicate": f"{ONE} > 1", "tolerance": "0.5"}, "predicate: expected a tolerance of 0 or more"),
        ({"predicate": f"{ONE} = 1", "tolerance": ""}, r"for all of the 1 comparisons by =, .* found \[\]"),
        ({"tolerance": "-1"}, "expected a tolerance of 0 or more"),
        ({"tolerance": "small"}, "tolerance: expected numbers separated by ';', found 'small'"),
        ({"paper_numbers": "perhaps"}, "paper_numbers: expected one of agree, agree when rounded, disagree, not known"),
        ({"predicate": "", "tolerance": "", "note": ""}, "a predicate or a note that says why there is none"),
        ({"statement": ""}, "expected an id, a statement"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, change: dict[str, str], problem: str) -> None:
    line = {"id": "C1", "source": "Text", "statement": "It holds", "predicate": f"{ONE} = 1", "tolerance": "0.5",
            "data": "", "paper_numbers": "agree", "note": "None."}  # fmt: skip
    with pytest.raises(ValueError, match=problem):
        read_claims(put_claims(tmp_path, {**line, **change}))


def put_claims(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "claims.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_files_that_are_no_list_of_claims_are_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    with pytest.raises(ValueError, match=r"claims\.csv: cannot be read"):
        read_claims(path)
    path.write_text("id,statement\nC1,It holds\n")
    with pytest.raises(ValueError, match=r"expected the columns id, source, .*, found \['id', 'statement'\]"):
        read_claims(path)
    head = (PAPER / "claims.csv").read_text().splitlines()[0]
    path.write_text(f"{head}\nC1,Text,It holds, and more,,,,agree,Note\n")
    with pytest.raises(ValueError, match="line 2: expected 8 columns; quote texts with commas"):
        read_claims(path)
    line = f'C1,Text,It holds,"{ONE} > 1",,,agree,'
    path.write_text(f"{head}\n{line}\n{line}\n")
    with pytest.raises(ValueError, match="expected each id once, found C1 more than once"):
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
    needs = requirements(scale, (claim(f"{ONE} > {OTHER} and {ONE} > 3"),))
    assert needs == [("classification", run) for run in (*RUNS[2:], *RUNS[:2])]


def test_outcomes_of_several_seeds_are_averaged_image_by_image(tmp_path: Path) -> None:
    scale = Scale(tmp_path, RUNS)
    for seed, outcomes in enumerate(([0, 0, 100, 100], [0, 100, 100, 100])):
        measured(tmp_path, "classification", f"van_tiny-lska-k23-s{seed}", "top1", np.array(outcomes))
    found = collect(quantity(ONE), scale, MetricFolder("demo", tmp_path))
    assert (found.values, found.value, found.n) == ((50.0, 75.0), 62.5, 4)
    np.testing.assert_array_equal(found.outcomes, [0, 50, 100, 100])
    assert not found.binary


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    scale = Scale(tmp_path, RUNS[2:3])
    folder = MetricFolder("demo", tmp_path)
    with pytest.raises(Unavailable, match="scale demo has no classification of van_tiny-lka-k23"):
        collect(quantity(OTHER), scale, folder)
    with pytest.raises(Unavailable, match="classification of van_tiny-lska-k23-s0: not measured yet"):
        collect(quantity(ONE), scale, folder)
    path = measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top1")
    with pytest.raises(Unavailable, match=f"without a value in {path}"):
        collect(quantity(ONE), scale, folder)


def test_a_metric_that_does_not_exist_is_an_error_of_the_list(tmp_path: Path) -> None:
    measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top5", value=90.0)
    with pytest.raises(ValueError, match="no metric 'top1', which a claim reads; it has top5"):
        collect(quantity(ONE), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))


def test_outcomes_of_another_measurement_are_refused(tmp_path: Path) -> None:
    path = measured(tmp_path, "classification", "van_tiny-lska-k23-s0", "top1", np.array([0, 100]))
    path.with_suffix(".npz").write_bytes(b"other")
    with pytest.raises(OutcomesError, match=r"s0\.npz: MD5"):
        collect(quantity(ONE), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))


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
    found = collect(quantity(text), Scale(tmp_path, RUNS[2:3]), MetricFolder("demo", tmp_path))
    assert found.standard_error == pytest.approx(np.std(middle), rel=0.12)


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
    ):  # fmt: skip
        assert verdict(predicate, evidence(text, 10, standard_error=0.0), tolerance=tolerance) is expected, predicate


def test_of_several_comparisons_chance_has_several_tries_to_fail_one() -> None:
    # 2.1 standard errors: p = 0.036 is under 5 %, but not under 5 % / 2.
    alone = verdict(f"{ONE} > 71", known(ONE, 71 - 2.1 * 0.5))
    both = verdict(f"{ONE} > 71 and {OTHER} > 50", known(ONE, 71 - 2.1 * 0.5), known(OTHER, 71))
    assert (alone, both) == (Verdict.FAILS, Verdict.NOISE)


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
    assert count([found])[Verdict.DISAGREE] == 1


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
    held, larger, lost = check(scale, claims)
    assert [one.verdict for one in (held, larger, lost)] == [Verdict.HOLDS, Verdict.NOT_RUN, Verdict.FAILS]
    assert held.basis == "paired over 400 images, one seed; exact McNemar test"
    assert larger.missing == ("scale demo has no classification of van_tiny-lska-k35",)
    assert [path.name for part in held.evidence for path in part.files] == [
        "van_tiny-lska-k23-s0.json", "van_tiny-lka-k23-s0.json",
    ]  # fmt: skip


def test_the_committed_results_of_the_small_scale_can_be_judged() -> None:
    found = {one.claim.id: one for one in check(small(), PAPER / "claims.csv", project_root() / "results" / "small")}
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
    return to_json(check(scale, claims), scale)


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
    page = render(found, ".html")
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
    tokens = MarkdownIt("commonmark").enable("table").parse(render(found, ".md"))
    heads = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "th_open"]
    assert heads[3:8] == ["id", "source", "statement", "verdict", "numbers"]
    inside = [tokens[n + 1] for n, token in enumerate(tokens) if token.type == "td_open"]
    cells = ["".join(child.content for child in token.children) for token in inside]
    assert "One <b>beats</b> the | other" in cells
    assert cells.count("C1") == cells.count("C2") == 1


def test_files_are_written_whole_and_alike(tmp_path: Path) -> None:
    scale, claims = scale_with_results(tmp_path)
    results = check(scale, claims)
    write(results, scale, tmp_path)
    first = [path.read_bytes() for path in outputs(tmp_path)]
    write(results, scale, tmp_path)
    assert [path.read_bytes() for path in outputs(tmp_path)] == first
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == ["claims.html", "claims.json", "claims.md"]


def test_comparisons_read_as_a_person_writes_them() -> None:
    (counted,) = judged(f"{'complexity.params(van_tiny-lska-k23)'} / 100 = 2.4", 187.05, 0.05)
    assert numbers(counted) == "1.871 = 2.4 ± 0.05 (off by -0.529)"
    (ordered,) = judged(f"{ONE} > 71.8", 73.0)
    assert numbers(ordered) == "73 > 71.8 (by 1.2 ± 0.5 points, p = 0.016)"
    (unknown,) = judged(f"{ONE} > 71.8", 73.0, error=None)
    assert numbers(unknown) == "73 > 71.8 (by 1.2 points)"


def test_a_percentage_that_came_from_rounding_says_so_beside_its_verdict() -> None:
    text = "complexity.params(van_tiny-lska-k23)"
    for paper_numbers, beside in (("agree when rounded", " (the paper's rounded numbers agree)"), ("agree", "")):
        said = claim(f"{text} = 1", 0.05, paper_numbers=paper_numbers)
        found = judge(said, {quantity(text): evidence(text, 2.0, standard_error=0.0)})
        assert verdict_of(to_json([found], Scale(Path("results")))["claims"][0]) == f"✗ fails{beside}"


def judged(predicate: str, value: float, *tolerance: float, error: float | None = 0.5) -> list[dict]:
    said = claim(predicate, *tolerance)
    (part,) = said.quantities
    found = judge(said, {part: evidence(str(part), value, standard_error=0.0 if part.counted else error)})
    return to_json([found], Scale(Path("results")))["claims"][0]["comparisons"]


def test_numbers_and_lists_are_short() -> None:
    assert [shown(value) for value in (4029000, 0.0001234567, 76800, 2.0, -0.52948)] == [
        "4,029,000", "0.0001235", "76,800", "2", "-0.5295",
    ]  # fmt: skip
    assert few(["a", "b", "c", "d"]) == "a; b; and 2 more"
    assert few(["a"]) == "a"


def test_the_terminal_names_every_claim_with_its_verdict(tmp_path: Path) -> None:
    text = to_text(content(tmp_path))
    assert re.search(r"C1    ✓ holds  \(Text\)\n +One <b>beats", text)
    assert re.search(r"C2    – not run .*\n.*\n +scale demo has no classification of van_tiny-lska-k35", text)
    assert text.endswith("\n\n1 holds, 1 fails, 1 not run\n")
    assert max(map(len, text.splitlines())) <= 100


def test_an_unknown_claim_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    assert main(["claims", "--config", "config/small.yaml", "--only", "R99"]) == 1
    assert "--only: no claim R99 in paper/claims.csv; expected R01, R02" in capsys.readouterr().err
    assert main(["claims", "--config", "config/small.yaml", "--only", "R33"]) == 0
    assert "✓ holds  (Section III-D)" in capsys.readouterr().out
