"""A git and DVC repository with published weights of three networks, its clones, and an S3 server on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_project import RECIPE, SETTINGS, free_port

from lska.pipeline.checkpoints import training_of
from lska.provenance.metric_files import file_md5, write_sealed
from lska.settings.scale import Config, load

NAMES = tuple(f"van_tiny-lska-k{kernel}-s0" for kernel in (7, 23, 53))
IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org")
BUCKET = "weights"
KEY, SECRET = "tester", "secret of the tester"


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *IDENTITY, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Repository:
    """A checkout, in which `lska weights` and DVC run as processes of their own."""

    folder: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m` something here; output is captured."""
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env={**_clean(), **environment}, text=True,
            capture_output=True, timeout=300, check=False,
        )  # fmt: skip

    def lska(self, *words: str, changes: dict[str, Any] | None = None, **environment: str) -> str:
        """What a successful `lska weights` says."""
        done = self.tried(*words, changes=changes, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def refused(self, *words: str, changes: dict[str, Any] | None = None, **environment: str) -> str:
        """What a failing `lska weights` says: one message, no traceback."""
        done = self.tried(*words, changes=changes, **environment)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def tried(self, *words: str, changes: dict[str, Any] | None = None, **environment: str) -> Any:
        settings = ["--config", "config.yaml", "--set", json.dumps(changes or {})]
        return self.run("lska", "weights", *words, *settings, **environment)

    def dvc(self, *words: str, **environment: str) -> str:
        done = self.run("dvc", *words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def config(self, changes: dict[str, Any] | None = None) -> Config:
        """The configuration; asks for the folder as the working one."""
        return load([Path("config.yaml")], changes)

    def weights(self, name: str = NAMES[0]) -> Path:
        return self.folder / "checkpoints" / "test" / f"{name}.safetensors"

    def pointer(self, name: str = NAMES[0]) -> Path:
        return self.weights(name).with_suffix(".safetensors.dvc")

    def object(self, name: str = NAMES[0], store: str = "store") -> Path:
        """What the remote in the folder `store` holds for a network."""
        md5 = yaml.safe_load(self.pointer(name).read_text())["outs"][0]["md5"]
        return self.folder / store / "files" / "md5" / md5[:2] / md5[2:]

    def commit(self, *paths: str) -> None:
        git(self.folder, "add", "--", *(paths or ["."]))
        git(self.folder, "commit", "-qm", "Work")

    def cloned(self, folder: Path) -> Repository:
        """A clone, without weights and without DVC's cache."""
        git(self.folder.parent, "clone", "-q", str(self.folder), str(folder))
        return Repository(folder)


def trained(repository: Repository, name: str, content: bytes) -> None:
    """Leave weights as today's training of `name` leaves them; what they hold is not looked at."""
    one = training_of(repository.config(), name)
    one.weights.parent.mkdir(parents=True, exist_ok=True)
    one.weights.write_bytes(content)
    about = {"md5": file_md5(one.weights), "recipe": one.digest(), "spec": one.spec(), "code": {"dirty": False}}
    sidecar = one.weights.with_suffix(".json")
    write_sealed(sidecar, {"run": name, "origin": "trained", "scale": "test", "finished": time.time(), **about})


def make(folder: Path) -> Repository:
    """Make a repository as the project is one of `folder`, which is the working one: a store inside it, weights ignored
    by git, three trained networks."""
    runs = [{"model": "van_tiny", "attention": "lska", "kernel": [7, 23, 53], "seed": 0}]
    (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "runs": runs}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / ".gitignore").write_text("*.safetensors\n/work/\n")
    git(folder, "init", "-q", "-b", "main")
    made = Repository(folder)
    made.dvc("init", "-q")
    (folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    check_update = false\n    remote = store\n"
        "['remote \"store\"']\n    url = ../store\n    verify = true\n"
    )
    for number, name in enumerate(NAMES):
        trained(made, name, os.urandom(20_000 + number))
    return made


def _clean() -> dict[str, str]:
    """This process's environment without credentials, as on a machine that has none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DVC_"))}
    # No address of a cloud's own metadata service is asked, and nothing is tried for minutes.
    quick = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "2", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**kept, **quick, "HOME": str(Path.cwd() / "nobody's home")}


@dataclass(frozen=True)
class Server:
    """An S3 server in a process of its own."""

    process: subprocess.Popen
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.address, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def s3_server(log: Path, port: int | None = None, **environment: str) -> Iterator[Server]:
    """Start moto with an empty bucket; its words go to `log`."""
    port = port or free_port()
    with log.open("a") as stream:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**_clean(), **environment})
        server = Server(process, port)
        try:
            _await(server, log)
            yield server
        finally:
            server.kill()


@contextmanager
def killed_after(server: Server, sent: int) -> Iterator[tuple[str, threading.Event]]:
    """An address that passes on to the server, and kills it once that has sent so many bytes; and whether it has."""
    killed, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        if killed.is_set():
            client.close()
            return
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            threading.Thread(target=_pump, args=(client, upstream, lambda count: None), daemon=True).start()
            _pump(upstream, client, count)

    def count(bytes_sent: int) -> None:
        nonlocal sent
        sent -= bytes_sent
        if sent < 0:
            server.kill()
            killed.set()
            raise ConnectionError("the server is gone")

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", killed


def _pump(source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            count(len(data))
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _await(server: Server, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no S3 server after a minute: {log.read_text()}")


def use_s3(repository: Repository, address: str, default: bool = True) -> None:
    """Add the server's bucket as a remote that git knows, without credentials."""
    words = ["-d"] if default else []
    repository.dvc("remote", "add", "-f", *words, "bucket", f"s3://{BUCKET}/project")
    repository.dvc("remote", "modify", "bucket", "endpointurl", address)


def sign_in(repository: Repository, key: str = KEY, secret: str = SECRET) -> None:
    """Give DVC credentials as docs/weights.md says, in the file that git ignores."""
    repository.dvc("remote", "modify", "--local", "bucket", "access_key_id", key)
    repository.dvc("remote", "modify", "--local", "bucket", "secret_access_key", secret)
