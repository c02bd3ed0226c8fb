"""Files: the one reader of JSON, YAML, text and tables, and the one way to write a file whole.

Everything that a person or a killed process may have damaged is read here. A reader opens regular files only and never
waits for one (a named pipe has no end), bounds size and depth, takes each name once, and says path and place of what is
wrong. A writer leaves the former file or the new one, never half of one.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import socket
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from lska.provenance.errors import LskaError

LIMIT = 64 * 2**20
"""Bytes that a text is read up to; annotations of data sets have a limit of their own."""

DEPTH = 64
"""Mappings and lists inside each other; the deepest file of the project has 9."""

NODES = 100_000
"""Values that a YAML file with aliases may stand for."""

DIGITS = 18
"""Of a whole number: what 64 bits hold."""

OTHER_HOST_SECONDS = 3600
"""After which a temporary file of another machine, whose locks are not seen everywhere, counts as left behind."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    return "\n".join(_printable_line(line, width) for line in text.split("\n"))


def one_line(text: str) -> str:
    """As `printable`, with line ends as escapes too: foreign names may have some, and a list has an item a line."""
    return printable(text.replace("\n", "\\n"))


def _printable_line(line: str, width: int | None) -> str:
    shown = line[:width] if line.isprintable() else "".join(map(_visible, line[:width]))
    return shown if width is None or len(line) <= width else f"{shown}... ({len(line):,} characters)"


def _visible(character: str) -> str:
    shown = character.isprintable() or character in "\t\u00a0"
    return character if shown else json.dumps(character)[1:-1] if character < "\x7f" else f"\\u{ord(character):04x}"


