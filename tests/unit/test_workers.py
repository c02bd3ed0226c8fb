"""Processes that load images or make them: with a long TMPDIR, killed, standing still; and folders for sockets."""

from __future__ import annotations

import logging
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lease_helpers import until
from tiny_project import in_child
from torch.utils.data import Dataset

from lska.data.parallel import WorkerError, in_processes
from lska.train import workers
from lska.train.interrupt import Interrupted
from lska.train.private_folders import PrivateFolderError, folder_for_sockets, own_folder, require_own
from lska.train.workers import Loader

Act = Callable[[int], Any]


class Numbers(Dataset):
    """Tensors of their own index, which do something before they come."""

    def __init__(self, act: Act) -> None:
        self.act = act

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        self.act(index)
        return torch.tensor(index)


def loaded(act: Act, reason: str | None = None) -> list[int]:
    loader = Loader(Numbers(act), 2, lambda: reason, batch_size=2)
    return [int(number) for batch in loader for number in batch]


def at_three(act: Callable[[], Any]) -> Act:
    return lambda index: act() if index == 3 else None


def fail() -> None:
    time.sleep(0.5)
    raise RuntimeError("of a data set")


def fill() -> None:
    """Have no room left for files, those in memory included."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(workers, "_STOP_SECONDS", 0.3)
    monkeypatch.setattr(workers, "BATCH_SECONDS", 1.0)


@pytest.mark.parametrize(
    ("act", "reason", "kind", "message"),
    [
        (at_three(lambda: os.kill(os.getpid(), signal.SIGKILL)), None, WorkerError, "was ended by SIGKILL"),
        (at_three(lambda: os.kill(os.getpid(), signal.SIGSTOP)), None, WorkerError, "gave no batch for 1 s"),
        (at_three(lambda: time.sleep(60)), "received SIGTERM", Interrupted, "received SIGTERM, while no batch came"),
        (at_three(fail), None, RuntimeError, "of a data set"),
        (at_three(fill), None, WorkerError, r"no room in shared memory .*: unable to .*--shm-size"),
    ],
    ids=["killed", "stopped", "signal", "error", "room"],
)
def test_a_process_that_gives_no_batch_is_told(
    act: Act, reason: str | None, kind: type[Exception], message: str, hasty: None
) -> None:
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        loaded(act, reason)
    assert time.monotonic() - began < 30


def test_slow_batches_all_come_in_order_and_are_told(
    hasty: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_STOP_SECONDS", 60.0)
    monkeypatch.setattr(workers, "BATCH_SECONDS", 60.0)
    caplog.set_level(logging.INFO)
    assert loaded(lambda index: time.sleep(0.2)) == list(range(6))
    assert loaded(lambda index: time.sleep(0.2), "received SIGTERM") == list(range(6))
    assert "waiting for a batch from 2 process(es) that load images" in caplog.text


def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ("scratch_of_a_job_" * 8)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_batches_and_pools_with_a_long_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_folder(tmp_path, monkeypatch)
    assert loaded(lambda index: None) == list(range(6))
    with in_processes(2) as mapper:
        assert list(mapper(abs, [-1, -2, 3])) == [1, 2, 3]


def test_a_process_of_a_pool_that_ends_is_told() -> None:
    message = "one of 2 processes ended before its work was done"
    with pytest.raises(WorkerError, match=message), in_processes(2) as mapper:
        list(mapper(os._exit, [3]))


def test_processes_of_a_pool_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    def body() -> None:
        with in_processes(2) as mapper:
            (tmp_path / "children").write_text(" ".join(map(str, mapper(os.getpgid, [0, 0]))))
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
            (tmp_path / "started").write_text(children)
            time.sleep(60)

    parent = in_child(body)
    until(lambda: (tmp_path / "started").exists(), 60)
    parent.kill()
    parent.join()
    children = (tmp_path / "started").read_text().split()
    assert len(children) >= 2
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def make_link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.with_name("elsewhere"))


def test_a_folder_that_others_may_have_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makes: list[tuple[Callable[[Path], Any], str]] = [
        (make_link, "a link"),
        (lambda folder: folder.write_text(""), "no folder"),
        (lambda folder: (folder.mkdir(), folder.chmod(0o755)), "mode 755"),
    ]
    for number, (make, found) in enumerate(makes):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        folder = place / f"lska-test-{os.getuid()}"
        make(folder)
        with pytest.raises(PrivateFolderError, match=f"^{folder}: expected a folder of user .* found {found}; remove"):
            own_folder("lska-test")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = own_folder("lska-test")
    assert folder.stat().st_mode & 0o777 == 0o700 and own_folder("lska-test") == folder
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PrivateFolderError, match="found one of user"):
        require_own(folder)


def test_sockets_have_a_short_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert folder_for_sockets() == Path("/tmp")
    long_folder(tmp_path, monkeypatch)
    assert len(str(folder_for_sockets())) < 20
    monkeypatch.setattr(os, "access", lambda *place: False)
    with pytest.raises(PrivateFolderError, match="^TMPDIR: .* is too long a path for Unix sockets"):
        folder_for_sockets()
