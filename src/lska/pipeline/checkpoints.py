"""Whether the weights of each network of a scale are here, are fetched, or have to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.pipeline.published import not_obtainable
from lska.provenance.errors import InputError, did_you_mean
from lska.provenance.files import plain
from lska.provenance.sidecars import (
    ForeignWeightsError,
    Pointer,
    WeightsSource,
    cached,
    changes,
    damage,
    foreign,
    imported,
    not_importable,
    occupied,
    other,
    own_normalization,
    own_preprocessing,
    read_pointer,
    read_sidecar,
    source_of,
    unusable,
)
from lska.settings.scale import Config
from lska.settings.tasks import FineTuningJob, TrainingJob

RETRAINED = "to be trained again (setting retrain)"


def training_of(config: Config, name: str) -> TrainingJob:
    """The training of a network by its place below `checkpoints/<scale>`, for example
    `detection/retinanet/van_tiny-lka-k23-s0`.

    Raises:
        ValueError: no run id, or no fine-tuning of the scale; says what was expected.
    """
    task, _, run = name.rpartition("/")
    return config.fine_tuning(task, Run.parse(run)) if task else config.classifier(Run.parse(run))


def network_names(config: Config, asked: Sequence[str]) -> Sequence[str]:
    """The networks that a person asks for, or all of the scale; InputError for one that it has not."""
    if unknown := [name for name in asked if name not in config.network_names]:
        advice = did_you_mean(unknown[0], config.network_names)
        expected = f"{advice}Expected some of {', '.join(config.network_names)}"
        raise InputError(f"{', '.join(unknown)}: not trained at scale {config.scale}; {expected}")
    return asked or config.network_names


@dataclass(frozen=True)
class Choice:
    """Where the weights of a network come from."""

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
    brought: bool = False
    """Whether they are made of a published file (`lska weights import`)."""

    @property
    def state(self) -> str:
        """One word for lists: `here`, `fetch`, `import`, `train`, or `stop` where a person has to decide."""
        if self.refused is not None:
            return "stop"
        return "here" if self.here else "fetch" if self.fetched else "import" if self.brought else "train"


class Choices:
    """Where the weights of each network of a scale come from, decided once for each.

    Sidecar, pointer and recipe decide, never times of files. Published weights are fetched when the sidecar is theirs,
    was written for today's recipe, and `retrain` does not name them; those of a fine-tuning also have to come from the
    backbone that will be there. Imported weights are used whatever today's recipe is; those that are missing are made
    of the file that they were imported from. Where a run says `source: imported`, its weights are imported. Anything
    else is trained, unless that would replace what this program did not make: then a person has to decide.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._decided: dict[str, Choice] = {}
        self._inputs: dict[str, list[Path]] = {}

    def of(self, name: str) -> Choice:
        """The choice for the network `name`; raises as `training_of`."""
        if name not in self._decided:
            self._decided[name] = self._decide(training_of(self.config, name))
        return self._decided[name]

    def states(self) -> dict[str, str]:
        """`Choice.state` of every network of the scale."""
        return {name: self.of(name).state for name in self.config.network_names}

    def damages(self) -> list[str]:
        """What is wrong with sidecars and pointers, which then vouch for nothing."""
        found = []
        for weights in map(self.config.weights_path, self.config.network_names):
            try:
                read_pointer(weights)
            except ValueError as error:
                found.append(str(error))
            fault = damage(weights.with_suffix(".json"))
            found += [] if fault is None else [f"{fault}; it is not used"]
        return found

    def files(self, name: str) -> list[Path]:
        """Weights and sidecar of a network, as inputs of what is to be made of them.

        Raises:
            ForeignWeightsError: what is there can be neither used nor replaced; says why and what to do.
        """
        if name not in self._inputs:
            choice, weights = self.of(name), self.config.weights_path(name)
            sidecar, problem = weights.with_suffix(".json"), choice.refused
            if problem is None and choice.here:
                problem = other(weights, read_sidecar(sidecar)["md5"])
            if problem is not None:
                raise ForeignWeightsError(problem)
            self._inputs[name] = [weights, sidecar]
        return self._inputs[name]

    def _decide(self, one: TrainingJob) -> Choice:
        weights, place = one.weights, one.weights.with_suffix(".json")
        sidecar = read_sidecar(place)
        try:
            pointer, problem = read_pointer(weights), None
        except ValueError as error:
            pointer, problem = None, str(error)
        if imported(sidecar):
            choice = self._of_imported(one, sidecar, pointer)
        else:
            choice = self._of_published(one) if one.imported else self._of_trained(one, sidecar, pointer)
        if choice.refused is not None:
            return choice
        if not weights.is_file() and cached(weights, pointer):
            problem = (
                f"{weights}: is a link to {weights.readlink()} in DVC's cache, which was moved or removed; `lska "
                f"weights fetch {one.place}` with the same configuration fetches it again, or bring the cache back"
            )
        elif (blocked := unusable(weights)) is not None:
            problem = blocked
        elif choice.here:
            return replace(choice, reason=problem or choice.reason)
        elif occupied(weights) or damage(place) is not None:
            problem = foreign(weights)
        return choice if problem is None else replace(choice, fetched=False, here=False, refused=problem)

    def _of_published(self, one: TrainingJob) -> Choice:
        """Weights that are to be imported, and have not been so far."""
        refused = not_importable(one.weights) or not_obtainable(one)
        if one.retrained:
            refused = f"{one.place}: its runs say source: imported, and the setting retrain names it; take one out"
        return Choice(False, False, False, "never imported", refused=refused, brought=True)

    def _of_imported(self, one: TrainingJob, sidecar: Mapping[str, Any], pointer: Pointer | None) -> Choice:
        """Weights from elsewhere: nothing here makes them, but of the file that they were made of."""
        weights, place, refused = one.weights, one.weights.with_suffix(".json"), None
        source, published = source_of(sidecar), pointer is not None and pointer.md5 == sidecar["md5"]
        fetched = not occupied(weights) and (published or source is not None)
        try:
            (own_normalization if isinstance(one, FineTuningJob) else own_preprocessing)(sidecar, str(place))
        except ValueError as error:
            refused = str(error)
        if one.retrained:
            refused = f"{foreign(weights)}, or take {one.place} out of the setting retrain"
        elif one.imported and source is not None and refused is None:
            refused = _otherwise(one, source, sidecar)
        if fetched and not published:
            refused = refused or not_obtainable(one)
        elif not one.retrained and not occupied(weights) and not fetched:
            refused = (
                f"{weights} is missing; its sidecar says that it was imported, so nothing here can make it: bring it "
                f"back, or move {place} away to train it here"
            )
        reason = f"imported; {_published(pointer)}" if fetched and published else "imported"
        if source is not None:
            reason += f" from {source.address or source.file}"
        return Choice(True, fetched and refused is None, weights.is_file(), reason, not fetched, refused)

    def _of_trained(self, one: TrainingJob, sidecar: Mapping[str, Any], pointer: Pointer | None) -> Choice:
        """Weights that this program trains."""
        there, published = one.weights.is_file(), pointer is not None and pointer.md5 == sidecar.get("md5")
        if (changed := self._changed(one, sidecar, pointer)) is not None:
            return Choice(False, False, False, changed)
        if one.retrained:
            anew = pointer is None or not pointer.published(sidecar)
            return Choice(anew, False, there and anew, RETRAINED)
        if published or there:
            return Choice(True, published, there, _published(pointer) if published else "not published")
        reason = "the sidecar is there, its weights are missing"
        if pointer is not None:
            reason = "weights trained here are missing; the published ones are not the sidecar's"
        return Choice(True, False, False, reason)

    def _changed(self, one: TrainingJob, sidecar: Mapping[str, Any], pointer: Pointer | None) -> str | None:
        """Why weights with this sidecar are not those of today's configuration; None where they are."""
        if not sidecar:
            place = one.weights.with_suffix(".json")
            fault = damage(place)
            if pointer is not None and one.retrained:
                return RETRAINED
            if pointer is not None:
                state = "missing" if fault is None else f"damaged, {fault}"
                return f"the sidecar of the published weights is {state} (`git checkout -- {place}`)"
            if fault is not None:
                return f"its sidecar is damaged ({fault})"
            return "weights without a sidecar" if occupied(one.weights) else "never trained"
        if sidecar.get("recipe") != one.digest():
            return f"trained otherwise: {changes(sidecar.get('spec') or {}, one.spec())}"
        if not isinstance(one, FineTuningJob) or one.backbone is None:
            return None
        if not self.of(str(one.run)).vouched:
            return "its backbone is to be trained again"
        backbone = read_sidecar(one.backbone.with_suffix(".json"))
        same = (sidecar.get("backbone") or {}).get("md5", "none") == backbone.get("md5")
        return None if same else "its backbone has changed"


