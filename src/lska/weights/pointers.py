"""DVC's pointers to published weights, `<run>.safetensors.dvc`, as this project writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lska.files import atomic_path
from lska.provenance import digest

SUFFIX = ".dvc"
"""Which DVC adds to the name of a file."""

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


def read_pointer(weights: Path) -> Pointer | None:
    """The pointer of weights; None where there is none.

    Raises:
        ValueError: it is no pointer to one file of this name; says what to do.
    """
    path = pointer_path(weights)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        (out,) = content["outs"]
        md5, size, name = out["md5"], out["size"], out["path"]
        if _MD5.fullmatch(md5) is None or name != weights.name:
            raise ValueError(f"found md5 {md5!r} and path {name!r}")
        return Pointer(md5, int(size), out.get("remote"), (content.get("meta") or {}).get("sidecar"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"{path}: expected DVC's pointer to {weights.name} with md5 and size ({reason}); "
            f"restore it with `git checkout -- {path}`, or delete it to train these weights here"
        ) from error


def write_pointer(weights: Path, pointer: Pointer) -> None:
    """Write the pointer as DVC reads it, the remote and the sidecar's digest included."""
    remote = {} if pointer.remote is None else {"remote": pointer.remote}
    out = {"md5": pointer.md5, "size": pointer.size, "hash": "md5", "path": weights.name, **remote}
    content = {"outs": [out]} | ({} if pointer.sidecar is None else {"meta": {"sidecar": pointer.sidecar}})
    with atomic_path(pointer_path(weights)) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
