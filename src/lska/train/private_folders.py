"""Folders in places that other users write to as well: one of this user's own, and one whose path is short."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from lska.provenance.errors import LskaError

_SOCKET_NAME = 107
"""Bytes of the path of a Unix socket that the system takes."""


class PrivateFolderError(LskaError, ValueError):
    """A folder that should be this user's alone is not; the message says whose, and what to do."""


def own_folder(name: str) -> Path:
    """`<temporary folder>/<name>-<user id>`, made where it is not there yet, to which only this user can write.

    Raises:
        PrivateFolderError: somebody else's folder, or something else, has that name.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    require_own(folder)
    return folder


def require_own(folder: Path) -> None:
    """Make sure that nobody but this user can have put anything into a folder.

    Raises:
        PrivateFolderError: it is a link or no folder, another user's, or open to others.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        problem = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
    elif found.st_uid != os.getuid():
        problem = f"one of user {found.st_uid}"
    elif found.st_mode & 0o077:
        problem = f"mode {stat.S_IMODE(found.st_mode):o}"
    else:
        return
    raise PrivateFolderError(
        f"{folder}: expected a folder of user {os.getuid()} with mode 700, to which nobody else can write, found "
        f"{problem}; remove it, or set TMPDIR to a folder of your own"
    )


def folder_for_sockets(room: int = 40) -> Path:
    """The temporary folder or, where paths of Unix sockets in it would be too long for the system, a shorter one.

    Args:
        room: bytes that follow it in such a path.

    Raises:
        PrivateFolderError: there is none.
    """
    places = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm")
    for place in filter(None, places):
        if len(os.fsencode(place)) + room <= _SOCKET_NAME and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise PrivateFolderError(
        f"TMPDIR: {tempfile.gettempdir()} is too long a path for Unix sockets (at most {_SOCKET_NAME - room} bytes), "
        "and neither /tmp nor another folder can be written; set TMPDIR to a shorter path"
    )
