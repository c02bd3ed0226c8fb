"""What a person reads of a run of Snakemake: jobs in words, the time that is left, why one failed, how it ended.

Snakemake's own words are kept whole in `.snakemake/log`. Imports nothing heavy.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import textwrap
import threading
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from types import FrameType
from typing import Any

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from lska.models.runs import Run
from lska.pipeline.estimate import expected_seconds
from lska.pipeline.plan_report import time_text
from lska.pipeline.products import Plan
from lska.provenance.errors import did_you_mean
from lska.provenance.files import printable
from lska.train.interrupt import STOPPED

QUIET_SECONDS, QUIET_SECONDS_ELSEWHERE = 15.0, 300.0
"""After which it is said what runs, if nothing else is; where jobs run on other machines, for days."""

LAST_LINES = 15
"""Of a failed job's log that are shown, at most."""

_TAIL_BYTES = 20_000

_LEFT_OUT = frozenset({
    "Select jobs to execute...", "Shutting down, this might take some time.",
    "Terminating processes on user request, this might take some time.",
    "Exiting because a job execution failed. Look above for error messages",
    "Assuming unrestricted shared filesystem usage.", "Rules claiming more threads will be scaled down.",
})  # fmt: skip
"""Lines of Snakemake that say nothing beside what is said here."""

_CALL_AGAIN = "What is done is kept, and trainings have saved their states: call the same again to go on."


@dataclass
class RunningJob:
    """A job since its start."""

    words: str
    """What it does; empty where it only asks for the files of others."""
    family: str
    log: Sequence[str]
    begun: float
    """Reading of `time.monotonic`."""
    written: int = 0
    """Bytes that its log had then: a training goes on in the log of its former attempts."""


