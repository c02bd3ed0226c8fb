"""Running networks: threads, memory layout, features at any stage, hits and cross-entropy of every image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lska.provenance.errors import InputError
from lska.provenance.progress_bar import Bar


def use_threads(count: int) -> None:
    """Let PyTorch and NumPy's BLAS use `count` threads from now on, whatever OMP_NUM_THREADS and the like say.

    Sums of products differ in their last digits with the number of threads. So it comes from the configuration, as
    clusters and containers set such variables, and equal measurements are to give equal files.
    """
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")


def memory_format(channels_last: bool) -> torch.memory_format:
    """torch's name for the layout that a recipe asks for."""
    return torch.channels_last if channels_last else torch.contiguous_format


@dataclass
class Scores:
    """Hits and cross-entropy of every image, in the order in which the images came."""

    _batches: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Score a batch: logits (B, C), labels (B,)."""
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        # Left on the device: fetching it now would make the processor wait for every batch.
        self._batches.append(torch.stack([hits(logits, labels, 1), hits(logits, labels, 5), losses]))

    @property
    def images(self) -> dict[str, np.ndarray]:
        """Values of each image, float64 (n,): `top1` and `top5` in percent, 0 or 100, and `loss` in nats."""
        top1, top5, losses = torch.cat([torch.empty(3, 0), *(part.cpu() for part in self._batches)], dim=1).double()
        return {"top1": (100 * top1).numpy(), "top5": (100 * top5).numpy(), "loss": losses.numpy()}

    @property
    def n(self) -> int:
        """Number of images."""
        return sum(part.shape[1] for part in self._batches)

    def mean(self, name: str) -> float:
        """Mean over the images of `top1`, `top5` or `loss`."""
        return float(self.images[name].mean())


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label (B,) is among its k largest logits (B, C), or all of them where there are fewer; bool (B,)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1)


@torch.inference_mode()
def score(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device, channels_last: bool
) -> Scores:
    """Score a model over batches of images (B, 3, H, W) and labels (B,), in evaluation mode and 32-bit precision; it is
    left in the mode it came in. Progress shows on a terminal."""
    training, scores, layout = model.training, Scores(), memory_format(channels_last)
    try:
        model.eval()
        for images, labels in Bar(loader, unit="batches", leave=False):
            images = images.to(device, non_blocking=True, memory_format=layout)
            scores.add(model(images).float(), labels.to(device, non_blocking=True))
    finally:
        model.train(training)
    return scores


@torch.no_grad()
def features(
    network: nn.Module, images: Tensor, stage: int | None = None, pooled: bool = True
) -> tuple[Tensor, Tensor]:
    """Features of a batch as float32 (B, D), and class logits as float32 (B, classes).

    Args:
        network: any of timm's, in evaluation mode.
        images: (B, 3, H, W), normalised, on the network's device.
        stage: the map after this stage, from 1 to 4 in networks of four stages. None is the end of the network, as its
            own head prepares it for the classifier where `pooled` is set: the latent vector of paper/protocol.md,
            section 7.
        pooled: the mean over the positions of a map, D its channels; otherwise the whole map in one row.

    Raises:
        ValueError: the network is in training mode or has no such stage.
    """
    if network.training:
        raise InputError(f"{type(network).__name__} is in training mode, whose features are random; call eval() first")
    if stage is None:
        last = network.forward_features(images)
        found = (network.forward_head(last, pre_logits=True) if pooled else last).flatten(1)
        return found.float(), network.forward_head(last).float()
    if not 1 <= stage <= (count := len(network.feature_info)):
        raise InputError(f"stage: {type(network).__name__} has stages 1 to {count}, found {stage}")
    (found,) = network.forward_intermediates(images, [stage - 1], stop_early=True, intermediates_only=True)
    return (found.mean(dim=(2, 3)) if pooled else found.flatten(1)).float(), network(images).float()
