"""Where the processes of a training on several nodes meet, from the variables that Slurm sets; imports little."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections."""

_NEEDED = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_NODEID", "SLURM_NTASKS")


@dataclass(frozen=True)
class Rendezvous:
    """Number and place of this node among those of a training, and where all of them meet."""

    nodes: int
    node: int
    host: str
    port: int
    name: str
    """Tells this meeting from any other at the same place."""


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
    job, count, node, tasks = (_number(name, environment) for name in _NEEDED if name != "SLURM_JOB_NODELIST")
    if (count, tasks) != (nodes, nodes):
        raise ValueError(
            f"expected a Slurm step of {nodes} nodes with one task each, found {count} node(s) (SLURM_NNODES) and "
            f"{tasks} task(s) (SLURM_NTASKS); start it by `srun --nodes {nodes} --ntasks-per-node 1`"
        )
    hosts = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    restarts, step = environment.get("SLURM_RESTART_COUNT", "0"), environment.get("SLURM_STEP_ID", "0")
    return Rendezvous(
        nodes, node, first_host(hosts), _PORTS[job % len(_PORTS)], f"slurm-{job}-{restarts}-{step}"
    )


def _number(name: str, environment: Mapping[str, str]) -> int:
    try:
        return int(environment[name])
    except ValueError as error:
        raise ValueError(f"{name}: expected a number from Slurm, found {environment[name]!r}") from error


def first_host(nodes: str) -> str:
    """The first of a list of hosts in Slurm's notation: `gpu[003-007,9],login` gives `gpu003`.

    Raises:
        ValueError: the list is empty or its brackets do not match.
    """
    match = re.match(r"((?:[^,\[\]]|\[[^\[\]]+\])+)(?:,|$)", nodes.strip())
    if match is None:
        raise ValueError(f"SLURM_JOB_NODELIST: expected hosts such as gpu[003-007,9], found {nodes!r}")
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", match[1])
