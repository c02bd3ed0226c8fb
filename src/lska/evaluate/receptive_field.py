"""Effective receptive field: which pixels of the image the centre of the last feature map depends on, and how much.

The paper follows RepLKNet (Table VII, Figures 4 and 8; paper/protocol.md, section 6); what RepLKNet's two published
scripts compute is computed here. Image count, size and normalisation are not known for the LSKA paper, hence arguments;
RepLKNet takes 50 images of 1024 x 1024 pixels with ImageNet's mean and deviation. Importing this module does not import
torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from lska.data.decoding import decode
from lska.data.folders import Split
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric
from lska.provenance.outcomes import ELEMENTS, RESAMPLES, resample_counts
from lska.provenance.progress_bar import Bar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

THRESHOLDS = (20, 30, 50, 99)
"""Shares of the total contribution in percent (paper Table VII, by RepLKNet's script)."""
SMALLEST_SIDE = 3
"""Pixels: side of the first square that RepLKNet's script tries."""


@dataclass(frozen=True, eq=False)
class Contribution:
    """Contribution of each pixel, not negative: the mean over images, float64 (S, S); how many were left out because
    their scores were not finite; and the scores of the others, float32 (n, S, S)."""

    scores: np.ndarray
    skipped: int
    maps: np.ndarray


def contribution(network: nn.Module, image: Tensor) -> np.ndarray:
    """Contribution scores float64 (S, S) of a normalised image (1, 3, S, S), in the mode that the network is in.

    The last feature map is what `forward_features` returns: for our networks the map after the last stage's LayerNorm.
    Its vector at the central position (row and column floor(n / 2)) goes through ReLU and is summed; the gradient of
    this number with respect to the image goes through ReLU and is summed over the image's channels.

    Raises:
        ValueError: the network returns no feature map.
    """
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        # An own copy: one made in inference mode could not be differentiated.
        image = image.clone().requires_grad_()
        features = network.forward_features(image)
        if features.ndim != 4:
            raise InputError(
                f"{type(network).__name__}.forward_features: expected a feature map of 4 dimensions, found shape "
                f"{tuple(features.shape)}; the procedure needs a network that keeps a map to its end"
            )
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        centre = features[:, :, features.shape[2] // 2, features.shape[3] // 2].relu().sum()
        (gradient,) = torch.autograd.grad(centre, image)
    return gradient.relu().sum((0, 1), dtype=torch.float64).cpu().numpy()


def mean_contribution(
    network: nn.Module, images: Iterable[Tensor], device: torch.device, count: int | None = None
) -> Contribution:
    """Mean contribution of images taken one at a time; progress shows on a terminal.

    The network is left in evaluation mode, its parameters without gradients, its activations recomputed in the backward
    pass where it can. Images whose scores are not finite are skipped, and the next ones take their place.

    Args:
        images: normalised, each (1, 3, S, S), all of one size.
        count: images to use, at most; None for all.

    Raises:
        ValueError: no image gave finite scores.
    """
    network.eval().requires_grad_(False)
    if hasattr(network, "set_grad_checkpointing"):
        try:
            network.set_grad_checkpointing(True)
        except AssertionError:  # what timm's networks raise that cannot
            logger.info("%s keeps all activations: it cannot recompute them", type(network).__name__)
    total, skipped, maps = np.zeros(()), 0, []
    with Bar(total=count, unit="images", leave=False) as bar:
        for image in images:
            scores = contribution(network, image.to(device))
            if not np.isfinite(scores).all():
                skipped += 1
                continue
            total = total + scores
            maps.append(scores.astype(np.float32))
            bar.update()
            if len(maps) == count:
                break
    if not maps:
        raise InputError(
            f"{type(network).__name__}: expected at least one image with finite contribution scores, found none in "
            f"{skipped}; check the weights, or give more images"
        )
    if skipped:
        logger.warning("%d images left out, their contribution scores are not finite", skipped)
    return Contribution(total / len(maps), skipped, np.stack(maps))


def erf_images(split: Split, size: int, mean: Sequence[float], deviation: Sequence[float]) -> Iterator[Tensor]:
    """The images of a split in folder order, float32 (1, 3, size, size), each squashed whatever its aspect ratio
    (bicubic) and normalised per channel; raises DataError where one cannot be decoded."""
    import torch
    from PIL import Image
    from torchvision.transforms import functional as F

    for index in range(len(split)):
        image = decode(split.read(index), split.name(index))
        squashed = F.to_tensor(image.resize((size, size), Image.Resampling.BICUBIC))
        yield F.normalize(squashed, mean, deviation)[None].to(torch.float32)


def scaled(scores: np.ndarray) -> np.ndarray:
    """log10(score + 1) over its maximum, float64 (S, S) in [0, 1]: what RepLKNet draws and takes its ratios of; raises
    ValueError for what is no contribution map."""
    expected = "scores: expected a contribution map (S, S) of finite values from 0 up and not all 0"
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise InputError(f"{expected}, found shape {scores.shape}")
    low, high = scores.min(), scores.max()
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high > 0):
        raise InputError(f"{expected}, found values from {low} to {high}; compute the map anew from sound weights")
    logarithms = np.log10(scores.astype(np.float64) + 1)
    return logarithms / logarithms.max()


def area_ratio(scores: np.ndarray, threshold: float) -> tuple[int, float]:
    """Side in pixels and area share (%) of the smallest centred square with more than `threshold` (0 to 1) of a map.

    As in RepLKNet's procedure (`erf/analyze_erf.py`), scores are `scaled` first, squares have odd sides from 3 up, lie
    around the pixel (floor(S / 2), floor(S / 2)), and end within the map, so that for even S the first row and column
    belong to none of them. Where no such square has enough, for which the script has no answer, it is the whole map: S
    and 100 %.
    """
    size = len(scores)
    # Over the squares of side 1, 3, 5, ... around the centre; the last is over the whole map.
    sums = np.bincount(_rings(size), weights=scaled(scores).ravel()).cumsum()
    for side in range(SMALLEST_SIDE, size, 2):
        if sums[side // 2] / sums[-1] > threshold:
            return side, 100 * (side / size) ** 2
    return size, 100.0


def _rings(size: int) -> np.ndarray:
    """Number of the square ring around the centre that each pixel of a map lies on, (size * size,)."""
    distance = np.abs(np.arange(size) - size // 2)
    return np.maximum(distance[:, None], distance).ravel()


def ratios(scores: np.ndarray, n: int | None = None) -> dict[str, dict[str, Any]]:
    """Metric entries `area_ratio_20` (%), `side_20` (pixels), ... `side_99` of the mean map of `n` images."""
    entries: dict[str, dict[str, Any]] = {}
    for percent in THRESHOLDS:
        side, share = area_ratio(scores, percent / 100)
        entries[f"area_ratio_{percent}"] = metric(share, "%", n=n)
        entries[f"side_{percent}"] = metric(side, "pixels", n=n)
    return entries


def resampled_ratios(maps: np.ndarray, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """`area_ratio_20` (%) and so on of the mean map of each bootstrap sample of the images, (resamples,) each.

    Samples are the same for two networks if both used the same images, whose maps are (n, S, S).
    """
    count, size = len(maps), maps.shape[1]
    rings, pixels = _rings(size), maps.reshape(count, -1)
    weights = np.stack(list(resample_counts(count, resamples=resamples))) / count
    sums = np.zeros((size // 2 + 1, resamples))
    step = max(1, ELEMENTS // resamples)
    for first in range(0, len(rings), step):
        chosen = slice(first, first + step)
        logarithms = np.log10(pixels[:, chosen].T.astype(np.float64) @ weights.T + 1)
        places = (rings[chosen], np.arange(len(logarithms)))
        sums += csr_array((np.ones(len(logarithms)), places), shape=(len(sums), len(logarithms))) @ logarithms
    shares = sums.cumsum(axis=0) / sums.sum(axis=0)
    sides = np.arange(SMALLEST_SIDE, size, 2)
    inside, found = shares[sides // 2], {}
    for percent in THRESHOLDS:
        enough = inside > percent / 100
        side = np.where(enough.any(axis=0), sides[enough.argmax(axis=0)], size)
        found[f"area_ratio_{percent}"] = 100 * (side / size) ** 2
    return found
