"""Digests of files, of their names and of lists: what a record keeps of a data set, and what is compared later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lska.data.entries import DataError, is_hidden
from lska.data.folders import Split, is_image
from lska.provenance.files import FileError, open_regular


def content_hash(data: bytes) -> str:
    """SHA-256 of one file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def names_digest(split: Split) -> str:
    """`sha256:...` of the lines `<class>/<file>`, sorted by class, then file, so that every layout gives the same."""
    return lines_digest(split.samples.names)


def contents_digest(split: Split, hashes: Iterable[str]) -> str:
    """`sha256:...` of the lines `<sha256 of the file> <class>/<file>`, in the order of `names_digest`."""
    return lines_digest(f"{value} {name}" for value, name in zip(hashes, split.samples.names, strict=True))


def lines_digest(lines: Iterable[str]) -> str:
    """`sha256:...` of lines."""
    state = hashlib.sha256()
    for line in lines:
        state.update(os.fsencode(line) + b"\n")
    return f"sha256:{state.hexdigest()}"


def file_sizes(folder: Path) -> dict[str, int]:
    """Every image file under `folder` with its size in bytes, by relative path with forward slashes.

    Raises:
        DataError: the folder is missing or cannot be read.
    """
    try:
        return dict(_walk(str(folder), ""))
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read ({error.strerror}): expected a folder of images; restore it "
            "or correct the data root in the configuration"
        ) from error


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif is_image(entry.name):
                yield f"{prefix}{entry.name}", entry.stat().st_size


def sized_lines(part: str, folder: Path) -> list[str]:
    """Lines that change whenever an image file under `folder` is added, removed, renamed or resized."""
    return [f"{part} {name} {size}" for name, size in sorted(file_sizes(folder).items())]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        with open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileError, OSError) as error:
        raise DataError(f"{error}; restore it, or correct the data root in the configuration") from error
