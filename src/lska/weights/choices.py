"""The choices of a whole scale, as rules and their reasons ask for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from lska.config import Config
from lska.files import vouched
from lska.finetuning import FineTuningJob
from lska.runs import Run
from lska.weights.checkpoints import Checkpoint, Choice, choose


class Choices:
    """Where the weights of each network of a scale come from."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def of(self, name: str) -> Choice:
        """The choice for the network `name`, for example `detection/retinanet/van_tiny-lka-k23-s0`.

        Raises:
            ValueError: no run id, no fine-tuning of the scale, or a damaged pointer.
        """
        return choose(checkpoint(self.config, name))

    @functools.cached_property
    def fetched(self) -> str:
        """Regular expression of the networks whose weights come from DVC."""
        names = [name for name in self.config.network_names if self.of(name).fetched]
        return "|".join(map(re.escape, names)) or "(?!)"

    def trained(self, pattern: str) -> str:
        """Regular expression of the names in `pattern` whose weights do not come from DVC.

        A dot follows such a name in every file of a training.
        """
        return rf"(?!(?:{self.fetched})\.){pattern}"

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
        """
        weights = self.config.weights_path(name)
        files = [weights, weights.with_suffix(".json")]
        return files if weights.is_file() or not self._needed(name) else files[1:]

    def _needed(self, name: str) -> bool:
        """Whether anything that is made of a network's weights is missing, or was made of others."""
        md5 = vouched(self.config.weights_path(name).with_suffix(".json")).get("md5")
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
                made = self.lasting(job.place)
                yield (vouched(job.weights.with_suffix(".json")).get("backbone") or {}).get("md5") if made else None

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
