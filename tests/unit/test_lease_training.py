"""Two processes want to train the same run: one waits, one that was frozen stops, and the result is that of one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lease_helpers import PERIOD, elsewhere, owned, said, until
from tiny_project import Project, before_update, in_child, signal_self

from lska.provenance.metric_files import file_md5
from lska.settings.scale import Config
from lska.train import engine
from lska.train.lease import ATTEMPTS

CHANGES: dict[str, Any] = {"scale": "shared", "training": {"heartbeat_seconds": PERIOD, "state_minutes": 0.0}}


def freeze_before(number: int) -> None:
    """Have this process stop, as if its machine stood still, when `number` updates are done and the next begins."""
    before_update(number, signal_self(signal.SIGSTOP))


def freeze_before_export() -> None:
    """Have this process stop when everything is trained and nothing is exported."""
    original = engine.save_weights

    def save_weights(*arguments: Any, **more: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        original(*arguments, **more)

    engine.save_weights = save_weights


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """End what a failed test leaves, frozen processes too, which would be waited for at the end."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def start(project: Project, *preparations: Callable[[], None]) -> Any:
    """A process that trains, on another machine than this process seems to be on."""

    def body() -> int:
        elsewhere(f"machine {os.getpid()}")
        for prepare in preparations:
            prepare()
        return project.command("train", str(project.run), changes=CHANGES)

    return in_child(body)


def ended(process: Any) -> int:
    process.join(120)
    assert process.exitcode is not None, "the process did not end within two minutes"
    return process.exitcode


def frozen(process: Any) -> None:
    """Wait until the process has stopped itself."""
    stat = Path(f"/proc/{process.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", seconds=120)


def outcome(project: Project, config: Config) -> tuple[Any, ...]:
    """What must be as after one undisturbed training."""
    records = project.records(config)
    assert [record["step"] for record in records] == list(range(1, 13))
    sidecar = sidecar_of(project, config)
    assert sidecar["md5"] == file_md5(config.weights_path(project.run))
    return sidecar["md5"], sidecar["updates"], [record["loss"] for record in records]


def sidecar_of(project: Project, config: Config) -> dict[str, Any]:
    return json.loads(config.weights_path(project.run).with_suffix(".json").read_text())


@pytest.fixture
def config(project: Project) -> Config:
    """The scale that two processes train at."""
    config = project.config(CHANGES)
    project.prepare(config)
    return config


@pytest.fixture
def undisturbed(project: Project) -> tuple[Any, ...]:
    config = project.trained({"scale": "through"})
    return outcome(project, config)


@pytest.mark.parametrize("stopped", [False, True], ids=["finishes", "is stopped"])
def test_the_second_waits_and_goes_on_where_the_first_was_stopped_if_it_was(
    stopped: bool, project: Project, config: Config, undisturbed: tuple[Any, ...], capfd: Any
) -> None:
    first = start(project, lambda: freeze_before(5))
    frozen(first)
    # Long enough for the second one to ask, too short for it to lose patience.
    second = start(project)
    until(lambda: "waiting:" in capfd.readouterr().err, seconds=60)
    if stopped:
        os.kill(first.pid, signal.SIGTERM)
    os.kill(first.pid, signal.SIGCONT)
    assert [ended(first), ended(second)] == [75 if stopped else 0, 0]
    assert outcome(project, config) == undisturbed
    assert len(sidecar_of(project, config)["attempts"]) == 1 + stopped
    folder, told = config.classifier(project.run).states, capfd.readouterr().err
    assert not owned(folder)
    if stopped:
        before, after = (folder / ATTEMPTS).read_text(encoding="utf-8").split(" has the training\n")[1:]
        assert "Interrupted: received SIGTERM; state saved after update " in before
        assert "INFO going on after update " in after and after.endswith(" INFO done\n")
    else:
        assert f"{config.weights_path(project.run)}: trained by another process meanwhile" in told
        assert "going on after update" not in told, "nothing is even loaded"


def test_a_frozen_training_that_wakes_up_stops_without_writing(
    project: Project, config: Config, undisturbed: tuple[Any, ...], capfd: Any
) -> None:
    first = start(project, lambda: freeze_before(5))
    frozen(first)
    second = start(project, lambda: freeze_before(9))
    frozen(second)
    folder = config.classifier(project.run).states
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert said(folder)["process"] == second.pid
    os.kill(first.pid, signal.SIGCONT)
    assert ended(first) == 75
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert f"lska: stopped: {folder} was taken over by process {second.pid} on " in capfd.readouterr().err
    os.kill(second.pid, signal.SIGCONT)
    assert ended(second) == 0
    assert outcome(project, config) == undisturbed


def test_weights_are_not_exported_by_one_that_lost_its_lease(
    project: Project, config: Config, undisturbed: tuple[Any, ...]
) -> None:
    first = start(project, freeze_before_export)
    frozen(first)
    assert not config.weights_path(project.run).exists()
    assert ended(start(project)) == 0
    files = [config.weights_path(project.run), config.training_log(project.run), config.classifier(project.run).states]
    files += [files[0].with_suffix(".json"), *files[2].iterdir()]
    written = {path: path.stat().st_mtime_ns for path in files}
    os.kill(first.pid, signal.SIGCONT)
    assert ended(first) == 75
    assert {path: path.stat().st_mtime_ns for path in files} == written
    assert not list(config.weights_path(project.run).parent.glob(".*"))
    assert outcome(project, config) == undisturbed
