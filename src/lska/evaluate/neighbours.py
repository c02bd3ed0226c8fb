"""Nearest textures (paper, Table XIII): how often the nearest image by a network's features is of the same texture.

The paper names K = 1, the backbone's features and the validation set of DTD, but neither the split, the gallery, the
distance nor the pooling. Here: pooled last features, gallery the training part, both usual distances, every split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lska.data.dtd import Splits
from lska.data.folders import Split
from lska.data.perturbed.parts import Part
from lska.evaluate.members import Member
from lska.evaluate.scoring_passes import Shard, ShardBatches, ShardImages, normalized
from lska.evaluate.splits import accuracy, image_values, over_splits
from lska.provenance.errors import InputError
from lska.provenance.outcomes import Outcomes
from lska.provenance.sidecars import Preprocessing
from lska.train.workers import Loader

DISTANCES = ("cosine", "euclidean")

BLOCK = 1024
"""Rows of gallery and of query that are compared at a time: 8 MiB of distances."""

PAIRS = 16384
"""Pairs whose exact distance is taken at a time."""


def pooled_features(
    members: Sequence[Member], images: Split, *, batch_size: int, workers: int, device: torch.device
) -> list[np.ndarray]:
    """Pooled last features of all `images` by every member, float32 (n, C) each; every image is decoded once.

    Images are cut and normalised as each member's validation images were. The features are what the classifier gets
    (timm's `forward_head` with `pre_logits`), in 32-bit precision. Progress shows on a terminal.

    Raises:
        DataError: an image cannot be decoded.
        ValueError: a network's features are not numbers.
    """
    shard = Shard(Part("textures", images, identity=""), 0, len(images), tuple(members), stored=False)
    loader = Loader(ShardImages([shard]), workers, batch_sampler=ShardBatches([shard], batch_size))
    found: list[list[np.ndarray]] = [[] for _ in members]
    with torch.inference_mode():
        for cuts, _ in tqdm(loader, unit="batch", disable=None, leave=False):
            for batches, features in zip(found, _features(shard, cuts, device), strict=True):
                batches.append(features)
    return [_finite(member, np.concatenate(batches)) for member, batches in zip(members, found, strict=True)]


def _features(shard: Shard, cuts: Sequence[torch.Tensor], device: torch.device) -> list[np.ndarray]:
    """Features (B, C) of every member, images being normalised once for all that agree on how."""
    sizes = dict(zip(shard.geometries, cuts, strict=True))
    ready: dict[tuple[Preprocessing, bool], torch.Tensor] = {}
    features = []
    for member in shard.members:
        how = (member.preprocessing(shard.stored), member.channels_last)
        if how not in ready:
            ready[how] = normalized(sizes[how[0].geometry].to(device, non_blocking=True), *how)
        network: Any = member.network
        pooled = network.forward_head(network.forward_features(ready[how]), pre_logits=True)
        features.append(pooled.float().cpu().numpy())
    return features


def _finite(member: Member, features: np.ndarray) -> np.ndarray:
    if not np.isfinite(features).all():
        raise InputError(
            f"{member.run}: the network's features are not finite; its weights (MD5 {member.sidecar.get('md5')}) are "
            "of no use: train it again, or leave it out"
        )
    return features


def texture_metrics(
    features: np.ndarray,
    targets: np.ndarray,
    splits: Splits,
    *,
    gallery: Sequence[str] = ("train",),
    query: str = "val",
    device: torch.device | None = None,
) -> tuple[dict[str, dict[str, Any]], Outcomes]:
    """Metric entries of a texture set: `top1_<distance>_split<n>`, their mean `top1_<distance>` and its deviation; and
    the values of every query image for the means.

    The splits sort the same images, so they are not independent. The mean's standard error is therefore the mean of the
    splits' binomial ones, its upper bound; `top1_<distance>_deviation` is the sample deviation over splits (null for a
    single one), and `n` of the mean the number of different query images.

    Args:
        features: float32 (n, D).
        targets: class index of every image, (n,).
        gallery: parts that neighbours are looked for in; ("train", "test") is everything that is not queried.
        device: where distances are computed; the CPU where None.

    Raises:
        ValueError: as `texture_hits`.
    """
    entries, values = {}, {}
    for distance in DISTANCES:
        hits = {
            number: texture_hits(
                features, targets, parts, gallery=gallery, query=query, distance=distance, device=device
            )
            for number, parts in splits.items()
        }
        name = f"top1_{distance}"
        values[name] = image_values({number: splits[number][query] for number in splits}, hits)
        entries |= over_splits(name, {number: accuracy(hit) for number, hit in hits.items()}, len(values[name]))
    return entries, Outcomes(images=values)


def texture_hits(
    features: np.ndarray,
    targets: np.ndarray,
    split: Mapping[str, np.ndarray],
    *,
    gallery: Sequence[str] = ("train",),
    query: str = "val",
    distance: str = "cosine",
    device: torch.device | None = None,
) -> np.ndarray:
    """Whether the nearest image in the parts `gallery` of a split is of the same class, bool (Q,), for each image in
    part `query`.

    Arguments are those of `texture_metrics`.

    Raises:
        ValueError: a part is not in the split, the query is part of its own gallery, or as `nearest`.
    """
    unknown = [part for part in (*gallery, query) if part not in split]
    if unknown or not gallery or query in gallery:
        raise InputError(
            f"gallery {', '.join(gallery) or 'empty'}, query {query}: expected different ones of {', '.join(split)}; "
            "correct the parts"
        )
    searched, asked = np.concatenate([split[part] for part in gallery]), split[query]
    rows = torch.from_numpy(features).to(device or "cpu")
    neighbours = nearest(rows[torch.from_numpy(searched)], rows[torch.from_numpy(asked)], distance).cpu().numpy()
    return targets[searched[neighbours]] == targets[asked]


def nearest(gallery: torch.Tensor, query: torch.Tensor, distance: str = "cosine") -> torch.Tensor:
    """Row of `gallery` (G, D) that is nearest to each row of `query` (Q, D), int64 (Q,), on the tensors' device.

    Both are float32; the search is exact in 64-bit arithmetic, for cosine that of the rows scaled to length 1. Products
    of matrices leave the rows that their rounding cannot tell apart, and of those the differences are squared and
    summed, in the same order of additions for any block and device. Of equal distances the smallest row counts. No
    matrix of more than `BLOCK` x `BLOCK` is made.

    Raises:
        ValueError: an unknown distance, an empty gallery, other shapes or types, values that are not finite, or, for
            cosine, a row of zeros, which has no direction.
    """
    _check(gallery, query, distance)
    result = torch.empty(len(query), dtype=torch.int64, device=query.device)
    for first in range(0, len(query), BLOCK):
        rows = _rows(query[first : first + BLOCK], distance)
        least = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=query.device)
        for start in range(0, len(gallery), BLOCK):
            values, columns = _nearest_in_block(_rows(gallery[start : start + BLOCK], distance), rows)
            # Strictly: an equal distance in a later block has a larger row.
            better = values < least
            least = torch.where(better, values, least)
            result[first : first + BLOCK][better] = columns[better] + start
    return result


def _check(gallery: torch.Tensor, query: torch.Tensor, distance: str) -> None:
    if distance not in DISTANCES:
        raise InputError(f"unknown distance {distance!r}; choose from {', '.join(DISTANCES)}")
    if gallery.ndim != 2 or query.ndim != 2 or gallery.shape[1] != query.shape[1] or not gallery.numel():
        raise InputError(
            f"expected a gallery (G, D) of at least one number and a query (Q, D), found {tuple(gallery.shape)} and "
            f"{tuple(query.shape)}"
        )
    for name, rows in (("gallery", gallery), ("query", query)):
        if rows.dtype != torch.float32:
            raise InputError(f"{name}: expected float32, found {rows.dtype}; convert it")
        if not rows.isfinite().all():
            raise InputError(f"{name}: expected finite numbers, found others; the network is of no use")
        zero = (rows == 0).all(dim=1).nonzero().flatten().tolist()
        if distance == "cosine" and zero:
            raise InputError(f"{name}: rows of zeros have no direction ({len(zero)}, first {zero[0]}); use euclidean")


def _rows(block: torch.Tensor, distance: str) -> torch.Tensor:
    """Rows in 64-bit precision, for cosine of length 1: |a - b|^2 = 2 - 2 cos then, which keeps the order."""
    rows = block.double()
    return rows if distance == "euclidean" else rows / _sums(rows.square()).sqrt()[:, None]


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Sums of the rows of (n, D), by halves: torch's own sum may order its additions by n and by the device."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = torch.cat([values[:, :half] + values[:, half : 2 * half], values[:, 2 * half :]], dim=1)
    return values[:, 0]


def _nearest_in_block(gallery: torch.Tensor, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest squared Euclidean distance of each query row (B,), and the smallest gallery row that has it (B,)."""
    lengths, own = gallery.square().sum(dim=1), query.square().sum(dim=1)
    products = torch.addmm(lengths, query, gallery.T, alpha=-2)
    # Sums of D products err by at most about D eps of the sum of their sizes; twice, since minimum and rival both do.
    unit = (gallery.shape[1] + 4) * torch.finfo(torch.float64).eps
    margin = 2 * unit * (own.sqrt() + lengths.max().sqrt()).square()
    rivals = products <= (products.amin(dim=1) + margin)[:, None]
    rows, columns = rivals.nonzero(as_tuple=True)
    pairs = zip(rows.split(PAIRS), columns.split(PAIRS), strict=True)
    exact = torch.cat([_sums((query[row] - gallery[column]).square()) for row, column in pairs])
    least = torch.full_like(own, torch.inf).scatter_reduce(0, rows, exact, "amin")
    winners = exact == least[rows]
    places = torch.full_like(own, len(gallery), dtype=torch.int64)
    return least, places.scatter_reduce(0, rows[winners], columns[winners], "amin")
