"""Files: the one reader of JSON, YAML, text and tables, and the one way to write a file whole.

Everything that a person or a killed process may have damaged is read here. A reader opens regular files only, bounds
size and depth, takes each name once, and says path and place of what is wrong. A writer leaves the former file or the
new one, never half of one.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import functools
import hashlib
import io
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from lska.provenance.errors import LskaError

LIMIT = 64 * 2**20
"""Bytes that a text is read up to; annotations of data sets have a limit of their own."""

DEPTH = 64
"""Mappings and lists inside each other; the deepest file of the project has 9."""

NODES = 100_000
"""Values that a YAML file may stand for, with all its aliases followed."""

DIGITS = 18
"""Of a whole number: what 64 bits hold."""

OTHER_HOST_SECONDS = 3600
"""After which a temporary file of another machine, whose locks are not seen everywhere, counts as left behind."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_TOO_DEEP = f"mappings and lists are nested more than {DEPTH} deep"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


class FileError(LskaError, ValueError):
    """A file that cannot be used. The message begins with its path and says what was expected and what to do."""


class MissingFileError(FileError, FileNotFoundError):
    """A file that is not there."""


class UnreadableFileError(FileError):
    """A file of which nothing is known, not even that it is damaged: the system refused to read it."""


class WriteError(LskaError, OSError):
    """A file that could not be written; names file and folder, and keeps the system's error number."""

    def __str__(self) -> str:
        return str(self.strerror)


# --- Words -----------------------------------------------------------------------------------------------------------


def printable(text: str, width: int | None = None) -> str:
    """`text` for a terminal or a log: control characters as JSON escapes, lines cut after `width` characters."""

    def visible(character: str) -> str:
        shown = character.isprintable() or character in "\t\u00a0"
        return character if shown else json.dumps(character)[1:-1] if character < "\x7f" else f"\\u{ord(character):04x}"

    lines = [(line[:width], len(line)) for line in text.split("\n")]
    return "\n".join(
        "".join(map(visible, line)) + (f"... ({length:,} characters)" if length > len(line) else "")
        for line, length in lines
    )


def one_line(text: str) -> str:
    """As `printable`, with line ends as escapes too: foreign names may have some, and a list has an item a line."""
    return printable(text.replace("\n", "\\n"))


_QUOTES = reprlib.Repr()
_QUOTES.maxstring = _QUOTES.maxother = _QUOTES.maxlong = 80
_QUOTES.maxlevel = 2


def quoted(value: Any) -> str:
    """A foreign value for a message: Python's notation on one short line, whatever is in it."""
    return printable(_QUOTES.repr(value))


def kind_of(value: Any) -> str:
    """What a value of a JSON or YAML file is called in a message."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def plain(values: Any) -> Any:
    """Values as they are after a way through JSON, so that tuples and lists compare equal."""
    return json.loads(json.dumps(values))


def differing(then: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The entries in which two plain mappings differ: dotted place and both values, `...` for one that lacks it."""
    for name in sorted({*then, *now}):
        before, after = then.get(name, ...), now.get(name, ...)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differing(before, after, f"{place}{name}.")
        elif before != after or isinstance(before, bool) != isinstance(after, bool):  # True equals 1, and is no number
            yield f"{place}{name}", before, after


