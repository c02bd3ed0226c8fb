"""The site: complete, self-contained, escaped, always the same, never half there; and its parts that compute something:
costs, what a table needs, scales side by side."""

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
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from markupsafe import Markup
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
    put_sidecars,
    read,
)
from small_scale import copy_small, small_once
from syrupy.assertion import SnapshotAssertion
from table_helpers import entry, put, put_required

from lska.claims.listing import MAIN_CLAIMS, claim_files, parse, read_claims
from lska.claims.verdicts import Verdict
from lska.cli import main
from lska.models.runs import Run
from lska.provenance import files
from lska.provenance.files import is_temporary, write_json
from lska.provenance.metric_files import lock_digest, project_root
from lska.report import costs
from lska.report import site as site_module
from lska.report.front_page import SIDES, citations, key_numbers, main_claims
from lska.report.gather import gather
from lska.report.network_pages import network_name
from lska.report.pages import agreement, all_pages, compare_scales, kind_of_claim, measured_elsewhere
from lska.report.site import breakable, build_site, duration, hours, minus, notebook_html, render_notebooks, unbroken
from lska.report.site_paths import (
    inventory_path,
    other_scales,
    rendered_notebook,
    site_outputs,
    summary,
    tabled_scales,
)
from lska.settings.scale import Config, load
from lska.tables.specs import TARGETS, data_names
from lska.tables.table_formats import build_table

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


def test_the_accounting_counts_what_the_tables_hold(site: Config) -> None:
    text, front = (read(folder_of(site) / f"{name}.html").text for name in ("reproduced", "index"))
    frames = [pd.read_csv(path) for path in sorted((site.results / "tables").glob("*.csv"))]
    states = pd.concat(frames)["state"].value_counts()
    assert all(f"{state} {number} " in text for state, number in states.items())
    assert f"The {states.sum():,} cells" in text
    assert re.search(r"[\d,]+ cells of tables and figures were followed to the files behind them", text)
    pipes = "".join(path.read_text() for path in sorted((site.results / "tables").glob("*.md")))
    rings = sum(line.count("○") for line in pipes.splitlines() if line.startswith("| "))
    assert rings > states["other data"]
    assert f"{rings} values were measured on other data or on shrunken networks" in text
    assert f"For {states['other data']} of them the paper's value is known" in text
    assert "holds 1 " in text and "the paper's own numbers disagree 1 " in text
    content = json.loads(site.metric_path("classification", RUN).read_text())
    assert f"VAN-Tiny LSKA k=23 {content['metrics']['top1']['value']:.1f} ± 1.5" in front


def test_a_network_has_a_page_of_all_that_was_measured_of_it(site: Config) -> None:
    folder = folder_of(site)
    networks = {f"network_{str(run.with_seed(0)).removesuffix('-s0')}.html" for run in site.runs}
    front, page, table = (read(folder / f"{name}.html") for name in ("index", "network_van_tiny-lska-k23", "table_03"))
    assert {path.name for path in folder.glob("network_*.html")} == networks <= set(front.links)
    measured = [path for path in (site.results / "metrics").rglob(f"{RUN}.json") if path.stem == str(RUN)]
    assert len(measured) > 10
    for path in measured:
        content = json.loads(path.read_text())
        assert f"files/{path.relative_to(site.results).as_posix()}" in page.links
        assert content["data"] is None or f"On {data_names([content['data']['name']])}. Seed 0." in page.text
    for title in ("Accuracy", "Cost, RetinaNet 1x", "Robustness, C-bar", "Detection, Mask R-CNN 1x", "Weights"):
        assert f" {title} " in page.text, title
    assert "Segmentation, Semantic FPN, from a random backbone, as a control" in page.text
    # Rows lead to their network, and the network back to its rows, where its number stands.
    assert "network_van_tiny-lska-k23.html" in table.links
    soup = BeautifulSoup((folder / "table_03.html").read_text(), "html.parser")
    places = [link for link in page.links if link.startswith("table_03.html#row-")]
    rows = [soup.find(id=link.partition("#")[2]) for link in places]
    assert {row.th.get_text() for row in rows} == {"VAN-LSKA-Tiny"}
    top1 = json.loads(site.metric_path("classification", RUN).read_text())["metrics"]["top1"]["value"]
    assert re.search(rf"top-1 \(%\) {top1:.1f} ± 1\.5 ○ 75\.0 other data Table III", page.text.replace("\xa0", " "))


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


