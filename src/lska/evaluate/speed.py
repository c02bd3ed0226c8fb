"""Inference throughput of networks, measured side by side in one process (Figure 6d, Table XVII).

GPU, batch size and precision of the paper's measurement are not known (paper/protocol.md, section 10). Here all
networks take turns within each repetition, so that a slow moment of the machine touches all of them. Convolutions are
run in the plain form of the released code, with all their taps, although faster forms exist (`DepthwiseConv2d`).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from lska.evaluate.measurement import Frame, Subject, Values, measure, training_classes
from lska.models.attention import as_published
from lska.models.scoring import memory_format
from lska.provenance.metric_files import metric
from lska.provenance.sidecars import imported_size
from lska.settings.schema import Speed
from lska.settings.tasks import ClassifierJob, MeasurementJob
from lska.train.classifier import build_network

logger = logging.getLogger(__name__)


@torch.inference_mode()
def batch_seconds(network: nn.Module, images: torch.Tensor, least_seconds: float) -> float:
    """Mean seconds per forward pass of `images` (B, 3, H, W), over at least `least_seconds`."""
    wait = torch.cuda.synchronize if images.is_cuda else lambda device: None
    wait(images.device)
    begun, batches, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < least_seconds or batches == 0:
        network(images)
        wait(images.device)
        batches += 1
        elapsed = time.perf_counter() - begun
    return elapsed / batches


def interleaved_seconds(networks: Sequence[nn.Module], images: Sequence[torch.Tensor], protocol: Speed) -> np.ndarray:
    """Seconds per batch, shape (repeats, networks), of images (B, 3, H, W) for each network; the order of networks is
    reversed in every other repetition.
    """
    for network, batch in zip(networks, images, strict=True):
        for _ in range(protocol.warmup):
            batch_seconds(network, batch, 0.0)
    times = np.empty((protocol.repeats, len(networks)))
    for repeat in range(protocol.repeats):
        order = range(len(networks)) if repeat % 2 == 0 else reversed(range(len(networks)))
        for index in order:
            times[repeat, index] = batch_seconds(networks[index], images[index], protocol.seconds)
        logger.info("repetition %d of %d", repeat + 1, protocol.repeats)
    return times


def measure_speed(task: MeasurementJob, jobs: Sequence[ClassifierJob]) -> None:
    """Measure the throughput of networks with fresh weights (it does not depend on them) and write the metric files.

    Images have the size of the network's recipe, those of a run with imported weights the size of these. Raises
    ValueError for unknown networks, or without a manifest of the training data, whose number of classes they need.
    """
    protocol, classes = task.means, len(training_classes(task.data))
    layout = memory_format(jobs[0].recipe.channels_last)
    sizes = [imported_size(job.weights.with_suffix(".json")) or job.recipe.image_size for job in jobs]

    def fresh(job: ClassifierJob, device: torch.device) -> Subject:
        network = as_published(build_network(job.run, job.architecture, classes)).eval()
        network = network.to(device, memory_format=layout)
        return Subject(str(job.run), network, {"md5": None, "origin": "random"})

    def throughputs(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        shapes = {size: (protocol.batch_size, 3, size, size) for size in sizes}
        images = {
            size: torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, memory_format=layout)
            for size, shape in shapes.items()
        }
        networks = [subject.network for subject in subjects]
        times = interleaved_seconds(networks, [images[size] for size in sizes], protocol)
        for size, seconds in zip(sizes, times.T, strict=True):
            low, middle, high = map(float, np.quantile(protocol.batch_size / seconds, [0.25, 0.5, 0.75]))
            metrics = {
                "throughput": metric(middle, "images/s", n=len(seconds), interval=(low, high)),
                "latency": metric(1000 * float(np.median(seconds)), "ms/batch", n=len(seconds)),
                "batch_size": metric(protocol.batch_size, "1"),
                "image_size": metric(size, "pixels"),
            }
            conditions = {"threads": protocol.threads, "warmup_batches": protocol.warmup}
            yield Values(metrics, detail={**conditions, "least_seconds": protocol.seconds})

    measure(Frame.of(task), [functools.partial(fresh, job) for job in jobs], throughputs)
