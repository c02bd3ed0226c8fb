"""Archives of data sets, unpacked once into a cache that may be deleted at any time, and what no archive may hold."""

from __future__ import annotations

import gzip
import hashlib
import logging
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from lska.data.archives import CHUNK, inside, stem
from lska.data.entries import DataError, is_hidden, path_problem
from lska.provenance.files import WriteError, open_regular, quoted, replaced_folder, writing

logger = logging.getLogger(__name__)

FOLDER = -1
"""Size of a folder among the members of an archive."""

MEMBER = 1024
"""Bytes that a member counts for on top of its content, as names and headers take room too."""

RATIO = 100
"""How many times its own size an archive may hold. Images hardly shrink, and annotations to a tenth."""

SMALL = 100_000_000
"""Bytes that an archive may hold whatever its own size."""

BLOCK = 512
"""Bytes that a tar file is padded to; a block of zeros ends it."""

HEADER = 1 << 20
"""Bytes that a tar file's header may have, for long names and the like; damaged ones ask for any number."""

# What the standard library raises on archives that are damaged, cut off, encrypted or packed by an unknown method;
# numbers and recursion have no bounds of their own in its reading of tar files.
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError, KeyError, IndexError,
)  # fmt: skip


class _FasterError(Exception):
    """Another process was faster; its folder is as good, and may be in use."""


def unpacked(archive: Path, cache: Path, rename: Mapping[str, str] | None = None) -> Path:
    """The folder below `cache` that holds the content of `archive` (.tar, .tar.gz, .tgz, .zip), unpacked where it is
    not yet.

    The folder appears complete or not at all, so an interrupted call is simply repeated; of two calls at once, one
    folder is kept. Its name is made of the archive's path, size and modification time: a replaced archive is unpacked
    anew. Hidden files, and what macOS and Windows add, are left out.

    Args:
        rename: names that folders of the archive get; those inside the only outer folder, where it has one.

    Raises:
        DataError: the archive is damaged or incomplete, holds what `Members` refuses, lacks a folder of `rename`, or
            there is no room for it.
        FileError: it is missing or no regular file.
        WriteError: the cache cannot be written.
    """
    status = archive.stat()
    text = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}" + (f"\0{dict(rename)}" if rename else "")
    folder = cache / f"{stem(archive.name)}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}"
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


class Members:
    """The members of one archive, taken one by one: files and folders only, inside, each once, and not too much.

    Archives of data sets need no links, devices or sparse files, and those are the ways out of a folder.
    """

    def __init__(self, archive: str, size: int) -> None:
        """Begin with an archive, by its name for messages and its size in bytes."""
        self.archive = archive
        self.content = 0
        """Bytes of all files so far."""
        self._size = size
        self._kinds: dict[str, bool] = {}
        """Whether each path is a folder."""
        self._number = 0

    def take(self, name: str, size: int, other: str | None = None, folder: str = "") -> str:
        """The name of the next member without empty and `.` parts; empty for the folder around everything.

        Args:
            size: bytes of its content, or `FOLDER`.
            other: what it is, such as "a symbolic link", where it is neither file nor folder.
            folder: that the name starts from, with a slash at its end: of an archive within.

        Raises:
            DataError: it is something else, its name leads out of the folder or was there before, or the archive holds
                far more than it can.
        """
        path = "/".join(part for part in (folder + name).split("/") if part not in ("", "."))
        hidden = is_hidden(path)
        problem = f"is {other}" if other else path_problem(name, hidden)
        if problem is None and size < FOLDER:
            problem = f"has the size {size}"
        if problem is None and path and not hidden:
            problem = self._enter(path, size == FOLDER)
        if problem:
            raise DataError(
                f"{self.archive} cannot be used safely: its member {quoted(folder + name)} {problem}; get a sound "
                "copy, or pack the files and folders of the data set anew"
            )
        self._number += 1
        self.content += max(size, 0)
        if self.content + MEMBER * self._number > max(RATIO * self._size, SMALL):
            raise DataError(
                f"{self.archive}: its {self._size:,} bytes hold {self.content:,} bytes in the first {self._number:,} "
                f"members, expected at most {RATIO} times its size (or {SMALL:,} bytes; each member counts {MEMBER:,} "
                "more): get a sound copy, or unpack it by hand if it is one"
            )
        return path

    def require_some(self) -> None:
        """Raise DataError if there was no member: some Pythons pass over headers that they cannot read."""
        if not self._number:
            raise DataError(f"{self.archive} holds no files: it is damaged or another file; get it again")

    def _enter(self, path: str, is_folder: bool) -> str | None:
        """Note a path and the folders around it; why it cannot be there beside the others."""
        if not is_folder and path in self._kinds:
            return "is a file and a folder" if self._kinds[path] else "is there twice"
        self._kinds.setdefault(path, is_folder)
        while path:
            if not self._kinds.setdefault(path, True) and is_folder:
                return f"needs a folder where the file {quoted(path)} is"
            path, is_folder = path.rpartition("/")[0], True
        return None


