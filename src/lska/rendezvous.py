"""Where the processes of a training meet, from the variables that launchers and Slurm set; imports little."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lska.files import quoted

MEETING = "LSKA_MEETING"
"""Variable by which `lska launch` tells its processes where they meet, as `Member.meeting`."""

_TORCHRUN, _RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"
_TORCHRUNS = f"tcp:{{MASTER_ADDR}}:{{MASTER_PORT}}/torchrun-{{{_RESTARTS}}}"
_TORCHRUNS_ADDRESS = ("MASTER_ADDR and MASTER_PORT", "a host and a port")

_PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections."""

_NEEDED = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_NODEID", "SLURM_NTASKS")


@dataclass(frozen=True)
class Member:
    """One process of a training that has several, or may have."""

    rank: int
    world: int
    local: int
    """Its number on its machine."""
    meeting: str
    """`file:<path>` of a store on one machine, or `tcp:<host>:<port>/<name>` of one that a process serves."""
    serves: bool
    """Whether this process serves that store; torchrun's own agent does it otherwise."""

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world and self.local >= 0):
            raise ValueError(
                f"expected RANK from 0 to WORLD_SIZE - 1 and LOCAL_RANK from 0, found RANK={self.rank}, "
                f"WORLD_SIZE={self.world} and LOCAL_RANK={self.local}"
            )


def member(environment: Mapping[str, str]) -> Member | None:
    """The place of this process among those that `lska launch` or torchrun started; None where neither did.

    RANK, WORLD_SIZE and LOCAL_RANK alone prove nothing: pods of some platforms, MPI and shells have them too.

    Raises:
        ValueError: a variable is missing, or is not the number that it should be.
    """
    ours = MEETING in environment
    if not ours and _TORCHRUN not in environment:
        return None
    who = "lska launch" if ours else "torchrun"
    try:
        rank, world, local = (_number(name, environment, who) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        meeting = environment[MEETING] if ours else _TORCHRUNS.format_map({_RESTARTS: "0", **environment})
    except KeyError as error:
        raise ValueError(f"{who} sets {error.args[0]}, which is missing in the environment of this process") from error
    port = re.fullmatch(r"tcp:[^/]+:(\d{1,5})/.*", meeting, re.ASCII)
    if not meeting.startswith("file:/") and (port is None or not 0 < int(port[1]) < 65_536):
        name, form = (MEETING, "file:<path> or tcp:<host>:<port>/<name>") if ours else _TORCHRUNS_ADDRESS
        raise ValueError(f"{name}: expected {form}, as {who} sets it, found {quoted(meeting)}")
    agent = not ours and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Member(rank, world, local, meeting, serves=rank == 0 and not agent)


@dataclass(frozen=True)
class Rendezvous:
    """Number and place of this node among those of a training, and where all of them meet."""

    nodes: int
    node: int
    host: str
    port: int
    name: str
    """Tells this meeting from any other at the same place."""

    @property
    def meeting(self) -> str:
        """As `Member.meeting`."""
        return f"tcp:{self.host}:{self.port}/{self.name}"


def of_slurm(nodes: int, environment: Mapping[str, str]) -> Rendezvous:
    """Meet on the first node of the Slurm step that `environment` describes; its port follows from the job's number.

    Raises:
        ValueError: a variable is missing or no number, or the step does not have one task on each of `nodes` nodes.
    """
    if missing := [name for name in _NEEDED if not environment.get(name)]:
        raise ValueError(
            f"a training on {nodes} nodes needs {', '.join(missing)}, which Slurm sets: start it inside a job by "
            f"`srun --nodes {nodes} --ntasks-per-node 1` (docs/cluster-training.md)"
        )
    job, count, node, tasks = (_number(name, environment, "Slurm") for name in _NEEDED if name != "SLURM_JOB_NODELIST")
    if (count, tasks) != (nodes, nodes):
        raise ValueError(
            f"expected a Slurm step of {nodes} nodes with one task each, found {count} node(s) (SLURM_NNODES) and "
            f"{tasks} task(s) (SLURM_NTASKS); start it by `srun --nodes {nodes} --ntasks-per-node 1`"
        )
    hosts = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    restarts, step = environment.get("SLURM_RESTART_COUNT", "0"), environment.get("SLURM_STEP_ID", "0")
    return Rendezvous(nodes, node, first_host(hosts), _PORTS[job % len(_PORTS)], f"slurm-{job}-{restarts}-{step}")


def _number(name: str, environment: Mapping[str, str], who: str) -> int:
    text = environment[name]
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ValueError(f"{name}: expected a number from {who}, found {text[:40]!r}")
    return int(text)


def first_host(nodes: str) -> str:
    """The first of a list of hosts in Slurm's notation: `gpu[003-007,9],login` gives `gpu003`.

    Raises:
        ValueError: the list is empty or its brackets do not match.
    """
    match = re.match(r"((?:[^,\[\]]|\[[^\[\]]+\])+)(?:,|$)", nodes.strip())
    if match is None:
        raise ValueError(f"SLURM_JOB_NODELIST: expected hosts such as gpu[003-007,9], found {nodes!r}")
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", match[1])
