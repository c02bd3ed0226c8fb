"""The data of detection and segmentation: opened for training, checked completely before it, verified at each start."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.data.check import Report, render
from lska.data.coco import check_detection
from lska.data.dense_files import DenseSplit, DetectionSplit, SegmentationSplit, lines_digest
from lska.data.dense_manifest import (
    DenseManifest,
    DetectionManifest,
    DetectionSplitManifest,
    SegmentationManifest,
    load_dense_manifest,
)
from lska.data.dense_roots import data_folder, existing_folder
from lska.data.findings import Outcome
from lska.data.folders import DataError
from lska.data.semantic import check_segmentation
from lska.files import FileError, quoted, read_json, read_lines
from lska.provenance import write_sealed

if TYPE_CHECKING:
    from lska.config import DataSource

__all__ = ["DetectionSplit", "SegmentationSplit", "check", "open_detection", "open_segmentation", "prepare", "verify"]

logger = logging.getLogger(__name__)

OWN_COPY = (
    "The root is the setting root of the data set in the configuration; point it at a sound copy with a file of your "
    "own, `--configfile <scale>.yaml <yours>.yaml` (docs/data.md)"
)
REMOVE = "The set was generated and changed since; remove its folder, and it is made again"


def open_detection(data: DataSource, split: str, cache: Path) -> DetectionSplit:
    """Open a split of a detection set; unpacks an archive and converts VOC annotations into `cache` where needed.

    Raises:
        DataError: the root, the split, its folder of images or its annotations are missing or of other settings.
        ValueError: no such manifest, or a setting of the generator is wrong.
    """
    return _open_detection(*_located("detection", data, cache), split, cache)


def open_segmentation(data: DataSource, split: str, cache: Path) -> SegmentationSplit:
    """As `open_detection`, for a segmentation set."""
    return _open_segmentation(*_located("segmentation", data, cache), split)


def prepare(kind: str, data: DataSource, record: Path, cache: Path) -> None:
    """Generate the data where the configuration says so, check them completely, and write their record.

    The record holds what `lska.data.prepare.record` gives, `detail` with the numbers of each split, `contents` with
    the digest of all bytes of each, and `files` with that of file names and sizes, which `verify` compares.

    Raises:
        DataError: the data are not what the manifest says; every kind of error is named with its first examples.
        ValueError: no such manifest, or a setting of the generator is wrong.
    """
    if data.generate is not None:
        from lska.data.dense_generated import generate

        generate(kind, data)
    report, manifest, details = _check(kind, data, cache)
    for note in report.notes:
        logger.info("%s: %s", data.name, note)
    if not report.ok:
        raise DataError(render(report) + (OWN_COPY if data.generate is None else REMOVE))
    write_sealed(record, _record(kind, manifest) | details)


def check(kind: str, data: DataSource, cache: Path) -> Report:
    """Check the data completely, as `prepare` does, and report instead of raising.

    Raises:
        DataError: a generated set is not there, or is of other settings.
        ValueError: as `prepare`.
    """
    return _check(kind, data, cache)[0]


def verify(kind: str, data: DataSource, record: Path, *splits: DenseSplit) -> dict[str, str]:
    """Make sure that opened splits are those of the data record, also where the root was changed after the check.

    Compares file names, file sizes and the annotation file, and decodes nothing. Returns the name and digest of the
    data, as results keep them.

    Raises:
        DataError: the record is missing, or of another manifest, or the files have changed; says which.
    """
    stored, manifest, problems = _read_record(record, data), _manifest(kind, data), []
    if data.generate is None and stored["digest"] != manifest.digest:
        problems.append(f"{record} records another version of the manifest")
    for split in splits:
        if stored["files"].get(split.split) != lines_digest(split.listing()):
            problems.append(f"{split.split}: files at {split.images} or its annotations were changed after the check")
    if problems:
        raise DataError(
            f"{data.root} is not the data set that {record} records:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nrestore the files, or remove the record and run `lska data prepare` again"
        )
    return {"name": stored["name"], "digest": stored["digest"]}


def _read_record(record: Path, data: DataSource) -> dict[str, Any]:
    try:
        stored = read_json(record)
        return {"name": stored["name"], "digest": stored["digest"], "files": dict(stored["files"])}
    except (FileError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{record} is missing or damaged ({type(error).__name__}): expected the record of the checked data set "
            f"{data.name!r}; make it with `lska data prepare` and the same configuration"
        ) from error


def _manifest(kind: str, data: DataSource) -> DenseManifest:
    if data.generate is not None:
        from lska.data.dense_generated import generated_manifest

        return generated_manifest(kind, data)
    manifest = load_dense_manifest(kind, Path(data.manifest) if data.manifest else data.name)
    if manifest.name != data.name:
        raise ValueError(f"the data's name is {data.name!r} but the manifest {data.manifest} is of {manifest.name!r}")
    return manifest


def _located(kind: str, data: DataSource, cache: Path) -> tuple[Any, Path]:
    """The manifest, and the folder that its paths start from."""
    manifest = _manifest(kind, data)
    return manifest, data_folder(manifest, Path(data.root), cache)


def _expected(manifest: Any, split: str) -> Any:
    if split not in manifest.splits:
        raise DataError(f"{manifest.name} has no split {split!r}; choose from {', '.join(manifest.splits)}")
    return manifest.splits[split]


def _open_detection(manifest: DetectionManifest, folder: Path, split: str, cache: Path) -> DetectionSplit:
    expected = _expected(manifest, split)
    images = existing_folder(folder / expected.images)
    annotations = folder / expected.annotations
    if manifest.format == "voc":
        annotations = _converted(manifest, folder, expected, cache)
    elif not annotations.is_file():
        raise DataError(f"{annotations} is missing: expected a COCO annotation file; restore it")
    return DetectionSplit(
        split, images, annotations, manifest.classes, manifest.category_ids, expected.count, manifest.masks
    )


def _converted(manifest: DetectionManifest, folder: Path, expected: DetectionSplitManifest, cache: Path) -> Path:
    """The COCO JSON file of a VOC split, converted anew whenever a source has another name, size or time.

    The same holds for another version of the conversion.
    """
    from lska.data.voc import VERSION, convert

    xml, names_file = existing_folder(folder / expected.annotations), folder / str(expected.names)
    names = _names(names_file)
    state = hashlib.sha256(repr((VERSION, str(xml.resolve()), names, manifest.classes)).encode())
    for path in sorted(xml.glob("*.xml")):
        state.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    destination = cache / f"{manifest.name}-{names_file.stem}-{state.hexdigest()[:16]}.json"
    if not destination.is_file():
        convert(xml, names, manifest.classes, destination)
    return destination


def _names(path: Path) -> list[str]:
    """The names of a VOC split, which may have spaces, each once."""
    lines, first = read_lines(path), {}
    for number, name in lines:
        if name in first:
            raise DataError(f"{path}: line {number}: {quoted(name)} stands in line {first[name]} already; remove one")
        first[name] = number
    if not first:
        raise DataError(f"{path}: expected the names of the split, one a line, found none; restore it")
    return list(first)


def _open_segmentation(manifest: SegmentationManifest, folder: Path, split: str) -> SegmentationSplit:
    expected = _expected(manifest, split)
    return SegmentationSplit(
        split,
        existing_folder(folder / expected.images),
        existing_folder(folder / expected.labels),
        manifest.image_suffix,
        manifest.label_suffix,
        manifest.classes,
        manifest.zero_is_unlabelled,
        manifest.ignore,
        expected.count,
    )


def _check(kind: str, data: DataSource, cache: Path) -> tuple[Report, DenseManifest, dict[str, Any]]:
    """The report, the manifest (of generated data: with the digests found), and what the record has on top of it."""
    manifest, findings, notes = _manifest(kind, data), [], []
    details: dict[str, Any] = {"detail": {}, "contents": {}, "files": {}}
    for name, expected in manifest.splits.items():
        try:
            split, outcome = _check_split(kind, data, cache, name)
        except (DataError, FileError) as error:
            findings.append(f"{name}: {error}")
            continue
        findings += [f"{name}: {text}." for text in outcome.findings]
        notes += [f"{name}: {text}" for text in outcome.notes]
        if not outcome.findings and expected.contents not in (None, outcome.contents):
            findings.append(
                f"{name}: the contents differ, expected contents digest {expected.contents}, found {outcome.contents}."
            )
        details["detail"][name], details["contents"][name] = outcome.facts, outcome.contents
        details["files"][name] = lines_digest(split.listing())
    if data.generate is not None and not findings:
        manifest = _with_contents(manifest, details["contents"])
    unique = tuple(dict.fromkeys(findings))
    return Report(manifest.name, manifest.digest, Path(data.root), unique, tuple(notes)), manifest, details


def _check_split(kind: str, data: DataSource, cache: Path, name: str) -> tuple[DenseSplit, Outcome]:
    manifest, folder = _located(kind, data, cache)
    if isinstance(manifest, DetectionManifest):
        detection = _open_detection(manifest, folder, name, cache)
        return detection, check_detection(manifest, detection)
    segmentation = _open_segmentation(manifest, folder, name)
    return segmentation, check_segmentation(manifest, segmentation)


def _with_contents(manifest: DenseManifest, contents: dict[str, str]) -> DenseManifest:
    splits = {name: dataclasses.replace(split, contents=contents[name]) for name, split in manifest.splits.items()}
    return dataclasses.replace(manifest, splits=splits)


def _record(kind: str, manifest: DenseManifest) -> dict[str, Any]:
    from lska.data.prepare import record

    return record(manifest) | {"kind": kind}
