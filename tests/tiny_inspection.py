"""The tiny project on generated shapes, with networks to be looked into, a cue-conflict set and a texture set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_project import Project, owned
from tiny_robustness import RUNS, SECTION, publish

from lska.data.checking import prepare_inspected
from lska.models.runs import Run
from lska.provenance.strict import merge
from lska.settings.tasks import OWN_DATA, InspectionJob

CUES = {"image_size": 32, "classes": 4, "shapes_per_class": 3, "textures_per_class": 2, "textures_per_shape": 4}
TEXTURES = {"image_size": 32, "families": 4, "per_part": 4, "crops": 2, "splits": 2}
EVALUATION = {"batch_size": 5}
SECTIONS: dict[str, Any] = {
    "runs": SECTION["runs"],
    "data": {"name": "shapes", "root": "made/shapes", "manifest": None,
             "generate": {"image_size": 32, "classes": 4, "train_per_class": 4, "val_per_class": 2}},
    "shape_texture": {"runs": SECTION["runs"], "evaluation": EVALUATION, "resamples": 20, "seed": 3,
                      "data": {"name": "cues", "root": "made/cues", "generate": CUES}},
    "texture_knn": {"runs": SECTION["runs"], "evaluation": EVALUATION,
                    "data": {"name": "textures", "root": "made/textures", "generate": TEXTURES}},
    "receptive_field": {"runs": SECTION["runs"], "images": 5, "size": 64, "normalization": "recipe"},
}  # fmt: skip


@dataclass(frozen=True)
class InspectionProject(Project):
    """A project with records of its data sets, and published weights of `RUNS`."""

    def job(self, name: str, *changes: dict[str, Any]) -> InspectionJob:
        """What is looked for under the configuration with `changes`."""
        config = self.config(*changes)
        return owned(config, config.inspection(name))


def make(project: Project) -> InspectionProject:
    """Put the project on generated data, also in its configuration file, and prepare them and the weights."""
    settings = merge(project.settings, SECTIONS)
    Path("config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    made = InspectionProject(project.folder, settings)
    made.prepare(made.config())
    for name in OWN_DATA:
        prepare_inspected(made.job(name))
    for run in RUNS:
        publish(made.config(), run)
    return made


def metrics_of(job: InspectionJob, run: Run) -> dict[str, Any]:
    """The content of a metric file."""
    return json.loads(job.metrics(run).read_text(encoding="utf-8"))
