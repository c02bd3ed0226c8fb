"""The site as files: complete, self-contained, escaped, always the same, and never half there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_helpers import (
    DRAWN,
    broken,
    claim,
    contents,
    details,
    fill,
    folder_of,
    pages_of,
    put_claims,
    put_notebook,
)
from syrupy.assertion import SnapshotAssertion
from table_helpers import put_required

from lska.claims.listing import claim_files, read_claims
from lska.models.runs import Run
from lska.provenance import files
from lska.provenance.files import is_temporary
from lska.provenance.metric_files import lock_digest, project_root
from lska.report import site as site_module
from lska.report.gather import gather
from lska.report.pages import agreement, kind_of_claim, measured_elsewhere
from lska.report.site import build_site, render_notebooks
from lska.report.site_paths import inventory_path, rendered_notebook, site_outputs, summary
from lska.settings.scale import Config
from lska.tables.specs import TARGETS

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
RUN = Run("van_tiny", "lska", 23, 0)
COUNT = "complexity.params(van_tiny-lska-k23) < complexity.params(van_tiny-lka-k23)"


@pytest.fixture
def site(built_site: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration of a complete site in the working folder; read only."""
    monkeypatch.chdir(built_site[0])
    return built_site[1]


def test_every_page_is_reached_whole_and_loads_nothing_from_elsewhere(site: Config) -> None:
    pages, folder = pages_of(site), folder_of(site)
    assert {f"{target}.html" for target in TARGETS} < set(pages)
    assert list(broken(folder, pages)) == []
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += [link for link in pages[name].links if link in pages and link not in reached]
    assert reached == set(pages)
    for name, page in pages.items():
        text = (folder / name).read_text()
        assert len(set(page.ids)) == len(page.ids) and len(page.headings) == 1, name
        assert not [load for load in page.loads if re.match(r"(https?:)?//", load)], name
        assert str(Path.cwd()) not in text and str(project_root()) not in text and "/home/" not in text, name
    for path in (folder / "static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttpRequest", text), path


def test_every_number_is_followed_to_its_copied_files(site: Config) -> None:
    for target in TARGETS:
        text = (folder_of(site) / f"{target}.html").read_text()
        assert "Demo scale: generated images" in re.search(r'<figcaption id="caption[^>]*>(.*?)</figcaption>', text)[1]
        found = details(folder_of(site) / f"{target}.html")
        assert {number for cell in found["cells"] for number in cell["links"]} <= set(range(len(found["links"])))
        for link in found["links"]:
            if link["label"] == "metric file":
                assert (folder_of(site) / link["copy"]).read_bytes() == Path(link["file"]).read_bytes()
    found = details(folder_of(site) / "table_03.html")
    cell = next(one for one in found["cells"] if one["title"] == "VAN-LSKA-Tiny, top-1 (%)")
    assert dict(cell["facts"])["state"].startswith("other data")
    metric, paper = (found["links"][number] for number in cell["links"])
    below = {found["links"][number]["label"].split()[0] for number in metric["links"]}
    assert metric["label"] == "metric file" and {"weights", "measured"} <= below
    facts = dict(metric["facts"])
    assert {"metric", "measured", "code", "environment", "n", "standard error"} <= set(facts)
    assert "Some CPU" in facts["measured"] and "2026-01-01" in facts["measured"]
    assert dict(paper["facts"])["value"] == "75.0 %" and dict(paper["facts"])["source"].startswith("printed")
    for target, kinds in {"table_03": ("md", "tex", "csv", "html"), DRAWN[0]: ("png", "pdf", "svg", "csv")}.items():
        place = f"files/{target.partition('_')[0]}s/{target}"
        assert {f"{place}.{kind}" for kind in kinds} <= set(pages_of(site)[f"{target}.html"].links)


