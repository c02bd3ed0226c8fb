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

from lska.files import atomic_path

logger = logging.getLogger(__name__)

FOLDER = -1  # size recorded for a directory entry
OTHER = -2  # size recorded for links, devices and sparse files, which have no bytes to point at
BLOCK = 512  # bytes; tar pads everything to it and ends with zero blocks
CACHE_VERSION = 1


class DataError(ValueError):
    """A data set on disk is not as expected; the message names the place, what was expected and what to do."""


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
    """Where each entry of an archive lies: `names` as stored, `offsets` and `sizes` in bytes (int64).

    `sizes` is `FOLDER` or `OTHER` for entries without bytes.
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
        DataError: the file is not a plain tar archive, or it is truncated.
    """
    saved = None if cache is None else _cache_file(path, cache)
    index = None if saved is None else _load_index(saved)
    if index is None:
        logger.info("reading the table of contents of %s", path)
        with path.open("rb") as stream:
            rows = list(tar_entries(stream, str(path)))
        offsets, sizes = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2))
        index = TarIndex(Names.of(row[0] for row in rows), offsets, sizes)
        if saved is not None:
            _save_index(saved, index)
    return index


def tar_entries(stream: BinaryIO, place: str, nested: bool = True) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset in `stream`, size) of each entry of a tar file, with `nested` also of those inside its own.

    Raises:
        DataError: the file is not a tar archive, or it is truncated; names it by `place`.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # else tarfile keeps about 1 KB per entry
                if nested and member.isreg() and member.name.endswith(".tar"):
                    yield from _inner_entries(tar, member, place)
                else:
                    yield member.name, member.offset_data, _size(member)
            # tarfile takes a damaged header for the end of the archive; only a zero block is one.
            stream.seek(tar.offset)
            if stream.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(f"no end-of-archive mark at byte {tar.offset}")
    except tarfile.TarError as error:
        raise DataError(
            f"{place} cannot be read as a tar archive ({error}): expected an uncompressed, complete .tar file; "
            "decompress it (`gunzip`, `xz -d`) or download it again"
        ) from error


def _inner_entries(tar: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> Iterator[tuple[str, int, int]]:
    folder = member.name.removesuffix(".tar")
    yield folder, member.offset_data, FOLDER
    inner = tar.extractfile(member)
    for name, offset, size in tar_entries(inner, f"{place}:{member.name}", nested=False):
        yield f"{folder}/{name}", member.offset_data + offset, size


def _size(member: tarfile.TarInfo) -> int:
    if member.isdir():
        return FOLDER
    return member.size if member.isreg() and member.sparse is None else OTHER


def _cache_file(path: Path, cache: Path) -> Path:
    status = path.stat()
    key = f"{CACHE_VERSION}\0{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return cache / f"{path.stem}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.npz"


def _load_index(path: Path) -> TarIndex | None:
    """The saved index, or None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return TarIndex(Names(saved["blob"].tobytes(), saved["ends"]), saved["offsets"], saved["sizes"])
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
