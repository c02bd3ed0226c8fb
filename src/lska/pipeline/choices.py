"""The choices of a whole scale, as rules and their reasons ask for them."""

from __future__ import annotations

from pathlib import Path

from lska.models.runs import Run
from lska.pipeline.checkpoints import Checkpoint, Choice, choose
from lska.provenance.foreign_weights import ForeignWeightsError, other
from lska.provenance.pointers import read_pointer
from lska.provenance.sidecars import damage, read_sidecar
from lska.settings.scale import Config


class Choices:
    """Where the weights of each network of a scale come from."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def of(self, name: str) -> Choice:
        """The choice for the network `name`, for example `detection/retinanet/van_tiny-lska-k23-s0`.

        Raises:
            ValueError: no run id, or no fine-tuning of the scale.
        """
        return choose(checkpoint(self.config, name))

    def states(self) -> dict[str, str]:
        """`Choice.state` of every network of the scale."""
        return {name: self.of(name).state for name in self.config.network_names}

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


def checkpoint(config: Config, name: str) -> Checkpoint:
    """The checkpoint called `name`.

    Raises:
        ValueError: no run id, or no fine-tuning of the scale; says what was expected.
    """
    task, _, run = name.rpartition("/")
    return Checkpoint(config, Run.parse(run), config.fine_tuning(task, Run.parse(run)) if task else None)
