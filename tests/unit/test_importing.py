"""`lska data import`: archives from real servers, compared with their manifest before they are there, and pointers."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from archive_sets import pack
from dvc.repo import Repo

from lska.cli import main
from lska.data import importing
from lska.provenance.metric_files import project_root

pytestmark = pytest.mark.usefixtures("logging_as_before")

Capture = pytest.CaptureFixture[str]
PLACE, POINTER = Path("data/things/things.tar.gz"), Path("data/things/things.tar.gz.dvc")


# --- A project with DVC, an archive, and a web server on loopback that has it -----------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with git and DVC, and the project's own rules of what git ignores, as the working folder."""
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    run("git", "init", "--quiet")
    Repo.init().close()
    shutil.copy(project_root() / ".gitignore", ".gitignore")
    return folder


def run(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of about 100,000 bytes."""
    files = {f"things/cat/{number}.jpg": os.urandom(6_000) for number in range(16)}
    return pack(tmp_path / "served" / "things.tar.gz", files)


def manifest(archive: Path, *known: str, url: str = "https://example.org/things") -> None:
    """Write the manifest of a set that is distributed as `archive`, of which it states what is in `known`."""
    data = archive.read_bytes()
    facts = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    entry = {"file": archive.name, "url": url, **{name: facts[name] for name in known}}
    content = {"kind": "perturbed", "name": "things", "title": "", "source": "", "terms": "", "classes": ["cat"],
               "splits": {"test": {"count": 16, "per_class": [16, 16]}}, "archives": [entry]}  # fmt: skip
    Path("things.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def imported(source: object, *words: str) -> int:
    return main(["data", "import", "things.yaml", "--from", str(source), *words])


def error(capsys: Capture) -> str:
    """The message that ended a command."""
    said = capsys.readouterr().err
    return said[said.index("lska: error: ") :]


@dataclass
class Served:
    """A web server on loopback for the files of a folder."""

    folder: Path
    address: str = ""
    cut: int | None = None
    """Bytes of a file after which it hangs up, or with `stalls` says nothing more."""
    stalls: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    """Files."""


def handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = served.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":  # as DVC asks
                return
            served.sent += 1
            self.wfile.write(data[: served.cut])
            self.close_connection = True
            if served.stalls:
                served.released.wait(60)

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def served(archive: Path) -> Iterator[Served]:
    found = Served(archive.parent)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_port}/{archive.name}"
    yield found
    found.released.set()
    server.shutdown()
    thread.join()


# --- Fetching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [("md5", "bytes"), ()])
def test_an_archive_is_fetched_and_recorded_and_then_left_alone(
    repository: Path, archive: Path, served: Served, capsys: Capture, known: tuple[str, ...]
) -> None:
    manifest(archive, *known)
    assert imported(served.address) == 0
    assert PLACE.read_bytes() == archive.read_bytes()
    said = capsys.readouterr()
    assert f"{PLACE}: imported" in said.out and ("its hash is not known" in said.out) == (known == ())
    recorded = yaml.safe_load(POINTER.read_text())
    assert recorded["deps"][0]["path"] == served.address
    assert recorded["outs"][0]["md5"] == hashlib.md5(archive.read_bytes()).hexdigest()
    before, requests = PLACE.stat().st_mtime_ns, served.sent
    assert imported(served.address) == 0
    assert "there already" in capsys.readouterr().out
    assert PLACE.stat().st_mtime_ns == before and served.sent == requests
    # Exactly the pointer is for git, and DVC knows the file as its own and unchanged.
    assert run("git", "status", "--porcelain", "--untracked-files=all", "data") == f"?? {POINTER}\n"
    assert "modified" not in (status := run("dvc", "data", "status")) and "Not in cache" not in status


def test_a_local_file_and_one_in_a_bucket_are_imported_as_from_a_server(
    repository: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    manifest(archive, "md5")
    assert imported(archive) == 0
    assert PLACE.read_bytes() == archive.read_bytes() and not PLACE.is_symlink()
    shutil.rmtree("data")
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
        assert imported("s3://sets/archives/things.tar.gz") == 0
        assert PLACE.read_bytes() == archive.read_bytes()
        assert yaml.safe_load(POINTER.read_text())["deps"][0]["path"] == "s3://sets/archives/things.tar.gz"
    finally:
        server.stop()


@pytest.mark.parametrize("known", ["sha256", "bytes"])
def test_a_wrong_archive_leaves_nothing_and_says_what_was_expected(
    repository: Path, archive: Path, served: Served, capsys: Capture, known: str
) -> None:
    manifest(archive, known)
    expected = yaml.safe_load(Path("things.yaml").read_text())["archives"][0][known]
    archive.write_bytes(archive.read_bytes() + b"more")
    assert imported(served.address) == 1
    said = error(capsys)
    assert f"{served.address} is not things.tar.gz: expected" in said and "nothing was kept of it" in said
    assert (f"expected {expected:,} bytes" if known == "bytes" else f"expected {known} {expected}") in said
    assert not [path for path in Path("data").rglob("*") if not path.is_dir()]


def test_a_download_that_is_cut_off_or_stalls_leaves_nothing(
    repository: Path, archive: Path, served: Served, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PATIENCE", 1.0)
    manifest(archive, "md5")
    served.cut = 40_000
    for served.stalls in (False, True):
        assert imported(served.address) == 1
        assert f"lska: error: {served.address} " in (said := error(capsys)) and "try again" in said
        assert not [path for path in Path("data").rglob("*") if not path.is_dir()]


def test_an_interruption_before_the_pointer_is_made_good(
    repository: Path, archive: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    manifest(archive, "md5")

    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, "_record", interrupted)
        assert imported(served.address) == 130
    assert PLACE.is_file() and not POINTER.exists()
    assert "fetching" in capsys.readouterr().err
    assert imported(served.address) == 0
    assert POINTER.is_file() and "fetching" not in capsys.readouterr().err


def test_what_cannot_be_fetched_is_refused_at_once_and_leaves_nothing(
    repository: Path, archive: Path, served: Served, capsys: Capture, tmp_path: Path
) -> None:
    manifest(archive, "md5")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/things.tar.gz")
    refusals = {
        f"{served.address}/none/things.tar.gz": "cannot be read (HTTPError: HTTP Error 404",
        "/absent/things.tar.gz": "no such file",
        str(tmp_path / "pipe/things.tar.gz"): "expected a regular file, found a named pipe",
        "http://127.0.0.1:9/things.tar.gz": "http://127.0.0.1:9/things.tar.gz cannot be read",
        "file:///tmp/things.tar.gz": "cannot be read: expected an address that begins with http://, https:// or s3://",
        "http://me:secret@127.0.0.1:9/things.tar.gz": "at 127.0.0.1 has a password",
        "../things\x1b.tar.gz": "cannot be read: expected an address",
        "http://127.0.0.1:9/others.zip": "others.zip is no archive of things, expected 'things.tar.gz'",
    }
    for source, message in refusals.items():
        assert imported(source) == 1
        said = error(capsys)
        assert message in said and "secret" not in said, source
        assert not [path for path in Path("data").rglob("*") if not path.is_dir()], source


def test_a_full_disk_is_told_with_file_and_folder(
    repository: Path, archive: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest(archive, "md5")
    monkeypatch.setattr("lska.provenance.files.os.fsync", full)
    assert imported(archive) == 1
    assert f"{PLACE}: cannot be written in the folder data/things (No space left on device)" in error(capsys)
    assert not PLACE.exists()


# --- Pointers --------------------------------------------------------------------------------------------------------


def test_a_root_without_place_for_a_pointer_is_refused(
    repository: Path, archive: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(archive, "md5")
    for root, message in {
        "../elsewhere": "../elsewhere/things.tar.gz.dvc: git would not keep this pointer",
        "data/a/b": "data/a/b/things.tar.gz.dvc: git would not keep this pointer; choose a folder",
        "src": "src/things.tar.gz.dvc: git would not keep this pointer; choose a folder directly below data/",
    }.items():
        assert imported(archive, "--root", root) == 1
        assert message in error(capsys)
        assert not Path(root, "things.tar.gz").exists()
    (tmp_path / "things.yaml").write_bytes(Path("things.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert imported(archive) == 1
    assert "is in no project with DVC" in error(capsys)


@pytest.mark.parametrize(
    ("known", "message"), [(("md5",), "not known to be things.tar.gz: expected md5"), ((), "nothing is stated")]
)
def test_a_file_of_the_same_name_that_may_be_another_is_not_taken(
    repository: Path, archive: Path, capsys: Capture, known: tuple[str, ...], message: str
) -> None:
    manifest(archive, *known)
    PLACE.parent.mkdir(parents=True)
    PLACE.write_bytes(b"mine")
    assert imported(archive) == 1
    assert message in error(capsys)
    assert PLACE.read_bytes() == b"mine" and not POINTER.exists()


def test_a_committed_pointer_decides_what_is_the_right_archive_and_is_pulled_alone(
    repository: Path, archive: Path, served: Served, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone of a project whose pointers are committed, without its data."""
    manifest(archive)
    assert imported(served.address) == 0
    run("dvc", "remote", "add", "--quiet", "lab", str(tmp_path / "remote"))
    run("dvc", "push", "--quiet", "--remote", "lab", str(POINTER))
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "ours")
    run("git", "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    assert [path.name for path in PLACE.parent.iterdir()] == [POINTER.name]
    before, right = POINTER.read_text(), archive.read_bytes()
    archive.write_bytes(right + b"changed upstream")
    assert imported(served.address) == 1
    assert "expected md5" in error(capsys)
    run("dvc", "pull", "--quiet", "--remote", "lab", str(POINTER))
    assert PLACE.read_bytes() == right and POINTER.read_text() == before
    POINTER.write_text("outs: [{md5: x}]")
    assert imported(served.address) == 1
    assert f"{POINTER}: expected the MD5 of a file, found 'x'; restore it" in error(capsys)
