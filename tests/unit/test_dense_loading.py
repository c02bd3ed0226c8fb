"""Batches of detection and segmentation: orders, orientations, positions, seeds and ignored labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import paper_jobs
import pytest
import torch
from PIL import Image

from lska.data.entries import DataError
from lska.train.dense_loading import IGNORED, DensePlan, LoadLabelMap, LoadPicture
from lska.train.loading import BatchPlan, MicroBatches


class Samples:
    """A data set of images of alternating shape."""

    def __init__(self, landscape: list[bool]) -> None:
        self.landscape = landscape

    def __len__(self) -> int:
        return len(self.landscape)

    def get_data_info(self, index: int) -> dict[str, int]:
        return {"width": 4, "height": 3} if self.landscape[index] else {"width": 3, "height": 4}


def plan(kinds: list[bool], **settings: Any) -> DensePlan:
    """Updates of two micro-batches of two images."""
    return DensePlan(len(kinds), 2, 2, **{"epochs": 1, "seed": 3, "landscape": tuple(kinds), **settings})


MIXED = [True, True, False, True, True, False, True, False, False, True, True, False, True]


def test_micro_batches_hold_one_orientation_and_the_rest_comes_last() -> None:
    made = plan(MIXED, epochs=2)
    for epoch in range(5):
        order = made.order(epoch)
        assert sorted(order.tolist()) == list(range(13))
        kinds = [Counter(MIXED[i] for i in order[start : start + 2].tolist()) for start in range(0, 12, 2)]
        assert all(len(kind) == 1 for kind in kinds)
    assert len({tuple(made.order(epoch).tolist()) for epoch in range(5)}) == 5
    # Orientations alternate instead of coming in two blocks.
    firsts = "".join("wt"[not MIXED[int(i)]] for epoch in range(5) for i in made.order(epoch)[:12:2])
    assert "wt" in firsts and "tw" in firsts
    assert torch.equal(plan(MIXED, landscape=None).order(1), BatchPlan(13, 2, 2, 1, 3).order(1))


def test_length_is_given_in_epochs_or_updates_and_a_later_start_leaves_out_what_was_done() -> None:
    for length, steps in (({"epochs": 4}, 12), ({"updates": 7}, 7)):
        made = plan(MIXED, **length)
        assert (made.steps_per_epoch, made.steps) == (3, steps)
        keys = list(MicroBatches(made, 0, 0, 1))
        assert len(keys) == 2 * steps and all(len(batch) == 2 for batch in keys)
        assert [batch[0][0] for batch in keys[::2]] == [step // 3 for step in range(steps)]
        assert list(MicroBatches(made, 4, 0, 1)) == keys[8:]
    with pytest.raises(ValueError, match="fewer than the global batch of 4"):
        plan([True] * 3)


def test_the_plan_of_a_job_is_that_of_its_recipe() -> None:
    images = Samples(MIXED * 13)
    detection, segmentation = (DensePlan.of_job(paper_jobs.job(head), images) for head in ("retinanet", "semantic_fpn"))
    # Updates of 16 images, ten in an epoch of 169: twelve epochs, or 80,000 updates.
    assert (detection.micro_batch, detection.steps, detection.landscape) == (2, 120, tuple(images.landscape))
    assert (segmentation.micro_batch, segmentation.steps, segmentation.landscape) == (4, 80_000, None)
    assert detection.steps_per_epoch == segmentation.steps_per_epoch == 10


def test_plain_files_load_as_the_libraries_load_them(tmp_path: Path) -> None:
    """Bit for bit, so that results from before the one decoder stay those of the same images."""
    from lska.models.openmmlab import use

    use("segmentation")
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize((106, 74), Image.Resampling.BICUBIC)
    theirs = LoadImageFromFile(color_type="color_ignore_orientation")
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [("jpg", {}), ("jpg", {"progressive": True}), ("jpg", {"exif": turned}), ("png", {}), ("webp", {})]
    saved = [(mode, *kind) for mode in ("RGB", "L") for kind in kinds]
    for number, (mode, kind, more) in enumerate([*saved, ("P", "png", {}), ("RGBA", "png", {}), ("1", "png", {})]):
        path = str(tmp_path / f"{number}.{kind}")
        smooth.convert(mode).save(path, **more)
        mine, expected = (load({"img_path": path}) for load in (LoadPicture(), theirs))
        assert np.array_equal(mine["img"], expected["img"]) and mine["img"].flags.c_contiguous
        assert (mine["img_shape"], mine["ori_shape"]) == (expected["img_shape"], expected["ori_shape"])
    for zero_is_unlabelled in (False, True):
        path = str(tmp_path / "labels.png")
        Image.fromarray(generator.integers(0, 151, (37, 53), dtype=np.uint8)).save(path)
        before = {"seg_map_path": path, "reduce_zero_label": zero_is_unlabelled}
        expected = LoadAnnotations()({**before, "seg_fields": []})
        mine = LoadLabelMap(151 - zero_is_unlabelled, zero_is_unlabelled)({**before, "seg_fields": []})
        assert np.array_equal(mine["gt_seg_map"], expected["gt_seg_map"])
        assert mine["gt_seg_map"].dtype == np.uint8 and mine["seg_fields"] == expected["seg_fields"]


def test_labels_that_are_not_scored_are_ignored_and_unknown_ones_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "labels.png")
    Image.fromarray(np.array([[0, 11], [12, 3]], dtype=np.uint8)).save(path)
    result = LoadLabelMap(11, False, (11, 12))({"seg_map_path": path})
    assert result["gt_seg_map"].tolist() == [[0, IGNORED], [IGNORED, 3]]
    with pytest.raises(DataError, match=r"labels.png: expected values of classes, found \[11\]"):
        LoadLabelMap(11, False, (12,))({"seg_map_path": path})
