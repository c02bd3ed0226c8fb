"""A state folder has one owner at a time: who waits, who follows, and how an owner learns that it lost the folder."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from lease_helpers import PERIOD, elsewhere, end, forked, own, owned, owner_file, said, until

from lska.train import lease as leases
from lska.train.distributed import Processes
from lska.train.interrupt import Interrupted, StopRequest
from lska.train.lease import STALE_AFTER, Lease, LeaseLostError, Owner, leased

PATIENCE = STALE_AFTER * PERIOD
ALONE = Processes(0, 1, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


@contextlib.contextmanager
def living(folder: Path) -> Iterator[int]:
    """A process that owns the folder, as if on another machine; killed at the end."""

    def body() -> None:
        elsewhere()
        own(folder)
        time.sleep(60)

    process = forked(body)
    until(lambda: owned(folder))
    try:
        yield process
    finally:
        os.kill(process, signal.SIGCONT)
        end(process)


def test_a_free_folder_is_owned_at_once_and_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    first = Lease(folder, 1000.0)
    assert first.attempt() and first.holds()
    owner = Owner(**said(folder))
    assert str(owner) == f"process {os.getpid()} on {os.uname().nodename} (Slurm job 4711)"
    os.waitpid(forked(first.give_back), 0)
    assert owned(folder), "a forked child owns nothing"
    first.give_back()
    second = Lease(folder, 1000.0)
    assert second.attempt() and not second.waited, "without any patience"
    assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
    assert not Lease(folder, 1000.0)._take(1), "a number from an old listing"
    assert second.holds() and [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
    second.give_back()


def test_a_frozen_owner_is_followed_and_knows_when_it_wakes_up_that_it_lost(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = folder.parent / "told"

    def body() -> None:
        elsewhere()
        lease = own(folder)
        os.kill(os.getpid(), signal.SIGSTOP)
        until(lambda: lease.lost)  # its thread notices it too
        try:
            lease.check()
        except LeaseLostError as error:
            told.write_text(str(error))
        lease.give_back()

    process = forked(body)
    os.waitpid(process, os.WUNTRACED)
    begun = time.monotonic()
    mine = own(folder)
    assert time.monotonic() - begun >= PATIENCE
    assert "no sign of life of process" in caplog.text
    os.kill(process, signal.SIGCONT)
    os.waitpid(process, 0)
    me = f"process {os.getpid()} on {os.uname().nodename}"
    assert told.read_text().startswith(f"{folder} was taken over by {me}, as this process had given no sign of life")
    assert mine.holds() and owned(folder), "nothing of its follower's is touched"
    assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
    mine.give_back()


def test_one_of_many_that_ask_at_the_same_moment_gets_a_free_folder_and_one_of_several_waiters_follows(
    folder: Path,
) -> None:
    barrier, got = threading.Barrier(8), []

    def ask() -> None:
        lease = Lease(folder / "free", 1000.0)
        barrier.wait()
        got.append(lease.attempt())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    winners = folder.parent / "winners"
    winners.mkdir()

    def waiter(number: int) -> None:
        elsewhere(f"machine {number}")
        own(folder / "held")
        (winners / str(number)).touch()
        time.sleep(60)

    with living(folder / "held") as process:
        os.kill(process, signal.SIGSTOP)
        waiting = [forked(lambda number=number: waiter(number)) for number in range(3)]
        for followed in (1, 2):
            # The next one follows as soon as the one before is frozen, and again only one.
            until(lambda followed=followed: len(list(winners.iterdir())) >= followed)
            time.sleep(PATIENCE / 2)
            assert len(list(winners.iterdir())) == followed
            os.kill(said(folder / "held")["process"], signal.SIGSTOP)
        for one in waiting:
            end(one)


def test_a_killed_owner_on_this_machine_is_followed_at_once_though_its_children_live(folder: Path) -> None:
    ready, told = os.pipe()

    def body() -> None:
        own(folder, 1000.0)
        worker = forked(lambda: time.sleep(60))
        os.write(told, f"{worker}\n".encode())
        time.sleep(60)

    trainer = forked(body)
    worker = int(os.read(ready, 20))
    assert not Lease(folder, 1000.0).attempt()
    os.kill(trainer, signal.SIGKILL)
    try:
        lease = Lease(folder, 1000.0)
        until(lease.attempt)  # nobody has waited for the killed process yet
        lease.give_back()
    finally:
        os.waitpid(trainer, 0)
        os.kill(worker, signal.SIGKILL)


def test_what_is_certain_of_an_owner(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    me = Lease(folder, PERIOD).owner
    assert not me.certainly_gone
    assert me.model_copy(update={"started": str(int(me.started) - 1)}).certainly_gone, "a later process of that number"
    gone = forked(lambda: None)
    os.waitpid(gone, 0)
    assert me.model_copy(update={"process": gone}).certainly_gone
    for boot in ("another start of this machine", ""):
        assert not me.model_copy(update={"process": gone, "boot": boot}).certainly_gone

    def forbidden(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    monkeypatch.setattr(leases, "_started", lambda process: None)
    assert not me.certainly_gone, "another user's"


def test_a_damaged_file_gets_the_usual_patience_and_a_process_that_was_frozen_has_not_waited_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    folder.mkdir()
    (folder / "owner-00000003.json").write_bytes(b'{"process": -1}')
    lease = Lease(folder, period=10.0)
    assert not lease.attempt()
    now = 2.0
    assert not lease.attempt()
    now = 10_000.0
    assert not lease.attempt(), "the owner may have been frozen with this process, as by `scontrol suspend`"
    for _ in range(56):
        now += 2.0
        assert not lease.attempt() and lease.other is None
    now += 4.0
    assert lease.attempt(), "120 s, of which 6 s before"
    assert owner_file(folder).name == "owner-00000004.json"
    assert f"{folder}/owner-00000003.json is damaged" in caplog.text
    lease.give_back()


def test_a_file_system_that_fails_for_a_while_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        full = Lease(folder / "full", PERIOD)
        patch.setattr(full, "_entry", Mock(side_effect=OSError(28, "No space left on device")))
        full.attempt()
    assert list((folder / "full").iterdir()) == [], "no half owner"
    lease, failures = own(folder), []
    original = lease._entry

    def failing(state: Any) -> bytes:
        if len(failures) < 3:
            failures.append(state)
            raise OSError(5, "Input/output error")
        return original(state)

    monkeypatch.setattr(lease, "_entry", failing)
    beat = said(folder)["beat"]
    until(lambda: len(failures) == 3 and said(folder).get("beat", "") > beat)
    assert caplog.text.count("no sign of life could be written") == 3 and lease.holds()
    lease.give_back()


def test_who_waits_says_for_whom_until_it_is_given_back_or_the_budget_ends_or_a_signal_comes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def body() -> None:
        lease = own(folder)
        time.sleep(PATIENCE)
        lease.give_back()

    process = forked(body)
    until(lambda: owned(folder))
    with pytest.raises(ZeroDivisionError), leased(folder, PERIOD, ALONE, StopRequest(None)) as lease:
        assert lease.holds() and lease.waited
        raise ZeroDivisionError
    assert not owned(folder), "an error gives it back too"
    os.waitpid(process, 0)
    (line,) = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert line.startswith(f"waiting: {folder} is in use by another training (process {process} on ")
    assert "no sign of life for 1.2 s" in line
    signalled = StopRequest(None)
    signalled.handle(signal.SIGTERM, None)
    reasons = {"the wall-time budget is nearly used up": StopRequest(0.3), "received SIGTERM": signalled}
    with living(folder) as process:
        for reason, stop in reasons.items():
            message = f"{reason}, and {folder} is still in use by another training .process {process} on "
            with pytest.raises(Interrupted, match=message), leased(folder, PERIOD, ALONE, stop):
                pytest.fail("the folder had two owners")
