"""Training states on disk: what survives truncation, a full disk and a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import resource
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
from lska.train.saved_state import StateError, read_state, save_state, state_files


def content(step: int) -> dict[str, Any]:
    return {"progress": {"step": step}, "network": {"weight": torch.full((1000,), float(step))}}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_state(folder, step, content(step))


def steps(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in state_files(folder)]


def step_of(state: dict[str, Any] | None) -> int:
    assert state is not None
    assert torch.equal(state["network"]["weight"], content(state["progress"]["step"])["network"]["weight"])
    return state["progress"]["step"]


def truncate(folder: Path, step: int) -> Path:
    path = folder / f"state-{step:08d}.pt"
    path.write_bytes(path.read_bytes()[:-100])
    return path


def flip_a_bit(folder: Path, step: int) -> Path:
    path = folder / f"state-{step:08d}.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_training_without_states_starts_from_the_beginning(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "none") is None


def test_the_newest_is_read_and_the_last_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 9, 10, 100, 101)
    assert steps(tmp_path) == [100, 101]
    assert step_of(load_state(tmp_path)) == 101


def test_every_kind_of_content_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last), "b": {"c": [1, 2.5, None, "x"]}}
    save_state(tmp_path, 1, state)
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded["a"], state["a"])
    assert loaded["a"].stride() == state["a"].stride()
    assert loaded["b"] == state["b"]


def test_a_damaged_newest_state_is_reported_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for damage in (truncate, flip_a_bit, lambda folder, step: (folder / f"state-{step:08d}.pt").write_bytes(b"")):
        save(tmp_path, 4, 8)
        damage(tmp_path, 8)
        assert step_of(load_state(tmp_path)) == 4
    assert caplog.text.count("state-00000008.pt is damaged") == 3


def test_two_good_states_are_kept_after_falling_back(tmp_path: Path) -> None:
    save(tmp_path, 4, 8)
    truncate(tmp_path, 8)
    save(tmp_path, 5, 6, 7)
    assert steps(tmp_path) == [6, 7]
    assert step_of(load_state(tmp_path)) == 7


def test_without_an_intact_state_the_folder_is_named(tmp_path: Path) -> None:
    save(tmp_path, 4, 8)
    truncate(tmp_path, 4)
    flip_a_bit(tmp_path, 8)
    with pytest.raises(StateError) as caught:
        load_state(tmp_path)
    assert f"no training state in {tmp_path} is intact; delete that folder" in str(caught.value)
    assert steps(tmp_path) == [4, 8]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to("nowhere"), Path.mkdir)):
        folder = tmp_path / str(number)
        save(folder, 4)
        make(folder / "state-00000008.pt")
        assert step_of(load_state(folder)) == 4
        save(folder, 5)
        assert steps(folder) == [4, 5]


def test_a_sound_checksum_makes_no_state(tmp_path: Path) -> None:
    for number, payload in enumerate((b"", b"PK", b"\x80\x04N.", pickle.dumps({"a": 1})), 1):
        sound = b"LSKASTATE1" + hashlib.sha256(payload).digest() + payload
        (tmp_path / f"state-{number:08d}.pt").write_bytes(sound)
        with pytest.raises(StateError, match="is none that this program wrote"):
            read_state(tmp_path / f"state-{number:08d}.pt")
    save_state(tmp_path, 9, [1])  # type: ignore[arg-type]
    with pytest.raises(StateError, match="expected a mapping, found a list"):
        read_state(tmp_path / "state-00000009.pt")


def test_foreign_files_and_code_are_no_states(tmp_path: Path) -> None:
    torch.save(content(3), tmp_path / "state-00000003.pt")
    with pytest.raises(StateError, match="no training state in .* is intact"):
        load_state(tmp_path)
    save_state(tmp_path, 4, {"path": Path("x")})
    with pytest.raises(StateError, match="is none that this program wrote: expected tensors and plain values alone"):
        read_state(tmp_path / "state-00000004.pt")


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


def test_a_write_that_breaks_off_leaves_the_states_before(
    tmp_path: Path, child: Callable[[Callable[[], int]], int]
) -> None:
    save(tmp_path, 4, 8)

    def body() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
        with pytest.raises(
            StateError, match="state-00000012.pt: File too large; the last good state is state-00000008.pt"
        ):
            save(tmp_path, 12)
        return 3

    assert child(body) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000004.pt", "state-00000008.pt"]
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
