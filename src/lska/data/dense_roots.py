"""Where the files of a detection or segmentation set lie: in a folder, or in an archive that is unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.data.archives import inside, packed, unpack_by_hand
from lska.data.dense_manifest import DenseManifest
from lska.data.folders import DataError
from lska.data.layouts import shown
from lska.data.unpack import unpacked


def data_folder(manifest: DenseManifest, root: Path, cache: Path) -> Path:
    """The folder that the manifest's paths start from.

    That is `root/<folder>` or `root` itself, whichever holds the images of a split, or else the same inside an archive,
    or the only folder in it, unpacked into `cache`: `root` itself, or one in it that the manifest names.

    Raises:
        DataError: none of them is there, or the archive is damaged; says what was expected and what lies there.
    """
    found = _holding(manifest, root)
    if found is not None:
        return found
    require(manifest, root)
    archive, known = packed(root, manifest.archives, *_own(manifest))
    content = unpacked(archive, cache, known.rename)
    found = _holding(manifest, content) or _holding(manifest, inside(content))
    if found is None:
        raise DataError(f"{archive} does not hold {manifest.name}: expected {_wanted(manifest)}, {_there(content)}")
    return found


def require(manifest: DenseManifest, root: Path) -> None:
    """Make sure that there is a folder or an archive that `data_folder` can look into; unpacks nothing.

    Raises:
        DataError: there is none; says what was expected and what lies there.
    """
    if _holding(manifest, root) is not None or packed(root, manifest.archives, *_own(manifest)) is not None:
        return
    names = [*_own(manifest), *(one.file for one in manifest.archives if not one.by_hand)]
    alternative = "".join(f", or {name}" for name in dict.fromkeys(names))
    raise DataError(
        f"data root '{root.absolute()}' does not hold {manifest.name}: expected {_wanted(manifest)}{alternative}, "
        f"{_there(root)}{unpack_by_hand(root, manifest.archives)}; correct the data root in the configuration (one "
        "level up or down?) or mount the data set"
    )


def _own(manifest: DenseManifest) -> list[str]:
    return [] if manifest.archive is None else [manifest.archive]


def existing_folder(folder: Path) -> Path:
    """`folder` itself; raises DataError where it is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: expected a folder; restore it or correct the data root")
    return folder


def _holding(manifest: DenseManifest, root: Path) -> Path | None:
    bases = [root / manifest.folder, root] if manifest.folder else [root]
    splits: list[Any] = list(manifest.splits.values())
    return next((base for base in bases if any((base / split.images).is_dir() for split in splits)), None)


def _wanted(manifest: DenseManifest) -> str:
    prefix = f"{manifest.folder}/" if manifest.folder else ""
    return " or ".join(dict.fromkeys(f"{prefix}{split.images}" for split in manifest.splits.values()))


def _there(root: Path) -> str:
    try:
        return f"found {shown(sorted(path.name for path in root.iterdir()))}"
    except OSError as error:
        return f"found none ({error.strerror})"
