"""Batches of detection and segmentation: a function of (seed, epoch, position) alone, as in classification.

The samples of an update depend neither on the number of processes or workers nor on where a training was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS

from lska.data.decoding import IGNORED, read_image, read_labels
from lska.data.entries import DataError
from lska.settings.tasks import FineTuningJob
from lska.train.loading import BatchPlan, Loader


@dataclass(frozen=True)
class DensePlan(BatchPlan):
    """A plan whose length may be given in updates, and whose micro-batches may hold images of one orientation only.

    Grouping by orientation keeps padding small (mmdet's base data settings; paper/protocol.md, section 3).
    """

    updates: int | None = None
    """Updates of the whole training; None for whole epochs."""
    landscape: tuple[bool, ...] | None = None
    """Whether each image is at least as wide as high; None mixes all images."""

    @classmethod
    def of_job(cls, job: FineTuningJob, dataset: BaseDataset) -> DensePlan:
        """The plan of a fine-tuning on its training set."""
        recipe, length = job.recipe, len(dataset)
        cut = {"micro_batch": recipe.micro_batch, "micro_batches": recipe.global_batch // recipe.micro_batch}
        if job.kind == "segmentation":
            return cls(length, **cut, epochs=1, seed=job.run.seed, updates=recipe.updates)
        infos = (dataset.get_data_info(index) for index in range(length))
        landscape = tuple(info["width"] >= info["height"] for info in infos)
        return cls(length, **cut, epochs=recipe.epochs, seed=job.run.seed, landscape=landscape)

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return super().steps if self.updates is None else self.updates

    def order(self, epoch: int) -> torch.Tensor:
        """Permutation of the image indices in `epoch`, shape (length,).

        With orientations, each run of `micro_batch` indices is of one orientation, but for a last few that are left
        over of both.
        """
        order = super().order(epoch)
        if self.landscape is None:
            return order
        wide = torch.tensor(self.landscape)[order]
        batches, rest = [], []
        for group in (order[wide], order[~wide]):
            full = len(group) // self.micro_batch * self.micro_batch
            batches += group[:full].split(self.micro_batch) if full else []
            rest.append(group[full:])
        # A wide and a tall micro-batch come in the order of their first images.
        place = torch.argsort(order)
        batches.sort(key=lambda batch: int(place[batch[0]]))
        return torch.cat([*batches, *rest])


def validation_loader(job: FineTuningJob, settings: Any) -> Loader:
    """Every validation image once, in order; `settings` are those of its data set in the configuration."""
    evaluation = job.evaluation
    # mmseg stacks only images of equal size.
    size = evaluation.batch_size if job.kind == "detection" else 1
    return Loader(DATASETS.build(settings), evaluation.workers, batch_size=size, collate_fn=pseudo_collate)


@TRANSFORMS.register_module()
class LoadPicture:
    """Read an image by the decoder that checked it; gives the libraries' BGR, uint8 (H, W, 3)."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        pixels = np.ascontiguousarray(read_image(results["img_path"])[:, :, ::-1])
        return {**results, "img": pixels, "img_shape": pixels.shape[:2], "ori_shape": pixels.shape[:2]}


@TRANSFORMS.register_module()
class LoadLabelMap:
    """Read a label map by the decoder that checked it and number the classes from 0; gives uint8 (H, W).

    Args:
        classes: number of classes; their values start at 1 with `zero_is_unlabelled`, else at 0.
        ignore: values that become `IGNORED`, as 0 does with `zero_is_unlabelled`.
    """

    def __init__(self, classes: int, zero_is_unlabelled: bool, ignore: tuple[int, ...] = ()) -> None:
        first = int(zero_is_unlabelled)
        self.labels = np.full(256, IGNORED, dtype=np.uint8)
        self.labels[first : first + classes] = np.arange(classes)
        self.known = np.isin(np.arange(256), [*range(first + classes), *ignore])

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Raises DataError where a value is neither a class nor to be ignored."""
        values = read_labels(results["seg_map_path"])
        if not self.known[values].all():
            unknown = np.unique(values[~self.known[values]]).tolist()
            raise DataError(
                f"{results['seg_map_path']}: expected values of classes, found {unknown[:10]}; restore the file, or "
                "state the values in the manifest's `ignore`"
            )
        fields = [*results.get("seg_fields", []), "gt_seg_map"]
        return {**results, "gt_seg_map": self.labels[values], "seg_fields": fields}
