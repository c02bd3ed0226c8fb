"""Another attention, as docs/extend.md has it: the page is applied to a copy of the project, and run there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_versions import state

from lska.provenance.files import read_json
from lska.settings.versions import MEASUREMENTS

PROJECT = Path(__file__).resolve().parents[2]
PARTS = (
    "src", "config", "paper", "workflow", "notebooks", "Snakefile", "envs", "checkpoints/small",
    "results/small/metrics", "results/small/data", "tests/versions.json", "tests/unit/test_versions.py",
)  # fmt: skip


class Block(NamedTuple):
    """A block of code of a page and its language."""

    language: str
    text: str


def section(heading: str) -> str:
    """What stands below a heading of the page."""
    page = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
    return page.partition(f"## {heading}\n")[2].partition("\n## ")[0]


class Copy(NamedTuple):
    """A copy of the project."""

    folder: Path

    def change(self, file: str, before: str, after: str) -> None:
        """Put `after` in the place of `before`, which stands in a file exactly once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{file} has {text.count(before)} times\n{before}"
        path.write_text(text.replace(before, after), encoding="utf-8")

    def apply(self, diff: str) -> None:
        """Change the file that a diff names."""
        head, *lines = diff.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in (" ", sign)) for sign in "-+")
        self.change(head.removeprefix("--- ").strip(), before, after)

    def run(self, *command: str) -> str:
        """What a command says."""
        unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
        environment = {name: value for name, value in os.environ.items() if name not in unwanted}
        environment["PYTHONPATH"] = str(self.folder / "src")
        ran = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def python(self, text: str, *arguments: str) -> str:
        """What a script prints."""
        return self.run(sys.executable, "-c", text, *arguments)


@pytest.fixture(scope="module")
def page() -> list[Block]:
    """The blocks of code, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section("Another attention"), re.MULTILINE | re.DOTALL)
    return [Block(*one) for one in found]


@pytest.fixture(scope="module")
def extended(page: list[Block], tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy with all that the page adds, but the last change."""
    folder = tmp_path_factory.mktemp("copy")
    for part in PARTS:
        place = folder / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / part).is_dir():
            shutil.copytree(PROJECT / part, place, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
        else:
            shutil.copy(PROJECT / part, place)
    (folder / "src/lska/models/msca.py").write_text(page[0].text, encoding="utf-8")
    copy = Copy(folder)
    for diff in [block.text for block in page if block.language == "diff"][:-1]:
        copy.apply(diff)
    return copy


KERNELS = (7, 11, 23, 35, 53)
COUNTED = f"""
KERNELS = {KERNELS}
import json, sys
from pathlib import Path
from lska.evaluate.efficiency import measure_complexity
from lska.models.runs import Run
from lska.settings.scale import load
from lska.tables.table_formats import build_table

config = load([Path("config/small.yaml")])
runs = [Run(model, "msca", 23, 0) for model in ("van_small", "van_base")]
runs += [Run("van_tiny", "msca", kernel, 0) for kernel in KERNELS]
measure_complexity(config.measurement("complexity"), runs)
build_table("table_03", config, [Path("table_03.md")])
build_table("figure_01", config, [Path("figure_01.svg")])

sys.path.append("tests/unit")
from test_versions import RECORD, today, unnoticed
found = today()
changed = [name for name in unnoticed(json.loads(RECORD.read_text()), found) if name.startswith("attention")]
print(json.dumps([changed, found["complexity"]]))
"""

OUTDATED = """
import json, sys
from pathlib import Path
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml

file = Path(f"config/{sys.argv[1]}.yaml")
plan = Plan(read_yaml(file), [file], json.loads(sys.argv[2]))
print(json.dumps({name: reason for name, reason in plan.decided.pending.items() if "version" in reason}))
"""
TINY = {
    "data": {"generate": {"train_per_class": 20, "val_per_class": 10}},
    "training": {"overrides": {"epochs": 1}},
    "architecture": {"van_tiny": {"depths": [1, 1, 1, 1]}},
}
"""A training of seconds, over the demo's settings."""
RUN = "van_tiny-msca-k23-s0"


def test_the_network_is_there_with_its_counts_its_rows_and_a_curve(extended: Copy, page: list[Block]) -> None:
    snippet, printed, rows = (page[number].text for number in (2, 3, 5))
    extended.change("src/lska/tables/specs/figure_01.yaml", "lka, lska]", "lka, lska, msca]")
    said = extended.python(snippet + COUNTED)
    assert said.startswith(printed) and json.loads(said.removeprefix(printed)) == [
        ["attention msca"], state(MEASUREMENTS["complexity"])
    ], "the new attention is to be recorded, and nothing else"
    table = (extended.folder / "table_03.md").read_text(encoding="utf-8").splitlines()
    assert rows.splitlines() == [line for line in table if "MSCA" in line]
    assert ">MSCA<" in (extended.folder / "figure_01.svg").read_text(encoding="utf-8")
    metrics = read_json(extended.folder / "results/small/metrics/complexity" / f"{RUN}.json")["metrics"]
    taps = 25 + 2 * (7 + 11 + 23)
    widths = [width for width, depth in ((32, 3), (64, 3), (160, 5), (256, 2)) for _ in range(depth)]
    assert metrics["depthwise_params"]["value"] == sum(widths) * (taps + 7)
    assert metrics["receptive_field"]["value"] == 27


def test_the_plan_has_its_trainings(extended: Copy, page: list[Block]) -> None:
    said = extended.run(str(Path(sys.executable).with_name("lska")), "plan", "table_03").splitlines()
    assert [line for line in page[7].text.splitlines() if line not in said] == []


def outdated(extended: Copy, diff: str, scale: str, settings: dict[str, Any]) -> dict[str, str]:
    """What the last change of the page has made anew at a scale, with the reasons."""
    designs = extended.folder / "src/lska/models/designs.py"
    before = designs.read_text(encoding="utf-8")
    asked = extended.python(OUTDATED, scale, json.dumps(settings))
    extended.apply(diff)
    found = extended.python(OUTDATED, scale, json.dumps(settings))
    designs.write_text(before, encoding="utf-8")
    assert asked == "{}\n"
    return json.loads(found)


def test_a_raised_version_outdates_what_was_measured_before(extended: Copy, page: list[Block]) -> None:
    reason = "measured with version 1 of msca, which is at version 2"
    assert f"`{reason}`" in section("Another attention").replace("\n", " ")
    networks = [f"van_tiny-msca-k{kernel}-s0" for kernel in KERNELS] + ["van_small-msca-k23-s0", "van_base-msca-k23-s0"]
    expected = dict.fromkeys((f"metrics/complexity/{network}" for network in networks), reason)
    assert outdated(extended, page[-1].text, "small", {}) == expected


@pytest.mark.slow
def test_a_training_and_what_becomes_of_it_with_a_raised_version(extended: Copy, page: list[Block]) -> None:
    metrics = f"results/demo/metrics/classification/{RUN}.json"
    settings = [f"{name}={json.dumps(value)}" for name, value in TINY.items()]
    extended.run(sys.executable, "-m", "snakemake", "--cores", "2", "--config", *settings, "--", metrics)
    assert read_json(extended.folder / metrics)["metrics"]["top1"]["n"] == 100
    reason = "trained otherwise: attention_version None -> 2"
    assert f"`{reason}`" in section("Another attention").replace("\n", " ")
    measured = "measured with version 1 of msca, which is at version 2"
    expected = {f"weights/{RUN}": reason, f"metrics/classification/{RUN}": measured}
    assert outdated(extended, page[-1].text, "demo", TINY) == expected
