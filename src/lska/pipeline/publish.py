"""Weights into DVC for everybody: what `lska weights publish` does. Never a side effect of training."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.pipeline import artifacts
from lska.pipeline.checkpoints import Checkpoint, choose
from lska.pipeline.dvc import LOCAL_CONFIG, DvcError, Remote, dvc, remote
from lska.provenance.commands import NoAnswerError, ask
from lska.provenance.errors import InputError
from lska.provenance.files import atomic_path
from lska.provenance.metric_files import digest, file_md5, seal_problem
from lska.provenance.pointers import Pointer, read_pointer, write_pointer
from lska.provenance.sidecars import imported, load_sidecar

logger = logging.getLogger(__name__)

DEMO = "demo"
"""The scale whose networks are trained anew by everybody."""

DVC_YAML = Path("dvc.yaml")

_SECONDS = 900.0
"""What git and Snakemake may take to answer."""

STORE_LIMIT = 40_000_000
"""Bytes that a remote inside the project may hold: everybody who clones the project gets them all."""


@dataclass(frozen=True)
class Published:
    """What is left to do after weights were published."""

    files: tuple[Path, ...]
    """Files to commit: those of the published networks that differ from git's current commit."""
    notes: tuple[str, ...]
    """What else a person should know."""


def publish(checkpoints: Sequence[Checkpoint], remote_name: str | None = None) -> Published:
    """Add weights to DVC, push them, write their pointers and name them in dvc.yaml; everything is checked before.

    Where the push fails, the former pointers are put back, so that none names what a remote does not hold.

    Raises:
        ValueError: weights or sidecars that do not fit each other or today's configuration, the demo's scale, or too
            many bytes for a remote inside the project; all are named, and nothing was written.
        DvcError: DVC failed.
    """
    sidecars = _checked(checkpoints)
    target = remote(remote_name)
    _check_room(checkpoints, sidecars, target)
    former = {path: _bytes(path) for path in (*(checkpoint.pointer for checkpoint in checkpoints), DVC_YAML)}
    try:
        dvc("add", *(str(checkpoint.weights) for checkpoint in checkpoints))
        for checkpoint, sidecar in zip(checkpoints, sidecars, strict=True):
            size = checkpoint.weights.stat().st_size
            write_pointer(checkpoint.weights, Pointer(sidecar["md5"], size, target.name, digest(sidecar)))
            logger.info("%s: %.1f MB added", checkpoint.name, size / 1e6)
        artifacts.update(DVC_YAML)
        dvc("push", "--remote", target.name, *(str(checkpoint.pointer) for checkpoint in checkpoints))
    except BaseException as error:
        _put_back(former)
        if isinstance(error, DvcError):
            raise DvcError(f"nothing was published: remote {target}; DVC says\n{error}") from error
        raise
    _forget_training([checkpoint.weights for checkpoint in checkpoints])
    return _left_to_do(checkpoints, sidecars, target)