def test_the_overview_counts_what_the_tables_hold(site: Config) -> None:
    text = pages_of(site)["index.html"].text
    frames = [pd.read_csv(path) for path in sorted((site.results / "tables").glob("*.csv"))]
    states = pd.concat(frames)["state"].value_counts()
    assert all(f"{state} {number} " in text for state, number in states.items())
    assert f"The {states.sum():,} cells" in text
    assert re.search(r"[\d,]+ cells of tables and figures were followed to the files behind them", text)
    pipes = "".join(path.read_text() for path in sorted((site.results / "tables").glob("*.md")))
    rings = sum(line.count("○") for line in pipes.splitlines() if line.startswith("| "))
    assert rings > states["other data"]
    assert f"{rings} were measured on other data or on shrunken networks" in text
    assert f"known for {states['other data']} of them, stand beside them for reference only" in text
    assert "holds 1 " in text and "the paper's own numbers disagree 1 " in text
    content = json.loads(site.metric_path("classification", RUN).read_text())
    assert f"VAN-Tiny LSKA k=23 {content['metrics']['top1']['value']:.1f} ± 1.5" in text


def test_what_the_other_pages_and_the_summary_say(site: Config, snapshot: SnapshotAssertion) -> None:
    pages = pages_of(site)
    names = ("claims", "costs", "environment", "notebooks", "scales", "workflow")
    # Between menu and footer, without what depends on the code of the day.
    texts = {name: re.split(" Environment | Our numbers are read ", pages[f"{name}.html"].text)[1] for name in names}
    texts["environment"] = texts["environment"].partition("Verification")[0].replace(lock_digest(), "LOCK")
    texts["summary"] = summary(site)
    assert {name: re.split(r"(?<=\.) ", text) for name, text in texts.items()} == snapshot


def test_another_process_writes_equal_bytes_whatever_the_order_of_sets(site: Config) -> None:
    before = inventory_path(site.results).read_text()
    variables = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(project_root() / "src")}
    words = json.dumps({"runs": [vars(group) for group in site.groups]})
    command = [sys.executable, "-m", "lska", "report", "--set", words]
    subprocess.run(command, check=True, env=variables, capture_output=True)
    assert inventory_path(site.results).read_text() == before
    assert json.loads(before)["files"] == contents(folder_of(site))


def test_hostile_texts_are_shown_as_texts_and_an_edited_table_is_told(bare: Config) -> None:
    config = replace(bare, caption=f"demo scale: {HOSTILE}")
    fill(config)
    path = claim_files(config.results)[0]
    claims = json.loads(path.read_text())
    for one in claims["claims"]:
        one["statement"] = one["note"] = HOSTILE
    path.write_text(json.dumps(claims))
    metric = config.metric_path("classification", RUN)
    content = json.loads(metric.read_text())
    # The name of a data set becomes a file's, and has no slash.
    content["data"]["name"], content["environment"]["hardware"] = HOSTILE.replace("/", ""), HOSTILE
    metric.write_text(json.dumps(content))
    table = config.results / "tables" / "table_03.csv"
    table.write_text(table.read_text().replace("4.02", "3.02", 1))
    build_site(config)
    pages = pages_of(config)
    for name, page in pages.items():
        data = (folder_of(config) / name).read_text().count('<script type="application/json" class="details">')
        assert page.scripts == 1 + data and page.handlers == [], name
    assert HOSTILE in pages["claims.html"].text
    assert re.search(r"followed to the files behind them; \d+ are broken", pages["index.html"].text)
    assert "results/demo/tables/table_03.csv" in pages["environment.html"].text


def test_an_empty_scale_says_on_each_page_what_is_missing(bare: Config, snapshot: SnapshotAssertion) -> None:
    assert site_outputs(bare.results) == [Path("results/demo/report.json"), Path("results/demo/report/index.html")]
    assert "Report: results/demo/report/index.html  (not made yet: snakemake report)" in summary(bare)
    build_site(bare)
    pages = pages_of(bare)
    assert list(broken(folder_of(bare), pages)) == []
    assert pages["notebooks.html"].text.count("not here") == len(TARGETS)
    missing = {
        name: re.findall(r'<p class="missing">(.*?)</p>', (folder_of(bare) / name).read_text())
        for name in pages
        if name.partition("_")[0] not in ("table", "figure") or name in ("table_03.html", "figure_01.html")
    }
    assert missing == snapshot
    assert site_outputs(bare.results) == [Path("results/demo/report.json")]
    assert summary(bare).endswith("Report: results/demo/report/index.html\n")


# What the first page and that of claims count


