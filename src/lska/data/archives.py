"""Archives that data sets are distributed in: how to know them, where they lie, and unpacking them into a cache."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lska.data.entries import DataError, Inside, is_hidden, label_problem, name_problem, path_problem, repeated
from lska.provenance.errors import InputError
from lska.provenance.files import WriteError, open_regular, quoted, replaced_folder, writing
from lska.provenance.strict import AtLeastOne, checked

logger = logging.getLogger(__name__)

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
"""Of archives that can be unpacked."""

SUFFIX = re.compile(r"(?i)\.(tar|tar\.gz|tgz|zip)$")

CHUNK = 1 << 20
"""Bytes that are copied at once."""

BLOCK = 512
"""Bytes that a tar file is padded to; a block of zeros ends it."""

# What the standard library raises on archives that are damaged, cut off, encrypted or packed by an unknown method.
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError, KeyError, IndexError, OSError,
)  # fmt: skip

ArchiveName = Annotated[str, Field(pattern=SUFFIX.pattern), checked(name_problem)]


@dataclass(frozen=True)
class Archive:
    """A file that a data set, or a part of it, is distributed as; None where no source says."""

    file: ArchiveName
    """Name as distributed."""
    url: Annotated[str, checked(label_problem)] | None = None
    """The file itself, or the page from which it can be had, perhaps after registration."""
    bytes: AtLeastOne | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    holds: str | None = None
    """What it unpacks to, in words."""
    rename: dict[Inside, Inside] = field(default_factory=dict)
    """Folders in it by the names that the project has for them, when it is unpacked: `{test: val}`."""
    by_hand: bool = False
    """Whether it is left to a person to unpack: parts of one folder, or too large to be kept twice."""

    def __post_init__(self) -> None:
        if twice := repeated(self.rename.values()):
            raise InputError(f"rename: several folders become {twice[0]!r}, expected a name for each")

    @property
    def direct(self) -> str | None:
        """The address that it can be fetched from without registration, None where there is none."""
        return self.url if self.url is not None and is_archive(self.url) else None

    @property
    def stated(self) -> tuple[str, ...]:
        """What is stated of it by which a file can be told to be this archive: some of bytes, md5, sha256."""
        return tuple(name for name in ("bytes", "md5", "sha256") if getattr(self, name) is not None)

    def problems(self, path: Path) -> list[str]:
        """What tells the file `path` from this archive: size first, and hashes only where that is right."""
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return [f"expected {self.bytes:,} bytes, found {size:,}"]
        found = hashes(path, [name for name in self.stated if name != "bytes"])
        wrong = (name for name in found if found[name] != getattr(self, name))
        return [f"expected {name} {getattr(self, name)}, found {found[name]}" for name in wrong]


def is_archive(name: str) -> bool:
    """Whether a file name or an address is one of an archive that can be unpacked."""
    return SUFFIX.search(name) is not None


def stem(name: str) -> str:
    """A file name without the suffix of an archive: `dtd-r1.0.1` of `dtd-r1.0.1.tar.gz`."""
    return SUFFIX.sub("", name)


def hashes(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Hashes of a file in hexadecimal, by algorithm."""
    found = {}
    for name in algorithms:
        logger.info("computing the %s of %s", name, path)
        with open_regular(path) as stream:
            found[name] = hashlib.file_digest(stream, name).hexdigest()
    return found


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
    outer folder, where it has one); everything goes into the folder `into` of the result.

    Raises:
        DataError: it is damaged, holds more than files and folders inside, lacks a folder of `rename`, or there is no
            room for it. FileError: it is no regular file. WriteError: the cache cannot be written.
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
