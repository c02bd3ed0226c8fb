"""Running a notebook template so that a failed one stays readable and a finished one is complete."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lska.provenance import atomic_path, project_root
from lska.tables import TARGETS

# The kernel of Linux takes socket paths of up to 107 bytes, that of macOS 103.
LONGEST_SOCKET_FOLDER = 80


class NotebookError(RuntimeError):
    """A cell failed; the executed notebook with its traceback is where the message says."""


def template_of(target: str) -> Path:
    """The template that makes a table or figure: one for all tables, one for all figures.

    Raises:
        ValueError: `target` is neither.
    """
    path = project_root() / "notebooks" / f"{target.partition('_')[0]}.ipynb"
    if not path.is_file():
        raise ValueError(f"{target!r}: no notebook template {path.name} in {path.parent}; expected table_* or figure_*")
    return path


def execute_target(
    target: str, config: Iterable[Path], overrides: Mapping[str, Any], *, log: Path, output: Path
) -> None:
    """Make a table or figure, with all its files, through its notebook.

    Args:
        target: one of `lska.tables.TARGETS`.
        config: configuration files, later ones over earlier ones.
        overrides: settings over these files.

    Raises:
        NotebookError: as `execute`.
        ValueError: no such target.
    """
    if target not in TARGETS:
        raise ValueError(f"{target!r} is no table or figure; expected one of {', '.join(TARGETS)}")
    parameters = {"target": target, "config": [str(path) for path in config], "overrides": dict(overrides)}
    execute(template_of(target), log, output, parameters)


def execute(template: Path, log: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Run `template` with `parameters` in the current folder and this Python; keep it in `log`, then copy to `output`.

    The notebook is saved to `log` after each cell. `output` appears, atomically, only when all cells have run; a former
    one is removed first, so that it cannot be taken for the new one.

    Raises:
        NotebookError: a cell failed; `log` holds the notebook with the traceback.
        ValueError: the template declares no such parameter.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    output.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    _check_parameters(template, parameters)
    try:
        with tempfile.TemporaryDirectory(prefix="lska-") as folder:
            papermill.execute_notebook(
                _literal(template),
                _literal(log),
                parameters=dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                kernel_manager_class=_kernel_manager(Path(folder)),
            )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{template.name}: cell {error.exec_count} failed with {error.ename}: {error.evalue}\n"
            f"the executed notebook with the full traceback is {log}"
        ) from error
    _publish(log, output)


def _check_parameters(template: Path, parameters: Mapping[str, Any]) -> None:
    import papermill

    known = papermill.inspect_notebook(_literal(template))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"{template}: unknown parameters {', '.join(unknown)}; expected some of {', '.join(known)}")


def _literal(path: Path) -> str:
    """A path in which papermill finds no variables to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _kernel_manager(folder: Path) -> type:
    """A manager whose kernel `python3` is this interpreter, whatever kernels a user has installed under that name.

    It talks to the kernel through sockets in `folder`: on a shared machine, nobody else can listen in, and no port can
    be taken by another notebook between its choice and its use.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class OwnKernelManager(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _own_environment(self) -> KernelSpecManager:
            return KernelSpecManager(parent=self, kernel_dirs=[])

        @default("connection_file")
        def _own_folder(self) -> str:
            return str(folder / "kernel.json")

        @default("transport")
        def _sockets(self) -> str:
            return "ipc" if len(str(folder)) < LONGEST_SOCKET_FOLDER else "tcp"

    return OwnKernelManager


def _publish(log: Path, output: Path) -> None:
    """Copy the notebook without the paths of this machine."""
    notebook = json.loads(log.read_text(encoding="utf-8"))
    for key in ("input_path", "output_path"):
        place = notebook["metadata"].get("papermill", {}).get(key)
        if place:
            notebook["metadata"]["papermill"][key] = Path(place).name
    with atomic_path(output) as temporary:
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