def test_a_wrong_count_of_the_paper_is_not_lost_among_those_that_it_never_printed(bare: Config) -> None:
    put_required("table_03", bare)
    results = gather(bare)
    before, elsewhere = agreement(results), measured_elsewhere(results)
    (target,) = (target for target in results.of("table") if target.name == "table_03")
    cells = [cell for cell in target.cells if cell.paper and cell.value is not None and not cell.other_data]
    sources = Counter((cell.paper_source or "").partition(":")[0] for cell in cells)
    assert before["paper"]["compared"] >= sources["printed"] + sources["derived"] > 0
    # Other tables share some of the counts, none of the values that another paper printed.
    assert before["code"]["compared"] >= sources["computed"] > 0
    assert before["others"]["compared"] >= sources["other-paper"] > 0
    # What was measured elsewhere confirms nothing.
    assert elsewhere[0] > elsewhere[1] > 0 and before["measured"]["compared"] == 0
    path = bare.metric_path("complexity", RUN)
    content = json.loads(path.read_text())
    content["metrics"]["params"]["value"] *= 2
    path.write_text(json.dumps(content))
    after = agreement(gather(bare))
    assert before["paper"]["reproduced"] == before["paper"]["compared"] == after["paper"]["compared"]
    assert after["paper"]["reproduced"] < before["paper"]["reproduced"]


def test_claims_that_are_only_counted_are_told_from_measured_ones(bare: Config) -> None:
    both = f"{COUNT} and classification.top1(van_tiny-lska-k23) > classification.top1(van_tiny-lka-k23)"
    kinds = [kind_of_claim({"predicate": text}) for text in (COUNT, both, COUNT.replace("<", "="), "")]
    assert kinds == ["counted", "measured", "counted", "not testable"]
    for one in read_claims():
        tasks = {quantity.task.partition("/")[0] for quantity in one.quantities}
        kind = kind_of_claim({"predicate": one.predicate})
        assert (kind == "counted") == (tasks == {"complexity"}) and (kind == "not testable") == (not tasks)
    put_claims(bare)
    rounded = {"predicate": COUNT, "paper_numbers": "agree when rounded"}
    made = [claim("R01", "fails", bare), claim("R02", "fails", bare) | rounded, claim("R03", "fails", bare) | rounded]
    path = claim_files(bare.results)[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "claims": [*made, claim("R04", "holds", bare)]}))
    build_site(bare)
    pages = pages_of(bare)
    for name in ("index.html", "claims.html"):
        text = pages[name].text
        assert "Verdict counted measured" in text and "not testable" not in text
        assert "fails 2 1 " in text and "holds – 1 " in text
    assert "2 of the 3 that fail come of rounding" in pages["index.html"].text
    assert "R02, Table III counted" in pages["claims.html"].text
    path.write_text(path.read_text().replace('"holds"', '"maybe"'))
    with pytest.raises(ValueError, match=r"claims\.json"):
        build_site(bare)


# A site takes the place of the former one when it is complete, and never before


def test_a_failed_or_killed_build_leaves_the_former_site(
    bare: Config, child: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_notebook(bare, "table_03")
    render_notebooks(bare)
    build_site(bare)
    before, listed = contents(folder_of(bare)), inventory_path(bare.results).read_text()
    assert "notebook_table_03.html" in before
    rendered_notebook(bare.results, "table_03").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(site_module, "downloads", lambda results: {Path("absent"): "files/absent"})
        with pytest.raises(FileNotFoundError):
            build_site(bare)
    assert [path.name for path in bare.results.iterdir() if is_temporary(path)] == []

    def build_and_die() -> int:
        site_module.shutil.copytree = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        build_site(bare)
        return 0

    assert child(build_and_die) == -signal.SIGKILL
    (left,) = filter(is_temporary, bare.results.iterdir())
    path = bare.metric_path("classification", RUN)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        build_site(bare)
    assert contents(folder_of(bare)) == before and inventory_path(bare.results).read_text() == listed
    path.unlink()
    # A process looks for what was left behind once.
    files._sweep.cache_clear()
    build_site(bare)
    assert not left.exists()
    # What the former site had is gone from the next.
    assert "notebook_table_03.html" not in contents(folder_of(bare))
