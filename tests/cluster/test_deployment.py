"""Jobs in a container or a conda environment, beside stand-ins for both programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole_project import SCALE, Project, copy_project

pytestmark = pytest.mark.timeout(300)

TARGET = "results/tiny/data/shapes.json"

APPTAINER = """#!/bin/sh
[ "$1" = --version ] && { echo apptainer version 1.3.4; exit 0; }
echo "$@" >> calls
while [ "$1" != -c ]; do shift; done
exec bash -c "$2"
"""

CONDA = """#!/bin/sh
case "$1" in
  info) echo '{"conda_prefix": "PREFIX", "root_prefix": "PREFIX", "platform": "linux-64", "envs": ["PREFIX"]}' ;;
  config) echo '{"get": {"channel_priority": "strict"}}' ;;
  env) echo "name: $4" ;;
  *) echo conda 24.7.1 ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    copied = copy_project(tmp_path / "project")
    (copied.root / "tiny.yaml").write_text(SCALE.read_text(), encoding="utf-8")
    return copied


def run(project: Project, commands: Path, method: str, **variables: str) -> None:
    """Make a data set with jobs deployed by `method`, the commands in a folder coming first."""
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project.root / "src"), **variables}
    words = ["snakemake", "--cores", "1", "--configfile", "tiny.yaml", "--software-deployment-method", method]
    done = subprocess.run(
        [*words, "--apptainer-args=--nv", "--", TARGET], cwd=project.root, env=environment, text=True,
        capture_output=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert json.loads((project.root / TARGET).read_text(encoding="utf-8"))["name"] == "shapes"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def test_jobs_run_in_the_image_that_was_chosen(project: Project, tmp_path: Path) -> None:
    write(tmp_path / "bin" / "apptainer", APPTAINER)
    image = tmp_path / "mine.sif"
    image.touch()
    run(project, tmp_path / "bin", "apptainer", LSKA_CONTAINER=str(image))
    (call,) = (line for line in (project.root / "calls").read_text().splitlines() if "lska data prepare" in line)
    assert call.startswith("exec --home") and " --nv " in call and f" {image} bash -c " in call


def test_jobs_run_in_the_environment_that_was_chosen(project: Project, tmp_path: Path) -> None:
    write(tmp_path / "bin" / "conda", CONDA.replace("PREFIX", str(tmp_path)))
    # Snakemake takes PYTHONPATH away from an environment, which has the project's code by itself.
    code = f"export PYTHONPATH={project.root}/src"
    write(tmp_path / "bin" / "activate", f'echo "$1" >> {tmp_path}/activated\n{code}\n')
    run(project, tmp_path / "bin", "conda", LSKA_CONDA_ENV="mine")
    assert (tmp_path / "activated").read_text(encoding="utf-8").splitlines() == ["mine"]
