"""Other programs that are asked something: their answers, and the end of waiting for one."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lska.provenance import surroundings
from lska.provenance.surroundings import NoAnswerError, ask
from lska.train.gpus import VARIABLE, visible


def test_an_answer_comes_whole() -> None:
    program = (
        "import sys; print('x' * 200_000); print('complaint', file=sys.stderr); sys.exit(len(sys.stdin.read()) + 3)"
    )
    done = ask([sys.executable, "-c", program], 60)
    assert (done.returncode, len(done.stdout), done.stderr) == (3, 200_001, "complaint\n")
    joined = ask(["sh", "-c", "echo out; echo err >&2"], 60, stderr=subprocess.STDOUT)
    assert joined.stdout == "out\nerr\n" and joined.stderr is None
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        ask(["no-such-program"], 60)


def test_a_program_that_does_not_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(surroundings, "TELL_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match="sleeper: no answer within"):
        # A child of the program keeps its streams open.
        (tmp_path / "sleeper").write_text("#!/bin/sh\nsleep 30 &\necho $$ > number\nwait\n", encoding="utf-8")
        (tmp_path / "sleeper").chmod(0o755)
        ask([str(tmp_path / "sleeper")], 0.5, cwd=tmp_path)
    assert time.monotonic() - began < 20
    assert f"waiting for an answer of `{tmp_path / 'sleeper'}`" in caplog.text


def test_a_driver_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("lska.train.gpus._DRIVER_SECONDS", 0.5)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(NoAnswerError, match="nvidia-smi --list-gpus: no answer within"):
        visible()
