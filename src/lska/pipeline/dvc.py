"""Calls of DVC, through its command line, which is its contract; each costs about a second. Imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lska.provenance.commands import ask
from lska.provenance.errors import LskaError
from lska.provenance.metric_files import file_md5

LOCAL_CONFIG = Path(".dvc/config.local")
"""DVC's settings that git ignores."""

LONGEST = 24 * 3600.0
"""Seconds that a call may take, to wait for others and to move data."""

SHOWN = 10
"""Last lines of what DVC said that a message quotes."""


class DvcError(LskaError, RuntimeError):
    """DVC failed, or the project is not set up for it; the message says what it said and what to do."""


@dataclass(frozen=True)
class Remote:
    """A remote of DVC, as its settings describe it."""

    name: str
    url: str
    """A whole path, or an address."""
    shared: bool
    """Whether git knows it, so that everybody who clones the project has it."""

    @property
    def inside(self) -> Path | None:
        """The remote's folder where it is one inside the project; else None."""
        folder = Path(self.url)
        return folder if folder.is_absolute() and folder.is_relative_to(Path.cwd()) else None

    def __str__(self) -> str:
        return f"{self.name!r} ({self.inside.relative_to(Path.cwd()) if self.inside else self.url})"


def dvc(*arguments: str) -> str:
    """Run DVC in the current folder, waiting for other calls of it; a long one shows its bars, or that it goes on.

    Returns:
        What it said on standard output.

    Raises:
        DvcError: it failed, with the end of what it said, or the current folder is no DVC repository.
    """
    _check_repository()
    # DVC draws its bars only on a terminal.
    complaints = None if sys.stderr.isatty() else subprocess.PIPE
    done = ask([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], LONGEST, stderr=complaints)
    if done.returncode != 0:
        told = [line.rstrip() for line in (done.stderr or "  (see above)").splitlines() if line.strip()][-SHOWN:]
        raise DvcError("\n".join(f"  {line}" for line in told) or f"  exit code {done.returncode}, no message")
    return done.stdout


def remotes() -> dict[str, Remote]:
    """The remotes of the project by name.

    Raises:
        DvcError: as `dvc`.
    """
    found = {}
    for line in dvc("config", "--list", "--show-origin").splitlines():
        origin, _, setting = line.partition("\t")
        key, _, value = setting.partition("=")
        section, *rest = key.split(".")
        if section == "remote" and rest[-1] == "url":
            name = ".".join(rest[:-1])
            found[name] = Remote(name, value, Path(origin) != LOCAL_CONFIG and not Path(origin).is_absolute())
    return found


def remote(name: str | None) -> Remote:
    """The remote called `name`, or the default one.

    Raises:
        DvcError: there is none; says how to name one.
    """
    known = remotes()
    name = name or dvc("config", "core.remote").strip()
    if name not in known:
        raise DvcError(
            f"DVC has no remote {name!r}; expected one of {', '.join(known) or 'none so far'}; add it with "
            f"`dvc remote add {name} <address>` (docs/weights.md)"
        )
    return known[name]


def forget(md5: str) -> None:
    """Remove an object from DVC's cache, so that a damaged one is not taken for whole again."""
    folder = Path(dvc("cache", "dir").strip())
    cached = folder / "files" / "md5" / md5[:2] / md5[2:]
    if cached.exists() and file_md5(cached) != md5:
        cached.unlink()


def _check_repository() -> None:
    if not Path(".dvc").is_dir():
        raise DvcError(f"{Path.cwd()} is no DVC repository (it has no folder .dvc); call this in the project's folder")
    if not Path(".git").exists() and not _without_git():
        raise DvcError(
            f"{Path.cwd()} is no git clone, as DVC expects; use a clone, or tell DVC with "
            "`dvc config --local core.no_scm true`"
        )


def _without_git() -> bool:
    return LOCAL_CONFIG.is_file() and "no_scm = true" in LOCAL_CONFIG.read_text(encoding="utf-8")
