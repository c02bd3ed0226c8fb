"""Where the images of a data set are read: at its root as they lie there, or in an archive there that is unpacked.

A root is never written to; what has to be unpacked goes into a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lska.data.archives import Archive, inside, packed, unpack_by_hand, unpacked
from lska.data.entries import DataError, is_hidden, lying_at
from lska.data.folders import Split, open_split, require_split
from lska.data.manifest import BUNDLED, IMAGES, LABELS, DenseManifest, load_manifest
from lska.settings.sections import DataSource
from lska.settings.tasks import CORRUPTED, ScaleData


def archives_of(data: DataSource) -> tuple[Archive, ...]:
    """The archives that a data set is distributed as; none where it is generated or its manifest lists none."""
    path = Path(data.manifest) if data.manifest else BUNDLED / f"{data.name}.yaml"
    return load_manifest(path, None).archives if data.generate is None and path.is_file() else ()


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
    require_dense(manifest, root)
    found = _holding(root, lambda folder: _dense(manifest, folder), manifest.archives, cache, *_own(manifest))
    if _dense(manifest, found) is None:
        archive = packed(root, manifest.archives, *_own(manifest))[0]
        raise DataError(f"{archive} does not hold {manifest.name}: expected {_wanted(manifest)}, {lying_at(found)}")
    return found


def require_dense(manifest: DenseManifest, root: Path) -> None:
    """Raise DataError where there is neither folder nor archive that `dense_root` can look into; unpacks nothing."""
    if _dense(manifest, root) is not None or packed(root, manifest.archives, *_own(manifest)) is not None:
        return
    names = dict.fromkeys([*_own(manifest), *(one.file for one in manifest.archives if not one.by_hand)])
    raise DataError(
        f"data root '{root.absolute()}' does not hold {manifest.name}: expected {_wanted(manifest)}"
        f"{''.join(f', or {name}' for name in names)}, {lying_at(root)}{unpack_by_hand(root, manifest.archives)}; "
        "correct the data root in the configuration (one level up or down?) or mount the data set"
    )


def _own(manifest: DenseManifest) -> list[str]:
    return [] if manifest.archive is None else [manifest.archive]


def _dense(manifest: Any, root: Path) -> Path | None:
    bases = [root / manifest.folder, root] if manifest.folder else [root]
    images = [split.images for split in manifest.splits.values()]
    return next((base for base in bases if any((base / folder).is_dir() for folder in images)), None)


def _wanted(manifest: Any) -> str:
    prefix = f"{manifest.folder}/" if manifest.folder else ""
    return " or ".join(dict.fromkeys(f"{prefix}{split.images}" for split in manifest.splits.values()))


def look(kind: str, data: DataSource) -> str | None:
    """Why nothing at the root of a data set that serves `kind` can be opened, neither folders nor an archive, or None.

    Unpacks and reads nothing. Sets of corruptions and of cue conflicts are taken for there where their folder is.
    """
    root = Path(data.root)
    if kind in (*CORRUPTED, "shape_texture"):
        return None
    try:
        if packed(root, archives_of(data)) is not None:
            return None
        if kind in ("detection", "segmentation"):
            require_dense(load_manifest(Path(data.manifest) if data.manifest else data.name, kind), root)
        elif kind == "texture_knn":
            texture_folder(root)
        elif kind == "classification" and not any((root / one).exists() for one in ("train", "train.tar", "val.tar")):
            require_split(root, "val")
    except DataError as error:
        return str(error)
    return None
