"""Top-1, top-5 and cross-entropy of networks over a loader; used while training and for the metric files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from tqdm import tqdm


@dataclass
class Scores:
    """Hits and cross-entropy of every image, in the order in which the images came."""

    _batches: list[torch.Tensor] = field(default_factory=list)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
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


def memory_format(channels_last: bool) -> torch.memory_format:
    """torch's name for the layout that a recipe asks for."""
    return torch.channels_last if channels_last else torch.contiguous_format


def hits(logits: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Whether each label is among its k largest logits (all of them where there are fewer than k classes).

    logits (B, C), labels (B,), result (B,) bool.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1)


@torch.inference_mode()
def score(
    model: nn.Module, loader: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device, channels_last: bool
) -> Scores:
    """Score a model over batches of images (B, 3, H, W) and labels (B,), in evaluation mode and 32-bit precision; it is
    left in the mode it came in. Progress shows on a terminal."""
    training, scores, layout = model.training, Scores(), memory_format(channels_last)
    try:
        model.eval()
        for images, labels in tqdm(loader, unit="batch", disable=None, leave=False):
            images = images.to(device, non_blocking=True, memory_format=layout)
            scores.add(model(images).float(), labels.to(device, non_blocking=True))
    finally:
        model.train(training)
    return scores
