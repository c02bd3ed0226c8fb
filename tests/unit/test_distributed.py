"""Several processes train as one does: the same batches, losses and rates, one set of files, one decision to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lease_helpers import until
from syrupy.assertion import SnapshotAssertion
from tiny_project import Project, before_update, free_port, in_child

from lska.provenance.errors import InputError
from lska.settings.scale import Config
from lska.train import distributed
from lska.train.distributed import MainProcessError, MeetingError, processes
from lska.train.interrupt import stop_request
from lska.train.launcher import MEETING, Rank, member
from lska.train.lease import Lease


def together(world: int, body: Callable[[], Any]) -> list[int]:
    """Exit codes of `body` in as many processes as `lska launch --processes world` would start."""
    with tempfile.TemporaryDirectory() as folder:
        common = {"WORLD_SIZE": str(world), "GLOO_SOCKET_IFNAME": "lo", MEETING: f"file:{folder}/store"}
        started = [in_child(body, **common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(world)]
        for process in started:
            process.join(120)
            process.kill()
            process.join()
    return [process.exitcode for process in started]


@pytest.fixture
def train(project: Project) -> Callable[..., Config]:
    """Train in two processes, the second of which, or another `rank`, does `act` before the sixth update."""

    def run(
        changes: dict[str, Any], codes: list[int], act: Callable[[Config], object] | None = None, rank: int = 1
    ) -> Config:
        config = project.config(changes)
        project.prepare(config)

        def body() -> int:
            if act is not None:
                before_update(5, lambda trainer: act(config) if trainer.group.rank == rank else None)
            return project.command("train", str(project.run), changes=changes)

        assert together(2, body) == codes
        return config

    return run


Train = Callable[..., Config]


def losses(project: Project, config: Config) -> list[float]:
    return [record["loss"] for record in project.records(config)]


def test_two_processes_have_the_loss_curve_and_the_weights_of_one(project: Project, train: Train) -> None:
    from safetensors.torch import load_file

    alone, pair = project.trained({"scale": "one"}), train({"scale": "two"}, [0, 0])
    curves = [[(r["step"], r["learning_rate"]) for r in project.records(config)] for config in (alone, pair)]
    assert curves[0] == curves[1]
    assert losses(project, pair) == pytest.approx(losses(project, alone), rel=1e-5)
    assert len({round(loss, 6) for loss in losses(project, alone)}) == 12
    weights = [config.weights_path(project.run) for config in (alone, pair)]
    one, two = (json.loads(path.with_suffix(".json").read_text()) for path in weights)
    assert two["processes"] == 2 and two["recipe"] == one["recipe"]
    before, after = map(load_file, weights)
    # Running statistics of the normalisation are those of the main process's micro-batches.
    learned = [name for name in before if "running_" not in name and "num_batches" not in name]
    assert len(learned) > 50
    for name in learned:
        assert torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("signum", "codes", "saved"),
    [(signal.SIGTERM, [75, 75], [6]), (signal.SIGKILL, [75, -signal.SIGKILL], [4, 5])],
    ids=["stopped", "killed"],
)
def test_a_signal_to_one_process_stops_all_and_one_process_can_go_on(
    project: Project, train: Train, signum: int, codes: list[int], saved: list[int], capfd: Any
) -> None:
    mixing = {
        "micro_batch": 4, "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0, "drop_path": 0.3,
        "erase_probability": 0.5, "ema_decay": 0.9,
    }  # fmt: skip
    minutes = 0.0 if signum == signal.SIGKILL else 1000.0
    changes = {"scale": "stopped", "training": {"overrides": mixing, "state_minutes": minutes}}
    config = train(changes, codes, lambda config: os.kill(os.getpid(), signum))
    assert [path.name for path in project.states(config)] == [f"state-{step:08d}.pt" for step in saved]
    lost = "lska: stopped: lost contact with another process of this training" in capfd.readouterr().err
    assert lost == (signum == signal.SIGKILL)
    project.trained(changes)
    alone = project.trained({"scale": "one", "training": {"overrides": mixing}})
    assert losses(project, config) == pytest.approx(losses(project, alone), rel=1e-5)


def test_all_stop_when_the_first_loses_its_lease(project: Project, train: Train, capfd: Any) -> None:
    def take_over(config: Config) -> None:
        lease = Lease(config.classifier(project.run).states, 1000.0)
        assert lease._take(2), "as another process does when this one was frozen"

    changes = {"scale": "taken", "training": {"heartbeat_seconds": 1000.0, "state_minutes": 0.0}}
    config = train(changes, [75, 75], take_over, rank=0)
    folder = config.classifier(project.run).states
    assert [path.name for path in project.states(config)] == ["state-00000004.pt", "state-00000005.pt"]
    assert (folder / "train.jsonl").read_text().count("\n") == 5
    told = capfd.readouterr().err
    assert f"lska: stopped: {folder} was taken over by process " in told
    assert "lska: stopped: the main process stopped, and says why" in told


def test_missing_gpus_are_told_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", MEETING: "file:/nowhere"}.items():
        monkeypatch.setenv(name, value)
    message = r"training\.gpus is 2 but process 1 finds 1 CUDA device.*training\.gpus to 0"
    with pytest.raises(ValueError, match=message), processes(2):
        pytest.fail("trains on a device that is not there")


def test_variables_of_other_launchers_are_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pods of some platforms, MPI, Slurm and shells leave them in the environment."""
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "GROUP_RANK"):
        monkeypatch.setenv(name, "2")
    for world in ("2", "many", ""):
        monkeypatch.setenv("WORLD_SIZE", world)
        with processes(0) as group:
            assert (group.rank, group.world) == (0, 1)
    assert caplog.text.count("in the environment is not obeyed") == 2


