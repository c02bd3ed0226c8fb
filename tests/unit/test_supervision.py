"""The watchdog, beside stand-ins for Snakemake and for Slurm's commands."""

from __future__ import annotations

import errno
import fcntl
import os
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

from lska.cli import main
from lska.supervision.ownership import OwnershipError, owned, snakemakes
from lska.supervision.queue import Queue, QueuedJob, QueueError, job_prefix, write_patient_commands
from lska.supervision.supervisor import Limits, Supervisor, supervise

QUICK = Limits(restarts=2, poll_seconds=0.1, quiet_seconds=0.6, leftover_seconds=2)

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

    def lock(self) -> None:
        """The lock that a Snakemake leaves when it is killed."""
        (self.folder / ".snakemake" / "locks").mkdir(parents=True, exist_ok=True)
        (self.folder / ".snakemake" / "locks" / "0.output.lock").write_text("a file\n", encoding="utf-8")

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


def test_a_good_end_is_the_end(place: Place) -> None:
    place.snakemake("exit 0")
    assert supervise(["snakemake", "--profile", "slurm", "--", "all"], QUICK) == 0
    assert place.said("calls") == ["--rerun-incomplete --profile slurm -- all"]


def test_failed_jobs_are_no_reason_to_start_again(place: Place) -> None:
    place.snakemake("exit 1")
    assert supervise(["snakemake"], QUICK) == 1
    assert len(place.said("calls")) == 1


def test_a_killed_snakemake_is_unlocked_and_started_again(place: Place) -> None:
    place.snakemake("if [ $starts = 1 ]; then mkdir -p .snakemake/locks; echo x > .snakemake/locks/0; kill -9 $$; fi")
    assert supervise(["snakemake", "-c2"], QUICK) == 0
    assert place.said("calls") == ["--rerun-incomplete -c2", "--unlock -c2", "--rerun-incomplete -c2"]


