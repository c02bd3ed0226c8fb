"""Where the images of a data set are read: at its root as they lie there, or in an archive there that is unpacked.

A root is never written to; what has to be unpacked goes into a cache.
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lska.data.entries import DataError, is_hidden, path_problem, wrong_root
from lska.data.folders import Split, list_split, without_empty_class
from lska.data.manifest import (
    IMAGES,
    LABELS,
    SUFFIXES,
    Archive,
    DenseManifest,
    Manifest,
    is_archive,
    load_manifest,
    stem,
)
from lska.provenance.files import WriteError, open_regular, quoted, replaced_folder, writing
from lska.settings.schema import DataSource
from lska.settings.tasks import ScaleData

logger = logging.getLogger(__name__)

CHUNK = 1 << 20

BLOCK = 512
"""Bytes that a tar file is padded to; a block of zeros ends it."""

# What the standard library raises on archives that are damaged, cut off, encrypted or packed by an unknown method.
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError, KeyError, IndexError, OSError,
)  # fmt: skip


def archives_of(data: DataSource) -> tuple[Archive, ...]:
    """The archives that a data set is distributed as; none where it is generated or its manifest lists none."""
    listed = data.generate is None and data.manifest_file.is_file()
    return load_manifest(data.manifest_file, None).archives if listed else ()


def open_classification(data: ScaleData, split: str) -> Split:
    """Open a split of a scale's classification set; DataError as `open_split` and `unpacked`."""
    described = data.generate is None and data.manifest_file.is_file()
    manifest = load_manifest(data.manifest_file) if described else None
    return without_empty_class(list_classification(manifest, Path(data.root), split, data.cache))


def list_classification(manifest: Manifest | None, root: Path, split: str, cache: Path) -> Split:
    """The images of a split at `root`, or in an archive there, as the manifest tells them; also classes without any."""
    if manifest is None:
        return list_split(split_root(root, (), split, cache), split)
    return manifest.list_images(split_root(root, manifest.archives, manifest.folder_of(split), cache), split)


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
    raise wrong_root(root, f"a texture set: expected the folders {IMAGES} and {LABELS}, or dtd with them")


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
    raise wrong_root(found or root, f"{manifest.name}: expected {' or '.join(dict.fromkeys(wanted))}")


# --- Unpacking -------------------------------------------------------------------------------------------------------


def packed(root: Path, archives: Sequence[Archive], *more: str) -> tuple[Path, Archive] | None:
    """The archive that a set lies in, with what is known of it, or None: `root` itself where it is one, or a file in it
    named as one of `archives` or `more`, whichever of `SUFFIXES` it has. Those for a person to unpack do not count.
    """
    candidates = (*archives, *map(Archive, more))
    if root.is_file():
        named = (one for one in candidates if stem(one.file) == stem(root.name))
        return (root, next(named, Archive(root.name))) if is_archive(root.name) else None
    wanted = [one for one in candidates if not one.by_hand]
    places = [(root / name, one) for one in wanted for name in (one.file, *(stem(one.file) + end for end in SUFFIXES))]
    # A dangling link or a pipe is named by who reads it, not taken for absence.
    return next(((path, one) for path, one in places if os.path.lexists(path) and not path.is_dir()), None)


def inside(folder: Path) -> Path:
    """`folder`, or the only folder in it, as archives of repositories have one around everything."""
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def unpacked(archive: Path, cache: Path, rename: Mapping[str, str] | None = None, into: str = "") -> Path:
    """The folder below `cache` that holds the content of `archive`, unpacked where it is not yet.

    It appears complete or not at all, by a name made of the archive's path, size and modification time. Hidden files,
    and what macOS and Windows add, are left out. `rename` gives folders of the archive other names (those in its only
    outer folder, where it has one); everything goes into the folder `into` of the result. Raises DataError: it is
    damaged, holds more than files and folders inside, lacks a folder of `rename`, or there is no room for it;
    FileError: it is no regular file; WriteError: the cache cannot be written.
    """
    from filelock import FileLock

    open_regular(archive).close()
    status = archive.stat()
    text = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    text += (f"\0{dict(rename)}" if rename else "") + into
    folder = cache / f"{stem(archive.name)}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    with writing(folder):
        cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".unpacking.lock"):
        if not folder.is_dir():  # not by another process meanwhile
            logger.info("unpacking %s into %s", archive, folder)
            with replaced_folder(folder) as partial:
                _extract(archive, partial / into)
                for old, new in (rename or {}).items():
                    place = inside(partial)
                    if (place / old).is_dir() == (place / new).is_dir():
                        raise DataError(
                            f"{archive}: expected one of the folders {old!r} and {new!r}; get the original archive"
                        )
                    if (place / old).is_dir():
                        (place / old).rename(place / new)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    """Unpack every member that is data; refuses archives with anything but files and folders inside."""
    folder.mkdir(exist_ok=True)
    suffix = archive.suffix.lower()
    try:
        if suffix == ".zip":
            # Decompression stops at the stated size and compares the checksum.
            with zipfile.ZipFile(archive) as file:
                plain = (0, stat.S_IFREG, stat.S_IFDIR)
                told = [
                    (one, one.orig_filename, one.file_size, stat.S_IFMT(one.external_attr >> 16) in plain)
                    for one in file.infolist()
                ]
                wanted = _wanted(archive, folder, told)
                with writing(folder):
                    file.extractall(folder, wanted)
            return
        with tarfile.open(archive, "r:" if suffix == ".tar" else "r:gz") as file:
            told = [
                (one, one.name, one.size, (one.isreg() or one.isdir()) and one.sparse is None)
                for one in file.getmembers()
            ]
            # tarfile takes a damaged header for the end of the archive; only a block of zeros is one.
            file.fileobj.seek(file.offset)
            if file.fileobj.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(f"no end-of-archive mark at byte {file.offset}")
            while file.fileobj.read(CHUNK):  # up to the checksum of a compressed file
                pass
            wanted = _wanted(archive, folder, told)
            with writing(folder):
                file.extractall(folder, wanted, filter="data")
    except (DataError, WriteError):
        raise
    except DAMAGE as error:
        raise DataError(f"{archive} cannot be unpacked ({error}): it is damaged or incomplete; get it again") from error


def _wanted(archive: Path, folder: Path, members: list[tuple[Any, str, int, bool]]) -> list[Any]:
    """The members that are data, from each with its name, its size in bytes, and whether it is a file or folder."""
    wanted, size, seen = [], 0, set()
    for member, name, length, plain in members:
        path = posixpath.normpath(name) + "/" * name.endswith("/")
        problem = path_problem(name.removesuffix("\r")) if plain else "is neither file nor folder"  # macOS's `Icon\r`
        if problem or path in seen:
            raise DataError(
                f"{archive} cannot be used safely: its member {quoted(name)} {problem or 'is there twice'}; get a "
                "sound copy, or pack the files and folders of the data set anew"
            )
        seen.add(path)
        size += max(length, 0)
        wanted += [] if is_hidden(path) else [member]
    free = shutil.disk_usage(folder).free
    if not seen:
        raise DataError(f"{archive} holds no files: it is damaged or another file; get it again")
    if size > free:
        raise DataError(
            f"{archive} unpacks to {size / 1e9:,.1f} GB and the cache has room for {free / 1e9:,.1f} GB: make room, "
            "or unpack it elsewhere and point the data root there; if it should be far smaller, get a sound copy"
        )
    return wanted
