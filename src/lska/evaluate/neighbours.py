"""Nearest textures (paper, Table XIII): how often the nearest image by a network's features is of the same texture.

The paper names K = 1, the backbone's features and the validation set of DTD, but neither the split, the gallery, the
distance nor the pooling. Here: pooled last features, gallery the training part, both usual distances, every split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lska.data.dtd import Splits
from lska.data.folders import Split
from lska.evaluate.measurement import Shard, Subject, shared_batches
from lska.evaluate.scores import image_values, over_splits
from lska.models.scoring import features
from lska.provenance.errors import InputError
from lska.provenance.metric_files import proportion
from lska.provenance.outcomes import Outcomes

DISTANCES = ("cosine", "euclidean")

BLOCK = 1024
"""Rows of the query that are compared with the gallery at a time: 30 MB of distances for DTD."""

PAIRS = 16384
"""Pairs whose exact distance is taken at a time."""


def pooled_features(
    subjects: Sequence[Subject], images: Split, batch_size: int, workers: int, device: torch.device
) -> list[np.ndarray]:
    """Pooled last features of all `images` by every subject, float32 (n, C) each; every image is decoded once.

    Images are cut and normalised as each subject's validation images were. The features are what the classifier gets
    (timm's `forward_head` with `pre_logits`), in 32-bit precision. Raises ValueError where they are not numbers.
    """
    found: list[list[np.ndarray]] = [[] for _ in subjects]
    shard = Shard(images, range(len(images)), subjects)
    with torch.inference_mode():
        for _, _, inputs in shared_batches([shard], batch_size, workers, device):
            for rows, (subject, batch) in zip(found, inputs, strict=True):
                rows.append(features(subject.network, batch)[0].cpu().numpy())
    whole = [np.concatenate(rows) for rows in found]
    for subject, rows in zip(subjects, whole, strict=True):
        if not np.isfinite(rows).all():
            raise InputError(
                f"{subject.name}: the network's features are not finite; its weights (MD5 {subject.sidecar['md5']}) "
                "are of no use: train it again, or leave it out"
            )
    return whole


def texture_metrics(
    rows: np.ndarray, targets: np.ndarray, splits: Splits, *, gallery: Sequence[str] = ("train",), query: str = "val",
    device: torch.device | None = None,
) -> tuple[dict[str, dict[str, Any]], Outcomes]:  # fmt: skip
    """Metric entries of a texture set: `top1_<distance>_split<n>`, their mean `top1_<distance>` and its deviation; and
    the values of every query image for the means.

    The splits sort the same images, so they are not independent. The mean's standard error is therefore the mean of the
    splits' binomial ones, its upper bound; `top1_<distance>_deviation` is the sample deviation over splits (null for a
    single one), and `n` of the mean the number of different query images.

    Args:
        rows: features, float32 (n, D).
        targets: class index of every image, (n,).
        gallery: parts that neighbours are looked for in; ("train", "test") is everything that is not queried.
        device: where distances are computed; the CPU where None.
    """
    entries, values, tensor = {}, {}, torch.from_numpy(rows).to(device or "cpu")
    for distance in DISTANCES:
        hits = {}
        for number, parts in splits.items():
            searched, asked = np.concatenate([parts[part] for part in gallery]), parts[query]
            found = nearest(tensor[torch.from_numpy(searched)], tensor[torch.from_numpy(asked)], distance)
            hits[number] = targets[searched[found.cpu().numpy()]] == targets[asked]
        name = f"top1_{distance}"
        values[name] = image_values({number: parts[query] for number, parts in splits.items()}, hits)
        shares = {number: proportion(int(hit.sum()), len(hit)) for number, hit in hits.items()}
        entries |= over_splits(name, shares, len(values[name]))
    return entries, Outcomes(images=values)


def nearest(gallery: torch.Tensor, query: torch.Tensor, distance: str = "cosine") -> torch.Tensor:
    """Row of `gallery` (G, D) that is nearest to each row of `query` (Q, D), int64 (Q,), on the tensors' device.

    The search is exact in 64-bit arithmetic, for cosine that of the rows scaled to length 1. Products of matrices leave
    the rows that their rounding cannot tell apart, and of those the differences are squared and summed, in the same
    order of additions for any block and device. Of equal distances the smallest row counts.

    Raises:
        ValueError: for cosine, a row of zeros, which has no direction.
    """
    gallery, query = (_rows(rows, distance) for rows in (gallery, query))
    lengths, found = gallery.square().sum(dim=1), []
    # Sums of D products err by at most about D eps of the sum of their sizes; twice, since minimum and rival both do.
    unit = 2 * (gallery.shape[1] + 4) * torch.finfo(torch.float64).eps
    for block in query.split(BLOCK):
        products = torch.addmm(lengths, block, gallery.T, alpha=-2)
        margin = unit * (block.square().sum(dim=1).sqrt() + lengths.max().sqrt()).square()
        rivals = products <= (products.amin(dim=1) + margin)[:, None]
        rows, columns = rivals.nonzero(as_tuple=True)
        pairs = zip(rows.split(PAIRS), columns.split(PAIRS), strict=True)
        exact = torch.cat([_sums((block[row] - gallery[column]).square()) for row, column in pairs])
        least = torch.full_like(margin, torch.inf).scatter_reduce(0, rows, exact, "amin")
        winners = exact == least[rows]
        places = torch.full_like(margin, len(gallery), dtype=torch.int64)
        found.append(places.scatter_reduce(0, rows[winners], columns[winners], "amin"))
    return torch.cat(found)


def _rows(rows: torch.Tensor, distance: str) -> torch.Tensor:
    """Rows in 64-bit precision, for cosine of length 1: |a - b|^2 = 2 - 2 cos then, which keeps the order."""
    rows = rows.double()
    if distance == "euclidean":
        return rows
    lengths = _sums(rows.square()).sqrt()
    if not lengths.all():
        raise InputError("cosine: features that are all zero have no direction; the network is of no use")
    return rows / lengths[:, None]


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Sums of the rows of (n, D), by halves: torch's own sum may order its additions by n and by the device."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = torch.cat([values[:, :half] + values[:, half : 2 * half], values[:, 2 * half :]], dim=1)
    return values[:, 0]
