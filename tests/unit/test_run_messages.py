"""What a person reads of a run of Snakemake."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from lska.models.runs import Run
from lska.pipeline import run_messages
from lska.pipeline.run_messages import RunMessages, RunProgress
from lska.train.interrupt import STOPPED

RUNS = [Run.parse(f"van_tiny-lska-k{kernel}-s0") for kernel in (7, 23, 35)]
LINES = "update 40 of 92, epoch 2: loss 2.01, 00:12 left"


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return f"{self.now:.0f}s"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_messages, "time", clock)
    monkeypatch.setattr(RunMessages, "watch", lambda self: None)
    monkeypatch.setattr(run_messages, "expected_seconds", lambda plan: {"train": 100.0})
    return clock


@pytest.fixture
def messages(clock: Clock) -> RunMessages:
    plan = SimpleNamespace(
        family=lambda rule: re.sub("^notebook_.*", "notebook", rule), config=SimpleNamespace(runs=RUNS),
        reasons=lambda outputs, otherwise="": "never trained" if "weights" in outputs else otherwise,
        makers={"checkpoints/demo/van_tiny-lska-k23-s0.safetensors": "weights/van_tiny-lska-k23-s0"},
    )  # fmt: skip
    rules = [SimpleNamespace(name=name, output=[name] * made) for name, made in {
        "train": 1, "notebook_table_03": 1, "table_03": 0, "all": 0,
    }.items()]  # fmt: skip
    settings = SimpleNamespace(targets={"all"})
    return RunMessages(plan, SimpleNamespace(dryrun=False, local_exec=True, rules=rules, dag_settings=settings))


@pytest.fixture
def tell(messages: RunMessages) -> Callable[..., str]:
    """What is shown of an event."""

    def tell(event: LogEvent | None, text: str = "", level: int = logging.INFO, **fields: Any) -> str:
        return messages.format(logging.makeLogRecord({"event": event, "msg": text, "levelno": level, **fields}))

    stats = {"train": 3, "notebook_table_03": 1, "table_03": 1, "all": 1, "total": 6}
    assert tell(LogEvent.RUN_INFO, "Job stats", stats=stats) == "To do: 3 train, 1 notebook"
    return tell


def start(tell: Callable[..., str], number: int, log: list[str] = []) -> str:  # noqa: B006
    run = str(RUNS[number])
    return tell(
        LogEvent.JOB_INFO, jobid=number, rule_name="train", rule_msg=f"train {run}", wildcards={"run": run}, log=log,
        output=["weights"], reason="Missing output files: weights",
    )  # fmt: skip


def finish(tell: Callable[..., str], number: int, done: int) -> str:
    assert tell(LogEvent.JOB_FINISHED, job_id=number) == ""
    return tell(LogEvent.PROGRESS, done=done, total=6)


def fail(tell: Callable[..., str], number: int, log: Path, **aux: str) -> str:
    told = tell(LogEvent.ERROR, "CalledProcessError: exit status 1", logging.ERROR, exception="RuleException")
    assert told == ""  # told with the job
    return tell(
        LogEvent.JOB_ERROR, "Error in rule train", logging.ERROR, jobid=number, rule_name="train", rule_msg=None,
        log=["executed.ipynb", str(log)], aux=aux,
    )  # fmt: skip


def end(tell: Callable[..., str]) -> str:
    tell(None, "Exiting because a job execution failed. Look above for error messages", logging.ERROR)
    return tell(LogEvent.ERROR, "WorkflowError: At least one job", logging.ERROR, exception="WorkflowError")


def test_a_run_is_told_in_words_with_the_time_left(clock: Clock, tell: Callable[..., str]) -> None:
    assert tell(None, "Select jobs to execute...") == tell(LogEvent.JOB_STARTED, "Execute 1 jobs...") == ""
    assert start(tell, 0) == "0s train van_tiny lska k=7, 1 of 3 (never trained)"
    clock.now = 40
    # The first took 40 s, not 100 s as those before; how long the notebook takes is not known.
    assert finish(tell, 0, 1) == (
        "40s train van_tiny lska k=7: done in 40 seconds; 1 of 6 jobs done; at least 80 seconds left"
    )
    assert start(tell, 1) == "40s train van_tiny lska k=23, 2 of 3 (never trained)"
    start(tell, 2)
    clock.now = 60
    assert finish(tell, 1, 2).endswith("2 of 6 jobs done; at least 5 seconds left")  # two at once, of one 10 s
    common = {"wildcards": {}, "log": [], "reason": "Input files updated by another job"}
    told = tell(LogEvent.JOB_INFO, jobid=7, rule_name="notebook_table_03", rule_msg="make table_03",
                output=["table"], **common)  # fmt: skip
    assert told == "60s make table_03"
    clock.now = 62
    assert finish(tell, 7, 3).endswith("about 4 seconds left")
    finish(tell, 2, 4)
    assert tell(LogEvent.JOB_INFO, jobid=8, rule_name="all", rule_msg=None, output=[], **common) == ""
    assert finish(tell, 8, 5) == "" and finish(tell, 9, 6) == "62s 6 of 6 jobs done"


def test_networks_of_several_seeds_are_told_apart(messages: RunMessages, tell: Callable[..., str]) -> None:
    messages.plan.config.runs = [*RUNS, RUNS[0].with_seed(1)]
    assert start(tell, 0).startswith("0s train van_tiny lska k=7 seed 0, 1 of 3")


def test_what_runs_is_told_by_the_last_line_of_its_log(
    clock: Clock, messages: RunMessages, tell: Callable[..., str], tmp_path: Path
) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"14:20:00 INFO going on\n14:20:15 INFO {LINES}\n")
    start(tell, 0, [str(log)])
    start(tell, 1)
    clock.now = 30
    assert messages.under_way().splitlines() == [
        f"30s train van_tiny lska k=7: {LINES}",
        "30s train van_tiny lska k=23: for 30 seconds; at least 2.0 minutes left in all",
    ]


def test_a_failed_job_shows_the_end_of_its_log(tell: Callable[..., str], tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "OSError: the disk is \x1b[31mfull\n")
    start(tell, 0)
    told = fail(tell, 0, log, slurm="status is FAILED").splitlines()
    assert told[:3] == ["0s train van_tiny lska k=7: FAILED", "status is FAILED", f"last lines of {log}:"]
    assert told[3:5] == ["  line 86", "  line 87"] and len(told) == 3 + run_messages.LAST_LINES
    assert "the disk is" in told[-1] and "\x1b" not in told[-1]
    with log.open("a") as more:  # a fault that explains itself needs no lines before it
        more.write("WARNING skipped\nlska: error: trials.yaml: 1 problem(s):\n  unknown key\n")
    start(tell, 0)
    assert fail(tell, 0, log).endswith(f"{log}:\n  lska: error: trials.yaml: 1 problem(s):\n    unknown key")
    with log.open("a") as more:  # its beginning says what it is about
        more.write("lska: error: trials.yaml: 99 problem(s):\n" + "  unknown key\n" * 99)
    start(tell, 0)
    told = fail(tell, 0, log).splitlines()[2:]
    assert told[0].endswith("99 problem(s):") and len(told) == run_messages.LAST_LINES
    # Started again it is no further one.
    assert start(tell, 0) == "0s train van_tiny lska k=7, 1 of 3 (never trained)"
    fail(tell, 0, log)
    assert end(tell).splitlines()[:2] == ["Failed:", f"  train van_tiny lska k=7 ({log})"]


def test_a_job_that_is_done_at_a_second_attempt_is_not_among_the_failed(
    tell: Callable[..., str], tmp_path: Path
) -> None:
    for number in (0, 1, 1):
        start(tell, number)
        fail(tell, number, tmp_path / "none.log")
    assert tell(None, "Trying to restart job 0.") == "It is tried again."
    start(tell, 0)
    finish(tell, 0, 1)
    assert end(tell).splitlines()[1:-1] == [f"  train van_tiny lska k=23 ({tmp_path / 'none.log'})"]


def test_a_job_that_logs_nothing_shows_what_snakemake_says(tell: Callable[..., str], tmp_path: Path) -> None:
    start(tell, 0)
    told = fail(tell, 0, tmp_path / "none.log")
    assert f"its log {tmp_path / 'none.log'} is empty" in told and told.endswith("  CalledProcessError: exit status 1")


def test_a_training_that_stops_in_time_ends_in_two_lines(tell: Callable[..., str], tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"Traceback of an earlier attempt\n{STOPPED} budget used up; state saved after update 4\n")
    start(tell, 0, [str(log)])
    assert "FAILED" in fail(tell, 0, log)  # killed: the log of its former attempt says nothing of this one
    start(tell, 0, ["executed.ipynb", str(log)])
    with log.open("a") as more:
        more.write(f"going on\n{STOPPED} budget used up; state saved after update 9\nended\n")
    assert fail(tell, 0, log) == "0s train van_tiny lska k=7: budget used up; state saved after update 9"
    assert end(tell).splitlines() == [
        "Stopped in time: train van_tiny lska k=7.",
        "What is done is kept, and trainings have saved their states: call the same again to go on.",
    ]


def test_ctrl_c_ends_in_two_lines(messages: RunMessages, tell: Callable[..., str], tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("Traceback\n")
    start(tell, 0)
    with pytest.raises(SystemExit) as error:
        messages.interrupt(2, None)
    assert error.value.code == 130
    messages.interrupt(2, None)  # once more: the jobs have got it too
    assert fail(tell, 0, log) == tell(None, "Complete log(s): x") == tell(None, "Shutting down, ...") == ""
    assert tell(None, "something is wrong", logging.WARNING) == "something is wrong"
    assert end(tell).splitlines()[0] == "Stopped by Ctrl-C." and len(end(tell).splitlines()) == 2


def test_ctrl_c_amid_a_message_comes_after_it(messages: RunMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    again = []
    monkeypatch.setattr(run_messages.threading, "Timer", lambda seconds, function, given: SimpleNamespace(
        start=lambda: again.append((function, given))))  # fmt: skip

    def emit() -> None:
        messages.interrupt(2, inspect.currentframe())

    emit()
    assert again == [(os.kill, (os.getpid(), 2))] and not messages.interrupted


def test_other_errors_of_snakemake_are_shown_whole(tell: Callable[..., str]) -> None:
    assert end(tell) == "WorkflowError: At least one job"
    assert tell(LogEvent.ERROR, "LockException: locked", logging.ERROR, exception="LockException").endswith("locked")
    assert tell(LogEvent.SHELLCMD, shellcmd="lska train") == "lska train"


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("tabel_03", "did you mean table_03?"),
        ("checkpoints/demo/van_tinny-lska-k23-s0.safetensors",
         "did you mean checkpoints/demo/van_tiny-lska-k23-s0.safetensors?"),
        ("xyz", "nothing makes this; Targets"),
    ],
)  # fmt: skip
def test_misspelt_targets_get_a_suggestion(
    messages: RunMessages, tell: Callable[..., str], target: str, meant: str
) -> None:
    messages.workflow.dag_settings.targets = {target, "table_03", str(Path(__file__))}
    told = tell(LogEvent.ERROR, "No rule to produce", logging.ERROR, exception="MissingRuleException")
    assert told.startswith(f"lska: error: {target}: ") and meant in told and "\n" not in told
    # Where an input is missing, not a target, Snakemake's words say which.
    messages.workflow.dag_settings.targets = {"table_03"}
    told = tell(LogEvent.ERROR, "No rule to produce", logging.ERROR, exception="MissingRuleException")
    assert told == "No rule to produce"


def test_a_dry_run_names_each_job_once(messages: RunMessages, tell: Callable[..., str]) -> None:
    messages.workflow.dryrun = True
    assert start(tell, 0) == "train van_tiny lska k=7: never trained"
    assert tell(None, "Reasons:\n    output files have to be generated:\n        train") == ""


def test_nothing_is_said_of_the_time_left_where_nothing_tells() -> None:
    progress = RunProgress({"train": 3}, {})
    assert progress.left(0) == ""
    assert RunProgress({"train": 3}, {"train": 1200}).left(0) == "about 60.0 minutes left"


@pytest.fixture
def snakemakes_own() -> Iterator[logging.Handler]:
    handler = logging.StreamHandler()
    handler.name = "DefaultStreamHandler"
    run_messages.logger.addHandler(handler)
    yield handler
    run_messages.logger.removeHandler(handler)


def test_it_takes_the_place_of_snakemakes_words_on_the_terminal_alone(snakemakes_own: logging.Handler) -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    try:
        run_messages.speak_of_runs(SimpleNamespace(), SimpleNamespace())
        assert isinstance(snakemakes_own.formatter, RunMessages)
        assert signal.getsignal(signal.SIGINT) == snakemakes_own.formatter.interrupt
    finally:
        signal.signal(signal.SIGINT, before)
