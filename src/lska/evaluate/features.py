"""Features of images at any stage of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def features(network: nn.Module, images: Tensor, stage: int | None = None, pooled: bool = True) -> Tensor:
    """Features of a batch as float32 (B, D) on the network's device, without gradients.

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
        raise ValueError(f"{type(network).__name__} is in training mode, whose features are random; call eval() first")
    with torch.no_grad():
        if stage is None:
            last = network.forward_features(images)
            found = network.forward_head(last, pre_logits=True) if pooled else last
        else:
            found = _stage(network, images, stage)
            found = found.mean(dim=(2, 3)) if pooled else found
        # In the map's logical order, whatever its layout in memory.
        return found.flatten(1).float()


def _stage(network: nn.Module, images: Tensor, stage: int) -> Tensor:
    count = len(network.feature_info)
    if not 1 <= stage <= count:
        raise ValueError(f"stage: {type(network).__name__} has stages 1 to {count}, found {stage}")
    return network.forward_intermediates(images, indices=[stage - 1], stop_early=True, intermediates_only=True)[0]
