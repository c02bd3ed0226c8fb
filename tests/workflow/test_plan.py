"""`lska plan` beside Snakemake's own dry run: the same jobs, and a folder that is left as it was."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lska.models.runs import Run
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml, write_json
from lska.provenance.metric_files import file_md5
from lska.provenance.outcomes import outcomes_path

pytestmark = pytest.mark.timeout(900)

RUN = "van_tiny-lska-k23-s0"


def plan(project: Any, *arguments: str) -> dict[str, Any]:
    """What `lska plan --json` prints in a copy of the project."""
    done = project.run("lska", "plan", "--json", *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def jobs_of(said: str) -> Counter[tuple[str, frozenset[str]]]:
    """Rule and outputs of every job that a dry run prints; of those with a message, the network in place of outputs."""
    blocks = re.split(r"\n(?=(?:local)?rule |Job \d+: )", said)[1:]
    found = []
    for block in blocks:
        if message := re.match(r"Job \d+: (fetch|train) (\S+): ", block):
            found.append((message[1], frozenset([message[2]])))
            continue
        rule = re.match(r"(?:local)?rule (\S+):", block)[1]
        outputs = re.search(r"^    output: (.*)$", block, re.MULTILINE)
        found.append((rule, frozenset(outputs[1].split(", ") if outputs else ())))
    return Counter(found)


def planned_of(document: dict[str, Any]) -> Counter[tuple[str, frozenset[str]]]:
    return Counter(_named(job["rule"], job["outputs"]) for job in document["jobs"])


def _named(rule: str, outputs: list[str]) -> tuple[str, frozenset[str]]:
    """A job as `jobs_of` has it."""
    if rule not in ("fetch", "train", "fine_tune"):
        return rule, frozenset(outputs)
    (weights,) = [path for path in outputs if path.endswith(".safetensors")]
    name = weights.removesuffix(".safetensors").split("/", 2)[2]
    return "fetch" if rule == "fetch" else "train", frozenset([name])


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder, but for Python's own caches and the folders that they are in."""
    return {
        str(path.relative_to(root)): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if "__pycache__" not in path.parts and not (path.is_dir() and path.is_relative_to(root / "src"))
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "config/demo.yaml"],
        ["table_04", "--configfile", "config/paper.yaml"],
        ["results/demo/metrics/classification/van_tiny-lska-k7-s0.json", "all_figures", "--config", "config/demo.yaml"],
    ],
)
def test_the_plan_is_the_dry_run(project, arguments: list[str]) -> None:
    document = plan(project, *arguments)
    options = ["--configfile" if argument == "--config" else argument for argument in arguments]
    place = options.index("--configfile")
    said = project.snakemake("--dry-run", *options[place:], "--", *options[:place])
    assert planned_of(document) == jobs_of(said)
    ids = {job["id"] for job in document["jobs"]}
    assert all(set(job["needs"]) <= ids for job in document["jobs"])


def test_settings_change_the_plan_as_they_change_the_dry_run(project) -> None:
    changes = {"runs": [{"model": "van_tiny", "attention": "lska", "kernel": 7, "seed": 3}], "robustness": None,
               "shape_texture": None, "texture_knn": None, "receptive_field": None, "detection": None,
               "segmentation": None, "architecture": {}}  # fmt: skip
    (project.root / "changes.yaml").write_text(json.dumps(changes))
    said = project.snakemake("--dry-run", "--configfile", "config/small.yaml", "changes.yaml", "--", "all")
    document = plan(project, "--config", "config/small.yaml", "--set", json.dumps(changes))
    assert planned_of(document) == jobs_of(said)
    assert document["rules"]["train"]["jobs"] == 1


