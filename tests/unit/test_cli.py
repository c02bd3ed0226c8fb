"""The command line: exit codes, and messages that name what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion
from tiny_project import CLASSES, Project, write_images

from lska.cli import COMMANDS, main

Capture = pytest.CaptureFixture[str]


def error(capsys: Capture) -> str:
    """The one message on standard error, without log lines and progress bars."""
    lines = capsys.readouterr().err.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("lska: error: "))
    assert "Traceback" not in "".join(lines)
    return "\n".join(lines[start:])


TRAIN = "train van_tiny-lska-k7-s0"
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "half a run id": ("evaluate speed van_tiny-lska-k7", {}),
    "no such attention": ("train van_tiny-slka-k7-s0", {}),
    "no such model": ("evaluate complexity van_tinny-lska-k7-s0", {}),
    "no such network of timm": ("evaluate speed convnext_tinny-s0", {}),
    "an even kernel": ("train van_tiny-lska-k24-s0", {}),
    "a wrong attention in the settings": (
        TRAIN, {"runs": [{"model": "van_tiny", "attention": "lksa", "kernel": 7, "seed": 0}]}
    ),
    "everything that is wrong": (
        "data prepare", {"trainning": {}, "data": {"root": 3}, "evaluation": {"batch_size": "many"}}
    ),
    "a number out of its range": (TRAIN, {"training": {"threads": 0}}),
    "an optimizer that timm lacks": (TRAIN, {"training": {"overrides": {"optimizer": "adamv"}}}),
    "a missing root": (TRAIN, {"data": {"root": "no where"}}),
    "a missing root of what is prepared": ("data prepare", {"data": {"root": "no where"}, "scale": "new"}),
    "data without their record": (TRAIN, {"scale": "unprepared"}),
    "other classes in val": (TRAIN, {"data": {"root": "other"}}),
    "a class without images": (TRAIN, {"data": {"root": "empty"}}),
}


def test_what_is_refused_before_it_begins(
    project: Project, image_set: Path, capsys: Capture, snapshot: SnapshotAssertion
) -> None:
    for label in CLASSES:
        write_images(Path("other"), "train", label, 5)
    for label in CLASSES[:3]:
        write_images(Path("other"), "val", label, 2)
    shutil.copytree("other/val/red", "other/val/rot")
    shutil.copytree(image_set, "empty")
    for split in ("train", "val"):
        (Path("empty") / split / "zebra").mkdir()
    told = {}
    for name, (words, changes) in REFUSED.items():
        assert project.command(*words.split(), changes=changes) == 1, name
        told[name] = error(capsys).replace(str(project.folder), "<folder>")
    assert main(["train", str(project.run), "--config", "none.yaml"]) == 1
    told["no such file"] = error(capsys).replace(str(Path.cwd()), "<folder>")
    assert told == snapshot
    assert not Path("checkpoints").exists() and not Path("results/new").exists()
    assert not Path("work/unprepared/train").exists()


def test_the_command_alone_lists_all_and_misspelt_ones_are_told(capsys: Capture) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert "lska evaluate robustness" in listed and "lska new-scale" in listed
    assert len(listed.splitlines()) == len(COMMANDS) + 2
    assert main(["weights"]) == 0
    assert capsys.readouterr().out.count("lska weights") == 4
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lska 0.1.0")
    for words, meant in {
        "tabel table_03": "did you mean lska table?", "evaluate robustnes c": "did you mean lska evaluate robustness?",
        "weights lst": "did you mean lska weights list?", "xyz": "no such command; `lska` alone lists all",
        "data xyz": "lska data check or lska data examples",
    }.items():  # fmt: skip
        assert main(words.split()) == 2
        assert meant in error(capsys), words
    with pytest.raises(SystemExit, match="2"):  # half an option is none, and starts nothing
        main(["train", "van_tiny-lska-k7-s0", "--budget-hour", "1"])
    assert "unrecognized arguments: --budget-hour 1" in capsys.readouterr().err
    assert main(["explain", "tabel_03"]) == 1
    assert "'tabel_03' is no table or figure; did you mean table_03?" in error(capsys)


def test_divergence_is_told_and_keeps_the_last_good_state(project: Project, capsys: Capture) -> None:
    # The first epoch of four updates trains; the fifth, at the full rate, throws the weights far off.
    overrides = {"learning_rate": 1.0e30, "schedule_unit": "epoch", "clip_gradient": None}
    changes = {"training": {"overrides": overrides, "state_minutes": 0.0}}
    assert project.command("train", str(project.run), changes=changes) == 1
    message = error(capsys)
    states = project.states(project.config(changes))
    assert "training diverged: " in message
    assert f"the last good state is {states[-1]}" in message
    assert "Lower learning_rate" in message
    assert [path.name for path in states] == ["state-00000004.pt", "state-00000005.pt"]
    assert not project.config(changes).weights_path(project.run).exists()


def test_paths_with_spaces_and_quotes_work_everywhere(
    project: Project, image_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 'it\'s a "data" dir; $(touch x) `y` & é'
    folder = tmp_path / odd
    folder.mkdir()
    shutil.copytree(image_set, folder / odd)
    settings = yaml.safe_load(Path("config.yaml").read_text())
    settings["data"] |= {"root": odd, "manifest": f"{odd}.yaml"}
    settings["training"]["recipe"] = f"recipe {odd}.yaml"
    shutil.copy("colours.yaml", folder / f"{odd}.yaml")
    shutil.copy("recipe.yaml", folder / f"recipe {odd}.yaml")
    (folder / f"config {odd}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(folder)
    for words in ("data prepare", f"train {project.run}", "evaluate classification", "evaluate speed"):
        assert main([*words.split(), "--config", f"config {odd}.yaml"]) == 0
    metrics = json.loads((folder / "results/test/metrics/classification" / f"{project.run}.json").read_text())
    assert metrics["metrics"]["top1"]["n"] == 24
    assert not (folder / "x").exists()


def test_settings_that_are_no_mapping_are_refused_by_the_usage(project: Project, capsys: Capture) -> None:
    for text in ("{", "[1]", '{"a": 1, "a": 2}', "[" * 5000):
        with pytest.raises(SystemExit) as caught:
            main(["train", "x", "--set", text])
        assert caught.value.code == 2
        assert "argument --set: settings: " in capsys.readouterr().err


def test_evaluating_without_runs_takes_all_of_the_configuration(project: Project, capsys: Capture) -> None:
    """For speed the first seed of each network."""
    group = {"model": "van_tiny", "attention": "lska", "kernel": [7, 11], "seed": [1, 0]}
    assert project.command("evaluate", "speed", changes={"runs": [group]}) == 0
    names = sorted(path.name for path in Path("results/test/metrics/speed").iterdir())
    assert names == ["van_tiny-lska-k11-s0.json", "van_tiny-lska-k7-s0.json"]


def test_checking_data_says_what_is_wrong_in_its_exit_code(project: Project, capsys: Capture, image_set: Path) -> None:
    assert main(["data", "check", "colours.yaml", "--root", "data"]) == 0
    shutil.copytree(image_set, "other")
    Path("other/val/red/000.jpg").unlink()
    assert main(["data", "check", "colours.yaml", "--root", "other"]) == 1
    assert "red has 5 of 6" in capsys.readouterr().out
    assert main(["data", "check", "colors", "--root", "data"]) == 1
    assert "no manifest 'colors'" in error(capsys)


def test_a_traceback_is_there_for_who_asks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSKA_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a run id"):
        project.command("train", "x")


def modules_after(statement: str) -> set[str]:
    heavy = {"torch", "timm", "numpy", "matplotlib", "pandas"}
    code = f"import sys\n{statement}\nprint(*set(sys.modules) & {heavy})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(answer.stdout.split())


LIGHT = ("lska", "lska.cli", "lska.settings.scale", "lska.provenance.metric_files", "lska.pipeline.products")


def test_what_the_workflow_imports_is_light() -> None:
    assert modules_after(f"import {', '.join(LIGHT)}") == set()


def test_the_module_form_gives_the_exit_code(tmp_path: Path) -> None:
    answer: Any = subprocess.run(
        [sys.executable, "-m", "lska", "train", "x", "--config", "none.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr.endswith("; call `lska` there. none.yaml: no such file; check the path\n")
    assert answer.stderr.startswith(f"lska: error: {tmp_path} is not the project's folder, which has config/ ")
