"""One fine-tuning from a configuration to weights with their sidecar: what `lska train RUN --task TASK` does."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.data import dense_sets as dense
from lska.evaluate.classify import Checkpoint
from lska.files import atomic_path
from lska.finetuning import FineTuningJob
from lska.models.checkpoint import save_weights
from lska.openmmlab.configs import configuration
from lska.provenance import code_version, environment, write_sealed
from lska.threads import use_threads
from lska.train.distributed import Processes, processes
from lska.train.interrupt import StopRequest, stop_request
from lska.train.launch import made_meanwhile, trained
from lska.train.lease import Lease, leased
from lska.train.state import state_files
from lska.weights.foreign import check_replaceable

if TYPE_CHECKING:
    from lska.openmmlab.configs import Splits
    from lska.openmmlab.loop import FineTuningRunner

logger = logging.getLogger(__name__)


def open_splits(job: FineTuningJob, *names: str) -> Splits:
    """The data of a fine-tuning by split, after a cheap check that they are those of the data record.

    Raises:
        DataError: the data set is missing or is not what its manifest says.
        ValueError: it was not prepared, or its record is damaged.
    """
    config, opener = job.config, {"detection": dense.open_detection, "segmentation": dense.open_segmentation}[job.kind]
    splits = {name: opener(job.data, name, config.work / "cache") for name in names}
    dense.verify(job.kind, job.data, config.record_of(job.data), *splits.values())
    return splits


def fine_tune(job: FineTuningJob, budget_seconds: float | None = None) -> None:
    """Train a detector or segmentor, or go on with it, and export weights, sidecar and log.

    Raises:
        DataError: the data set is missing, or differs from its manifest.
        StaleWeightsError: the backbone's weights are missing, or are not those of the configuration.
        CheckpointError: they do not fit the backbone.
        ForeignWeightsError: weights that this program did not make lie in the place.
        Interrupted: stopped by a signal or the budget, state saved; or while another process trains the run.
        LeaseLostError: another process took the training over; nothing was written since.
        DivergedError, StateError, ValueError: as the parts say.
    """
    begun = time.monotonic()
    check_replaceable(job.weights)
    use_threads(job.settings.threads)
    code_version()  # remembered as of now: the checkout may change while a long training runs
    backbone = None if job.backbone is None else Checkpoint.open(job.config, job.run)
    splits = open_splits(job, "train")
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(processes(job.settings.gpus, f"{job.kind}.heads.{job.head}.gpus"))
        stop = stack.enter_context(stop_request(budget_seconds, begun))
        lease = stack.enter_context(leased(job.states, job.settings.heartbeat_seconds, group, stop))
        if made_meanwhile(lease, group, job.weights, job.log, job.digest()):
            return
        runner = make_runner(job, configuration(job, splits, group.world), group, stop, lease)
        runner.train()
        if group.is_main:
            export(runner, job, backbone)


def make_runner(
    job: FineTuningJob, settings: Any, group: Processes, stop: StopRequest, lease: Lease | None
) -> FineTuningRunner:
    """The Runner of a fine-tuning, which goes on from the newest state where there is one."""
    from lska.openmmlab.loop import FineTuningRunner, Training

    attempt = {"code": code_version(), "environment": environment(str(group.device))}
    training = Training(
        group, job.states, job.digest(), 60 * job.settings.state_minutes, stop, job.recipe.channels_last, attempt,
        lease,
    )  # fmt: skip
    started = bool(state_files(job.states))
    # Handed over in parts: mmengine would format a whole configuration three times, which takes a second.
    settings = settings.copy()
    settings.pop("test_dataloader", None)
    return FineTuningRunner(
        training,
        **{key: settings[key] for key in settings},
        work_dir=str(job.states / "mmengine"),
        launcher="none" if group.world == 1 else "pytorch",
        resume=started,
        load_from=str(job.states) if started else None,
        experiment_name=f"{job.task}/{job.run}".replace("/", "-"),
    )


def export(runner: FineTuningRunner, job: FineTuningJob, backbone: Checkpoint | None) -> None:
    """Write the record of losses, and the weights with the sidecar that vouches for them."""
    check = runner.train_loop.may_write
    with atomic_path(job.log, check) as temporary:
        shutil.copyfile(job.states / "train.jsonl", temporary)

    def vouch(file: Path) -> None:
        write_sealed(job.weights.with_suffix(".json"), sidecar(runner, job, backbone, file), check)

    save_weights(runner.model, job.weights, check=check, vouch=vouch)
    for state in state_files(job.states)[:-1]:
        state.unlink()


def sidecar(runner: FineTuningRunner, job: FineTuningJob, backbone: Checkpoint | None, weights: Path) -> dict[str, Any]:
    """What is known of fine-tuned weights: identity, backbone, recipe, data, code, environment and cost."""
    return {
        "run": str(job.run),
        "task": job.task,
        "scale": job.config.scale,
        "backbone": None if backbone is None else {"md5": backbone.sidecar["md5"], "run": str(backbone.run)},
        "recipe": job.digest(),
        "spec": job.spec(),
        "data": job.config.data_identity(job.data),
        **trained(runner.train_loop, weights),
    }