def test_hostile_texts_are_shown_as_texts_and_broken_chains_are_told(bare: Config) -> None:
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
    build_site(config)
    pages = pages_of(config)
    for name, page in pages.items():
        data = (folder_of(config) / name).read_text().count('<script type="application/json" class="details">')
        filtered = name in ("claims.html", "scales.html")
        assert page.scripts == 1 + data + filtered and page.handlers == [], name
    assert HOSTILE in pages["claims.html"].text
    assert re.search(r"the files behind them\. \d+ do not agree with their files", pages["reproduced.html"].text)


def test_an_empty_scale_says_on_each_page_what_is_missing(bare: Config, snapshot: SnapshotAssertion) -> None:
    assert site_outputs(bare.results) == [Path("results/demo/report.json"), Path("results/demo/report/index.html")]
    assert "results/demo/report/index.html (not made yet: snakemake report)" in summary(bare)
    build_site(bare)
    pages = pages_of(bare)
    assert list(broken(folder_of(bare), pages)) == []
    assert pages["notebooks.html"].text.count("not here") == len(TARGETS)
    assert len(re.findall(r'class="value none"[^>]*>not run<', (folder_of(bare) / "index.html").read_text())) == 5
    missing = {
        name: re.findall(r'<p class="missing">(.*?)</p>', (folder_of(bare) / name).read_text())
        for name in pages
        if name.partition("_")[0] not in ("table", "figure") or name in ("table_03.html", "figure_01.html")
    }
    assert missing == snapshot
    assert "No network has been measured yet." in pages["reproduced.html"].text
    assert site_outputs(bare.results) == [Path("results/demo/report.json")]
    assert summary(bare).endswith(" results/demo/report/index.html\n")


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
    kinds = [kind_of_claim({"predicate": text}) for text in (COUNT, both, "")]
    assert kinds == ["counted", "measured", "not testable"]
    put_claims(bare)
    lost, rounded, counted = Verdict.CONTRADICTED, Verdict.ROUNDING, {"predicate": COUNT}
    made = [claim("R01", lost, bare), claim("R02", lost, bare) | counted, claim("R03", rounded, bare) | counted]
    path = claim_files(bare.results)[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "claims": [*made, claim("R04", "holds", bare)]}))
    build_site(bare)
    pages = pages_of(bare)
    for name in ("reproduced.html", "claims.html"):
        text = pages[name].text
        assert "Verdict counted measured" in text and "not testable" not in text
        assert "contradicted 1 1 " in text and "holds – 1 " in text and f"{rounded} 1 – " in text
    assert "R02, Table III counted" in pages["claims.html"].text
    path.write_text(path.read_text().replace('"holds"', '"maybe"'))
    with pytest.raises(ValueError, match=r"claims\.json"):
        build_site(bare)


def test_the_five_numbers_are_those_of_the_metric_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    small = small_once()
    counted = {"paper": {"reproduced": 39, "compared": 40}}
    accuracy, cost, robustness, shape, counts = key_numbers(SimpleNamespace(config=small), counted)

    def value(task: str, metric: str, network: str) -> float:
        content = json.loads(small.metric_path(task, Run.parse(f"van_tiny-{network}-s0")).read_text())
        return content["metrics"][metric]["value"]

    ours, other = (value("classification", "top1", network) for network in ("lska-k23", "lka-k23"))
    assert accuracy.value == minus(f"{ours - other:+.1f} points") and accuracy.about.endswith("on CIFAR-10")
    assert f"{ours:.2f} against {other:.2f} % top-1" in accuracy.about
    right = [
        np.load(small.metric_path("classification", Run.parse(f"van_tiny-{name}-k23-s0")).with_suffix(".npz"))
        for name in ("lska", "lka")
    ]
    (key,) = [key for key in right[0] if key.endswith("top1")]
    gaps = right[0][key].astype(float) - right[1][key]
    reach = 1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5 * (100 if gaps.max() == 1 else 1)
    low, high = ours - other - reach, ours - other + reach
    assert accuracy.error == minus(f"95 % interval {low:.1f} to {high:.1f}, paired over 10,000 images, one seed")
    growth = {
        name: value("complexity", "flops", f"{name}-k53") / value("complexity", "flops", f"{name}-k7")
        for name in ("lska", "lka", "lka_trivial")
    }
    assert cost.value == f"× {growth['lska']:.2f}"
    assert f"× {growth['lka']:.2f} with LKA and × {growth['lka_trivial']:.2f} with LKA-trivial" in cost.about
    for number, task, metric in (
        (robustness, "robustness/c", "top1_mean_19"), (shape, "shape_texture", "shape_share_reference"),
    ):  # fmt: skip
        large, little = (value(task, metric, f"lska-k{size}") for size in (53, 7))
        assert number.value == minus(f"{large - little:+.1f} points")
        assert f"{large:.2f} against {little:.2f}" in number.about
    assert counts.value == "39 of 40"
    without = key_numbers(SimpleNamespace(config=replace(small, groups=())), counted)
    assert [one.value for one in without[:2]] == ["not run", "not run"]
    # A scale that has measured nothing yet says what would be measured, in words.
    fresh = key_numbers(SimpleNamespace(config=replace(small, scale="fresh")), {"paper": Counter()})
    assert {one.value for one in fresh} == {"not run"}
    assert [one.about for one in fresh] == [
        "top-1, VAN-Tiny, k = 23", "FLOPs of the paper's VAN-Tiny with LSKA from k = 7 to 53",
        "mean top-1 of 19, VAN-Tiny LSKA, k = 7 to 53", "shape share of dimensions, VAN-Tiny LSKA, k = 7 to 53",
        "parameters and FLOPs that the paper prints, counted on its own networks",
    ]  # fmt: skip


