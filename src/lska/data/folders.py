"""Image-classification data in the public data sets' own layouts: class folders, tar files, ImageNet's archives.

Every layout is read in place and nothing is ever written into a data root, so roots may be read-only or symbolic links.
"""

from __future__ import annotations

import io
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lska.data.archives import require_regular
from lska.data.decoding import read_encoded
from lska.data.entries import SHOWN, DataError, is_hidden, name_problem, shown_names
from lska.data.tars import Names, TarIndex, index_tar
from lska.data.unpack import FOLDER
from lska.provenance.files import FileError, read_table

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")  # timm's list and WebP; the case does not matter


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


class _TarFiles:
    """Byte ranges of one tar file, read through one descriptor per process.

    `os.pread` has no file position, so threads and forked workers may share the descriptor; it is opened at the first
    read and left out of pickles, so spawned workers open their own.
    """

    def __init__(self, path: Path, paths: Names, offsets: np.ndarray, sizes: np.ndarray) -> None:
        self.path, self.paths, self.offsets, self.sizes = path, paths, offsets, sizes
        self._file: io.FileIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def place(self, index: int) -> str:
        return f"{self.path}:{self.paths[index]}"

    def read(self, index: int) -> bytes:
        if self._file is None:
            self._file = io.FileIO(self.path)
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise DataError(f"{self.path}: expected {size} bytes at byte {offset}, found {len(data)}; was it replaced?")
        return data

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
    files: _FolderFiles | _TarFiles = field(repr=False)
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image.

        Raises:
            DataError: it is gone, is no regular file, or cannot be read, or its archive is too short; names it.
        """
        try:
            return self.files.read(index)
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read ({error}); check the disk") from error

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
            f"{result.source}: class folders without images ({len(empty)} of {len(result.classes)}): "
            f"{shown_names(empty)}. Expected files ending in {', '.join(EXTENSIONS)} directly inside each; restore "
            "them or remove the folders"
        )
    return result


def list_split(root: Path, split: str, cache: Path | None = None) -> Split:
    """As `open_split`, but a class without images is listed, not refused."""
    root = Path(root)
    source = locate(root, split)
    try:
        index = None if source.is_dir() else index_tar(source, cache)
        listing = _Listing()
        entries = _folder_entries(source) if index is None else _tar_entries(index, split, source == root, listing)
        for name, size, row in entries:
            listing.place(name, size, row)
        flat = listing.sort(root, split, source)
    except FileError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error}); check its permissions and mount") from error
    classes = tuple(sorted(listing.files))
    pairs = [(target, file) for target, name in enumerate(classes) for file in sorted(listing.files[name])]
    names = Names.of(f"{classes[target]}/{file}" for target, file in pairs)
    samples = Samples(names, np.array([target for target, _ in pairs], dtype=np.int32))
    paths = Names.of(file for _, file in pairs) if flat else names
    if index is None:
        files: _FolderFiles | _TarFiles = _FolderFiles(str(source), paths)
    else:
        rows = np.array([listing.rows[path] for path in paths], dtype=np.int64)
        members = Names.of(index.names[row] for row in rows)
        files = _TarFiles(source, members, index.offsets[rows], index.sizes[rows])
    return Split(root, split, source, classes, samples, files, listing.ignored, tuple(listing.ignored_names))


def check_same_classes(train: Split, val: Split) -> None:
    """Make sure that class indices mean the same in both splits.

    Raises:
        DataError: says which classes only one of them has.
    """
    if train.classes == val.classes:
        return
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((train.classes, val.classes), (val.classes, train.classes)))
    raise DataError(
        f"{train.source} has {len(train.classes)} classes and {val.source} has {len(val.classes)}; expected the same. "
        f"Only in {train.split}: {shown_names(missing)}. Only in {val.split}: {shown_names(extra)}. "
        "Complete or remove them"
    )


def is_image(file: str) -> bool:
    """Whether a file name or path counts as an image: a known extension, not hidden."""
    return file.lower().endswith(EXTENSIONS) and not is_hidden(file)


def locate(root: Path, split: str) -> Path:
    """The folder or tar file under `root` that holds `split`; `root` itself where it is a file.

    Raises:
        DataError: `root` or the split is missing; says what lies there instead.
    """
    try:
        found = None if root.is_file() else sorted(path.name for path in root.iterdir())
    except OSError as error:
        raise DataError(
            f"data root '{root.absolute()}' cannot be read ({error.strerror}): expected a folder that holds "
            "train and val, or a tar file; correct the data root in the configuration or mount the data set"
        ) from error
    if found is None:
        return root
    names = [name for name in (split, f"{split}.tar", f"ILSVRC2012_img_{split}.tar") if name in found]
    for name in names:
        if (root / name).is_dir() == (name == split):
            return root / name
    for name in names:
        require_regular(root / name)
    raise DataError(
        f"data root '{root.absolute()}' has no {split!r} split: expected {split}/<class>/<image>, {split}.tar or "
        f"ILSVRC2012_img_{split}.tar, found {shown_names(found)}; correct the data root (one level up or down?) or "
        "rename the folder"
    )


def _folder_entries(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Every entry of a split's folder and of the folders in it: path, `FOLDER` or 0, no row."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir() and not is_hidden(entry.name)
            yield entry.name, FOLDER if is_folder else 0, -1
            if is_folder:
                with os.scandir(entry.path) as files:
                    yield from ((f"{entry.name}/{file.name}", 0, -1) for file in files)


def _tar_entries(index: TarIndex, split: str, whole: bool, listing: _Listing) -> Iterator[tuple[str, int, int]]:
    """Every entry of a split in an archive. With `whole`, that holds other splits too, which are passed over."""
    names = list(index.names)
    prefix = _prefix(names, split, whole)
    for row, (name, size) in enumerate(zip(names, index.sizes.tolist(), strict=True)):
        if name.startswith(prefix):
            yield name.removeprefix(prefix), size, row
        elif size != FOLDER and not whole:
            listing.ignore(name)


def _prefix(names: list[str], split: str, whole: bool) -> str:
    """What precedes `<class>/<file>` in an archive: "", "val/", "imagenet/val/"."""
    images = [name for name in names if is_image(name)]
    common = os.path.commonprefix([min(images), max(images)]).rpartition("/")[0] if images else ""
    parts = common.split("/")
    if split in parts:
        return "/".join(parts[: parts.index(split) + 1]) + "/"
    inside = f"{common}/{split}/".lstrip("/")
    if whole or any(name.startswith(inside) and name.count("/") > inside.count("/") for name in images):
        return inside
    return ""


class _Listing:
    """What one pass over a split found."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}
        """File names by class."""
        self.rows: dict[str, int] = {}
        """Row in the tar index of each `<class>/<file>` or loose `<file>`."""
        self.ignored = 0
        self.ignored_names: list[str] = []
        self._loose: list[str] = []
        self._archives = 0

    def place(self, name: str, size: int, row: int) -> None:
        """Enter one entry."""
        folder, _, file = name.rpartition("/")
        if size == FOLDER:
            if name and not folder and not is_hidden(name):
                self.files.setdefault(name, [])
        elif not is_image(name) or "/" in folder:
            self.ignore(name)
        else:
            (self.files.setdefault(folder, []) if folder else self._loose).append(file)
            if row >= 0:
                self.rows[name] = row

    def ignore(self, name: str) -> None:
        """Count an entry that is no image of a class, and keep the first names."""
        self._archives += name.endswith(".tar")
        self.ignored += 1
        if self.ignored <= SHOWN:
            self.ignored_names.append(name)

    def sort(self, root: Path, split: str, source: Path) -> bool:
        """Have every image in a class or ignored; whether a table of labels did it, so that none lies in a folder.

        Raises:
            DataError: the images are not sorted into classes.
            FileError: as `_labels`.
        """
        table = root / f"{split}_labels.csv"
        if not self.files and self._loose and os.path.lexists(table):
            self.files = _labels(self._loose, table)
            return True
        if not self.files:
            raise DataError(self._no_classes(root, split, source))
        for name in self._loose:
            self.ignore(name)
        return False

    def _no_classes(self, root: Path, split: str, source: Path) -> str:
        other = self.ignored - self._archives
        found = f"{len(self._loose):,} images, {self._archives:,} tar files and {other:,} other entries"
        text = f"{source} has no class folders: expected {split}/<class>/<image>, found {found}"
        if self._loose:
            return f"{text}, first {min(self._loose)!r}. {_how_to_sort(root, split, source, min(self._loose))}"
        if self._archives and source.is_dir():
            unpack = 'for f in *.tar; do mkdir "${f%.tar}" && tar -xf "$f" -C "${f%.tar}"; done'
            return f"{text}. Unpack one folder per class: cd {shlex.quote(str(source))} && {unpack}"
        return f"{text}, first {shown_names(self.ignored_names)}. Check that this is the right data root"


