"""mmengine configurations made from recipes; what all heads share.

A configuration inherits from the library's own base files, as the released ones do, and sets what the recipe says.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from lska.finetuning import FineTuningJob
from lska.openmmlab.backbone import stages
from lska.train.workers import LOOK_SECONDS

if TYPE_CHECKING:
    from mmengine.config import Config

    from lska.data.dense_sets import DetectionSplit, SegmentationSplit

    Splits = dict[str, DetectionSplit] | dict[str, SegmentationSplit]

BYTE = 255.0
"""The libraries normalise pixels from 0 to 255."""


def configuration(job: FineTuningJob, splits: Splits, world: int | None = None) -> Config:
    """The complete mmengine configuration of a fine-tuning, with which mmengine's Runner trains and tests it.

    Args:
        splits: the opened data by split, `train` and `val`.
        world: processes that train; as many as GPUs are configured where None.
    """
    from mmengine.config import Config

    from lska.openmmlab.setup import use

    scope = use(job.kind)
    return Config(
        {
            "default_scope": scope,
            **_module(job).parts(job, splits),
            "optim_wrapper": optimizer(job, max(1, job.settings.gpus) if world is None else world),
            "train_cfg": {"type": "mmengine.UpdateLoop"},
            "default_hooks": hooks(),
            "randomness": {"seed": job.run.seed},
            "log_level": "ERROR",
        }
    )


def model(job: FineTuningJob, classes: int) -> dict[str, Any]:
    """The network's configuration alone, for `classes` classes; needs no data."""
    return _module(job).model(job, classes)


def _module(job: FineTuningJob) -> ModuleType:
    """The module of the job's kind, which builds on this one."""
    from lska.openmmlab import detection, segmentation

    return {"detection": detection, "segmentation": segmentation}[job.kind]


def backbone(job: FineTuningJob) -> dict[str, Any]:
    """The backbone: network and checkpoint are both of the job's run."""
    return {
        "type": "Backbone",
        "run": str(job.run),
        "checkpoint": None if job.backbone is None else str(job.backbone),
        "architecture": job.config.architecture.get(job.run.model, {}),
        "drop_path_rate": job.recipe.drop_path,
        "layer_norm_eps": job.recipe.layer_norm_eps,
    }


def stage_strides(job: FineTuningJob) -> tuple[int, ...]:
    """Strides of the backbone's four stages in pixels."""
    return stages(job.run, job.config.architecture.get(job.run.model))[1]


def stage_widths(job: FineTuningJob) -> tuple[int, ...]:
    """Channels of the backbone's four stages."""
    return stages(job.run, job.config.architecture.get(job.run.model))[0]


def pixels(job: FineTuningJob) -> dict[str, Any]:
    """Mean and deviation per channel, on the libraries' scale of 0 to 255."""
    own = job.pixels
    return {"mean": [BYTE * value for value in own.mean], "std": [BYTE * value for value in own.deviation]}


def optimizer(job: FineTuningJob, world: int) -> dict[str, Any]:
    """AdamW on every parameter, gradients accumulated so that an update takes `global_batch` images."""
    recipe = job.recipe
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper",
        "optimizer": {
            "type": "AdamW", "lr": recipe.learning_rate, "betas": tuple(recipe.betas),
            "weight_decay": recipe.weight_decay,
        },
        "clip_grad": None if recipe.clip_gradient is None else {"max_norm": recipe.clip_gradient},
        "accumulative_counts": micro_batches(job) // world,
    }  # fmt: skip
    if recipe.precision == "bf16":
        wrapper |= {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": 1.0}
    return wrapper


def load_image() -> dict[str, Any]:
    """Reading an image as it is stored: annotations are made for, and checked against, the pixels before any turn."""
    return {"type": "mmengine.LoadPicture"}


def micro_batches(job: FineTuningJob) -> int:
    """Micro-batches of an update in all processes together."""
    return job.recipe.global_batch // job.recipe.micro_batch


def train_loader(job: FineTuningJob, dataset: dict[str, Any], **length: Any) -> dict[str, Any]:
    """The training batches; `length` is `epochs` or `updates`, and `by_orientation`."""
    workers = job.settings.workers
    return {
        "dataset": {"type": "mmengine.SeededSamples", "dataset": dataset, "seed": job.run.seed},
        "num_workers": workers,
        "timeout": LOOK_SECONDS if workers else 0,
        "persistent_workers": workers > 0,
        "pin_memory": job.settings.gpus > 0,
        "worker_init_fn": {"type": "mmengine.heed_only_the_trainer"},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": job.recipe.micro_batch,
        "batch_sampler": {
            "type": "mmengine.UpdateBatches", "micro_batches": micro_batches(job), "seed": job.run.seed, **length,
        },
    }  # fmt: skip


def test_loader(job: FineTuningJob, dataset: dict[str, Any]) -> dict[str, Any]:
    """Every validation image once, in order."""
    evaluation = job.section.evaluation
    return {
        "dataset": dataset,
        "num_workers": evaluation.workers,
        "timeout": LOOK_SECONDS if evaluation.workers else 0,
        "persistent_workers": False,
        "worker_init_fn": {"type": "mmengine.heed_only_the_trainer"},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": evaluation.batch_size,
    }


def hooks() -> dict[str, Any]:
    """mmengine's default hooks without those whose work the loop does: log, states, timing."""
    return {
        "runtime_info": None, "timer": None, "sampler_seed": None, "logger": None, "checkpoint": None,
        "param_scheduler": {"type": "ParamSchedulerHook"},
    }  # fmt: skip
