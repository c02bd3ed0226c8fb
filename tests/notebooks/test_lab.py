"""Opening executed notebooks in JupyterLab."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from tiny_project import free_port

from lska.cli import main
from lska.provenance.metric_files import project_root
from lska.tables.notebooks import lab_command

START = f"import sys; sys.path.insert(0, {str(project_root() / 'src')!r}); from lska.cli import main; sys.exit(main())"


def test_a_scale_without_notebooks_says_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, logging_as_before: None
) -> None:
    (tmp_path / "config").symlink_to(project_root() / "config")
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "--config", "config/small.yaml"]) == 1
    said = capsys.readouterr().err
    assert "results/small/notebooks: no notebooks of the small scale here" in said
    assert "snakemake --cores 2 --configfile config/small.yaml -- all_notebooks" in said


def test_a_browser_is_opened_only_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("results/demo/notebooks")
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert lab_command(folder, ["--port=1"])[-2:] == ["--no-browser", "--port=1"]
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert "--no-browser" not in lab_command(folder, [])


def read(address: str) -> dict:
    """Ask the server, which prints its address a moment before it answers."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.1)
    return pytest.fail(f"{address} does not answer")


def test_without_a_screen_it_prints_an_address_that_shows_the_notebooks(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(project_root() / "config")
    (tmp_path / "results" / "demo" / "notebooks").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "results" / "demo" / "notebooks" / "table_13.ipynb")
    places = {f"JUPYTER_{kind}_DIR": str(tmp_path / "jupyter" / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment = {name: value for name, value in os.environ.items() if not name.endswith("DISPLAY")} | places
    command = [sys.executable, "-c", START, "lab", "--", "--allow-root", f"--port={free_port()}"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = iter(server.stderr.readline, "")
            lines = (re.search(r"(http://127\.0\.0\.1:\d+)/lab/tree/(\S+)\?token=(\w+)", line) for line in said)
            host, folder, token = next(line for line in lines if line).groups()
            assert folder == "results/demo/notebooks"
            listed = read(f"{host}/api/contents/{folder}?token={token}")
            assert [item["path"] for item in listed["content"]] == ["results/demo/notebooks/table_13.ipynb"]
        finally:
            server.terminate()
            server.stderr.close()
