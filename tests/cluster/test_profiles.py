"""The profiles in a fresh clone: what is planned, and one machine with several GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from whole_project import PROJECT, Project, copy_project

pytestmark = pytest.mark.timeout(300)

SECONDS_TO_PLAN = 15
DOCUMENT = PROJECT / "docs" / "reproduce.md"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone of the project's last commit."""
    if not (PROJECT / ".git").exists():
        pytest.skip("the project is no git checkout, so there is nothing to clone")
    root = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True)
    return Project(root)


@pytest.fixture(scope="module")
def planned(clone: Project) -> tuple[dict[str, int], float]:
    """Jobs per rule that a dry run in the clone plans for all tables of the paper, and the processor seconds it took.

    Wall time would tell of what else the machine does.
    """
    before = os.times()
    counts = clone.planned("--profile", "slurm", "all_tables")
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])
    return counts, seconds


@pytest.fixture(scope="module")
def plan(clone: Project) -> dict[str, Any]:
    """What `lska plan` says of the same."""
    return json.loads(clone.run("lska", "plan", "all_tables", "--config", "config/paper.yaml", "--json").stdout)


def test_every_run_of_every_table_is_planned(planned: tuple[dict[str, int], float], plan: dict[str, Any]) -> None:
    counts, _ = planned
    trained = {job["wildcards"]["run"] for job in plan["jobs"] if job["rule"] == "train"}
    assert counts["train"] == len(trained) == 43
    assert counts["fine_tune"] == counts["dense"] == 50
    tables = [rule for rule in counts if rule.startswith("notebook_table_")]
    assert len(tables) == 17 and sum(counts.values()) == len(plan["jobs"])


def test_planning_is_fast(planned: tuple[dict[str, int], float]) -> None:
    assert planned[1] < SECONDS_TO_PLAN


def test_the_documented_counts_are_those_of_the_dry_run(planned: tuple[dict[str, int], float]) -> None:
    counts: dict[str, int] = {}
    for rule, number in planned[0].items():
        name = re.sub(r"_\d+$", "_N", rule)
        counts[name] = counts.get(name, 0) + number
    counts.pop("all_tables")
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (\d+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert {rule: int(number) for rule, number in rows} == counts


def hours(value: float) -> str:
    """GPU-hours as the document writes them."""
    if value < 0.01:
        return "<0.01" if value else ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.1g}"


def test_the_documented_hours_are_those_of_the_plan(plan: dict[str, Any]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+?)(?:_N)?` \| \w+ \| \d+ \|(?: (\S+))?", text, re.MULTILINE)
    expected = {rule: hours(cost["gpu_hours"]) for rule, cost in plan["rules"].items() if rule != "notebook"}
    assert {rule: value.strip("|") for rule, value in rows if rule != "notebook_table"} == expected
    assert f"In all {hours(plan['totals']['gpu_hours'])} GPU-hours" in " ".join(text.split())


STAND_IN = """#!/usr/bin/env python3
import json, os, pathlib, sys, time
from lska.train.gpus import take
folder = pathlib.Path(__file__).parent
run = next(word for word in sys.argv if word.startswith("van_"))
gpus = take(1)
started = time.monotonic()
time.sleep(0.7)
for path in map(pathlib.Path, json.loads((folder / "outputs.json").read_text())[run]):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
record = json.dumps(dict(run=run, gpus=gpus, started=started, ended=time.monotonic())) + chr(10)
number = os.open(folder / "jobs.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(number, record.encode())
"""


def test_a_workstation_starts_no_more_gpu_jobs_than_gpus_each_on_its_own(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project.root / "mine.yaml").write_text("{training: {gpus: 1, threads: 1}}\n", encoding="utf-8")
    record = project.root / "results" / "demo" / "data" / "shapes.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"name": "shapes", "digest": "sha256:as checked"}), encoding="utf-8")
    # Generated images that are gone would be made again.
    images = record.parent / "shapes" / "train"
    images.mkdir(parents=True)
    runs = [f"van_tiny-{attention}-k{kernel}-s0" for attention in ("lka", "lska") for kernel in (7, 23, 53)]
    outputs = {run: [f"checkpoints/demo/{run}.safetensors", f"checkpoints/demo/{run}.json",
                     f"results/demo/training/{run}.jsonl"] for run in runs}  # fmt: skip
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
    (shims / "lska").write_text(STAND_IN, encoding="utf-8")
    (shims / "lska").chmod(0o755)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3,5", "PYTHONPATH": str(project.root / "src")}
    environment["PATH"] = os.pathsep.join([str(shims), str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        ["snakemake", "--profile", "workstation", "--cores", "8", "--configfile", "config/demo.yaml", "mine.yaml",
         "--", *(files[0] for files in outputs.values())],
        cwd=project.root, env=environment, text=True, capture_output=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [json.loads(line) for line in (shims / "jobs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(job["run"] for job in jobs) == sorted(runs)
    assert {job["gpus"][0] for job in jobs} == {"3", "5"}
    for job in jobs:
        running = [other for other in jobs if other["started"] <= job["started"] < other["ended"]]
        assert len(running) <= 2
        assert len({other["gpus"][0] for other in running}) == len(running)
