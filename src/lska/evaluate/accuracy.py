"""Accuracy of classifiers on the validation set (Tables III, VIII, XVII; Figures 1, 6) and on perturbed sets.

Predictions on perturbed sets are kept per weights, in shards of consecutive images, as `<part>/<images>/<weights and
how they are used>/<start>-<stop>.npz` below the set's folder. A file that is there is complete, so an interrupted pass
goes on at its shard, and a checkpoint that is added later makes nobody else's predictions again.
"""

from __future__ import annotations

import functools
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lska.data.archives import open_classification
from lska.data.perturbed.names import FAMILIES
from lska.data.perturbed.parts import CLEAN, Part, open_parts, read_perturbed_record
from lska.data.preparing import verify
from lska.data.synthetic.labelled import Judge
from lska.evaluate.measurement import (
    Network,
    Shard,
    Subject,
    Values,
    measure,
    open_run,
    openers,
    shared_batches,
    training_classes,
)
from lska.evaluate.scores import Outcome, corruption_values, plain_values
from lska.models.scoring import Scores, use_threads
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import atomic_path
from lska.provenance.metric_files import digest
from lska.provenance.outcomes import Outcomes, of_images
from lska.settings.tasks import MASKED, ClassifierJob, MeasurementJob, PerturbedSet
from lska.train.interrupt import Interrupted, StopRequest
from lska.train.loading import test_transform

logger = logging.getLogger(__name__)

BEST = 5
"""Classes kept per image, the most probable first; -1 where the network has fewer."""


class PredictionError(LskaError, ValueError):
    """A file of predictions that cannot be used."""


