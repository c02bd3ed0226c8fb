"""A git and DVC repository with published weights of three networks, its clones, and an S3 server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_project import RECIPE, SETTINGS, free_port

from lska.pipeline.checkpoints import training_of
from lska.provenance.metric_files import file_md5, write_sealed
from lska.settings.scale import load

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

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m` something here; output is captured."""
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=_clean(), text=True, capture_output=True,
            timeout=300, check=False,
        )  # fmt: skip

    def lska(self, *words: str) -> str:
        """What a successful `lska weights` says."""
        done = self.run("lska", "weights", *words, "--config", "config.yaml")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def refused(self, *words: str) -> str:
        """What a failing `lska weights` says: one message, no traceback."""
        done = self.run("lska", "weights", *words, "--config", "config.yaml")
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def dvc(self, *words: str) -> str:
        done = self.run("dvc", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def weights(self, name: str = NAMES[0]) -> Path:
        return self.folder / "checkpoints" / "test" / f"{name}.safetensors"

    def pointer(self, name: str = NAMES[0]) -> Path:
        return self.weights(name).with_suffix(".safetensors.dvc")

    def object(self, name: str = NAMES[0]) -> Path:
        """What the remote in the folder `store` holds for a network."""
        md5 = yaml.safe_load(self.pointer(name).read_text())["outs"][0]["md5"]
        return self.folder / "store" / "files" / "md5" / md5[:2] / md5[2:]

    def commit(self, *paths: str) -> None:
        git(self.folder, "add", "--", *(paths or ["."]))
        git(self.folder, "commit", "-qm", "Work")

    def cloned(self, folder: Path) -> Repository:
        """A clone, without weights and without DVC's cache."""
        git(self.folder.parent, "clone", "-q", str(self.folder), str(folder))
        return Repository(folder)


def trained(name: str, content: bytes) -> None:
    """Leave weights as today's training of `name` leaves them; what they hold is not looked at."""
    one = training_of(load([Path("config.yaml")]), name)
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
        trained(name, os.urandom(20_000 + number))
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
            process.kill()
            process.wait()


def _await(server: Server, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no S3 server after a minute: {log.read_text()}")


def use_s3(repository: Repository, address: str) -> None:
    """Add the server's bucket as the default remote that git knows, without credentials."""
    repository.dvc("remote", "add", "-f", "-d", "bucket", f"s3://{BUCKET}/project")
    repository.dvc("remote", "modify", "bucket", "endpointurl", address)


def sign_in(repository: Repository, key: str = KEY, secret: str = SECRET) -> None:
    """Give DVC credentials as docs/weights.md says, in the file that git ignores."""
    repository.dvc("remote", "modify", "--local", "bucket", "access_key_id", key)
    repository.dvc("remote", "modify", "--local", "bucket", "secret_access_key", secret)
