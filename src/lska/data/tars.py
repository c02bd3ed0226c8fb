"""Random access to the files of plain tar archives, without unpacking them."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lska.data.entries import FOLDER, DataError, Members, is_hidden
from lska.files import atomic_path, open_regular

logger = logging.getLogger(__name__)

CACHE_VERSION = 2
BLOCK = 512  # bytes; tar pads everything to it and ends with zero blocks

HEADER = 1 << 20
"""Bytes that tarfile may read at once, for long names and the like; damaged headers ask for any number."""

# What tarfile raises on damaged headers; numbers and recursion have no bounds of their own there.
DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError, MemoryError, KeyError, IndexError)


class Names(Sequence[str]):
    """Immutable sequence of strings in two flat buffers.

    A list of a million file names is a million Python objects, which every forked worker copies page by page as their
    reference counts change, and which take seconds to pickle. This takes the bytes of the names plus 8 each.
    """

    def __init__(self, blob: bytes, ends: np.ndarray) -> None:
        self._blob = blob
        self._ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack `names`; undecodable file names (surrogate escapes) survive."""
        encoded = [os.fsencode(name) for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._blob[start : int(self._ends[index])])

    def arrays(self) -> dict[str, np.ndarray]:
        """The two buffers, for `numpy.savez`."""
        return {"blob": np.frombuffer(self._blob, np.uint8), "ends": self._ends}


@dataclass(frozen=True, eq=False)
class TarIndex:
    """Where each entry of an archive lies: `names` as `Members.take` gives them, `offsets` and `sizes` in bytes.

    Both are int64; the size of a folder is `FOLDER`.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray


def index_tar(path: Path, cache: Path | None = None) -> TarIndex:
    """Index the plain tar file `path`.

    An entry `x.tar` is opened in turn and its content listed under `x/`, which is how ImageNet's own training archive
    is built. Reading the headers of such an archive (150 GB, 1.28 million images) takes minutes, so the index is
    kept in the folder `cache` where one is given, under a name made of the path, size and modification time.

    Raises:
        FileError: the file is missing or no regular file.
        DataError: it is not a plain tar archive, it is truncated, or a member is refused (`lska.data.entries.Members`).
        WriteError: there is no room for the index.
    """
    with open_regular(path) as stream:
        saved = None if cache is None else _cache_file(path, cache)
        index = None if saved is None else _load_index(saved)
        if index is None:
            logger.info("reading the table of contents of %s", path)
            rows = list(tar_entries(stream, Members(str(path), path.stat().st_size)))
            offsets, sizes = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2))
            index = TarIndex(Names.of(row[0] for row in rows), offsets, sizes)
            if saved is not None:
                _save_index(saved, index)
    return index


def tar_entries(
    stream: BinaryIO, members: Members, nested: bool = True, within: str = ""
) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset in `stream`, size) of each entry of a tar file, with `nested` also of those inside its own.

    Args:
        within: name of the tar file in that of `members` that `stream` is.

    Raises:
        DataError: the file is not a tar archive, or it is truncated; names it.
        MemberError: as `Members.take`.
    """
    prefix = f"{within.removesuffix('.tar')}/" if within else ""
    try:
        with tarfile.open(fileobj=_Headers(stream), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # else tarfile keeps about 1 KB per entry
                inner = nested and member.isreg() and member.name.endswith(".tar") and not is_hidden(member.name)
                size = FOLDER if member.isdir() or inner else member.size
                name = members.take(member.name.removesuffix(".tar" if inner else ""), size, _other(member), prefix)
                yield name, member.offset_data, size
                if inner:
                    content = tar.extractfile(member)
                    for name, offset, size in tar_entries(content, members, nested=False, within=member.name):
                        yield name, member.offset_data + offset, size
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

    def __init__(self, stream: BinaryIO) -> None:
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
    kinds = {
        tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a named pipe",
        tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    }  # fmt: skip
    if member.sparse is not None:
        return "a sparse file"
    return None if member.isreg() or member.isdir() else kinds.get(member.type, f"of the unknown type {member.type!r}")


def _cache_file(path: Path, cache: Path) -> Path:
    status = path.stat()
    key = f"{CACHE_VERSION}\0{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return cache / f"{path.stem}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.npz"


def _load_index(path: Path) -> TarIndex | None:
    """The saved index, or None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            ends, offsets, sizes = saved["ends"], saved["offsets"], saved["sizes"]
            if not len(ends) == len(offsets) == len(sizes):
                raise ValueError("its parts differ in length")
            return TarIndex(Names(saved["blob"].tobytes(), ends), offsets, sizes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and will be made anew (%s)", path, error)
        return None


def _save_index(path: Path, index: TarIndex) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **index.names.arrays(), offsets=index.offsets, sizes=index.sizes)


class TarReader:
    """Reads byte ranges of one file through one descriptor per process.

    `os.pread` has no file position, so threads and forked workers may share the descriptor; it is opened at the first
    read and left out of pickles, so spawned workers open their own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from byte `offset` on.

        Raises:
            DataError: the file ends before.
            OSError: it cannot be read.
        """
        if self._file is None:
            self._file = io.FileIO(self.path)
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise DataError(f"{self.path}: expected {size} bytes at byte {offset}, found {len(data)}; was it replaced?")
        return data
