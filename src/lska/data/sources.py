"""Where the images of a data set are read: at its root as they lie there, or in an archive there that is unpacked.

A root is never written to; what has to be unpacked goes into a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.data.archives import Archive, inside, packed, read_archives, unpack_by_hand
from lska.data.dtd import TextureSet, read_textures, texture_folder
from lska.data.entries import DataError, is_hidden, lying_at
from lska.data.folders import Split, locate, open_split
from lska.data.manifest import BUNDLED, DenseManifest, load_manifest
from lska.data.unpack import unpacked
from lska.settings.perturbed_sets import CORRUPTED
from lska.settings.sections import DataSource

if TYPE_CHECKING:
    from lska.settings.scale import Config


def archives_of(data: DataSource) -> tuple[Archive, ...]:
    """The archives that a data set is distributed as; none where it is generated or its manifest lists none.

    Raises:
        ValueError: its manifest cannot be read, or an entry is wrong.
    """
    path = Path(data.manifest) if data.manifest else BUNDLED / f"{data.name}.yaml"
    return read_archives(path) if data.generate is None and path.is_file() else ()


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


def dense_root(manifest: DenseManifest, root: Path, cache: Path) -> Path:
    """The folder that the paths of a detection or segmentation manifest start from.

    That is `root/<folder>` or `root` itself, whichever holds the images of a split, or else the same inside an archive,
    or the only folder in it, unpacked into `cache`: `root` itself, or one in it that the manifest names.

    Raises:
        DataError: none of them is there, or the archive is damaged; says what was expected and what lies there.
    """
    if (found := _holding(manifest, root)) is not None:
        return found
    require_dense(manifest, root)
    archive, known = packed(root, manifest.archives, *_own(manifest))
    content = unpacked(archive, cache, known.rename)
    found = _holding(manifest, content) or _holding(manifest, inside(content))
    if found is None:
        raise DataError(f"{archive} does not hold {manifest.name}: expected {_wanted(manifest)}, {lying_at(content)}")
    return found


def require_dense(manifest: DenseManifest, root: Path) -> None:
    """Make sure that there is a folder or an archive that `dense_root` can look into; unpacks nothing.

    Raises:
        DataError: there is none; says what was expected and what lies there.
    """
    if _holding(manifest, root) is not None or packed(root, manifest.archives, *_own(manifest)) is not None:
        return
    names = [*_own(manifest), *(one.file for one in manifest.archives if not one.by_hand)]
    raise DataError(
        f"data root '{root.absolute()}' does not hold {manifest.name}: expected {_wanted(manifest)}"
        f"{''.join(f', or {name}' for name in dict.fromkeys(names))}, {lying_at(root)}"
        f"{unpack_by_hand(root, manifest.archives)}; correct the data root in the configuration (one level up or "
        "down?) or mount the data set"
    )


def _own(manifest: DenseManifest) -> list[str]:
    return [] if manifest.archive is None else [manifest.archive]


def _holding(manifest: Any, root: Path) -> Path | None:
    bases = [root / manifest.folder, root] if manifest.folder else [root]
    splits = manifest.splits.values()
    return next((base for base in bases if any((base / split.images).is_dir() for split in splits)), None)


def _wanted(manifest: Any) -> str:
    prefix = f"{manifest.folder}/" if manifest.folder else ""
    return " or ".join(dict.fromkeys(f"{prefix}{split.images}" for split in manifest.splits.values()))


def look(kind: str, data: DataSource) -> str | None:
    """Why nothing at the root of a data set can be opened, neither folders nor an archive; None where something can.

    Unpacks and reads nothing. Sets of corruptions and of cue conflicts are taken for there where their folder is.

    Args:
        kind: what it serves, as `lska.settings.scale.Config.sources` says.
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
