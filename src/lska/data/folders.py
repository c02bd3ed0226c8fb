"""Image-classification data in the public data sets' own layouts: class folders, tar files, ImageNet's archives.

Every layout is read in place and nothing is ever written into a data root, so roots may be read-only or symbolic links.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lska.data.decoding import decode, read_encoded
from lska.data.layouts import EXTENSIONS, Listing, locate, scan, shown
from lska.data.tars import DataError, Names, TarIndex, TarReader

__all__ = ["EXTENSIONS", "DataError", "Sample", "Split", "check_same_classes", "decode", "list_split", "open_split"]


class Sample(NamedTuple):
    """One image: `<class>/<file>`, the same in every layout, and the index of its class."""

    name: str
    target: int


class Samples(Sequence[Sample]):
    """Samples in flat buffers, for the reason given at `Names`; `targets` is an int32 array of shape (n,)."""

    def __init__(self, names: Names, targets: np.ndarray) -> None:
        self.names = names
        self.targets = targets

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Sample(self.names[index], int(self.targets[index]))


class _Files(Protocol):
    def read(self, index: int) -> bytes: ...
    def place(self, index: int) -> str: ...
    def size(self, index: int) -> int: ...


@dataclass(frozen=True, eq=False)
class _FolderFiles:
    folder: str
    paths: Names

    def place(self, index: int) -> str:
        return f"{self.folder}/{self.paths[index]}"

    def read(self, index: int) -> bytes:
        return read_encoded(self.place(index))

    def size(self, index: int) -> int:
        status = Path(self.place(index)).stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{self.place(index)}: expected an image file, found a folder, pipe or device; remove it")
        return status.st_size


@dataclass(frozen=True, eq=False)
class _TarFiles:
    reader: TarReader
    paths: Names
    offsets: np.ndarray
    sizes: np.ndarray

    def place(self, index: int) -> str:
        return f"{self.reader.path}:{self.paths[index]}"

    def read(self, index: int) -> bytes:
        return self.reader.read(int(self.offsets[index]), int(self.sizes[index]))

    def size(self, index: int) -> int:
        return int(self.sizes[index])


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, sorted by class and file name; picklable, and safe in forked and spawned workers.

    `source` is the folder or tar file that was read. `ignored` counts the entries that are no images (hidden files,
    other extensions) or lie outside the class folders, `ignored_names` gives the first of them.
    """

    root: Path
    split: str
    source: Path
    classes: tuple[str, ...]
    samples: Samples
    files: _Files = field(repr=False)
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image.

        Raises:
            DataError: the file cannot be read, or a tar file ends too early.
            OSError: a tar file cannot be read.
        """
        return self.files.read(index)

    def name(self, index: int) -> str:
        """Where an image lies, for people: `/data/val/cat/3.jpg` or `/data/val.tar:val/cat/3.jpg`."""
        return self.files.place(index)

    def size(self, index: int) -> int:
        """Size of an image file in bytes; raises OSError, or DataError where it is no file."""
        return self.files.size(index)

    def counts(self) -> dict[str, int]:
        """Number of images per class, in class order."""
        numbers = np.bincount(self.samples.targets, minlength=len(self.classes))
        return dict(zip(self.classes, map(int, numbers), strict=True))


def open_split(root: Path, split: str, cache: Path | None = None) -> Split:
    """Open `split` ("train", "val") of the data set at `root`.

    Layouts: `root/<split>/<class>/<file>`; `root/<split>.tar` holding `<split>/<class>/<file>` or `<class>/<file>`;
    `root/ILSVRC2012_img_train.tar`, a tar of one tar per class; `root` itself a tar with `<split>/<class>/<file>`.
    Images without class folders are accepted where `root/<split>_labels.csv` (columns file, class) sorts them.

    Args:
        cache: folder for the index of large tar files (see `index_tar`); must not be inside a data root.

    Raises:
        DataError: missing root or split, no classes, a class without images, images not sorted into classes.
    """
    result = list_split(root, split, cache)
    empty = [name for name, count in result.counts().items() if not count]
    if empty:
        raise DataError(
            f"{result.source}: class folders without images ({len(empty)} of {len(result.classes)}): {shown(empty)}. "
            f"Expected files ending in {', '.join(EXTENSIONS)} directly inside each; restore them or remove the folders"
        )
    return result


def list_split(root: Path, split: str, cache: Path | None = None) -> Split:
    """As `open_split`, but a class without images is listed, not refused."""
    root = Path(root)
    source = locate(root, split)
    try:
        listing, index = scan(root, split, source, cache)
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error}); check its permissions and mount") from error
    classes = tuple(sorted(listing.files))
    pairs = [(target, file) for target, name in enumerate(classes) for file in sorted(listing.files[name])]
    names = Names.of(f"{classes[target]}/{file}" for target, file in pairs)
    samples = Samples(names, np.array([target for target, _ in pairs], dtype=np.int32))
    paths = [file for _, file in pairs] if listing.flat else names
    files = _FolderFiles(str(source), Names.of(paths)) if index is None else _tar_files(source, index, listing, paths)
    return Split(root, split, source, classes, samples, files, listing.ignored, tuple(listing.ignored_names))


def _tar_files(source: Path, index: TarIndex, listing: Listing, paths: Iterable[str]) -> _TarFiles:
    rows = np.array([listing.rows[path] for path in paths], dtype=np.int64)
    members = Names.of(index.names[row] for row in rows)
    return _TarFiles(TarReader(source), members, index.offsets[rows], index.sizes[rows])


def check_same_classes(train: Split, val: Split) -> None:
    """Make sure that class indices mean the same in both splits.

    Raises:
        DataError: the class folders differ; both differences are named.
    """
    if train.classes == val.classes:
        return
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((train.classes, val.classes), (val.classes, train.classes)))
    raise DataError(
        f"{train.source} has {len(train.classes)} classes and {val.source} has {len(val.classes)}; expected the same. "
        f"Only in {train.split}: {shown(missing)}. Only in {val.split}: {shown(extra)}. Complete or remove them"
    )