class _Quotes(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlevel = 2


_QUOTES = _Quotes()


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
        # True equals 1, and is no number.
        elif before != after or (before is True or before is False) != (after is True or after is False):
            yield f"{place}{name}", before, after


# --- Reading ---------------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without ever waiting for it.

    Raises:
        MissingFileError: it is not there, or a link to what is not there.
        FileError: it is no regular file, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(_missing(path)) from error
    except ValueError as error:
        raise FileError(f"{quoted(str(path))}: no name of a file ({error})") from error
    except OSError as error:
        # A socket cannot be opened at all, and a leased file or a pipe without a writer not at once.
        if kind := _kind_at(path):
            raise FileError(f"{path}: {kind}") from error
        raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from error
    kind = _kind(os.fstat(descriptor).st_mode)
    if kind is not None:
        os.close(descriptor)
        raise FileError(f"{path}: {kind}")
    return os.fdopen(descriptor, "rb")


def _missing(path: Path) -> str:
    if Path(path).is_symlink():
        target = Path(path).readlink()
        return f"{path}: is a link to {target}, which is not there; remove the link or bring back its target"
    return f"{path}: no such file; check the path"


def _kind_at(path: Path) -> str | None:
    try:
        return _kind(Path(path).stat().st_mode)
    except OSError:
        return None


def _kind(mode: int) -> str | None:
    """Why a file of this mode is not read; None for a regular one."""
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    return None if stat.S_ISREG(mode) else f"expected a regular file, found {kinds.get(stat.S_IFMT(mode), 'another')}"


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        FileError: as `open_regular`, or it is larger.
    """
    with open_regular(path) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from error
    if content is None:  # such as /proc/kmsg, which calls itself a regular file
        raise FileError(f"{path}: expected a regular file, found one that keeps its reader waiting")
    if len(content) > limit:
        raise FileError(f"{path}: is larger than the {limit:,} bytes that are read of such a file")
    return content


def read_text(path: Path, limit: int = LIMIT) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, which is no part of the text.

    Raises:
        FileError: as `read_bytes`, or it is in another encoding, or has NUL characters.
    """
    return decode_text(read_bytes(path, limit), str(path))


def decode_text(content: bytes, where: str) -> str:
    """As `read_text` for `content`, which `where` names."""
    marks = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
    for mark, name in marks.items():
        if content.startswith(mark):
            raise FileError(f"{where}: is in {name}, expected UTF-8; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{where}: line {line}: the byte 0x{content[error.start]:02x} is no UTF-8; save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise FileError(f"{where}: line {_line(text, chr(0))}: has a NUL character, so it is no text; expected UTF-8")
    return text


def read_lines(path: Path, limit: int = LIMIT) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, without white space around them, each with its number from 1.

    Raises:
        FileError: as `read_text`.
    """
    lines = enumerate(read_text(path, limit).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_table(
    path: Path, columns: Collection[str], key: str | None = None, filled: Collection[str] | None = None
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a line of headings: the number of a row's last line, and its fields by column.

    Args:
        columns: that have to be there.
        key: one of them, whose values name the rows.
        filled: those that may not be empty in any row; all of `columns` where None.

    Raises:
        FileError: as `read_text`; headings are missing or stand twice, a row has more or fewer fields, an empty one, or
            the `key` of a row before it. All problems are named at once.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise FileError(f"{path}: line {reader.line_num}: {error}; expected comma-separated values") from error
    headings = [heading.strip() for heading in lines[0][1]] if lines else []
    missing, twice = [name for name in columns if name not in headings], _repeated(headings)
    if missing or twice:
        faults = [f"has no column {quoted(name)}" for name in missing] + [f"has {quoted(n)} twice" for n in twice]
        raise FileError(f"{path}: line 1: {', '.join(faults)}; expected the headings {','.join(columns)}")
    problems, rows, first = [], [], {}
    for number, fields in lines[1:]:
        row = dict(zip(headings, (field.strip() for field in fields), strict=False))
        empty = [name for name in (columns if filled is None else filled) if not row.get(name)]
        if len(fields) != len(headings):
            problems.append(f"line {number}: expected {len(headings)} fields, found {len(fields)}")
        elif empty:
            problems.append(f"line {number}: nothing stands in column {', '.join(map(quoted, empty))}")
        elif key and row[key] in first:
            problems.append(f"line {number}: {key} {quoted(row[key])} stands in line {first[row[key]]} already")
        else:
            rows.append((number, row))
            first[row[key] if key else number] = number
    if problems:
        more = f"\n  and {len(problems) - 10:,} more" if len(problems) > 10 else ""
        raise FileError(f"{path}: {len(problems):,} problem(s):\n  " + "\n  ".join(problems[:10]) + more)
    return rows


def csv_text(columns: Iterable[str], lines: Iterable[Mapping[str, object]]) -> str:
    """Comma-separated values under a line of headings; fields that a line lacks are empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _repeated(names: Sequence[Any]) -> list[Any]:
    return [name for name, number in Counter(names).items() if number > 1]


def read_json(
    path: Path, kind: type | tuple[type, ...] = dict, limit: int = LIMIT, remedy: str = "", not_finite: bool = False
) -> Any:
    """The content of a JSON file, whose top value is a `kind`; `remedy` says what to do where it cannot be used.

    Raises:
        FileError: as `read_text` and `parse_json`.
    """
    try:
        return parse_json(read_text(path, limit), str(path), kind, not_finite)
    except (MissingFileError, UnreadableFileError):
        raise
    except FileError as error:
        raise FileError(f"{error}; {remedy}" if remedy else str(error)) from error


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


def parse_json(text: str, where: str, kind: type | tuple[type, ...] = dict, not_finite: bool = False) -> Any:
    """The value of a JSON text, which `where` names; with `not_finite` NaN and infinity pass, for the caller to name.

    Raises:
        FileError: it is no JSON, gives a name twice (of which a reader sees the first and a program the last), has
            numbers that are not finite or too long, is nested too deep, or its top value is no `kind`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            name = _repeated([name for name, _ in pairs])[0]
            raise FileError(f"{where}: {_lines(text, name)}: the name {quoted(name)} is given twice in one mapping")
        return found

    def finite(number: str) -> float:
        if not (not_finite or math.isfinite(float(number))):
            raise FileError(f"{where}: line {_line(text, number)}: expected a finite number, found {quoted(number)}")
        return float(number)

    def whole(number: str) -> int:
        if len(number) > DIGITS + 1:
            place = f"line {_line(text, number)}"
            raise FileError(f"{where}: {place}: a whole number of {len(number)} digits, at most {DIGITS} are read")
        return int(number)

    try:
        content = json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=finite, parse_int=whole)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FileError(f"{where}: {place}: not valid JSON ({error.msg})") from error
    except RecursionError as error:
        raise FileError(_too_deep(where)) from error
    _check_depth(content, where)
    if re.search(r"\\u[dD][89a-fA-F]", text) and not _encodable(content):
        raise FileError(f"{where}: has half a character (a lone surrogate such as \\ud800), expected Unicode text")
    return _of_kind(content, where, kind)


def _of_kind(content: Any, where: str, kind: type | tuple[type, ...]) -> Any:
    if isinstance(content, kind):
        return content
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(kind_of(one()) for one in kinds)
    raise FileError(f"{where}: expected {expected}, found {kind_of(content)}")


def _too_deep(where: str, line: int | None = None) -> str:
    place = where if line is None else f"{where}: line {line}"
    return f"{place}: mappings and lists are nested more than {DEPTH} deep"


def _check_depth(content: Any, where: str) -> None:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(DEPTH):
        values = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in values if isinstance(inner, dict | list)]
    if level:
        raise FileError(_too_deep(where))


def _encodable(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _line(text: str, part: str) -> int:
    """Number of the line in which `part` first stands."""
    return text.count("\n", 0, max(text.find(part), 0)) + 1


def _lines(text: str, name: str) -> str:
    """The lines in which a JSON text gives `name` a value."""
    places = re.finditer(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:", text)
    found = [str(text.count("\n", 0, match.start()) + 1) for match in itertools.islice(places, 4)]
    return f"lines {', '.join(found)}" if len(found) < 4 else "several lines"


def read_yaml(path: Path, kind: type | tuple[type, ...] = dict) -> Any:
    """The content of a YAML file, whose top value is a `kind`.

    Raises:
        FileError: as `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path), str(path), kind)


def parse_yaml(text: str, where: str, kind: type | tuple[type, ...] = dict) -> Any:
    """The value of a YAML text of one document, which `where` names. Nothing but plain values is ever made.

    Raises:
        FileError: it is no YAML, has a tag or value that YAML's safe part does not know, gives a key twice, has numbers
            that are not finite or too long, is nested too deep, aliases that stand for too much, or its top value is no
            `kind`.
    """
    import yaml

    try:
        aliases = _scan_yaml(text, where)
        loader = _yaml_loader()(text)
        loader.where = where
        try:
            node = loader.get_single_node()
            if node is not None and aliases:
                _expand(node, where, 0, {})
            content = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FileError(f"{where}: {place}not valid YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:
        raise FileError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
    return _of_kind(content, where, kind)


def _scan_yaml(text: str, where: str) -> bool:
    """Refuse what is nested too deep, before anything follows it down; whether there are aliases."""
    import yaml

    depth, aliases = 0, False
    for event in yaml.parse(text, _yaml_loader()):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases |= isinstance(event, yaml.AliasEvent)
        if depth > DEPTH:
            raise FileError(_too_deep(where, event.start_mark.line + 1))
    return aliases


def _expand(node: Any, where: str, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values that a node stands for with all aliases followed, and their depth."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        if depth > DEPTH:
            raise FileError(_too_deep(where, node.start_mark.line + 1))
        parts = [_expand(part, where, depth + 1, known) for part in inner]
        known[id(node)] = 1 + sum(size for size, _ in parts), 1 + max((height for _, height in parts), default=0)
    size, height = known[id(node)]
    line = node.start_mark.line + 1
    if size > NODES:
        raise FileError(
            f"{where}: line {line}: its aliases stand for more than {NODES:,} values; write less, or without"
        )
    if depth + height > DEPTH:
        raise FileError(_too_deep(where, line))
    return size, height


@functools.cache
def _yaml_loader() -> type[Any]:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """PyYAML's safe loader (the one in C, six times as fast, where it was built) that takes each key once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            merge = "tag:yaml.org,2002:merge"
            names = ["<<" if key.tag == merge else self.construct_object(key, deep=True) for key, _ in node.value]
            if any(isinstance(name, list | dict | set) for name in names):
                self.refuse("a key is a list or a mapping, expected text", node)
            for name in _repeated(names):
                last = max(index for index, other in enumerate(names) if other == name)
                self.refuse(f"the key {quoted(name)} is given twice in one mapping", node.value[last][0])
            return super().construct_mapping(node, deep)

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                value = super().construct_object(node, deep)
            except FileError:
                raise
            except (ValueError, OverflowError, KeyError, AttributeError, TypeError) as error:
                kind = node.tag.rpartition(":")[2]
                self.refuse(f"{quoted(node.value)} cannot be read as {kind} ({error})", node)
            if isinstance(value, float) and not math.isfinite(value):
                self.refuse(f"expected a finite number, found {quoted(node.value)}", node)
            if isinstance(value, int) and abs(value) >= 10**DIGITS:
                self.refuse(f"a whole number of more than {DIGITS} digits", node)
            return value

        def refuse(self, problem: str, node: Any) -> NoReturn:
            mark = node.start_mark
            raise FileError(f"{self.where}: line {mark.line + 1}, column {mark.column + 1}: {problem}")

    return Loader


# --- Writing ---------------------------------------------------------------------------------------------------------

_TEMPORARY = re.compile(r"\..+\.(?P<host>[a-z0-9_]{3})[a-z0-9_]{5}\.tmp(\.\w+)?")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is one that a writer has not finished, or left behind when it was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches `pattern` (as `Path.glob`) below `folder`, sorted, without hidden and temporary files."""
    found = folder.glob(pattern) if folder.is_dir() else ()
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` in what the system says when writing it fails.

    Raises:
        WriteError: no room, no permission and the like, in `path` or a file beside it.
    """
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
    """Yield a temporary sibling of `path` that replaces it, fsynced, if block and then `check` end well, or vanishes.

    What a killed process left in the folder is removed.

    Raises:
        WriteError: the folder cannot be written (no space, no permission); `path` keeps its former content.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        temporary, descriptor = _create_temporary(path)
        try:
            yield temporary
            os.fsync(descriptor)
            if check is not None:
                check()
            temporary.replace(path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well and vanishes otherwise.

    Two renames follow each other; between them there is no folder of this name.

    Raises:
        WriteError: as `atomic_path`; the former folder is as it was.
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


def temporary_name(path: Path) -> str:
    """A new name beside `path` by the one rule for temporary files."""
    return f".{path.name}.{_host()}{secrets.token_hex(3)[:5]}.tmp{path.suffix}"


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:3]


def _create_temporary(path: Path) -> tuple[Path, int]:
    """A new file, locked for as long as its descriptor is open, so that nobody takes it for left behind."""
    while True:
        temporary = path.with_name(temporary_name(path))
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            return temporary, descriptor  # a file system without locks, where no other process can take one either
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # a sweep came between making and locking it


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, once a process."""
    for path in filter(is_temporary, folder.iterdir()):
        try:
            descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # another process removed it, or it is not ours to remove
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _left_behind(path, descriptor):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            continue  # its writer holds it
        finally:
            os.close(descriptor)


def _left_behind(path: Path, descriptor: int) -> bool:
    """Whether nobody writes a file that is not locked: sure on this machine, after a time for another's."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is not None and match["host"] == _host():
        return True
    # Compared with the clock of the file system, which is that of its server.
    os.utime(path.parent)
    return path.parent.stat().st_mtime - os.fstat(descriptor).st_mtime > OTHER_HOST_SECONDS


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, check: Callable[[], None] | None = None) -> None:
    """Write `text` in UTF-8 whole or not at all; `check` as in `atomic_path`."""
    with atomic_path(path, check) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, check: Callable[[], None] | None = None) -> None:
    """Write `content` whole with sorted keys, so that equal content gives equal bytes; `check` as in `atomic_path`."""
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, check)
