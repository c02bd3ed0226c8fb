"""The checkpoints of a scale by name, and for each whether its weights are here, are fetched, or have to be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.provenance.foreign_weights import cached, foreign, occupied, unusable
from lska.provenance.pointers import Pointer, pointer_path, read_pointer
from lska.provenance.sidecars import (
    changes,
    damage,
    imported,
    own_normalization,
    own_preprocessing,
    read_sidecar,
)

if TYPE_CHECKING:
    from lska.models.runs import Run
    from lska.settings.scale import Config
    from lska.settings.tasks import FineTuningJob

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
        return self.config.classifier(self.run).spec() if self.job is None else self.job.spec()

    @property
    def backbone(self) -> Checkpoint | None:
        """The checkpoint that a fine-tuning starts from; None for a classifier, and for a control."""
        return None if self.job is None or self.job.name.untrained else Checkpoint(self.config, self.run)


@dataclass(frozen=True)
class Choice:
    """Where the weights of a checkpoint come from."""

    vouched: bool
    """Whether the sidecar is of weights that today's configuration trains, or of imported ones, wherever they are."""
    fetched: bool
    """Whether these weights are published and used, so that they need no training."""
    here: bool
    """Whether these weights are here already, trained, fetched or imported."""
    reason: str
    """Why they are fetched, or have to be trained; for those that are here, why they would be."""
    kept: bool = False
    """Whether no rule makes them, because what is there is not known to be made by this program."""
    refused: str | None = None
    """Why they can be neither used nor made, with what to do; None where they can."""

    @property
    def available(self) -> bool:
        """Whether nothing has to be trained for them."""
        return self.here or self.fetched

    @property
    def state(self) -> str:
        """One word for lists: `here`, `fetch`, `train`, or `stop` where a person has to decide."""
        if self.refused is not None:
            return "stop"
        return "here" if self.here else "fetch" if self.fetched else "train"


def choose(checkpoint: Checkpoint) -> Choice:
    """Decide by sidecar, pointer and recipe, never by times of files.

    Published weights are fetched when the sidecar is theirs, was written for today's recipe, and `retrain` does not
    name them; those of a fine-tuning also have to come from the backbone that will be there. Imported weights are used
    whatever today's recipe is. Anything else is trained, unless that would replace what this program did not make: then
    a person has to decide.
    """
    weights, sidecar = checkpoint.weights, read_sidecar(checkpoint.sidecar)
    try:
        pointer, problem = read_pointer(weights), None
    except ValueError as error:
        pointer, problem = None, str(error)
    decide = _of_imported if imported(sidecar) else _of_trained
    choice = decide(checkpoint, sidecar, pointer)
    if choice.refused is not None:
        return choice
    if (blocked := _blocked(checkpoint, pointer)) is not None:
        problem = blocked
    elif choice.here:
        return choice if problem is None else dataclasses.replace(choice, reason=problem)
    elif occupied(weights) or damage(checkpoint.sidecar) is not None:
        problem = foreign(weights)
    return choice if problem is None else dataclasses.replace(choice, fetched=False, here=False, refused=problem)


def _blocked(checkpoint: Checkpoint, pointer: Pointer | None) -> str | None:
    """What is wrong where no file of weights can be, as something else lies there."""
    if not checkpoint.weights.is_file() and cached(checkpoint.weights, pointer):
        return (
            f"{checkpoint.weights}: is a link to {checkpoint.weights.readlink()} in DVC's cache, which was moved or "
            f"removed; `lska weights fetch {checkpoint.name}` with the same configuration fetches it anew, or bring "
            "the cache back"
        )
    return unusable(checkpoint.weights)


def _of_imported(checkpoint: Checkpoint, sidecar: Mapping[str, Any], pointer: Pointer | None) -> Choice:
    """The choice for weights from elsewhere: nothing here makes them."""
    weights, here = checkpoint.weights, checkpoint.weights.is_file()
    fetched = not occupied(weights) and pointer is not None and pointer.md5 == sidecar["md5"]
    read, refused = own_preprocessing if checkpoint.job is None else own_normalization, None
    try:
        read(sidecar, str(checkpoint.sidecar))
    except ValueError as error:
        refused = str(error)
    if checkpoint.config.retrains(checkpoint.name):
        refused = f"{foreign(weights)}, or take {checkpoint.name} out of the setting retrain"
    elif not occupied(weights) and not fetched:
        refused = (
            f"{weights} is missing; its sidecar says that it was imported, so nothing here makes it: bring it back, or "
            f"move {checkpoint.sidecar} away to train it here"
        )
    reason = f"imported; {_published(pointer)}" if fetched else "imported"
    return Choice(True, fetched and refused is None, here, reason, kept=not fetched, refused=refused)


def _of_trained(checkpoint: Checkpoint, sidecar: Mapping[str, Any], pointer: Pointer | None) -> Choice:
    """The choice for weights that this program trains."""
    changed, there = _changed(checkpoint, sidecar, pointer), checkpoint.weights.is_file()
    if changed is not None:
        return Choice(False, False, False, changed)
    if checkpoint.config.retrains(checkpoint.name):
        replaced = pointer is not None and pointer.published(sidecar)
        return Choice(not replaced, False, there and not replaced, RETRAINED)
    if there and (pointer is None or pointer.md5 != sidecar["md5"]):
        return Choice(True, False, True, "not published")
    if pointer is None:
        return Choice(True, False, False, "the sidecar is there, its weights are missing")
    if pointer.md5 != sidecar["md5"]:
        reason = "weights trained here are missing; those published are others than the sidecar's"
        return Choice(True, False, False, reason)
    return Choice(True, True, there, _published(pointer))


def _published(pointer: Pointer) -> str:
    return f"published in DVC ({pointer.size / 1e6:.1f} MB)"


def _changed(checkpoint: Checkpoint, sidecar: Mapping[str, Any], pointer: Pointer | None) -> str | None:
    """Why weights with this sidecar are not those of today's configuration; None where they are."""
    if not sidecar:
        return _unvouched(checkpoint, pointer)
    if sidecar.get("recipe") != checkpoint.digest:
        return f"trained otherwise: {changes(sidecar.get('spec') or {}, checkpoint.spec)}"
    if checkpoint.backbone is None:
        return None
    if not choose(checkpoint.backbone).vouched:
        return "its backbone is to be trained anew"
    same = (sidecar.get("backbone") or {}).get("md5", "none") == read_sidecar(checkpoint.backbone.sidecar).get("md5")
    return None if same else "its backbone is another now"


def _unvouched(checkpoint: Checkpoint, pointer: Pointer | None) -> str:
    if pointer is not None and checkpoint.config.retrains(checkpoint.name):
        return RETRAINED
    fault = damage(checkpoint.sidecar)
    if pointer is not None:
        state = "missing" if fault is None else f"damaged, {fault}"
        return f"the sidecar of the published weights is {state} (`git checkout -- {checkpoint.sidecar}`)"
    if fault is not None:
        return f"its sidecar is damaged ({fault})"
    return "weights without a sidecar" if occupied(checkpoint.weights) else "never trained"
