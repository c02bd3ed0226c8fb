"""Top-1, top-5 and cross-entropy of networks over a loader; used while training and for the metric files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    models: Sequence[nn.Module],
    loader: Iterable[tuple[Any, torch.Tensor]],
    device: torch.device,
    channels_last: bool = True,
    views: Sequence[int] | None = None,
) -> list[Scores]:
    """Score every model on every batch, decoded once, in evaluation mode and 32-bit precision.

    Each model is left in the mode it came in. Progress shows on a terminal.

    Args:
        loader: images (B, 3, H, W) and labels (B,); their order is that of the scores.
        views: which of several views of the images each model takes, where the loader gives a list of such.
    """
    modes = [model.training for model in models]
    scores = [Scores() for _ in models]
    layout = memory_format(channels_last)
    try:
        for model in models:
            model.eval()
        for images, labels in tqdm(loader, unit="batch", disable=None, leave=False):
            listed = [images] if views is None else images
            listed = [batch.to(device, non_blocking=True, memory_format=layout) for batch in listed]
            labels = labels.to(device, non_blocking=True)
            for model, view, counts in zip(models, views or [0] * len(models), scores, strict=True):
                counts.add(model(listed[view]).float(), labels)
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    return scores
