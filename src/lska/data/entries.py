"""Names in folders, archives and manifests: which stay inside the place they belong to, and which are data at all."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from lska.files import FileError, quoted, read_lines
from lska.strict import checked

T = TypeVar("T", bound=Hashable)

FOLDER = -1
"""Size of a folder among the members of an archive."""

MEMBER = 1024
"""Bytes that a member counts for on top of its content, as names and headers take room too."""

RATIO = 100
"""How many times its own size an archive may hold. Images hardly shrink, and annotations to a tenth."""

SMALL = 100_000_000
"""Bytes that an archive may hold whatever its own size."""

LONGEST = 200
"""Bytes of a name that becomes a file or folder. Systems take 255, and what is written adds to it."""

_HIDDEN = re.compile(
    r"(?:^|/)(?:\.|(?:__MACOSX|Icon\r|Thumbs\.db|ehthumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information)"
    r"(?:/|\Z))",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:")


class DataError(ValueError):
    """A data set on disk is not as expected; the message names the place, what was expected and what to do."""


class MemberError(DataError):
    """A member of an archive that no sound archive of a data set has."""


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, is no data: hidden, temporary, or left by macOS or Windows."""
    return _HIDDEN.search(name) is not None


def repeated(values: Iterable[T]) -> list[T]:
    """The values that occur more than once."""
    return [value for value, number in Counter(values).items() if number > 1]


def path_problem(name: str) -> str | None:
    """Why `name` is no path that stays inside a folder on every system, as what it "is" or "has"; None where it is."""
    if _CONTROL.search(name):
        return "has control characters"
    return _outside(name)


def _outside(name: str) -> str | None:
    if not name.strip("/ "):
        return "is empty"
    if name.startswith("/"):
        return "is absolute"
    if ".." in name.split("/"):
        return "leads out of its folder"
    if "\\" in name:
        return "has a backslash"
    return "begins with a drive" if _DRIVE.match(name) else None


def inside_problem(name: str) -> str | None:
    """What is wrong with a path inside the folder of a data set; None where nothing is."""
    problem = path_problem(name)
    return problem and f"expected a path inside the folder of the data set, found {quoted(name)}, which {problem}"


def name_problem(name: str) -> str | None:
    """What is wrong with the name of one file or folder, or of a class that has one; None where nothing is."""
    problem = path_problem(name) or ("has slashes" if "/" in name else "is hidden" if is_hidden(name) else None)
    if len(os.fsencode(name)) > LONGEST:
        problem = f"has more than {LONGEST} bytes"
    return problem and f"expected the name of a file or folder, found {quoted(name)}, which {problem}"


def label_problem(name: str) -> str | None:
    """What is wrong with a name that is only shown; None where nothing is."""
    problem = "is empty" if not name.strip() else "has control characters" if _CONTROL.search(name) else None
    return problem and f"expected a name, found {quoted(name)}, which {problem}"


Inside = Annotated[str, checked(inside_problem)]
"""A path, with forward slashes, that stays inside the folder that it starts from; checked by `lska.strict.build`."""

FileName = Annotated[str, checked(name_problem)]
"""What becomes one file or folder: a path of one part that is not hidden; checked by `lska.strict.build`."""

Label = Annotated[str, checked(label_problem)]
"""A name that is only shown; checked by `lska.strict.build`."""


def read_names(path: Path, problem: Callable[[str], str | None]) -> list[str]:
    """The names in a text file, one a line.

    Args:
        problem: what is wrong with a name, as `name_problem`.

    Raises:
        FileError: as `lska.files.read_text`, or a name is there twice or wrong; names the lines.
    """
    first: dict[str, int] = {}
    wrong = []
    for number, name in read_lines(path):
        if name in first:
            wrong.append(f"line {number}: {quoted(name)} stands in line {first[name]} already")
        elif found := problem(name):
            wrong.append(f"line {number}: {found}")
        first.setdefault(name, number)
    if wrong:
        more = f"\n  and {len(wrong) - 10:,} more" if len(wrong) > 10 else ""
        raise FileError(f"{path}: {len(wrong):,} problem(s):\n  " + "\n  ".join(wrong[:10]) + more)
    return list(first)


class Members:
    """The members of one archive, taken one by one: files and folders only, inside, each once, and not too much.

    Archives of data sets need no links, devices or sparse files, and those are the ways out of a folder.
    """

    def __init__(self, archive: str, size: int) -> None:
        """Begin with an archive, by its name for messages and its size in bytes."""
        self.archive = archive
        self._size = size
        self._content = 0
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def take(self, name: str, size: int, other: str | None = None, folder: str = "") -> str:
        """The name of the next member without empty and `.` parts; empty for the folder around everything.

        Args:
            size: bytes of its content, or `FOLDER`.
            other: what it is, such as "a symbolic link", where it is neither file nor folder.
            folder: that the name starts from, with a slash at its end: of an archive within.

        Raises:
            MemberError: it is something else, its name leads out of the folder or was there before, or the archive
                holds far more than it can.
        """
        path = "/".join(part for part in (folder + name).split("/") if part not in ("", "."))
        hidden = is_hidden(path)
        problem = f"is {other}" if other else _outside(name) if hidden else path_problem(name)
        if problem is None and size < FOLDER:
            problem = f"has the size {size}"
        if problem:
            self._refuse(folder + name, problem)
        self._measure(size)
        if path and not hidden:
            self._enter(path, size)
        return path

    def require_some(self) -> None:
        """Raise DataError if there was no member: some Pythons pass over headers that they cannot read."""
        if not self._content:
            raise DataError(f"{self.archive} holds no files: it is damaged or another file; get it again")

    def _measure(self, size: int) -> None:
        self._content += max(size, 0) + MEMBER
        if self._content > max(RATIO * self._size, SMALL):
            number = len(self._files) + len(self._folders)
            raise MemberError(
                f"{self.archive}: its {self._size:,} bytes hold {self._content:,} bytes in the first {number:,} "
                f"members, expected at most {RATIO} times its size (or {SMALL:,} bytes; each member counts {MEMBER:,} "
                "more): get a sound copy, or unpack it by hand if it is one"
            )

    def _enter(self, path: str, size: int) -> None:
        folder = path if size == FOLDER else path.rpartition("/")[0]
        while folder and folder not in self._folders:
            if folder in self._files:
                self._refuse(path, f"needs a folder where the file {quoted(folder)} is")
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]
        if size != FOLDER:
            if path in self._folders:
                self._refuse(path, "is a file and a folder")
            if path in self._files:
                self._refuse(path, "is there twice")
            self._files.add(path)

    def _refuse(self, name: str, problem: str) -> None:
        raise MemberError(
            f"{self.archive} cannot be used safely: its member {quoted(name)} {problem}; get a sound copy, or pack the "
            "files and folders of the data set anew"
        )
