"""`lska explain` and `lska.chain`: what lies behind a cell, in the right order, whatever the cell is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from proven import COLUMN, FIGURE, ROW, RUN, SEGMENTATION, TABLE, Proven, edit
from table_helpers import PAPER, demo, put_required

from lska import chain
from lska.config import load
from lska.provenance import project_root
from lska.tables.collect import collect
from lska.tables.specs import TARGETS, load_spec


def behind(scale: Proven, target: str = TABLE, row: str = ROW, column: str = COLUMN) -> chain.Chain:
    table = chain.filled(target, scale.config)
    return chain.of(table, chain.choose(table, row, column), scale.config)


def test_a_chain_goes_from_the_cell_to_weights_backbone_and_data(scale: Proven) -> None:
    found = behind(scale)
    assert [(link.kind, link.file) for link in found.walk()] == [
        ("metric", scale.segmentor),
        ("weights", scale.fine_tuned),
        ("recipe", None),
        ("differences", Path("config/recipes/ade20k_semantic_fpn.yaml")),
        ("backbone", scale.sidecar),
        ("recipe", None),
        ("differences", Path("config/recipes/imagenet.yaml")),
        ("data", scale.config.data_record),
        ("data", scale.config.results / "data" / "regions.json"),
        ("data", scale.config.results / "data" / "regions.json"),
        ("paper", Path("paper/table_11.csv")),
    ]


def test_the_facts_are_those_of_the_files(scale: Proven) -> None:
    metric, weights, recipe, differences, backbone = list(behind(scale).walk())[:5]
    content, sidecar = json.loads(scale.segmentor.read_text()), json.loads(scale.fine_tuned.read_text())
    assert metric.facts["metric"] == f"miou = {content['metrics']['miou']['value']!r} %"
    assert metric.facts["seal"] == "whole"
    assert weights.facts["md5"] == f"{sidecar['md5']}, as the metric file says"
    assert weights.facts["seen"].startswith(f"{sidecar['images_seen']} images in 8 updates")
    assert recipe.facts["digest"] == f"{sidecar['recipe']}, computed again from the settings below"
    assert recipe.facts["today"] == "what the configuration asks for"
    assert recipe.facts["network"].startswith("depths [1, 1, 1, 1]")
    assert differences.facts["updates"] == "8, not 80000"
    assert "horizontal_flip" not in differences.facts
    assert backbone.facts["md5"].endswith("as the sidecar above says")


def test_a_control_says_that_its_backbone_is_random(scale: Proven) -> None:
    row = next(row.label for row in chain.filled(TABLE, scale.config).rows if row.label.startswith("control"))
    found = behind(scale, row=row)
    backbone = next(link for link in found.walk() if link.kind == "backbone")
    assert (backbone.file, backbone.facts["origin"].split(",")[0]) == (None, "random")
    assert found.facts["compared"] == "no: the paper has no such row"


def test_outcomes_and_their_state_are_named(scale: Proven) -> None:
    row, column = "VAN-Tiny LSKA k=7", "top-1"
    assert "van_tiny-lska-k7-s0.npz, as written" in behind(scale, FIGURE, row, column).links[0].facts["outcomes"]
    scale.metrics.with_suffix(".npz").write_bytes(b"other")
    assert "CHANGED" in behind(scale, FIGURE, row, column).links[0].facts["outcomes"]


def test_a_cell_that_was_not_run_says_why_and_what_the_paper_has(scale: Proven) -> None:
    found = behind(scale, FIGURE, "VAN-Tiny LSKA k=53", "top-1")
    assert (found.state, found.facts["missing"]) == ("not run", "scale test has no classification of van_tiny-lska-k53")
    (paper,) = found.links
    assert paper.facts["value"] == "74.8 %"
    assert paper.facts["source"].startswith("printed: The paper prints it")
    assert paper.facts["detail"].startswith("read off Figure 1")


def test_faults_are_told_and_not_raised(scale: Proven) -> None:
    edit(scale.segmentor, "metrics.miou.value", lambda value: value + 1)
    edit(scale.sidecar, "md5", lambda md5: "0" * 32)
    scale.config.data_record.unlink()
    links = {link.file: link for link in behind(scale).walk()}
    assert links[scale.segmentor].facts["seal"].startswith("BROKEN")
    assert "OTHERS" in links[scale.sidecar].facts["md5"]
    assert links[scale.config.data_record].facts["record"].startswith("MISSING")
    scale.fine_tuned.unlink()
    assert "MISSING" in chain.to_text(behind(scale))


def test_a_changed_configuration_is_told(scale: Proven) -> None:
    config = scale.project.config({"training": {"overrides": {"epochs": 4}}})
    table = chain.filled(FIGURE, config)
    cell = chain.choose(table, "VAN-Tiny LSKA k=7", "top-1")
    recipe = next(link for link in chain.of(table, cell, config).walk() if link.kind == "recipe")
    assert recipe.facts["today"] == "OUTDATED: recipe.epochs: 3, now 4"


def test_text_is_a_tree_within_the_width_that_tells_each_file_once(scale: Proven) -> None:
    text = chain.to_text(behind(scale), width=100)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith(f"{ROW} / {COLUMN} (%): ") for line in lines[:3])
    assert sum("regions.json" in line for line in lines) == 2
    assert sum("regions.json (as above)" in line for line in lines) == 1
    assert not any("sha256:" in line and len(line.split("sha256:")[1].split()[0].strip(",()")) > 12 for line in lines)


def test_json_holds_the_same_links_with_digests_in_full(scale: Proven) -> None:
    found = behind(scale)
    content = json.loads(json.dumps(chain.to_json(found)))
    assert (content["row"], content["column"], content["shown"]) == (ROW, "mIoU (%)", found.shown)
    weights = content["links"][0]["links"][0]
    assert weights["file"] == scale.fine_tuned.as_posix()
    assert json.loads(scale.fine_tuned.read_text())["recipe"] in weights["links"][0]["facts"]["digest"]


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ("Semantic FPN VAN-LSKA-Tiny", "mIoU", r"no row .* did you mean 'Semantic FPN / VAN-LSKA-Tiny k=7'"),
        (ROW, "mIuO", "no column 'mIuO': did you mean 'mIoU'"),
        ("xyz", "mIoU", r"no row 'xyz': it has 'Semantic FPN / VAN-LKA-Tiny k=7'.* and \d+ more"),
    ],
)
def test_an_unknown_label_names_what_is_like_it(scale: Proven, row: str, column: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain.choose(chain.filled(TABLE, scale.config), row, column)


@pytest.mark.parametrize(("row", "column"), [(ROW.lower(), "MIOU"), (ROW, "mIoU (%)")])
def test_case_and_units_do_not_matter(scale: Proven, row: str, column: str) -> None:
    cell = chain.choose(chain.filled(TABLE, scale.config), row, column)
    assert (cell.row, cell.column) == (ROW, COLUMN)


@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_of_every_target_has_a_chain(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    config, made = load([Path("config/demo.yaml")]), demo(tmp_path)
    put_required(target, made)
    table = collect(load_spec(target), made, PAPER, made.results)
    for cell in table.cells:
        found = chain.of(table, cell, config)
        assert found.links[-1].kind == "paper"
        assert [link.file for link in found.links[:-1]] == list(cell.files)
        assert found.shown and max(map(len, chain.to_text(found).split("\n"))) < 200


def test_the_command_prints_a_chain_a_list_and_json(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    run = scale.project.command
    assert run("explain", TABLE, "--cell", ROW, COLUMN) == 0
    said = capsys.readouterr().out
    assert f"metric file results/test/metrics/{SEGMENTATION}/{RUN}.json" in said and "Every link holds." in said
    assert run("explain", TABLE, "--cell", ROW, COLUMN, "--json") == 0
    assert json.loads(capsys.readouterr().out)["first_broken"] is None
    assert run("explain", TABLE) == 0
    listed = capsys.readouterr().out
    assert f"\n{ROW}\n" in listed and "not run" in listed
    assert run("explain", TABLE, "--json") == 0
    assert (ROW, COLUMN) in [(cell["row"], cell["column"]) for cell in json.loads(capsys.readouterr().out)]
    assert run("explain", TABLE, "--cell", "xyz", COLUMN) == 1
    assert "has no row 'xyz'" in capsys.readouterr().err


def test_the_command_names_the_first_broken_link(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    edit(scale.sidecar, "seconds", lambda seconds: seconds / 2)
    assert scale.project.command("explain", TABLE, "--cell", ROW, COLUMN) == 0
    assert f"BROKEN: {scale.sidecar.as_posix()}: seal" in capsys.readouterr().out


def test_chains_and_verification_import_neither_torch_nor_drawings() -> None:
    heavy = "[name for name in ('torch', 'matplotlib') if name in sys.modules]"
    code = f"import sys, lska.chain, lska.verify, lska.cli; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_whose_sidecar_has_no_settings_have_a_chain_too(scale: Proven) -> None:
    content = json.loads(scale.sidecar.read_text())
    del content["spec"]
    scale.sidecar.write_text(json.dumps(content | {"origin": "imported"}))
    weights, recipe = list(behind(scale, FIGURE, "VAN-Tiny LSKA k=7", "top-1").walk())[1:3]
    assert (weights.facts["origin"], recipe.facts["settings"]) == ("imported", "none recorded")


def test_a_reader_that_closes_the_pipe_is_no_error(scale: Proven) -> None:
    command = f"{shlex.quote(sys.executable)} -m lska explain {TABLE} --config config.yaml | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(project_root() / "src")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("Table XI.") and done.stderr == ""