def _otherwise(one: TrainingJob, source: WeightsSource, sidecar: Mapping[str, Any]) -> str | None:
    """What the configuration says otherwise of the file that weights were imported from than their sidecar does, with
    what to do; None where it says nothing of this file, or the same. A file that a person gave stays the one that is
    meant as long as the configuration names the same as then.
    """
    known, place = one.published, one.weights.with_suffix(".json")
    if known is None:
        return None
    if known.sha256 not in (None, source.sha256):
        return (
            f"{place}: was written for a file {source.file} of SHA-256 {source.sha256}, and the configuration expects "
            f"{known.sha256}; correct that, or move {one.weights} and {place.name} away to import the other file"
        )
    if known.file != source.file:
        if known.sha256 is not None or source.configured in (None, known.file):
            return None
        return (
            f"{place}: was written for {source.file}, when the configuration named {source.configured} for "
            f"{one.place}, and it names {known.file} now; name {source.file} there, or move {one.weights} and "
            f"{place.name} away to import the other file"
        )
    asked = plain(known.preprocessing) | ({} if known.key is None else {"key": known.key})
    stated = {name: value for name, value in {**sidecar["spec"]["recipe"], "key": source.key}.items() if name in asked}
    if stated == asked:
        return None
    return (
        f"{place}: differs from the configuration about {source.file} ({changes(stated, asked)}); `lska weights import "
        f"{one.place}` with the same configuration writes it again"
    )


def _published(pointer: Pointer) -> str:
    return f"published in DVC ({pointer.size / 1e6:.1f} MB)"