# --- Reading ---------------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; anything else is a FileError, such as a named pipe, which may never end."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        stream = path.open("rb") if stat.S_ISREG(mode) else None
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            target = f"{path}: is a link to {path.readlink()}, which is not there"
            raise MissingFileError(f"{target}; remove the link or bring back its target") from error
        raise MissingFileError(f"{path}: no such file; check the path") from error
    except ValueError as error:
        raise FileError(f"{quoted(str(path))}: no name of a file ({error})") from error
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from error
    if stream is None:
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise FileError(f"{path}: expected a regular file, found {kind}")
    return stream


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """A hash of a file, in hexadecimal; FileError as `open_regular`, or where reading fails."""
    with open_regular(path) as stream:
        try:
            return hashlib.file_digest(stream, algorithm).hexdigest()
        except OSError as error:
            raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from error


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a regular file, of at most `limit` bytes."""
    with open_regular(path) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise FileError(f"{path}: is larger than {limit:,} bytes, the most that is read of such a file")
    return content


def read_text(path: Path, limit: int = LIMIT, keep_mark: bool = False) -> str:
    """The text of a file in UTF-8 without NUL; a byte order mark before it is a part of it with `keep_mark` only."""
    content = read_bytes(path, limit)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileError(f"{path}: is in UTF-16, expected UTF-8; save it as UTF-8")
    try:
        text = content.decode("utf-8" if keep_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise FileError(f"{path}: line {line}: the byte 0x{byte:02x} is no UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FileError(f"{path}: line {line}: has a NUL character, so it is no text; expected UTF-8")
    return text


def read_lines(path: Path, limit: int = LIMIT) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, without white space around them, each with its number from 1."""
    lines = enumerate(read_text(path, limit).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_table(
    path: Path, columns: Collection[str], key: str | None = None, filled: Collection[str] | None = None
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a line of headings: the number of a row's last line, and its fields by column.

    The `columns` have to be there, once each; those of `filled` (None: all of them) have no empty field, and those of
    `key` no value twice. All problems are named at once.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if fields]
    except csv.Error as error:
        raise FileError(f"{path}: line {reader.line_num}: {error}; expected comma-separated values") from error
    headings = lines[0][1] if lines else []
    faults = [f"has no column {quoted(name)}" for name in columns if name not in headings]
    faults += [f"has {quoted(name)} twice" for name, number in Counter(headings).items() if number > 1]
    if faults:
        raise FileError(f"{path}: line 1: {', '.join(faults)}; expected the headings {','.join(columns)}")
    problems, rows, first = [], [], {}
    for number, fields in lines[1:]:
        row = dict(zip(headings, fields, strict=False))
        empty = [name for name in (columns if filled is None else filled) if not row.get(name)]
        if len(fields) != len(headings):
            problems.append(f"line {number}: expected {len(headings)} fields, found {len(fields)}")
        elif empty:
            problems.append(f"line {number}: nothing stands in column {', '.join(map(quoted, empty))}")
        elif key and first.setdefault(row[key], number) != number:
            problems.append(f"line {number}: {key} {quoted(row[key])} stands in line {first[row[key]]} already")
        else:
            rows.append((number, row))
    if problems:
        more = [f"and {len(problems) - 10:,} more"] if len(problems) > 10 else []
        raise FileError("\n  ".join([f"{path}: {len(problems):,} problem(s):", *problems[:10], *more]))
    return rows


def csv_text(columns: Iterable[str], lines: Iterable[Mapping[str, object]]) -> str:
    """Comma-separated values under a line of headings; fields that a line lacks are empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def read_json(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The content of a JSON file, as `parse_json`."""
    return parse_json(read_text(path, limit), str(path))


def vouched(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; an empty one where it is missing or damaged, and so vouches for nothing.

    Raises:
        UnreadableFileError: it may be whole and cannot be read, so that nothing may be made again for want of it.
    """
    try:
        return read_json(path)
    except UnreadableFileError:
        raise
    except FileError:
        return {}


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The mapping of a JSON text, which `where` names: of moderate depth, with finite numbers, and each name once (of
    two a reader sees the first and a program the last).
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            name = next(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
            raise FileError(f"{where}: the name {quoted(name)} is given twice in one mapping")
        return found

    try:
        content = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FileError(f"{where}: {place}: not valid JSON ({error.msg})") from error
    except RecursionError as error:
        raise FileError(f"{where}: {_TOO_DEEP}") from error
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{where}: not valid JSON ({error})") from error
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise FileError(f"{where}: has half a character (a lone surrogate such as \\ud800)") from error
    return _sound(content, where)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, as `parse_yaml`."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str, kind: type = dict) -> Any:
    """The value of a YAML text of one document, which `where` names: plain values of moderate depth and number, however
    many aliases there are, with each key once.
    """
    import yaml

    loader, depth = _yaml_loader(), 0
    try:
        for event in yaml.parse(text, loader):  # before the loader in C follows it down, without an end
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise FileError(f"{where}: line {event.start_mark.line + 1}: {_TOO_DEEP}")
        content = yaml.load(text, loader)  # noqa: S506  # a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FileError(f"{where}: {place}not valid YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:
        raise FileError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
    return _sound(content, where, kind, nodes=NODES)


@functools.cache
def _yaml_loader() -> type[Any]:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """PyYAML's safe loader (the one in C, six times as fast, where it was built) that takes each key once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if (key.tag, str(key.value)) in seen:
                    self.refuse(f"the key {quoted(key.value)} is given twice in one mapping", key)
                seen.add((key.tag, str(key.value)))
            return super().construct_mapping(node, deep)

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, OverflowError, KeyError, AttributeError, TypeError) as error:
                kind = node.tag.rpartition(":")[2]
                self.refuse(f"{quoted(node.value)} cannot be read as {kind}: {error}", node)

        def refuse(self, problem: str, node: Any) -> NoReturn:
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    return Loader


def _place(value: object, holders: list[list[Any]]) -> str:
    """Where a value stands that is held by one of the last of `holders` (the values of each level, outermost first),
    such as `annotations[3].bbox[0]`."""
    place = ""
    for level in reversed(holders):
        for holder in level:
            if isinstance(holder, (dict, list)):
                named = holder.items() if isinstance(holder, dict) else enumerate(holder)
                key = next((key for key, inner in named if inner is value), None)
                if key is not None:
                    place = (f".{key}" if isinstance(holder, dict) else f"[{key}]") + place
                    value = holder
                    break
    return place.lstrip(".")


def _sound(content: Any, where: str, kind: type = dict, nodes: float = math.inf) -> Any:
    """`content`, if it is a `kind`, not too deep nor of too many values, and all its numbers can be used."""
    if not isinstance(content, kind):
        raise FileError(f"{where}: expected a mapping, found {kind_of(content)}")
    level, depth, number = [content], 0, 0
    holders: list[list[Any]] = []
    while level:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise FileError(f"{where}: {_place(value, holders)}: expected a finite number, found {value}")
            elif isinstance(value, int) and abs(value) >= 10**DIGITS:
                said = f"a whole number of more than {DIGITS} digits, {quoted(value)}"
                raise FileError(f"{where}: {_place(value, holders)}: {said}")
            if number + len(inner) > nodes:
                raise FileError(f"{where}: more than {nodes:,} values, aliases included; write fewer")
        holders.append(level)
        depth, number = depth + bool(inner), number + len(inner)
        if depth > DEPTH + 1:
            raise FileError(f"{where}: {_TOO_DEEP}")
        level = inner
    return content


# --- Writing ---------------------------------------------------------------------------------------------------------

_TEMPORARY = re.compile(r"\..+\.(?P<host>[a-z0-9_]{3})[a-z0-9_]{5}\.tmp(\.\w+)?")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is one that a writer has not finished, or left behind when it was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def temporary_name(path: Path) -> str:
    """A new name beside `path` by the one rule for temporary files."""
    return f".{path.name}.{_host()}{secrets.token_hex(3)[:5]}.tmp{path.suffix}"


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:3]


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches `pattern` (as `Path.glob`) below `folder`, sorted, without hidden and temporary files."""
    found = folder.glob(pattern) if folder.is_dir() else ()
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` where the system refuses to write it or a file beside it (WriteError): no room, no permission."""
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        ours = named is None or named.parent == path.parent or named in path.parents
        if isinstance(error, WriteError | FileError) or error.errno is None or not ours:
            raise
        remedy = "make room there" if error.errno in FULL else "check the folder"
        reason = os.strerror(error.errno)
        text = f"{path}: cannot be written in the folder {path.parent} ({reason}); {remedy} and run this again"
        raise WriteError(error.errno, text) from error


