"""What Slurm is asked for at paper scale."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import pytest
from submit_lines import SNAPSHOT, capture, render, words_of
from whole_project import Project, copy_project

pytestmark = pytest.mark.timeout(300)

SHORT = "results/paper/metrics/properties/lska.json"
"""Takes one job."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy of the project without results."""
    return copy_project(tmp_path / "project")


def value(words: list[str], option: str) -> str | None:
    """What follows an option of sbatch."""
    return words[words.index(option) + 1] if option in words else None


def test_submit_lines_are_those_that_were_read_through(project: Project, tmp_path: Path) -> None:
    found = render(capture(project.root, tmp_path / "shims"))
    expected = SNAPSHOT.read_text(encoding="utf-8")
    difference = difflib.unified_diff(
        expected.splitlines(), found.splitlines(), SNAPSHOT.name, "submitted now", lineterm=""
    )
    command = f"{Path(sys.executable).name} {SNAPSHOT.relative_to(Path(__file__).parents[2]).with_suffix('.py')}"
    assert found == expected, "\n".join([*difference, f"if this is what you want: {command}, and commit it"])


def test_account_and_partitions_come_from_the_environment(project: Project, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("partitions: {short: {max_runtime: 1h}, day: {max_runtime: 24h}}\n", encoding="utf-8")
    variables = {"LSKA_SLURM_ACCOUNT": "physics", "SNAKEMAKE_SLURM_PARTITIONS": str(site)}
    (words,) = capture(project.root, tmp_path / "shims", SHORT, **variables)
    assert (value(words, "-A"), value(words, "-p"), value(words, "-t")) == ("physics", "day", "120")
    assert words_of(words)["--configfiles"] == str(project.root / "config" / "paper.yaml")


def test_one_partition_for_all_and_no_account(project: Project, tmp_path: Path) -> None:
    (words,) = capture(project.root, tmp_path / "shims", SHORT, LSKA_SLURM_PARTITION="long")
    assert (value(words, "-A"), value(words, "-p")) == (None, "long")


def test_a_training_on_two_nodes_asks_each_for_its_own_cores_and_gpus(project: Project, tmp_path: Path) -> None:
    weights = "checkpoints/paper/van_tiny-lska-k7-s42.safetensors"
    settings = {"training": {"gpus": 4, "nodes": 2}}
    lines = capture(project.root, tmp_path / "shims", weights, settings)
    (words,) = (words for words in lines if "rule_train" in value(words, "--comment"))
    asked = {word for word in words if word.startswith(("--nodes", "--ntasks", "--cpus", "--gpus", "--mem"))}
    tasks = {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=18"}
    assert asked == {*tasks, "--gpus=4", "--gpus-per-node=2", "--mem"}
    assert value(words, "--mem") == "56000"
