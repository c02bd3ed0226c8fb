"""What goes wrong on clusters, on a real Slurm: results are those of a run without it, and nothing is trained anew."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster_project import RUN, ClusterProject
from own_slurm import processes

from lska.pipeline.supervise import snakemakes
from lska.provenance.files import read_json
from lska.provenance.metric_files import file_md5

pytestmark = pytest.mark.timeout(1200)

TARGET = "table_03"
OUTAGE_SECONDS = 120


def assert_as_local(project: ClusterProject, local: Path, interrupted: bool | None = True) -> None:
    """The weights, scores and table are those of the local run, and the training went on where it was, if it had to.

    Args:
        interrupted: whether it had to; None where it may have ended before anything hit it.
    """
    for name in (f"checkpoints/tiny/{RUN}.safetensors", "results/tiny/tables/table_03.csv"):
        assert file_md5(project.root / name) == file_md5(local / name), name
    name = f"results/tiny/metrics/classification/{RUN}.json"
    ours, theirs = read_json(project.root / name), read_json(local / name)
    assert ours["metrics"] == theirs["metrics"] and ours["weights"] == theirs["weights"]
    first, *later = project.attempts()
    assert all(re.search(r"going on after update [1-9]", one) for one in later), f"trained twice: {[first, *later]}"
    assert interrupted in (None, bool(later)), first


def trainers(project: ClusterProject) -> list[int]:
    """Processes that train `RUN` in the project's folder; other tests train a run of this name elsewhere."""
    found = []
    for number, words in processes():
        command = " ".join(words)
        if f"train {RUN}" in command and "python" in words[0] and "snakemake" not in command:
            with contextlib.suppress(FileNotFoundError):  # it has ended
                if Path(f"/proc/{number}/cwd").samefile(project.root):
                    found.append(number)
    return found


def over_its_time_limit(project: ClusterProject, job: dict[str, str]) -> None:
    """The training hangs until Slurm ends the job."""
    for number in trainers(project):
        os.kill(number, signal.SIGSTOP)
    project.cluster.ask("scontrol", "update", f"jobid={job['id']}", "timelimit=1")


def cancelled_by_hand(project: ClusterProject, job: dict[str, str]) -> None:
    project.cluster.ask("scancel", job["id"])


def node_lost(project: ClusterProject, job: dict[str, str]) -> None:
    """The node's daemon and its jobs are gone at once."""
    project.cluster.kill(job["node"])
    project.cluster.kill_jobs_on(job["node"])


def node_unreachable(project: ClusterProject, job: dict[str, str]) -> None:
    """The daemon is gone and the training lives on, as behind a broken network."""
    project.cluster.kill(job["node"])


def preempted(project: ClusterProject, job: dict[str, str]) -> None:
    """Slurm puts the training back into the queue."""
    take_node(project, job)


def take_node(project: ClusterProject, job: dict[str, str]) -> None:
    """Submit a more urgent job that needs the whole node."""
    project.cluster.ask(
        "sbatch", "--parsable", "--partition", "urgent", "--nodelist", job["node"], "--nodes=1", "--gpus=2",
        "--cpus-per-gpu=2", "--comment", "urgent", "--output", "/dev/null", "--wrap", "sleep 8",
    )  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(over_its_time_limit, id="over its time limit"),
        pytest.param(cancelled_by_hand, id="scancel"),
        pytest.param(node_lost, id="a lost node"),
        pytest.param(node_unreachable, id="a lost node daemon", marks=pytest.mark.slow),
        pytest.param(preempted, id="preemption", marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on_after(fault, project: ClusterProject, local: Path) -> None:
    snakemake = project.supervised(TARGET)
    project.wait_for_state()
    job = project.job()
    fault(project, job)
    project.finish(snakemake)
    for node in {job["node"]} - set(project.cluster.daemons):
        project.cluster.start_node(node)
    # A training that lives on may be done before the next attempt takes over, which then finds its weights.
    assert_as_local(project, local, None if fault is node_unreachable else True)


@pytest.mark.slow
def test_a_job_that_slurm_ends_for_good_in_favour_of_another_runs_again(project: ClusterProject, local: Path) -> None:
    project.variables["LSKA_SLURM_PARTITION"] = "spare"
    snakemake = project.supervised(TARGET)
    project.wait_for_state()
    job = project.job()
    take_node(project, job)
    project.finish(snakemake)
    assert f"job {job['id']} was PREEMPTED; it runs again" in project.said()
    assert_as_local(project, local)


def test_jobs_go_on_while_the_controller_is_away_for_two_minutes(project: ClusterProject, local: Path) -> None:
    snakemake = project.supervised(TARGET)
    project.wait_for_state()
    job = project.job()
    project.cluster.kill("slurmctld")
    time.sleep(OUTAGE_SECONDS)
    project.cluster.start_controller()
    project.finish(snakemake)
    later = [one for one in project.cluster.jobs() if int(one["id"]) > int(job["id"])]
    assert job["comment"] not in [one["comment"] for one in later] and "start 2 of" not in project.said()
    assert_as_local(project, local, interrupted=False)


def test_snakemake_killed_and_started_again_at_once(project: ClusterProject, local: Path) -> None:
    first = project.supervised(TARGET)
    project.wait_for_state()
    job = project.job()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    refused = subprocess.run(
        ["lska", "supervise", "snakemake", "-n"], cwd=project.root, env=project.environment(), text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 1 and "Snakemake is already run here" in refused.stderr
    (orphan,) = snakemakes(project.root)
    os.kill(orphan, signal.SIGKILL)
    again = project.supervised(TARGET)
    project.finish(again)
    said = project.said()
    assert f"cancelling 1 job(s) of a Snakemake that is dead: {job['id']}" in said
    assert "removing the lock of a Snakemake that is dead" in said
    assert_as_local(project, local)


@pytest.mark.slow
def test_snakemake_killed_beneath_its_watchdog(project: ClusterProject, local: Path) -> None:
    snakemake = project.supervised(TARGET)
    project.wait_for_state()
    (child,) = snakemakes(project.root)
    os.kill(child, signal.SIGKILL)
    project.finish(snakemake)
    assert "Snakemake was killed by signal 9; start 2 of 11 follows" in project.said()
    assert_as_local(project, local)


HIDING = """#!/bin/sh
{squeue} "$@" | grep -v "^$(cat {hidden})|COMPLET"
exit 0
"""


@pytest.mark.slow
def test_a_snakemake_that_waits_for_a_job_that_is_in_no_queue(
    project: ClusterProject, local: Path, tmp_path: Path
) -> None:
    """As where Slurm has forgotten it between two looks of the plugin, which then waits forever."""
    environment = project.environment()
    squeue, hidden = tmp_path / "squeue", tmp_path / "hidden"
    hidden.write_text("none", encoding="utf-8")
    real = shlex.quote(shutil.which("squeue", path=environment["PATH"]))
    squeue.write_text(HIDING.format(squeue=real, hidden=shlex.quote(str(hidden))), encoding="utf-8")
    squeue.chmod(0o755)
    project.variables["PATH"] = os.pathsep.join([str(tmp_path), environment["PATH"]])
    snakemake = project.start("lska", "supervise", "--poll-seconds", "3", "--quiet-minutes", "1", targets=(TARGET,))
    project.wait_for_state()
    hidden.write_text(project.job()["id"], encoding="utf-8")
    project.finish(snakemake, 900)
    assert "Snakemake waited for jobs that are in no queue any more; start 2 of 11 follows" in project.said()
    assert_as_local(project, local, interrupted=False)
