"""A project with DVC, an archive to be imported into it, and a web server on loopback that has it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from archive_sets import pack
from dvc.repo import Repo

from lska.cli import main
from lska.provenance.metric_files import project_root

Capture = pytest.CaptureFixture[str]


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
    """The message that ended a command."""
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
    stalls: str = ""
    """`HEAD` or `GET`: with which it takes a request and, after `cut` bytes, says nothing more."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end of a test, so that nothing stalls for longer."""
    sent: list[str] = field(default_factory=list)
    """The byte ranges that were asked for, empty for a whole file."""


def handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            if served.stalls == self.command == "HEAD":
                served.released.wait(60)
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
                if served.stalls == self.command:
                    served.released.wait(60)
                elif served.cut is not None:
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
    found.released.set()
    server.shutdown()
    thread.join()
