"""Trainings in several real processes: exit codes, signals, lost launchers and nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lease_helpers import owned, said, until
from syrupy.assertion import SnapshotAssertion
from tiny_project import Project

from lska.provenance.errors import InputError
from lska.provenance.strict import merge
from lska.settings.scale import Config
from lska.train.launcher import exit_code, slurm_meeting

SLOWLY: dict[str, Any] = {"training": {"state_minutes": 0.0, "overrides": {"epochs": 20}}}
"""80 updates, each with its state: time enough to interrupt them."""
QUICKLY = merge(SLOWLY, {"training": {"state_minutes": 1.0}})
"""The same training, without states in between."""
UPDATES = 80


def test_the_common_exit_code() -> None:
    for codes, stopped, expected in (
        ([], False, 0),
        ([], True, 0),
        ([75, 75], False, 75),
        ([75, -signal.SIGKILL], False, 75),
        ([75, 1], False, 1),
        ([-signal.SIGTERM, 3], True, 3),
        ([-signal.SIGTERM], True, 75),
        ([-signal.SIGKILL], False, 137),
    ):
        assert exit_code(codes, stopped) == expected, codes


STEP = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_NNODES": "2", "SLURM_NTASKS": "2"}
SECOND = {**STEP, "SLURM_NODEID": "1"}


def test_all_nodes_of_a_step_meet_at_the_same_place_and_no_others_do() -> None:
    assert slurm_meeting(2, SECOND) == (1, "tcp:gpu03:19711/slurm-4711-0-0")
    for changes, expected in (
        ({"SLURM_NODEID": "0"}, (0, "tcp:gpu03:19711/slurm-4711-0-0")),
        ({"SLURM_JOB_ID": str(17_000 * 1000 - 1)}, (1, f"tcp:gpu03:31999/slurm-{17_000 * 1000 - 1}-0-0")),
        ({"SLURM_RESTART_COUNT": "1", "SLURM_STEP_ID": "3"}, (1, "tcp:gpu03:19711/slurm-4711-1-3")),
    ):
        assert slurm_meeting(2, {**SECOND, **changes}) == expected
    for nodes, first in {
        "gpu1,gpu2": "gpu1",
        "gpu[003-007,9],login": "gpu003",
        "rack[2-3]-node[01-16].cluster.example.org": "rack2-node01.cluster.example.org",
        "10.0.0.[5-6]": "10.0.0.5",
    }.items():
        assert slurm_meeting(2, {**SECOND, "SLURM_STEP_NODELIST": nodes})[1].startswith(f"tcp:{first}:19711/")


def test_what_cannot_be_launched_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, logging_as_before: None, snapshot: SnapshotAssertion
) -> None:
    from lska.cli import main

    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for words in ("--processes 2", "--processes 2 -- claims", "--processes 2 --nodes 2 -- train x"):
        assert main(["launch", *words.split()]) == 1
    told = [capsys.readouterr().err]
    bad = [{"SLURM_NODEID": ""}, {"SLURM_NNODES": "1"}, {"SLURM_JOB_ID": "x"}, {"SLURM_JOB_NODELIST": "gpu[1-2"}]
    for change in bad:
        with pytest.raises(InputError) as caught:
            slurm_meeting(2, {**SECOND, **change})
        told.append(f"{caught.value}\n")
    assert "".join(told) == snapshot


class Started:
    """Launchers of trainings, each a process of its own whose output is in a file."""

    def __init__(self, project: Project) -> None:
        self.project, self.all = project, []

    def __call__(self, changes: dict[str, Any], processes: int = 2, **environment: str) -> subprocess.Popen:
        words = ["--nodes", environment.get("SLURM_NNODES", "1"), "--processes", str(processes), "--", "train"]
        words += [str(self.project.run), "--config", "config.yaml", "--set", json.dumps(changes)]
        command = [sys.executable, "-m", "lska", "launch", *words]
        own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        with Path(f"launcher-{len(self.all)}.txt").open("wb") as stream:
            self.all.append(subprocess.Popen(command, stderr=stream, start_new_session=True, env=own))
        return self.all[-1]

    def said(self, process: subprocess.Popen) -> str:
        return Path(f"launcher-{self.all.index(process)}.txt").read_text()


def kill(launcher: subprocess.Popen) -> None:
    """End a launcher and its processes at once, as a lost node does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (*psutil.Process(launcher.pid).children(), launcher):
            process.kill()