@contextmanager
def atomic_path(path: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that replaces it, fsynced, if block and then `check` end well, or vanishes;
    then `path` keeps its former content. What a killed process left in the folder is removed.
    """
    path = Path(path)
    with temporary_file(path) as temporary:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if check is not None:
            check()
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` that vanishes with the block, or with the next writer after a kill."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        while True:
            temporary = path.with_name(temporary_name(path))
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with suppress(OSError):  # a file system without locks, where no other process can take one either
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that nobody takes it for left behind
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # a sweep came between making and locking it
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well and vanishes otherwise. Two renames
    follow each other; between them there is no folder of this name.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        temporary = path.with_name(temporary_name(path))
        temporary.mkdir()
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        made, former = temporary / "made", temporary / "former"
        try:
            made.mkdir()
            yield made
            if path.exists():
                path.replace(former)
            made.replace(path)
        finally:
            if former.exists() and not path.exists():
                former.replace(path)
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(descriptor)


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, once a process: nobody locks it, which is sure on this machine."""
    for path in filter(is_temporary, folder.iterdir()):
        with suppress(OSError):  # its writer holds it, another process removed it, or it is not ours to remove
            kind = os.O_RDONLY if path.is_dir() else os.O_RDWR
            descriptor = os.open(path, kind | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = _TEMPORARY.fullmatch(path.name)["host"] == _host()  # type: ignore[index]
                if ours or time.time() - os.fstat(descriptor).st_mtime > OTHER_HOST_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def write_text(path: Path, text: str, check: Callable[[], None] | None = None) -> None:
    """Write `text` in UTF-8 whole or not at all; `check` as in `atomic_path`."""
    with atomic_path(path, check) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, check: Callable[[], None] | None = None) -> None:
    """Write `json_text` whole or not at all; `check` as in `atomic_path`."""
    write_text(path, json_text(content), check)


def json_text(content: Any) -> str:
    """`content` as JSON files of this project have it: sorted keys, so that equal content gives equal bytes."""
    return json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