def _checked(checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """The sidecars of weights that may be published.

    Raises:
        ValueError: names every network that may not, and why.
    """
    found = [(checkpoint, *_examined(checkpoint)) for checkpoint in checkpoints]
    problems = [f"  {checkpoint.name}: {problem}" for checkpoint, _, problem in found if problem]
    if problems:
        raise InputError("nothing was published:\n" + "\n".join(problems))
    return [sidecar for _, sidecar, _ in found]


def _examined(checkpoint: Checkpoint) -> tuple[dict[str, Any], str | None]:
    """A sidecar, and why its weights may not be published."""
    if checkpoint.config.scale == DEMO:
        return {}, "the demo is always trained from nothing; publish the weights of another scale"
    if not checkpoint.weights.is_file():
        return {}, f"{checkpoint.weights} is missing; train it first"
    if not checkpoint.sidecar.is_file():
        return {}, f"{checkpoint.sidecar} is missing: nothing vouches for {checkpoint.weights.name}; train it again"
    sidecar = load_sidecar(checkpoint.sidecar)
    if problem := seal_problem(sidecar) or _edited(checkpoint, sidecar):
        return sidecar, f"{checkpoint.sidecar}: {problem}"
    found = file_md5(checkpoint.weights)
    if found != sidecar.get("md5"):
        return sidecar, f"{checkpoint.weights} has MD5 {found}, its sidecar says {sidecar.get('md5')}"
    if not imported(sidecar) and sidecar.get("recipe") != digest(sidecar.get("spec")):
        return sidecar, f"{checkpoint.sidecar}: its recipe is not the digest of its spec; train it again"
    choice = choose(checkpoint)
    if choice.refused is not None and not checkpoint.config.retrains(checkpoint.name):
        return sidecar, choice.refused
    return sidecar, None if choice.vouched or checkpoint.config.retrains(checkpoint.name) else choice.reason


def _edited(checkpoint: Checkpoint, sidecar: Mapping[str, Any]) -> str | None:
    """What tells a sidecar without a seal from the one that was published with the same weights."""
    pointer = read_pointer(checkpoint.weights)
    if pointer is None or not pointer.edited(sidecar):
        return None
    return f"it was edited after these weights were published; `git checkout -- {checkpoint.sidecar}`"


def _check_room(checkpoints: Sequence[Checkpoint], sidecars: Sequence[dict[str, Any]], target: Remote) -> None:
    """Raise ValueError where a remote inside the project would grow beyond `STORE_LIMIT`."""
    if target.inside is None:
        return
    held = {path.name: path.stat().st_size for path in target.inside.glob("files/md5/*/*")}
    pairs = zip(checkpoints, sidecars, strict=True)
    new = {sidecar["md5"][2:]: checkpoint.weights.stat().st_size for checkpoint, sidecar in pairs}
    total = sum((held | new).values())
    if total > STORE_LIMIT:
        raise InputError(
            f"nothing was published: remote {target} lies in the project and would hold {total / 1e6:.1f} MB, above "
            f"{STORE_LIMIT / 1e6:.0f} MB; give another one, --remote NAME (docs/weights.md), or remove what no pointer "
            "names any more: dvc gc --workspace --cloud"
        )


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _put_back(former: Mapping[Path, bytes | None]) -> None:
    for path, content in former.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)


def _forget_training(weights: Sequence[Path]) -> None:
    """Have Snakemake forget by which rule weights were made.

    They are another rule's from now on, for which it would fetch what is here.
    """
    if not Path(".snakemake/metadata").is_dir():
        return
    command = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", "--cleanup-metadata", *map(str, weights)]
    done = ask(command, _SECONDS)
    if done.returncode != 0:
        logger.warning("Snakemake may fetch these weights once more, as it could not forget their training:\n%s",
                       "\n".join(done.stderr.splitlines()[-3:]))  # fmt: skip


def _left_to_do(checkpoints: Sequence[Checkpoint], sidecars: Sequence[dict[str, Any]], target: Remote) -> Published:
    config = checkpoints[0].config
    files = [path for one in checkpoints for path in (one.pointer, one.sidecar, config.training_log(one.name))]
    files.append(DVC_YAML)
    # In a remote inside the project lie files that git keeps too.
    files += [] if target.inside is None else [target.inside.relative_to(Path.cwd())]
    changed = [path for path in files if _uncommitted(path)]
    notes = []
    if not target.shared:
        notes.append(
            f"remote {target} is in {LOCAL_CONFIG} only; for others, name it in .dvc/config: "
            f"dvc remote add {target.name} {target.url}"
        )
    retrained = [one.name for one in checkpoints if config.retrains(one.name)]
    if retrained:
        notes.append(f"take these out of the setting retrain, or they are trained once more: {', '.join(retrained)}")
    dirty = [one.name for one, sidecar in zip(checkpoints, sidecars, strict=True) if _dirty(sidecar)]
    if dirty:
        notes.append(f"trained from sources with uncommitted changes, which nobody else has: {', '.join(dirty)}")
    return Published(tuple(changed), tuple(notes))


def _uncommitted(path: Path) -> bool:
    """Whether the project's git has something of `path` to commit; where git fails or is not there, all is said to."""
    command = ["git", "status", "--porcelain", "--", str(path)]
    try:
        done = ask(command, _SECONDS)
    except (OSError, NoAnswerError):
        return True
    return done.returncode != 0 or bool(done.stdout)


def _dirty(sidecar: Mapping[str, Any]) -> bool:
    return bool((sidecar.get("code") or {}).get("dirty"))