def test_the_main_claims_come_out_as_their_claims_do(bare: Config) -> None:
    ids = [name for names in MAIN_CLAIMS.values() for name in names]
    assert len(MAIN_CLAIMS) == 5 and set(ids) <= {one.id for one in read_claims()}
    assert main_claims(None) == []

    def line(*verdicts: str) -> dict:
        (names,) = (names for names in MAIN_CLAIMS.values() if len(names) == 2)
        made = [claim(name, verdict, bare) for name, verdict in zip(("R17", "R19"), verdicts, strict=True)]
        content = {"claims": [one | {"id": name} for one, name in zip(made, names, strict=True)]}
        (found,) = main_claims(content)
        return found

    holds, lost, unknown = Verdict.HOLDS, Verdict.CONTRADICTED, Verdict.NOT_RUN
    for verdicts, expected in (
        ((holds, holds), holds), ((holds, lost), lost), ((unknown, lost), lost), ((unknown, holds), unknown),
        ((holds, Verdict.NOISE), Verdict.NOISE), ((Verdict.ROUNDING, Verdict.NOISE), Verdict.ROUNDING),
    ):  # fmt: skip
        assert line(*verdicts)["verdict"] is expected, verdicts
    assert line(holds, unknown)["about"] == "of 2 comparisons: 1 holds, 1 not run"
    assert line(unknown, unknown)["about"] == "not measured: VAN-Tiny LSKA k=17; VAN-Tiny LSKA k=19"


def test_a_main_claim_of_one_comparison_says_what_was_compared(bare: Config) -> None:
    for name, said in SIDES.items():
        (one,) = parse(next(known.predicate for known in read_claims() if known.id == name))
        networks = dict.fromkeys(Run.parse(f"{quantity.network}-s0") for quantity in one.quantities)
        assert [f"k = {run.kernel}" for run in networks] == re.findall(r"k = \d+", said)
        assert all(network_name(run).rpartition(" ")[0] in said for run in networks)
    (found,) = main_claims({"claims": [claim("R09", "holds", bare) | {"id": "A3"}]})
    assert found["about"] == (
        "dimensions of shape less those of texture, VAN-Tiny LSKA: 81 at k = 7, 82.5 at k = 53; "
        "change: 95 % interval −3.0 to 0.2"
    )
    unsure = claim("R09", "within noise", bare)
    unsure["comparisons"][0]["interval"] = None
    assert main_claims({"claims": [unsure | {"id": "A3"}]})[0]["about"].endswith("; change: no error is known")


def test_the_citation_is_bibtex_of_the_citation_file() -> None:
    paper, own = citations().split("\n\n")
    for text in (paper, own):
        assert text.count("{") == text.count("}") and re.fullmatch(r"@\w+\{\w+,\n(  \w+ +=  ?\{.*\},?\n)+\}", text)
    assert paper.startswith("@article{lau2023,") and "Lau, Kin Wai and Po, Lai-Man and Rehman, Yasar Abbas Ur" in paper
    assert "arXiv preprint arXiv:2309.01439" in paper and "{{The LSKA reproduction's contributors}}" in own


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


# Parts that compute something.


