"""Notebook templates, how they are run (complete on success, readable on failure), and JupyterLab that shows them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from tiny_project import free_port

from lska.cli import main
from lska.provenance.files import write_json
from lska.provenance.metric_files import project_root
from lska.report.site import notebook_html
from lska.settings.scale import Config, load
from lska.tables.notebooks import NotebookError, enter_project, execute, execute_target, lab_command
from lska.tables.specs import TARGETS, load_spec, requirements

TEMPLATES = sorted((project_root() / "notebooks").glob("*.ipynb"))
ODD_NAME = "a 'folder' with {braces}"


def write_template(path: Path, *cells: str) -> Path:
    """A template with one parameter, `number`, and code cells."""
    parameters = nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def outputs_of(path: Path) -> list[Any]:
    return [out for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for out in cell.outputs]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_are_clean_and_their_parameters_are_the_target_and_paths(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    assert str(Path.home()) not in path.read_text(encoding="utf-8")
    (cell,) = (cell for cell in code if cell.metadata.get("tags") == ["parameters"])
    values: dict[str, Any] = {}
    exec(cell.source, values)
    paths = {"config", "results", "outputs", "paper"}
    assert {name for name in values if not name.startswith("__")} == {"target", *paths}
    assert values["target"] in TARGETS and values["target"].startswith(path.stem)
    assert all((project_root() / name).exists() for name in [*values["config"], values["paper"]])


def filled_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A project's folder, made the current one, with the metric files of Table I."""
    for name in ("config", "paper"):
        shutil.copytree(project_root() / name, folder / name)
    monkeypatch.chdir(folder)
    scale = load([Path("config/demo.yaml")])
    for task, module in requirements(load_spec("table_01"), scale):
        names = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")
        metrics = {name: {"value": int(module == "lska"), "unit": "1"} for name in names}
        content = {"schema": 1, "task": task, "run": module, "scale": "demo", "metrics": metrics, "data": None}
        write_json(scale.metric_path(task, module), content | {"environment": {"device": "cpu"}})
    return scale


LOG, OUTPUT = Path("logs/table_01.ipynb"), Path("results/demo/notebooks/table_01.ipynb")


def test_a_table_from_metric_files_to_the_executed_notebook_and_again_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = filled_project(tmp_path / ODD_NAME, monkeypatch)
    settings = {"caption": "größer: {a} & 'b'", "speed": {"repeats": 3}, "receptive_field": None}
    execute_target("table_01", [Path("config/demo.yaml")], settings, log=LOG, output=OUTPUT)
    assert yaml.safe_load(OUTPUT.with_suffix(".yaml").read_text(encoding="utf-8")) == settings
    before, tables = outputs_of(OUTPUT), scale.results / "tables"
    text = json.dumps([out.get("data", {}) for out in before], ensure_ascii=False)
    for part in (
        "# Table I. Properties of convolution", "Größer: {a} &", "| ✗ deviates | 5 |", "properties/self_attention",
        r'<td class=\"reproduced\" title=\"reproduced; results/demo/metrics/properties/lska.json\">yes',
        "Nothing: every network of this table was measured.",
    ):  # fmt: skip
        assert part in text
    assert str(tmp_path) not in OUTPUT.read_text(encoding="utf-8")
    # The table stands first, and then how it was made, with the parameters of this run and no others.
    first, *later = (cell for cell in nbformat.read(OUTPUT, 4).cells if cell.cell_type == "code")
    heading, shown, explanation = (out.data for out in first.outputs)
    assert heading["text/markdown"].startswith("# Table I.") and "<td" in shown["text/html"]
    assert explanation["text/markdown"] == load_spec("table_01").explanation
    (given,) = (cell.source for cell in later if "\ntarget = " in cell.source)
    values: dict[str, Any] = {}
    exec(given, values)
    assert values["target"] == "table_01" and values["config"] == ["config/demo.yaml", f"{OUTPUT.with_suffix('.yaml')}"]
    page = notebook_html(OUTPUT)
    assert 0 < page.index("<td") < page.index("How it was made") < page.index(">target</span>")
    assert "display_id" not in page
    assert nbformat.read(OUTPUT, 4).metadata.papermill.input_path == "table.ipynb"
    assert (tables / "table_01.md").read_text().count("✓") == 8 + 1  # cells and legend
    written = {path: path.read_bytes() for path in tables.iterdir()}
    assert {path.suffix for path in written} == {".md", ".tex", ".csv", ".html"}
    for path in written:
        path.unlink()
    # As Jupyter does: in the notebook's own folder.
    again = nbformat.read(OUTPUT, 4)
    NotebookClient(again, kernel_name="python3", resources={"metadata": {"path": str(OUTPUT.parent)}}).execute()
    assert [out for cell in again.cells if cell.cell_type == "code" for out in cell.outputs] == before
    assert {path: path.read_bytes() for path in tables.iterdir()} == written
    with pytest.raises(ValueError, match=r"'table_99'.*table_01"):
        execute_target("table_99", [], {}, log=Path("log"), output=Path("output"))


