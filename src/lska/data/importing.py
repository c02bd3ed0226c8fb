"""Importing an archive of a data set: fetched, compared with its manifest, recorded in DVC by a pointer beside it."""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import posixpath
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lska.data.archives import CHUNK, Archive, is_archive, read_archives, stem
from lska.data.entries import DataError, shown_names
from lska.data.manifest import BUNDLED, load_manifest, manifest_kind
from lska.provenance.files import FileError, is_temporary, open_regular, quoted, read_yaml, writing

if TYPE_CHECKING:
    from dvc.repo import Repo

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3", "gs", "azure", "ssh", "hdfs", "webhdfs", "webdav", "webdavs", "oss", "gdrive")
"""Of addresses that an archive is fetched from: those that DVC reads; all but the first three need a plug-in of it."""

PATIENCE = 60.0
"""Seconds in which a source has to send `LEAST` bytes."""

LEAST = 10_000

BLOCK = 4 * CHUNK
"""Bytes that a bucket is asked for at once."""


@dataclass(frozen=True)
class Import:
    """An archive that was imported, or was there already."""

    path: Path
    pointer: Path
    """The file for git that says what it is and where it came from."""
    fetched: bool
    """Whether it was fetched now."""
    known: bool
    """Whether its manifest states a size or hash of it."""


def import_archive(manifest: Path, source: str, root: Path) -> Import:
    """Bring the archive at `source` into the folder `root` under its own name, with a pointer beside it.

    It appears under that name only after it was found to be the one that `manifest` describes. An interrupted call goes
    on where it was, if a hash will tell whether the pieces fit; a call for what is there already does nothing.

    Args:
        source: an address with one of `SCHEMES`, or the path of a file.

    Raises:
        DataError: `root` is not inside the project, the manifest lists no such archive, the source cannot be read or
            stalls, or the file is another one; says what was expected and what was found, and leaves nothing behind.
        FileError: the source, or what is in the place of the archive, is no regular file.
        WriteError: there is no room for it.
    """
    _check_source(source)
    with _repository(root) as repository:
        archive = _chosen(manifest, source)
        path = root / archive.file
        pointer = path.with_name(f"{path.name}.dvc")
        below = root.resolve().relative_to(Path(repository.root_dir).resolve()).parts
        if below[:1] != ("data",) or repository.scm.is_ignored(str(pointer.absolute())):
            raise DataError(
                f"{pointer} is no place for a pointer that git keeps: choose a folder directly below data/, such as "
                "--root data/mine"
            )
        recorded = _recorded(pointer, archive.md5)
        expected = archive if recorded is None else replace(archive, md5=recorded.md5)
        fetched = not path.exists()
        if fetched:
            _bring(source, path, expected)
        else:
            _require_same(path, expected)
        if recorded is None:
            _record(repository, source, path, pointer)
        elif fetched and recorded.source != source:
            logger.info("%s goes on naming %s, where the same file came from", pointer, recorded.source)
        return Import(path, pointer, fetched, bool(expected.stated))


def _check_source(source: str) -> None:
    scheme, mark, _ = source.partition("://")
    if not source.isprintable() or (mark and scheme.lower() not in SCHEMES):
        raise DataError(
            f"{source} cannot be read: expected an address that begins with {SCHEMES[0]}://, {SCHEMES[1]}:// or "
            f"{SCHEMES[2]}:// (with plug-ins of DVC also {', '.join(SCHEMES[3:])}), or the path of a file"
        )
    if mark and urlsplit(source).password is not None:
        raise DataError(
            f"the address at {urlsplit(source).hostname} has a password and would be recorded in a file for git: fetch "
            "the archive by hand, and import the file"
        )


def _require_same(path: Path, expected: Archive) -> None:
    """Make sure that a file that is there already is the expected archive."""
    if not expected.stated:
        raise DataError(
            f"{path} is there already, without a pointer, and its manifest states no hash by which it could be told: "
            "remove it to import it; it can be used without being imported"
        )
    if problems := expected.problems(path):
        raise DataError(f"{path} is there and is not {expected.file}: {'; '.join(problems)}; remove it to import it")