def test_restarts_are_bounded(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.snakemake("kill -9 $$")
    assert supervise(["snakemake"], QUICK) == 128 + 9
    assert len(place.said("calls")) == 3
    assert "Snakemake was started 3 times; giving up" in caplog.text


def test_a_snakemake_that_waits_for_nothing_is_ended_and_started_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.queue("COMPLETED", "FAILED")
    place.snakemake("[ $starts = 1 ] || exit 0\nexec env -u SHELL python3 -c 'import time; time.sleep(60)'")
    started = time.monotonic()
    assert supervise(["snakemake"], QUICK) == 0
    assert time.monotonic() - started < 30
    assert "waited for jobs that are in no queue any more; start 2 of 3 follows" in caplog.text


@pytest.mark.parametrize("busy", ["a job in the queue", "a job beside it"])
def test_a_snakemake_that_has_something_to_wait_for_is_left_alone(place: Place, busy: str) -> None:
    wait = f"exec {shlex.quote(sys.executable)} -c 'import time; time.sleep(2)'"
    if busy == "a job in the queue":
        place.queue("COMPLETED", "RUNNING")
        # Only now: jobs that are there before Snakemake starts are leftovers.
        place.snakemake(f"mv jobs queue\n{wait}")
        (place.folder / "queue").rename(place.folder / "jobs")
    else:
        place.snakemake("sleep 2; exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert len(place.said("calls")) == 1


def test_jobs_that_slurm_leaves_behind_run_again(place: Place) -> None:
    place.queue("RUNNING", "PREEMPTED", "NODE_FAIL")
    (place.folder / "queue").rename(place.folder / "jobs")
    place.snakemake("mv jobs queue; sleep 1; exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert {"2", "3"} <= set(place.said("requeued")) and "1" not in place.said("requeued")


def test_jobs_of_an_earlier_snakemake_stay_as_they_ended(place: Place) -> None:
    place.queue("PREEMPTED")
    place.snakemake("sleep 1; exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert place.said("requeued") == []


def test_jobs_of_a_dead_snakemake_are_cancelled_before_the_start(place: Place) -> None:
    place.queue("RUNNING", "COMPLETED", "PENDING")
    place.snakemake("exit 0")
    assert supervise(["snakemake"], QUICK) == 0
    assert place.said("cancelled") == ["1 3"]


@pytest.mark.parametrize("reason", ["the controller is away", "jobs do not end"])
def test_the_end_is_also_heard_before_snakemake_is_started(place: Place, reason: str) -> None:
    place.queue("RUNNING")
    place.write("scancel", f"#!/bin/sh\ntouch {shlex.quote(str(place.folder / 'cancelled'))}\n")
    if reason == "the controller is away":
        (place.folder / "away").touch()
    place.snakemake("exit 0")
    words = [sys.executable, "-m", "lska", "supervise", "--poll-seconds", "0.2", "snakemake"]
    watchdog = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    sign = "trying again" if reason == "the controller is away" else "cancelling 1 job(s)"
    assert any(sign in line for line in watchdog.stderr)
    watchdog.send_signal(signal.SIGTERM)
    watchdog.communicate(timeout=30)
    assert watchdog.returncode == 128 + signal.SIGTERM
    assert place.said("calls") == []


def test_commands_are_patient_also_where_the_controller_was_away_at_the_start(place: Place) -> None:
    (place.folder / "away").touch()
    place.snakemake("for name in sbatch squeue scontrol; do command -v $name; done > found; exit 0")
    back = threading.Timer(0.5, (place.folder / "away").unlink)
    back.start()
    assert supervise(["snakemake"], QUICK) == 0
    found = [Path(line) for line in place.said("found")]
    assert [path.name for path in found] == ["sbatch", "squeue", "scontrol"]
    assert place.commands not in {path.parent for path in found}


def test_jobs_that_do_not_end_stop_the_watchdog(place: Place) -> None:
    place.queue("RUNNING")
    place.write("scancel", "#!/bin/sh\n")
    place.snakemake("exit 0")
    with pytest.raises(OwnershipError, match="jobs 1 of a dead Snakemake do not end"):
        supervise(["snakemake"], QUICK)
    assert place.said("calls") == []


def test_a_failure_while_the_controller_is_away_is_a_reason_to_start_again(place: Place) -> None:
    place.snakemake("[ $starts = 1 ] || exit 0\ntouch away; sleep 1; rm away; exit 1")
    assert supervise(["snakemake"], QUICK) == 0
    assert len(place.said("calls")) == 2


def test_a_lock_that_no_watchdog_knows_is_left_alone(place: Place) -> None:
    place.lock()
    place.snakemake("exit 0")
    with pytest.raises(OwnershipError, match="the lock of a Snakemake that `lska supervise` did not start"):
        supervise(["snakemake"], QUICK)
    assert place.said("calls") == []


def test_a_lock_that_cannot_be_removed_is_told_in_snakemakes_words(place: Place) -> None:
    place.snakemake("mkdir -p .snakemake/locks; echo x > .snakemake/locks/0; kill -9 $$")
    text = (place.commands / "snakemake").read_text(encoding="utf-8")
    place.write("snakemake", text.replace("rm .snakemake/locks/*; exit 0", "echo 'no such recipe' >&2; exit 1"))
    with pytest.raises(OwnershipError, match="cannot be unlocked:\nno such recipe"):
        supervise(["snakemake"], QUICK)


def test_what_was_started_on_another_machine_is_left_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.queue("RUNNING")
    place.snakemake("kill -9 $$")
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    assert supervise(["snakemake"], replace(QUICK, restarts=0)) == 128 + 9
    place.queue("RUNNING")
    (place.folder / "cancelled").unlink()
    monkeypatch.setattr(socket, "gethostname", lambda: "login2")
    with pytest.raises(OwnershipError, match=r"started on .login1. .* remove .*lska-supervised\.json"):
        supervise(["snakemake"], QUICK)
    assert place.said("cancelled") == [] and len(place.said("calls")) == 1
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    place.snakemake("exit 0")
    assert supervise(["snakemake"], QUICK) == 0


@pytest.mark.parametrize(
    ("state", "now", "goes_on"),
    [
        ("RUNNING", "8", False), ("TIMEOUT", "8", True), (None, "8", True), ("RUNNING", "7", True),
        ("RUNNING", None, False),
    ],  # fmt: skip
    ids=["its job runs", "its job has ended", "its job is forgotten", "its job was requeued", "here is no job"],
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
    if goes_on:
        assert supervise(["snakemake"], QUICK) == 0
    else:
        with pytest.raises(OwnershipError, match="started on .node1."):
            supervise(["snakemake"], QUICK)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "expected a mapping, found a list"),
        ('{"host": ["a"], "supervisor": "many"}', "host: expected str"),
        ('{"supervisor": 1}', "missing key 'host'"),
        ('{"host": "a", "supervisor": 1, "job": {}}', "job: expected str or null"),
        ('{"host": "a", "supervisor": ' + "9" * 5000 + "}", "a whole number of 5000 digits"),
        ("[" * 100_000, "nested more than"),
        ('{"host": "a", "host": "b", "supervisor": 1}', "is given twice"),
        ('{"host"', "not valid JSON"),
        (b"\xff\xfe", "UTF-16"),
        (None, "a named pipe"),
    ],
)
def test_a_damaged_record_vouches_for_nothing(
    content: str | bytes | None, problem: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    record = place.folder / ".snakemake" / "lska-supervised.json"
    record.parent.mkdir()
    if content is None:
        os.mkfifo(record)
    else:
        record.write_bytes(content if isinstance(content, bytes) else content.encode())
    place.snakemake("exit 0")
    assert main(["supervise", "snakemake"]) == 1
    told = capsys.readouterr().err
    assert f"lska: error: {record}" in told and problem in told and f"remove {record} and start again" in told
    assert place.said("calls") == [] and record.exists()


def test_the_end_is_heard_while_slurm_gives_no_answer(place: Place) -> None:
    place.write("squeue", "#!/bin/sh\ntouch asked; exec sleep 300\n")
    place.snakemake("exit 0")
    watchdog = subprocess.Popen([sys.executable, "-m", "lska", "supervise", "snakemake"], stderr=subprocess.PIPE)
    until(lambda: (place.folder / "asked").exists())
    watchdog.send_signal(signal.SIGTERM)
    watchdog.communicate(timeout=20)
    assert watchdog.returncode == 128 + signal.SIGTERM
    assert place.said("calls") == []


def test_a_file_system_without_locks_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OwnershipError, match="locks no files"), owned(place.folder):
        pass


def test_nobody_else_starts_while_the_watchdog_or_its_snakemake_lives(place: Place) -> None:
    place.snakemake(f"exec {shlex.quote(sys.executable)} -c 'import time; time.sleep(60)'")
    words = [sys.executable, "-m", "lska", "supervise", "snakemake"]
    watchdog = subprocess.Popen(words)
    until(lambda: asleep(place.folder), 60)
    with pytest.raises(OwnershipError, match=f"process {watchdog.pid} on"), owned(place.folder):
        pass
    watchdog.kill()
    watchdog.wait()
    with pytest.raises(OwnershipError, match="already run here"), owned(place.folder):
        pass
    for number in asleep(place.folder):
        os.kill(number, signal.SIGKILL)
    until(lambda: not asleep(place.folder), 60)
    with owned(place.folder) as ownership:
        assert ownership.record.exists() and not ownership.left_lock()


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


@pytest.mark.parametrize(
    ("number", "passed"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"), (signal.SIGHUP, "TERM")]
)
def test_signals_are_passed_on_and_end_it(place: Place, number: signal.Signals, passed: str) -> None:
    traps = "; ".join(f"trap 'echo {name} >> signals; exit 3' {name}" for name in ("INT", "TERM", "HUP"))
    place.snakemake(f"{traps}\ntouch ready\nwhile :; do sleep 0.1; done")
    watchdog = subprocess.Popen([sys.executable, "-m", "lska", "supervise", "--poll-seconds", "0.2", "snakemake"])
    until((place.folder / "ready").exists, 60)
    watchdog.send_signal(number)
    assert watchdog.wait(20) == 3
    assert place.said("signals") == [passed] and len(place.said("calls")) == 1


def test_what_is_ignored_stays_so(place: Place) -> None:
    place.snakemake("touch ready; while [ ! -e go ]; do sleep 0.1; done; exit 4")
    words = ["nohup", sys.executable, "-m", "lska", "supervise", "--poll-seconds", "0.2", "snakemake"]
    watchdog = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until((place.folder / "ready").exists, 60)
    watchdog.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert watchdog.poll() is None
    (place.folder / "go").touch()
    assert watchdog.wait(20) == 4


def test_an_environment_that_jobs_cannot_be_started_from_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Queue, "here", lambda: True)
    monkeypatch.setattr(sys, "executable", "/my environment/bin/python")
    monkeypatch.setattr(Supervisor, "run", lambda self: 0)
    assert supervise(["snakemake"], QUICK, place.folder) == 0
    assert "/my environment/bin/python: Snakemake's executor for Slurm calls this without quotes" in caplog.text


def test_something_else_than_snakemake_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="needs a call of Snakemake"):
        supervise(["make", "demo"], QUICK)


def test_commands_wait_until_the_controller_is_back(place: Place, tmp_path: Path) -> None:
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


def test_a_queue_shows_the_folders_jobs_alone(place: Place) -> None:
    place.queue("RUNNING", "TIMEOUT")
    queue = Queue(job_prefix(place.folder))
    assert queue.jobs() == [QueuedJob("1", "RUNNING"), QueuedJob("2", "TIMEOUT")]
    assert [job.alive for job in queue.jobs()] == [True, False]
    (place.folder / "away").touch()
    with pytest.raises(QueueError, match="squeue .*Unable to contact slurm controller"):
        queue.jobs()
