"""The complete check of a segmentation split: every image has a label map of its size, of known values."""

from __future__ import annotations

from pathlib import Path

from lska.data.dense_files import (
    LabelMap,
    Picture,
    SegmentationSplit,
    file_sizes,
    lines_digest,
    read_label_map,
    read_picture,
)
from lska.data.dense_manifest import SegmentationManifest
from lska.data.findings import Findings, Outcome, differences
from lska.data.parallel import mapped


def check_segmentation(manifest: SegmentationManifest, split: SegmentationSplit) -> Outcome:
    """Decode every image and label map of a split and check that they fit each other and the manifest.

    Raises:
        DataError: a folder cannot be read at all.
    """
    findings, remarks = Findings(), Findings()
    names = _pairs(split, findings, remarks)

    def read(index: int) -> tuple[Picture, LabelMap]:
        name = names[index]
        return (
            read_picture(split.images / f"{name}{split.image_suffix}"),
            read_label_map(split.labels / f"{name}{split.label_suffix}"),
        )

    pixels, lines = [0] * 256, []
    for name, (picture, labels) in zip(names, mapped(read, len(names), split.split), strict=True):
        _check_pair(manifest, split, name, picture, labels, findings)
        for remark in picture.remarks:
            remarks.add(f"images with {remark}", f"{name}{split.image_suffix}")
        pixels = [total + count for total, count in zip(pixels, labels.pixels, strict=True)] if labels.size else pixels
        lines += [f"{picture.hash} images/{name}", f"{labels.hash} labels/{name}"]
    counts = differences([("pairs of image and label map", manifest.splits[split.split].count, len(names))])
    facts = {"pixels": _per_class(manifest, pixels)}
    notes = (f"{len(names):,} images with label maps at {split.labels}.", *(f"{text}." for text in remarks.sentences()))
    return Outcome((*findings.sentences(), *counts), facts, notes, lines_digest(lines))


def _pairs(split: SegmentationSplit, findings: Findings, remarks: Findings) -> list[str]:
    """Names, without ending, that have both an image and a label map; case counts, as to mmseg."""
    images, labels = (
        _stems(split, folder, suffix, remarks)
        for folder, suffix in ((split.images, split.image_suffix), (split.labels, split.label_suffix))
    )
    for name in sorted(images - labels):
        findings.add("images without label map", str(split.images / f"{name}{split.image_suffix}"))
    for name in sorted(labels - images):
        findings.add("label maps without image", str(split.labels / f"{name}{split.label_suffix}"))
    return sorted(images & labels)


def _stems(split: SegmentationSplit, folder: Path, suffix: str, remarks: Findings) -> set[str]:
    files = file_sizes(folder)
    for name in sorted(name for name in files if not name.endswith((split.image_suffix, split.label_suffix))):
        remarks.add(f"image files that do not end in {suffix}, left out", str(folder / name))
    return {name.removesuffix(suffix) for name in files if name.endswith(suffix)}


def _check_pair(
    manifest: SegmentationManifest,
    split: SegmentationSplit,
    name: str,
    picture: Picture,
    labels: LabelMap,
    findings: Findings,
) -> None:
    label_file = split.labels / f"{name}{split.label_suffix}"
    if picture.size is None:
        findings.add("unreadable images", picture.error)
    if labels.size is None:
        findings.add("unreadable label maps", labels.error)
        return
    if picture.size and picture.size != labels.size:
        found, expected = ("{}x{}".format(*size) for size in (labels.size, picture.size))
        findings.add("label maps of another size than their image", f"{label_file} is {found}, the image {expected}")
    unknown = [value for value, count in enumerate(labels.pixels) if count and value not in manifest.allowed]
    if unknown:
        values = ", ".join(map(str, unknown[:10]))
        findings.add("label maps with values that are no class", f"{label_file}: {values}")


def _per_class(manifest: SegmentationManifest, pixels: list[int]) -> dict[str, int]:
    first = int(manifest.zero_is_unlabelled)
    per_class = {name: pixels[first + index] for index, name in enumerate(manifest.classes)}
    return per_class | {"not scored": sum(pixels) - sum(per_class.values())}
