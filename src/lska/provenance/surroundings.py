"""What surrounds a process: the folder that it works in, home and variables in paths, folders that other users could
write to, the terminal, other programs and packages. Imports nothing heavy.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import printable

LONGEST = 1000
"""Characters of a line of an error that are shown."""

TELL_SECONDS = 5.0
"""After which it is said what is waited for."""

ADDRESSES = "rfc3987_syntax"
"""From which jsonschema builds a grammar of internationalised addresses, for a second; no schema has any."""

_VARIABLE = re.compile(r"\$(?:\$|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})", re.ASCII)

PACKAGE = Path("src", "lska")
"""Where a checkout of this project has the code."""


def require_own_code(folder: Path) -> None:
    """Make sure that work in `folder` is done by the code of the checkout that it belongs to, if it belongs to one.

    A project that was copied or renamed with its environment runs the code of the folder that the environment was made
    for (InputError). A container (envs/Dockerfile) is meant to bring its own code, whose commit it states, and may.
    """
    running, checkout = Path(__file__).resolve().parents[1], _checkout(folder.resolve())
    if checkout is None or (checkout / PACKAGE).resolve() == running or "LSKA_COMMIT" in os.environ:
        return
    raise InputError(
        f"the running code is from another folder: expected {checkout / PACKAGE}, as {folder.absolute()} belongs to "
        f"the checkout {checkout}, found {running}. Was the folder copied, moved or renamed with its environment "
        f"(.venv)? Create its own, `make -C {shlex.quote(str(checkout))} .venv/runtime`, and use the commands in its "
        ".venv/bin; or set PYTHONPATH to its src"
    )


def require_project_folder(snakefile: Path) -> None:
    """Make sure that Snakemake works in the folder of its Snakefile (InputError), with the code that lies there."""
    here = Path(snakefile.name)
    if not here.is_file() or not here.samefile(snakefile):
        raise InputError(
            f"Snakemake works in {Path.cwd()}, which is not the folder of {snakefile}; call it there, without "
            "--directory. To keep results apart, set another `scale` in a copy of the configuration (results/<scale>, "
            "checkpoints/<scale>, work/<scale>)"
        )
    require_own_code(snakefile.parent)


@contextmanager
def project_folder_named(folder: Path, files: Sequence[Path]) -> Iterator[None]:
    """Have faults of configurations in `files` say that `folder` is not that of the project, where it holds none of
    its parts and not these files.
    """
    try:
        yield
    except LskaError as error:
        here = all((folder / file).is_file() and (folder / file).is_relative_to(folder) for file in files)
        if here or (folder / "config").exists() or (folder / "Snakefile").exists():
            raise
        raise InputError(
            f"{folder} is not the project's folder, which has config/ and the Snakefile; call `lska` there. {error}"
        ) from error


@contextmanager
def explained() -> Iterator[None]:
    """End the process with the words of a fault alone: a traceback through the Snakefile says nothing more."""
    try:
        yield
    except LskaError as error:
        print(f"lska: error: {printable(str(error), LONGEST)}", file=sys.stderr)
        raise SystemExit(1) from None


def end_plainly_at_interrupts() -> None:
    """Have Ctrl-C end this process with a line in place of a traceback, as long as it starts nothing."""

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"Stopped by Ctrl-C; nothing was started.\n")
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, end)


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
    and then `~` or `~name` at its start by that home folder; InputError names one that is not known.
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


class PrivateFolderError(LskaError, ValueError):
    """A folder that should be this user's alone is not; the message says what to do."""


def own_folder(name: str) -> Path:
    """`<temporary folder>/<name>-<user id>`, made where it is not there yet; PrivateFolderError as `require_own`."""
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    require_own(folder)
    return folder


def require_own(folder: Path) -> None:
    """Make sure that nobody but this user can have put anything into a folder: PrivateFolderError where it is a link or
    no folder, another user's, or open to others.
    """
    found, user = folder.lstat(), os.getuid()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise PrivateFolderError(
            f"{folder}: expected a folder of user {user} with mode drwx------, to which nobody else can write, found "
            f"{stat.filemode(found.st_mode)} of user {found.st_uid}; remove it, or set TMPDIR to a folder of your own"
        )


def folder_for_sockets(room: int = 40) -> Path:
    """The temporary folder or, where paths of Unix sockets in it, of `room` more bytes, are too long for the system, a
    shorter one; PrivateFolderError where there is none.
    """
    longest = 107 - room  # bytes of such a path that the system takes
    for place in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"):
        if place and len(os.fsencode(place)) <= longest and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise PrivateFolderError(
        f"TMPDIR: {tempfile.gettempdir()} is too long a path for Unix sockets (at most {longest} bytes), and neither "
        "/tmp nor another folder can be written; set TMPDIR to a shorter path"
    )


def speak_plainly() -> None:
    """Let standard output and error write what their encoding has no letter for as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


class NoAnswerError(LskaError, RuntimeError):
    """A program gave no answer in time."""


def ask(
    command: Sequence[str], seconds: float, called: str = "", **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program that is not asked to do much (with `settings` of `subprocess.Popen`), and return its exit code with
    what it said; one that takes longer than so many `seconds` is ended and raises NoAnswerError. People are told of it
    by its words, or as it is `called`.
    """
    words, patience = called or shlex.join(command)[:200], min(seconds, TELL_SECONDS)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, encoding="utf-8", errors="replace", **streams | settings)
    try:
        try:
            output, errors = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            if seconds > patience:
                logging.getLogger(__name__).info("waiting for %s, at most %.0f s", words, seconds)
            output, errors = process.communicate(timeout=seconds - patience)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{words}: no answer within {seconds:.0f} s") from error
    finally:
        process.kill()  # nothing, where it has ended
        process.wait()


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Import what is imported inside the block as if the packages `names` were not installed: those that others import
    for what is not used here, at a cost in every process, and do without.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
