"""Detection and segmentation within seconds: twelve generated scenes, narrow heads, eight or nine updates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_project import RECIPE, SETTINGS, Project, owned

from lska.data import dense_sets as dense
from lska.data.manifest import make_manifest, save_manifest
from lska.settings.scale import Config
from lska.settings.tasks import FineTuningJob

SCENES = {"image_size": 48, "classes": 3, "train_images": 12, "val_images": 5, "objects": [1, 3], "extent": [0.3, 0.5]}

COMMON: dict[str, Any] = {
    "switches": {"normalization": "corrected", "layer_norm": "corrected"}, "learning_rate": 1.0e-3,
    "betas": [0.9, 0.999], "weight_decay": 0.05, "clip_gradient": 10.0, "global_batch": 4, "micro_batch": 2,
    "drop_path": 0.2, "horizontal_flip": 0.5, "fpn_channels": 8, "precision": "fp32", "channels_last": True,
}  # fmt: skip
DETECTION: dict[str, Any] = {
    **COMMON, "epochs": 3, "milestones": [2], "warmup_updates": 2, "warmup_factor": 0.1, "image_scale": [48, 48],
    "smallest_image": 32, "head_channels": 8, "head_convs": 1, "score_threshold": 0.01, "suppression_iou": 0.5,
    "detections": 10,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "retinanet": DETECTION,
    "mask_rcnn": {
        **DETECTION, "fc_channels": 16, "proposals_kept": 50, "proposals": 20, "proposal_samples": 16,
        "region_samples": 8,
    },
    "semantic_fpn": {
        **COMMON, "updates": 8, "power": 0.9, "minimum_learning_rate": 0.0, "image_scale": [48, 48],
        "scale_range": [0.8, 1.4], "crop": 32, "largest_class": 0.9, "photometric": True, "head_channels": 8,
        "dropout": 0.1,
    },
}  # fmt: skip
TASKS = {"retinanet": "detection/retinanet", "mask_rcnn": "detection/mask_rcnn",
         "semantic_fpn": "segmentation/semantic_fpn"}  # fmt: skip
UPDATES = {"retinanet": 9, "mask_rcnn": 9, "semantic_fpn": 8}


def sections() -> dict[str, Any]:
    """The configuration's sections for all three heads, each with a control."""
    runs = SETTINGS["runs"]
    heads = {head: {"recipe": f"{head}.yaml", "runs": runs, "untrained": runs} for head in RECIPES}
    detection = {head: heads[head] for head in ("retinanet", "mask_rcnn")}
    return {
        "detection": {
            "data": {"name": "scenes", "root": "scenes", "generate": SCENES},
            "evaluation": {"batch_size": 2},
            "heads": detection,
        },
        "segmentation": {
            "data": {"name": "regions", "root": "regions", "generate": SCENES},
            "evaluation": {"batch_size": 2},
            "heads": {"semantic_fpn": heads["semantic_fpn"]},
        },
    }


@dataclass(frozen=True)
class DenseProject:
    """A project whose backbone is trained and whose scenes are generated; the working folder is the project's."""

    base: Project

    def job(self, head: str, *changes: dict[str, Any], control: bool = False) -> FineTuningJob:
        """A fine-tuning with `changes` merged over the configuration."""
        config = self.base.config(*changes)
        return owned(config, config.fine_tuning(TASKS[head] + "-untrained" * control, self.base.run))

    def trained(self, head: str, *changes: dict[str, Any], control: bool = False) -> FineTuningJob:
        """Fine-tune without interruption, from the beginning or the last state."""
        from lska.evaluate.measurement import vouched_run
        from lska.train.fine_tuner import fine_tune

        job = self.job(head, *changes, control=control)
        prepare(job.config)
        fine_tune(job, None if control else vouched_run(job.classifier)[0])
        return job

    def command(self, *words: str, changes: dict[str, Any] | None = None) -> int:
        """Exit code of `lska *words` with the project's configuration and `changes` over it."""
        return self.base.command(*words, changes=changes)


def prepare(config: Config) -> None:
    """Copy the backbone into the scale of `config`, and write the records of its data sets."""
    from lska.data.preparing import prepare as prepare_classification

    prepare_classification(config.images)
    for kind in config.dense:
        data = dict(config.sources)[kind]
        dense.prepare_dense(kind, data, data.record, data.cache)
    run = config.runs[0]
    weights, origin = config.weights_path(run), Path("checkpoints") / SETTINGS["scale"] / f"{run}.safetensors"
    if not weights.exists():
        weights.parent.mkdir(parents=True)
        for suffix in (".safetensors", ".json"):
            weights.with_suffix(suffix).write_bytes(origin.with_suffix(suffix).read_bytes())


def make(folder: Path, image_set: Path) -> DenseProject:
    """A project in `folder`, the working folder, whose backbone is trained on `image_set`."""
    settings = {**SETTINGS, **sections()}
    Path("data").symlink_to(image_set)
    for name, content in {"recipe": RECIPE, "config": settings, **RECIPES}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    save_manifest(make_manifest(image_set, "colours"), Path("colours.yaml"))
    base = Project(folder, settings)
    base.trained()
    prepare(base.config())
    return DenseProject(base)


def records(job: FineTuningJob) -> list[dict[str, Any]]:
    """The lines of the finished training's record of losses."""
    return [json.loads(line) for line in job.log.read_text(encoding="utf-8").splitlines()]


def outcome(job: FineTuningJob) -> dict[str, Any]:
    """What must not depend on interruptions, workers or numbers of processes."""
    sidecar = json.loads(job.weights.with_suffix(".json").read_text())
    lines = records(job)
    for line in lines:
        line.pop("images_per_second")
    same = ("md5", "recipe", "spec", "data", "images_seen", "updates", "final_loss", "backbone")
    return {"records": lines, **{name: sidecar[name] for name in same}}