@dataclass
class RunProgress:
    """How far a run is."""

    counts: Mapping[str, int]
    """Jobs of each family (`Plan.family`) that make files."""
    expected: Mapping[str, float]
    """Seconds of a job of a family by what was recorded earlier, as far as that tells."""
    running: dict[int, RunningJob] = field(default_factory=dict)
    """By Snakemake's number of the job."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """That jobs which are done have taken, by family."""
    started: Counter[str] = field(default_factory=Counter)
    """Jobs of each family that have been started."""
    beside: int = 1
    """The most jobs that have run at once."""

    def left(self, now: float) -> str:
        """The time left in words, from the jobs that are done and from earlier records; nothing where neither tells."""
        # Copies, as another thread than that which asks puts jobs in and out.
        known = {**self.expected, **{family: mean(seconds) for family, seconds in list(self.seconds.items())}}
        remaining = {family: count - len(self.seconds.get(family, ())) for family, count in self.counts.items()}
        whole = sum(count * known[family] for family, count in remaining.items() if family in known)
        under_way = [(one.family, now - one.begun) for one in list(self.running.values()) if one.family in known]
        whole -= sum(min(spent, known[family]) for family, spent in under_way)
        if whole < 1:
            return ""
        lacking = any(count > 0 and family not in known for family, count in remaining.items())
        return f"{'at least' if lacking else 'about'} {time_text(whole / self.beside)} left"


class RunMessages(logging.Formatter):
    """Snakemake's events in a reader's words; takes the place of the formatter of its terminal.

    Args:
        plan: of the scale.
        workflow: Snakemake's, which knows when its first job begins how it was called, not yet while it is read.
    """

    def __init__(self, plan: Plan, workflow: Any) -> None:
        super().__init__()
        self.plan, self.workflow = plan, workflow
        self.progress = RunProgress({}, {})
        self.failed: dict[int, str] = {}
        self.stopped: dict[int, str] = {}
        """Jobs that failed, by Snakemake's number; those that saved their state and ended before they were done. A job
        that is tried again is in one of them at most, and in none if it is done then."""
        self.interrupted = False
        """Whether Ctrl-C was pressed."""
        self._done: tuple[RunningJob, float] | None = None
        self._raised: dict[int, str] = {}
        self._told = time.monotonic()
        self._events = {
            LogEvent.RUN_INFO: self._run_info, LogEvent.JOB_INFO: self._job_info, LogEvent.JOB_ERROR: self._job_error,
            LogEvent.JOB_FINISHED: self._job_finished, LogEvent.PROGRESS: self._progress, LogEvent.ERROR: self._error,
            LogEvent.WORKFLOW_STARTED: lambda record: "", LogEvent.JOB_STARTED: lambda record: "",
            LogEvent.SHELLCMD: lambda record: record.shellcmd or "",
        }  # fmt: skip

    def format(self, record: logging.LogRecord) -> str:
        """What is shown of a record; nothing where that is empty."""
        text = self._events.get(getattr(record, "event", None), self._other)(record)
        self._told = time.monotonic() if text else self._told
        return text

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handler of Ctrl-C: Snakemake waits for its jobs, which have got the signal too, and end at once at a second
        one, which would have Snakemake itself leave them."""
        if self.interrupted:
            return
        # Amid a message Snakemake would pass over the end, and another message would wait for this one for ever.
        if any(one.f_code.co_name == "emit" for one, _ in traceback.walk_stack(frame)):
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
            return
        self.interrupted = True
        again = b"; once more ends it at once" if self.workflow.local_exec else b""
        waiting = b"Ctrl-C: waiting for what runs to save its state" + again + b".\n"
        # As written here, it waits for no lock.
        os.write(2, waiting if self.progress.running else b"Stopped by Ctrl-C; nothing was started.\n")
        # Unlike KeyboardInterrupt, it ends without a traceback where Snakemake does not wait for it.
        raise SystemExit(128 + number)

    def watch(self) -> None:
        """Say now and then what runs, where nothing else is said."""
        patience = QUIET_SECONDS if self.workflow.local_exec else QUIET_SECONDS_ELSEWHERE
        while True:
            time.sleep(max(1.0, self._told + patience - time.monotonic()))
            if time.monotonic() - self._told >= patience and (text := self.under_way()):
                logger.info(text)

    def under_way(self) -> str:
        """What runs, with the last line of its log."""
        now, running = time.monotonic(), [one for one in list(self.progress.running.values()) if one.words]
        lines = []
        for one in running[:4]:
            told = [line for line in _tail(one.log)[1] if " INFO " in line][-1:]
            said = told[0].partition(" INFO ")[2] if told else ""
            lines.append(f"{_clock()} {one.words}: {said or f'for {time_text(now - one.begun)}'}")
        if len(running) > 4:
            lines.append(f"{_clock()} {len(running)} jobs run, these among them")
        if lines and (left := self.progress.left(now)):
            lines[-1] += f"; {left} in all"
        return "\n".join(lines)

    # --- Events ------------------------------------------------------------------------------------------------------

    def _run_info(self, record: logging.LogRecord) -> str:
        counts: Counter[str] = Counter()
        # The others only ask for their files.
        making = {rule.name for rule in self.workflow.rules if rule.output}
        for rule, count in record.stats.items():
            if rule in making:
                counts[self.plan.family(rule)] += count
        if not self.workflow.dryrun:
            self.progress = RunProgress(counts, expected_seconds(self.plan))
            threading.Thread(target=self.watch, daemon=True).start()
        each = ", ".join(f"{count} {family}" for family, count in counts.most_common())
        return textwrap.fill(f"To do: {each}" if each else "", 110)

    def _job_info(self, record: logging.LogRecord) -> str:
        words, family = self._words(record), self.plan.family(record.rule_name)
        reason = self.plan.reasons(record.output, record.reason if self.workflow.dryrun else "")
        if self.workflow.dryrun:
            return f"{words or record.rule_name}: {reason}"
        progress, number = self.progress, record.jobid
        logs, begun = _texts(record.log), time.monotonic()
        written = sum(Path(path).stat().st_size for path in logs[:1] if Path(path).exists())
        progress.running[number] = RunningJob(words, family, logs, begun, written)
        progress.started[family] += 1
        progress.beside = max(progress.beside, len(progress.running))
        of = f", {progress.started[family]} of {total}" if (total := progress.counts.get(family, 1)) > 1 else ""
        return f"{_clock()} {words}{of}{f' ({reason})' if reason else ''}" if words else ""

    def _job_finished(self, record: logging.LogRecord) -> str:
        self.failed.pop(record.job_id, None)
        self.stopped.pop(record.job_id, None)
        if (one := self.progress.running.pop(record.job_id, None)) is not None:
            seconds = time.monotonic() - one.begun
            self.progress.seconds[one.family].append(seconds)
            self._done = one, seconds
        return ""

    def _progress(self, record: logging.LogRecord) -> str:
        told = [f"{record.done} of {record.total} jobs done", self.progress.left(time.monotonic())]
        if self._done is not None and self._done[0].words:
            told.insert(0, f"{self._done[0].words}: done in {time_text(self._done[1])}")
        elif record.done < record.total:
            return ""
        return f"{_clock()} {'; '.join(filter(None, told))}"

    def _job_error(self, record: logging.LogRecord) -> str:
        one = self.progress.running.pop(record.jobid, None)
        name = (one.words if one else "") or record.rule_name
        self.progress.started[self.plan.family(record.rule_name)] -= 1
        raised, (log, lines) = self._raised.pop(threading.get_ident(), ""), _tail(record.log)
        if self.interrupted:
            return ""
        for jobs in (self.failed, self.stopped):
            jobs.pop(record.jobid, None)
        _, now = _tail(record.log, one.written if one else 0)
        if said := [line for line in now[-5:] if line.startswith(STOPPED)]:
            self.stopped[record.jobid] = name
            return f"{_clock()} {name}: {said[-1].removeprefix(STOPPED).strip()}"
        self.failed[record.jobid] = f"{name} ({log})" if log else name
        shown = [f"  {line}" for line in _cause(now or lines) or raised.splitlines()]
        told = [str(told) for told in (record.rule_msg, *record.aux.values()) if told]
        where = [f"last lines of {log}:"] if lines else [f"its log {log} is empty"] if log else []
        return "\n".join([f"{_clock()} {name}: FAILED", *told, *where, *shown])

    def _error(self, record: logging.LogRecord) -> str:
        if record.exception == "RuleException":  # told with the job that failed
            self._raised[threading.get_ident()] = record.getMessage()
            return ""
        if record.exception == "MissingRuleException" and (unknown := self._unknown_targets()):
            return "\n".join(unknown)
        if record.exception != "WorkflowError" or not (self.interrupted or self.failed or self.stopped):
            return record.getMessage()
        if self.interrupted or not self.failed:
            in_time = f"Stopped in time: {', '.join(self.stopped.values())}."
            return f"{'Stopped by Ctrl-C.' if self.interrupted else in_time}\n{_CALL_AGAIN}"
        failed = [f"  {name}" for name in self.failed.values()]
        return "\n".join(["Failed:", *failed, "What is done is kept: mend the cause and call the same again."])

    def _other(self, record: logging.LogRecord) -> str:
        text = re.sub(r"^Trying to restart job \d+\.$", "It is tried again.", record.getMessage())
        ending = self.interrupted and record.levelno < logging.WARNING
        return "" if text in _LEFT_OUT or text.startswith("Reasons:") or ending else text

    # --- Words -------------------------------------------------------------------------------------------------------

    def _words(self, record: logging.LogRecord) -> str:
        """A job in words: what its rule says of it, with the network by its parts."""
        words, run = record.rule_msg or "", (record.wildcards or {}).get("run")
        return words.replace(run, self._network(Run.parse(run))) if run else words

    def _network(self, run: Run) -> str:
        several = len({one.seed for one in self.plan.config.runs}) > 1
        parts = [run.model, run.attention, run.kernel and f"k={run.kernel}", f"seed {run.seed}" if several else None]
        return " ".join(part for part in parts if part)

    def _unknown_targets(self) -> list[str]:
        known = [*(rule.name for rule in self.workflow.rules), *self.plan.makers]
        return [
            f"lska: error: {target}: nothing makes this; {did_you_mean(target, known)}Targets are tables and figures, "
            "such as table_01, other rules (`snakemake --list`), and files that one makes"
            for target in sorted(self.workflow.dag_settings.targets)
            if target not in known and not Path(target).exists()
        ]


