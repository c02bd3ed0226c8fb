"""Published weights from DVC: what `lska weights fetch` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lska.pipeline.checkpoints import Checkpoint, choose
from lska.pipeline.dvc import DvcError, dvc, forget, remote
from lska.provenance.errors import InputError
from lska.provenance.foreign_weights import ForeignWeightsError, cached
from lska.provenance.metric_files import file_md5
from lska.provenance.pointers import Pointer, read_pointer

logger = logging.getLogger(__name__)


def fetch(checkpoints: Sequence[Checkpoint]) -> None:
    """Bring the published weights of checkpoints, one after the other; those that are here already are left alone.

    Weights appear whole or not at all, and are compared with the pointer's MD5 whatever the remote says.

    Raises:
        DvcError: a remote cannot be reached, lacks the object, or holds another; names the network and what to do.
        ForeignWeightsError: something is in the place that this program did not make.
        ValueError: a network has no published weights for today's configuration, or other weights are in the place.
    """
    for checkpoint in checkpoints:
        _fetch(checkpoint)


def fetchable(checkpoint: Checkpoint) -> bool:
    """Whether the weights of a checkpoint are published and used, or were until DVC's cache went away."""
    try:
        return choose(checkpoint).fetched or _left(checkpoint, read_pointer(checkpoint.weights))
    except ValueError:
        return False


def _left(checkpoint: Checkpoint, pointer: Pointer | None) -> bool:
    """Whether a link of DVC is all that is left of weights."""
    return not checkpoint.weights.exists() and cached(checkpoint.weights, pointer)


def _fetch(checkpoint: Checkpoint) -> None:
    pointer = read_pointer(checkpoint.weights)
    if _left(checkpoint, pointer):
        logger.info("%s: a link into a cache of DVC that is gone, removed", checkpoint.weights)
        checkpoint.weights.unlink()
    choice = choose(checkpoint)
    if choice.refused is not None:
        raise ForeignWeightsError(choice.refused)
    if not choice.fetched:
        raise InputError(
            f"{checkpoint.name} has no published weights for this configuration: {choice.reason}; Snakemake trains it"
        )
    if checkpoint.weights.is_file():
        _check_present(checkpoint, pointer)
        logger.info("%s is here already", checkpoint.weights)
        return
    logger.info("%s: %.1f MB from remote %s", checkpoint.name, pointer.size / 1e6, pointer.remote or "by default")
    try:
        dvc("pull", str(checkpoint.pointer))
    except DvcError as error:
        _remove_other(checkpoint, pointer)
        raise DvcError(_advice(checkpoint, pointer, f"could not be fetched; DVC says\n{error}")) from error
    _check_fetched(checkpoint, pointer)


def _remove_other(checkpoint: Checkpoint, pointer: Pointer) -> None:
    """Remove what is in the place of the weights, unless another process has just brought them."""
    if checkpoint.weights.is_file() and file_md5(checkpoint.weights) != pointer.md5:
        checkpoint.weights.unlink()


def _check_present(checkpoint: Checkpoint, pointer: Pointer) -> None:
    found = file_md5(checkpoint.weights)
    if found != pointer.md5:
        raise InputError(
            f"{checkpoint.weights} is not the published file: expected MD5 {pointer.md5}, found {found}; move it away "
            "or delete it, and fetch again"
        )


def _check_fetched(checkpoint: Checkpoint, pointer: Pointer) -> None:
    """Remove what came if it is not what was published, also from DVC's cache."""
    found = file_md5(checkpoint.weights) if checkpoint.weights.is_file() else "of nothing"
    if found == pointer.md5:
        return
    checkpoint.weights.unlink(missing_ok=True)
    forget(pointer.md5)
    raise DvcError(_advice(checkpoint, pointer, f"came with MD5 {found}: the remote's object is damaged"))


def _advice(checkpoint: Checkpoint, pointer: Pointer, what: str) -> str:
    """A message with `what` happened, the remote, and both ways out."""
    name, mended = _mended(checkpoint, pointer)
    return (
        f"{checkpoint.name}: its weights, published in remote {name} (MD5 {pointer.md5}, {pointer.size:,} bytes), "
        f"{what}\n"
        f"Mend the remote ({mended}) and start again: what is here already is not fetched twice.\n"
        f"Or train them here: {_command(checkpoint)}"
    )


def _mended(checkpoint: Checkpoint, pointer: Pointer) -> tuple[str, str]:
    """What messages call the remote, and how to mend it."""
    try:
        source = remote(pointer.remote)
    except DvcError:
        # Settings that name no such remote, or that DVC cannot read; which of both, DVC has said already.
        name = pointer.remote or "<name>"
        return repr(name), f"dvc remote add {name} <address>, docs/weights.md"
    if source.inside:
        return str(source), f"git checkout -- {source.inside.name}, or take that folder from the project once more"
    return str(source), f"dvc push --remote {source.name} {checkpoint.pointer}, where these weights are"


def _command(checkpoint: Checkpoint) -> str:
    """How to train a network although it is published."""
    return f"""snakemake ... --config 'retrain=["{checkpoint.name}"]'"""
