"""Opening the executed notebooks of a scale in JupyterLab."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lska.provenance.errors import InputError
from lska.settings.scale import Config


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
            f"{folder}: no notebooks of the {config.scale} scale here; {command} makes them, and whatever metric files "
            "they lack, which may take long (--dry-run shows it)"
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
