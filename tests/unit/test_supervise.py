"""The watchdog, beside stand-ins for Snakemake and for Slurm's commands."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lease_helpers import until
from syrupy.assertion import SnapshotAssertion

from lska.cli import main
from lska.pipeline import supervise as watchdogs
from lska.pipeline.supervise import (
    OwnershipError,
    Patience,
    QueueError,
    job_ended,
    job_prefix,
    job_states,
    owned,
    snakemakes,
    supervise,
    write_patient_commands,
)

QUICK = Patience(restarts=2, poll_seconds=0.1, quiet_seconds=0.6, leftover_seconds=2)

SNAKEMAKE = """#!/bin/sh
cd "{folder}"
echo "$@" >> calls
for word in "$@"; do
  [ "$word" = --unlock ] && {{ rm .snakemake/locks/*; exit 0; }}
done
starts=$(grep -vc -- --unlock calls)
{body}
"""

SQUEUE = """#!/bin/sh
[ -e "{folder}/away" ] && {{ echo "Unable to contact slurm controller" >&2; exit 1; }}
case "$*" in *--jobs=7*)
  cat "{folder}/state" 2>/dev/null && exit 0
  echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
esac
cat "{folder}/queue" 2>/dev/null
exit 0
"""

SCONTROL = """#!/bin/sh
case "$1" in
  ping) [ -e "{folder}/away" ] && echo "Slurmctld(primary) is DOWN" || echo "Slurmctld(primary) is UP" ;;
  show) [ -e "{folder}/away" ] && exit 1; echo "MinJobAge = 300 sec" ;;
  requeue) echo "$2" >> "{folder}/requeued"; sed -i "s/^$2|PREEMPTED/$2|PENDING/" "{folder}/queue" ;;
esac
"""

SCANCEL = """#!/bin/sh
echo "$@" >> "{folder}/cancelled"
rm "{folder}/queue"
"""


class Place:
    """A folder with stand-ins on PATH."""

    def __init__(self, folder: Path, commands: Path) -> None:
        self.folder, self.commands = folder, commands
        for name, text in (("squeue", SQUEUE), ("scontrol", SCONTROL), ("scancel", SCANCEL), ("sbatch", "#!/bin/sh\n")):
            self.write(name, text.format(folder=folder))

    def write(self, name: str, text: str) -> None:
        (self.commands / name).write_text(text, encoding="utf-8")
        (self.commands / name).chmod(0o755)

    def snakemake(self, body: str) -> None:
        """Have Snakemake do this; `$starts` counts its starts."""
        self.write("snakemake", SNAKEMAKE.format(folder=self.folder, body=body))

    def queue(self, *states: str) -> None:
        """Put jobs of this folder into the queue, and one of another."""
        lines = [f"{number}|{state}|{job_prefix(self.folder)}_run\n" for number, state in enumerate(states, 1)]
        (self.folder / "queue").write_text("".join([*lines, "99|RUNNING|somebody-else\n"]), encoding="utf-8")

    def said(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    folder, commands = tmp_path / "project", tmp_path / "commands"
    folder.mkdir()
    commands.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return Place(folder, commands)


def watched(place: Place, *options: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A watchdog as a process of its own, which heeds Ctrl-C even where whoever runs the tests ignores it."""
    words = [*before, sys.executable, "-m", "lska", "supervise", "--poll-seconds", "0.2", *options, "snakemake"]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def test_what_ends_by_itself_is_not_started_again(place: Place) -> None:
    place.snakemake("cat .snakemake/lska-supervised.json > owner; exit 1")
    assert supervise(["snakemake", "--profile", "slurm", "--", "all"], QUICK) == 1
    assert place.said("calls") == ["--rerun-incomplete --profile slurm -- all"]
    assert json.loads(place.said("owner")[0]) == {"host": socket.gethostname(), "supervisor": os.getpid(), "job": None}
    assert (place.folder / ".snakemake" / "lska-supervised.json").read_text(encoding="utf-8") == ""


def test_a_killed_snakemake_is_unlocked_and_started_again(place: Place) -> None:
    place.snakemake("if [ $starts = 1 ]; then mkdir -p .snakemake/locks; echo x > .snakemake/locks/0; kill -9 $$; fi")
    assert supervise(["snakemake", "-c2"], QUICK) == 0
    assert place.said("calls") == ["--rerun-incomplete -c2", "--unlock -c2", "--rerun-incomplete -c2"]


def test_restarts_are_bounded(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.snakemake("kill -9 $$")
    assert supervise(["snakemake"], QUICK) == 128 + 9
    assert len(place.said("calls")) == 3
    assert "Snakemake was killed by signal 9; giving up" in caplog.text


def test_a_snakemake_that_waits_for_nothing_is_ended_and_started_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdogs, "_END_SECONDS", 0.5)
    place.queue("COMPLETED", "FAILED")
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    place.snakemake(f"[ $starts = 1 ] || exit 0\nexec python3 -c '{deaf}'")
    started = time.monotonic()
    assert supervise(["snakemake"], QUICK) == 0
    assert time.monotonic() - started < 30
    assert "waited for jobs that are in no queue any more; start 2 of 3 follows" in caplog.text


@pytest.mark.parametrize("busy", ["a job in the queue", "a job beside it", "no Slurm"])
def test_a_snakemake_that_has_something_to_wait_for_is_left_alone(
    place: Place, busy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = f"exec {shlex.quote(sys.executable)} -c 'import time; time.sleep(2)'"
    if busy == "a job in the queue":
        place.queue("COMPLETED", "RUNNING")
        # Only now: jobs that are there before Snakemake starts are leftovers.
        place.snakemake(f"mv jobs queue\n{wait}")
        (place.folder / "queue").rename(place.folder / "jobs")
    elif busy == "no Slurm":
        monkeypatch.setattr(watchdogs.shutil, "which", lambda name: None)
        place.snakemake(wait)
    else:
        place.snakemake("sleep 2; exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert len(place.said("calls")) == 1


def test_jobs_that_slurm_leaves_behind_run_again_but_not_those_of_an_earlier_snakemake(place: Place) -> None:
    place.queue("COMPLETED", "PREEMPTED")
    text = (place.folder / "queue").read_text(encoding="utf-8")
    later = text + text.replace("1|COMPLETED", "3|NODE_FAIL").replace("2|", "4|").replace("99|", "98|")
    (place.folder / "jobs").write_text(later, encoding="utf-8")
    place.snakemake("mv jobs queue; sleep 1; exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert set(place.said("requeued")) == {"3", "4"}


def test_a_job_that_slurm_does_not_run_again_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.queue("PREEMPTED")
    (place.folder / "queue").rename(place.folder / "jobs")
    place.write("scontrol", "#!/bin/sh\necho 'Requested operation not supported' >&2; exit 1\n")
    place.snakemake("mv jobs queue; sleep 1; exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert "job 1 is PREEMPTED and cannot run again: scontrol requeue 1: Requested operation" in caplog.text
    assert "Slurm's commands will not wait where its controller is away" in caplog.text


def test_jobs_of_a_dead_snakemake_are_cancelled_before_the_start(place: Place) -> None:
    place.queue("RUNNING", "COMPLETED", "PENDING")
    place.snakemake("exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert place.said("cancelled") == ["1 3"]


def test_the_end_is_also_heard_before_snakemake_is_started(place: Place) -> None:
    place.write("squeue", "#!/bin/sh\ntouch asked; exec sleep 300\n")
    place.snakemake("exit 0")
    watchdog = watched(place)
    until(lambda: (place.folder / "asked").exists(), 60)
    watchdog.send_signal(signal.SIGTERM)
    watchdog.communicate(timeout=30)
    assert watchdog.returncode == 128 + signal.SIGTERM
    assert place.said("calls") == []


def test_a_failure_while_the_controller_is_away_is_a_reason_to_start_again(place: Place) -> None:
    place.snakemake("[ $starts = 1 ] || exit 0\ntouch away; sleep 1; rm away; sleep 0.5; exit 1")
    assert supervise(["snakemake"], QUICK) == 0
    assert len(place.said("calls")) == 2


def test_a_controller_that_is_away_at_the_start_is_waited_for(place: Place) -> None:
    (place.folder / "away").touch()
    place.snakemake("for name in sbatch squeue scontrol; do command -v $name; done > found; exit 0")
    threading.Timer(0.5, (place.folder / "away").unlink).start()
    assert supervise(["snakemake"], QUICK) == 0
    found = [Path(line) for line in place.said("found")]
    assert [path.name for path in found] == ["sbatch", "squeue", "scontrol"]
    assert place.commands not in {path.parent for path in found}


def test_commands_wait_until_the_controller_is_back(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = tmp_path / "patient"
    patient.mkdir()
    place.write("sbatch", "#!/bin/sh\necho submitted $1\n")
    write_patient_commands(patient)
    (place.folder / "away").touch()
    waiting = subprocess.Popen([patient / "sbatch", "job"], stdout=subprocess.PIPE, text=True)
    shown = subprocess.run([patient / "scontrol", "show", "config"], capture_output=True, text=True, check=True)
    assert shown.stdout == "MinJobAge = 300 sec\n"
    time.sleep(1)
    assert waiting.poll() is None
    (place.folder / "away").unlink()
    assert waiting.communicate(timeout=10)[0] == "submitted job\n"
    (place.commands / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(place.commands))
    (tmp_path / "none").mkdir()
    write_patient_commands(tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_a_queue_shows_the_folders_jobs_alone(place: Place) -> None:
    place.queue("RUNNING", "TIMEOUT")
    assert job_states(place.folder) == {"1": "RUNNING", "2": "TIMEOUT"}
    (place.folder / "away").touch()
    for ask in (lambda: job_states(place.folder), lambda: job_ended("8")):
        with pytest.raises(QueueError, match="squeue .*Unable to contact slurm controller"):
            ask()


@pytest.mark.parametrize(
    ("state", "now", "goes_on"),
    [("RUNNING", "8", False), ("TIMEOUT", "8", True), (None, None, True), ("RUNNING", "7", True)],
    ids=["its job runs", "its job has ended", "its job is forgotten", "its job was requeued"],
)
def test_what_a_job_on_another_machine_ran_has_ended_with_it(
    state: str | None, now: str | None, goes_on: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    place.snakemake("kill -9 $$")
    supervise(["snakemake"], replace(QUICK, restarts=0))
    if state is not None:
        (place.folder / "state").write_text(f"{state}\n", encoding="utf-8")
    monkeypatch.setattr(socket, "gethostname", lambda: "node2")
    monkeypatch.delenv("SLURM_JOB_ID")
    if now is not None:
        monkeypatch.setenv("SLURM_JOB_ID", now)
    place.snakemake("exit 0")
    if not goes_on:
        place.queue("RUNNING")
        with pytest.raises(OwnershipError, match="started on .node1."):
            supervise(["snakemake"], QUICK)
        assert place.said("cancelled") == [] and len(place.said("calls")) == 1
        monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    assert supervise(["snakemake"], QUICK) == 0


def test_refusals(place: Place, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion) -> None:
    """Nothing is started, and every message says what to do."""
    record, told = place.folder / ".snakemake" / "lska-supervised.json", {}
    record.parent.mkdir()

    def refused(name: str, *words: str) -> None:
        assert main(["supervise", "--poll-seconds", "0.1", *words]) == 1
        told[name] = capsys.readouterr().err.replace(str(place.folder), "<folder>")
        assert place.said("calls") == []

    place.snakemake("exit 0")
    for name, content in {"another machine": '{"host": "login9", "supervisor": 1}', "a cut record": '{"host"'}.items():
        record.write_text(content)
        refused(name, "snakemake")
        assert record.read_text() == content
    record.unlink()
    refused("no snakemake", "make", "demo")
    (record.parent / "locks").mkdir()
    (record.parent / "locks" / "0.output.lock").write_text("a file\n", encoding="utf-8")
    refused("an unknown lock", "snakemake")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *asked: (_ for _ in ()).throw(OSError(errno.ENOSYS, "No such function")))
        refused("no locks", "snakemake")
    assert told == snapshot


def test_what_stops_a_watchdog_on_its_way(
    place: Place, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    place.snakemake("mkdir -p .snakemake/locks; echo x > .snakemake/locks/0; kill -9 $$")
    text = (place.commands / "snakemake").read_text(encoding="utf-8")
    place.write("snakemake", text.replace("rm .snakemake/locks/*; exit 0", "echo 'no such recipe' >&2; exit 1"))
    with pytest.raises(OwnershipError) as locked:
        supervise(["snakemake"], QUICK)
    place.queue("RUNNING")
    place.write("scancel", "#!/bin/sh\n")
    with pytest.raises(OwnershipError) as lasting:
        supervise(["snakemake"], QUICK)
    assert [str(one.value).replace(str(place.folder), "<folder>") for one in (locked, lasting)] == snapshot


def test_nobody_else_starts_while_the_watchdog_or_its_snakemake_lives(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.snakemake(f"exec {shlex.quote(sys.executable)} -c 'import time; time.sleep(60)'")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    watchdog = watched(place)
    until(lambda: asleep(place.folder), 60)
    holder = rf"already run here, by process {watchdog.pid} on {re.escape(socket.gethostname())} \(job 7\)"
    with pytest.raises(OwnershipError, match=holder), owned(place.folder):
        pass
    watchdog.kill()
    watchdog.wait()
    with pytest.raises(OwnershipError, match="already run here"), owned(place.folder):
        pass
    for number in asleep(place.folder):
        os.kill(number, signal.SIGKILL)
    until(lambda: not asleep(place.folder), 60)
    with owned(place.folder) as ownership:
        assert ownership.lock.read_text(encoding="utf-8") and not ownership.left_lock()


def asleep(folder: Path) -> list[int]:
    """The stand-ins for Snakemake that sleep in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"time.sleep(60)" in (process / "cmdline").read_bytes() and (process / "cwd").samefile(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_living_snakemake_without_watchdog_is_noticed(place: Place) -> None:
    script = place.commands / "snakemake"
    script.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    other = subprocess.Popen([sys.executable, str(script)])
    job = subprocess.Popen([sys.executable, str(script), "--mode", "remote"])
    assert snakemakes(place.folder) == [other.pid]
    with owned(place.folder) as ownership, pytest.raises(OwnershipError, match=rf"\(process {other.pid}\)"):
        ownership.left_lock()
    for process in (other, job):
        process.kill()
        process.wait()
    assert snakemakes(place.folder) == []


@pytest.mark.parametrize(("number", "passed"), [(signal.SIGINT, "INT"), (signal.SIGHUP, "TERM")])
def test_signals_are_passed_on_and_end_it(place: Place, number: signal.Signals, passed: str) -> None:
    traps = "; ".join(f"trap 'echo {name} >> signals; exit 3' {name}" for name in ("INT", "TERM", "HUP"))
    place.snakemake(f"{traps}\ntouch ready\nwhile :; do sleep 0.1; done")
    watchdog = watched(place)
    until((place.folder / "ready").exists, 60)
    watchdog.send_signal(number)
    assert watchdog.wait(20) == 3
    assert place.said("signals") == [passed] and len(place.said("calls")) == 1


def test_what_is_ignored_stays_so(place: Place) -> None:
    place.snakemake("touch ready; while [ ! -e go ]; do sleep 0.1; done; exit 4")
    watchdog = watched(place, before=("nohup",))
    until((place.folder / "ready").exists, 60)
    watchdog.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert watchdog.poll() is None
    (place.folder / "go").touch()
    assert watchdog.wait(20) == 4
