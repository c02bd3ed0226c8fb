"""The torch data set over a split; apart from `folders`, which must not import torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, get_worker_info

from lska.data.decoding import decode
from lska.data.entries import DataError
from lska.data.folders import Split

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 50  # unreadable images in a row; so many mean that the storage is at fault, not a file
SLOTS = 257  # counters: one for the main process and one per worker


class ImageDataset(Dataset):
    """Decoded images of a split with their class indices, as `(transform(image), target)`.

    The image is an RGB `PIL.Image`; `transform` is an attribute that timm's `create_loader` may replace. Unreadable or
    truncated images, by `on_error`: "skip" (training) logs a warning with the file's name, counts it and gives the next
    readable sample in its place, the same one each time; "raise" (evaluation) refuses.
    """

    def __init__(
        self,
        split: Split,
        transform: Callable[[Any], Any] | None = None,
        on_error: Literal["skip", "raise"] = "raise",
    ) -> None:
        self.split = split
        self.transform = transform
        self.on_error = on_error
        # Shared memory brings the workers' counts to the main process; a slot each makes a lock unnecessary.
        self._skipped = torch.zeros(SLOTS, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.split)

    @property
    def skipped(self) -> int:
        """Reads that failed and were skipped so far, in this process and its workers; an image counts at every read."""
        return int(self._skipped.sum())

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The sample at `index`; DataError where it is unreadable and `on_error` is "raise", or many in a row are."""
        for step in range(GIVE_UP_AFTER):
            position = (index + step) % len(self)
            try:
                image = decode(self.split.read(position), self.split.name(position))
            except DataError as error:
                if self.on_error == "raise":
                    raise
                worker = get_worker_info()
                self._skipped[0 if worker is None else 1 + worker.id % (SLOTS - 1)] += 1
                logger.warning("skipped: %s", error)
                continue
            finished = image if self.transform is None else self.transform(image)
            return finished, self.split.samples[position].target
        raise DataError(
            f"{self.split.source}: {GIVE_UP_AFTER} unreadable images in a row from {self.split.name(index)!r} on; "
            "expected a stray one at most. Check the storage, then the data with `lska data check --contents`"
        )
