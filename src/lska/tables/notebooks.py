"""Running a notebook template so that a failed one stays readable and a finished one is complete; and opening them."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import MissingFileError, read_json, write_text
from lska.provenance.metric_files import project_root
from lska.provenance.surroundings import ADDRESSES, absent, require_own_code
from lska.tables.specs import TARGETS

if TYPE_CHECKING:
    from lska.settings.scale import Config

# The kernel of Linux takes socket paths of up to 107 bytes, that of macOS 103.
LONGEST_SOCKET_FOLDER = 80

USERS = (
    "IPYTHON", "JUPYTER", "MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONIOENCODING", "LANG",
    "LC_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "PY_COLORS",
)  # fmt: skip
"""Starts of names of variables by which users set how things look to them."""


class NotebookError(LskaError, RuntimeError):
    """A cell failed; the executed notebook with its traceback is where the message says."""


def enter_project(paths: Iterable[Path | str]) -> Path:
    """Change to the folder that relative `paths` start from, and return it.

    Snakemake runs notebooks in the project's folder; Jupyter runs them in the notebook's own, somewhere below it. The
    folder is the first that has all of the paths among this one, those above it, and the checkout of the code.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it belongs to another checkout than the code that runs.
    """
    paths, here = [Path(path) for path in paths], Path.cwd()
    for folder in (here, *here.parents, project_root()):
        if all((folder / path).exists() for path in paths):
            require_own_code(folder)
            os.chdir(folder)
            return folder
    raise MissingFileError(
        f"{', '.join(map(str, paths))}: not found from {here} or any folder above it; put the notebook back under the "
        "project's folder, or give whole paths in the cell with parameters"
    )


def execute_target(
    target: str, config: Iterable[Path], overrides: Mapping[str, Any], *, log: Path, output: Path
) -> None:
    """Make a table or figure of `TARGETS`, with all its files, through the notebook template of its kind.

    The notebook is told paths only: `overrides`, settings over the files of `config`, are written beside it, as one
    more configuration file. Raises NotebookError as `execute`.
    """
    if target not in TARGETS:
        raise InputError(f"{target!r} is no table or figure; expected one of {', '.join(TARGETS)}")
    template, settings = project_root() / "notebooks" / f"{target.partition('_')[0]}.ipynb", output.with_suffix(".yaml")
    settings.unlink(missing_ok=True)
    if overrides:
        write_text(settings, yaml.safe_dump(dict(overrides), allow_unicode=True, sort_keys=False))
    files = [str(path) for path in (*config, *([settings] if overrides else []))]
    execute(template, log, output, {"target": target, "config": files})


def execute(template: Path, log: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Run `template` with `parameters`, in place of its own, in the current folder and this Python; keep it in `log`,
    then copy to `output`.

    The notebook is saved to `log` after each cell. `output` appears, atomically and without the paths of this machine,
    only when all cells have run; a former one is removed first, so that it cannot be taken for the new one.

    Raises:
        NotebookError: a cell failed; `log` holds the notebook with the traceback.
        ValueError: the template has no such parameter.
    """
    # Clients of clouds, which papermill imports where they are installed.
    with absent(ADDRESSES, "boto3", "pyarrow"):
        import papermill
        from papermill.exceptions import PapermillExecutionError

    output.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    write_text(log, json.dumps(_with_parameters(template, parameters), ensure_ascii=False))
    # In braces papermill would look for variables to fill in.
    place = str(log).replace("{", "{{").replace("}", "}}")
    try:
        with tempfile.TemporaryDirectory(prefix="lska-") as folder:
            papermill.execute_notebook(
                place,
                place,
                kernel_name="python3",
                progress_bar=False,
                kernel_manager_class=_kernel_manager(Path(folder)),
            )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{template.name}: cell {error.exec_count} failed with {error.ename}: {error.evalue}\n"
            f"the executed notebook with the full traceback is {log}"
        ) from error
    notebook = json.loads(log.read_text(encoding="utf-8"))
    about = notebook["metadata"].get("papermill", {})
    about |= {"input_path": template.name, "output_path": output.name, "parameters": dict(parameters)}
    write_text(output, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _with_parameters(template: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook of a template with other values in its cell of parameters, so that each parameter stands there once;
    papermill would add a second cell below."""
    notebook = read_json(template)
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ()))
    source = "".join(cell["source"])
    for name, value in parameters.items():
        line = f"{name} = {value!r}"
        source, found = re.subn(rf"^{name} = .*?(?=  #|$)", lambda _, line=line: line, source, flags=re.MULTILINE)
        if found != 1:
            raise InputError(f"{template}: expected one line '{name} = ...' in its cell of parameters, found {found}")
    cell["source"] = source
    return notebook


def _kernel_manager(folder: Path) -> type:
    """A manager whose kernel is `run_kernel` in this interpreter, whatever kernels and settings a user has.

    It talks to the kernel through sockets in `folder`: on a shared machine, nobody else can listen in, and no port can
    be taken by another notebook between its choice and its use.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    settings = folder / "matplotlibrc"
    settings.touch()
    # The variables of this process without a user's settings.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(USERS)}
    own = {"IPYTHONDIR": str(folder / "ipython"), "MATPLOTLIBRC": str(settings), "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}
    # Without -P, files in the working folder would come before packages of the same name.
    started = "from lska.tables.notebooks import run_kernel; run_kernel()"
    command = [sys.executable, "-P", "-c", started, "-f", "{connection_file}"]

    class OwnKernelManager(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=command, display_name="Python 3 (ipykernel)", language="python", name="python3")

        def __init__(self, **options: Any) -> None:
            transport = "ipc" if len(str(folder)) < LONGEST_SOCKET_FOLDER else "tcp"
            super().__init__(**options, connection_file=str(folder / "kernel.json"), transport=transport)

        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(**options, env=kept | own)

    return OwnKernelManager


def run_kernel() -> None:
    """Become IPython's kernel, but without a user's profile and configurations of the machine, the environment or the
    working folder."""
    from ipykernel.kernelapp import IPKernelApp

    class OwnKernelApp(IPKernelApp):
        def load_config_file(self, *arguments: Any, **options: Any) -> None:
            """Nothing."""

    OwnKernelApp.launch_instance()


def open_notebooks(config: Config, files: Sequence[Path], options: Sequence[str]) -> None:
    """Become a JupyterLab that shows the folder of the scale's notebooks; does not return.

    Args:
        files: the configuration files, for the message.
        options: further options for JupyterLab, such as `--port=8890`.

    Raises:
        ValueError: the scale has no notebooks yet; says how to make them.
    """
    folder = config.results / "notebooks"
    if not any(folder.glob("*.ipynb")):
        command = f"snakemake --cores 2 --configfile {' '.join(map(str, files))} -- all_notebooks"
        raise InputError(
            f"{folder}: no notebooks of the {config.scale} scale here; make them with `{command}`. It also makes "
            "missing metric files, which may take long (--dry-run shows the jobs)"
        )
    words = lab_command(folder, options)
    sys.stdout.flush()
    os.execv(words[0], words)


def lab_command(folder: Path, options: Sequence[str]) -> list[str]:
    """JupyterLab of this environment, rooted in the working folder so that configurations and results are in its tree.

    Where there is no screen on which a browser could be seen it opens none, and prints the address.
    """
    screen = not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    words = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={Path.cwd()}"]
    words += [f"--LabApp.default_url=/lab/tree/{folder.as_posix()}", *([] if screen else ["--no-browser"])]
    return [*words, *options]
