"""One training from a configuration and a run id to weights with their sidecar: what `lska train` does."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lska.config import Config
from lska.data.folders import Split, check_same_classes
from lska.data.folders_torch import ImageDataset
from lska.data.preparing import verify
from lska.data.sources import open_classification
from lska.files import atomic_path, printable, quoted, vouched
from lska.models import create
from lska.models.checkpoint import save_weights
from lska.provenance import code_version, environment, file_md5, write_sealed
from lska.runs import Run
from lska.threads import use_threads
from lska.train.distributed import Processes, processes
from lska.train.engine import Job, Trainer, fit
from lska.train.interrupt import stop_request
from lska.train.lease import Lease, leased
from lska.train.loading import Plan, scoring_loader, training_loader, training_transform
from lska.train.progress import TrainingLog
from lska.train.scoring import score
from lska.train.state import state_files
from lska.train.trainable import Trainable
from lska.weights.foreign import check_replaceable

logger = logging.getLogger(__name__)


def build_network(
    config: Config, run: Run, classes: int, drop_path: float = 0.0, architecture: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network of `run` at this scale, with fresh weights from the run's seed.

    Args:
        architecture: settings that shrink the network; the configuration's where None.

    Raises:
        ValueError: unknown model, attention, kernel size, or setting of `architecture`.
    """
    torch.manual_seed(run.seed)
    architecture = config.architecture.get(run.model, {}) if architecture is None else architecture
    settings = {**architecture, "num_classes": classes, "drop_path_rate": drop_path}
    try:
        network = create(run.model, attention=run.attention, kernel_size=run.kernel, **settings)
    except (TypeError, RuntimeError, ArithmeticError, LookupError, AssertionError, AttributeError) as error:
        # What a network makes of sizes that it cannot have, ours or timm's.
        found = f"architecture.{run.model} {quoted(dict(architecture))}"
        raise ValueError(f"{run}: {found} does not fit the model: {printable(str(error), 200)}") from error
    if run.attention is None and hasattr(network, "attention"):
        # timm drops settings that are None, and the model's default would train under a name that hides it.
        raise ValueError(f"{run}: {run.model} needs an attention and a kernel, for example {run.model}-lska-k23-s0")
    return network


def state_folder(config: Config, run: Run) -> Path:
    """Folder of a training's states (`Config.state_folder`)."""
    return config.state_folder(str(run), config.training_digest(run))


def train(config: Config, run: Run, budget_seconds: float | None = None) -> None:
    """Train `run`, or go on with it, and export weights, sidecar and log.

    Raises:
        DataError: the data set is missing, or its splits have different classes.
        ForeignWeightsError: weights that this program did not make lie in the place.
        Interrupted: stopped by a signal or the budget, state saved; or while another process trains the run.
        LeaseLostError: another process took the training over; nothing was written since.
        DivergedError, StateError, ValueError: as the parts say.
    """
    begun = time.monotonic()
    check_replaceable(config.weights_path(run))
    use_threads(config.training.threads)
    code_version()  # remembered as of now: the checkout may change while a long training runs
    recipe = config.recipe_of(run)
    split, validation = _data(config)
    images = ImageDataset(split, training_transform(recipe), on_error="skip")
    plan = Plan.of(recipe, len(split), run.seed)
    with processes(config.training.gpus) as group, stop_request(budget_seconds, begun) as stop:
        plan.share(group.world)
        network = build_network(config, run, len(split.classes), recipe.drop_path)
        folder = state_folder(config, run)
        with leased(folder, config.training.heartbeat_seconds, group, stop) as lease:
            made = config.weights_path(run), config.training_log(run), config.training_digest(run)
            if made_meanwhile(lease, group, *made):
                return
            job = Job(
                recipe, plan, len(split.classes), folder, config.training_digest(run),
                60 * config.training.state_minutes, lambda: images.skipped, lease,
            )  # fmt: skip
            trainer = Trainer(job, network, group)
            _run(trainer, images, config, stop, _validator(trainer, validation, config))
            if group.is_main:
                export(trainer, config, run)