@contextmanager
def _repository(root: Path) -> Iterator[Repo]:
    """The DVC repository of the working folder, in which `root` has to lie."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    # What to type next, which `lska` says itself.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        repository = Repo()
    except NotDvcRepoError as error:
        raise DataError(f"{Path.cwd()} is in no project with DVC (.dvc/): run this in the project's folder") from error
    with repository:
        top = Path(repository.root_dir).resolve()
        if not root.resolve().is_relative_to(top):
            raise DataError(
                f"{root} lies outside the project {top}, where DVC keeps no pointers: put the archive there by hand, "
                "see with `lska data check NAME --root ... --archives` whether it is the right one, and point the "
                "setting root to it (docs/data.md)"
            )
        yield repository


def _chosen(manifest: Path, source: str) -> Archive:
    """The archive of a manifest that `source` is, by its address or its name; with the suffix that `source` has."""
    name = posixpath.basename(urlsplit(source).path) if "://" in source else Path(source).name
    archives = _candidates(manifest)
    for archive in archives:
        if source == archive.url:
            return archive
    alike = [archive for archive in archives if is_archive(name) and stem(name) == stem(archive.file)]
    for archive in sorted(alike, key=lambda archive: archive.file != name):
        return archive if name == archive.file else Archive(name, holds=archive.holds, rename=archive.rename)
    expected = shown_names([archive.file for archive in archives])
    others = {path: read_archives(path) for path in sorted(BUNDLED.glob("*.yaml")) if path != manifest}
    hint = ", ".join(
        path.stem
        for path, listed in others.items()
        if any(source == one.url or stem(name) == stem(one.file) for one in listed)
    )
    raise DataError(
        f"{source}: {name} is no archive of {manifest.stem}, expected {expected}; "
        + (f"it is one of {hint}" if hint else "if it is one under another name, rename it")
    )


def _candidates(path: Path) -> list[Archive]:
    """Listed archives, the one of its own that a dense set may name, and a tar file for each split of class folders."""
    kind = manifest_kind(read_yaml(path), path)
    manifest = load_manifest(path, kind)
    own = [manifest.archive] if kind in ("detection", "segmentation") and manifest.archive else []
    names = [*own, *(f"{split}.tar" for split in (manifest.splits if kind == "classification" else ()))]
    known = {one.file for one in manifest.archives}
    return [*manifest.archives, *(Archive(name) for name in names if name not in known)]


def _bring(source: str, path: Path, expected: Archive) -> None:
    """Fetch `source` beside `path` and, if it is as expected, put it there."""
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    # Without a hash, nobody could tell whether two pieces are of the same file.
    hashed = expected.md5 is not None or expected.sha256 is not None
    complete = False
    with _partial(path, expected) as partial:
        going_on = hashed and partial.stat().st_size > 0
        try:
            _fetch(source, partial, path, going_on)
            complete = True
            problems = expected.problems(partial)
            if problems and going_on:
                logger.info("%s: the rest does not fit what was there; fetching all of it again", source)
                _fetch(source, partial, path, go_on=False)
                problems = expected.problems(partial)
            if problems:
                raise DataError(f"{source} is not {expected.file}: {'; '.join(problems)}; nothing was kept of it")
            with writing(path):
                partial.replace(path)
        finally:
            if complete or not hashed or not partial.stat().st_size:
                partial.unlink(missing_ok=True)
                _remove_empty(made)


@contextmanager
def _partial(path: Path, expected: Archive) -> Iterator[Path]:
    """The temporary file beside `path` that the expected archive is fetched into, with what is there of it already.

    Its name is the same at every call, so that the next one can go on, and those of other archives are removed.
    """
    key = hashlib.sha256(repr((expected.md5, expected.sha256)).encode()).hexdigest()[:8]
    partial = path.with_name(f".{path.name}.{key}.tmp{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.iterdir():
            if is_temporary(other) and other.name.startswith(f".{path.name}.") and other != partial:
                other.unlink(missing_ok=True)
        lock = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
    except BlockingIOError as error:
        raise DataError(f"{path} is being imported by another process; wait for it, or stop it") from error
    finally:
        os.close(lock)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _fetch(source: str, partial: Path, path: Path, go_on: bool) -> None:
    """Write the content of `source` to `partial`, with `go_on` what is missing there."""
    from tqdm import tqdm

    logger.info("fetching %s", source)
    with _reading(source):
        stream, start, size = _opened(source, partial.stat().st_size if go_on else 0)
    with stream, writing(path), partial.open("r+b" if start else "wb") as target:
        target.seek(start)
        with tqdm(total=size, initial=start, unit="B", unit_scale=True, disable=None) as bar:
            for chunk in _chunks(stream, source):
                target.write(chunk)
                bar.update(len(chunk))
        target.flush()
        os.fsync(target.fileno())
    if size is not None and (found := partial.stat().st_size) < size:
        raise DataError(f"{source} ended after {found:,} of {size:,} bytes; try again")


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Name `source` in whatever is raised when it is read."""
    try:
        yield
    except FileError:
        raise
    except TimeoutError as error:
        raise _stalled(source, "nothing") from error
    except Exception as error:  # DVC's file systems raise what the libraries under them raise
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{source} cannot be read ({reason}); check address and connection, and try again") from error


