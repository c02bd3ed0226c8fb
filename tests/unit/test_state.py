"""Training states on disk: what survives truncation, a full disk and a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from tiny_trainer import load_state

from lska.provenance import files
from lska.train.interrupt import Interrupted
from lska.train.saved_state import OtherTrainingError, StateError, save_state, state_files


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


def test_a_full_disk_leaves_the_states_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    said = []

    def full(number: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    def fail(step: int, folder: Path = tmp_path) -> None:
        with pytest.raises(StateError) as caught:
            save(folder, step)
        said.append(str(caught.value).replace(str(tmp_path), "<folder>"))

    with monkeypatch.context() as patch:
        patch.setattr("lska.provenance.files.os.fsync", full(errno.ENOSPC))
        fail(1)
    save(tmp_path, 4, 8)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        with monkeypatch.context() as patch:
            patch.setattr("lska.provenance.files.os.fsync", full(number))
            fail(12)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    fail(1, tmp_path / "state-00000004.pt" / "folder")
    assert "\n".join(said) == snapshot
    assert step_of(load_state(tmp_path)) == 8


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
