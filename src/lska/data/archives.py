"""Archives that data sets are distributed in: where to get them, how to know them, where they lie."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lska.data.entries import DataError, FileName, Inside, is_hidden, label_problem, repeated, shown_names
from lska.data.problems import CheckReport
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, open_regular, read_yaml
from lska.provenance.metric_files import digest
from lska.provenance.strict import build

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
"""Of archives that can be unpacked."""

CHUNK = 1 << 20
"""Bytes that are hashed or copied at once."""

_HEXADECIMAL = {"md5": 32, "sha256": 64}


@dataclass(frozen=True)
class Archive:
    """A file that a data set, or a part of it, is distributed as; None where no source says."""

    file: FileName
    """Name as distributed."""
    url: str | None = None
    """The file itself, or the page from which it can be had, perhaps after registration."""
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    holds: str | None = None
    """What it unpacks to, in words."""
    rename: dict[Inside, Inside] = field(default_factory=dict)
    """Folders in it by the names that the project has for them, when it is unpacked: `{test: val}`."""
    by_hand: bool = False
    """Whether it is left to a person to unpack: parts of one folder, or too large to be kept twice."""

    def __post_init__(self) -> None:
        problems = []
        if not is_archive(self.file):
            problems.append(f"file: expected a name that ends in one of {', '.join(SUFFIXES)}, found {self.file!r}")
        for name, digits in _HEXADECIMAL.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                problems.append(f"{name}: expected {digits} hexadecimal digits, found {value!r}")
        if self.bytes is not None and self.bytes < 1:
            problems.append(f"bytes: expected at least 1, found {self.bytes}")
        if self.url is not None and (problem := label_problem(self.url)):
            problems.append(f"url: {problem}")
        if twice := repeated(self.rename.values()):
            problems.append(f"rename: several folders become {twice[0]!r}, expected a name for each")
        if problems:
            raise InputError("; ".join(problems))

    @property
    def direct(self) -> str | None:
        """The address that it can be fetched from without registration, None where there is none."""
        return self.url if self.url is not None and is_archive(self.url) else None

    @property
    def stated(self) -> tuple[str, ...]:
        """What is stated of it by which a file can be told to be this archive: some of bytes, md5, sha256."""
        return tuple(name for name in ("bytes", *_HEXADECIMAL) if getattr(self, name) is not None)

    def problems(self, path: Path) -> list[str]:
        """What tells the file `path` from this archive, one text each: size first, and hashes only where that is right.

        Hashing shows a progress bar on a terminal.
        """
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return [f"expected {self.bytes:,} bytes, found {size:,}"]
        found = hashes(path, [name for name in self.stated if name in _HEXADECIMAL])
        wrong = (name for name in found if found[name] != getattr(self, name))
        return [f"expected {name} {getattr(self, name)}, found {found[name]}" for name in wrong]


def is_archive(name: str) -> bool:
    """Whether a file name or an address is one of an archive that can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """A file name without the suffix of an archive: `dtd-r1.0.1` of `dtd-r1.0.1.tar.gz`."""
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(suffix)]


def hashes(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Hashes of a file in hexadecimal, by algorithm; the file is read once."""
    from tqdm import tqdm

    states = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    if not states:
        return {}
    size = path.stat().st_size
    with open_regular(path) as stream, tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
        while chunk := stream.read(CHUNK):
            bar.update(len(chunk))
            for state in states.values():
                state.update(chunk)
    return {name: state.hexdigest() for name, state in states.items()}


def archive_problems(archives: Sequence[Archive]) -> list[str]:
    """What is wrong with the archives that a manifest lists, on top of what is wrong with each."""
    return [f"archives: {file!r} is listed twice" for file in repeated(one.file for one in archives)]


@dataclass(frozen=True)
class _Listed:
    archives: tuple[Archive, ...] = ()

    def __post_init__(self) -> None:
        if problems := archive_problems(self.archives):
            raise InputError("; ".join(problems))


def read_archives(manifest: Path) -> tuple[Archive, ...]:
    """The archives that a manifest of any kind lists.

    Raises:
        ValueError: the manifest cannot be read, or an entry is wrong.
    """
    values = read_yaml(manifest)
    return build(_Listed, {key: value for key, value in values.items() if key == "archives"}, str(manifest)).archives


def packed(root: Path, archives: Sequence[Archive], *more: str) -> tuple[Path, Archive] | None:
    """The archive that a set lies in, with what is known of it, or None: `root` itself where it is one, or a file in it
    with the name of one of `archives` or `more`, whichever of `SUFFIXES` it has.

    Those that a person has to unpack do not count.

    Raises:
        DataError: there is a dangling link, a pipe or the like by that name, or it may not be read.
    """
    candidates = (*archives, *map(Archive, more))
    if root.is_file():
        named = (one for one in candidates if stem(one.file) == stem(root.name))
        return (root, next(named, Archive(root.name))) if is_archive(root.name) else None
    wanted = [one for one in candidates if not one.by_hand]
    places = [(root / name, one) for one in wanted for name in (one.file, *(stem(one.file) + end for end in SUFFIXES))]
    found = next(((path, one) for path, one in places if os.path.lexists(path) and not path.is_dir()), None)
    if found is not None:
        require_regular(found[0])
    return found


def require_regular(path: Path) -> None:
    """Raise DataError where `path` is a dangling link, a pipe or the like, which is no absence."""
    try:
        open_regular(path).close()
    except FileError as error:
        raise DataError(str(error)) from error


def inside(folder: Path) -> Path:
    """`folder`, or the only folder in it, as archives of repositories have one around everything."""
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def unpack_by_hand(root: Path, archives: Sequence[Archive]) -> str:
    """What to do with archives at `root` that a person has to unpack; empty where there is none."""
    there = [one.file for one in archives if one.by_hand and (root / one.file).is_file()]
    if not there:
        return ""
    commands = [f"unzip -q {file}" if file.lower().endswith(".zip") else f"tar -xf {file}" for file in there]
    text = " && ".join([f"cd {shlex.quote(str(root))}", *commands])
    return f"; {shown_names(there)} there must be unpacked by hand: {text}"


def check_archives(manifest: Path, root: Path) -> CheckReport:
    """Compare the archives that lie at `root`, or `root` itself, with what `manifest` states of them.

    Raises:
        DataError: none of the archives lies there.
        ValueError: as `read_archives`.
    """
    archives = read_archives(manifest)
    places = ((path, one) for one in archives for path in (root / one.file, root))
    there = [(path, one) for path, one in places if path.name == one.file and path.is_file()]
    if not there:
        raise DataError(
            f"{root} holds none of the archives that the manifest lists "
            f"({shown_names([one.file for one in archives])}); put them there, or check the unpacked data without "
            "--archives"
        )
    wrong, notes = [], []
    for path, one in there:
        problems = one.problems(path)
        wrong += [f"{path.name}: {problem}; it is damaged or of another version, get it again." for problem in problems]
        if not one.stated:
            found = hashes(path, ["sha256"])["sha256"]
            notes.append(f"{path.name}: no source states a size or hash of it; this one has sha256 {found}.")
        elif not problems:
            notes.append(f"{path.name}: as stated ({', '.join(one.stated)}).")
    identity = digest([[one.file, one.bytes, one.md5, one.sha256] for one in archives])
    return CheckReport(f"archives of {manifest.stem}", identity, root, tuple(wrong), tuple(notes))
