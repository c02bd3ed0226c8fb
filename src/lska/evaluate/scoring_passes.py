"""One pass over a perturbed set for many checkpoints: every image is decoded once, whatever their number.

The images come in shards. A shard is scored by those checkpoints that have no predictions on it yet, and its
predictions are saved when it is complete, so that an interrupted pass goes on at that shard, and a checkpoint that is
added later makes nobody else's predictions again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_transform
from torch.utils.data import Dataset
from tqdm import tqdm

from lska.data.decoding import decode
from lska.data.perturbed.parts import Part
from lska.evaluate.members import Member
from lska.evaluate.predictions import Columns, Store
from lska.evaluate.scores import Outcome
from lska.models.scoring import memory_format
from lska.provenance.errors import InputError
from lska.provenance.sidecars import Geometry, Preprocessing
from lska.train.interrupt import Interrupted, StopRequest
from lska.train.workers import Loader


@dataclass(frozen=True, eq=False)
class Shard:
    """Consecutive images of a part, with the members that have no predictions on them yet."""

    part: Part
    start: int
    stop: int
    members: tuple[Member, ...]
    stored: bool
    """Whether the images are taken as they are."""

    @functools.cached_property
    def geometries(self) -> tuple[Geometry, ...]:
        """What the members make of each image, each once."""
        return tuple(dict.fromkeys(member.preprocessing(self.stored).geometry for member in self.members))


@dataclass(frozen=True)
class ShardLabels:
    """How the classes of a part are numbered by the networks.

    `numbers` (classes of the part,) are the networks' indices; `allowed` (K,) those that outputs are restricted to for
    a second set of predictions, None for none.
    """

    classes: tuple[str, ...]
    """The networks' classes, in the order of their outputs."""
    numbers: torch.Tensor
    allowed: torch.Tensor | None

    @classmethod
    def of(cls, part: Part, classes: tuple[str, ...], masked: bool) -> ShardLabels:
        """Match the class names of a part with the networks' `classes`.

        Raises:
            ValueError: the part has a class that the networks do not know.
        """
        unknown = sorted(set(part.split.classes) - set(classes))
        if unknown:
            raise InputError(
                f"{part.split.source} has classes that the networks were not trained on: {', '.join(unknown[:10])}; "
                "the set belongs to other training data"
            )
        numbers = torch.tensor([classes.index(name) for name in part.split.classes])
        return cls(classes, numbers, numbers.sort().values if masked else None)


class ShardImages(Dataset):
    """Images of shards, decoded once and cut as every geometry asks: uint8 tensors (3, size, size), and the label."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        # No shard itself: its members are networks, which loading processes have no use for.
        self.sources = [(shard.part, shard.geometries) for shard in shards]
        geometries = dict.fromkeys(geometry for shard in shards for geometry in shard.geometries)
        self.transforms = {geometry: cut(geometry) for geometry in geometries}

    def __getitem__(self, key: tuple[int, int]) -> tuple[tuple[torch.Tensor, ...], int]:
        number, position = key
        part, geometries = self.sources[number]
        split, index = part.split, part.index(position)
        image = decode(split.read(index), split.name(index))
        cut = tuple(self.transforms[geometry](image) for geometry in geometries)
        return cut, split.samples[index].target


def cut(geometry: Geometry) -> Any:
    """timm's test transform up to the pixels: resize, centre crop, uint8 tensor."""
    from torchvision.transforms import Compose, PILToTensor

    whole = create_transform(
        geometry.size, is_training=False, crop_pct=geometry.crop, interpolation=geometry.interpolation
    )
    return Compose([*whole.transforms[:-2], PILToTensor()])


