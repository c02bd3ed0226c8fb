"""Top-1, top-5 and cross-entropy of networks over a loader; used while training and for the metric files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm


@dataclass
class Scores:
    """Counts over `n` images, and the summed cross-entropy in nats."""

    n: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: logits (B, C), labels (B,)."""
        self.n += len(labels)
        self.top1 += int(hits(logits, labels, 1).sum())
        self.top5 += int(hits(logits, labels, 5).sum())
        self.loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))


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
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    channels_last: bool = True,
) -> list[Scores]:
    """Score every model on every batch, decoded once, in evaluation mode and 32-bit precision.

    Each model is left in the mode it came in. Progress shows on a terminal.

    Args:
        loader: images (B, 3, H, W) and labels (B,).
    """
    modes = [model.training for model in models]
    scores = [Scores() for _ in models]
    layout = memory_format(channels_last)
    for model in models:
        model.eval()
    for images, labels in tqdm(loader, unit="batch", disable=None, leave=False):
        images = images.to(device, non_blocking=True, memory_format=layout)
        labels = labels.to(device, non_blocking=True)
        for model, counts in zip(models, scores, strict=True):
            counts.add(model(images).float(), labels)
    for model, mode in zip(models, modes, strict=True):
        model.train(mode)
    return scores
