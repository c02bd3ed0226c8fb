"""What a training leaves in its folder: states that survive truncation, a full disk and a kill, and its record."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainer import load_state, records

from lska.provenance import files
from lska.train.interrupt import Interrupted
from lska.train.loading import BatchPlan
from lska.train.saved_state import (
    OtherTrainingError,
    Progress,
    StateError,
    TrainingLog,
    logged,
    save_state,
    state_files,
)

# Ten updates of one image, five an epoch.
PLAN = BatchPlan(5, 1, 1, 2, 0)


def content(step: int) -> dict[str, Any]:
    weight = torch.full((1000,), float(step))
    return {"digest": "sha256:mine", "progress": {"step": step}, "network": {"weight": weight}}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_state(folder, step, content(step))


def steps(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in state_files(folder)]


def step_of(state: dict[str, Any] | None) -> int:
    assert state is not None
    assert torch.equal(state["network"]["weight"], content(state["progress"]["step"])["network"]["weight"])
    return state["progress"]["step"]


def damage(folder: Path, step: int, edit: Callable[[bytearray], bytearray]) -> None:
    path = folder / f"state-{step:08d}.pt"
    path.write_bytes(edit(bytearray(path.read_bytes())))


def flip_a_bit(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


def test_the_last_two_are_kept_and_the_newest_intact_one_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_state(tmp_path) is None and load_state(tmp_path / "none") is None
    save(tmp_path, 9, 10, 100, 101)
    assert steps(tmp_path) == [100, 101] and step_of(load_state(tmp_path)) == 101
    for edit in (flip_a_bit, lambda data: data[:-100], lambda data: bytearray()):
        save(tmp_path, 101)
        damage(tmp_path, 101, edit)
        assert step_of(load_state(tmp_path)) == 100
    assert caplog.text.count("state-00000101.pt is damaged") == 3
    (tmp_path / "state-00000102.pt").symlink_to("nowhere")
    assert step_of(load_state(tmp_path)) == 100
    with pytest.raises(OtherTrainingError, match="states of another training .*sha256:mine.*, expected sha256:other"):
        load_state(tmp_path, "sha256:other")
    damage(tmp_path, 100, flip_a_bit)
    with pytest.raises(StateError, match=f"no training state in {tmp_path} is intact; delete that folder"):
        load_state(tmp_path)
    save(tmp_path, 5, 6, 7)
    assert steps(tmp_path) == [6, 7] and step_of(load_state(tmp_path)) == 7


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    save_state(tmp_path, 4, {"digest": "sha256:mine", "path": Path("x")})
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path: Path, child: Callable[[Callable[[], int]], int]) -> None:
    save(tmp_path, 4)

    def body() -> int:
        hashlib.sha256 = lambda payload: os.kill(os.getpid(), signal.SIGKILL)
        save(tmp_path, 8)
        return 0

    assert child(body) == -9
    assert len(list(tmp_path.iterdir())) == 2
    assert step_of(load_state(tmp_path)) == 4
    files._sweep.cache_clear()  # it is another process that goes on
    save(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000004.pt", "state-00000008.pt"]


def test_a_process_that_may_not_write_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 4)
    unfinished = tmp_path / files.temporary_name(tmp_path / "state-00000006.pt")
    unfinished.write_bytes(b"of the process that may")
    files._sweep.cache_clear()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    asked = []

    def refused(at: int) -> Callable[[], None]:
        def check() -> None:
            asked.append(at)
            if len(asked) == at:
                raise Interrupted("taken over")

        return check

    with pytest.raises(Interrupted, match="taken over"):
        save_state(tmp_path, 8, content(8), refused(at=1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    asked.clear()
    with pytest.raises(Interrupted, match="taken over"):
        save_state(tmp_path, 8, content(8), refused(at=2))
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000004.pt"]


def test_damaged_lines_of_a_record_are_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "train.jsonl"
    damaged = [b"[]", b'{"step": true}', b"{}", b"", b'{"step": 1, "loss": NaN}', b"\0" * 512, b"\xff", b'{"step": -1}',
               b'{"step": 1, "loss": 1' + b"0" * 400 + b"}"]
    sound = [b'{"step": 1, "images_per_second": 5.0}', b'{"step": 2}']
    path.write_bytes(b"\n".join([sound[0], *damaged, sound[1], b'{"step": 3, "lo']))
    assert logged(path) == [{"step": 1, "images_per_second": 5.0}, {"step": 2}]
    for number in range(2, 2 + len(damaged)):
        assert f"{path}: line {number}: " in caplog.text
    log = TrainingLog(path, Progress(step=2, seconds=1.0), PLAN)
    assert [line["step"] for line in records(path)] == [1, 2]
    log.path = Path("/dev/full")
    with pytest.raises(OSError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        log.record(Progress(step=3, seconds=1.5, last_loss=0.5), 0, 0.1)
    path.unlink()
    assert logged(path) == []
    TrainingLog(path, Progress(), PLAN, active=False).record(Progress(step=1, seconds=1.0, last_loss=0.5), 0, 0.1)
    assert list(tmp_path.iterdir()) == [], "only the main process writes"
    long = TrainingLog(path, Progress(), BatchPlan(333, 1, 1, 3, 0))
    assert [step for step in range(1, 1000) if long.due(step)] == sorted({*range(4, 1000, 4), 333, 666, 999})