@pytest.mark.parametrize(
    ("rank", "meeting", "awaited"),
    [
        (0, "file:{folder}/store", "for process 1, in vain"),
        (0, "tcp:127.0.0.1:{port}/test", "at 127.0.0.1:{port} for process 1, in vain"),
        (1, "tcp:nowhere.invalid:{port}/test", "at nowhere.invalid:{port} for the first process, in vain"),
    ],
)
def test_who_waits_for_others_says_for_whom_and_ends(
    rank: int, meeting: str, awaited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 1.0)
    words = {"folder": tmp_path, "port": free_port()}

    def body() -> int:
        logging.basicConfig(level=logging.INFO, force=True)
        with pytest.raises(MeetingError) as error, processes(0):
            pytest.fail("trains without the other one")
        print(error.value, file=sys.stderr)
        return 0

    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", MEETING: meeting.format(**words)}
    process = in_child(body, **variables)
    process.join(30)
    assert process.exitcode == 0
    told = capfd.readouterr().err
    assert f"process {rank} of 2 of this training waited 1 s" in told and awaited.format(**words) in told
    assert f"process {rank} of 2 of this training waits" in told


FILE, PORT = "file:{folder}/store", "tcp:127.0.0.1:{port}/test"


@pytest.mark.parametrize(
    ("meeting", "stopped", "end"), [(FILE, 1, None), (PORT, 0, signal.SIGTERM)]
)
def test_a_process_that_stands_still_is_told_of_and_not_waited_for(
    meeting: str, stopped: int, end: signal.Signals | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(distributed, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(distributed, "ENDED_AFTER", 20 if end is None else 10_000)
    common = {"WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    common[MEETING] = meeting.format(folder=tmp_path, port=free_port())
    told = tmp_path / "told.txt"

    def body() -> int:
        with stop_request(None), processes(0) as group:
            if group.rank == stopped:
                os.kill(os.getpid(), signal.SIGSTOP)
            logging.basicConfig(filename=told, level=logging.INFO, force=True)
            group.largest(0)
        return 0

    started = [in_child(body, **common, RANK=str(rank), LOCAL_RANK="0") for rank in range(2)]
    waiting, still = started[1 - stopped], started[stopped]
    try:
        until(lambda: told.exists() and f"has heard nothing from process {stopped} of this" in told.read_text())
        if end is not None:
            os.kill(waiting.pid, end)
        waiting.join(30)
        assert waiting.exitcode == 75
    finally:
        for process in (waiting, still):
            process.kill()
            process.join()
    said = capfd.readouterr().err
    assert f"lska: stopped: process {stopped} of this training gave no sign of life for" in said


def test_the_first_listens_at_the_named_address_alone_and_names_one_that_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with distributed._listener("localhost", free_port()) as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        at = f"127.0.0.1:{other.getsockname()[1]}"
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", MEETING: f"tcp:{at}/test"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(MeetingError, match=f"cannot meet at {at}"), processes(0):
            pytest.fail("trains without the other one")


def test_collective_calls_agree_and_an_error_of_the_first_stops_all() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    def body() -> int:
        with processes(0) as group:
            value = torch.tensor(float(group.rank))
            assert (group.mean(value).item(), value.item()) == (0.5, group.rank)
            assert group.sum(torch.tensor(group.rank + 1)).item() == 3
            assert (group.largest(group.rank), group.largest_of(group.rank, 3 - group.rank)) == (1, [1, 3])
            with pytest.raises(ZeroDivisionError if group.is_main else MainProcessError):
                group.by_main(fail)
        return 0 if not torch.distributed.is_initialized() else 1

    assert together(2, body) == [0, 0]
    with processes(0) as group:
        assert (group.rank, group.world, group.is_main) == (0, 1, True)
        assert (group.largest(2), group.mean(torch.tensor(3.0)).item()) == (2, 3.0)


def test_torchruns_processes_are_known_by_its_own_variable(snapshot: SnapshotAssertion) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "::1",
                "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}  # fmt: skip
    assert member(torchrun) == Rank(0, 2, 0, "tcp:::1:29500/torchrun-0", serves=False)
    assert member({**torchrun, "TORCHELASTIC_USE_AGENT_STORE": "False"}).serves
    assert member({**torchrun, MEETING: "file:/a"}) == Rank(0, 2, 0, "file:/a", serves=True)
    assert member({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) is None
    said = []
    for changes in ({"RANK": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "9" * 5000}, {"MASTER_PORT": "x"}, {MEETING: "x"},
                    {"MASTER_PORT": "0"}, {"MASTER_PORT": "99999"}):  # fmt: skip
        with pytest.raises(InputError) as caught:
            member(torchrun | changes)
        said.append(str(caught.value))
    assert "\n".join(said) == snapshot