def measured(config: Config, task: str, run: Run, seconds: float, started: int = 0, **more: object) -> None:
    path = put(config, task, run, {"top1": entry(50.0, "%")}, "shapes")
    started = f"2026-01-01T00:00:0{started}+00:00"
    write_json(path, {**json.loads(path.read_text()), "seconds": seconds, "started": started, **more})


def sums(jobs: list[costs.RecordedJob]) -> tuple[int, float, float]:
    """Results, seconds, and those of the longest job."""
    return sum(job.results for job in jobs), sum(job.seconds for job in jobs), max(job.seconds for job in jobs)


def test_costs_are_summed_by_task_and_a_pass_of_many_runs_counts_once(bare: Config) -> None:
    config = load([Path("config/demo.yaml")], {"training": {"threads": 4}, "evaluation": {"workers": 3}})
    put_sidecars(config)
    for number, run in enumerate(config.runs_of("robustness/sketch")[:4]):
        measured(config, "robustness/sketch", run, seconds=10.0 + number, started=number // 2)
    for run in config.runs[:3]:
        measured(config, "classification", run, seconds=600.0)
    measured(config, "detection/retinanet-untrained", RUN, seconds=7.0)
    for target in ("table_03", "table_04", "figure_01"):
        put_notebook(config, target)
    found = costs.recorded_jobs(gather(config))
    assert {task: sums(jobs) for task, jobs in found.items()} == {
        "training": (len(config.runs), 110.0 * len(config.runs), 110.0),
        "classification": (3, 1800.0, 600.0),
        "detection/retinanet": (1, 7.0, 7.0),
        # Of the two runs of a pass, the time until the last is that of the pass.
        "robustness/sketch": (4, 11.0 + 13.0, 13.0),
        "notebook table": (2, 3.0, 1.5),
        "notebook figure": (1, 1.5, 1.5),
    }
    # Cores are those that the configuration gives a job.
    assert sum(job.core_hours for job in found["classification"]) == pytest.approx(0.5 * 3)
    assert sum(job.core_hours for job in found["training"]) == pytest.approx(len(config.runs) * 110 / 3600 * 4)
    assert {(job.gpu_hours, job.hardware) for job in found["training"]} == {(0, "Some Chip")}
    assert [job.made for job in found["training"]] == list(map(str, sorted(config.runs, key=lambda run: run.sort_key)))


def test_a_table_needs_networks_the_backbones_of_heads_and_metric_files(bare: Config) -> None:
    put_sidecars(bare)
    put_required("table_04", bare)
    job = next(job for job in bare.fine_tunings if job.task == "detection/retinanet" and job.metrics.exists())
    sidecar = bare.weights_path(job.run).with_suffix(".json")
    control = next(one for one in bare.fine_tunings if one.task == f"{job.task}-untrained" and one.metrics.exists())
    backbone = {"run": str(job.run), "md5": json.loads(sidecar.read_text())["md5"]}
    for one, md5, start in ((job, "d" * 32, backbone), (control, "e" * 32, None)):
        made = {**json.loads(sidecar.read_text()), "md5": md5, "backbone": start}
        write_json(one.weights.with_suffix(".json"), made)
        content = json.loads(one.metrics.read_text())
        write_json(one.metrics, {**content, "weights": {"md5": md5, "origin": "trained"}})
    results = gather(bare)
    page = next(page for page in all_pages(results) if page.name == "workflow.html")
    needs = {target.name: found for target, found in page.content["needs"]}
    assert (needs["table_04"]["network"], needs["table_04"]["fine-tuning"]) == (1, 2)
    table = next(target for target in results.targets if target.name == "table_04")
    files = {path for cell in table.cells for path in cell.files}
    tasks = Counter(results.metrics[path]["task"].removesuffix("-untrained") for path in files)
    assert {task: needs["table_04"][task] for task in tasks} == tasks
    assert page.content["made"]["tuning"] == {"detection/retinanet": 2}
    assert page.content["made"]["training"]["network"] == len(bare.runs)


def test_a_cell_stands_beside_itself_at_the_other_scale_with_its_data(bare: Config) -> None:
    small = small_once()
    put_required("table_03", bare)
    build_table("table_03", bare)
    assert compare_scales(tabled_scales()) == []
    put_required("table_03", small, "cifar10")
    path = small.metric_path("classification", RUN)
    content = json.loads(path.read_text())
    content["metrics"]["top1"]["value"] = 73.05
    write_json(path, content)
    build_table("table_03", small)
    found = tabled_scales()
    assert [scale.name for scale in found] == ["demo", "small"]
    assert found[0].caption.startswith("demo scale: generated") and "CIFAR-10" in found[1].caption
    (comparison,) = compare_scales(found)
    lines = {(line["row"], line["column"]): line for line in comparison["lines"]}
    line = lines["VAN-LSKA-Tiny", "top-1, %"]
    (demo, data), small = line["cells"]
    assert (data, small, line["paper"]) == ("generated shapes", ("73.0 ± 1.5", "CIFAR-10"), "75.0") and demo != small[0]
    # Counts that agree are told once.
    assert comparison["equal"] == 24 and all("top-1" in line["column"] for line in comparison["lines"])
    before = other_scales("demo"), other_scales("small")
    path = Path("results/small/tables/table_03.csv")
    path.write_text(path.read_text().replace("13.73", "13.99"))
    assert other_scales("demo") != before[0] and other_scales("small") == before[1]
    (after,) = compare_scales(found)
    assert after["equal"] < 24
    assert any(line["row"] == "VAN-LSKA-Small" and "Params" in line["column"] for line in after["lines"])
    # What is no number is shown as it is.
    path.write_text(re.sub(r"(VAN-LSKA-Tiny,top-1.*?),73\.05,", r"\1,many,", path.read_text()))
    assert any(cell and cell[0] == "many" for line in compare_scales(found)[0]["lines"] for cell in line["cells"])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"results/small/tables/table_03\.csv: line 1: has no column .*'state'"):
        compare_scales(found)


