"""Archives of data sets, unpacked once into a cache that may be deleted at any time."""

from __future__ import annotations

import gzip
import hashlib
import logging
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO

from lska.data.archives import CHUNK, inside, stem
from lska.data.entries import FOLDER, DataError, Members, is_hidden
from lska.data.tars import tar_entries
from lska.files import WriteError, open_regular, quoted, replaced_folder, writing

logger = logging.getLogger(__name__)

# What the standard library raises on archives that are damaged, cut off, encrypted or packed by an unknown method.
DAMAGE = (
    zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError,
)  # fmt: skip


def unpacked(archive: Path, cache: Path, rename: Mapping[str, str] | None = None) -> Path:
    """The folder below `cache` that holds the content of `archive` (.tar, .tar.gz, .tgz, .zip), unpacked where it is
    not yet.

    The folder appears complete or not at all, so an interrupted call is simply repeated; of two calls at once, one
    folder is kept. Its name is made of the archive's path, size and modification time: a replaced archive is unpacked
    anew. Hidden files, and what macOS and Windows add, are left out.

    Args:
        rename: names that folders of the archive get; those inside the only outer folder, where it has one.

    Raises:
        DataError: the archive is damaged or incomplete, holds what `lska.data.entries.Members` refuses, lacks a folder
            of `rename`, or there is no room for it.
        FileError: it is missing or no regular file.
        WriteError: the cache cannot be written.
    """
    folder = cache / f"{stem(archive.name)}-{_key(archive, rename or {})}"
    if folder.is_dir():
        return folder
    try:
        with replaced_folder(folder) as partial:
            logger.info("unpacking %s into %s", archive, folder)
            _extract(archive, partial)
            _rename(archive, partial, rename or {})
            if folder.is_dir():
                raise _FasterError
    except _FasterError:
        logger.info("another process unpacked %s meanwhile", archive)
    return folder


class _FasterError(Exception):
    """Another process was faster; its folder is as good, and may be in use."""


def _key(archive: Path, rename: Mapping[str, str]) -> str:
    status = archive.stat()
    text = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}" + (f"\0{dict(rename)}" if rename else "")
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _extract(archive: Path, folder: Path) -> None:
    name = archive.name.lower()
    with open_regular(archive) as stream:
        members = Members(str(archive), os.fstat(stream.fileno()).st_size)
        try:
            if name.endswith(".zip"):
                _extract_zip(stream, members, folder)
            elif name.endswith(".tar"):
                _extract_tar(stream, members, folder)
            else:
                with gzip.open(stream) as content:
                    _extract_tar(content, members, folder)
            members.require_some()
        except (DataError, WriteError):
            raise
        except (*DAMAGE, OSError) as error:
            raise DataError(
                f"{archive} cannot be unpacked ({error}): it is damaged or incomplete; get it again"
            ) from error


def _extract_tar(stream: BinaryIO, members: Members, folder: Path) -> None:
    """Read through a tar file first, which shows whether it is whole and how large its content is."""
    entries = list(tar_entries(stream, members, nested=False))
    while stream.read(CHUNK):  # up to the checksum of a compressed file, at its end
        pass
    _require_room(members, folder, sum(max(0, size) for _, _, size in entries))
    for name, offset, size in entries:
        stream.seek(offset)
        _write(stream, folder, name, size)


def _extract_zip(stream: BinaryIO, members: Members, folder: Path) -> None:
    with zipfile.ZipFile(stream) as packed:
        entries = [(members.take(one.orig_filename, *_size_and_kind(one)), one) for one in packed.infolist()]
        # Decompression stops at the stated size and compares the checksum, so that it cannot be exceeded.
        _require_room(members, folder, sum(one.file_size for _, one in entries))
        for name, one in entries:
            with packed.open(one) as content:
                _write(content, folder, name, FOLDER if one.is_dir() else one.file_size)


def _size_and_kind(entry: zipfile.ZipInfo) -> tuple[int, str | None]:
    mode = stat.S_IFMT(entry.external_attr >> 16)
    if mode == stat.S_IFLNK:
        return entry.file_size, "a symbolic link"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return entry.file_size, "neither file nor folder"
    return (FOLDER if entry.is_dir() else entry.file_size), None


def _write(content: IO[bytes], folder: Path, name: str, size: int) -> None:
    """Write the next `size` bytes as the file `name` below `folder`, or make that folder; nothing that is hidden."""
    if is_hidden(name):
        return
    path = folder / name
    with writing(path):
        (path if size == FOLDER else path.parent).mkdir(parents=True, exist_ok=True)
        if size != FOLDER:
            # Where names that differ only by case are one, the second must not replace the first.
            with path.open("xb") as target:
                for chunk in _chunks(content, name, size):
                    target.write(chunk)


def _chunks(content: IO[bytes], name: str, size: int) -> Iterator[bytes]:
    while size > 0:
        try:
            chunk = content.read(min(size, CHUNK))
        except OSError as error:  # not of writing, which is around this
            raise EOFError(f"{quoted(name)} cannot be read: {error}") from error
        if not chunk:
            raise EOFError(f"{quoted(name)} is cut off")
        yield chunk
        size -= len(chunk)


def _require_room(members: Members, folder: Path, size: int) -> None:
    free, cache = shutil.disk_usage(folder).free, folder.parents[1]
    if size > free:
        raise DataError(
            f"{members.archive} unpacks to {size / 1e9:,.1f} GB and {cache} has room for {free / 1e9:,.1f} GB: "
            "make room, or unpack it elsewhere and point the data root there; if it should be far smaller, get a sound "
            "copy"
        )


def _rename(archive: Path, folder: Path, rename: Mapping[str, str]) -> None:
    base = inside(folder)
    for old, new in rename.items():
        there = [name for name in (old, new) if (base / name).is_dir()]
        if len(there) == 2:
            raise DataError(f"{archive} has both {old!r} and {new!r}: expected one of them; get the original archive")
        if not there:
            raise DataError(f"{archive} has no folder {old!r}: expected it to become {new!r}; get the original archive")
        (base / there[0]).rename(base / new)
