"""What surrounds a process: the folder that it works in, home and variables in paths, and the terminal.

Imports nothing heavy.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import printable

LONGEST = 1000
"""Characters of a line of an error that are shown."""

_VARIABLE = re.compile(r"\$(?:\$|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})", re.ASCII)

PACKAGE = Path("src", "lska")
"""Where a checkout of this project has the code."""


def require_own_code(folder: Path) -> None:
    """Make sure that work in `folder` is done by the code of the checkout that it belongs to, if it belongs to one.

    A project that was copied or renamed with its environment runs the code of the folder that the environment was made
    for. A container (envs/Dockerfile) is meant to bring its own code, whose commit it states, and may.

    Raises:
        ValueError: the code is that of another folder; names both, and what to do.
    """
    running, checkout = Path(__file__).resolve().parents[1], _checkout(folder.resolve())
    if checkout is None or (checkout / PACKAGE).resolve() == running or "LSKA_COMMIT" in os.environ:
        return
    raise InputError(
        f"the code that runs is that of another folder, {running}, but {folder.absolute()} belongs to the checkout "
        f"{checkout}, which has its own: expected {checkout / PACKAGE}. Was the folder copied, moved or renamed with "
        f"its environment (.venv)? Make its own, `make -C {shlex.quote(str(checkout))} .venv/runtime`, and use the "
        "commands in its .venv/bin; or set PYTHONPATH to its src"
    )


def require_project_folder(snakefile: Path) -> None:
    """Make sure that Snakemake works in the folder of its Snakefile, with the code that lies there.

    Raises:
        ValueError: `--directory` or `--snakefile` names another folder, or as `require_own_code`.
    """
    here = Path(snakefile.name)
    if not here.is_file() or not here.samefile(snakefile):
        raise InputError(
            f"Snakemake works in {Path.cwd()}, which is not the folder of {snakefile}; this workflow is not meant for "
            "--directory, as its paths start there: call it in that folder, and keep results apart by another `scale` "
            "in a copy of the configuration (results/<scale>, checkpoints/<scale>, work/<scale>)"
        )
    require_own_code(snakefile.parent)


@contextmanager
def explained() -> Iterator[None]:
    """End the process with the words of a fault alone: a traceback through the Snakefile says nothing more."""
    try:
        yield
    except LskaError as error:
        print(f"lska: error: {printable(str(error), LONGEST)}", file=sys.stderr)
        raise SystemExit(1) from None


def _checkout(folder: Path) -> Path | None:
    """The checkout of this project that a folder is or lies in."""
    for one in (folder, *folder.parents):
        # A folder above may be closed to us, and then is none whose code we could run.
        with suppress(PermissionError):
            if (one / PACKAGE / "__init__.py").is_file():
                return one
    return None


def expanded(path: str) -> str:
    """A path that a user wrote, with `$NAME` and `${NAME}` replaced by the environment's values, `$$` by a dollar sign,
    and then `~` or `~name` at its start by that home folder. Any other dollar sign stays.

    Raises:
        ValueError: a variable is not set, or the home folder is not known; names it.
    """

    def value(found: re.Match[str]) -> str:
        name = found["name"] or found["braced"]
        if name is not None and not os.environ.get(name):
            raise InputError(
                f"{path!r} names the variable {name}, which is not set; set it, or write $$ for a dollar sign"
            )
        return "$" if name is None else os.environ[name]

    found = os.path.expanduser(_VARIABLE.sub(value, path))  # noqa: PTH111  # Path drops the `./` that keeps a `~`
    if found.startswith("~"):
        home = found.partition("/")[0]
        raise InputError(f"{path!r}: no home folder is known for {home}; write ./{home} for a folder of this name")
    return found


def speak_plainly() -> None:
    """Let standard output and error write what their encoding has no letter for as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
