"""Where the images of a data set are read: at its root as they lie there, or in an archive there that is unpacked.

A root is never written to; what has to be unpacked goes into a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lska.data.archives import Archive, inside, packed, unpacked
from lska.data.entries import DataError, is_hidden, lying_at
from lska.data.folders import Split, open_split
from lska.data.manifest import IMAGES, LABELS, DenseManifest, load_manifest
from lska.settings.schema import DataSource
from lska.settings.tasks import ScaleData


def archives_of(data: DataSource) -> tuple[Archive, ...]:
    """The archives that a data set is distributed as; none where it is generated or its manifest lists none."""
    listed = data.generate is None and data.manifest_file.is_file()
    return load_manifest(data.manifest_file, None).archives if listed else ()


def open_classification(data: ScaleData, split: str) -> Split:
    """Open a split of a scale's classification set; DataError as `open_split` and `unpacked`."""
    return open_split(split_root(Path(data.root), archives_of(data), split, data.cache), split)


def _holding(
    root: Path, holds: Callable[[Path], Path | None], archives: Sequence[Archive], cache: Path, *more: str
) -> Path | None:
    """What `holds` finds at `root`, or else in the archive there (one of `archives`, or named as in `more`)."""
    if (found := holds(root)) is not None:
        return found
    if (archive := packed(root, archives, *more)) is None:
        return None
    content = unpacked(archive[0], cache, archive[1].rename)
    return holds(content) or holds(inside(content)) or inside(content)


def split_root(root: Path, archives: Sequence[Archive], split: str, cache: Path) -> Path:
    """The folder that holds the folder `split` of class folders: `root`, or an archive there, or `<split>.tar`.

    Where there is none, `root` itself, about which `open_split` then complains. Raises as `unpacked`.
    """
    found = _holding(root, lambda folder: folder if (folder / split).is_dir() else None, archives, cache)
    if found is None and (root / f"{split}.tar").is_file():
        found = unpacked(root / f"{split}.tar", cache, into=split)
        found = found / split if (found / split / split).is_dir() else found
    return found or root


def class_root(root: Path, archives: Sequence[Archive], cache: Path) -> Path:
    """The folder of class folders: `root`, or an archive in it, or a tar file of its name beside it."""
    beside = root.with_name(f"{root.name}.tar")
    if root.is_dir() and any(one.is_dir() and not is_hidden(one.name) for one in root.iterdir()):
        return root
    found = packed(root, archives) or (packed(beside, ()) if beside.is_file() else None)
    return root if found is None else inside(unpacked(found[0], cache, found[1].rename))


def texture_folder(root: Path) -> Path:
    """The folder of a texture set, with `images` and `labels`: `root`, or `dtd` in it; DataError says what lies there.
    """
    if (found := _textures(Path(root))) is not None:
        return found
    raise DataError(
        f"data root '{root.absolute()}' holds no texture set: expected the folders {IMAGES} and {LABELS}, or dtd with "
        f"them, {lying_at(root)}; unpack the archive there, or correct the data root in the configuration"
    )


def texture_root(root: Path, archives: Sequence[Archive], cache: Path) -> Path:
    """As `texture_folder`, also in an archive at `root`."""
    return texture_folder(_holding(root, _textures, archives, cache) or root)


def _textures(root: Path) -> Path | None:
    folders = (root, root / "dtd")
    return next((one for one in folders if (one / IMAGES).is_dir() and (one / LABELS).is_dir()), None)


def dense_root(manifest: DenseManifest, root: Path, cache: Path) -> Path:
    """The folder that the paths of a detection or segmentation manifest start from.

    That is `root/<folder>` or `root` itself, whichever holds the images of a split, or else the same in an archive.
    Raises DataError, which says what was expected and what lies there.
    """
    prefix = f"{manifest.folder}/" if manifest.folder else ""
    images = [split.images for split in manifest.splits.values()]
    own = [] if manifest.archive is None else [manifest.archive]

    def holds(folder: Path) -> Path | None:
        bases = (base for base in (folder / prefix, folder) if any((base / one).is_dir() for one in images))
        return next(bases, None)

    found = _holding(root, holds, manifest.archives, cache, *own)
    if found is not None and holds(found) is not None:
        return found
    wanted = [*(f"{prefix}{folder}" for folder in images), *own]
    wanted += [one.file + " unpacked by hand" * one.by_hand for one in manifest.archives]
    raise DataError(
        f"data root '{root.absolute()}' does not hold {manifest.name}: expected {' or '.join(dict.fromkeys(wanted))}, "
        f"{lying_at(found or root)}; correct the data root in the configuration (one level up or down?) or mount the "
        "data set"
    )
