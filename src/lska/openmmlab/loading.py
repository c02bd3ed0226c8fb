"""Batches for mmengine's Runner: a function of (seed, epoch, position) alone, as in classification.

The samples of an update depend neither on the number of processes or workers nor on where a training was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS, TRANSFORMS
from torch.utils.data import Sampler

from lska.data.decoding import IGNORED, read_image, read_labels
from lska.data.entries import DataError
from lska.train.loading import Key, MicroBatches, Plan, seed_processor
from lska.train.workers import heed_only_the_trainer

FUNCTIONS.register_module(name="heed_only_the_trainer", module=heed_only_the_trainer)


@DATASETS.register_module()
class SeededSamples:
    """A data set addressed by (epoch, index), with every random choice of its pipeline fixed by that key."""

    def __init__(self, dataset: BaseDataset | dict[str, Any], seed: int) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed = seed

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and colours of the data set."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        seed_processor(self.seed, "image", epoch, index)
        return self.dataset[index]


@dataclass(frozen=True)
class DensePlan(Plan):
    """A plan whose length may be given in updates, and whose micro-batches may hold images of one orientation only.

    Grouping by orientation keeps padding small (mmdet's base data settings; paper/protocol.md, section 3).
    """

    updates: int | None = None
    """Updates of the whole training; None for whole epochs."""
    landscape: tuple[bool, ...] | None = None
    """Whether each image is at least as wide as high; None mixes all images."""

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


@DATA_SAMPLERS.register_module()
class UpdateBatches(Sampler[list[Key]]):
    """The (epoch, index) keys of this process's micro-batches, from update `start` to the end of the training.

    Args:
        sampler: mmengine's sampler, asked for its data set only.
        batch_size: images of a micro-batch.
        micro_batches: micro-batches of an update, in all processes together.
        epochs: length of the training; or `updates`.
        by_orientation: whether a micro-batch holds images of one orientation only.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        micro_batches: int,
        seed: int,
        epochs: int = 1,
        updates: int | None = None,
        by_orientation: bool = False,
    ) -> None:
        samples = sampler.dataset.dataset
        landscape = _landscape(samples) if by_orientation else None
        self.plan = DensePlan(
            len(samples), batch_size, micro_batches, epochs, seed, updates=updates, landscape=landscape
        )
        self.start = 0

    def __len__(self) -> int:
        """Updates of an epoch, which mmengine converts schedules by."""
        return self.plan.steps_per_epoch

    def __iter__(self) -> Iterator[list[Key]]:
        rank, world = get_dist_info()
        return iter(MicroBatches(self.plan, self.start, rank, world))


def _landscape(samples: BaseDataset) -> tuple[bool, ...]:
    infos = (samples.get_data_info(index) for index in range(len(samples)))
    return tuple(info["width"] >= info["height"] for info in infos)


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
