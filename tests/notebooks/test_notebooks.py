"""Notebook templates, and how they are run: complete on success, readable on failure."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from PIL import Image

from lska.settings.scale import Config, load
from lska.provenance.files import write_json
from lska.tables.notebooks import NotebookError, enter_project, execute, execute_target
from lska.provenance.metric_files import project_root
from lska.tables.specs import TARGETS, load_spec, requirements, samples

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


def test_every_target_has_a_template() -> None:
    assert {target.partition("_")[0] for target in TARGETS} == {path.stem for path in TEMPLATES}
    with pytest.raises(ValueError, match=r"'table_99'.*table_01"):
        execute_target("table_99", [], {}, log=Path("log"), output=Path("output"))


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


def test_a_table_from_metric_files_to_the_executed_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = filled_project(tmp_path / ODD_NAME, monkeypatch)
    execute_target("table_01", [Path("config/demo.yaml")], {"caption": "a caption"}, log=LOG, output=OUTPUT)
    text = json.dumps([out.get("data", {}) for out in outputs_of(OUTPUT)], ensure_ascii=False)
    assert "# Table I. Properties of convolution" in text
    assert "A caption." in text
    assert "Sample predictions" not in OUTPUT.read_text(encoding="utf-8")
    assert "| ✗ deviates | 5 |" in text
    assert "properties/self_attention" in text
    assert r'<td class=\"reproduced\" title=\"reproduced; results/demo/metrics/properties/lska.json\">yes' in text
    assert "Nothing: every network of this table was measured." in text
    assert str(tmp_path) not in OUTPUT.read_text(encoding="utf-8")
    assert (scale.results / "tables" / "table_01.md").read_text().count("✓") == 8 + 1  # cells and legend
    assert {path.suffix for path in (scale.results / "tables").iterdir()} == {".md", ".tex", ".csv", ".html"}


def run_by_hand(path: Path) -> Any:
    """Run all cells as Jupyter does: in the notebook's own folder."""
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def test_run_all_in_jupyter_gives_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = filled_project(tmp_path / ODD_NAME, monkeypatch)
    execute_target("table_01", [Path("config/demo.yaml")], {"caption": "a caption"}, log=LOG, output=OUTPUT)
    before = outputs_of(OUTPUT)
    written = {path: path.read_bytes() for path in (scale.results / "tables").iterdir()}
    for path in written:
        path.unlink()
    again = run_by_hand(OUTPUT)
    assert [out for cell in again.cells if cell.cell_type == "code" for out in cell.outputs] == before
    assert {path: path.read_bytes() for path in (scale.results / "tables").iterdir()} == written
    assert sorted(path.name for path in OUTPUT.parent.iterdir()) == ["table_01.ipynb", "table_01.yaml"]


def test_settings_are_a_file_beside_the_notebook_as_long_as_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled_project(tmp_path, monkeypatch)
    settings = {"caption": "größer: {a} & 'b'", "speed": {"repeats": 3}, "receptive_field": None}
    execute_target("table_01", [Path("config/demo.yaml")], settings, log=LOG, output=OUTPUT)
    assert yaml.safe_load(OUTPUT.with_suffix(".yaml").read_text(encoding="utf-8")) == settings
    assert "Größer: {a} & 'b'." in Path("results/demo/tables/table_01.md").read_text().replace("\\", "")
    execute_target("table_01", [Path("config/demo.yaml")], {}, log=LOG, output=OUTPUT)
    assert [path.name for path in OUTPUT.parent.iterdir()] == ["table_01.ipynb"]
    assert "demo scale" in Path("results/demo/tables/table_01.md").read_text().lower()


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


