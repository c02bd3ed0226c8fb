"""An interrupted training goes on to exactly the weights and records of one that ran through."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

import pytest
from tiny_project import Project, before_update, signal_self

from lska.provenance.metric_files import file_md5
from lska.provenance.strict import merge
from lska.settings.scale import Config

Child = Callable[[Callable[[], Any]], int]
Act = Callable[[Any], Any]
Through = Callable[..., dict[str, Any]]

# Twelve updates, four an epoch; see tiny_project.
MIXING = {
    "overrides": {
        "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0, "drop_path": 0.3, "erase_probability": 0.5,
        "schedule_unit": "epoch", "ema_decay": 0.9, "precision": "bf16", "validation_interval": 1,
    },
}  # fmt: skip
# With workers, no image seeds the generators of the main process, which mix and drop.
WORKERS = {
    "workers": 2,
    "overrides": {
        "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0, "drop_path": 0.3,
        "rand_augment": "rand-m9-mstd0.5-inc1", "train_interpolation": "random",
    },
}  # fmt: skip


def outcome(project: Project, config: Config) -> dict[str, Any]:
    """What must not depend on interruptions."""
    sidecar = json.loads(config.weights_path(project.run).with_suffix(".json").read_text())
    records = project.records(config)
    assert [record["step"] for record in records] == list(range(1, 13))
    for record in records:
        assert record.pop("images_per_second") > 0
    assert sidecar["md5"] == file_md5(config.weights_path(project.run))
    same = ("md5", "recipe", "spec", "data", "images_seen", "updates", "final_loss", "skipped_images", "processes")
    return {"records": records, **{name: sidecar[name] for name in same}}


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, Any]]:
    """Outcomes of uninterrupted trainings by their settings: every project has the same data."""
    return {}


@pytest.fixture
def through(project: Project, known: dict[str, dict[str, Any]]) -> Through:
    """Outcome of the training that runs through."""

    def run(training: dict[str, Any] | None = None) -> dict[str, Any]:
        key = json.dumps(training)
        if key not in known:
            known[key] = outcome(project, project.trained({"scale": "through", "training": training or {}}))
        return known[key]

    return run


class Interrupted:
    """A training at a scale of its own, whose name does not enter the weights, by commands that are interrupted."""

    def __init__(self, project: Project, child: Child, **training: Any) -> None:
        self.project, self.child, self.changes = project, child, {"scale": "interrupted", "training": training}
        self.config = project.config(self.changes)
        project.prepare(self.config)

    def until(self, number: int, act: Act, **training: Any) -> int:
        """Exit code of a training that does `act` in the middle."""

        def body() -> int:
            before_update(number, act)
            return self.project.command("train", str(self.project.run), changes=changes)

        changes = merge(self.changes, {"training": training})
        return self.child(body)

    @property
    def steps(self) -> list[int]:
        return [int(path.stem.removeprefix("state-")) for path in self.project.states(self.config)]

    def resumed(self) -> dict[str, Any]:
        return outcome(self.project, self.project.trained(self.changes))


@pytest.mark.parametrize("variant", [MIXING, pytest.param(WORKERS, marks=pytest.mark.slow)], ids=["mixing", "workers"])
def test_stopped_and_killed_in_the_middle_of_epochs(
    project: Project, through: Through, variant: dict[str, Any], child: Child
) -> None:
    made = Interrupted(project, child, **variant, state_minutes=1000.0)
    assert made.until(5, signal_self(signal.SIGTERM)) == 75
    assert made.steps == [6]  # the update that was under way is finished; four make an epoch
    assert not made.config.weights_path(project.run).exists()
    assert made.until(10, signal_self(signal.SIGKILL), state_minutes=0.0) == -signal.SIGKILL
    assert made.steps == [9, 10]
    assert made.resumed() == through(variant)


def signal_group(number: signal.Signals) -> Act:
    """Signal every process of the training from outside it, as Slurm and a terminal do."""

    def act(trainer: Any) -> None:
        sender = os.fork()
        if sender == 0:
            signal.signal(number, signal.SIG_IGN)
            os.killpg(0, number)
            os._exit(0)
        os.waitpid(sender, 0)

    return act


def test_a_signal_to_every_process_does_not_take_the_workers(project: Project, through: Through, child: Child) -> None:
    made = Interrupted(project, child, workers=2, state_minutes=1000.0)
    for step, number in ((2, signal.SIGTERM), (6, signal.SIGINT), (9, signal.SIGUSR1)):
        assert made.until(step, signal_group(number)) == 75
        assert made.steps[-1] == step + 1
    assert made.resumed() == through()


def test_a_budget_stops_the_attempt_and_the_next_one_goes_on(
    project: Project, through: Through, child: Child, capsys: pytest.CaptureFixture
) -> None:
    made = Interrupted(project, child, state_minutes=1000.0)
    words = ("train", str(project.run), "--budget-hours", "1e-9")
    for attempt in range(1, 12):
        assert project.command(*words, changes=made.changes) == 75
        assert made.steps[-1] == attempt
    message = "lska: stopped: the wall-time budget is nearly used up; state saved after update 11; start it again"
    assert message in capsys.readouterr().err
    assert project.command(*words, changes=made.changes) == 0
    sidecar = json.loads(made.config.weights_path(project.run).with_suffix(".json").read_text())
    assert len(sidecar["attempts"]) == 12
    assert outcome(project, made.config) == through()


def test_damaged_states_cost_their_updates_and_without_an_intact_one_nothing_is_touched(
    project: Project, through: Through, child: Child, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    made = Interrupted(project, child, state_minutes=0.0)
    assert made.until(7, signal_self(signal.SIGKILL)) == -signal.SIGKILL
    states = project.states(made.config)
    sound = [path.read_bytes() for path in states]
    for path in states:
        path.write_bytes(path.read_bytes()[:-1])
    assert made.until(99, signal_self(signal.SIGKILL)) == 1
    assert f"no training state in {states[0].parent} is intact; delete that folder" in capfd.readouterr().err
    assert project.states(made.config) == states
    states[0].write_bytes(sound[0])
    assert made.resumed() == through()
    assert f"{states[-1].name} is damaged" in caplog.text


def test_a_full_disk_is_an_error_and_loses_nothing(
    project: Project, through: Through, child: Child, capfd: Any
) -> None:
    made = Interrupted(project, child, state_minutes=0.0)
    # States do not fit any more, lines of the record do.
    assert made.until(6, lambda trainer: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))) == 1
    states = project.states(made.config)
    assert made.steps == [5, 6]
    message = f"lska: error: cannot write training state {states[0].with_name('state-00000007.pt')}: File too large; "
    assert message + "the last good state is state-00000006.pt; make sure" in capfd.readouterr().err
    names = sorted(path.name for path in states[0].parent.iterdir())
    assert names == ["attempts.log", "owner-00000001.json", *(path.name for path in states), "train.jsonl"]
    assert made.resumed() == through()


def test_a_finished_training_is_only_exported_again(project: Project) -> None:
    # Held-out images are scored at the ends of epochs that the interval has.
    config = project.trained({"training": {"overrides": {"validation_interval": 2}}})
    scored = {line["step"]: line for line in project.records(config) if "validation_top1" in line}
    assert list(scored) == [8] and 0 <= scored[8]["validation_top1"] <= 100 and scored[8]["validation_loss"] > 0
    config = project.trained()
    first = outcome(project, config)
    (state,) = project.states(config)
    assert state.name == "state-00000012.pt"
    written = state.stat().st_mtime_ns
    config.weights_path(project.run).unlink()
    assert outcome(project, project.trained()) == first
    assert state.stat().st_mtime_ns == written
