"""A Slurm for all tests here, and a tiny project that has run on this machine alone, to compare with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_project import RUN, ClusterProject, tiny_scale
from filelock import FileLock
from own_slurm import Cluster, missing, running, wait_for
from whole_project import copy_project


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running Slurm."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    # Daemons outlive a killed pytest, so a signal to end has to get as far as their end below.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    with running(folder) as started:
        yield started
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a copy of the project in which all tables were made without a cluster, by one of all workers."""
    own = tmp_path_factory.getbasetemp()
    root = (own if worker_id == "master" else own.parent) / "local"
    with FileLock(root.with_suffix(".lock")):
        if not (root / "made").exists():
            copied = copy_project(root)
            (root / "tiny.yaml").write_text(tiny_scale(), encoding="utf-8")
            copied.snakemake("--configfile", "tiny.yaml", "--", "all_tables")
            (root / "made").touch()
    return root


@pytest.fixture
def fresh(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterProject]:
    """A project without results."""
    copied = copy_project(tmp_path / "project")
    (copied.root / "tiny.yaml").write_text(tiny_scale(), encoding="utf-8")
    yield from _project(copied.root, cluster)


@pytest.fixture
def project(cluster: Cluster, local: Path, tmp_path: Path) -> Iterator[ClusterProject]:
    """A project with the local results but for one training, `RUN`, and all that follows from it."""
    root = tmp_path / "project"
    shutil.copytree(local, root, symlinks=True)
    shutil.rmtree(root / "work" / "tiny" / "train" / RUN)
    lost = (f"checkpoints/tiny/{RUN}.*", f"results/tiny/metrics/classification/{RUN}.*", "results/tiny/*/table_03.*")
    for path in [path for pattern in lost for path in root.glob(pattern)]:
        path.unlink()
    yield from _project(root, cluster)


def _project(root: Path, cluster: Cluster) -> Iterator[ClusterProject]:
    made = ClusterProject(root, cluster)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    subprocess.run(["scancel", "--full", "--user", "root"], env=cluster.environment(), check=False)
    # What ran on a node that was lost, Slurm does not end.
    subprocess.run(["pkill", "-9", "-f", "--", str(root)], check=False)
    wait_for(lambda: not cluster.jobs("PENDING", "RUNNING", "COMPLETING"), "the end of all jobs")
