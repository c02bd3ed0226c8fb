"""When jobs would run on a given number of GPUs and cores: list scheduling, the longest tail first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

ANY = math.inf
"""No limit."""


@dataclass(frozen=True)
class Task:
    """A job for the schedule; `needs` are the ids of tasks that have to end before it."""

    id: int
    seconds: float
    gpus: int = 0
    cores: int = 1
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """Starts by task id, and the end of the last task; seconds from the beginning."""

    starts: Mapping[int, float]
    makespan: float


def tails(tasks: Sequence[Task]) -> dict[int, float]:
    """Seconds from the start of each task to the end of everything that waits for it, given any means.

    Raises:
        ValueError: tasks wait for each other, or for one that is not there.
    """
    users, by_id = _users(tasks), {task.id: task for task in tasks}
    unknown = {id: len(users[id]) for id in by_id}
    found: dict[int, float] = {}
    ready = [id for id in by_id if not users[id]]
    while ready:
        task = by_id[ready.pop()]
        found[task.id] = task.seconds + max((found[user] for user in users[task.id]), default=0.0)
        for need in set(task.needs):
            unknown[need] -= 1
            if unknown[need] == 0:
                ready.append(need)
    if len(found) < len(tasks):
        raise ValueError(f"tasks wait for each other: {sorted(set(by_id) - set(found))}")
    return found


def _users(tasks: Sequence[Task]) -> dict[int, list[int]]:
    """Tasks that wait for each task."""
    users: dict[int, list[int]] = {task.id: [] for task in tasks}
    for task in tasks:
        for need in set(task.needs):
            if need not in users:
                raise ValueError(f"task {task.id} waits for {need}, which is none of the tasks")
            users[need].append(task.id)
    return users


def critical_path(tasks: Sequence[Task]) -> float:
    """Seconds that the longest chain takes: no number of GPUs makes it faster."""
    return max(tails(tasks).values(), default=0.0)


def unfit(tasks: Sequence[Task], gpus: float) -> list[Task]:
    """Tasks that need more GPUs than there are."""
    return [task for task in tasks if task.gpus > gpus]


def schedule(tasks: Sequence[Task], gpus: float = ANY, cores: float = ANY) -> Schedule:
    """Start each task as soon as what it needs is there, those first that most work waits for.

    Tasks that ask for more cores than there are get all of them, as Snakemake scales threads down.

    Raises:
        ValueError: a task needs more GPUs than there are, or tasks wait for each other.
    """
    if too_large := unfit(tasks, gpus):
        most = max(task.gpus for task in too_large)
        raise ValueError(f"{len(too_large)} task(s) need more than {gpus:g} GPUs, up to {most}")
    tasks = [replace(task, cores=min(task.cores, cores)) for task in tasks]
    queue = _Queue(tasks)
    running: list[tuple[float, int]] = []
    starts: dict[int, float] = {}
    now = 0.0
    while True:
        for task in queue.fitting(gpus, cores):
            starts[task.id] = now
            heapq.heappush(running, (now + task.seconds, task.id))
            gpus, cores = gpus - task.gpus, cores - task.cores
        if not running:
            return Schedule(starts, now)
        now, ended = heapq.heappop(running)
        freed = queue.end(ended)
        gpus, cores = gpus + freed.gpus, cores + freed.cores


class _Queue:
    """Tasks that could start now, those with the longest tails first."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tails, self._users = tails(tasks), _users(tasks)
        self._by_id = {task.id: task for task in tasks}
        self._waiting = {task.id: len(set(task.needs)) for task in tasks}
        self._ready = [id for id in self._by_id if not self._waiting[id]]

    def fitting(self, gpus: float, cores: float) -> list[Task]:
        """Take the tasks that fit together into what is free; one that does not fit holds back no smaller one."""
        self._ready.sort(key=lambda id: (-self._tails[id], id))
        taken = []
        for task in [self._by_id[id] for id in self._ready]:
            if task.gpus <= gpus and task.cores <= cores:
                gpus, cores = gpus - task.gpus, cores - task.cores
                taken.append(task)
        started = {task.id for task in taken}
        self._ready = [id for id in self._ready if id not in started]
        return taken

    def end(self, id: int) -> Task:
        """A task has ended: what waited for it alone is ready."""
        for user in self._users[id]:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                self._ready.append(user)
        return self._by_id[id]
