"""Random access to the files of plain tar archives, without unpacking them."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lska.data.entries import is_hidden
from lska.data.unpack import FOLDER, Members, tar_members
from lska.provenance.errors import InputError
from lska.provenance.files import atomic_path, open_regular

logger = logging.getLogger(__name__)

CACHE_VERSION = 2


class Names(Sequence[str]):
    """Immutable sequence of strings in two flat buffers.

    A list of a million file names is a million Python objects, which every forked worker copies page by page as their
    reference counts change, and which take seconds to pickle. This takes the bytes of the names plus 8 each.
    """

    def __init__(self, blob: bytes, ends: np.ndarray) -> None:
        self.blob = blob
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack `names`; undecodable file names (surrogate escapes) survive."""
        encoded = [os.fsencode(name) for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.blob[start : int(self.ends[index])])


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
        DataError: it is not a plain tar archive, it is truncated, or a member is refused (`lska.data.unpack.Members`).
        WriteError: there is no room for the index.
    """
    with open_regular(path) as stream:
        status = os.fstat(stream.fileno())
        key = os.fsencode(f"{CACHE_VERSION}\0{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}")
        saved = None if cache is None else cache / f"{path.stem}-{hashlib.sha256(key).hexdigest()[:16]}.npz"
        index = None if saved is None else _load(saved)
        if index is None:
            logger.info("reading the table of contents of %s", path)
            rows = list(_rows(stream, Members(str(path), status.st_size)))
            offsets, sizes = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2))
            index = TarIndex(Names.of(row[0] for row in rows), offsets, sizes)
            if saved is not None:
                with atomic_path(saved) as temporary, temporary.open("wb") as target:
                    blob = np.frombuffer(index.names.blob, np.uint8)
                    np.savez(target, blob=blob, ends=index.names.ends, offsets=offsets, sizes=sizes)
    return index


def _rows(stream: IO[bytes], members: Members, within: str = "", start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Name, offset in the file that begins `start` bytes before `stream`, and size of every entry."""
    for name, member, tar in tar_members(stream, members, within):
        place = start + member.offset_data
        nested = not within and member.isreg() and name.endswith(".tar") and not is_hidden(name)
        yield name.removesuffix(".tar") if nested else name, place, FOLDER if member.isdir() or nested else member.size
        if nested:
            yield from _rows(tar.extractfile(member), members, name, place)


def _load(path: Path) -> TarIndex | None:
    """The saved index, or None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            blob, ends, offsets, sizes = (saved[name] for name in ("blob", "ends", "offsets", "sizes"))
        if not len(ends) == len(offsets) == len(sizes):
            raise InputError("its parts differ in length")
        return TarIndex(Names(blob.tobytes(), ends), offsets, sizes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and will be made anew (%s)", path, error)
        return None