def _opened(source: str, start: int) -> tuple[IO[bytes], int, int | None]:
    """The content of a source from byte `start` on, or all of it where it cannot be had in parts; from where; its size.
    """
    if source.startswith(("http://", "https://")):
        # In one go: not every server has byte ranges, and one that has none answers with the whole file.
        headers = {"User-Agent": "lska"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            answer = urlopen(Request(source, headers=headers), timeout=PATIENCE)
        except HTTPError as error:
            if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is there
                return io.BytesIO(), start, start
            raise
        start = start if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
        return answer, start, None if answer.length is None else start + answer.length
    if "://" in source:
        from dvc.fs import parse_external_url

        files, place = parse_external_url(source)
        stream, size = files.open(place, mode="rb", block_size=BLOCK), files.info(place).get("size")
    else:
        stream = open_regular(Path(source))
        size = os.fstat(stream.fileno()).st_size
    start = start if size is None or start <= size else 0
    stream.seek(start)
    return stream, start, size


def _chunks(stream: IO[bytes], source: str) -> Iterator[bytes]:
    """What a stream has to give, as long as it sends `LEAST` bytes in each `PATIENCE` seconds."""
    received, since = 0, time.monotonic()
    read = getattr(stream, "read1", stream.read)  # what has come, without waiting for all of it
    while True:
        with _reading(source):
            chunk = read(CHUNK)
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        if (now := time.monotonic()) - since > PATIENCE:
            if received < LEAST:
                raise _stalled(source, f"{received:,} bytes")
            received, since = 0, now


def _stalled(source: str, sent: str) -> DataError:
    return DataError(f"{source} has sent {sent} for {PATIENCE:.0f} s; check the connection, and try again to go on")


@dataclass(frozen=True)
class _Recorded:
    source: str
    md5: str


def _recorded(pointer: Path, md5: str | None) -> _Recorded | None:
    """What a complete pointer says; None where there is none, an unfinished one, or one of a file with another MD5."""
    if not pointer.is_file():
        return None
    try:
        values = read_yaml(pointer)
    except ValueError as error:
        raise DataError(f"{error}; restore it with `git checkout -- {pointer}`, or delete it to import anew") from error
    try:
        recorded = _Recorded(str(values["deps"][0]["path"]), str(values["outs"][0]["md5"]))
    except (KeyError, IndexError, TypeError):
        return None
    if not re.fullmatch("[0-9a-f]{32}", recorded.md5):
        raise DataError(
            f"{pointer}: expected the MD5 of a file, found {quoted(recorded.md5)}; restore it with `git checkout -- "
            f"{pointer}`, or delete it to import anew"
        )
    return recorded if md5 in (None, recorded.md5) else None


def _record(repository: Repo, source: str, path: Path, pointer: Path) -> None:
    """Have DVC write the pointer of a file that is there, as if it had fetched it from `source`."""
    from dvc.exceptions import DvcException

    logger.info("recording %s in DVC, which asks for what %s says of it", path, source)
    try:
        # Without fetching it once more, which `dvc import-url` would do before anything could be compared.
        repository.imp_url(source, out=str(path), no_exec=True, force=True)
        repository.commit(str(pointer), force=True)
    except DvcException as error:
        raise DataError(f"DVC cannot record {path} ({error}); it is there and is the right file") from error
