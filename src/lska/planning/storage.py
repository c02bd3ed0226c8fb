"""What the jobs would write, in bytes, as far as that follows from exact counts or from files of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.data.roots import PlannedJob, missing
from lska.planning.dag import Job
from lska.planning.images import count
from lska.planning.work import Network, classifier, predictor, training_size
from lska.robustness import MASKED, set_of
from lska.runs import Run
from lska.weights.pointers import read_pointer
from lska.workflow import Plan

FLOAT = 4
"""Bytes of a weight."""

MOMENTS = 2
"""Numbers that AdamW keeps for each weight in a training's state, beside the weight itself."""

STATES = 2
"""States of a training that are kept while it runs; the last one stays."""

ROW = 20
"""Bytes of a prediction before compression: a label and five classes of 2 bytes, two probabilities of 4."""

Params = Callable[[Network], int]
"""Parameters of a network."""


@dataclass(frozen=True)
class Amount:
    """Bytes of one kind of file; None where they are not known. `basis` says what the number rests on."""

    what: str
    bytes: int | None
    basis: str
    files: int


def amounts(plan: Plan, jobs: Sequence[Job], params: Params) -> list[Amount]:
    """What the jobs write, by kind."""
    networks = [network for job in jobs if (network := _trained(plan, job)) is not None]
    numbers = [params(network) for network in networks]
    averages = [_average(plan, job) for job in jobs if _trained(plan, job) is not None]
    weights = sum(FLOAT * number for number in numbers)
    states = sum(
        STATES * FLOAT * number * (1 + MOMENTS + average) for number, average in zip(numbers, averages, strict=True)
    )
    return [
        Amount("weights", weights, "exact parameters, 4 bytes each", len(numbers)),
        _fetched(plan, jobs),
        Amount("training states", states, "weights and two moments, twice; the last of each stays", len(numbers)),
        _predictions(plan, jobs),
        _fields(plan, jobs),
        _small_files(jobs),
        *_data(plan, jobs),
    ]


def _fetched(plan: Plan, jobs: Sequence[Job]) -> Amount:
    names = [job.wildcards["weights"] for job in jobs if job.rule == "fetch"]
    pointers = [read_pointer(plan.config.weights_path(name)) for name in names]
    sizes = [pointer.size for pointer in pointers if pointer is not None]
    return Amount("weights from DVC", sum(sizes), "sizes in DVC's pointers; as much again in its cache", len(sizes))


def _trained(plan: Plan, job: Job) -> Network | None:
    if job.rule == "train":
        run = Run.parse(job.wildcards["run"])
        return classifier(plan.config, run, plan.config.recipe_of(run).image_size)
    if job.rule == "fine_tune":
        tuned = plan.job(job.wildcards["task"], job.wildcards["run"])
        return predictor(tuned, training_size(tuned))
    return None


def _average(plan: Plan, job: Job) -> int:
    """1 where a training's state also holds the average of the weights."""
    return int(job.rule == "train" and plan.config.recipe_of(Run.parse(job.wildcards["run"])).ema_decay is not None)


def _predictions(plan: Plan, jobs: Sequence[Job]) -> Amount:
    names = {job.rule for job in jobs}
    rows, files = 0, 0
    for one in plan.passes:
        perturbed = set_of(one.item.task)
        if one.name not in names or perturbed is None:
            continue
        images = count(plan.config, perturbed, "test")
        if images is None:
            return Amount("predictions", None, f"the number of images of {one.item.data.name} is not known", 0)
        rows += images * len(one.runs) * (2 if perturbed in MASKED else 1)
        files += len(one.runs)
    return Amount("predictions", ROW * rows, "20 bytes each before compression; may be deleted", files)


def _fields(plan: Plan, jobs: Sequence[Job]) -> Amount:
    maps = [output for job in jobs for output in job.outputs if Path(output).parts[2:3] == ("fields",)]
    side = 0 if plan.config.receptive_field is None else plan.config.receptive_field.size
    return Amount("contribution maps", 2 * FLOAT * side**2 * len(maps), "two maps, before compression", len(maps))


def _small_files(jobs: Sequence[Job]) -> Amount:
    """Metric files, tables and figures: as large as their namesakes of other scales, where there are any."""
    outputs = [Path(output) for job in jobs for output in job.outputs]
    small = [path for path in outputs if path.parts[0] == "results" and path.parts[2] != "fields"]
    known = _Sizes(Path("results"))
    sizes = [known.of(path) for path in small]
    missing = sizes.count(None)
    basis = "files of the same kind at other scales" + (f"; {missing} without one not counted" if missing else "")
    return Amount("metric files, tables, figures", sum(size or 0 for size in sizes), basis, len(small))


class _Sizes:
    """Sizes of files in the results that are there: of the same name, else the largest in the same folder."""

    def __init__(self, results: Path) -> None:
        self.by_folder: dict[tuple[Path, str], dict[str, int]] = {}
        for path in results.glob("*/**/*"):
            if path.is_file() and path.parts[2] in _KINDS:
                key = (Path(*path.parts[2:-1]), path.suffix)
                self.by_folder.setdefault(key, {})[path.name] = path.stat().st_size

    def of(self, path: Path) -> int | None:
        there = self.by_folder.get((Path(*path.parts[2:-1]), path.suffix), {})
        return there.get(path.name, max(there.values(), default=None))


_KINDS = ("metrics", "tables", "figures", "notebooks", "training")
"""Folders of results that hold small files; data sets are not walked."""


def _data(plan: Plan, jobs: Sequence[Job]) -> list[Amount]:
    """Data sets that would be generated: how large their files are is not known before."""
    names = [job.wildcards["name"] for job in jobs if job.rule == "data"]
    made = [name for name in names if plan.data_set(name)[1].generate is not None]
    return [Amount("generated data", None, ", ".join(made), len(made))] if made else []


@dataclass(frozen=True)
class Missing:
    """A data set that jobs need and that is not where the configuration says."""

    name: str
    setting: str
    root: str


def missing_roots(plan: Plan, jobs: Sequence[Job]) -> list[Missing]:
    """Data sets that jobs read and that are not on this machine; generated ones are made."""
    absent = missing(plan.config, [PlannedJob(job.inputs, job.outputs) for job in jobs])
    return [Missing(one.data.name, one.setting, one.data.root) for one in absent]
