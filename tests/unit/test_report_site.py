"""The site of a scale as files: complete, self-contained, escaped, and always the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_helpers import DRAWN, broken, contents, details, fill, folder_of, full_site, pages_of, read

from lska import report
from lska.config import Config
from lska.provenance import project_root
from lska.report import pages as pages_module
from lska.report import site as site_module
from lska.runs import Run
from lska.tables.specs import TARGETS

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A complete site with invented results; read only."""
    before = Path.cwd()
    yield full_site(tmp_path_factory.mktemp("site"))
    os.chdir(before)


def test_every_target_has_a_page_and_every_page_is_reached_from_the_first(site: Config) -> None:
    pages = pages_of(site)
    assert {f"{target}.html" for target in TARGETS} < set(pages)
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [link.partition("#")[0] for link in pages[name].links if link.partition("#")[0] in pages]
    assert reached == set(pages)


def test_all_links_resolve_inside_the_site(site: Config) -> None:
    assert list(broken(folder_of(site), pages_of(site))) == []


def test_a_broken_link_is_found(site: Config, tmp_path: Path) -> None:
    links = "<a href='gone.html'></a><img src='https://example.org/x.png'><a href='#no'></a>"
    (tmp_path / "page.html").write_text(links)
    assert len(list(broken(tmp_path, {"page.html": read(tmp_path / "page.html")}))) == 3


def test_nothing_is_loaded_from_elsewhere(site: Config) -> None:
    for name, page in pages_of(site).items():
        assert not [load for load in page.loads if re.match(r"(https?:)?//", load)], name
    for path in (folder_of(site) / "static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttpRequest", text), path


def test_pages_name_no_folder_of_this_machine(site: Config) -> None:
    for path in folder_of(site).glob("*.html"):
        text = path.read_text()
        assert str(Path.cwd()) not in text and str(project_root()) not in text and "/home/" not in text, path


def test_ids_are_unique_and_each_page_has_one_heading(site: Config) -> None:
    for name, page in pages_of(site).items():
        assert len(set(page.ids)) == len(page.ids), name
        assert len(page.headings) == 1, name


def test_scale_and_data_are_in_the_caption_of_every_table(site: Config) -> None:
    for target in TARGETS:
        text = (folder_of(site) / f"{target}.html").read_text()
        caption = re.search(r'<figcaption id="caption[^>]*>(.*?)</figcaption>', text)[1]
        assert "Demo scale: generated images" in caption
    text = (folder_of(site) / "table_03.html").read_text()
    assert "Measured on shapes" in re.search(r"<figcaption.*</figcaption>", text)[0]


def test_details_follow_a_number_to_weights_recipe_data_code_and_hardware(site: Config) -> None:
    found = details(folder_of(site) / "table_03.html")
    cell = next(one for one in found["cells"] if one["title"] == "VAN-LSKA-Tiny, top-1 (%)")
    assert dict(cell["facts"])["state"].startswith("other data")
    links = [found["links"][number] for number in cell["links"]]
    metric = next(link for link in links if link["label"] == "metric file")
    below = {found["links"][number]["label"].split()[0] for number in metric["links"]}
    assert {"weights", "measured"} <= below
    facts = dict(metric["facts"])
    assert {"metric", "measured", "code", "environment", "n", "standard error"} <= set(facts)
    assert "Some CPU" in facts["measured"] and "2026-01-01" in facts["measured"]
    paper = next(link for link in links if link["label"] == "paper")
    assert dict(paper["facts"])["value"] == "75.0 %" and dict(paper["facts"])["source"].startswith("printed")


def test_copies_of_metric_files_lie_where_details_link_to(site: Config) -> None:
    for target in TARGETS:
        found = details(folder_of(site) / f"{target}.html")
        files = [link for link in found["links"] if link["label"] == "metric file"]
        for link in files:
            assert (folder_of(site) / link["copy"]).read_bytes() == Path(link["file"]).read_bytes()
        shown = {number for cell in found["cells"] for number in cell["links"]}
        assert shown <= set(range(len(found["links"])))


def test_files_of_every_table_and_figure_can_be_downloaded(site: Config) -> None:
    pages = pages_of(site)
    for target, kinds in {"table_03": ("md", "tex", "csv", "html"), DRAWN[0]: ("png", "pdf", "svg", "csv")}.items():
        place = f"files/{target.partition('_')[0]}s/{target}"
        assert {f"{place}.{kind}" for kind in kinds} <= set(pages[f"{target}.html"].links)


def test_the_overview_counts_what_the_tables_hold(site: Config) -> None:
    text = pages_of(site)["index.html"].text
    frames = [pd.read_csv(path) for path in sorted((site.results / "tables").glob("*.csv"))]
    states = pd.concat(frames)["state"].value_counts()
    for state, number in states.items():
        assert f"{state} {number} " in text
    assert f"The {states.sum():,} cells" in text
    assert re.search(r"[\d,]+ cells of tables and figures were followed to the files behind them", text)
    pipes = "".join(path.read_text() for path in sorted((site.results / "tables").glob("*.md")))
    rings = sum(line.count("○") for line in pipes.splitlines() if line.startswith("| "))
    assert rings > states["other data"]
    assert f"{rings} were measured on other data or on shrunken networks" in text
    assert f"known for {states['other data']} of them, stand beside them for reference only" in text
    assert "holds 1 " in text and "the paper's own numbers disagree 1 " in text
    networks = re.search(r"VAN-Tiny LSKA k=23 (\d\d\.\d ± 1\.5)", text)[1]
    content = json.loads(site.metric_path("classification", Run("van_tiny", "lska", 23, 0)).read_text())
    assert networks == f"{content['metrics']['top1']['value']:.1f} ± 1.5"