def test_planning_leaves_the_folder_as_it_was_also_where_a_pass_is_outdated(project) -> None:
    root = project.root
    weights = root / "checkpoints" / "demo" / f"{RUN}.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    write_json(weights.with_suffix(".json"), {"recipe": "sha256:old", "md5": file_md5(weights), "origin": "trained"})
    for task in ("shape_texture", "robustness/c", "classification"):
        write_json(root / "results" / "demo" / "metrics" / task / f"{RUN}.json", {"weights": {"md5": "y"}})
    before = state(root)
    document = plan(project)
    assert state(root) == before
    # A dry run itself makes Snakemake's own folder, and nothing else.
    assert planned_of(document) == jobs_of(project.snakemake("--dry-run", "--", "all"))
    assert {path for path in state(root).keys() - before.keys() if not path.startswith(".snakemake")} == set()
    # And what Snakemake has written there changes no plan.
    before = state(root)
    assert planned_of(plan(project)) == planned_of(document) and state(root) == before


def test_what_has_run_is_not_planned_and_what_changed_is_with_its_reason(demo) -> None:
    assert plan(demo)["totals"]["jobs"] == 0
    changes = {"training": {"overrides": {"label_smoothing": 0.15}}}
    document = plan(demo, "table_03", "--set", json.dumps(changes))
    trained = [job for job in document["jobs"] if job["rule"] == "train"]
    assert trained and all(job["reason"] == "trained otherwise: label_smoothing 0.1 -> 0.15" for job in trained)
    scored = {job["reason"] for job in document["jobs"] if job["rule"] == "classification"}
    assert scored == {"its weights are to be made anew"}
    # All of it was done here before, so that the estimate rests on that alone.
    assert all("this scale" in source for job in trained for source in job["sources"])
    assert {job["rule"] for job in document["jobs"] if job["rule"] in ("train", "classification")
            and job["seconds"] is None} == set()  # fmt: skip


@pytest.mark.parametrize("weights_first", [True, False])
def test_a_changed_recipe_is_trained_anew_whatever_the_times_of_files(project, weights_first: bool) -> None:
    """As in a copy of results, of which Snakemake remembers nothing."""
    root, config = project.root, Path("config/demo.yaml")
    put_demo(root, config)
    asked = ["results/demo/metrics/classification/van_tiny-lska-k23-s0.json", "--config", str(config)]
    for age, pattern in enumerate(["results/demo/data/*", "checkpoints/demo/*", "results/demo/metrics/*/*"]):
        for path in root.glob(pattern):
            moment = 1e9 + (age if weights_first else -age)
            os.utime(path, (moment, moment))
    if weights_first:
        assert plan(project, *asked)["totals"]["jobs"] == 0
    document = plan(project, *asked, "--set", '{"training": {"overrides": {"label_smoothing": 0.15}}}')
    assert Counter(job["rule"] for job in document["jobs"])["train"] == 1
    assert Counter(job["rule"] for job in document["jobs"])["classification"] == 1
    # Nothing beyond what was asked for.
    assert {job["rule"] for job in document["jobs"]} <= {"data", "train", "classification"}


def put_demo(root: Path, config: Path) -> None:
    """Weights of two networks of the demo, by today's recipe, and what was measured on them."""
    made = Plan(read_yaml(root / config), [config], {})
    write_json(root / made.config.images.record, {"digest": "sha256:data"})
    for run in (Run.parse(RUN), Run.parse(RUN.replace("k23", "k7"))):
        weights, metrics = root / made.config.weights_path(run), root / made.config.metric_path("classification", run)
        log = root / made.config.training_log(run)
        for path in (weights, log, metrics):
            path.parent.mkdir(parents=True, exist_ok=True)
        weights.write_text(str(run))
        log.write_text("")
        md5, recipe = file_md5(weights), made.config.classifier(run).digest()
        write_json(weights.with_suffix(".json"), {"md5": md5, "recipe": recipe, "origin": "trained"})
        outcomes = outcomes_path(metrics)
        outcomes.write_bytes(b"outcomes")
        named = {"weights": {"md5": md5}, "outcomes": file_md5(outcomes)}
        write_json(metrics, {**named, "data": {"digest": "sha256:data"}})
