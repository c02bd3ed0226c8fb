"""The checkpoints of a scale by name, and for each whether its weights are here, are fetched, or have to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.files import vouched
from lska.weights.pointers import Pointer, pointer_path, read_pointer

if TYPE_CHECKING:
    from lska.config import Config
    from lska.finetuning import FineTuningJob
    from lska.runs import Run

SHOWN = 3
"""Differences of a recipe that are named; the others are counted."""

RETRAINED = "to be trained anew (setting retrain)"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network of a scale: of a classifier, or of a fine-tuning (`job`)."""

    config: Config
    run: Run
    job: FineTuningJob | None = None

    @property
    def name(self) -> str:
        """Its place below `checkpoints/<scale>`, for example `detection/retinanet/van_tiny-lka-k23-s0`."""
        return str(self.run) if self.job is None else self.job.place

    @property
    def weights(self) -> Path:
        """Place of the weights."""
        return self.config.weights_path(self.name)

    @property
    def sidecar(self) -> Path:
        """Place of what vouches for the weights."""
        return self.weights.with_suffix(".json")

    @property
    def pointer(self) -> Path:
        """Place of DVC's pointer."""
        return pointer_path(self.weights)

    @property
    def digest(self) -> str:
        """Digest of everything that decides the weights."""
        return self.config.training_digest(self.run) if self.job is None else self.job.digest()

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that decides the weights, in plain values."""
        return self.config.training_spec(self.run) if self.job is None else self.job.spec()

    @property
    def backbone(self) -> Checkpoint | None:
        """The checkpoint that a fine-tuning starts from; None for a classifier, and for a control."""
        return None if self.job is None or self.job.name.untrained else Checkpoint(self.config, self.run)


@dataclass(frozen=True)
class Choice:
    """Where the weights of a checkpoint come from."""

    vouched: bool
    """Whether the sidecar is of weights that today's configuration trains, wherever they are."""
    fetched: bool
    """Whether these weights are published and used, so that they need no training."""
    here: bool
    """Whether these weights are here already, trained or fetched."""
    reason: str
    """Why they are fetched, or have to be trained; for those that are here, why they would be."""

    @property
    def available(self) -> bool:
        """Whether nothing has to be trained for them."""
        return self.here or self.fetched


def choose(checkpoint: Checkpoint) -> Choice:
    """Decide by sidecar, pointer and recipe, never by times of files.

    Published weights are fetched when the sidecar is theirs, was written for today's recipe, and `retrain` does not
    name them; those of a fine-tuning also have to come from the backbone that will be there. Anything else is trained.

    Raises:
        ValueError: the pointer is damaged.
    """
    sidecar, pointer = vouched(checkpoint.sidecar), read_pointer(checkpoint.weights)
    changed, there = _changed(checkpoint, sidecar, pointer), checkpoint.weights.is_file()
    if changed is not None:
        return Choice(False, False, False, changed)
    if checkpoint.config.retrains(checkpoint.name):
        replaced = pointer is not None and pointer.published(sidecar)
        return Choice(not replaced, False, there and not replaced, RETRAINED)
    if pointer is None:
        return Choice(True, False, there, "the sidecar is there, its weights are missing")
    if pointer.md5 != sidecar.get("md5"):
        reason = "weights trained here are missing; those published are others than the sidecar's"
        return Choice(True, False, there, reason)
    return Choice(True, True, there, f"published in DVC ({pointer.size / 1e6:.1f} MB)")


def _changed(checkpoint: Checkpoint, sidecar: Mapping[str, Any], pointer: Pointer | None) -> str | None:
    """Why weights with this sidecar are not those of today's configuration; None where they are."""
    if not sidecar:
        return _unvouched(checkpoint, pointer)
    if sidecar.get("recipe") != checkpoint.digest:
        return f"trained otherwise: {_changes(sidecar.get('spec') or {}, checkpoint.spec)}"
    if checkpoint.backbone is None:
        return None
    if not choose(checkpoint.backbone).vouched:
        return "its backbone is to be trained anew"
    same = (sidecar.get("backbone") or {}).get("md5", "none") == vouched(checkpoint.backbone.sidecar).get("md5")
    return None if same else "its backbone is another now"


def _unvouched(checkpoint: Checkpoint, pointer: Pointer | None) -> str:
    if pointer is not None and checkpoint.config.retrains(checkpoint.name):
        return RETRAINED
    if pointer is not None:
        return f"the sidecar of the published weights is missing or damaged (`git checkout -- {checkpoint.sidecar}`)"
    return "weights without a sidecar" if checkpoint.weights.is_file() else "never trained"


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, as `name old -> new`."""
    from lska.chain.recipes import differing, plain

    found = [
        _change(place.removeprefix("recipe."), before.get(name), after.get(name))
        for place, name, before, after in differing(plain(then), plain(now))
        if before.get(name) != after.get(name)
    ]
    if not found:
        return "the digest of its recipe differs"
    rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + rest


def _change(name: str, before: Any, after: Any) -> str:
    return f"{name} has changed" if name == "backbone" else f"{name} {before} -> {after}"
