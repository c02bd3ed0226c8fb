"""What DVC itself shows and compares: real commands in a repository with two commits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from proven import edit
from small_scale import copy_small

from lska.claims.summaries import write_summaries
from lska.provenance.metric_files import project_root
from lska.settings.scale import load

RUN = "van_tiny-lska-k23-s0"
SUMMARY = f"results/small/summary/{RUN}.json"
DVC = Path(sys.executable).with_name("dvc")
ENVIRONMENT = {
    "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """A git repository with DVC in it."""

    root: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in it; output is captured."""
        environment = {**os.environ, **ENVIRONMENT}
        return subprocess.run(
            command, cwd=self.root, env=environment, text=True, capture_output=True, timeout=120, check=False
        )

    def dvc(self, *words: str) -> str:
        """What DVC prints; fails the test when DVC fails or complains."""
        done = self.run(DVC, *words)
        complaints = [line for line in done.stderr.splitlines() if "failed" in line or "ERROR" in line]
        assert done.returncode == 0 and not complaints, done.stderr
        return done.stdout

    def commit(self, message: str) -> None:
        """Commit everything."""
        for words in (("add", "--all"), ("commit", "--quiet", "--message", message)):
            done = self.run("git", *words)
            assert done.returncode == 0, done.stderr


def project(root: Path) -> Repository:
    """What a clone of the project has for DVC to show, without weights and data."""
    copy_small(root)
    shutil.copytree(project_root() / "results" / "small" / "figures", root / "results" / "small" / "figures")
    shutil.copytree(project_root() / ".dvc" / "plots", root / ".dvc" / "plots")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy2(project_root() / name, root / name)
    made = Repository(root)
    made.run("git", "init", "--quiet")
    made.commit("as committed")
    return made


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Two commits: in the second a recipe has another learning rate, and one network another accuracy and loss."""
    made = project(tmp_path_factory.mktemp("compared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.root)
        metrics = Path(f"results/small/metrics/classification/{RUN}.json")
        edit(metrics, "metrics.top1.value", lambda value: 71.5, sealed=True)
        record = Path(f"results/small/training/{RUN}.jsonl")
        record.write_text(record.read_text().replace('"loss": 2.120561122894287', '"loss": 9.75'))
        recipe = Path("config/recipes/cifar10.yaml")
        recipe.write_text(recipe.read_text().replace("\nlearning_rate: 4.0e-3", "\nlearning_rate: 2.0e-3"))
        write_summaries(load([Path("config/small.yaml")]))
    made.commit("another learning rate")
    return made


def plots(text: str) -> dict[str, Any]:
    """The first rendering of each plot by its name."""
    found = json.loads(text)
    assert "errors" not in found
    return {name: parts[0] for name, parts in found["data"].items()}


def points(plot: dict[str, Any]) -> list[dict[str, Any]]:
    """The data in a plot's Vega specification."""
    content = plot["content"]
    return (json.loads(content) if isinstance(content, str) else content)["data"]["values"]


def test_metrics_and_learning_rates_are_told_with_their_runs_and_recipes(repository: Repository) -> None:
    head, _, *rows = repository.dvc("metrics", "show", "--md").strip().splitlines()
    columns, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows))
    table = {line[0]: dict(zip(columns, line, strict=True)) for line in cells}
    runs = load([project_root() / "config/small.yaml"]).runs
    assert (len(columns), len(table), table[SUMMARY]["classification.top1"]) == (16, len(runs), "71.5")
    assert table["results/small/summary/van_tiny-lska-k53-s0.json"]["detection.retinanet.box_ap"] == "-"
    found = json.loads(repository.dvc("metrics", "diff", "--json", "HEAD~1", "HEAD"))
    assert found == {SUMMARY: {"classification.top1": {"old": 76.18, "new": 71.5, "diff": pytest.approx(-4.68)}}}
    said = repository.dvc("metrics", "diff", "HEAD~1").splitlines()
    assert said[1].split() == [SUMMARY, "classification.top1", "76.18", "71.5", "-4.68"]
    assert repository.dvc("metrics", "diff") == ""
    found = json.loads(repository.dvc("params", "diff", "--json", "HEAD~1"))
    assert found == {"config/recipes/cifar10.yaml": {"learning_rate": {"old": 0.004, "new": 0.002, "diff": -0.002}}}


def test_every_plot_shows_its_data_on_axes_that_are_columns_of_it(repository: Repository) -> None:
    """The name of a number has dots, which Vega would read as a mapping in a mapping."""
    found = plots(repository.dvc("plots", "show", "--json"))
    lines = {name: points(plot) for name, plot in found.items() if plot["type"] == "vega"}
    for name, values in lines.items():
        content = found[name]["content"]
        axes = (json.loads(content) if isinstance(content, str) else content)["encoding"]
        fields = [axes[axis]["field"] for axis in ("x", "y", "color")]
        assert {field.replace("\\.", ".") for field in fields} <= set(values[0]), name
        assert not any("." in field.replace("\\.", "") for field in fields), name
        assert "<DVC_METRIC" not in json.dumps(content), name
    table = (repository.root / "results/small/plots/networks.csv").read_text()
    assert [value["classification.top1"] for value in lines["small-top1-by-kernel"] if value["run"] == RUN] == ["71.5"]
    assert len(lines["small-top1-by-kernel"]) == len(table.splitlines()) - 1
    loss = [value for value in lines["small-loss"] if value["series"] == RUN]
    assert (len(loss), loss[0]["loss"]) == (226, "9.75")
    figures = [plot for plot in found.values() if plot["type"] == "image"]
    assert len(figures) == 7 and all(Path(plot["url"]).read_text().startswith("<?xml") for plot in figures)


def test_nothing_that_is_listed_is_missing_and_every_series_is_drawn() -> None:
    listed = yaml.safe_load((project_root() / "dvc.yaml").read_text())
    assert "stages" not in listed
    drawn = [name for entry in listed["plots"] for name in _files(entry)]
    for name in (*listed["metrics"], *listed["params"], *drawn):
        assert (project_root() / name).exists(), name
    tables = (project_root() / "results" / "small" / "plots").rglob("*.csv")
    assert {path.relative_to(project_root()).as_posix() for path in tables} <= set(drawn)


def _files(entry: str | dict[str, Any]) -> list[str]:
    return [entry] if isinstance(entry, str) else [name for plot in entry.values() for name in plot["y"]]
