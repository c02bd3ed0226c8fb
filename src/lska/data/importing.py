"""Importing an archive of a data set: fetched, compared with its manifest, recorded in DVC by a pointer beside it."""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lska.data.archives import CHUNK, Archive, is_archive, read_archives, stem
from lska.data.layouts import shown
from lska.data.manifest import BUNDLED, kind_of
from lska.data.tars import DataError
from lska.files import read_yaml

if TYPE_CHECKING:
    from dvc.repo import Repo

logger = logging.getLogger(__name__)


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
        source: an address that DVC understands (http, https, s3 and so on), or the path of a file.

    Raises:
        DataError: `root` is not inside the project, the manifest lists no such archive, the source cannot be read, or
            the file is another one; says what was expected and what was found, and leaves nothing behind.
    """
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
        return Import(path, pointer, fetched, expected.known)


def _require_same(path: Path, expected: Archive) -> None:
    """Make sure that a file that is there already is the expected archive."""
    if not expected.known:
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
    for archive in archives:
        if is_archive(name) and stem(name) == stem(archive.file):
            return archive if name == archive.file else Archive(name, holds=archive.holds, rename=archive.rename)
    expected = shown([archive.file for archive in archives])
    others = (path for path in sorted(BUNDLED.glob("*.yaml")) if path != manifest and _lists(path, name, source))
    hint = ", ".join(path.stem for path in others)
    raise DataError(
        f"{source}: {name} is no archive of {manifest.stem}, expected {expected}; "
        + (f"it is one of {hint}" if hint else "if it is one under another name, rename it")
    )


def _candidates(manifest: Path) -> list[Archive]:
    """Listed archives, the one of its own that a dense set may name, and a tar file for each split of class folders."""
    values = read_yaml(manifest)
    own = [values["archive"]] if "archive" in values else []
    if kind_of(values) == "classification":
        own += [f"{split}.tar" for split in values.get("splits", {})]
    listed = read_archives(manifest)
    return [*listed, *(Archive(name) for name in own if name not in {one.file for one in listed})]


def _lists(manifest: Path, name: str, source: str) -> bool:
    return any(source == one.url or stem(name) == stem(one.file) for one in read_archives(manifest))


def _bring(source: str, path: Path, expected: Archive) -> None:
    """Fetch `source` beside `path` and, if it is as expected, put it there."""
    partial = path.with_name(f".{path.name}.partial")
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a hash, nobody could tell whether two pieces are of the same file.
    hashed = expected.md5 is not None or expected.sha256 is not None
    going_on = hashed and partial.is_file() and partial.stat().st_size > 0
    complete = False
    try:
        _fetch(source, partial, going_on)
        complete = True
        problems = expected.problems(partial)
        if problems and going_on:
            logger.info("%s: the rest does not fit what was there; fetching all of it again", source)
            _fetch(source, partial, go_on=False)
            problems = expected.problems(partial)
        if problems:
            raise DataError(f"{source} is not {expected.file}: {'; '.join(problems)}; nothing was kept of it")
        partial.replace(path)
    finally:
        if complete or not hashed or not partial.is_file() or not partial.stat().st_size:
            partial.unlink(missing_ok=True)
            _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _fetch(source: str, partial: Path, go_on: bool) -> None:
    """Write the content of `source` to `partial`, with `go_on` what is missing there."""
    from dvc.fs import parse_external_url

    start = partial.stat().st_size if go_on else 0
    # DVC's file systems raise what the libraries under them raise, which has no common ancestor.
    try:
        files, place = parse_external_url(source)
        size = files.info(place).get("size")
        try:
            _copy(files, place, partial, start, size)
        except ValueError:  # of a server that has no byte ranges
            if not start:
                raise
            _copy(files, place, partial, 0, size)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{source} cannot be read ({reason}); check address and connection, and try again") from error
    if size is not None and (found := partial.stat().st_size) < size:
        raise DataError(f"{source} ended after {found:,} of {size:,} bytes; try again")


def _copy(files: Any, place: str, partial: Path, start: int, size: int | None) -> None:
    """Copy what follows byte `start`."""
    from tqdm import tqdm

    # In one go: servers without byte ranges cannot be read in blocks.
    whole = {} if start or files.protocol not in ("http", "https") else {"block_size": 0}
    with files.open(place, mode="rb", **whole) as stream, partial.open("r+b" if start else "wb") as target:
        if start:
            stream.seek(start)
            target.seek(start)
        with tqdm(total=size, initial=start, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := stream.read(CHUNK):
                target.write(chunk)
                bar.update(len(chunk))
        target.flush()
        os.fsync(target.fileno())


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
    return recorded if md5 in (None, recorded.md5) else None


def _record(repository: Repo, source: str, path: Path, pointer: Path) -> None:
    """Have DVC write the pointer of a file that is there, as if it had fetched it from `source`."""
    from dvc.exceptions import DvcException

    try:
        # Without fetching it once more, which `dvc import-url` would do before anything could be compared.
        repository.imp_url(source, out=str(path), no_exec=True, force=True)
        repository.commit(str(pointer), force=True)
    except DvcException as error:
        raise DataError(f"DVC cannot record {path} ({error}); it is there and is the right file") from error
