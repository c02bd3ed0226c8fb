"""How long each job takes, on how many GPUs or cores: its work, looked up in what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.config import Config
from lska.files import vouched
from lska.finetuning import HEADS, FineTuningJob
from lska.passes import Pass
from lska.planning.dag import Job
from lska.planning.images import count
from lska.planning.progress import done_share, steps
from lska.planning.rates import Duration, Macs, duration, total
from lska.planning.records import scored_images, scored_side
from lska.planning.throughput import Assumptions
from lska.planning.work import Measurement, Mode, Work, classifier, predictor, scored_size, training_size
from lska.robustness import set_of
from lska.runs import Run
from lska.workflow import Plan

SCORING = ("classification", "speed")
"""Whose throughput classification goes by: scoring with reading of images, else the forward pass alone."""


@dataclass(frozen=True)
class Attempts:
    """How often Snakemake has to start a job that stops itself after `hours`."""

    needed: int
    allowed: int
    hours: float


@dataclass(frozen=True)
class Estimator:
    """What is known for the estimates of a scale's jobs.

    `macs` gives multiply-adds of one image of a network.
    """

    plan: Plan
    known: Sequence[Measurement]
    assumed: Assumptions
    macs: Macs

    @property
    def config(self) -> Config:
        """The scale."""
        return self.plan.config

    def estimate(self, job: Job) -> Duration | None:
        """How long a job takes; None where nothing measured tells."""
        if not job.outputs:
            return Duration(0.0, 0.0, 0.0, ())
        by_rule: dict[str, Callable[[Job], Duration | None]] = {
            "train": lambda job: self._works(self.training(job.wildcards["run"])),
            "fine_tune": lambda job: self._works(self.fine_tuning(self._tuned(job))),
            "classification": lambda job: self._works(self._classification(job.wildcards["run"])),
            "dense": lambda job: self._works(self._dense(self._tuned(job))),
            "speed": self._speed,
        }
        if job.rule in by_rule:
            return by_rule[job.rule](job)
        one = next((one for one in self.plan.passes if one.name == job.rule), None)
        if one is not None:
            return self._works(self.passing(one))
        return _notebook(job) if job.rule.startswith("notebook_") else _counting(job)

    def attempts(self, job: Job, found: Duration | None) -> Attempts | None:
        """How often a job that knows its budget has to be started; None for jobs that end by themselves."""
        if job.rule in ("train", "fine_tune"):
            limits = self.config.training if job.rule == "train" else self._tuned(job).settings
        else:
            one = next((one for one in self.plan.passes if one.name == job.rule), None)
            limits = None if one is None or set_of(one.item.task) is None else one.item.section
        if limits is None or found is None:
            return None
        return Attempts(max(1, -int(-found.seconds // (3600 * limits.hours))), limits.attempts, limits.hours)

    def _tuned(self, job: Job) -> FineTuningJob:
        return self.plan.job(job.wildcards["task"], job.wildcards["run"])

    def _works(self, works: list[Work] | None) -> Duration | None:
        if works is None:
            return None
        return total(duration(work, self.known, self.assumed, self.macs) for work in works)

    def training(self, name: str) -> list[Work] | None:
        """What a training still has to do, from its last state on, with the scoring in between; None if unknown."""
        config, run = self.config, Run.parse(name)
        recipe, updates = config.recipe_of(run), steps(config, run)
        validation = count(config, "classification", "val")
        if updates is None or validation is None:
            return None
        left = 1 - done_share(config, run, updates)
        network, gpus = classifier(config, run, recipe.image_size), config.training.gpus
        images = round(left * updates * recipe.global_batch)
        works = [Work("training", SCORING, images, network, gpus, recipe.precision)]
        if recipe.validation_interval:
            scorings = round(left * (recipe.total_epochs // recipe.validation_interval))
            # The first process scores, the others wait for it.
            works.append(Work("inference", SCORING, scorings * validation, network, min(gpus, 1)))
        return works

    def fine_tuning(self, job: FineTuningJob) -> list[Work] | None:
        """As `training`, for a detector or segmentor, which is not scored in between."""
        updates = steps(self.config, job)
        if updates is None:
            return None
        left = 1 - done_share(self.config, job, updates)
        images, network = round(left * updates * job.recipe.global_batch), predictor(job, training_size(job))
        return [Work("training", _kin(job), images, network, job.settings.gpus, job.recipe.precision)]

    def _classification(self, run: str) -> list[Work] | None:
        images = count(self.config, "classification", "val")
        return None if images is None else [self._scoring(run, images, SCORING, self.config.evaluation.gpus)]

    def _scoring(
        self, run: str | Run, images: int, tasks: tuple[str, ...], gpus: int, side: int | None = None,
        mode: Mode = "inference",
    ) -> Work:  # fmt: skip
        run = Run.parse(run) if isinstance(run, str) else run
        side = self.config.recipe_of(run).image_size if side is None else side
        return Work(mode, tasks, images, classifier(self.config, run, side), min(gpus, 1))

    def _dense(self, job: FineTuningJob) -> list[Work] | None:
        images, network = count(self.config, job.kind, "val"), predictor(job, scored_size(job))
        gpus = min(job.section.evaluation.gpus, 1)
        return None if images is None else [Work("inference", _kin(job), images, network, gpus)]

    def passing(self, one: Pass) -> list[Work] | None:
        """What a pass has to do: all its images through each of its networks, as if no prediction were kept."""
        task, gpus = one.item.task, one.item.section.evaluation.gpus
        perturbed = set_of(task)
        if perturbed is not None:
            images = count(self.config, perturbed, "test")
            return None if images is None else [self._scoring(run, images, SCORING, gpus) for run in one.runs]
        images, mode = scored_images(self.config, task), "training" if task == "receptive_field" else "inference"
        if images is None:
            return None
        sides = {run: scored_side(self.config, task, run) for run in one.runs}
        return [self._scoring(run, images, (task, *SCORING), gpus, side, mode) for run, side in sides.items()]

    def _speed(self, job: Job) -> Duration:
        """By its protocol: every network runs for a least time in every repetition, apart from warming up."""
        protocol = self.config.speed
        seconds = len(job.outputs) * protocol.repeats * protocol.seconds
        return Duration(seconds, seconds, seconds, ("the protocol of `speed`: its least duration",))


def _kin(job: FineTuningJob) -> tuple[str, ...]:
    """The job's own task, then the other heads of its kind."""
    own = f"{job.kind}/{job.head}"
    return (own, *(f"{job.kind}/{head}" for head in HEADS[job.kind] if head != job.head))


