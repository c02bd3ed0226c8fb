"""GPUs of one machine among several jobs, by stand-ins for their names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import lska.cli
from lska.cli import main
from lska.settings.scale import Config
from lska.train.gpus import VARIABLE, take, visible
from lska.train.launcher import MEETING


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with GPUs 0 to 3 and lock files of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv(VARIABLE, "0,1,2,3")
    for name in ("SLURM_JOB_ID", MEETING, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def holder(count: int, *then: str) -> subprocess.Popen[str]:
    """Another process that has taken GPUs, names them on its first line and waits."""
    command = then or ("sh", "-c", f"echo ${VARIABLE}; exec sleep 60")
    words = [sys.executable, "-m", "lska", "gpus", str(count), *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_jobs_beside_each_other_get_different_gpus_and_a_killed_one_gives_them_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with holder(1) as first, holder(2) as second:
        theirs = [name for process in (first, second) for name in process.stdout.readline().strip().split(",")]
        assert take(2, wait_seconds=0.1) == ["0", "1"]
        assert "other jobs have all GPUs but fewer than 2" in caplog.text
        os.environ[VARIABLE] = "0,1,2,3"
        mine = take(1)
        first.kill()
        second.kill()
    assert sorted([*theirs, *mine]) == ["0", "1", "2", "3"]
    assert os.environ[VARIABLE] == mine[0]
    os.environ[VARIABLE] = ",".join(theirs)
    assert sorted(take(3, wait_seconds=5)) == sorted(theirs)


def test_gpus_stay_taken_while_a_child_of_the_job_lives(caplog: pytest.LogCaptureFixture) -> None:
    with holder(4, "sh", "-c", f"sleep 3 & echo ${VARIABLE} $!") as process:
        process.stdout.readline()
        process.wait()
        started = time.monotonic()
        assert take(1, wait_seconds=20) == ["0"]
    assert time.monotonic() - started > 1
    assert "sharing" not in caplog.text


def test_too_few_gpus_are_an_error_and_whoever_got_some_from_a_launcher_keeps_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpus", "8", "true"]) == 1
    assert "8 GPUs are wanted and this machine has 4 (CUDA_VISIBLE_DEVICES: 0, 1, 2, 3)" in capsys.readouterr().err
    for name, value in {MEETING: "file:/a", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert take(1) == [] and os.environ[VARIABLE] == "0,1,2,3"


def test_jobs_in_one_slurm_allocation_share_what_is_more_than_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert take(4) == take(5) == [], "a step that got exactly its own keeps them"
    with holder(1) as process:
        assert process.stdout.readline() == "0\n"
        assert take(2) == ["1", "2"]
        monkeypatch.setenv(VARIABLE, "0,1")
        monkeypatch.setenv("SLURM_JOB_ID", "2")
        assert take(1) == ["0"], "that of another allocation, whose GPUs are numbered from 0 as well"
        process.kill()
    monkeypatch.delenv(VARIABLE)
    assert take(1) == [], "Slurm does not say which are this job's"


def test_jobs_without_gpu_and_machines_without_gpu_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert take(0) == []
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible() == [] and take(1) == []
    assert VARIABLE not in os.environ
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: GPU-a)'\necho 'GPU 1: two (UUID: GPU-b)'\n")
    script.chmod(0o755)
    assert visible() == ["0", "1"]


class TakenError(Exception):
    """Carries how many GPUs a command wants."""


DETECTOR = ("van_tiny-lska-k7-s0", "--task", "detection/retinanet")


COMMANDS: list[tuple[list[str], dict[str, Any]]] = [
    (["train", "van_tiny-lska-k7-s0"], {"training": {"gpus": 1}}),
    (["train", *DETECTOR], {"detection": {"heads": {"retinanet": {"gpus": 1}}}}),
    (["evaluate", "classification"], {"evaluation": {"gpus": 1}}),
    (["evaluate", "speed"], {"speed": {"gpus": 1}}),
    (["evaluate", "dense", *DETECTOR], {"detection": {"evaluation": {"gpus": 1}}}),
    (["evaluate", "robustness", "r"], {"robustness": {"evaluation": {"gpus": 1}}}),
    (["evaluate", "shape_texture"], {"shape_texture": {"evaluation": {"gpus": 1}}}),
    (["evaluate", "texture_knn"], {"texture_knn": {"evaluation": {"gpus": 1}}}),
    (["evaluate", "receptive_field"], {"receptive_field": {"evaluation": {"gpus": 1}}}),
]


def test_commands_take_the_gpus_of_their_section(
    bare: Config, monkeypatch: pytest.MonkeyPatch, logging_as_before: None
) -> None:
    def record(count: int) -> None:
        raise TakenError(count)

    monkeypatch.setattr(lska.cli, "take", record)
    monkeypatch.setattr(lska.cli, "require_data", lambda *names: None)
    monkeypatch.setenv("LSKA_TRACEBACK", "1")
    for words, settings in COMMANDS:
        for changes, count in ((settings, 1), ({}, 0)):
            with pytest.raises(TakenError) as taken:
                main([*words, "--config", "config/demo.yaml", "--set", json.dumps(changes)])
            assert taken.value.args == (count,), words
