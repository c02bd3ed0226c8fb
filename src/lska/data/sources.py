"""Where the images of a data set are read: at its root as they lie there, or in an archive there that is unpacked.

A root is never written to; what has to be unpacked goes into a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lska.data.archives import Archive, inside, packed, read_archives
from lska.data.dense_manifest import MANIFESTS, load_dense_manifest
from lska.data.dense_roots import require
from lska.data.dtd import TextureSet, read_textures, texture_folder
from lska.data.entries import DataError, is_hidden
from lska.data.folders import Split, open_split
from lska.data.layouts import locate
from lska.data.manifest import BUNDLED
from lska.data.unpack import unpacked
from lska.robustness import CORRUPTED
from lska.sections import DataSource

if TYPE_CHECKING:
    from lska.config import Config


def manifest_of(data: DataSource) -> Path | None:
    """The file of a data set's manifest; None for generated sets and those without."""
    path = Path(data.manifest) if data.manifest else BUNDLED / f"{data.name}.yaml"
    return path if data.generate is None and path.is_file() else None


def archives_of(data: DataSource) -> tuple[Archive, ...]:
    """The archives that a data set is distributed as; none where its manifest lists none.

    Raises:
        ValueError: its manifest cannot be read, or an entry is wrong.
    """
    manifest = manifest_of(data)
    return () if manifest is None else read_archives(manifest)


def open_classification(config: Config, split: str) -> Split:
    """Open a split of a scale's classification set, as `lska.data.folders.open_split` and from where `split_root` says.

    Raises:
        DataError: as these.
    """
    data, cache = config.data, config.work / "cache"
    return open_split(split_root(Path(data.root), archives_of(data), ("train", "val"), cache), split, cache)


def open_textures(data: DataSource, cache: Path) -> TextureSet:
    """Read a texture set, as `lska.data.dtd.read_textures` and from where `texture_root` says."""
    return read_textures(texture_root(Path(data.root), archives_of(data), cache))


def split_root(root: Path, archives: Sequence[Archive], splits: Iterable[str], cache: Path) -> Path:
    """The root for `lska.data.folders.open_split`: `root` where one of `splits` lies there, else its archive.

    Plain tar files are read in place, other archives are unpacked into `cache`. Where there is none of both, `root`
    itself, about which `open_split` then complains.

    Raises:
        DataError: as `lska.data.unpack.unpacked`.
    """
    if root.is_dir() and any(has_split(root, split) for split in splits):
        return root
    return _opened(root, archives, cache)


def class_root(root: Path, archives: Sequence[Archive], cache: Path) -> Path:
    """As `split_root`, for a set that is one folder per class: `root`, or what its archive holds."""
    if root.is_dir() and any(entry.is_dir() and not is_hidden(entry.name) for entry in root.iterdir()):
        return root
    return _opened(root, archives, cache)


def texture_root(root: Path, archives: Sequence[Archive], cache: Path) -> Path:
    """As `split_root`, for a texture set."""
    try:
        return texture_folder(root)
    except DataError:
        return _opened(root, archives, cache, in_place=False)


def _opened(root: Path, archives: Sequence[Archive], cache: Path, in_place: bool = True) -> Path:
    found = packed(root, archives)
    if found is None:
        return root
    path, archive = found
    if in_place and path.suffix == ".tar" and not archive.rename:
        return path
    return inside(unpacked(path, cache, archive.rename))


def look(kind: str, data: DataSource) -> str | None:
    """Why nothing at the root of a data set can be opened, neither folders nor an archive; None where something can.

    Unpacks and reads nothing. Sets of corruptions and of cue conflicts are taken for there where their folder is.

    Args:
        kind: what it serves, as `lska.config.Config.sources` says.
    """
    root, archives = Path(data.root), archives_of(data)
    if kind in (*CORRUPTED, "shape_texture"):
        return None
    try:
        if packed(root, archives) is not None:
            return None
        if kind in MANIFESTS:
            require(load_dense_manifest(kind, Path(data.manifest) if data.manifest else data.name), root)
        elif kind == "texture_knn":
            texture_folder(root)
        elif kind == "classification" and not has_split(root, "train"):
            locate(root, "val")
    except DataError as error:
        return str(error)
    return None


def has_split(root: Path, split: str) -> bool:
    """Whether a split lies at `root` in one of the layouts that are read in place."""
    try:
        locate(root, split)
    except DataError:
        return False
    return True