@pytest.fixture
def start(project: Project) -> Iterator[Started]:
    started = Started(project)
    yield started
    for process in started.all:
        kill(process)
        process.wait()


def prepared(project: Project, changes: dict[str, Any]) -> Config:
    config = project.config(changes)
    project.prepare(config)
    return config


def training_for(project: Project, config: Config, updates: int) -> None:
    """Wait until the training has done some updates."""
    record = config.classifier(project.run).states / "train.jsonl"
    until(lambda: record.exists() and record.read_text().count("\n") >= updates, seconds=120)


def steps(project: Project, config: Config) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in project.states(config)]


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_the_state_and_ends_with_75(project: Project, start: Started) -> None:
    config = prepared(project, SLOWLY)
    launcher = start(SLOWLY)
    training_for(project, config, 3)
    family = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    opened = [one for process in family for one in process.net_connections("inet")]
    listening = {one.laddr.ip for one in opened if one.status == psutil.CONN_LISTEN}
    assert len(family) >= 3 and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 75
    done = steps(project, config)[-1]
    assert 3 <= done < UPDATES
    assert f"lska: stopped: received SIGTERM; state saved after update {done}" in start.said(launcher)
    assert not owned(config.classifier(project.run).states), "the next one has the folder at once"
    assert start(QUICKLY).wait(120) == 0
    assert [record["step"] for record in project.records(config)] == list(range(1, UPDATES + 1))


@pytest.mark.slow
def test_processes_end_with_a_launcher_that_was_killed(project: Project, start: Started) -> None:
    config = prepared(project, SLOWLY)
    folder = config.classifier(project.run).states
    launcher = start(SLOWLY)
    training_for(project, config, 3)
    trainers = psutil.Process(launcher.pid).children()
    assert said(folder)["process"] in [trainer.pid for trainer in trainers]
    launcher.kill()
    until(lambda: not owned(folder))
    assert psutil.wait_procs(trainers, 30)[1] == []
    assert steps(project, config)[-1] < UPDATES
    assert project.command("train", str(project.run), "--budget-hours", "1e-9", changes=SLOWLY) == 75


def two_nodes(start: Started, changes: dict[str, Any]) -> list[subprocess.Popen]:
    """Launchers on two nodes, the first of which is this machine's loopback device."""
    # The port follows from the job: one for each time this is called, of any process that runs tests.
    job = str(os.getpid() * 100 + len(start.all))
    step = STEP | {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "localhost,elsewhere", "GLOO_SOCKET_IFNAME": "lo"}
    return [start(changes, processes=1, **step, SLURM_NODEID=number) for number in ("1", "0")]


@pytest.mark.slow
def test_a_lost_node_stops_the_others_with_a_message_and_the_next_call_goes_on(
    project: Project, start: Started
) -> None:
    changes = merge(SLOWLY, {"training": {"nodes": 2}})
    config = prepared(project, changes)
    second, first = two_nodes(start, changes)
    training_for(project, config, 3)
    kill(second)
    assert first.wait(60) == 75
    assert "lska: stopped: lost contact with another process of this training" in start.said(first)
    lost = steps(project, config)[-1]
    assert 2 <= lost < UPDATES
    shutil.copytree(config.classifier(project.run).states, "when-lost")
    second, first = two_nodes(start, merge(changes, QUICKLY))
    assert [first.wait(120), second.wait(120)] == [0, 0]
    assert f"going on after update {lost} of {UPDATES}" in start.said(first)
    assert "node 2 of 2 meets the others at localhost:" in start.said(second)
    records = project.records(config)
    assert [record["step"] for record in records] == list(range(1, UPDATES + 1))
    before = [json.loads(line) for line in Path("when-lost/train.jsonl").read_text().splitlines()]
    assert records[:lost] == before[:lost]