def _notebook(job: Job) -> Duration | None:
    """As long as the same notebook took at any scale, which its metadata say."""
    target = job.rule.removeprefix("notebook_")
    found = [vouched(path) for path in sorted(Path("results").glob(f"*/notebooks/{target}.ipynb"))]
    times = [time for time in (_papermill(content) for content in found) if time]
    if not times:
        return None
    middle = sorted(times)[len(times) // 2]
    return Duration(middle, min(times), max(times), ("executed notebooks here, of any scale",))


def _papermill(content: dict) -> float | None:
    return ((content.get("metadata") or {}).get("papermill") or {}).get("duration")


def _counting(job: Job) -> Duration | None:
    """Counts of parameters and operations: as long as the same counts took at any scale, process start not included."""
    if not job.rule.startswith(("complexity", "properties")):
        return None
    spent = [_counted(Path(output)) for output in job.outputs]
    if None in spent:
        return None
    seconds = sum(spent)
    return Duration(seconds, seconds, seconds, ("counts of any scale here, without the start of the process",))


def _counted(output: Path) -> float | None:
    # results/<scale>/metrics/...: the same file of whichever scale.
    inner = Path(*output.parts[2:])
    name = inner.name.rpartition("-s")[0]
    pattern = f"*/{inner.parent}/{name}-s*.json" if name else f"*/{inner}"
    times = [vouched(path).get("seconds") for path in sorted(Path("results").glob(pattern))]
    return next((time for time in times if time is not None), None)
