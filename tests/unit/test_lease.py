"""A state folder has one owner at a time: who waits, who follows, and how an owner learns that it lost the folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lease_helpers import PERIOD, elsewhere, end, forked, own, owned, owner_file, said, until

from lska.train import lease as leases
from lska.train.distributed import Processes
from lska.train.interrupt import Interrupted, StopRequest
from lska.train.lease import STALE_AFTER, Lease, LeaseLostError, Owner, OwnerFile, leased

PATIENCE = STALE_AFTER * PERIOD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


@contextlib.contextmanager
def living(folder: Path, period: float = PERIOD, remote: bool = True) -> Iterator[int]:
    """A process that owns the folder, on another machine or on this one; killed at the end."""

    def body() -> None:
        if remote:
            elsewhere()
        own(folder, period)
        time.sleep(60)

    before = set(folder.glob("owner-*.json"))
    process = forked(body)
    until(lambda: set(folder.glob("owner-*.json")) - before and owned(folder))
    try:
        yield process
    finally:
        os.kill(process, signal.SIGCONT)
        end(process)


def refused(folder: Path, seconds: float) -> Lease:
    """Ask for the folder for some time, always in vain."""
    lease, until_then = Lease(folder, PERIOD), time.monotonic() + seconds
    while time.monotonic() < until_then:
        assert not lease.attempt()
        time.sleep(lease.pause)
    return lease


def test_a_free_folder_is_owned_at_once_and_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    first = Lease(folder, 1000.0)
    assert first.attempt()
    assert first.holds()
    owner = Owner(**said(folder)["owner"])
    assert str(owner) == f"process {os.getpid()} on {os.uname().nodename} (Slurm job 4711, requeued 2 time(s))"
    first.give_back()
    second = Lease(folder, 1000.0)
    assert second.attempt(), "without any patience"
    assert not second.waited
    assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
    second.give_back()


def test_neither_clocks_nor_times_of_files_matter(folder: Path) -> None:
    with living(folder):
        for shift in (-1e9, 1e9):
            lease = Lease(folder, PERIOD)
            for _ in range(3 * STALE_AFTER):
                os.utime(owner_file(folder), (time.time() + shift,) * 2)
                assert not lease.attempt()
                time.sleep(PERIOD / 2)
            assert lease.waited


def test_an_owner_without_a_sign_of_life_is_followed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with living(folder) as process:
        os.kill(process, signal.SIGSTOP)
        begun = time.monotonic()
        lease = own(folder)
        assert PATIENCE <= time.monotonic() - begun < 10 * PATIENCE
        assert "no sign of life of process" in caplog.text
        assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
        lease.give_back()


def test_patience_goes_by_the_period_that_the_owner_keeps(folder: Path) -> None:
    with living(folder, period=10 * PERIOD) as process:
        os.kill(process, signal.SIGSTOP)
        assert refused(folder, 3 * PATIENCE).patience == pytest.approx(10 * PATIENCE)


def test_a_frozen_owner_that_wakes_up_knows_that_it_lost(folder: Path) -> None:
    told = folder.parent / "told"

    def body() -> None:
        elsewhere()
        lease = own(folder)
        time.sleep(PERIOD / 2)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            lease.check()
        except LeaseLostError as error:
            told.write_text(str(error))
        lease.give_back()

    process = forked(body)
    os.waitpid(process, os.WUNTRACED)
    mine = own(folder)
    os.kill(process, signal.SIGCONT)
    os.waitpid(process, 0)
    me = f"process {os.getpid()} on {os.uname().nodename}"
    assert told.read_text().startswith(f"{folder} was taken over by {me}, as this process had given no sign of life")
    assert mine.holds()
    assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
    mine.give_back()


def test_the_thread_notices_the_loss_by_itself_and_touches_nothing(folder: Path) -> None:
    lease, second = own(folder), Lease(folder, 1000.0)
    assert second._take(2)
    before = owner_file(folder).read_bytes()
    until(lambda: lease.lost, seconds=10 * PATIENCE)
    assert not lease.holds()
    lease.give_back()
    assert owner_file(folder).read_bytes() == before, "nothing of its follower's is touched"
    assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]


def test_exactly_one_of_several_waiters_follows(folder: Path) -> None:
    winners = folder.parent / "winners"
    winners.mkdir()
    start = threading.Event()

    def waiter(number: int) -> None:
        elsewhere(f"machine {number}")
        own(folder)
        (winners / str(number)).touch()
        time.sleep(60)

    with living(folder) as process:
        os.kill(process, signal.SIGSTOP)
        waiting = [forked(lambda number=number: waiter(number)) for number in range(6)]
        until(lambda: any(winners.iterdir()))
        start.wait(2 * PATIENCE)
        assert len(list(winners.iterdir())) == 1
        for _ in range(5):
            # The next one follows as soon as this one is frozen, and again only one.
            before = {path.name for path in winners.iterdir()}
            os.kill(said(folder)["owner"]["process"], signal.SIGSTOP)
            until(lambda before=before: {path.name for path in winners.iterdir()} - before)
            start.wait(PATIENCE / 2)
            assert len(list(winners.iterdir())) == len(before) + 1
        for one in waiting:
            end(one)


def test_one_of_many_that_ask_at_the_same_moment_gets_a_free_folder(folder: Path) -> None:
    for round_ in range(10):
        place, got = folder / str(round_), []
        barrier = threading.Barrier(8)

        def ask(place: Path = place, got: list[bool] = got, barrier: threading.Barrier = barrier) -> None:
            lease = Lease(place, 1000.0)
            barrier.wait()
            got.append(lease.attempt())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 7 + [True]


def test_a_number_from_an_old_listing_is_not_taken(folder: Path) -> None:
    lease = own(folder, 1000.0)
    lease.give_back()
    present = own(folder, 1000.0)  # number 2; number 1 is free again
    late = Lease(folder, 1000.0)
    assert not late._take(1)
    assert [path.name for path in folder.iterdir()] == ["owner-00000002.json"]
    assert present.holds()
    assert late.waited


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
        until(lease.attempt, seconds=5.0)  # nobody has waited for the killed process yet
        lease.give_back()
    finally:
        os.waitpid(trainer, 0)
        os.kill(worker, signal.SIGKILL)


def test_what_is_certain_of_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(**changes: Any) -> Owner:
        return me.model_copy(update=changes)

    me = Owner.this(PERIOD)
    assert not me.certainly_gone
    assert other(started=str(int(me.started) - 1)).certainly_gone, "a later process of the same number"
    gone = forked(lambda: None)
    os.waitpid(gone, 0)
    assert other(process=gone).certainly_gone
    for boot in ("another start of this machine", ""):
        assert not other(process=gone, boot=boot).certainly_gone

    def forbidden(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    monkeypatch.setattr(leases, "_started", lambda process: None)
    assert not me.certainly_gone, "another user's"


SOUND = {"host": "elsewhere", "boot": "another start", "process": 7, "started": "1", "job": None, "restarts": 0,
         "period": PERIOD, "token": "token"}  # fmt: skip


def damaged(**changes: Any) -> bytes:
    return json.dumps({"owner": SOUND | changes, "beat": "1", "state": "left"}).encode()


def test_a_damaged_file_names_nobody_and_gives_nothing_back() -> None:
    sound = OwnerFile.read(damaged())
    assert sound is not None and sound.owner == Owner(**SOUND) and sound.state == "left"
    for content in (
        b"", b"[" * 100_000, b'{"owner": ' * 10_000, b"\xff\xfe", b"\0" * 1024, b'{"state": "left"}',
        b'{"owner": [], "state": "left"}', damaged(period="soon"), damaged(period=1e9), damaged(period=-1),
        damaged(process=-1), damaged(process=0), damaged(process=2**40), damaged(process=True), damaged(host=["a"]),
        damaged(token=None), damaged().replace(b": 7,", b": " + b"7" * 5000 + b","), damaged(unknown=1),
    ):  # fmt: skip
        assert OwnerFile.read(content) is None, content[:60]


@pytest.mark.parametrize("content", [b'{"owner": {"host', None])
def test_a_damaged_file_gets_the_usual_patience(
    folder: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    if content is None:
        os.mkfifo(folder / "owner-00000003.json")
    else:
        (folder / "owner-00000003.json").write_bytes(content)
    assert refused(folder, PATIENCE / 2).other == "an unknown process"
    own(folder).give_back()
    assert owner_file(folder).name == "owner-00000004.json"
    assert f"{folder}/owner-00000003.json is damaged" in caplog.text


def test_a_waiting_process_that_was_frozen_has_not_waited_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    folder.mkdir()
    (folder / "owner-00000001.json").write_bytes(b"somebody")
    lease = Lease(folder, period=10.0)
    assert not lease.attempt()
    now = 2.0
    assert not lease.attempt()
    now = 10_000.0
    assert not lease.attempt(), "the owner may have been frozen with this process, as by `scontrol suspend`"
    for _ in range(56):
        now += 2.0
        assert not lease.attempt()
    now += 4.0
    assert lease.attempt(), "120 s, of which 6 s before"


def test_a_forked_child_does_not_give_back_what_its_parent_owns(folder: Path) -> None:
    lease = own(folder)
    os.waitpid(forked(lease.give_back), 0)
    assert owned(folder)
    lease.give_back()
    assert not owned(folder)


def test_signs_of_life_go_on_after_errors_of_the_file_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease = own(folder)
    original, failures = lease._entry, []

    def failing(state: Any) -> bytes:
        if len(failures) < 3:
            failures.append(state)
            raise OSError(5, "Input/output error")
        return original(state)

    monkeypatch.setattr(lease, "_entry", failing)
    until(lambda: len(failures) == 3)
    beat = said(folder)["beat"]
    until(lambda: said(folder)["beat"] > beat)
    assert caplog.text.count("no sign of life could be written") == 3
    assert not lease.lost
    lease.give_back()


def test_a_full_disk_leaves_no_half_owner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        Lease(folder, PERIOD).attempt()
    assert list(folder.iterdir()) == []


ALONE = Processes(0, 1, None)


def test_who_waits_says_for_whom_and_goes_on_when_it_is_given_back(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def body() -> None:
        lease = own(folder)
        time.sleep(2 * PATIENCE)
        lease.give_back()

    process = forked(body)
    until(lambda: owned(folder))
    with leased(folder, PERIOD, ALONE, StopRequest(None)) as lease:
        assert lease.holds()
        assert lease.waited
    assert not owned(folder)
    os.waitpid(process, 0)
    (line,) = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert line.startswith(f"waiting: {folder} is in use by another training (process {process} on ")
    assert "no sign of life for 1.2 s" in line


def test_waiting_ends_with_the_budget_and_with_a_signal(folder: Path) -> None:
    signalled = StopRequest(None)
    signalled.handle(signal.SIGTERM, None)
    reasons = {"the wall-time budget is nearly used up": StopRequest(0.3), "received SIGTERM": signalled}
    with living(folder) as process:
        for reason, stop in reasons.items():
            waiting = leased(folder, PERIOD, ALONE, stop)
            message = f"{reason}, and {folder} is still in use by another training .process {process} on "
            with pytest.raises(Interrupted, match=message), waiting:
                pytest.fail("the folder had two owners")


def test_an_error_gives_the_folder_back(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), leased(folder, 1000.0, ALONE, StopRequest(None)):
        raise ZeroDivisionError
    assert not owned(folder)
