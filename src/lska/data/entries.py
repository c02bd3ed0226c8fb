"""Names in folders, archives and manifests: which stay inside their place, which are data; digests of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from lska.provenance.errors import LskaError
from lska.provenance.files import FileError, quoted, read_lines
from lska.provenance.strict import checked

T = TypeVar("T", bound=Hashable)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
"""Of images: timm's list and WebP; the case does not matter."""

SHOWN = 10
"""Names that a message lists before it only counts."""

LONGEST = 200
"""Bytes of a name that becomes a file or folder. Systems take 255, and what is written adds to it."""

_HIDDEN = re.compile(
    r"(?:^|/)(?:\.|(?:__MACOSX|Icon\r|Thumbs\.db|ehthumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information)"
    r"(?:/|\Z))",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")


class DataError(LskaError, ValueError):
    """A data set on disk is not as expected; the message names the place, what was expected and what to do."""


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, is no data: hidden, temporary, or left by macOS or Windows."""
    return _HIDDEN.search(name) is not None


def is_image(file: str) -> bool:
    """Whether a file name or path counts as an image: a known extension, not hidden."""
    return file.lower().endswith(EXTENSIONS) and not is_hidden(file)


def repeated(values: Iterable[T]) -> list[T]:
    """The values that occur more than once."""
    return [value for value, number in Counter(values).items() if number > 1]


def path_problem(name: str) -> str | None:
    """Why `name` is no path that stays inside a folder on every system, as what it "is" or "has"; None where it is."""
    if not name.strip("/ "):
        return "is empty"
    if name.startswith("/"):
        return "is absolute"
    if ".." in name.split("/"):
        return "leads out of its folder"
    if "\\" in name:
        return "has a backslash"
    if re.match("[A-Za-z]:", name):
        return "begins with a drive"
    return "has control characters" if _CONTROL.search(name) else None


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
"""A path, with forward slashes, that stays inside the folder that it starts from."""

FileName = Annotated[str, checked(name_problem)]
"""What becomes one file or folder: a path of one part that is not hidden."""

Label = Annotated[str, checked(label_problem)]
"""A name that is only shown."""


def shown_names(names: Sequence[str]) -> str:
    """The first `SHOWN` names in quotes, and how many more there are."""
    text = ", ".join(repr(name) for name in names[:SHOWN]) or "none"
    return f"{text} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else text


def wrong_root(root: Path, expected: str) -> DataError:
    """The error about a data root that does not hold what is `expected`; says what lies there."""
    try:
        found = shown_names(sorted(path.name for path in root.iterdir()))
    except OSError as error:
        found = f"none ({error.strerror})"
    return DataError(
        f"data root '{root.absolute()}' does not hold {expected}, found {found}; correct the data root in the "
        "configuration (one level up or down?) or mount the data set"
    )


def read_names(path: Path, problem: Callable[[str], str | None]) -> list[str]:
    """The names in a text file, one a line; `problem` says what is wrong with one, as `name_problem`.

    Raises FileError, as `read_text`, or where a name is there twice or wrong; names the lines.
    """
    first: dict[str, int] = {}
    wrong = []
    for number, name in read_lines(path):
        stands = f"{quoted(name)} stands in line {first[name]} already" if name in first else problem(name)
        wrong += [f"line {number}: {stands}"] if stands else []
        first.setdefault(name, number)
    if wrong:
        raise FileError(f"{path}: {len(wrong):,} problem(s), first:\n  " + "\n  ".join(wrong[:SHOWN]))
    return list(first)


def lines_digest(lines: Iterable[str]) -> str:
    """`sha256:...` of lines."""
    state = hashlib.sha256()
    for line in lines:
        state.update(os.fsencode(line) + b"\n")
    return f"sha256:{state.hexdigest()}"


def content_hash(data: bytes) -> str:
    """SHA-256 of one file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sizes(folder: Path) -> dict[str, int]:
    """Every image file under `folder` with its size in bytes, by relative path; DataError where it cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    found = {}
    try:
        for base, _, names in os.walk(folder, onerror=refuse, followlinks=True):
            inside = "" if base == str(folder) else f"{base.removeprefix(f'{folder}/')}/"
            found |= {f"{inside}{one}": Path(base, one).stat().st_size for one in names if is_image(f"{inside}{one}")}
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}): restore it or correct the data root") from error
    return found
