"""Importing an archive of a data set: fetched, compared with its manifest, recorded in DVC by a pointer beside it."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lska.data.archives import CHUNK
from lska.data.entries import DataError, shown_names
from lska.data.manifest import Archive, is_archive, load_manifest, stem
from lska.provenance.files import FileError, WriteError, atomic_path, open_regular, read_yaml, writing
from lska.provenance.progress_bar import Bar

if TYPE_CHECKING:
    from dvc.repo import Repo

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3", "gs", "azure", "ssh", "hdfs", "webhdfs", "webdav", "webdavs", "oss", "gdrive")
"""Of addresses that an archive is fetched from: those that DVC reads; all but the first three need a plug-in of it."""

PATIENCE = 60.0
"""Seconds in which a server has to send something."""


class Import(NamedTuple):
    """An archive that was imported (`fetched`) or was there already, with the file for git that says what it is;
    whether a size or hash of it is `known`."""

    path: Path
    pointer: Path
    fetched: bool
    known: bool


def import_archive(manifest: Path, source: str, root: Path) -> Import:
    """Bring the archive at `source` into the folder `root` under its own name, with a pointer beside it.

    It appears under that name only after it was found to be the one that `manifest` describes; a call for what is there
    already does nothing. Raises DataError, which says what was expected and what was found, and leaves no file behind;
    FileError where the source (an address with one of `SCHEMES`, or a path) is no regular file; WriteError where there
    is no room.
    """
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
    with _repository() as repository:
        archive = _chosen(manifest, source)
        path = root / archive.file
        pointer, top = path.with_name(f"{path.name}.dvc"), Path(repository.root_dir).resolve()
        inside = root.resolve().is_relative_to(top / "data")
        if not inside or repository.scm.is_ignored(str(pointer.absolute())):
            raise DataError(
                f"{pointer}: git would not keep this pointer; choose a folder directly below data/, such as --root "
                "data/mine. For another folder, put the archive there by hand, check it with `lska data check NAME "
                "--root ... --archives`, and set root to it (docs/data.md)"
            )
        recorded = _recorded(pointer)
        expected = replace(archive, md5=archive.md5 or recorded)
        fetched = not path.exists()
        if fetched:
            logger.info("fetching %s", source)
            with atomic_path(path) as temporary:
                _fetch(source, temporary, path)
                if problems := expected.problems(temporary):
                    raise DataError(f"{source} is not {expected.file}: {'; '.join(problems)}; nothing was kept of it")
        else:
            problems = expected.problems(path) if expected.stated else ["nothing is stated by which it could be told"]
            if problems:
                raise DataError(
                    f"{path} is there already and not known to be {expected.file}: {'; '.join(problems)}; remove it to "
                    "import it"
                )
        if recorded is None or recorded != expected.md5:
            _record(repository, source, path, pointer)
        return Import(path, pointer, fetched, bool(expected.stated))


@contextmanager
def _repository() -> Iterator[Repo]:
    """The DVC repository of the working folder."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    # What to type next, which `lska` says itself.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        repository = Repo()
    except NotDvcRepoError as error:
        raise DataError(f"{Path.cwd()} is in no project with DVC (.dvc/): run this in the project's folder") from error
    with repository:
        yield repository


def _chosen(manifest: Path, source: str) -> Archive:
    """The archive of a manifest that `source` is, by its address or its name; with the suffix that `source` has."""
    name = posixpath.basename(urlsplit(source).path) if "://" in source else Path(source).name
    described = load_manifest(manifest, None)
    # Those that are listed, and the one of its own that a dense set may name.
    archives, own = list(described.archives), getattr(described, "archive", None)
    if own is not None and own not in [one.file for one in archives]:
        archives.append(Archive(own))
    for archive in archives:
        if source == archive.url or name == archive.file:
            return archive
    for archive in archives:
        if is_archive(name) and stem(name) == stem(archive.file):
            return Archive(name, holds=archive.holds, rename=archive.rename)
    raise DataError(
        f"{source}: {name} is no archive of {manifest.stem}, expected {shown_names([one.file for one in archives])}; "
        "if it is one under another name, rename it"
    )


def _fetch(source: str, temporary: Path, path: Path) -> None:
    """Write the content of `source` to a temporary file for `path`, with a progress bar on a terminal."""
    try:
        stream, size = _opened(source)
        with stream, Bar(total=size, unit="B", unit_scale=True) as bar, temporary.open("wb") as target:
            while chunk := stream.read(CHUNK):
                with writing(path):
                    target.write(chunk)
                bar.update(len(chunk))
    except (FileError, WriteError):
        raise
    except Exception as error:  # DVC's file systems raise what the libraries under them raise
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{source} cannot be read ({reason}); check address and connection, and try again") from error
    if size is not None and (found := temporary.stat().st_size) < size:
        raise DataError(f"{source} ended after {found:,} of {size:,} bytes; try again")


def _opened(source: str) -> tuple[IO[bytes], int | None]:
    """The content of a source, and its size where that is known."""
    if source.startswith(("http://", "https://")):
        answer = urlopen(Request(source, headers={"User-Agent": "lska"}), timeout=PATIENCE)
        return answer, answer.length
    if "://" in source:
        from dvc.fs import parse_external_url

        files, place = parse_external_url(source)
        return files.open(place, mode="rb"), files.info(place).get("size")
    return open_regular(Path(source)), Path(source).stat().st_size


def _recorded(pointer: Path) -> str | None:
    """The MD5 that a complete pointer states; None where there is none, or an unfinished one."""
    if not pointer.is_file():
        return None
    try:
        md5 = str(read_yaml(pointer)["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        return None
    if not re.fullmatch("[0-9a-f]{32}", md5):
        raise DataError(f"{pointer}: expected the MD5 of a file, found {md5!r}; restore it, or delete it")
    return md5


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
