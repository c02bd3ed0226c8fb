"""Predictions kept per weights in Parquet files, a shard each, so that nothing is predicted twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lska.evaluate.scores import Outcome
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import atomic_path

BEST = 5
"""Classes kept per image, the most probable first; -1 where the network has fewer."""

_SHARD = re.compile(r"(?P<start>\d{8})-(?P<stop>\d{8})\.parquet")


class PredictionError(LskaError, ValueError):
    """A file of predictions that cannot be used."""


@dataclass(frozen=True)
class Columns:
    """Predictions on consecutive images of a part; arrays of equal length n.

    `best` (n, 5) int16 are class indices of the network, `label` (n,) int16 the right one, `label_probability` and
    `confidence` (n,) float32 the probabilities of the label and of the most probable class.
    """

    label: np.ndarray
    best: np.ndarray
    label_probability: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def of(cls, logits: torch.Tensor, labels: torch.Tensor, allowed: torch.Tensor | None = None) -> Columns:
        """From logits (B, C) and labels (B,); `allowed` (K,) are the class indices that the outputs are restricted to.

        Raises:
            ValueError: a label is not among the allowed classes.
        """
        outputs = logits if allowed is None else logits[:, allowed]
        probabilities = outputs.softmax(dim=1)
        # By logits: where one class leaves nothing to the others, their probabilities are all 0.
        places = outputs.topk(min(BEST, outputs.shape[1]), dim=1).indices
        best = torch.full((len(labels), BEST), -1, dtype=torch.int16, device=logits.device)
        best[:, : places.shape[1]] = (places if allowed is None else allowed[places]).to(torch.int16)
        columns = labels if allowed is None else _position(labels, allowed)
        probability = probabilities.gather(1, columns[:, None])[:, 0]
        arrays = (labels.to(torch.int16), best, probability, probabilities.gather(1, places[:, :1])[:, 0])
        return cls(*(array.cpu().numpy() for array in arrays))

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """One after the other."""
        names = ("label", "best", "label_probability", "confidence")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def outcome(self) -> Outcome:
        """What metrics need."""
        return Outcome(self.best[:, 0] == self.label, self.confidence)


def _position(labels: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    matches = labels[:, None] == allowed[None, :]
    if not bool(matches.any(dim=1).all()):
        raise InputError("a label is not among the classes that the outputs are restricted to")
    return matches.int().argmax(dim=1)


@dataclass(frozen=True)
class Store:
    """Folder of predictions: `<part>/<images>/<weights and preprocessing>/<start>-<stop>.parquet`.

    A file has the columns `<kind>_label`, `<kind>_top1` to `<kind>_top5` (`Columns.best`), `<kind>_label_probability`
    and `<kind>_confidence` of each kind, `full` and, for sets of some classes, `masked`; a row for each image.
    """

    folder: Path

    def place(self, part: str, identity: str, member: str) -> Path:
        """Folder of one network's shards on one part.

        Args:
            part: name of the part, for people; `identity` (a digest) tells its images.
            member: key of the weights with what else decides their predictions.
        """
        return self.folder / part.replace("/", "_") / identity.removeprefix("sha256:")[:16] / member

    def covered(self, place: Path, length: int) -> list[tuple[int, int]]:
        """Ranges of images, in order and without overlap, for which there are predictions.

        Raises:
            PredictionError: two files overlap, one goes beyond the part's `length`, or one has a foreign name.
        """
        # A killed process leaves the hidden file that it was writing.
        files = [path for path in place.glob("*.parquet") if not path.name.startswith(".")] if place.is_dir() else []
        found = sorted(map(_range, files))
        end = 0
        for start, stop in found:
            if start < end or stop > length:
                raise PredictionError(
                    f"{place / _name(start, stop)}: expected images from {end} on of {length}, found images {start} to "
                    f"{stop}, which others have too or which do not exist; remove {place}, they are made again"
                )
            end = stop
        return found

    def write(self, place: Path, start: int, columns: dict[str, Columns]) -> None:
        """Save the predictions of the images from `start` on, atomically; `columns` by kind (`full`, `masked`)."""
        fields = {f"{kind}_{name}": array for kind, part in columns.items() for name, array in _arrays(part).items()}
        stop = start + len(next(iter(columns.values())))
        with atomic_path(place / _name(start, stop)) as temporary:
            pq.write_table(pa.table(fields), temporary, compression="zstd", write_page_checksum=True)

    def read(self, place: Path, kind: str, length: int) -> Columns:
        """All predictions of a part.

        Raises:
            PredictionError: some are missing, or a file is damaged.
        """
        ranges = self.covered(place, length)
        if sum(stop - start for start, stop in ranges) != length:
            raise PredictionError(f"{place}: predictions on {length} images expected, some are missing; run it again")
        return Columns.join([_read(place / _name(start, stop), kind) for start, stop in ranges])


def _name(start: int, stop: int) -> str:
    return f"{start:08d}-{stop:08d}.parquet"


def _range(path: Path) -> tuple[int, int]:
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["start"]) >= int(match["stop"]):
        raise PredictionError(f"{path}: not a name of a shard (<first>-<past the last>.parquet); remove the file")
    return int(match["start"]), int(match["stop"])


def _arrays(columns: Columns) -> dict[str, np.ndarray]:
    best = {f"top{rank + 1}": columns.best[:, rank] for rank in range(BEST)}
    return {
        "label": columns.label, **best,
        "label_probability": columns.label_probability, "confidence": columns.confidence,
    }  # fmt: skip


def _read(path: Path, kind: str) -> Columns:
    names = [f"{kind}_{name}" for name in ("label", "label_probability", "confidence")]
    best = [f"{kind}_top{rank + 1}" for rank in range(BEST)]
    try:
        table = pq.read_table(path, columns=[*names, *best], page_checksum_verification=True)
        label, probability, confidence = (table[name].to_numpy() for name in names)
        columns = Columns(label, np.stack([table[name].to_numpy() for name in best], axis=1), probability, confidence)
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = " ".join(str(error).split())
        raise PredictionError(f"{path} is damaged ({reason}); remove it, the predictions are made again") from error
    start, stop = _range(path)
    if len(columns) != stop - start:
        raise PredictionError(f"{path} has {len(columns)} rows, expected {stop - start} by its name; remove it")
    return columns
