"""Image-classification data: a folder of class folders for each split, read in place and never written to.

torch is imported where a split becomes a torch data set: the Snakefile's process does without it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lska.data.decoding import decode, read_encoded
from lska.data.entries import EXTENSIONS, DataError, is_hidden, is_image, lines_digest, shown_names, wrong_root

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 50  # unreadable images in a row; so many mean that the storage is at fault, not a file
SLOTS = 257  # counters: one for the main process and one per worker


class Sample(NamedTuple):
    """One image: `<class>/<file>`, and the index of its class."""

    name: str
    target: int


class Samples(Sequence[Sample]):
    """Samples in two arrays, `targets` is int32 (n,).

    A list of a million names is a million objects, which every forked worker copies as their reference counts change.
    """

    def __init__(self, names: Iterable[str], targets: Iterable[int]) -> None:
        self._names = np.array([os.fsencode(name) for name in names], dtype=bytes)
        self.targets = np.array(list(targets), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Sample(os.fsdecode(self._names[index]), int(self.targets[index]))

    @property
    def names(self) -> list[str]:
        """`<class>/<file>` of every image."""
        return [os.fsdecode(name) for name in self._names]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, sorted by class and file name; picklable.

    `source` is the folder that was read. `ignored` names the entries that are no images (hidden files, other
    extensions) or lie outside the class folders.
    """

    root: Path
    split: str
    source: Path
    classes: tuple[str, ...]
    samples: Samples
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """Where an image lies: `/data/val/cat/3.jpg`."""
        return f"{self.source}/{self.samples[index].name}"

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image; raises DataError, which names it, where it is gone or cannot be read."""
        return read_encoded(self.name(index))

    def size(self, index: int) -> int:
        """Size of an image file in bytes; raises OSError, or DataError where it is no file."""
        status = Path(self.name(index)).stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{self.name(index)}: expected an image file, found a folder, pipe or device; remove it")
        return status.st_size

    def counts(self) -> dict[str, int]:
        """Number of images per class, in class order."""
        numbers = np.bincount(self.samples.targets, minlength=len(self.classes))
        return dict(zip(self.classes, map(int, numbers), strict=True))

    def only(self, wanted: Callable[[str], bool]) -> Split:
        """The split with those of its images alone whose `<class>/<file>` is `wanted`."""
        kept = [index for index, sample in enumerate(self.samples) if wanted(sample.name)]
        names, targets = (self.samples[index].name for index in kept), self.samples.targets[kept]
        return replace(self, samples=Samples(names, targets))


def open_split(root: Path, split: str) -> Split:
    """Open `split` ("train", "val") of the data set at `root`: `root/<split>/<class>/<file>`.

    Raises DataError for a missing root or split, no classes, a class without images, images without class folders.
    """
    return without_empty_class(list_split(root, split))


def without_empty_class(split: Split) -> Split:
    """`split` as it is; raises DataError where it has a class without images."""
    if empty := [name for name, count in split.counts().items() if not count]:
        raise DataError(
            f"{split.source}: class folders without images ({len(empty)} of {len(split.classes)}): "
            f"{shown_names(empty)}. Expected files ending in {', '.join(EXTENSIONS)} directly inside each; restore "
            "them or remove the folders"
        )
    return split


def list_split(root: Path, split: str, folder: str | None = None) -> Split:
    """As `open_split`, but a class without images is listed, not refused; `folder` (`valid`, `.`) is where the class
    folders lie from the root on, None for one called as the split.
    """
    root = Path(root)
    folder = split if folder is None else folder
    source = root / folder
    if not source.is_dir():
        raise wrong_root(root, f"a {split!r} split: expected {folder}/<class>/<image> or an archive of it")
    files: dict[str, list[str]] = {}
    loose: list[str] = []
    ignored: list[str] = []
    try:
        with os.scandir(source) as entries:
            for entry in entries:
                if entry.is_dir() and not is_hidden(entry.name):
                    with os.scandir(entry.path) as inner:
                        names = [file.name for file in inner]
                    files[entry.name] = [name for name in names if is_image(name)]
                    ignored += [f"{entry.name}/{name}" for name in names if not is_image(name)]
                else:
                    (loose if is_image(entry.name) else ignored).append(entry.name)
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error}); check its permissions and mount") from error
    if not files:
        raise DataError(
            f"{source} has no class folders: expected {folder}/<class>/<image>, found {len(loose):,} images, "
            f"{len(ignored):,} other entries, first {shown_names(sorted([*loose, *ignored])[:1])}; unpack archives of "
            "classes into a folder each, move images into folders named after their classes, or correct the data root"
        )
    classes = tuple(sorted(files))
    samples = [(f"{name}/{file}", target) for target, name in enumerate(classes) for file in sorted(files[name])]
    names, targets = zip(*samples, strict=True) if samples else ((), ())
    return Split(root, split, source, classes, Samples(names, targets), (*ignored, *loose))


def check_same_classes(train: Split, val: Split) -> None:
    """Raise DataError, which says which classes only one of them has, unless class indices mean the same in both."""
    if train.classes == val.classes:
        return
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((train.classes, val.classes), (val.classes, train.classes)))
    raise DataError(
        f"{train.source} has {len(train.classes)} classes and {val.source} has {len(val.classes)}; expected the same. "
        f"Only in {train.split}: {shown_names(missing)}. Only in {val.split}: {shown_names(extra)}. "
        "Complete or remove them"
    )


def names_digest(split: Split) -> str:
    """`sha256:...` of the lines `<class>/<file>`, sorted by class, then file."""
    return lines_digest(split.samples.names)


def contents_digest(split: Split, hashes: Iterable[str]) -> str:
    """`sha256:...` of the lines `<sha256 of the file> <class>/<file>`, in the order of `names_digest`."""
    return lines_digest(f"{value} {name}" for value, name in zip(hashes, split.samples.names, strict=True))


class ImageDataset:
    """Decoded images of a split with their class indices, as `(transform(image), target)`: a torch data set.

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
        import torch

        self.split, self.transform, self.on_error = split, transform, on_error
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
        from torch.utils.data import get_worker_info

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