def test_paths_start_at_the_nearest_folder_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "results" / "demo" / "notebooks"
    below.mkdir(parents=True)
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(below)
    assert enter_project(["mine.yaml", "results/demo"]) == tmp_path == Path.cwd()
    assert enter_project(["mine.yaml"]) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml, other\.yaml: not found from .*or any folder above it"):
        enter_project(["mine.yaml", "other.yaml"])
    # A notebook that was taken elsewhere finds the checkout of the code.
    monkeypatch.chdir("/")
    assert enter_project(["config/demo.yaml", "paper"]) == project_root() == Path.cwd()


def test_failed_notebook_stays_with_its_traceback_and_gives_no_output(tmp_path: Path) -> None:
    folder = tmp_path / ODD_NAME
    template = write_template(folder / "t.ipynb", "print('before')", "1 / (number - 5)", "print('after')")
    log, output = folder / "logs" / "t.ipynb", folder / "out" / "t.ipynb"
    output.parent.mkdir()
    output.write_text("of an earlier run")
    with pytest.raises(NotebookError, match=r"(?s)t\.ipynb: cell 3 failed with ZeroDivisionError.*logs/t\.ipynb"):
        execute(template, log, output, {"number": 5})
    assert not list(output.parent.iterdir())
    with pytest.raises(ValueError, match=r"t\.ipynb: expected one line 'nmber = \.\.\.' in its cell .*, found 0"):
        execute(template, log, output, {"nmber": 5})
    before, error = outputs_of(log)
    assert before.text == "before\n" and "ZeroDivisionError" in "".join(error.traceback)


def test_a_users_settings_change_no_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither profiles and start-up files nor variables and files of the working folder show in outputs."""
    look = "import matplotlib, pandas, os; print(matplotlib.rcParams['lines.linewidth'], os.environ.get('COLUMNS'))"
    cells = ("number", look, "pandas.DataFrame({'a': range(30)})", "print('ü')")
    template = write_template(tmp_path / "template.ipynb", *cells)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    execute(template, tmp_path / "log", tmp_path / "plain.ipynb", {"number": 7})
    home = tmp_path / "home"
    for ipython in (home / ".ipython", tmp_path / "ipython"):
        profile = ipython / "profile_default"
        (profile / "startup").mkdir(parents=True)
        (profile / "ipython_kernel_config.py").write_text("c.InteractiveShell.ast_node_interactivity = 'none'\n")
        (profile / "startup" / "00.py").write_text("import pandas; pandas.options.display.max_rows = 1; print(1)\n")
    Path("ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['print(\"mine\")']\n")
    (tmp_path / "startup.py").write_text("print(1)\n")
    for place in (tmp_path, home / ".config/matplotlib"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "matplotlibrc").write_text("lines.linewidth: 77\nno.such.key: 1\n")
    decoy = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
    write_json(tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json", decoy)
    users = {"JUPYTER_PATH": tmp_path / "jupyter", "HOME": home, "IPYTHONDIR": tmp_path / "ipython"}
    users |= {"PYTHONSTARTUP": tmp_path / "startup.py"}
    users |= {"MATPLOTLIBRC": tmp_path, "MPLBACKEND": "svg", "COLUMNS": "20", "LC_ALL": "C", "FORCE_COLOR": "1"}
    for name, value in users.items():
        monkeypatch.setenv(name, str(value))
    execute(template, tmp_path / "log", tmp_path / "own.ipynb", {"number": 7})
    plain, own = (outputs_of(tmp_path / f"{name}.ipynb") for name in ("plain", "own"))
    assert plain == own and len(plain) == 4


# JupyterLab.

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
