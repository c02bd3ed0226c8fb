"""A Slurm of the tests' own on this machine: controller, node daemons and stand-ins for GPUs, in a folder of its own.

Everything listens on the loopback device. Jobs run as the user of the tests, who has to be root: node daemons can start
jobs for others only, and the stand-ins for GPUs are device nodes.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
GPU_NODES = ("127.0.1.1", "127.0.1.2")
"""Names that can be looked up anywhere: trainings on several nodes meet at the first one."""
CPU_NODES = ("127.0.2.1",)
NODES = GPU_NODES + CPU_NODES

SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmdTimeout=10
SchedulerParameters=bf_interval=2,sched_interval=5
SlurmctldTimeout=30
MessageTimeout=5
MinJobAge=86400
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{nodes}
PartitionName=cpu Nodes={cpu_nodes} MaxTime=24:00:00 State=UP Default=YES
PartitionName=gpu Nodes={gpu_nodes} MaxTime=24:00:00 State=UP PriorityTier=1
PartitionName=spare Nodes={gpu_nodes} MaxTime=24:00:00 State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes={gpu_nodes} MaxTime=24:00:00 State=UP PriorityTier=100
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=250000 {gres}"


def missing() -> str | None:
    """Why no Slurm can be started here; None where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
    if absent:
        return f"{', '.join(absent)} not found; as root: apt-get install {' '.join(PACKAGES)}"
    if " " in sys.executable:
        return f"{sys.executable} has a space, which Snakemake's executor for Slurm does not quote"
    return _no_devices() if os.geteuid() == 0 else "a Slurm of the tests' own has to be started by root"


def _no_devices() -> str | None:
    """Why no stand-ins for GPUs can be made, as in a container without that right; None where they can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(Path(folder) / "gpu", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except OSError as error:
            return f"stand-ins for GPUs cannot be made here (mknod: {error.strerror})"
    return None


def _search_path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Return when `condition` holds, which it does not while a command of Slurm fails; fails after a while."""

    def holds() -> object:
        try:
            return condition()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False

    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.2)


@dataclass
class Cluster:
    """A running Slurm; commands are given the environment that `environment` returns."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """Variables under which Slurm's commands talk to this cluster."""
        path = os.pathsep.join([str(self.folder / "bin"), _search_path()])
        return {**os.environ, "SLURM_CONF": str(self.configuration), "PATH": path}

    def write(self) -> None:
        """Write configuration, key, wrapper and stand-ins."""
        host = socket.gethostname()
        for name in ("munge", "state", "bin"):
            (self.folder / name).mkdir(mode=0o700)
        (self.folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge" / "key").chmod(0o400)
        port, *ports = _free_ports(1 + len(NODES))
        nodes = [
            NODE.format(name=name, host=host, port=number, gres="Gres=gpu:2" if name in GPU_NODES else "")
            for name, number in zip(NODES, ports, strict=True)
        ]
        text = SLURM_CONF.format(
            host=host, port=port, folder=self.folder, nodes="\n".join(nodes), gpu_nodes=",".join(GPU_NODES),
            cpu_nodes=",".join(CPU_NODES),
        )  # fmt: skip
        self.configuration.write_text(text, encoding="utf-8")
        gres = [f"NodeName={node} Name=gpu File={self._gpu(node, number)}\n" for node in GPU_NODES for number in (0, 1)]
        (self.folder / "gres.conf").write_text("".join(gres), encoding="utf-8")
        # The plugin's job step takes every SLURM_ variable away from the srun that it calls.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nexport SLURM_CONF={self.configuration}\nexec /usr/bin/srun "$@"\n')
        srun.chmod(0o755)

    def _gpu(self, node: str, number: int) -> Path:
        """A device node (that of /dev/null): Slurm gives jobs no CUDA_VISIBLE_DEVICES for other files."""
        path = self.folder / f"{node}-gpu{number}"
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        return path

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{name}={munge / file}" for name, file in files.items()))
        wait_for((munge / "socket").exists, "munged")
        self.start_controller("-c", "-i")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), "all nodes idle")

    def _daemon(self, *command: str | Path, name: str | None = None) -> None:
        log = (self.folder / f"{name or command[0]}.out").open("ab")
        self.daemons[name or str(command[0])] = subprocess.Popen(
            list(map(str, command)), env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    def start_controller(self, *options: str) -> None:
        self._daemon("slurmctld", "-D", *options)

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-D", "-N", node, name=node)

    def kill(self, name: str) -> None:
        """End the controller or a node's daemon at once; jobs live on."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def kill_jobs_on(self, node: str) -> None:
        """End what runs on a node at once, as when it loses power."""
        for number in self._steps_on(node):
            for process in [number, *descendants(number)]:
                _kill(process)

    def _steps_on(self, node: str) -> list[int]:
        """The processes of Slurm that watch over the jobs of a node."""
        mark = str(self.folder / f"slurmd-{node}.log")
        return [number for number, words in processes() if words and "slurmstepd" in words[0] and mark in _open(number)]

    def stop(self) -> None:
        """End the daemons and everything that they started."""
        subprocess.run(["scancel", "--full", "--user", "root"], env=self.environment(), timeout=20, check=False)
        for node in NODES:
            self.kill_jobs_on(node)
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(
            command, env=self.environment(), text=True, capture_output=True, timeout=60, check=True
        ).stdout

    def states(self) -> dict[str, str]:
        """State of each node; empty while the controller does not answer."""
        try:
            lines = self.ask("sinfo", "--noheader", "--Node", "--format", "%N %t").splitlines()
        except subprocess.CalledProcessError:
            return {}
        return dict(line.split() for line in lines)

    def jobs(self, *states: str) -> list[dict[str, str]]:
        """Jobs in any of the states, or all that the controller knows: id, state, comment and node."""
        chosen = ",".join(states) or "all"
        lines = self.ask("squeue", "--noheader", "--states", chosen, "--format", "%i|%T|%k|%N").splitlines()
        return [dict(zip(("id", "state", "comment", "node"), line.split("|"), strict=True)) for line in lines]


def processes() -> Iterator[tuple[int, list[str]]]:
    """Number and command line of every process."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            yield int(path.name), words


def descendants(number: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, todo = [], [number]
    while todo:
        todo += (below := children.get(todo.pop(), []))
        found += below
    return found


def _open(number: int) -> str:
    try:
        return " ".join(str(path.readlink()) for path in Path(f"/proc/{number}/fd").iterdir())
    except OSError:
        return ""


def _kill(number: int) -> None:
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_ports(count: int) -> list[int]:
    # None of those that any connection may take while a daemon is down, nor of `lska.train.launcher`.
    found: list[int] = []
    with ExitStack() as taken:
        for port in random.sample(range(5000, 15000), 1000):
            one = taken.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError("no free ports from 5000 to 15000")


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster in `folder`, stopped in the end."""
    cluster = Cluster(folder)
    cluster.write()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
