"""Which layout a data root has, and one pass over it: folders, tar files, ImageNet's own archives."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lska.data.entries import FOLDER, DataError, is_hidden, name_problem
from lska.data.tars import TarIndex, index_tar
from lska.files import FileError, open_regular, read_table

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")  # timm's list and WebP; the case does not matter
SHOWN = 10  # how many names a message lists before it only counts


@dataclass
class Listing:
    """What one pass over a split found; `rows` maps `<class>/<file>` or a loose `<file>` to its row in a tar index."""

    files: dict[str, list[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    flat: bool = False
    archives: int = 0
    ignored: int = 0
    ignored_names: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def ignore(self, name: str) -> None:
        """Count an entry that is no image of a class, and keep the first names."""
        self.archives += name.endswith(".tar")
        self.ignored += 1
        if self.ignored <= SHOWN:
            self.ignored_names.append(name)


def is_image(file: str) -> bool:
    """Whether a file name or path counts as an image: a known extension, not hidden."""
    return file.lower().endswith(EXTENSIONS) and not is_hidden(file)


def shown(names: Sequence[str]) -> str:
    """The first `SHOWN` names in quotes, and how many more there are."""
    text = ", ".join(repr(name) for name in names[:SHOWN]) or "none"
    return f"{text} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else text


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
        try:
            open_regular(root / name).close()
        except FileError as error:  # a dangling link or a pipe, which is there and yet no split
            raise DataError(str(error)) from error
    raise DataError(
        f"data root '{root.absolute()}' has no {split!r} split: expected {split}/<class>/<image>, {split}.tar or "
        f"ILSVRC2012_img_{split}.tar, found {shown(found)}; correct the data root (one level up or down?) or "
        "rename the folder"
    )


def scan(root: Path, split: str, source: Path, cache: Path | None) -> tuple[Listing, TarIndex | None]:
    """List `source` as `locate` gave it, with the tar index where it is a tar file.

    Raises:
        DataError: the images are not sorted into classes, or a tar file is damaged.
        OSError: something cannot be read.
    """
    index = None if source.is_dir() else index_tar(source, cache)
    listing = _scan_folder(source) if index is None else _scan_tar(index, split, whole=source == root)
    labels = root / f"{split}_labels.csv"
    if not listing.files and listing.loose and os.path.lexists(labels):
        listing.flat = True
        listing.files = _sort_by_labels(listing.loose, labels)
    if not listing.files:
        raise DataError(_no_classes(root, split, source, listing))
    if not listing.flat:
        for name in listing.loose:
            listing.ignore(name)
    return listing, index


def _scan_folder(folder: Path) -> Listing:
    listing = Listing()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                listing.ignore(entry.name)
            elif entry.is_dir():
                listing.files[entry.name] = list(_images_of(entry, listing))
            elif is_image(entry.name):
                listing.loose.append(entry.name)
            else:
                listing.ignore(entry.name)
    return listing


def _images_of(folder: os.DirEntry[str], listing: Listing) -> Iterator[str]:
    with os.scandir(folder.path) as entries:
        for entry in entries:
            if is_image(entry.name):
                yield entry.name
            else:
                listing.ignore(f"{folder.name}/{entry.name}")


def _scan_tar(index: TarIndex, split: str, whole: bool) -> Listing:
    """Sort an archive's entries into classes. With `whole`, it holds other splits too, which are passed over."""
    names = list(index.names)
    prefix = _prefix(names, split, whole)
    listing = Listing()
    for row, (name, size) in enumerate(zip(names, index.sizes.tolist(), strict=True)):
        if name.startswith(prefix):
            _place(listing, name.removeprefix(prefix), row, size)
        elif size != FOLDER and not whole:
            listing.ignore(name)
    return listing


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


def _place(listing: Listing, name: str, row: int, size: int) -> None:
    """Enter one entry of an archive."""
    folder, _, file = name.rpartition("/")
    if size == FOLDER:
        if name and not folder and not is_hidden(name):
            listing.files.setdefault(name, [])
    elif not is_image(name) or "/" in folder:
        listing.ignore(name)
    else:
        (listing.files.setdefault(folder, []) if folder else listing.loose).append(file)
        listing.rows[name] = row


def _sort_by_labels(loose: list[str], labels: Path) -> dict[str, list[str]]:
    """Classes of a flat split by `labels`, a CSV file with the columns file and class.

    Raises:
        FileError: as `lska.files.read_table`, a file stands there twice, or a class cannot be a folder.
        DataError: images and lines do not match one to one.
    """
    rows = read_table(labels, ("file", "class"), key="file")
    wrong = [(number, problem) for number, row in rows if (problem := name_problem(row["class"])) is not None]
    if wrong:
        number, problem = wrong[0]
        raise DataError(f"{labels}: line {number}: class: {problem}")
    classes = {row["file"]: row["class"] for _, row in rows}
    unnamed, absent = sorted(set(loose) - set(classes)), sorted(set(classes) - set(loose))
    if unnamed or absent:
        raise DataError(
            f"{labels}: expected one line per image. Images without a line: {shown(unnamed)}. Lines without an image: "
            f"{shown(absent)}. Complete the file or the images"
        )
    files: dict[str, list[str]] = {}
    for file in loose:
        files.setdefault(classes[file], []).append(file)
    return files


def _no_classes(root: Path, split: str, source: Path, listing: Listing) -> str:
    other = listing.ignored - listing.archives
    found = f"{len(listing.loose):,} images, {listing.archives:,} tar files and {other:,} other entries"
    text = f"{source} has no class folders: expected {split}/<class>/<image>, found {found}"
    if listing.loose:
        return f"{text}, first {min(listing.loose)!r}. {_how_to_sort(root, split, source, min(listing.loose))}"
    if listing.archives and source.is_dir():
        unpack = 'for f in *.tar; do mkdir "${f%.tar}" && tar -xf "$f" -C "${f%.tar}"; done'
        return f"{text}. Unpack one folder per class: cd {shlex.quote(str(source))} && {unpack}"
    return f"{text}, first {shown(listing.ignored_names)}. Check that this is the right data root"


def _how_to_sort(root: Path, split: str, source: Path, first: str) -> str:
    """What to do about a flat split; for ImageNet's validation images with the commands."""
    labels = f"write {root / f'{split}_labels.csv'} with the columns file,class (the images then stay where they are)"
    if not first.startswith("ILSVRC2012_val_"):
        return f"Move each image into a folder named after its class, or {labels}"
    code = f"from torchvision.datasets import ImageNet; ImageNet({str(root)!r}, split='val')"
    unpack = (
        "These are ImageNet's validation images as distributed, without classes. With ILSVRC2012_img_val.tar and "
        f"ILSVRC2012_devkit_t12.tar.gz in {root} and no folder 'val' there, `{shlex.join(['python', '-c', code])}` "
        f"sorts them into {root / 'val'}/<wnid>/ by the development kit's ground truth"
    )
    inside = f"; or run the usual valprep.sh inside {source}, which moves each image into its wnid's folder"
    return f"{unpack}{inside if source.is_dir() else ''}; or {labels}"
