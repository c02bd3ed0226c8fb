"""An interrupted training goes on to exactly the weights and records of one that ran through."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tiny_project import Project

from lska.provenance.metric_files import file_md5
from lska.provenance.strict import merge
from lska.settings.scale import Config
from lska.train.classifier import Trainer

Child = Callable[[Callable[[], Any]], int]
Outcome = Callable[..., dict[str, Any]]

# Twelve updates, four an epoch; see tiny_project.
VARIANTS: dict[str, dict[str, Any]] = {
    "mixing": {"overrides": {
        "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0, "drop_path": 0.3, "erase_probability": 0.5,
        "schedule_unit": "epoch", "ema_decay": 0.9, "precision": "bf16", "validation_interval": 1,
    }},
    # With workers, no image seeds the generators of the main process, which mix and drop.
    "workers": {"workers": 2, "overrides": {
        "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0, "drop_path": 0.3,
        "rand_augment": "rand-m9-mstd0.5-inc1", "train_interpolation": "random",
    }},
}  # fmt: skip
EVERY_UPDATE = {"state_minutes": 0.0}
NEVER = {"state_minutes": 1000.0}


@pytest.fixture(params=["mixing", pytest.param("workers", marks=pytest.mark.slow)])
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"training": VARIANTS[request.param]}


def scale(name: str, **training: Any) -> dict[str, Any]:
    """A scale has folders of its own; its name does not enter the weights."""
    return {"scale": name, "training": training}


def before_update(number: int, action: Callable[[], Any]) -> None:
    """Have this process call `action` when `number` updates are done and the next begins."""
    original = Trainer.update

    def update(trainer: Trainer, batches: Iterator[Any]) -> Any:
        if trainer.progress.step == number:
            action()
        return original(trainer, batches)

    Trainer.update = update


def training(project: Project, changes: dict[str, Any], number: int, action: Callable[[], Any]) -> Callable[[], int]:
    """A call of `lska train`, for a forked process, that does `action` in the middle."""

    def body() -> int:
        before_update(number, action)
        return project.command("train", str(project.run), changes=changes)

    return body


def kill(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def signal_group(number: signal.Signals) -> Callable[[], None]:
    """Signal every process of the training from outside it, as Slurm and a terminal do."""

    def action() -> None:
        sender = os.fork()
        if sender == 0:
            signal.signal(number, signal.SIG_IGN)
            os.killpg(0, number)
            os._exit(0)
        os.waitpid(sender, 0)

    return action


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


def merged(*changes: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for change in changes:
        result = merge(result, change)
    return result


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, Any]]:
    """Outcomes of uninterrupted trainings by their settings: every project has the same data."""
    return {}


@pytest.fixture
def uninterrupted(project: Project, known: dict[str, dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Outcome of the training that runs through."""

    def run(variant: dict[str, Any] | None = None) -> dict[str, Any]:
        key = json.dumps(variant)
        if key not in known:
            known[key] = outcome(project, project.trained(variant or {}, scale("through")))
        return known[key]

    return run


def resumed(project: Project, changes: dict[str, Any]) -> dict[str, Any]:
    return outcome(project, project.trained(changes))


def steps(project: Project, changes: dict[str, Any]) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in project.states(project.config(changes))]


def prepared(project: Project, changes: dict[str, Any]) -> dict[str, Any]:
    project.prepare(project.config(changes))
    return changes


def test_stopped_and_killed_in_the_middle_of_epochs(
    project: Project, uninterrupted: Outcome, variant: dict[str, Any], child: Child
) -> None:
    changes = prepared(project, merged(variant, scale("stopped", **NEVER)))
    assert child(training(project, changes, 5, kill(signal.SIGTERM))) == 75
    assert steps(project, changes) == [6]  # the update that was under way is finished; four make an epoch
    assert not project.config(changes).weights_path(project.run).exists()
    often = merged(changes, {"training": EVERY_UPDATE})
    assert child(training(project, often, 10, kill(signal.SIGKILL))) == -signal.SIGKILL
    assert steps(project, changes) == [9, 10]
    assert resumed(project, changes) == uninterrupted(variant)


def test_a_signal_to_every_process_does_not_take_the_workers(
    project: Project, uninterrupted: Outcome, child: Child
) -> None:
    changes = prepared(project, scale("stopped", workers=2, **NEVER))
    for number, (step, signum) in enumerate([(2, signal.SIGTERM), (6, signal.SIGINT), (9, signal.SIGUSR1)], start=1):
        assert child(training(project, changes, step, signal_group(signum))) == 75
        assert steps(project, changes)[-1] == step + 1
        assert len(steps(project, changes)) == min(2, number)
    assert resumed(project, changes) == uninterrupted()


def test_a_budget_stops_the_attempt_and_the_next_one_goes_on(
    project: Project, uninterrupted: Outcome, capsys: pytest.CaptureFixture
) -> None:
    changes = prepared(project, scale("bit-by-bit", **NEVER))
    for attempt in range(1, 12):
        assert project.command("train", str(project.run), "--budget-hours", "1e-9", changes=changes) == 75
        assert steps(project, changes)[-1] == attempt
    message = (
        f"lska: stopped: the wall-time budget is nearly used up; state saved after update {attempt}; start it again"
    )
    assert message in capsys.readouterr().err
    assert project.command("train", str(project.run), "--budget-hours", "1e-9", changes=changes) == 0
    sidecar = json.loads(project.config(changes).weights_path(project.run).with_suffix(".json").read_text())
    assert len(sidecar["attempts"]) == 12
    assert outcome(project, project.config(changes)) == uninterrupted()


def test_damaged_states_cost_their_updates_and_without_an_intact_one_nothing_is_touched(
    project: Project, uninterrupted: Outcome, child: Child, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    changes = prepared(project, scale("killed", **EVERY_UPDATE))
    assert child(training(project, changes, 7, kill(signal.SIGKILL))) == -signal.SIGKILL
    states = project.states(project.config(changes))
    sound = [path.read_bytes() for path in states]
    for path in states:
        path.write_bytes(path.read_bytes()[:-1])
    assert child(lambda: project.command("train", str(project.run), changes=changes)) == 1
    assert f"no training state in {states[0].parent} is intact; delete that folder" in capfd.readouterr().err
    assert project.states(project.config(changes)) == states
    states[0].write_bytes(sound[0])
    assert resumed(project, changes) == uninterrupted()
    assert f"{states[-1].name} is damaged" in caplog.text


def limit_file_sizes() -> None:
    """Stand in for a disk that is full: states do not fit any more, lines of the record do."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_is_an_error_and_loses_nothing(
    project: Project, uninterrupted: Outcome, child: Child, capfd: Any
) -> None:
    changes = prepared(project, scale("full", **EVERY_UPDATE))
    assert child(training(project, changes, 6, limit_file_sizes)) == 1
    states = project.states(project.config(changes))
    assert [path.name for path in states] == ["state-00000005.pt", "state-00000006.pt"]
    message = f"lska: error: cannot write training state {states[0].with_name('state-00000007.pt')}: File too large; "
    assert message + "the last good state is state-00000006.pt; make sure" in capfd.readouterr().err
    names = sorted(path.name for path in states[0].parent.iterdir())
    assert names == ["attempts.log", "owner-00000001.json", *(path.name for path in states), "train.jsonl"]
    assert resumed(project, changes) == uninterrupted()


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
