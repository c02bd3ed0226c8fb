"""Tar files of data sets, unpacked once into a cache that may be deleted at any time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import time
import uuid
from pathlib import Path

from lska.data.tars import DataError, index_tar

logger = logging.getLogger(__name__)

ABANDONED = 86400  # seconds after which an unfinished folder is certainly nobody's any more


def unpacked(archive: Path, cache: Path) -> Path:
    """The folder below `cache` that holds the content of the plain tar file `archive`, unpacked where it is not yet.

    The folder appears complete or not at all, so an interrupted call is simply repeated; of two calls at once, one
    folder is kept. Its name is made of the archive's path, size and modification time: a replaced archive is unpacked
    anew. Entries that would be written outside the folder are refused.

    Raises:
        DataError: the archive is no complete plain tar file, holds an unsafe entry, or there is no room for it.
    """
    folder = cache / f"{archive.stem}-{_key(archive)}"
    if folder.is_dir():
        return folder
    partial = cache / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        logger.info("unpacking %s into %s", archive, folder)
        _extract(archive, partial)
        _put(partial, folder)
    except OSError as error:
        raise DataError(
            f"{archive} could not be unpacked into {cache} ({error}); make room or correct the permissions there"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _key(archive: Path) -> str:
    status = archive.stat()
    text = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _extract(archive: Path, folder: Path) -> None:
    index_tar(archive)  # tarfile itself takes a truncated archive for a short one
    folder.mkdir()
    try:
        with tarfile.open(archive, mode="r:") as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise DataError(
            f"{archive} cannot be unpacked safely ({error}); remove that entry or get a clean copy"
        ) from error


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
        if time.time() - partial.stat().st_mtime > ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)