def classify(task: MeasurementJob, networks: Sequence[Network]) -> None:
    """Score `networks` in one pass over the validation images and write a metric file for each.

    Raises:
        DataError: the data set is missing, or an image is unreadable (named).
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture.
    """
    split, means = open_classification(task.data, "val"), task.means

    def accuracies(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        scores = [Scores() for _ in subjects]
        shard = Shard(split, range(len(split)), subjects)
        with torch.inference_mode():
            for _, indices, inputs in shared_batches([shard], means.batch_size, means.workers, device):
                labels = torch.tensor([split.samples[index].target for index in indices], device=device)
                for counts, (subject, images) in zip(scores, inputs, strict=True):
                    counts.add(subject.network(images).float(), labels)
        for counts in scores:
            kept = counts.images
            yield Values({name: of_images(name, values) for name, values in kept.items()}, Outcomes(images=kept))

    measure(task, openers(networks, len(split.classes)), accuracies, verify(task.data, split))


def measure_robustness(item: PerturbedSet, networks: Sequence[Network], stop: StopRequest | None = None) -> None:
    """Score `networks` on a perturbed set in one pass and write a metric file for each.

    Raises:
        DataError: the set was not prepared, was changed since, or holds an unreadable image.
        StaleWeightsError, ValueError: a checkpoint cannot be used.
        PredictionError: a file of predictions is damaged.
        Interrupted: `stop` asked for it; complete shards are kept.
    """
    parts, classes, stored = open_parts(item), training_classes(item.clean), read_perturbed_record(item)
    detail: dict[str, Any] = {"protocol": item.protocol(), "classes": stored.get("classes")}
    if item.corrupted:
        detail |= {
            "stored_images": item.stored_images,
            "corruptions": len(FAMILIES[item.name]),
            "parts": sum(map(len, stored["parts"].values())),
            "missing": stored["missing"],
        }

    def robustness(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        scoring = ScoringPass(
            subjects, parts, item.predictions, classes, item.name in MASKED, item.stored_images == "as_stored",
            item.section.shard, item.means.batch_size, item.means.workers, device,
        )  # fmt: skip
        decoded = scoring.run(StopRequest(None) if stop is None else stop)
        logger.info("%s: %d images decoded for %d checkpoints", item.data.name, decoded, len(subjects))
        for subject in subjects:
            if item.corrupted:
                found = {part.cell or CLEAN: scoring.outcome(subject, part) for part in parts}
                clean = found.pop(CLEAN, None)
                yield Values(*corruption_values(item.name, found, clean), detail)
            else:
                kinds = {"": "masked", "_unmasked": "full"} if item.name in MASKED else {"": "full"}
                found = {end: scoring.outcome(subject, parts[0], kind) for end, kind in kinds.items()}
                yield Values(*plain_values(found), detail)

    identity = {name: stored[name] for name in ("name", "digest")}
    measure(item, openers(networks, len(classes)), robustness, identity)


@dataclass(frozen=True)
class ScoringPass:
    """Predictions of `subjects` on `parts`: every image is decoded once, whatever their number."""

    subjects: Sequence[Subject]
    parts: Sequence[Part]
    folder: Path
    """Where predictions are kept, a cache."""
    classes: tuple[str, ...]
    """The networks' classes, in the order of their outputs."""
    masked: bool
    """Whether there is a second set of predictions, with outputs restricted to the classes of the part."""
    as_stored: bool
    """Whether stored images are taken as they are."""
    shard: int
    """Images after which predictions are saved."""
    batch_size: int
    workers: int
    device: torch.device

    @functools.cached_property
    def keys(self) -> dict[tuple[Subject, bool], str]:
        """What decides predictions beside the images, by subject and whether images are taken as they are."""
        found = {}
        for subject in self.subjects:
            for stored in {part.stored and self.as_stored for part in self.parts}:
                preprocessing = subject.preprocessing(stored).to_dict()
                version = [subject.version] if subject.version else []
                how = digest([preprocessing, subject.name, subject.architecture, self.classes, *version])
                found[subject, stored] = f"{subject.sidecar['md5']}-{how.removeprefix('sha256:')[:12]}"
        return found

    def files(self, subject: Subject, part: Part) -> dict[range, Path]:
        """Places of a subject's predictions on a part, by the positions of the images in the part."""
        folder = self.folder / part.name.replace("/", "_") / part.identity.removeprefix("sha256:")[:16]
        place = folder / self.keys[subject, part.stored and self.as_stored]
        starts = range(0, len(part), self.shard)
        shards = [range(start, min(start + self.shard, len(part))) for start in starts]
        return {shard: place / f"{shard.start:08d}-{shard.stop:08d}.npz" for shard in shards}

    def run(self, stop: StopRequest) -> int:
        """Make every prediction that is missing; returns the number of images decoded. Progress shows on a terminal.

        Raises:
            Interrupted: `stop` asked for it; complete shards are kept.
            DataError: an image cannot be decoded.
            ValueError: a part has a class that the networks do not know, or outputs are not numbers.
        """
        left: dict[Shard, tuple[Part, range, list[Path]]] = {}
        for part in self.parts:
            files = [self.files(subject, part) for subject in self.subjects]
            for positions in files[0]:
                pairs = zip(self.subjects, [places[positions] for places in files], strict=True)
                if lacking := [(subject, place) for subject, place in pairs if not place.exists()]:
                    indices = positions if part.indices is None else part.indices[positions.start : positions.stop]
                    subjects, places = zip(*lacking, strict=True)
                    shard = Shard(part.split, indices, subjects, part.stored and self.as_stored)
                    left[shard] = (part, positions, places)
        labels = {part.name: class_numbers(part, self.classes) for part, *_ in left.values()}
        batches = shared_batches([*left], self.batch_size, self.workers, self.device, stop.reason)
        decoded = 0
        with torch.inference_mode():
            for shard, (part, positions, places) in left.items():
                numbers = labels[part.name].to(self.device)
                allowed = numbers.sort().values if self.masked else None
                found: list[list[dict[str, np.ndarray]]] = [[] for _ in places]
                for _ in range(0, len(positions), self.batch_size):
                    if (reason := stop.reason()) is not None:
                        raise Interrupted(f"{reason}; predictions up to {part.name}, image {positions.start}, are kept")
                    _, indices, inputs = next(batches)
                    targets = numbers[torch.tensor([part.split.samples[i].target for i in indices], device=self.device)]
                    for kept, (subject, images) in zip(found, inputs, strict=True):
                        kept.append(predictions(subject.network(images).float(), targets, allowed))
                    decoded += len(indices)
                for subject, path, kept in zip(shard.subjects, places, found, strict=True):
                    _save(subject, part, path, {name: np.concatenate([one[name] for one in kept]) for name in kept[0]})
        return decoded

    def outcome(self, subject: Subject, part: Part, kind: str = "full") -> Outcome:
        """A subject's predictions on a whole part, `full` or `masked`; raises PredictionError for a damaged file."""
        correct, confidence = [], []
        for path in self.files(subject, part).values():
            try:
                with np.load(path) as found:
                    correct.append(found[f"{kind}_best"][:, 0] == found[f"{kind}_label"])
                    confidence.append(found[f"{kind}_confidence"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                told = f"{path} is damaged ({error}); remove it, the predictions are made again"
                raise PredictionError(told) from error
        return Outcome(np.concatenate(correct), np.concatenate(confidence))


def class_numbers(part: Part, classes: tuple[str, ...]) -> Tensor:
    """The networks' index of each class of a part, int64; raises ValueError for a class that they do not know."""
    unknown = sorted(set(part.split.classes) - set(classes))
    if unknown:
        raise InputError(
            f"{part.split.source} has classes that the networks were not trained on: {', '.join(unknown[:10])}; "
            "the set belongs to other training data"
        )
    return torch.tensor([classes.index(name) for name in part.split.classes])


def predictions(logits: Tensor, labels: Tensor, allowed: Tensor | None = None) -> dict[str, np.ndarray]:
    """What is kept of logits (B, C) and labels (B,), an array (B, ...) by name.

    `full_best` (B, 5) int16 are the most probable classes, `full_label` int16 the right ones, `full_label_probability`
    and `full_confidence` float32 the probabilities of the label and of the most probable class. With `allowed` (K,),
    class indices with all labels among them, also `masked_best` and so on, of the outputs for these classes alone.
    """
    found = {}
    for kind, chosen in {"full": torch.arange(logits.shape[1], device=logits.device), "masked": allowed}.items():
        if chosen is None:
            continue
        outputs = logits[:, chosen]
        probabilities = outputs.softmax(dim=1)
        # By logits: where one class leaves nothing to the others, their probabilities are all 0.
        places = outputs.topk(min(BEST, len(chosen)), dim=1).indices
        best = torch.nn.functional.pad(chosen[places], (0, BEST - places.shape[1]), value=-1)
        own = (labels[:, None] == chosen).int().argmax(dim=1, keepdim=True)
        arrays = {
            "best": best.short(),
            "label": labels.short(),
            "label_probability": probabilities.gather(1, own)[:, 0],
            "confidence": probabilities.gather(1, places[:, :1])[:, 0],
        }
        found |= {f"{kind}_{name}": array.cpu().numpy() for name, array in arrays.items()}
    return found


def _save(subject: Subject, part: Part, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    if not np.isfinite(arrays["full_confidence"]).all():
        raise InputError(
            f"{subject.name}: the network's outputs on {part.name} are not finite; its weights (MD5 "
            f"{subject.sidecar['md5']}) are of no use: train it again, or leave it out"
        )
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def judge(job: ClassifierJob) -> tuple[Judge, dict[str, Any]]:
    """The classifier that chooses the images of a generated counterpart of ImageNet-A by getting them wrong: a function
    from RGB images to class probabilities (B, classes), and what identifies it. Raises as `open_run`."""
    use_threads(job.evaluation.threads)
    device = torch.device("cuda" if job.evaluation.gpus else "cpu")
    subject = open_run(job, len(training_classes(job.data)), device)
    transform = test_transform(subject.own)

    @torch.inference_mode()
    def probabilities(images: list[Image.Image]) -> np.ndarray:
        batch = torch.stack([transform(image) for image in images]).to(device)
        return subject.network(batch).float().softmax(dim=1).cpu().numpy()

    return probabilities, {"run": str(job.run), "md5": subject.sidecar["md5"]}