class ShardBatches:
    """Keys (shard, position) of the batches of all shards in order; no batch holds images of two shards."""

    def __init__(self, shards: Sequence[Shard], size: int) -> None:
        self.shards, self.size = shards, size

    def __len__(self) -> int:
        return sum(-(-(shard.stop - shard.start) // self.size) for shard in self.shards)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number, shard in enumerate(self.shards):
            for first in range(shard.start, shard.stop, self.size):
                yield [(number, position) for position in range(first, min(first + self.size, shard.stop))]


@dataclass(frozen=True)
class ScoringPass:
    """Scoring `members` on `parts`.

    `labels` are those of the parts by name; `as_stored` says whether stored images are taken as they are.
    """

    members: Sequence[Member]
    parts: Sequence[Part]
    labels: Mapping[str, ShardLabels]
    store: Store
    as_stored: bool
    shard: int
    batch_size: int
    workers: int
    device: torch.device

    def shards(self) -> list[Shard]:
        """What is left to do, in the order of the parts."""
        return [shard for part in self.parts for shard in self._shards(part)]

    def _shards(self, part: Part) -> Iterator[Shard]:
        stored, ends = part.stored and self.as_stored, {0, len(part), *range(0, len(part), self.shard)}
        covered = {member: self.store.covered(self.place(member, part), len(part)) for member in self.members}
        ends |= {end for ranges in covered.values() for pair in ranges for end in pair}
        for start, stop in itertools.pairwise(sorted(ends)):
            lacking = [m for m in self.members if not any(a <= start and stop <= b for a, b in covered[m])]
            if lacking:
                yield Shard(part, start, stop, tuple(lacking), stored)

    def place(self, member: Member, part: Part) -> Path:
        """Folder of a member's predictions on a part."""
        key = member.key(part.stored and self.as_stored, self.labels[part.name].classes)
        return self.store.place(part.name, part.identity, key)

    def outcomes(self, member: Member, part: Part, kind: str = "full") -> Outcome:
        """A member's predictions on a whole part, `full` or `masked`.

        Raises:
            PredictionError: some are missing or damaged.
        """
        return self.store.read(self.place(member, part), kind, len(part)).outcome

    def run(self, stop: StopRequest) -> int:
        """Make every prediction that is missing; returns the number of images decoded. Progress shows on a terminal.

        Raises:
            Interrupted: `stop` asked for it; complete shards are kept.
            DataError: an image cannot be decoded.
            PredictionError: the files of some predictions contradict each other.
            ValueError: a network's outputs are not numbers.
        """
        shards = self.shards()
        total = sum(shard.stop - shard.start for shard in shards)
        order = ShardBatches(shards, self.batch_size)
        loader = Loader(ShardImages(shards), self.workers, stop.reason, batch_sampler=order)
        batches = iter(loader) if shards else iter(())
        with tqdm(total=total, unit="image", disable=None) as bar, torch.inference_mode():
            for shard in shards:
                bar.set_description(shard.part.name, refresh=False)
                self._score(shard, batches, bar, stop)
        return total

    def _score(self, shard: Shard, batches: Iterator[Any], bar: Any, stop: StopRequest) -> None:
        """Take the batches of one shard and save what its members predict."""
        labels = self.labels[shard.part.name]
        numbers = labels.numbers.to(self.device)
        allowed = None if labels.allowed is None else labels.allowed.to(self.device)
        found: dict[Member, list[dict[str, Columns]]] = {member: [] for member in shard.members}
        done = shard.start
        while done < shard.stop:
            reason = stop.reason()
            if reason is not None:
                raise Interrupted(f"{reason}; predictions up to {shard.part.name}, image {shard.start}, are kept")
            images, targets = next(batches)
            targets = numbers[targets.to(self.device, non_blocking=True)]
            for member, logits in self._logits(shard, images):
                kinds = {"full": Columns.of(logits, targets)}
                if allowed is not None:
                    kinds["masked"] = Columns.of(logits, targets, allowed)
                found[member].append(kinds)
            done += len(targets)
            bar.update(len(targets))
        for member, batches_of in found.items():
            joined = {kind: Columns.join([batch[kind] for batch in batches_of]) for kind in batches_of[0]}
            if not np.isfinite(joined["full"].confidence).all():
                raise InputError(
                    f"{member.run}: the network's outputs on {shard.part.name} are not finite; its weights (MD5 "
                    f"{member.sidecar['md5']}) are of no use: train it again, or leave it out"
                )
            self.store.write(self.place(member, shard.part), shard.start, joined)

    def _logits(self, shard: Shard, images: Sequence[torch.Tensor]) -> Iterator[tuple[Member, torch.Tensor]]:
        """Outputs (B, C) of every member in 32-bit precision; images are normalised once for all that agree on how."""
        sizes = dict(zip(shard.geometries, images, strict=True))
        ready: dict[tuple[Preprocessing, bool], torch.Tensor] = {}
        for member in shard.members:
            how = (member.preprocessing(shard.stored), member.channels_last)
            if how not in ready:
                ready[how] = normalized(sizes[how[0].geometry].to(self.device, non_blocking=True), *how)
            yield member, member.network(ready[how]).float()


def normalized(images: torch.Tensor, how: Preprocessing, channels_last: bool) -> torch.Tensor:
    """uint8 (B, 3, H, W) as the networks' input, with the same operations, and so bits, as timm's transform."""
    mean, deviation = (torch.tensor(v, device=images.device)[:, None, None] for v in (how.mean, how.deviation))
    scaled = images.to(torch.float32, memory_format=memory_format(channels_last)).div(255)
    return scaled.sub_(mean).div_(deviation)