def test_an_edited_table_is_told_on_the_overview(bare: Config) -> None:
    fill(bare)
    path = bare.results / "tables" / "table_03.csv"
    text = path.read_text()
    path.write_text(text.replace("4.02", "3.02", 1))
    assert path.read_text() != text
    report.build(bare)
    pages = pages_of(bare)
    assert re.search(r"followed to the files behind them; \d+ are broken", pages["index.html"].text)
    assert "results/demo/tables/table_03.csv" in pages["environment.html"].text


def test_claims_show_statement_predicate_verdict_numbers_and_seeds(site: Config) -> None:
    text = pages_of(site)["claims.html"].text
    claims = json.loads((site.results / "claims" / "claims.json").read_text())["claims"]
    assert len(claims) == 5
    for claim in claims:
        for part in (claim["id"], claim["statement"], claim["predicate"], claim["note"]):
            assert part in text
        assert not claim["quantities"] or claim["quantities"][0]["name"] in text
    assert "81 > 82.5 missed by 1.5 ± 0.75 points (p = 0.04), 95 % interval of the margin −3 to 0.25" in text
    assert "81 ± 1.8 % 1,500 0 shapes" in text
    assert "Not run: classification of some network." in text
    assert "Our numbers alone: holds." in text


def test_equal_results_give_equal_bytes_whatever_the_order_of_sets(site: Config) -> None:
    listed = []
    for seed in ("1", "2"):
        variables = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(project_root() / "src")}
        subprocess.run([sys.executable, "-m", "lska", "report"], check=True, env=variables, capture_output=True)
        listed.append(report.inventory_path(site.results).read_text())
    assert listed[0] == listed[1]
    assert json.loads(listed[0])["files"] == contents(folder_of(site))


def test_hostile_texts_are_shown_as_texts(bare: Config) -> None:
    config = replace(bare, caption=f"demo scale: {HOSTILE}")
    fill(config)
    path = config.results / "claims" / "claims.json"
    claims = json.loads(path.read_text())
    for claim in claims["claims"]:
        claim["statement"] = claim["note"] = HOSTILE
    path.write_text(json.dumps(claims))
    metric = config.metric_path("classification", Run("van_tiny", "lska", 23, 0))
    content = json.loads(metric.read_text())
    # The name of a data set becomes a file's, and has no slash.
    content["data"]["name"], content["environment"]["hardware"] = HOSTILE.replace("/", ""), HOSTILE
    metric.write_text(json.dumps(content))
    report.build(config)
    for name, page in pages_of(config).items():
        data = (folder_of(config) / name).read_text().count('<script type="application/json" class="details">')
        assert page.scripts == 1 + data, name
        assert page.handlers == [], name
    assert HOSTILE in pages_of(config)["claims.html"].text


def test_an_empty_scale_says_on_each_page_what_is_missing(bare: Config) -> None:
    report.build(bare)
    pages = pages_of(bare)
    assert list(broken(folder_of(bare), pages)) == []
    assert "metric file missing" in pages["table_03.html"].text
    assert "snakemake --cores 1 --configfile config/demo.yaml" in pages["table_03.html"].text
    assert "No verdicts yet" in pages["claims.html"].text and "No verdicts yet" in pages["index.html"].text
    assert pages["notebooks.html"].text.count("not here") == len(TARGETS)
    assert "None of this scale's executed notebooks is here" in pages["notebooks.html"].text
    assert "Not drawn yet" in pages["figure_01.html"].text
    assert "The graph of rules is not there" in pages["workflow.html"].text
    assert "Nothing has been measured" in pages["costs.html"].text
    assert "No results yet" in pages["environment.html"].text
    assert "There is nothing to verify yet" in pages["environment.html"].text


def test_a_scale_without_notebooks_or_claims_has_all_else(bare: Config) -> None:
    fill(bare)
    for path in [*(bare.results / "notebooks").iterdir(), *(bare.results / "claims").iterdir()]:
        path.unlink()
    report.build(bare)
    pages = pages_of(bare)
    assert not [name for name in pages if name.startswith("notebook_")]
    assert list(broken(folder_of(bare), pages)) == []
    assert "VAN-LSKA-Tiny" in pages["table_03.html"].text and "No verdicts yet" in pages["claims.html"].text


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "quiet", "link", "good", "bad"])
@pytest.mark.parametrize("ground", ["page", "tint"])
def test_texts_stand_out_from_their_ground(mode: int, name: str, ground: str) -> None:
    style = (site_module.HERE / "static" / "site.css").read_text()
    colours = [re.findall(rf"--{kind}: (#\w{{6}})", style)[mode] for kind in (name, ground)]
    light, dark = sorted(map(luminance, colours), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_every_page_maker_has_its_place_in_the_menu(site: Config) -> None:
    assert pages_of(site)["index.html"].links[2 : 2 + len(pages_module.MAKERS)] == [
        "index.html", "claims.html", "tables.html", "figures.html", "notebooks.html", "scales.html", "workflow.html",
        "costs.html", "environment.html",
    ]  # fmt: skip