def made_meanwhile(lease: Lease | None, group: Processes, weights: Path, log: Path, digest: str) -> bool:
    """Whether the process that had the state folder before finished the training; a collective call.

    Args:
        weights: place of the weights beside their sidecar, of the recipe `digest`; `log` of their record of losses.
    """
    sidecar = vouched(weights.with_suffix(".json"))
    made = (
        lease is not None
        and lease.waited
        and sidecar.get("recipe") == digest
        and weights.is_file()
        and log.is_file()
        and file_md5(weights) == sidecar.get("md5")
    )
    if made:
        logger.info("%s: trained by another process meanwhile", weights)
    return bool(group.largest(int(made)))


def _data(config: Config) -> tuple[Split, Split]:
    train_split, validation = open_classification(config, "train"), open_classification(config, "val")
    check_same_classes(train_split, validation)
    verify(config, train_split, validation)
    return train_split, validation


def _run(
    trainer: Trainer, images: ImageDataset, config: Config, stop: Any, validate: Callable[[int], dict[str, float]]
) -> None:
    job, group, start = trainer.job, trainer.group, trainer.progress.step
    if start == job.plan.steps:
        return
    trainer.progress.attempts += ({"code": code_version(), "environment": environment(str(group.device))},)
    loader = training_loader(images, job.plan, start, group.rank, group.world, config.training.workers, stop.reason)
    per_step = job.recipe.global_batch
    record = job.folder / "train.jsonl"
    log = TrainingLog(
        record, trainer.progress, job.plan.steps, job.plan.steps_per_epoch, per_step, group.is_main, job.lease
    )
    try:
        fit(trainer, iter(loader), log, stop, validate)
    finally:
        log.close()
        if images.skipped:
            logger.warning("%d unreadable image(s) were skipped; the lines above name them", images.skipped)


def _validator(trainer: Trainer, split: Split, config: Config) -> Callable[[int], dict[str, float]]:
    """Scores of the held-out images every `validation_interval` epochs, in the main process; else nothing."""
    recipe = trainer.job.recipe
    period = recipe.validation_interval * trainer.plan.steps_per_epoch

    def validate(step: int) -> dict[str, float]:
        if not period or step % period or not trainer.group.is_main:
            return {}
        loader = scoring_loader(split, recipe, config.evaluation.batch_size, config.training.workers)
        scores = score([trainer.exported], loader, trainer.group.device, recipe.channels_last)[0]
        return {"validation_top1": scores.mean("top1"), "validation_loss": scores.mean("loss")}

    return validate


def export(trainer: Trainer, config: Config, run: Run) -> None:
    """Write the record of losses, and the weights with the sidecar that vouches for them."""
    weights, check = config.weights_path(run), trainer.may_write
    with atomic_path(config.training_log(run), check) as temporary:
        shutil.copyfile(trainer.job.folder / "train.jsonl", temporary)

    def vouch(file: Path) -> None:
        write_sealed(weights.with_suffix(".json"), sidecar(trainer, config, run, file), check)

    save_weights(trainer.exported, weights, check=check, vouch=vouch)
    for state in state_files(trainer.job.folder)[:-1]:
        state.unlink()


def sidecar(trainer: Trainer, config: Config, run: Run, weights: Path) -> dict[str, Any]:
    """What is known of trained weights: identity, recipe, data, code, environment and cost."""
    return {
        "run": str(run),
        "scale": config.scale,
        "recipe": config.training_digest(run),
        "spec": config.training_spec(run),
        "data": config.data_identity(),
        "skipped_images": trainer.progress.skipped,
        **trained(trainer, weights),
    }


def trained(trainer: Trainable, weights: Path) -> dict[str, Any]:
    """What every sidecar says of a training that made `weights`: their MD5, its length, attempts and cost."""
    progress, plan = trainer.progress, trainer.plan
    return {
        "md5": file_md5(weights),
        "origin": "trained",
        "images_seen": progress.step * plan.micro_batch * plan.micro_batches,
        "updates": progress.step,
        "final_loss": progress.last_loss,
        "processes": trainer.group.world,
        "code": progress.attempts[-1]["code"],
        "environment": progress.attempts[-1]["environment"],
        "attempts": progress.attempts,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(progress.seconds, 3),
    }
