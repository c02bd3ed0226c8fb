"""`lska verify` names every damaged file and still checks all the others; what killed processes left is no result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lska.config import load
from lska.files import write_json
from lska.provenance import project_root, seal_of
from lska.verify import Level, to_text, verify

Damage = Callable[[Path], object]
RESULTS, WEIGHTS = Path("results/small"), Path("checkpoints/small")
METRICS = RESULTS / "metrics"
DEEP = "[" * 100_000


def text(content: str) -> Damage:
    return lambda path: path.write_text(content)


def raw(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def failing(path: Path) -> None:
    """A regular file that fails when it is read, as on a broken disk."""
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/self/mem")


def says(**fields: Any) -> Damage:
    """Other fields under a new seal."""

    def change(path: Path) -> None:
        content = json.loads(path.read_text()) | fields
        write_json(path, content | {"seal": seal_of(content)})

    return change


DAMAGED: dict[Path, tuple[Damage, str]] = {
    METRICS / "classification/van_tiny-lka-k7-s0.json": (text(DEEP), "nested more than 64 deep"),
    METRICS / "classification/van_tiny-lka-k23-s0.json": (says(started="2026-02-31T99:00:00"), "started: '2026-02-31"),
    METRICS / "classification/van_tiny-lka-k53-s0.json": (text('{"a": ' + "9" * 5000 + "}"), "number of 5000 digits"),
    METRICS / "classification/van_tiny-lska-k7-s0.json": (says(metrics=[1]), "metrics: [1] is not of type 'object'"),
    METRICS / "classification/van_tiny-lska-k23-s0.json": (raw(b'{"a": "\xff"}'), "the byte 0xff is no UTF-8"),
    METRICS / "classification/van_tiny-lska-k53-s0.json": (pipe, "found a named pipe"),
    METRICS / "speed/van_tiny-lska-k53-s0.json": (folder, "found a folder"),
    METRICS / "speed/van_tiny-lska-k7-s0.json": (text("[]"), "expected a mapping, found a list"),
    METRICS / "texture_knn/van_tiny-lska-k7-s0.npz": (pipe, "found a named pipe"),
    METRICS / "robustness/c/van_tiny-lska-k23-s0.json": (
        says(data={"name": "/etc/passwd", "digest": "sha256:" + "0" * 64}), "data.name: '/etc/passwd'"
    ),
    RESULTS / "claims/claims.json": (text(DEEP), "nested more than 64 deep"),
    RESULTS / "claims/claims.md": (raw(b"\xff"), "the byte 0xff is no UTF-8"),
    RESULTS / "claims/claims.html": (pipe, "found a named pipe"),
    RESULTS / "summary/van_tiny-lka-k7-s0.json": (text(DEEP), "nested more than 64 deep"),
    RESULTS / "summary/van_tiny-lka-k23-s0.json": (folder, "found a folder"),
    RESULTS / "plots/networks.csv": (raw(b"\xff"), "the byte 0xff is no UTF-8"),
    RESULTS / "data/cifar10.json": (text(DEEP), "nested more than 64 deep"),
    RESULTS / "data/camvid.json": (says(splits=[1]), "splits: [1] is not of type 'object'"),
    RESULTS / "data/generated_textures.json": (pipe, "found a named pipe"),
    Path("paper/table_03.csv"): (raw(b"table,row\xff"), "the byte 0xff is no UTF-8"),
    Path("paper/table_08.csv"): (pipe, "found a named pipe"),
    RESULTS / "tables/table_04.csv": (pipe, "found a named pipe"),
    RESULTS / "tables/table_04.md": (folder, "found a folder"),
    RESULTS / "tables/table_11.csv": (text('row,column\n"' + "y" * 200_000 + '",1\n'), "field larger than field limit"),
    RESULTS / "tables/table_12.md": (raw(b"\xff\x00"), "the byte 0xff is no UTF-8"),
    RESULTS / "training/van_tiny-lska-k23-s0.jsonl": (text(DEEP), "nested more than 64 deep"),
    RESULTS / "training/van_tiny-lska-k53-s0.jsonl": (pipe, "found a named pipe"),
    RESULTS / "training/segmentation/semantic_fpn/van_tiny-lska-k23-s0.jsonl": (dangling, "is a link to "),
    WEIGHTS / "detection/retinanet/van_tiny-lka-k23-s0.safetensors": (Path.mkdir, "found a folder"),
    WEIGHTS / "van_tiny-lska-k53-s0.safetensors": (dangling, "is a link to "),
    METRICS / "texture_knn/van_tiny-lska-k23-s0.npz": (failing, "cannot be read (Input/output error)"),
    METRICS / "texture_knn/van_tiny-lska-k53-s0.json": (failing, "cannot be read (Input/output error)"),
    RESULTS / "fields/van_tiny-lska-k53-s0.npz": (failing, "cannot be read (Input/output error)"),
    WEIGHTS / "van_tiny-lka-k7-s0.json": (says(updates="7", images_seen=[1], spec=5), "3 problem(s): spec: expected"),
    WEIGHTS / "van_tiny-lka-k23-s0.json": (circle, "cannot be read (Too many levels of symbolic links)"),
    WEIGHTS / "detection/retinanet/van_tiny-lska-k23-s0.json": (says(data=[1]), "data: expected a mapping or null"),
    WEIGHTS / "van_tiny-lka-k53-s0.json": (pipe, "found a named pipe"),
    WEIGHTS / "van_tiny-lska-k7-s0.json": (text(DEEP), "nested more than 64 deep"),
    WEIGHTS / "segmentation/semantic_fpn/van_tiny-lka-k23-s0.json": (says(backbone="x", task=5), "2 problem(s): task"),
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed small scale without weights."""
    for place in (Path("config"), Path("paper"), RESULTS, WEIGHTS):
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(project_root() / place, tmp_path / place, ignore=ignored)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_damaged_file_is_named_and_all_others_are_checked(small: Path) -> None:
    for path, (damage, _) in DAMAGED.items():
        damage(path)
    (METRICS / "speed/\x1b[31mred.json").write_text("{")
    report = verify(load([Path("config/small.yaml")]))
    found = {(finding.file, finding.text) for finding in report.of(Level.BROKEN)}
    unnamed = [
        path for path, (_, said) in DAMAGED.items() if not any(file == path and said in told for file, told in found)
    ]
    assert unnamed == []
    assert report.checked["tables"] == 17
    printed = to_text(report)
    assert "\x1b" not in printed and "\\u001b[31mred.json" in printed and max(map(len, printed.split("\n"))) < 300


def test_what_a_killed_process_left_is_no_result(small: Path) -> None:
    for place in (METRICS / "classification", WEIGHTS, RESULTS / "data", RESULTS / "summary", RESULTS / "plots"):
        for name in (".van_tiny-lka-k23-s0.json.0idvpfee.tmp.json", ".n.csv.ab1_9xyz.tmp.csv", ".x.abcd1234.tmp"):
            (place / name).write_text("{")
        (place / ".folder.abcd1234.tmp.json").mkdir()
        (place / ".folder.abcd1234.tmp.json" / "inner.json").write_text("{")
    report = verify(load([Path("config/small.yaml")]))
    left = [found for found in report.findings if any(part.startswith(".") for part in found.file.parts)]
    assert (list(report.of(Level.BROKEN)), left) == ([], [])
