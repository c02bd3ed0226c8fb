"""Features of images at any stage of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lska.provenance.errors import InputError


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
    if stage is None:
        return _at_end(network, images, pooled)[0]
    _check(network)
    if not 1 <= stage <= (count := len(network.feature_info)):
        raise InputError(f"stage: {type(network).__name__} has stages 1 to {count}, found {stage}")
    with torch.no_grad():
        (found,) = network.forward_intermediates(images, [stage - 1], stop_early=True, intermediates_only=True)
        return (found.mean(dim=(2, 3)) if pooled else found.flatten(1)).float()


def responses(
    network: nn.Module, images: Tensor, stage: int | None = None, pooled: bool = True
) -> tuple[Tensor, Tensor]:
    """Features as `features` gives them and class logits as float32 (B, classes).

    At the end of the network both are of one forward pass; features of an earlier stage take one of their own.
    """
    if stage is not None:
        found = features(network, images, stage, pooled)
        with torch.no_grad():
            return found, network(images).float()
    found, last = _at_end(network, images, pooled)
    with torch.no_grad():
        return found, network.forward_head(last).float()


def _at_end(network: nn.Module, images: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    """Features at the end of a network, and the map that its head takes."""
    _check(network)
    with torch.no_grad():
        last = network.forward_features(images)
        return (network.forward_head(last, pre_logits=True) if pooled else last).flatten(1).float(), last


def _check(network: nn.Module) -> None:
    if network.training:
        raise InputError(f"{type(network).__name__} is in training mode, whose features are random; call eval() first")
