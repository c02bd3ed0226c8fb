"""DVC's pointers to published weights, `<run>.safetensors.dvc`, as this project writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lska.provenance.errors import InputError
from lska.provenance.files import FileError, MissingFileError, printable, quoted, read_yaml, write_text
from lska.provenance.metric_files import digest
from lska.provenance.strict import OPEN_ENDED, build

SUFFIX = ".dvc"
"""Which DVC adds to the name of a file."""

LONGEST = 200
"""Characters of what is told of a damaged pointer."""

_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Pointer:
    """What git keeps of weights that lie in DVC."""

    md5: str
    size: int
    """Bytes."""
    remote: str | None = None
    """Name of the remote that holds them; None for the default one."""
    sidecar: str | None = None
    """Digest of the sidecar that was published with them; None where they were added by plain `dvc add`."""

    def published(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether a sidecar's content is the published one, and not that of a training since then."""
        return self.md5 == sidecar.get("md5") and self.sidecar in (None, digest(sidecar))

    def edited(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether a sidecar is of the published weights, differs from the published one and has no seal: what a later
        training writes is sealed, so somebody edited it.
        """
        return self.md5 == sidecar.get("md5") and "seal" not in sidecar and not self.published(sidecar)


def pointer_path(weights: Path) -> Path:
    """Place of the pointer of weights."""
    return weights.with_name(f"{weights.name}{SUFFIX}")


@dataclass(frozen=True)
class _Out:
    __pydantic_config__: ClassVar = OPEN_ENDED
    md5: str
    size: int
    path: str
    remote: str | None = None

    def __post_init__(self) -> None:
        if _MD5.fullmatch(self.md5) is None:
            raise InputError(f"found md5 {quoted(self.md5)}")
        if self.size < 0:
            raise InputError(f"found size {self.size}")


@dataclass(frozen=True)
class _Meta:
    __pydantic_config__: ClassVar = OPEN_ENDED
    sidecar: str | None = None


@dataclass(frozen=True)
class _Content:
    __pydantic_config__: ClassVar = OPEN_ENDED
    outs: tuple[_Out]
    meta: _Meta | None = None


def read_pointer(weights: Path) -> Pointer | None:
    """The pointer of weights; None where there is none.

    Raises:
        FileError: it is no pointer to one file of this name; says what to do.
    """
    path = pointer_path(weights)
    try:
        content = build(_Content, read_yaml(path), "found")
        (out,) = content.outs
        if out.path != weights.name:
            raise InputError(f"found path {quoted(out.path)}")
    except MissingFileError as error:
        if not path.is_symlink():
            return None
        raise FileError(_damaged(path, weights, error)) from error
    except ValueError as error:
        raise FileError(_damaged(path, weights, error)) from error
    return Pointer(out.md5, out.size, out.remote, None if content.meta is None else content.meta.sidecar)


def _damaged(path: Path, weights: Path, error: ValueError) -> str:
    reason = printable(" ".join(str(error).split()).removeprefix(f"{path}: "), LONGEST)
    return (
        f"{path}: expected DVC's pointer to {weights.name} with md5 and size ({reason}); "
        f"restore it with `git checkout -- {path}`, or delete it to train these weights here"
    )


def write_pointer(weights: Path, pointer: Pointer) -> None:
    """Write the pointer as DVC reads it, the remote and the sidecar's digest included."""
    remote = {} if pointer.remote is None else {"remote": pointer.remote}
    out = {"md5": pointer.md5, "size": pointer.size, "hash": "md5", "path": weights.name, **remote}
    content = {"outs": [out]} | ({} if pointer.sidecar is None else {"meta": {"sidecar": pointer.sidecar}})
    write_text(pointer_path(weights), yaml.safe_dump(content, sort_keys=False))