def test_rendering_a_notebook_says_nothing_of_its_pictures(bare: Config, caplog: pytest.LogCaptureFixture) -> None:
    path = put_notebook(bare, "table_03")
    path.write_text(path.read_text().replace("# Notebook", "<img src='data:,'> Notebook"))
    assert "No description has been provided" in notebook_html(path)
    assert caplog.messages == []


def test_the_command_makes_each_part_and_notebooks_load_nothing(
    bare: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    html = notebook_html(put_notebook(bare, "table_03", "a < b <script>alert(1)</script>"))
    assert "<script" not in html and "<link" not in html and "http" not in html
    assert "a &lt; b &lt;script&gt;alert(1)&lt;/script&gt;" in html and "Notebook of table_03" in html
    put_notebook(bare, "figure_s1")
    assert main(["report", "notebooks"]) == 0
    assert main(["report"]) == 0
    rendered = [str(rendered_notebook(bare.results, name)) for name in ("table_03", "figure_s1")]
    assert capsys.readouterr().out.splitlines() == [*rendered, "results/demo/report/index.html"]
    for path in (bare.results / "notebooks").iterdir():
        path.unlink()
    assert main(["report", "notebooks"]) == 1
    assert "lska: error: results/demo/notebooks: no executed notebook here" in capsys.readouterr().err


def test_small_words() -> None:
    seconds = (0.04, 9.94, 35, 600, 3570, 7500)
    assert [duration(number) for number in seconds] == ["0.0 s", "9.9 s", "35 s", "10 min", "1 h 00 min", "2 h 05 min"]
    assert [hours(number) for number in (0, 0.0042, 0.028, 1.26, 1234.56)] == ["0", "< 0.01", "0.03", "1.26", "1,234.6"]
    assert unbroken("Params (exact, M)") == "Params (exact,\xa0M)" and unbroken("model") == "model"
    assert unbroken("top-1 (mean over many corruptions)") == "top-1 (mean over many corruptions)"
    assert breakable("a<b/c_d") == Markup("a&lt;b/<wbr>c_<wbr>d")
    assert minus("off by -0.27, -3 to 2 (by -1)") == "off by −0.27, −3 to 2 (by −1)"
    assert minus("van_tiny-lska-k23-s0 on 2026-01-02") == "van_tiny-lska-k23-s0 on 2026-01-02"


def test_leftovers_of_former_configurations_are_no_results_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_small(tmp_path)
    (tmp_path / "paper").symlink_to(project_root() / "paper")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lska.report.gather.verified", lambda config: None)
    gone = "van_tiny-lska-k9-s0.json"
    left = [Path("results/small", name, gone) for name in ("metrics/classification", "metrics/robustness/a", "data")]
    left.append(Path("checkpoints/small", gone))
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    found = gather(load([Path("config/small.yaml")]))
    assert not {*found.metrics, *found.sidecars, *found.records} & {*left}
    assert len(found.metrics) > 100
