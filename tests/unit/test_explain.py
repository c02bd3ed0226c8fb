"""`lska explain`: what lies behind a cell, in the right order, whatever the cell is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from proven import COLUMN, FIGURE, ROW, RUN, SEGMENTATION, TABLE, Proven, edit
from syrupy.assertion import SnapshotAssertion
from table_helpers import PAPER, demo, put_required

from lska.audit.explain import Explanation, Origin, choose_cell, explain_cell, filled_table
from lska.audit.links import ScaleFiles
from lska.provenance.metric_files import digest, project_root, write_sealed
from lska.provenance.sidecars import Pointer, write_pointer
from lska.settings.scale import Config, load
from lska.tables.collect import collect
from lska.tables.specs import TARGETS, load_spec

POINT = ("VAN-Tiny LSKA k=7", "top-1")
MASKS = {r"sha256:[0-9a-f]+": "sha256:...", r"-?\d+\.\d+(e-?\d+)?": "#", r"\b[0-9a-f]{32}\b": "MD5"}
VOLATILE = ("measured", "trained", "code", "environment")
"""Facts of times, machines and commits."""


def behind(config: Config, target: str = TABLE, row: str = ROW, column: str = COLUMN) -> Explanation:
    table = filled_table(target, config)
    return explain_cell(table, choose_cell(table, row, column), ScaleFiles(config))


def outline(found: Explanation | Origin, depth: int = 0) -> list[str]:
    """An explanation without what differs between machines and commits, and without what all recipes tell alike."""
    facts = {} if isinstance(found, Origin) and found.kind == "differences" else dict(found.facts)
    facts |= {name: "..." for name in VOLATILE if name in facts}
    lines = [f"{'  ' * depth}  {name}: {text}" for name, text in facts.items()]
    for pattern, mask in MASKS.items():
        lines = [re.sub(pattern, mask, line) for line in lines]
    for section in found.links:
        lines += [f"{'  ' * depth}- {section.label} {section.file or ''}".rstrip(), *outline(section, depth + 1)]
    return lines


def test_a_chain_goes_from_the_cell_to_weights_backbone_and_data(scale: Proven) -> None:
    found = behind(scale.config)
    kinds = "metric weights recipe differences backbone recipe differences data data data paper"
    assert " ".join(section.kind for section in found.walk()) == kinds
    metric, weights, recipe, differences, *_ = found.walk()
    content, sidecar = json.loads(scale.segmentor.read_text()), json.loads(scale.fine_tuned.read_text())
    assert metric.facts["metric"] == f"miou = {content['metrics']['miou']['value']!r} %"
    assert weights.facts["md5"] == f"{sidecar['md5']}, as the metric file says"
    assert recipe.facts["digest"] == f"{sidecar['recipe']}, computed again from the settings below"
    assert differences.facts["updates"] == "8, not 80000" and "horizontal_flip" not in differences.facts


def test_chains_of_every_kind(scale: Proven, snapshot: SnapshotAssertion) -> None:
    """A fine-tuned network, a control, a cell that was not run, other configurations, and every kind of fault."""
    config = scale.config
    control = next(row.label for row in filled_table(TABLE, config).rows if row.label.startswith("control"))
    found = {
        "fine-tuned": behind(config),
        "control": behind(config, row=control),
        "not run": behind(config, FIGURE, "VAN-Tiny LSKA k=53", "top-1"),
        "counted": behind(config, TABLE, ROW, "Params (exact)"),
        "another recipe": behind(scale.project.config({"training": {"overrides": {"epochs": 4}}}), FIGURE, *POINT),
    }
    weights = config.weights_path(RUN)
    weights.rename("elsewhere")
    write_pointer(weights, Pointer(json.loads(scale.sidecar.read_text())["md5"], 7, "store"))
    found["published weights"] = behind(config, FIGURE, *POINT)
    content = json.loads(scale.sidecar.read_text())
    write_sealed(scale.sidecar, content | {"origin": "imported"})
    found["imported weights"] = behind(config, FIGURE, *POINT)
    write_sealed(
        scale.sidecar, {name: value for name, value in content.items() if name != "spec"} | {"origin": "imported"}
    )
    found["imported weights without settings"] = behind(config, FIGURE, *POINT)
    scale.outcomes.write_bytes(b"other")
    edit(scale.segmentor, "metrics.miou.value", lambda value: value + 1)
    edit(scale.sidecar, "md5", lambda _: "0" * 32, sealed=True)
    edit(scale.regions, "digest", lambda _: digest("other"), sealed=True)
    scale.record.unlink()
    found["faults"], found["faults of a backbone"] = behind(config, FIGURE, *POINT), behind(config)
    scale.fine_tuned.unlink()
    found["missing weights"] = behind(config)
    told: dict[str, None] = {}
    for name, explanation in found.items():
        told |= dict.fromkeys([f"{name}:", *outline(explanation)])  # what all tell alike stands once
    assert list(told) == snapshot


def test_text_is_a_tree_within_the_width_that_tells_each_file_once(scale: Proven) -> None:
    lines = behind(scale.config).to_text(width=100).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith(f"{ROW} / {COLUMN} (%): ") for line in lines[:3])
    assert [sum(said in line for line in lines) for said in ("regions.json", "regions.json (as above)")] == [2, 1]
    digests = [line.split("sha256:")[1].split()[0].strip(",()") for line in lines if "sha256:" in line]
    assert {len(shown) for shown in digests} == {12}


def test_a_record_that_names_its_own_user_as_chooser_ends(scale: Proven) -> None:
    content, reference = json.loads(scale.record.read_text()), {"run": RUN, "md5": "0" * 32}
    write_sealed(scale.record, content | {"reference": reference})
    kinds = [section.kind for section in behind(scale.config, FIGURE, *POINT).walk()]
    assert kinds.count("chooser") == 2


def test_labels_are_found_whatever_their_case_and_unknown_ones_name_what_is_like_them(
    scale: Proven, snapshot: SnapshotAssertion
) -> None:
    table, messages = filled_table(TABLE, scale.config), []
    for row, column in ((ROW.lower(), "MIOU"), (ROW, "mIoU (%)")):
        cell = choose_cell(table, row, column)
        assert (cell.row, cell.column) == (ROW, COLUMN)
    for row, column in (("Semantic FPN VAN-LSKA-Tiny", COLUMN), (ROW, "mIuO"), ("xyz", COLUMN)):
        with pytest.raises(ValueError, match="has no") as caught:
            choose_cell(table, row, column)
        messages.append(str(caught.value))
    assert messages == snapshot


@pytest.mark.slow
def test_every_cell_of_every_target_has_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    files, made = ScaleFiles(load([Path("config/demo.yaml")])), demo(tmp_path)
    files.metrics_folder = made.results / "metrics"
    for target in TARGETS:
        put_required(target, made)
        table = collect(load_spec(target), made, PAPER, made.results)
        for cell in table.cells:
            found = explain_cell(table, cell, files)
            assert found.links[-1].kind == "paper" and found.shown
            assert [section.file for section in found.links[:-1]] == list(cell.files)


def test_the_command_prints_a_chain_a_list_and_json(scale: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        assert scale.project.command("explain", TABLE, *arguments) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    chain, content = said("--cell", ROW, COLUMN), json.loads(said("--cell", ROW, COLUMN, "--json"))
    assert f"metric file results/test/metrics/{SEGMENTATION}/{RUN}.json" in chain and "Every link holds." in chain
    weights = content["links"][0]["links"][0]
    assert (content["first_broken"], weights["file"]) == (None, scale.fine_tuned.as_posix())
    assert json.loads(scale.fine_tuned.read_text())["recipe"] in weights["links"][0]["facts"]["digest"]
    assert f"\n{ROW}\n" in said() and "not run" in said()
    assert (ROW, COLUMN) in [(cell["row"], cell["column"]) for cell in json.loads(said("--json"))]
    assert "has no row 'xyz'" in said("--cell", "xyz", COLUMN, code=1)
    edit(scale.sidecar, "seconds", lambda seconds: seconds / 2)
    assert f"BROKEN: {scale.sidecar.as_posix()}: seal" in said("--cell", ROW, COLUMN)
    assert json.loads(said("--cell", ROW, COLUMN, "--json"))["first_broken"]["place"] == "seal"


def test_explanations_and_verification_import_neither_torch_nor_drawings() -> None:
    heavy = "[name for name in ('torch', 'matplotlib') if name in sys.modules]"
    code = f"import sys, lska.audit.explain, lska.audit.verify, lska.cli; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_closes_the_pipe_is_no_error(scale: Proven) -> None:
    command = f"{shlex.quote(sys.executable)} -m lska explain {TABLE} --config config.yaml | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(project_root() / "src")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("Table XI.") and done.stderr == ""
