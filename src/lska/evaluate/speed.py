"""Inference throughput of networks, measured side by side in one process (Figure 6d, Table XVII).

GPU, batch size and precision of the paper's measurement are not known (paper/protocol.md, section 10). Here all
networks take turns within each repetition, so that a slow moment of the machine touches all of them. Convolutions are
run in the plain form of the released code, with all their taps, although faster forms exist (`DepthwiseConv2d`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from torch import nn

from lska.evaluate.robustness import training_classes
from lska.models.attention import as_published
from lska.models.runs import Run
from lska.models.scoring import memory_format
from lska.models.threads import use_threads
from lska.provenance.metric_files import metric, write_metrics
from lska.provenance.sidecars import imported_size
from lska.settings.scale import Config, Speed
from lska.train.classifier import build_network

logger = logging.getLogger(__name__)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def batch_seconds(network: nn.Module, images: torch.Tensor, least_seconds: float) -> float:
    """Mean seconds per forward pass of `images` (B, 3, H, W), over at least `least_seconds`."""
    _synchronize(images.device)
    begun, batches, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < least_seconds or batches == 0:
        network(images)
        _synchronize(images.device)
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


def measure_speed(config: Config, runs: Sequence[Run]) -> None:
    """Measure the throughput of `runs` with fresh weights (it does not depend on them) and write the metric files.

    Images have the size of the network's recipe, those of a run with imported weights the size of these.

    Raises:
        ValueError: unknown model, attention or kernel size, or no manifest of the training data, whose number of
            classes the networks need.
    """
    started, protocol = datetime.now(UTC), config.speed
    use_threads(protocol.threads)
    device = torch.device("cuda" if protocol.gpus else "cpu")
    layout = memory_format(config.recipe_of(runs[0]).channels_last)
    classes = len(training_classes(config))
    networks = [as_published(build_network(config, run, classes)).eval() for run in runs]
    networks = [network.to(device, memory_format=layout) for network in networks]
    own = [imported_size(config.weights_path(run).with_suffix(".json")) for run in runs]
    sizes = [size or config.recipe_of(run).image_size for run, size in zip(runs, own, strict=True)]
    images = {size: _images(protocol.batch_size, size).to(device, memory_format=layout) for size in set(sizes)}
    times = interleaved_seconds(networks, [images[size] for size in sizes], protocol)
    for run, size, seconds in zip(runs, sizes, times.T, strict=True):
        _write(config, run, size, seconds, started, str(device))


def _images(count: int, size: int) -> torch.Tensor:
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(0))


def _write(config: Config, run: Run, size: int, seconds: np.ndarray, started: datetime, device: str) -> None:
    protocol = config.speed
    low, middle, high = np.quantile(protocol.batch_size / seconds, [0.25, 0.5, 0.75])
    write_metrics(
        config.metric_path("speed", run),
        task="speed",
        run=str(run),
        scale=config.scale,
        metrics={
            "throughput": metric(float(middle), "images/s", n=len(seconds), interval=(float(low), float(high))),
            "latency": metric(1000 * float(np.median(seconds)), "ms/batch", n=len(seconds)),
            "batch_size": metric(protocol.batch_size, "1"),
            "image_size": metric(size, "pixels"),
        },
        weights={"md5": None, "origin": "random"},
        device=device,
        started=started,
        extra={"threads": protocol.threads, "warmup_batches": protocol.warmup, "least_seconds": protocol.seconds},
    )
