"""Top-1 and top-5 accuracy of checkpoints on the validation set (Tables III, VIII, XVII; Figures 1, 6)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch

from lska.data.archives import open_classification
from lska.data.preparing import verify
from lska.evaluate.measurement import Frame, Shard, Subject, Values, measure, open_run, shared_batches
from lska.models.scoring import Scores
from lska.provenance.outcomes import Outcomes, of_images
from lska.settings.tasks import ClassifierJob, MeasurementJob


def classify(task: MeasurementJob, jobs: Sequence[ClassifierJob]) -> None:
    """Score the checkpoints of `jobs` in one pass over the validation images and write a metric file for each.

    Raises:
        DataError: the data set is missing, or an image is unreadable (named).
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture.
    """
    split, means = open_classification(task.data, "val"), task.means
    frame = Frame.of(task, verify(task.data, split))

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

    measure(frame, [functools.partial(open_run, job, len(split.classes)) for job in jobs], accuracies)
