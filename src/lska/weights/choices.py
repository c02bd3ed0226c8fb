"""The choices of a whole scale, as rules and their reasons ask for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lska.config import Config
from lska.files import vouched
from lska.finetuning import FineTuningJob
from lska.runs import Run
from lska.weights.checkpoints import Checkpoint, Choice, choose
from lska.weights.foreign import ForeignWeightsError, check_replaceable, foreign, occupied, other
from lska.weights.pointers import read_pointer
from lska.weights.sidecars import damage, read_sidecar


class Choices:
    """Where the weights of each network of a scale come from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.forced: Callable[[], bool] = lambda: False
        """Whether Snakemake is told to make anew what is there already; it knows only after the Snakefile was read."""
        self.deleting: Callable[[], bool] = lambda: False
        """Whether Snakemake may be about to delete what rules make (`--delete-all-output`)."""

    def of(self, name: str) -> Choice:
        """The choice for the network `name`, for example `detection/retinanet/van_tiny-lska-k23-s0`.

        Raises:
            ValueError: no run id, or no fine-tuning of the scale.
        """
        return choose(checkpoint(self.config, name))

    @functools.cached_property
    def fetched(self) -> str:
        """Regular expression of the networks whose weights come from DVC."""
        return self._names(lambda choice: choice.fetched)

    def trained(self, pattern: str) -> str:
        """Regular expression of the names in `pattern` whose weights a training makes: they do not come from DVC, and
        nothing lies in their place that no rule may replace.

        A dot follows such a name in every file of a training.
        """
        kept = self._names(lambda choice: choice.kept or choice.refused is not None)
        return rf"(?!(?:{self.fetched}|{kept})\.){pattern}"

    def _names(self, chosen: Callable[[Choice], bool]) -> str:
        names = [name for name in self.config.network_names if chosen(self.of(name))]
        return "|".join(map(re.escape, names)) or "(?!)"

    def damages(self) -> list[str]:
        """What is wrong with sidecars and pointers, which then vouch for nothing."""
        found = []
        for one in (checkpoint(self.config, name) for name in self.config.network_names):
            try:
                read_pointer(one.weights)
            except ValueError as error:
                found.append(str(error))
            fault = damage(one.sidecar)
            found += [] if fault is None else [f"{fault}; it vouches for nothing"]
        return found

    def files(self, name: str) -> list[Path]:
        """Weights and sidecar of a network, as inputs of what is to be made of them.

        Raises:
            ForeignWeightsError: what is there can be neither used nor replaced; says why and what to do.
        """
        one, choice = checkpoint(self.config, name), self.of(name)
        problem = choice.refused
        if problem is None and choice.here:
            problem = other(one.weights, read_sidecar(one.sidecar)["md5"])
        if problem is not None:
            raise ForeignWeightsError(problem)
        return [one.weights, one.sidecar]

    def check_forced(self, name: str) -> None:
        """Make sure that weights which nothing but an option would make anew or delete are not somebody else's.

        Raises:
            ForeignWeightsError: they are.
        """
        if (self.forced() or self.deleting()) and (weights := self.config.weights_path(name)).is_file():
            check_replaceable(weights)

    def check_outputs(self, outputs: Iterable[Path | str]) -> None:
        """Make sure that nobody else's weights are among the files that jobs are about to replace.

        Raises:
            ForeignWeightsError: names all that are.
        """
        replaced = set(map(Path, outputs))
        places = [self.config.weights_path(name) for name in self.config.network_names]
        # A fetch leaves the sidecar alone.
        asked = [path for path in places if {path, path.with_suffix(".json")} <= replaced]
        asked += [path for path in places if path in replaced and occupied(path) and path not in asked]
        problems = [problem for path in asked if (problem := foreign(path)) is not None]
        if problems:
            raise ForeignWeightsError("\n".join(problems))

    def lasting(self, name: str) -> bool:
        """Whether the weights of a network stay what they are: at hand, or missing where nothing needs them.

        A clone of results whose weights are not published has nothing to be trained for.
        """
        choice = self.of(name)
        return choice.available or (choice.vouched and not self._needed(name))

    def used(self, name: str) -> list[Path]:
        """The files of weights that something was made of, as inputs that have to be `ancient` (Snakemake's).

        Snakemake does not keep to `ancient` for files that are missing: where weights are fetched for something else,
        they are no input of what is made already.

        Raises:
            ForeignWeightsError: as `files`, where things are to be made anew.
        """
        weights = self.config.weights_path(name)
        if self.forced() or self.config.retrains(name):
            self.files(name)
        missed = not weights.is_file() and self._needed(name)
        return [weights.with_suffix(".json")] if missed else self.existing(name)

    def existing(self, name: str) -> list[Path]:
        """Weights and sidecar of a network; without weights that are missing and that no rule makes."""
        weights, choice = self.config.weights_path(name), self.of(name)
        made = weights.is_file() or not (choice.kept or choice.refused)
        return [weights, weights.with_suffix(".json")] if made else [weights.with_suffix(".json")]

    def _needed(self, name: str) -> bool:
        """Whether anything that is made of a network's weights is missing, or was made of others."""
        md5 = read_sidecar(self.config.weights_path(name).with_suffix(".json")).get("md5")
        return any(used != md5 for used in self._uses(name))

    def _uses(self, name: str) -> Iterator[str | None]:
        """The MD5 of a network's weights that each file made by them names; None for one that is to be made."""
        task, _, run = name.rpartition("/")
        config, parsed = self.config, Run.parse(run)
        items = [] if task else [item for item in config.measured if parsed in config.runs_of(item.task)]
        for place in (task or "classification", *(item.task for item in items)):
            yield (vouched(config.metric_path(place, run)).get("weights") or {}).get("md5")
        for job in config.fine_tunings:
            if not task and job.run == parsed and job.backbone is not None:
                sidecar = read_sidecar(job.weights.with_suffix(".json"))
                yield (sidecar.get("backbone") or {}).get("md5") if self.lasting(job.place) else None

    def __format__(self, name: str) -> str:
        """Why the weights of `name` are fetched or trained, for the message of a rule."""
        choice = self.of(name)
        return f"{'fetch' if choice.fetched else 'train'} {name}: {choice.reason}"


def checkpoint(config: Config, name: str) -> Checkpoint:
    """The checkpoint called `name`.

    Raises:
        ValueError: no run id, or no fine-tuning of the scale; says what was expected.
    """
    task, _, run = name.rpartition("/")
    return Checkpoint(config, Run.parse(run), FineTuningJob(config, task, Run.parse(run)) if task else None)
