"""The command line: exit codes, and messages that name what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import CLASSES, Project, write_images

from lska.cli import main

Capture = pytest.CaptureFixture[str]


def error(capsys: Capture) -> str:
    """The one message on standard error, without log lines and progress bars."""
    lines = capsys.readouterr().err.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("lska: error: "))
    assert "Traceback" not in "".join(lines)
    return "\n".join(lines[start:])


@pytest.mark.parametrize("words", [["train"], ["evaluate", "classification"], ["evaluate", "speed"], ["complexity"]])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("van_tiny-lska-k7", "'van_tiny-lska-k7' is not a run id; expected <model>-<attention>-k<kernel>-s<seed>"),
        ("van_tiny-slka-k7-s0", "'van_tiny-slka-k7-s0' is not a run id; .* lka_trivial, lska_trivial, lka, lska"),
    ],
)
def test_an_unknown_run_id_is_named(
    project: Project, capsys: Capture, words: list[str], run: str, message: str
) -> None:
    assert project.command(*words, run) == 1
    assert re.search(message, error(capsys))


@pytest.mark.parametrize("words", [["train"], ["evaluate", "speed"], ["complexity"]])
@pytest.mark.parametrize(
    ("run", "parts"),
    [
        ("van_tinny-lska-k7-s0", ["unknown model 'van_tinny'", "van_tiny, van_small, van_base"]),
        ("convnext_tinny-s0", ["unknown name 'convnext_tinny'", "did you mean convnext_tiny"]),
        ("van_tiny-lska-k24-s0", ["odd integer from 3 up", "found 24", "23 or 25"]),
    ],
)
def test_an_unknown_model_or_kernel_is_named(
    project: Project, capsys: Capture, words: list[str], run: str, parts: list[str]
) -> None:
    assert project.command(*words, run) == 1
    message = error(capsys)
    assert all(part in message for part in parts), message
    assert not Path("checkpoints").exists()


def test_an_unknown_attention_in_the_configuration_is_named(project: Project, capsys: Capture) -> None:
    runs = [{"model": "van_tiny", "attention": "lksa", "kernel": 7, "seed": 0}]
    assert project.command("train", str(project.run), changes={"runs": runs}) == 1
    message = error(capsys)
    assert "config.yaml: 1 problem(s):\n  runs[0]: attention: expected one of" in message
    assert "lka_trivial, lska_trivial, lka, lska, slak, slak_sparse; found 'lksa'" in message


def test_everything_wrong_with_a_configuration_is_told_at_once(project: Project, capsys: Capture) -> None:
    Path("mine.yaml").write_text("trainning: {}\ndata: {root: 3}\nevaluation: {batch_size: many}\n")
    assert main(["data", "prepare", "--config", "config.yaml", "mine.yaml"]) == 1
    assert error(capsys).splitlines() == [
        "lska: error: config.yaml + mine.yaml: 3 problem(s):",
        "  unknown key 'trainning' (did you mean 'training'?)",
        "  data.root: expected str, found int 3",
        "  evaluation.batch_size: expected int, found str 'many'",
    ]


def test_a_missing_configuration_file_is_named(project: Project, capsys: Capture) -> None:
    assert main(["train", str(project.run), "--config", "none.yaml"]) == 1
    assert error(capsys) == "lska: error: none.yaml: no such file; check the path"


@pytest.mark.parametrize("words", [["train"], ["evaluate", "classification"]])
def test_a_missing_data_root_is_named(project: Project, capsys: Capture, words: list[str]) -> None:
    assert project.command(*words, str(project.run), changes={"data": {"root": "no where"}}) == 1
    message = error(capsys)
    assert f"data set colours is missing: {project.folder / 'no where'} does not exist" in message
    assert "its root, no where, is the setting data.root on the command line" in message


def test_preparing_a_missing_data_root_names_the_setting(project: Project, capsys: Capture) -> None:
    assert project.command("data", "prepare", changes={"data": {"root": "no where"}, "scale": "new"}) == 1
    message = error(capsys)
    assert "no where" in message
    assert "data.root" in message
    assert not Path("results/new").exists()


def other_classes(root: Path) -> None:
    for label in CLASSES:
        write_images(root, "train", label, 5)
    for label in CLASSES[:3]:
        write_images(root, "val", label, 2)
    shutil.copytree(root / "val" / "red", root / "val" / "rot")


def test_different_classes_in_train_and_val_are_named(project: Project, capsys: Capture) -> None:
    other_classes(Path("other"))
    assert project.command("train", str(project.run), changes={"data": {"root": "other"}}) == 1
    message = error(capsys)
    assert "other/train has 4 classes and other/val has 4; expected the same" in message
    assert "Only in train: 'white'. Only in val: 'rot'" in message
    assert not Path("checkpoints").exists()


def test_an_empty_class_folder_is_named(project: Project, capsys: Capture, image_set: Path) -> None:
    shutil.copytree(image_set, "other")
    for split in ("train", "val"):
        (Path("other") / split / "zebra").mkdir()
    assert project.command("train", str(project.run), changes={"data": {"root": "other"}}) == 1
    assert "other/train: class folders without images (1 of 5): 'zebra'" in error(capsys)


def test_training_without_the_record_of_the_data_is_refused_before_it_begins(project: Project, capsys: Capture) -> None:
    assert project.command("train", str(project.run), changes={"scale": "unprepared"}) == 1
    message = error(capsys)
    assert "results/unprepared/data/colours.json is missing" in message
    assert "`lska data prepare --kind classification`" in message
    assert not Path("work/unprepared/train").exists()


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


def test_an_unknown_optimizer_is_named(project: Project, capsys: Capture) -> None:
    assert project.command("train", str(project.run), changes={"training": {"overrides": {"optimizer": "adamv"}}}) == 1
    assert "adamv" in error(capsys)


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


def test_settings_on_the_command_line_win(project: Project, capsys: Capture) -> None:
    assert main(["train", "x", "--config", "config.yaml", "--set", '{"training": {"threads": 0}}']) == 1
    assert "training.threads: expected at least 1, found 0" in error(capsys)


def test_settings_that_are_no_mapping_are_refused_by_the_usage(project: Project, capsys: Capture) -> None:
    for text in ("{", "[1]", '{"a": 1, "a": 2}', "[" * 5000):
        with pytest.raises(SystemExit) as caught:
            main(["train", "x", "--set", text])
        assert caught.value.code == 2
        assert "argument --set: settings: " in capsys.readouterr().err


def test_evaluating_without_runs_takes_all_of_the_configuration(project: Project, capsys: Capture) -> None:
    group = {"model": "van_tiny", "attention": "lska", "kernel": 7, "seed": [0, 1]}
    assert project.command("evaluate", "speed", changes={"runs": [group]}) == 0
    names = sorted(path.name for path in Path("results/test/metrics/speed").iterdir())
    assert names == ["van_tiny-lska-k7-s0.json", "van_tiny-lska-k7-s1.json"]


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


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_workflow_imports_is_light(module: str) -> None:
    assert modules_after(f"import {module}") == set()


def test_the_module_form_gives_the_exit_code(tmp_path: Path) -> None:
    answer: Any = subprocess.run(
        [sys.executable, "-m", "lska", "train", "x", "--config", "none.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr == "lska: error: none.yaml: no such file; check the path\n"
