"""Names and identities of fine-tunings: tasks, runs, digests, refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from paper_jobs import RUN, TASKS, config, generated, group, job, means

from lska.models.runs import Run
from lska.provenance.sidecars import Normalization
from lska.settings.tasks import parse_task

BASE = Run("van_base", "lka", 7, 3)


def test_tasks_have_three_parts_and_no_others_are_fine_tuned() -> None:
    assert parse_task("detection/mask_rcnn-untrained") == ("detection", "mask_rcnn", True)
    assert parse_task("segmentation/semantic_fpn") == ("segmentation", "semantic_fpn", False)
    for task in (
        "classification", "complexity/retinanet", "detection/semantic_fpn", "segmentation/retinanet", "detection",
        "detection/retinanet-", "detection/retinanet-untrained-untrained", "detection/retinanet/x", "retinanet", "",
    ):  # fmt: skip
        assert parse_task(task) is None, task


def test_a_control_has_no_backbone_and_files_of_its_own() -> None:
    made, control = job("retinanet"), job("retinanet", control=True)
    assert control.backbone is None
    assert control.spec()["backbone"] is None
    assert control.digest() != made.digest()
    assert control.head == "retinanet"
    places = [(one.weights, one.log, one.metrics, one.samples, one.states) for one in (made, control)]
    assert not set(places[0]) & set(places[1])
    backbone_recipe = {"training": {"overrides": {"epochs": 7}}}
    assert job("retinanet", backbone_recipe, control=True).digest() == control.digest()


DECIDING: dict[str, dict[str, Any]] = {
    "override": means("retinanet", overrides={"epochs": 13}),
    "switch": means("retinanet", overrides={"switches": {"normalization": "corrected"}}),
    "other switch": means("retinanet", overrides={"switches": {"layer_norm": "corrected"}}),
    "recipe of the backbone": {"training": {"overrides": {"learning_rate": 2.0e-3}}},
    "data of the backbone": {"data": {"name": "other"}},
    "architecture": {"architecture": {"van_tiny": {"depths": [1, 1, 1, 1]}}},
    "data": {"detection": {"data": {"name": "other"}}},
    "generated data": {"detection": {"data": {"generate": {"seed": 1}}}},
}
MEANS: list[dict[str, Any]] = [
    means("retinanet", threads=3, gpus=8, workers=2, hours=1.5, attempts=4, state_minutes=1.0),
    means("retinanet", untrained=[]),
    {"training": {"threads": 4, "gpus": 2, "hours": 2.0}},
    {"detection": {"data": {"root": "elsewhere"}, "evaluation": {"batch_size": 1, "gpus": 1}}},
    {"segmentation": None, "scale": "other", "caption": "other"},
    {"speed": {"batch_size": 7}, "evaluation": {"batch_size": 9}},
]


def test_what_decides_the_weights_changes_the_digest_and_means_do_not() -> None:
    made = [job("retinanet", change) for change in DECIDING.values()]
    made += [job(head, control=control) for head in TASKS for control in (False, True)]
    assert len({one.digest() for one in made}) == len({one.states for one in made}) == len(made)
    for change in MEANS:
        assert job("retinanet", change).digest() == job("retinanet").digest(), change


def test_batch_norm_over_several_gpus_changes_the_digest_of_a_segmentation_only() -> None:
    digests = {gpus: job("semantic_fpn", means("semantic_fpn", gpus=gpus)).digest() for gpus in (0, 1, 2, 4)}
    assert digests[0] == digests[1] == job("semantic_fpn").digest()
    assert len(set(digests.values())) == 3
    # Four micro-batches of four images: what counts is how many images are normalised together.
    together = {gpus: job("semantic_fpn", means("semantic_fpn", gpus=gpus)).spec() for gpus in (2, 4)}
    assert [spec["normalized_together"] for spec in together.values()] == [8, 16]
    for name, counts in (("retinanet", (0, 1, 2, 8)), ("semantic_fpn", (0, 1, 2, 4))):
        for gpus in counts:
            wrapper = generated(name, means(name, gpus=gpus)).optim_wrapper
            images = job(name).recipe.micro_batch * max(1, gpus) * wrapper.accumulative_counts
            assert images == 16, "an update takes as many on any number of GPUs"
    assert "normalized_together" not in job("retinanet", means("retinanet", gpus=2)).spec()


def test_pixels_under_the_corrected_switch_are_those_of_pretraining_and_enter_the_digest() -> None:
    corrected = means("retinanet", overrides={"switches": {"normalization": "corrected"}})
    pretraining = {"training": {"overrides": {"switches": {"normalization": "corrected"}}}}
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert job("retinanet").pixels == Normalization(*imagenet)
    assert job("retinanet", corrected).pixels == Normalization((0.5,) * 3, (0.5,) * 3)
    assert job("retinanet", corrected, pretraining).pixels == Normalization(*imagenet)
    # A control does not depend on the backbone's training, but on its pixels under this switch.
    digests = {job("retinanet", corrected, *more, control=True).digest() for more in ((), (pretraining,))}
    assert len(digests) == 2


def test_runs_of_a_task_and_fine_tunings_by_task_with_the_control_after_it() -> None:
    settings = [group(RUN), {"model": "van_base", "attention": ["lska", "lka"], "kernel": 7, "seed": 3}]
    made = config({"runs": settings}, means("mask_rcnn", runs=[group(BASE), group(RUN)], untrained=[]))
    assert made.runs_of("detection/mask_rcnn") == (BASE, RUN)
    assert made.runs_of("detection/mask_rcnn-untrained") == ()
    assert made.runs_of("classification") == made.runs_of("complexity/mask_rcnn") == made.runs
    assert [(job.task, job.run) for job in made.fine_tunings] == [
        ("detection/retinanet", RUN),
        ("detection/retinanet-untrained", RUN),
        ("detection/mask_rcnn", BASE),
        ("detection/mask_rcnn", RUN),
        ("segmentation/semantic_fpn", RUN),
        ("segmentation/semantic_fpn-untrained", RUN),
    ]
    assert config({"detection": None, "segmentation": None}).fine_tunings == ()
    for task in ("classification", "detection/upernet", "detection/retinanet"):
        pattern = f"{task} of van_base-lka-k7-s3 is not configured at scale test; .*the scale has detection/retinanet"
        with pytest.raises(ValueError, match=pattern) as caught:
            config().fine_tuning(task, BASE)
    assert "detection/retinanet/van_tiny-lska-k23-s0" in str(caught.value)


def test_nothing_heavy_is_imported() -> None:
    heavy = "('torch', 'mmdet', 'mmseg')"
    code = f"import lska.settings.tasks, sys; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
