"""What lies in the place of weights and was not made by this program, which therefore never replaces it.

Snakemake removes the outputs of a rule before its job and after a failed one. So weights of anybody else are no output
of any rule: they are used as they are, or a message says why they cannot be used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lska.provenance.errors import LskaError
from lska.provenance.files import MissingFileError, quoted
from lska.provenance.metric_files import file_md5, seal_problem
from lska.provenance.pointers import Pointer, pointer_path
from lska.provenance.sidecars import damage, imported, load_sidecar

IMPORTING = "docs/weights.md, Weights from elsewhere"
"""Where a sidecar of imported weights is described."""

_CACHED = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30})$")


class ForeignWeightsError(LskaError, ValueError):
    """Weights that can neither be used nor replaced; the message says which, why, and what to do."""


def occupied(weights: Path) -> bool:
    """Whether anything lies in the place of weights, also a folder or a link that leads nowhere."""
    return os.path.lexists(weights)


def cached(weights: Path, pointer: Pointer | None) -> bool:
    """Whether weights are DVC's link to the object of a pointer in its cache, wherever that is or was."""
    found = _CACHED.search(str(weights.readlink())) if weights.is_symlink() else None
    return found is not None and pointer is not None and found[1] + found[2] == pointer.md5


def foreign(weights: Path) -> str | None:
    """Why a training must not replace what lies in the place of `weights` and their sidecar, with what to do; None
    where nothing is there, or what a training of this program left.

    Reads the whole file of weights.
    """
    sidecar = weights.with_suffix(".json")
    try:
        content = load_sidecar(sidecar)
    except MissingFileError:
        return unvouched(weights) if occupied(weights) or occupied(sidecar) else None
    except ValueError:
        return unvouched(weights)
    if imported(content):
        return f"{weights}: its sidecar says that it was imported, so nothing here makes it anew; {_aside(weights)}"
    if (problem := seal_problem(content)) is not None:
        return f"{sidecar}: {problem}, so nothing tells whose weights these are; {_restore(weights)}{_aside(weights)}"
    return unusable(weights) or other(weights, content["md5"])


def check_replaceable(weights: Path) -> None:
    """Make sure that a training may leave its weights in a place.

    Raises:
        ForeignWeightsError: as `foreign`.
    """
    if (problem := foreign(weights)) is not None:
        raise ForeignWeightsError(problem)


def unvouched(weights: Path) -> str:
    """What is wrong where no sound sidecar is beside weights."""
    sidecar = weights.with_suffix(".json")
    if (problem := unusable(weights)) is not None:
        return problem
    fault = damage(sidecar)
    there = f"{weights} is there, but " if weights.is_file() else ""
    missing = f"its sidecar {sidecar} is missing" if there else f"{sidecar} is missing"
    what = f"{there}{missing}" if fault is None else f"{there}its sidecar cannot be used ({fault})"
    return (
        f"{what}, and nothing else says where these weights come from; {_restore(weights)}write a sidecar for weights "
        f"from elsewhere ({IMPORTING}), or move {'both' if fault and there else 'it'} away to train them here"
    )


def unusable(weights: Path) -> str | None:
    """What is wrong with the place of weights where something that is no file lies in it; None elsewhere."""
    if not occupied(weights) or weights.is_file():
        return None
    if weights.is_symlink():
        return (
            f"{weights}: is a link to {quoted(str(weights.readlink()))}, which is not there; bring that back (a disk, "
            "DVC's cache), or remove the link"
        )
    return f"{weights}: expected a file of weights, found a folder or a special file; move it away"


def other(weights: Path, md5: str) -> str | None:
    """What is wrong where weights are not those that `md5` of their sidecar names; None where they are, or missing."""
    if not weights.is_file() or (found := file_md5(weights)) == md5:
        return None
    return (
        f"{weights} has MD5 {found} but {weights.with_suffix('.json')} vouches for {md5}; bring back the file that "
        f"belongs to it, describe this one in a sidecar of its own ({IMPORTING}), or move it away"
    )


def _restore(weights: Path) -> str:
    sidecar = weights.with_suffix(".json")
    return f"bring it back (`git checkout -- {sidecar}`), " if pointer_path(weights).exists() else ""


def _aside(weights: Path) -> str:
    return f"move {weights} and {weights.with_suffix('.json').name} away to train these weights here"