def tar_members(
    stream: IO[bytes], members: Members, within: str = ""
) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """Yield each member of a tar file with its name, as `members` takes it, and the open file.

    Args:
        within: name of the tar file in that of `members` that `stream` is.

    Raises:
        DataError: the file is not a tar archive, or it is truncated; names it. Or as `Members.take`.
    """
    folder = f"{within.removesuffix('.tar')}/" if within else ""
    try:
        with tarfile.open(fileobj=_Headers(stream), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # else tarfile keeps about 1 KB per entry
                size = FOLDER if member.isdir() else member.size
                yield members.take(member.name, size, _other(member), folder), member, tar
            # tarfile takes a damaged header for the end of the archive; only a zero block is one.
            stream.seek(tar.offset)
            if stream.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(f"no end-of-archive mark at byte {tar.offset}")
    except DataError:
        raise
    except DAMAGE as error:
        place = f"{members.archive}:{within}" if within else members.archive
        raise DataError(
            f"{place} cannot be read as a tar archive ({error}): it is damaged or incomplete; get it again, or "
            "decompress it (`gunzip`, `xz -d`) if it is a compressed one by the name of .tar"
        ) from error


class _Headers:
    """A stream for tarfile, which reads only headers: one that asks for more at once than any can have is damaged."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell
        self.seekable = stream.seekable

    def read(self, size: int) -> bytes:
        if not 0 <= size <= HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _other(member: tarfile.TarInfo) -> str | None:
    """What a member is that is neither file nor folder."""
    if member.sparse is not None:
        return "a sparse file"
    if member.isreg() or member.isdir():
        return None
    kinds = {
        tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a named pipe",
        tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    }  # fmt: skip
    return kinds.get(member.type, f"of the unknown type {member.type!r}")


def _extract(archive: Path, folder: Path) -> None:
    with open_regular(archive) as stream:
        members = Members(str(archive), os.fstat(stream.fileno()).st_size)
        try:
            if archive.name.lower().endswith(".zip"):
                _extract_zip(stream, members, folder)
            elif archive.name.lower().endswith(".tar"):
                _extract_tar(stream, members, folder)
            else:
                with gzip.open(stream) as content:
                    _extract_tar(content, members, folder)
        except (DataError, WriteError):
            raise
        except (*DAMAGE, OSError) as error:
            raise DataError(
                f"{archive} cannot be unpacked ({error}): it is damaged or incomplete; get it again"
            ) from error


def _extract_tar(stream: IO[bytes], members: Members, folder: Path) -> None:
    """Read through a tar file first, which shows whether it is whole and how large its content is."""
    for _ in tar_members(stream, members):
        pass
    while stream.read(CHUNK):  # up to the checksum of a compressed file, at its end
        pass
    _require_room(members, folder)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar, writing(folder):
        wanted = [member for member in tar if not is_hidden(os.path.normpath(member.name))]
        tar.extractall(folder, wanted, filter="data")


def _extract_zip(stream: IO[bytes], members: Members, folder: Path) -> None:
    with zipfile.ZipFile(stream) as packed:
        names = []
        for one in packed.infolist():
            kind = stat.S_IFMT(one.external_attr >> 16)
            other = {0: None, stat.S_IFREG: None, stat.S_IFDIR: None, stat.S_IFLNK: "a symbolic link"}
            size = FOLDER if one.is_dir() else one.file_size
            names.append(members.take(one.orig_filename, size, other.get(kind, "neither file nor folder")))
        # Decompression stops at the stated size and compares the checksum, so that it cannot be exceeded.
        _require_room(members, folder)
        with writing(folder):
            members_shown = zip(packed.infolist(), names, strict=True)
            packed.extractall(folder, [one for one, name in members_shown if not is_hidden(name)])


def _require_room(members: Members, folder: Path) -> None:
    members.require_some()
    free, cache = shutil.disk_usage(folder).free, folder.parents[1]
    if members.content > free:
        raise DataError(
            f"{members.archive} unpacks to {members.content / 1e9:,.1f} GB and {cache} has room for "
            f"{free / 1e9:,.1f} GB: make room, or unpack it elsewhere and point the data root there; if it should be "
            "far smaller, get a sound copy"
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
