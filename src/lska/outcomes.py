"""What lies behind a metric's error, kept beside its metric file (`<run>.npz`), so that two networks can be compared
image by image.

A metric that is a mean over images keeps the value of every image, in the order of the data set. Any other metric, such
as mIoU or AP, keeps its values on bootstrap samples of the images. The samples are drawn by `resample_counts`, so they
are the same for all networks that are measured on the same images: a difference of two networks is then a difference
within each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lska.provenance import atomic_path

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 1000
"""Bootstrap samples; their standard deviation is known to 1 / sqrt(2 x 1000), 2 %."""

KINDS = ("images", "samples")


class OutcomesError(ValueError):
    """A file of outcomes that is missing, damaged or not what its metric file says."""


@dataclass(frozen=True)
class Outcomes:
    """Arrays by metric name, in the metric's unit.

    `images`: value of each image, (n,), whose mean is the metric. `samples`: the metric on each bootstrap sample, (B,);
    NaN where a sample does not define it.
    """

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.images or self.samples)


def outcomes_path(metrics: Path) -> Path:
    """Place of the outcomes of a metric file."""
    return metrics.with_suffix(".npz")


def resample_counts(n: int, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of `n` images is in each bootstrap sample: int64 (n,) for every sample, the same at every call."""
    import numpy as np

    generator, even = np.random.default_rng(seed), np.full(n, 1 / n)
    for _ in range(resamples):
        yield generator.multinomial(n, even)


def write_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write atomically; equal outcomes give equal bytes. Values are kept in 32 bits, whole numbers up to 255 in 8."""
    import numpy as np

    arrays = {f"{kind}/{name}": _small(array) for kind in KINDS for name, array in getattr(outcomes, kind).items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_outcomes(path: Path, md5: str | None = None) -> Outcomes:
    """Read a file of outcomes; arrays are float64.

    Args:
        md5: that the file must have, as its metric file says; None for any.

    Raises:
        OutcomesError: it is missing, damaged or another one.
    """
    import zipfile

    import numpy as np

    from lska.provenance import file_md5

    remedy = "measure again: delete the metric file beside it and run its rule"
    if not path.is_file():
        raise OutcomesError(f"{path}: the file of outcomes is missing; {remedy}")
    if md5 is not None and file_md5(path) != md5:
        raise OutcomesError(f"{path}: MD5 {file_md5(path)}, but its metric file was written with {md5}; {remedy}")
    found: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                kind, _, metric = name.partition("/")
                found[kind][metric] = archive[name].astype(np.float64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise OutcomesError(f"{path} is damaged ({error}); {remedy}") from error
    return Outcomes(**found)


def _small(array: np.ndarray) -> np.ndarray:
    import numpy as np

    array = np.asarray(array)
    whole = array.dtype == bool or bool(((array >= 0) & (array <= 255) & (array == np.rint(array))).all())
    return array.astype(np.uint8 if whole else np.float32)
