"""Where the files of a detection or segmentation set lie: in a folder, or in a tar file that is unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.data.dense_manifest import DenseManifest
from lska.data.folders import DataError
from lska.data.layouts import shown
from lska.data.unpack import unpacked


def data_folder(manifest: DenseManifest, root: Path, cache: Path) -> Path:
    """The folder that the manifest's paths start from.

    That is `root/<folder>` or `root` itself, whichever holds the images of a split, or else the same inside
    `root/<archive>` (or `root` where it is a tar file itself), unpacked into `cache`.

    Raises:
        DataError: none of them is there, or the archive is damaged; says what was expected and what lies there.
    """
    found = _holding(manifest, root)
    if found is not None:
        return found
    archive = root if root.is_file() else root / str(manifest.archive)
    if archive.is_file():
        content = unpacked(archive, cache)
        found = _holding(manifest, content)
        if found is None:
            raise DataError(f"{archive} does not hold {manifest.name}: expected {_wanted(manifest)}, {_there(content)}")
        return found
    alternative = f", or {manifest.archive}" if manifest.archive else ""
    raise DataError(
        f"data root '{root.absolute()}' does not hold {manifest.name}: expected {_wanted(manifest)}{alternative}, "
        f"{_there(root)}; correct the data root in the configuration (one level up or down?) or mount the data set"
    )


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
