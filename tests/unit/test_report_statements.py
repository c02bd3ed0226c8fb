"""What the first page and that of claims say: values of the paper apart from others', what was counted apart from what
was measured, and comparisons in words."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from report_helpers import claim, fill, pages_of
from table_helpers import put_required

from lska import report
from lska.claims.listing import claim_files, read_claims
from lska.config import Config
from lska.report import claims, overview
from lska.report.gather import gather

COUNT = "complexity.params(van_tiny-lska-k23) < complexity.params(van_tiny-lka-k23)"
BOTH = f"{COUNT} and classification.top1(van_tiny-lska-k23) > classification.top1(van_tiny-lka-k23)"


def test_counts_of_the_paper_stand_apart_from_those_that_it_never_printed(bare: Config) -> None:
    put_required("table_03", bare)
    results = gather(bare)
    (target,) = (target for target in results.of("table") if target.name == "table_03")
    cells = [cell for cell in target.table.cells if cell.paper and cell.value is not None and not cell.other_data]
    sources = Counter((cell.paper_source or "").partition(":")[0] for cell in cells)
    found = {source: each.compared for source, each in overview.counted(results).items()}
    assert found["paper"] >= sources["printed"] + sources["derived"] > 0
    # Other tables share some of the counts, none of the values that another paper printed.
    assert found["code"] >= sources["computed"] > 0 and found["others"] >= sources["other-paper"] > 0


def test_a_wrong_count_of_the_paper_is_not_lost_among_the_others(bare: Config) -> None:
    put_required("table_03", bare)
    before = overview.counted(gather(bare))
    path = bare.metric_path("complexity", next(run for run in bare.runs if str(run) == "van_tiny-lska-k23-s0"))
    content = json.loads(path.read_text())
    content["metrics"]["params"]["value"] *= 2
    path.write_text(json.dumps(content))
    after = overview.counted(gather(bare))
    assert before["paper"].reproduced == before["paper"].compared == after["paper"].compared
    assert after["paper"].reproduced < before["paper"].reproduced


def test_what_was_measured_elsewhere_confirms_nothing(bare: Config) -> None:
    put_required("table_03", bare)
    found = overview.elsewhere(gather(bare))
    assert found.measured > found.beside > 0 and overview.measured(gather(bare)).compared == 0


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [(COUNT, "counted"), (BOTH, "measured"), (COUNT.replace("<", "="), "counted"), ("", "not testable")],
)
def test_a_claim_is_counted_only_if_all_of_it_is(predicate: str, kind: str) -> None:
    assert claims.kind_of({"predicate": predicate}) == kind


def test_every_claim_of_the_paper_has_a_kind_that_its_quantities_bear_out() -> None:
    for one in read_claims():
        tasks = {quantity.task.partition("/")[0] for quantity in one.quantities}
        kind = claims.kind_of({"predicate": one.predicate})
        assert (kind == "counted") == (tasks == {"complexity"}) and (kind == "not testable") == (not tasks)


def test_the_overview_tells_failures_of_counting_from_failures_of_measuring(bare: Config) -> None:
    fill(bare)
    count = {"predicate": COUNT, "paper_numbers": "agree when rounded"}
    made = [claim("R01", "fails", bare), claim("R02", "fails", bare) | count, claim("R03", "fails", bare) | count]
    made.append(claim("R04", "holds", bare))
    path = claim_files(bare.results)[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "claims": made}))
    report.build(bare)
    pages = pages_of(bare)
    for name in ("index.html", "claims.html"):
        text = pages[name].text
        assert "Verdict counted measured" in text and "not testable" not in text
        assert "fails 2 1 " in text and "holds – 1 " in text
    assert "2 of the 3 that fail come of rounding" in pages["index.html"].text
    assert "R02, Table III counted" in pages["claims.html"].text
    assert "R01, Table III measured" in pages["claims.html"].text