def speak_of_runs(plan: Plan, workflow: Any) -> None:
    """Have Snakemake tell of a run as `RunMessages` does, and end at Ctrl-C without exceptions; called while the
    Snakefile is read by the process that starts jobs."""
    (terminal,) = [one for one in logger.handlers if one.name == "DefaultStreamHandler"] or [None]
    if terminal is None:  # another one was chosen by --logger
        return
    messages = RunMessages(plan, workflow)
    terminal.setFormatter(messages)
    # Of what Snakemake was about to do at Ctrl-C; nothing here is a coroutine.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, messages.interrupt)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _texts(logs: Sequence[str]) -> list[str]:
    """Those logs that are read here; a notebook tells nothing."""
    return [path for path in logs if not path.endswith(".ipynb")]


def _cause(lines: list[str]) -> list[str]:
    """Why a job failed, of the lines of its log: the last fault that explains itself, else the last lines."""
    faults = [number for number, line in enumerate(lines) if line.startswith("lska: error:")]
    return lines[faults[-1] :][:LAST_LINES] if faults else lines[-LAST_LINES:]


def _tail(logs: Sequence[str], after: int = 0) -> tuple[str, list[str]]:
    """The first log that says something, or the first one, and its last lines, of those after so many bytes."""
    texts = _texts(logs)
    for path in texts:
        try:
            with Path(path).open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(after if after <= size else 0, size - _TAIL_BYTES))
                said = stream.read().decode("utf-8", "replace")
        except OSError:
            continue
        if lines := [printable(line) for line in said.splitlines() if line.strip()]:
            return path, lines
    return (texts[0] if texts else ""), []
