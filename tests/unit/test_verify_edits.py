"""`lska verify`: edits that leave seals as they are, or take them away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from proven import Proven, edit

from lska.provenance import write_sealed
from lska.verify import Finding


def only(scale: Proven) -> Finding:
    """The one thing that is broken."""
    (finding,) = scale.broken()
    return finding


def test_a_number_given_twice_is_found_although_programs_read_the_last(scale: Proven) -> None:
    text = scale.metrics.read_text()
    scale.metrics.write_text(text.replace('"top1": {', '"top1": {\n      "value": 99.0,'))
    assert json.loads(scale.metrics.read_text()) == json.loads(text)
    file, said = only(scale).file, only(scale).text
    assert file == scale.metrics and "the name 'value' is given twice" in said


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_found_in_its_file(scale: Proven, number: str) -> None:
    value = json.loads(scale.metrics.read_text())["metrics"]["top1"]["value"]
    scale.metrics.write_text(scale.metrics.read_text().replace(f'"value": {value!r}', f'"value": {number}'))
    file, said = only(scale).file, only(scale).text
    assert file == scale.metrics and f"expected a finite number, found {number!r}" in said


def test_an_edited_file_without_a_seal_is_found_by_the_commit(scale: Proven, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(scale.sidecar.read_text())
    del content["seal"]
    scale.sidecar.write_text(json.dumps(content))
    committed = {scale.sidecar: scale.sidecar.read_text()}
    monkeypatch.setattr("lska.verify.files.committed_text", committed.get)
    assert scale.broken() == []
    edit(scale.sidecar, "environment.hardware", lambda name: "a faster processor")
    assert (only(scale).file, only(scale).place) == (scale.sidecar, "environment.hardware")
    assert "a faster processor" in only(scale).text


def test_a_removed_seal_is_found_by_the_commit(scale: Proven, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = {scale.sidecar: scale.sidecar.read_text()}
    monkeypatch.setattr("lska.verify.files.committed_text", committed.get)
    content = json.loads(scale.sidecar.read_text())
    del content["seal"]
    scale.sidecar.write_text(json.dumps(content))
    assert (only(scale).file, only(scale).place) == (scale.sidecar, "seal")


def test_a_byte_of_imported_weights_is_found_too(scale: Proven) -> None:
    path = Path("checkpoints/test/imported.safetensors")
    path.write_bytes(b"weights")
    write_sealed(path.with_suffix(".json"), {"origin": "imported", "md5": "0" * 32, "run": "imported"})
    assert (only(scale).file, only(scale).place) == (path.with_suffix(".json"), "md5")