def test_sample_predictions_are_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config", "paper"):
        shutil.copytree(project_root() / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    runs = {"model": "van_tiny", "attention": "lska", "kernel": [7, 23], "seed": 0}
    head = {"recipe": "config/recipes/scenes_semantic_fpn.yaml", "runs": [runs], "untrained": []}
    section = {"data": {"name": "streets", "root": "nowhere"}, "heads": {"semantic_fpn": head}}
    scale = load([Path("config/demo.yaml")], {"segmentation": section})
    needed = requirements(load_spec("table_11"), scale)
    names = ("params", "flops_512x512")
    for task, run in needed:
        metrics = {name: {"value": 10**9, "unit": "1"} for name in names} | {"miou": {"value": 40.0, "unit": "%"}}
        content = {"schema": 1, "task": task, "run": str(run), "scale": "demo", "metrics": metrics, "data": None}
        write_json(scale.metric_path(task, run), content | {"environment": {"device": "cpu"}})
    sheets = samples(load_spec("table_11"), scale)
    for number, path in enumerate(sheets):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    log, output = Path("log.ipynb"), Path("output.ipynb")
    execute_target("table_11", [Path("config/demo.yaml")], {"segmentation": section}, log=log, output=output)
    data = [out.data for out in outputs_of(output) if "data" in out]
    assert [out["text/markdown"].splitlines()[0] for out in data if "text/markdown" in out][1:4] == [
        "## Sample predictions",
        "### segmentation/semantic_fpn/van_tiny-lska-k7-s0",
        "### segmentation/semantic_fpn/van_tiny-lska-k23-s0",
    ]
    embedded = [base64.b64decode(out["image/png"]) for out in data if "image/png" in out]
    assert embedded == [path.read_bytes() for path in sheets]
    assert str(tmp_path) not in output.read_text(encoding="utf-8")


def test_failed_notebook_stays_with_its_traceback_and_gives_no_output(tmp_path: Path) -> None:
    folder = tmp_path / ODD_NAME
    template = write_template(folder / "t.ipynb", "print('before')", "1 / (number - 5)", "print('after')")
    log, output = folder / "logs" / "t.ipynb", folder / "out" / "t.ipynb"
    output.parent.mkdir()
    output.write_text("of an earlier run")
    with pytest.raises(NotebookError, match=r"(?s)t\.ipynb: cell 4 failed with ZeroDivisionError.*logs/t\.ipynb"):
        execute(template, log, output, {"number": 5})
    assert not output.exists()
    assert not list(output.parent.iterdir())
    kinds = [out.output_type for out in outputs_of(log)]
    error = next(out for out in outputs_of(log) if out.output_type == "error")
    assert "ZeroDivisionError" in "".join(error.traceback)
    assert "before" in json.dumps(outputs_of(log))
    assert kinds.count("stream") == 1


def test_kernel_is_this_interpreter_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoy = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
    write_json(tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json", decoy)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    folder = tmp_path / ODD_NAME
    template = write_template(folder / "t.ipynb", "import os, sys; print([sys.executable, os.getcwd(), number])")
    monkeypatch.chdir(folder)
    execute(template, Path("log.ipynb"), Path("out.ipynb"), {"number": 7})
    (printed,) = (out.text for out in outputs_of(Path("out.ipynb")))
    assert printed.strip() == repr([sys.executable, str(folder), 7])
    assert nbformat.read("out.ipynb", 4).metadata.papermill.input_path == "t.ipynb"


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
    users = {"HOME": home, "IPYTHONDIR": tmp_path / "ipython", "PYTHONSTARTUP": tmp_path / "startup.py"}
    users |= {"MATPLOTLIBRC": tmp_path, "MPLBACKEND": "svg", "COLUMNS": "20", "LC_ALL": "C", "FORCE_COLOR": "1"}
    for name, value in users.items():
        monkeypatch.setenv(name, str(value))
    execute(template, tmp_path / "log", tmp_path / "own.ipynb", {"number": 7})
    plain, own = (outputs_of(tmp_path / f"{name}.ipynb") for name in ("plain", "own"))
    assert plain == own and len(plain) == 4