def _labels(loose: list[str], labels: Path) -> dict[str, list[str]]:
    """Classes of a flat split by `labels`, a CSV file with the columns file and class.

    Raises:
        FileError: as `lska.provenance.files.read_table`, a file stands there twice, or a class cannot be a folder.
        DataError: images and lines do not match one to one.
    """
    rows = read_table(labels, ("file", "class"), key="file")
    for number, row in rows:
        if problem := name_problem(row["class"]):
            raise DataError(f"{labels}: line {number}: class: {problem}")
    classes = {row["file"]: row["class"] for _, row in rows}
    unnamed, absent = sorted(set(loose) - set(classes)), sorted(set(classes) - set(loose))
    if unnamed or absent:
        raise DataError(
            f"{labels}: expected one line per image. Images without a line: {shown_names(unnamed)}. Lines without an "
            f"image: {shown_names(absent)}. Complete the file or the images"
        )
    files: dict[str, list[str]] = {}
    for file in loose:
        files.setdefault(classes[file], []).append(file)
    return files


def _how_to_sort(root: Path, split: str, source: Path, first: str) -> str:
    """What to do about a flat split; for ImageNet's validation images with the commands."""
    labels = f"write {root / f'{split}_labels.csv'} with the columns file,class (the images then stay where they are)"
    if not first.startswith("ILSVRC2012_val_"):
        return f"Move each image into a folder named after its class, or {labels}"
    code = f"from torchvision.datasets import ImageNet; ImageNet({str(root)!r}, split='val')"
    inside = f"; or run the usual valprep.sh inside {source}, which moves each image into its wnid's folder"
    return (
        "These are ImageNet's validation images as distributed, without classes. With ILSVRC2012_img_val.tar and "
        f"ILSVRC2012_devkit_t12.tar.gz in {root} and no folder 'val' there, `{shlex.join(['python', '-c', code])}` "
        f"sorts them into {root / 'val'}/<wnid>/ by the development kit's ground truth"
        f"{inside if source.is_dir() else ''}; or {labels}"
    )
