"""`lska verify`: tables, figures and claims on disk against the metric files and the paper's values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from proven import COLUMN, FIGURE, ROW, TABLE, Proven, edit
from table_helpers import PAPER, demo, put_required

from lska.claims.claims_page import write_claims
from lska.claims.listing import claim_files
from lska.claims.verdicts import judge_claims
from lska.tables.collect import Table, collect
from lska.tables.specs import TARGETS, load_spec, outputs
from lska.tables.table_formats import WRITERS, build_table
from lska.verify import Finding, Level, verify
from lska.verify.shown import differences

TABLES = tuple(target for target in TARGETS if target.startswith("table") and target != "table_01")
"""All with numbers; Table I has words."""


def miou(scale: Proven) -> str:
    """The digits that the table shows."""
    return f"{json.loads(scale.segmentor.read_text())['metrics']['miou']['value']:.1f}"


def other(digits: str) -> str:
    """The same number with another last digit."""
    return digits[:-1] + str((int(digits[-1]) + 1) % 10)


def edit_number(path: Path, line: Callable[[str], bool], digits: str) -> None:
    """Change the last digit of a number in the first line that fits and has it, as in an editor."""
    lines, number = path.read_text(encoding="utf-8").split("\n"), re.compile(rf"(?<![\d.]){re.escape(digits)}(?![\d.])")
    place = next(place for place, text in enumerate(lines) if line(text) and number.search(text))
    lines[place] = number.sub(other(digits), lines[place], count=1)
    path.write_text("\n".join(lines), encoding="utf-8")


def only(scale: Proven) -> Finding:
    """The one thing that is broken."""
    (finding,) = scale.broken()
    return finding


@pytest.mark.parametrize("suffix", [".md", ".tex", ".html"])
def test_a_digit_edited_in_a_table_names_file_row_and_column(scale: Proven, suffix: str) -> None:
    path, shown = scale.shown(suffix), miou(scale)
    edit_number(path, lambda line: "LSKA" in line and "k=7" in line and "random" not in line, shown)
    finding = only(scale)
    assert (finding.file, finding.place) == (path, f"row {ROW!r}, column {COLUMN!r}")
    ours, theirs = finding.text.split(f", {scale.segmentor} gives ")
    assert other(shown) in ours and shown in theirs
    assert finding.chains == (f"{TABLE}: {ROW} / {COLUMN}",)


def test_a_digit_edited_in_a_csv_file_names_the_field_too(scale: Proven) -> None:
    value = repr(json.loads(scale.segmentor.read_text())["metrics"]["miou"]["value"])
    path = scale.shown(".csv")
    edit_number(path, lambda line: f"{ROW},{COLUMN}" in line, value)
    finding = only(scale)
    assert (finding.file, finding.place) == (path, f"row {ROW!r}, column {COLUMN!r}, value")
    assert finding.text == f"shows {other(value)!r}, {scale.segmentor} gives {value!r}"


def test_an_edited_point_of_a_figure_names_it(scale: Proven) -> None:
    value, path = repr(json.loads(scale.metrics.read_text())["metrics"]["top1"]["value"]), scale.shown(".csv", FIGURE)
    edit_number(path, lambda line: "LSKA k=7,top-1" in line, value)
    finding = only(scale)
    assert (finding.file, finding.place) == (path, "row 'VAN-Tiny LSKA k=7', column 'top-1', value")


def test_an_edited_value_of_the_paper_is_told_from_one_of_ours(scale: Proven) -> None:
    path = scale.shown(".csv", FIGURE)
    edit_number(path, lambda line: "VAN-Tiny LSKA k=7,top-1" in line, "73.5")
    finding = only(scale)
    assert finding.place.endswith("column 'top-1', paper")
    assert finding.text == "shows '73.6', paper/figure_01.csv gives '73.5'"


def test_a_changed_file_of_the_paper_no_longer_fits_the_figure(scale: Proven) -> None:
    edit_number(Path("paper/figure_01.csv"), lambda line: "LSKA k=7,ImageNet-1K top-1" in line, "73.5")
    assert only(scale).text == "shows '73.5', paper/figure_01.csv gives '73.6'"


def test_the_cell_of_an_edited_metric_file_is_blamed_on_that_file_alone(scale: Proven) -> None:
    edit(scale.segmentor, "metrics.miou.value", lambda value: value + 5)
    assert (only(scale).file, only(scale).place) == (scale.segmentor, "seal")


def test_an_edit_elsewhere_in_a_table_with_an_edited_metric_file_is_found_too(scale: Proven) -> None:
    edit(scale.segmentor, "metrics.miou.value", lambda value: value + 5)
    path = scale.shown(".csv")
    edit_number(path, lambda line: "k=23,Params (exact)" in line, "1")
    assert {finding.file for finding in scale.broken()} == {path, scale.segmentor}


@pytest.mark.parametrize("suffix", [".md", ".tex", ".html"])
def test_an_edited_caption_and_a_lost_line_are_found(scale: Proven, suffix: str) -> None:
    path = scale.shown(suffix)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("test scale", "toast scale").replace("Test scale", "Toast scale"), encoding="utf-8")
    assert re.fullmatch(r"line \d+", only(scale).place) and "oast" in only(scale).text
    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:5] + lines[6:]), encoding="utf-8")
    assert only(scale).place == "line 6"
    assert f"has {len(lines) - 1} lines, expected {len(lines)}" in only(scale).text


def test_other_line_endings_are_found(scale: Proven) -> None:
    path = scale.shown(".md")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert only(scale).file == path


@pytest.mark.parametrize("target", TABLES)
@pytest.mark.parametrize("suffix", list(WRITERS))
def test_the_last_number_of_every_table_is_watched_in_every_format(
    tmp_path: Path, filled: Callable[[str], Table], target: str, suffix: str
) -> None:
    table, path = filled(target), tmp_path / f"{target}{suffix}"
    text = WRITERS[suffix](table)
    path.write_text(text, encoding="utf-8")
    assert differences(table, path) == []
    row = [row for row in table.rows if any(isinstance(cell.value, float) for cell in row.cells)][-1]
    cell = [cell for cell in row.cells if isinstance(cell.value, float)][-1]
    digits = repr(cell.value) if suffix == ".csv" else f"{cell.value:.{cell.digits}f}"
    before, found, after = text.rpartition(digits)
    assert found
    path.write_text(before + other(digits) + after, encoding="utf-8")
    places = [finding.place for finding in differences(table, path)]
    assert len(places) == 1 and places[0].startswith(f"row {cell.row!r}, column {cell.column!r}"), places


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Table]:
    """Tables of made-up measurements."""
    scale = demo(tmp_path_factory.mktemp("tables"))

    def fill(target: str) -> Table:
        put_required(target, scale)
        return collect(load_spec(target), scale, PAPER, scale.results)

    return fill


def test_a_number_edited_in_the_claims_names_claim_and_quantity(scale: Proven) -> None:
    write_claims(judge_claims(scale.config), scale.config, scale.config.results)
    assert scale.verified().checked["pages of claims"] == 3 and scale.broken() == []
    path = claim_files(scale.config.results)[0]
    content = json.loads(path.read_text())
    claim = next(claim for claim in content["claims"] if claim["quantities"])
    quantity = claim["quantities"][0]
    path.write_text(json.dumps(content).replace(f'"value": {quantity["value"]!r}', '"value": 1.25'))
    places = {finding.place for finding in scale.broken()}
    assert f"claims.{claim['id']}.quantities.{quantity['name']}.value" in places
    assert {finding.file for finding in scale.broken()} == {path}


@pytest.mark.parametrize("page", [1, 2])
def test_an_edited_page_of_claims_is_found(scale: Proven, page: int) -> None:
    write_claims(judge_claims(scale.config), scale.config, scale.config.results)
    path = claim_files(scale.config.results)[page]
    path.write_text(path.read_text(encoding="utf-8").replace("parameters", "parrots", 1), encoding="utf-8")
    assert only(scale).file == path and "parrots" in only(scale).text


def test_claims_of_edited_metric_files_are_not_judged(scale: Proven) -> None:
    write_claims(judge_claims(scale.config), scale.config, scale.config.results)
    path = scale.config.metric_path("complexity", "van_tiny-lska-k23-s0")
    edit(path, "metrics.params.value", lambda value: value + 1)
    assert only(scale).file == path
    notes = [finding.text for finding in scale.verified().of(Level.NOTE)]
    assert any("not compared" in text and str(path) in text for text in notes)


def test_formats_that_were_not_made_are_no_fault(scale: Proven) -> None:
    for path in outputs(TABLE, scale.config.results):
        if path.suffix != ".md":
            path.unlink()
    assert scale.faults() == []


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_an_edited_drawing_is_found_when_figures_are_drawn_anew(scale: Proven, suffix: str) -> None:
    path = next(path for path in outputs(FIGURE, scale.config.results) if path.suffix == suffix)
    build_table(FIGURE, scale.config, [path])
    assert [found for found in verify(scale.config, drawings=True).findings if found.level is not Level.NOTE] == []
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    (finding,) = verify(scale.config, drawings=True).of(Level.BROKEN)
    assert finding.file == path and "drawn now" in finding.text
    assert scale.broken() == []


def written_claims(scale: Proven) -> list[Path]:
    """The files of claims, written now."""
    write_claims(judge_claims(scale.config), scale.config, scale.config.results)
    return list(claim_files(scale.config.results))


def test_a_claim_that_is_given_twice_or_elsewhere_is_found(scale: Proven) -> None:
    path = written_claims(scale)[0]
    content = json.loads(path.read_text())
    first = content["claims"][0]
    for edited in ([{**first, "verdict": "holds for sure"}, *content["claims"]], content["claims"][::-1]):
        path.write_text(json.dumps({**content, "claims": edited}))
        assert (only(scale).file, only(scale).place) == (path, "order of claims")


@pytest.mark.parametrize("text", ["[]", '{"claims": {"R07": 1}}', '{"claims": [1]}', '{"claims": [], "claims": []}'])
def test_a_file_that_holds_no_claims_is_named(scale: Proven, text: str) -> None:
    path = written_claims(scale)[0]
    path.write_text(text)
    assert only(scale).file == path and "cannot be read as a file of claims" in only(scale).text


def test_pages_of_claims_without_their_file_are_found(scale: Proven) -> None:
    path = written_claims(scale)[0]
    path.unlink()
    assert only(scale).file == path and "claims.md beside it" in only(scale).text


@pytest.mark.parametrize("suffix", [".md", ".tex", ".html"])
def test_a_paper_value_edited_in_a_table_is_told_from_ours(scale: Proven, suffix: str) -> None:
    path = scale.shown(suffix)
    text = path.read_text(encoding="utf-8")
    bracket = re.search(r"\((\d+\.\d)(†|\$)?", text)
    assert bracket
    start, end = bracket.span(1)
    path.write_text(text[:start] + other(bracket[1]) + text[end:], encoding="utf-8")
    assert f"paper/{TABLE}.csv gives" in only(scale).text


def test_a_metric_file_with_odd_parts_is_blamed_alone(scale: Proven) -> None:
    written_claims(scale)
    path = scale.config.metric_path("complexity", "van_tiny-lska-k23-s0")
    edit(path, "metrics", lambda metrics: [], sealed=True)
    assert {finding.file for finding in scale.broken()} == {path}


def test_drawing_anew_tells_of_results_and_not_of_fonts(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(path for path in outputs(FIGURE, scale.config.results) if path.suffix == ".pdf")
    build_table(FIGURE, scale.config, [path])
    capsys.readouterr()
    assert scale.project.command("verify", "--drawings") == 0
    assert "glyph" not in capsys.readouterr().err
