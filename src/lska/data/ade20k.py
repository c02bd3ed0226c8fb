"""The complete check of a segmentation split: every image has a label map of its size, of known values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lska.data.decoding import Seen, see_file
from lska.data.digests import file_sizes, lines_digest
from lska.data.manifest import SegmentationManifest
from lska.data.parallel import mapped
from lska.data.problems import Findings, SplitOutcome, differences

if TYPE_CHECKING:
    from lska.data.dense_sets import SegmentationSplit


def check_segmentation(manifest: SegmentationManifest, split: SegmentationSplit) -> SplitOutcome:
    """Decode every image and label map of a split and check that they fit each other and the manifest.

    Raises:
        DataError: a folder cannot be read at all.
    """
    findings, remarks = Findings(), Findings()
    sides = ((split.images, split.image_suffix), (split.labels, split.label_suffix))
    images, labels = (_stems(split, folder, suffix, remarks) for folder, suffix in sides)
    for name in sorted(images - labels):
        findings.add("images without label map", str(split.images / f"{name}{split.image_suffix}"))
    for name in sorted(labels - images):
        findings.add("label maps without image", str(split.labels / f"{name}{split.label_suffix}"))
    names = sorted(images & labels)

    def read(index: int) -> tuple[Seen, Seen]:
        return tuple(see_file(folder / f"{names[index]}{suffix}", folder is split.labels) for folder, suffix in sides)

    pixels, lines = [0] * 256, []
    for name, (image, label) in zip(names, mapped(read, len(names), split.split), strict=True):
        _check_pair(manifest, split.labels / f"{name}{split.label_suffix}", image, label, findings)
        for remark in image.remarks:
            remarks.add(f"images with {remark}", f"{name}{split.image_suffix}")
        pixels = [total + count for total, count in zip(pixels, label.pixels or [0] * 256, strict=True)]
        lines += [f"{image.hash} images/{name}", f"{label.hash} labels/{name}"]
    counts = differences([("pairs of image and label map", manifest.splits[split.split].count, len(names))])
    first = int(manifest.zero_is_unlabelled)
    per_class = {name: pixels[first + index] for index, name in enumerate(manifest.classes)}
    facts = {"pixels": per_class | {"not scored": sum(pixels) - sum(per_class.values())}}
    notes = (f"{len(names):,} images with label maps at {split.labels}.", *(f"{text}." for text in remarks.sentences()))
    return SplitOutcome((*findings.sentences(), *counts), facts, notes, lines_digest(lines))


def _stems(split: SegmentationSplit, folder: Path, suffix: str, remarks: Findings) -> set[str]:
    """Names, without ending, of the files of one side; case counts, as to mmseg."""
    files = file_sizes(folder)
    for name in sorted(name for name in files if not name.endswith((split.image_suffix, split.label_suffix))):
        remarks.add(f"image files that do not end in {suffix}, left out", str(folder / name))
    return {name.removesuffix(suffix) for name in files if name.endswith(suffix)}


def _check_pair(manifest: SegmentationManifest, file: Path, image: Seen, label: Seen, findings: Findings) -> None:
    if image.size is None:
        findings.add("unreadable images", image.problem)
    if label.size is None:
        findings.add("unreadable label maps", label.problem)
        return
    if image.size and image.size != label.size:
        found, expected = ("{}x{}".format(*size) for size in (label.size, image.size))
        findings.add("label maps of another size than their image", f"{file} is {found}, the image {expected}")
    unknown = [value for value, count in enumerate(label.pixels) if count and value not in manifest.allowed]
    if unknown:
        findings.add("label maps with values that are no class", f"{file}: {', '.join(map(str, unknown[:10]))}")
