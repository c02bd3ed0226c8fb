"""Archives of data sets, unpacked once into a cache that may be deleted at any time."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lska.data.archives import CHUNK, inside, stem
from lska.data.tars import DataError, index_tar, tar_entries

logger = logging.getLogger(__name__)

ABANDONED = 86400  # seconds after which an unfinished folder is certainly nobody's any more


def unpacked(archive: Path, cache: Path, rename: Mapping[str, str] | None = None) -> Path:
    """The folder below `cache` that holds the content of `archive` (.tar, .tar.gz, .tgz, .zip), unpacked where it is
    not yet.

    The folder appears complete or not at all, so an interrupted call is simply repeated; of two calls at once, one
    folder is kept. Its name is made of the archive's path, size and modification time: a replaced archive is unpacked
    anew. Entries that would be written outside the folder are refused.

    Args:
        rename: names that folders of the archive get; those inside the only outer folder, where it has one.

    Raises:
        DataError: the archive is damaged or incomplete, holds an unsafe entry, lacks a folder of `rename`, or there is
            no room for it.
    """
    folder = cache / f"{stem(archive.name)}-{_key(archive, rename or {})}"
    if folder.is_dir():
        return folder
    partial = cache / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        logger.info("unpacking %s into %s", archive, folder)
        _extract(archive, partial)
        _rename(archive, partial, rename or {})
        _put(partial, folder)
    except OSError as error:
        raise DataError(
            f"{archive} could not be unpacked into {cache} ({error}); make room or correct the permissions there"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _key(archive: Path, rename: Mapping[str, str]) -> str:
    status = archive.stat()
    text = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}" + (f"\0{dict(rename)}" if rename else "")
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _extract(archive: Path, folder: Path) -> None:
    name = archive.name.lower()
    if name.endswith(".zip"):
        _extract_zip(archive, folder)
    elif name.endswith((".tar.gz", ".tgz")):
        _extract_gzip(archive, folder)
    else:
        index = index_tar(archive)  # tarfile itself takes a truncated archive for a short one
        _require_room(archive, folder, int(index.sizes[index.sizes > 0].sum()))
        _extract_tar(archive, folder, "r:")


def _extract_tar(archive: Path, folder: Path, mode: str) -> None:
    folder.mkdir()
    try:
        with tarfile.open(archive, mode=mode) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise _unsafe(archive, str(error)) from error


def _extract_gzip(archive: Path, folder: Path) -> None:
    """Read through a compressed tar file first, which shows whether it is whole and how large its content is."""
    try:
        with gzip.open(archive) as stream:
            size = sum(max(0, size) for _, _, size in tar_entries(stream, str(archive), nested=False))
            while stream.read(CHUNK):  # up to the checksum at the end
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(archive, str(error)) from error
    except DataError as error:
        # What is decompressed is no tar file, before a checksum could tell.
        raise _damaged(archive, str(error.__cause__)) from error
    _require_room(archive, folder, size)
    _extract_tar(archive, folder, "r:gz")


def _extract_zip(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
            for entry in entries:
                _require_inside(archive, entry.filename)
            # Decompression stops at the stated size and compares the checksum, so that it cannot be exceeded.
            _require_room(archive, folder, sum(entry.file_size for entry in entries))
            folder.mkdir()
            packed.extractall(folder)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise _damaged(archive, str(error)) from error
    except RuntimeError as error:
        raise _damaged(archive, f"{error}") from error  # encrypted


def _require_inside(archive: Path, name: str) -> None:
    """Refuse what zipfile itself would write under another name than the stated one."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
        raise _unsafe(archive, f"{name!r} would be extracted outside the destination")


def _require_room(archive: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise DataError(
            f"{archive} unpacks to {size / 1e9:,.1f} GB and {folder.parent} has room for {free / 1e9:,.1f} GB: make "
            "room, or unpack it elsewhere and point the data root there; if it should be far smaller, get a sound copy"
        )


def _unsafe(archive: Path, reason: str) -> DataError:
    return DataError(f"{archive} cannot be unpacked safely ({reason}); remove that entry or get a clean copy")


def _damaged(archive: Path, reason: str) -> DataError:
    return DataError(f"{archive} cannot be unpacked ({reason}): it is damaged or incomplete; get it again")


def _rename(archive: Path, folder: Path, rename: Mapping[str, str]) -> None:
    base = inside(folder)
    for old, new in rename.items():
        if (base / old).is_dir():
            (base / old).rename(base / new)
        elif not (base / new).is_dir():
            raise DataError(f"{archive} has no folder {old!r}: expected it to become {new!r}; get the original archive")


def _put(partial: Path, folder: Path) -> None:
    try:
        partial.replace(folder)
    except OSError:
        # Another process was faster, and its folder is as good.
        if not folder.is_dir():
            raise


def _remove_abandoned(cache: Path) -> None:
    """Remove what killed processes left behind."""
    for partial in cache.glob(".*.partial"):
        # Those of others may be renamed or removed at any moment.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)
