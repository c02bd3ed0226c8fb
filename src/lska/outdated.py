"""Files that are known to be made of something else than today's configuration asks for, whatever their times.

Snakemake notices a changed recipe by what it remembers of former runs. A copy of a project has no such memory, and
everything in it may be younger than what it is made from; so these files are named to Snakemake. Those that are missing
are left to it. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.data.roots import images_gone
from lska.files import vouched
from lska.finetuning import FineTuningJob
from lska.robustness import CORRUPTED
from lska.runs import Run
from lska.sections import DataSource
from lska.weights.checkpoints import Checkpoint, choose
from lska.weights.sidecars import measured_alike, read_sidecar


def of_training(config: Config, run: Run) -> list[str]:
    """The sidecar of weights that were trained by another recipe, a damaged one, or one of published weights that are
    trained anew."""
    return _stale(Checkpoint(config, run))


def of_fine_tuning(job: FineTuningJob) -> list[str]:
    """As `of_training`; also where the fine-tuning started from other weights than those that are there."""
    one = Checkpoint(job.config, job.run, job)
    if one.backbone is not None and not one.backbone.sidecar.exists():
        other = one.sidecar.exists() and read_sidecar(one.sidecar).get("recipe") != one.digest
        return [str(one.sidecar)] if other else []
    return _stale(one)


def of_evaluation(weights: Path, metrics: Path) -> list[str]:
    """A metric file that was measured on other weights than those that are there, or with other preprocessing."""
    measured, sidecar = vouched(metrics), read_sidecar(weights.with_suffix(".json"))
    return [str(metrics)] if measured and sidecar and not measured_alike(measured, sidecar) else []


def of_data(config: Config, name: str) -> list[str]:
    """The record of a perturbed set, or of images to look inside, that is made of something else.

    Those of the clean images do not say what they are made of; what is generated anew has another digest.
    """
    kinds = [kind for kind, data in config.sources if data.name == name]
    items = [item for item in config.measured if item.name in kinds]
    return [str(item.record) for item in items if _differ(vouched(item.record).get("inputs"), item.inputs())]


def of_images(config: Config, read: Iterable[Any]) -> list[str]:
    """The records, among the files `read` by a job that is to run, of generated sets whose images are gone.

    A clone has the records without the images. Where these are corruptions of generated images that are gone too, the
    record of those is named as well.
    """
    files = set(map(str, read))
    wanted = {kind: data for kind, data in config.sources if str(config.record_of(data)) in files}
    gone = {kind: data for kind, data in wanted.items() if images_gone(data) or _in_part(config, kind, data)}
    if any(kind in CORRUPTED for kind in gone) and images_gone(config.data):
        gone["classification"] = config.data
    return [str(config.record_of(data)) for data in gone.values()]


def _in_part(config: Config, kind: str, data: DataSource) -> bool:
    """Whether a generated set of corruptions lacks some that its record names, as after an interruption: such sets grow
    corruption by corruption.
    """
    if kind not in CORRUPTED or data.generate is None:
        return False
    named = vouched(config.record_of(data)).get("parts") or {}
    return not all((Path(data.root) / corruption).is_dir() for corruption in named)


def _stale(checkpoint: Checkpoint) -> list[str]:
    return [str(checkpoint.sidecar)] if checkpoint.sidecar.exists() and not choose(checkpoint).vouched else []


def _differ(found: Any, expected: Any) -> bool:
    return found is not None and expected is not None and found != expected
