"""The documents' numbers are those of the committed metric files, and links between them lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import results_tables

from lska.claims.verdicts import Verdict

PROJECT = Path(__file__).resolve().parents[2]
METRICS = PROJECT / "results" / "small" / "metrics" / "classification"
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")), PROJECT / "bench" / "README.md"]
RESULTS = PROJECT / "docs" / "results.md"


TASKS = ("detection/retinanet", "segmentation/semantic_fpn")


@pytest.mark.parametrize("document", [DOCUMENTS[0], RESULTS], ids=lambda path: path.stem)
def test_tables_are_those_of_the_committed_results(document: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(PROJECT)
    text = document.read_text(encoding="utf-8")
    assert results_tables.MARK.search(text)
    assert results_tables.filled(text) == text, "python tests/unit/results_tables.py"


def test_readme_is_short():
    assert len(re.findall(r"[^\s|]*\w[^\s|]*", (PROJECT / "README.md").read_text(encoding="utf-8"))) <= 700


def test_small_weights_in_the_store_belong_to_their_pointers_sidecars_and_metrics():
    from lska.provenance.metric_files import file_md5
    from lska.provenance.sidecars import read_pointer

    tasks = {"": METRICS} | {task: METRICS.parent / task for task in TASKS}
    published = 0
    for task, path in [(task, path) for task, folder in tasks.items() for path in folder.glob("*.json")]:
        weights = PROJECT / "checkpoints" / "small" / task / f"{path.stem}.safetensors"
        sidecar = json.loads(weights.with_suffix(".json").read_text())
        assert sidecar["md5"] == json.loads(path.read_text())["weights"]["md5"]
        # Not all of them fit into the store.
        if (pointer := read_pointer(weights)) is not None:
            assert pointer.published(sidecar) and pointer.remote == "store"
            stored = PROJECT / "store" / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]
            assert file_md5(stored) == sidecar["md5"]
            published += 1
    assert published >= 8


def test_small_results_are_of_the_current_configuration(monkeypatch: pytest.MonkeyPatch):
    from lska.settings.scale import load

    monkeypatch.chdir(PROJECT)
    config = load([Path("config/small.yaml")])
    for run in config.runs:
        sidecar = json.loads(config.weights_path(run).with_suffix(".json").read_text())
        assert sidecar["recipe"] == config.classifier(run).digest(), run
    assert config.fine_tunings
    for job in config.fine_tunings:
        sidecar = json.loads(job.weights.with_suffix(".json").read_text())
        assert sidecar["recipe"] == job.digest(), job
        assert sidecar["backbone"]["md5"] == json.loads(job.backbone.with_suffix(".json").read_text())["md5"]


def test_small_results_leave_nothing_to_measure(monkeypatch: pytest.MonkeyPatch):
    from lska.pipeline.products import Plan
    from lska.provenance.files import read_yaml

    monkeypatch.chdir(PROJECT)
    file = Path("config/small.yaml")
    plan = Plan(read_yaml(file), [file], {})
    assert plan.config.measured
    assert [(one.name, list(map(str, one.runs))) for one in plan.passes] == []


def test_the_claims_are_counted_as_the_committed_verdicts_are():
    found = json.loads((PROJECT / "results" / "small" / "claims" / "claims.json").read_text(encoding="utf-8"))
    text = " ".join(RESULTS.read_text(encoding="utf-8").split())
    counts = found["counts"]
    said = re.search(
        r"judges (\d+) relative statements .* (\d+) hold, (\d+) (?:is|are) contradicted, "
        r"(\d+) differ only by the paper's rounding, (\d+) are within noise, "
        r"(\d+) were not run, and in (\d+) the paper contradicts itself",
        text,
    )
    assert tuple(map(int, said.groups())) == (len(found["claims"]), *(counts[verdict] for verdict in Verdict))


def anchors(document: Path) -> set[str]:
    """The names of a document's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings_that_are_there() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if not re.match(r"https?://", target):
                name, _, anchor = target.partition("#")
                path = (document.parent / name).resolve() if name else document
                assert path.exists(), f"{document.name} links to {target}, which is not there"
                assert not anchor or anchor in anchors(path), f"{document.name} links to {target}: no such heading"


def commands() -> list[tuple[str, list[str]]]:
    """Every call of `lska` in the documents' blocks, with its document and the words after `lska`."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^lska (.*)$", block, re.MULTILINE):
                found.append((document.name, shlex.split(line.replace("...", ""), comments=True)))
    return found


def test_commands_of_the_documents_are_as_the_command_line_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    from lska.cli import parser

    top, wrong = parser(), []
    assert len(commands()) > 50
    for document, words in commands():
        try:
            top.parse_args(words)
        except SystemExit:
            wrong.append(f"{document}: lska {' '.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")
    assert wrong == []


def test_commands_in_running_text_are_there() -> None:
    from lska.cli import check_command

    for document in DOCUMENTS:
        for words in re.findall(r"`lska ([a-z][^`]*)`", document.read_text(encoding="utf-8")):
            check_command(words.split())


PATH = re.compile(
    r"(?:^|[\s(`])((?:config|docs|envs|notebooks|paper|profiles|src|tests|workflow|bench)/[\w./*-]*\w)", re.MULTILINE
)
MADE = {
    "config/flowers.yaml",
    "config/recipes/flowers.yaml",
    "config/manifests/flowers.yaml",
    "src/lska/models/msca.py",
}
"""Files that the documents' commands write, or that they say to write."""


def test_files_that_the_documents_name_are_there() -> None:
    for document in DOCUMENTS:
        named = set(PATH.findall(document.read_text(encoding="utf-8"))) - MADE
        assert [path for path in sorted(named) if not any(PROJECT.glob(path))] == [], document.name
