"""What lies behind a metric's error, kept beside its metric file (`<run>.npz`), so that two networks can be compared
image by image.

A metric that is a mean over images keeps the value of every image, in the order of the data set. Any other metric, such
as mIoU or AP, keeps its values on bootstrap samples of the images. The samples are drawn by `resample_counts`, so they
are the same for all networks that are measured on the same images: a difference of two networks is then a difference
within each sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lska.provenance.errors import InputError
from lska.provenance.files import FileError, atomic_path, open_regular, quoted
from lska.provenance.metric_files import file_md5, metric, proportion

RESAMPLES = 1000
"""Bootstrap samples; their standard deviation is known to 1 / sqrt(2 x 1000), 2 %."""

ELEMENTS = 4_000_000
"""Numbers of samples that are in memory at a time (32 MB)."""

KINDS = ("images", "samples", "parts")

SHARES = (
    "top1", "top5", "error", "top1_unmasked", "error_unmasked", "top1_clean",
    "cue_decisions", "shape_decisions", "texture_decisions",
)  # fmt: skip
"""Metrics whose images are right or wrong, 100 or 0: shares, whose errors are binomial."""

UNITS = {"loss": "nats"}
"""Units of means over images, % where none is given."""


ARCHIVE = 2**28
"""Bytes of all arrays in an archive: 20 times those of 50,000 images under all corruptions of ImageNet-C."""

REMEDY = "measure again: delete the metric file beside it and run its rule"


@dataclass(frozen=True)
class Outcomes:
    """Arrays by metric name, in the metric's unit.

    `images`: value of each image, (n,), whose mean is the metric. `samples`: the metric on each bootstrap sample, (B,);
    NaN where a sample does not define it. `parts`: values whose mean is the metric, such as those of classes, of any
    shape; NaN for those that do not count.
    """

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.images or self.samples or self.parts)


def resample_counts(n: int, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of `n` images is in each bootstrap sample: int64 (n,) for every sample, the same at every call."""
    generator, even = np.random.default_rng(seed), np.full(n, 1 / n)
    for _ in range(resamples):
        yield generator.multinomial(n, even)


def resample_columns(
    n: int, resamples: int = RESAMPLES, at_once: int | None = None, seed: int = 0
) -> Iterator[np.ndarray]:
    """The same samples, some at a time, as columns: float64 (n, at_once), of at most `ELEMENTS` numbers where None."""
    counts = resample_counts(n, seed, resamples)
    while part := list(itertools.islice(counts, at_once or max(1, ELEMENTS // n))):
        yield np.ascontiguousarray(np.stack(part, axis=1), dtype=np.float64)


def mean_of(images: np.ndarray, unit: str = "%") -> dict[str, Any]:
    """A metric entry: the mean over images (n,) with its standard error, which a single image has not."""
    error = float(images.std(ddof=1) / len(images) ** 0.5) if len(images) > 1 else None
    return metric(float(images.mean()), unit, n=len(images), standard_error=error)


def of_images(name: str, images: np.ndarray) -> dict[str, Any]:
    """The entry of a metric that is the mean over its images (n,): a share or another mean, as its name says."""
    if name in SHARES:
        return proportion(int(np.count_nonzero(images)), len(images))
    return mean_of(images, UNITS.get(name, "%"))


def mean_of_parts(parts: np.ndarray) -> float | None:
    """Mean of the parts that count; None where none does."""
    counting = parts[~np.isnan(parts)]
    return float(counting.mean()) if counting.size else None


def standard_error(samples: np.ndarray) -> float | None:
    """Standard deviation of the samples that have a value; None for fewer than two."""
    found = samples[~np.isnan(samples)]
    return float(found.std(ddof=1)) if len(found) > 1 else None


def with_errors(metrics: Mapping[str, dict[str, Any]], outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    """The metric entries, those with a value and bootstrap samples having the standard error that these give.

    It is that of the samples as they are kept: rounding to 32 bits moves the error of shares that differ by little.
    Counts have none, such as dimensions, which are rounded down: shown with their digits it would read as 0.
    """
    errors = {name: standard_error(_small(samples).astype(float)) for name, samples in outcomes.samples.items()}
    measured = {name for name, entry in metrics.items() if isinstance(entry["value"], float)}
    return {
        name: entry | {"standard_error": errors[name]} if name in measured and errors.get(name) is not None else entry
        for name, entry in metrics.items()
    }


def write_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write atomically; equal outcomes give equal bytes. Values are kept in 32 bits, whole numbers up to 255 in 8."""
    arrays = {f"{kind}/{name}": _small(array) for kind in KINDS for name, array in getattr(outcomes, kind).items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_outcomes(path: Path, md5: str | None = None) -> Outcomes:
    """Read a file of outcomes; arrays are float64.

    Args:
        md5: that the file must have, as its metric file says; None for any.

    Raises:
        FileError: it is missing, cannot be read, is damaged or another one.
    """
    if md5 is not None and path.is_file() and (found := file_md5(path)) != md5:
        raise FileError(f"{path}: MD5 {found}, but its metric file was written with {md5}; {REMEDY}")
    kinds: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    for name, array in read_arrays(path).items():
        kind, _, metric = name.partition("/")
        if kind not in KINDS or not metric:
            raise FileError(f"{path}: {quoted(name)}: expected names like images/<metric>; {REMEDY}")
        if not array.size or (array.ndim != 1 and kind != "parts"):
            raise FileError(f"{path}: {name}: expected (n,) values, found {array.shape}; {REMEDY}")
        kinds[kind][metric] = array.astype(np.float64)
    if len(lengths := {len(values) for values in kinds["images"].values()}) > 1:
        found = " and ".join(map(str, sorted(lengths)))
        raise FileError(f"{path}: expected as many images for every metric, found {found}; {REMEDY}")
    return Outcomes(**kinds)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive, all of numbers; nothing is unpacked where it is more than `ARCHIVE` bytes in all.

    Raises:
        FileError: it is missing, cannot be read, is damaged or holds something else.
    """
    try:
        with open_regular(path) as stream, np.load(stream, allow_pickle=False) as archive:
            size = sum(member.file_size for member in archive.zip.infolist())
            if size > ARCHIVE:
                raise InputError(f"expected at most {ARCHIVE:,} bytes of numbers, found {size:,}")
            arrays = dict(archive.items())
        if wrong := [quoted(name) for name, array in arrays.items() if array.dtype.kind not in "buif"]:
            raise InputError(f"no numbers in {', '.join(wrong)}")
    except FileError as error:
        raise type(error)(f"{error}; {REMEDY}") from error
    # Each decompressor and NumPy's parser of headers have errors of their own for damaged bytes.
    except Exception as error:
        raise FileError(f"{path}: is damaged ({error}); {REMEDY}") from error
    return arrays


def _small(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    whole = array.dtype == bool or bool(((array >= 0) & (array <= 255) & (array == np.rint(array))).all())
    return array.astype(np.uint8 if whole else np.float32)
