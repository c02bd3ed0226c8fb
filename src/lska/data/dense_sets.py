"""The data of detection and segmentation: opened for training, checked completely before it, verified at each start."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lska.data import coco
from lska.data.archives import dense_root
from lska.data.coco import SplitOutcome, check_detection
from lska.data.entries import DataError, file_sizes, inside_problem, lines_digest, read_names
from lska.data.manifest import (
    DenseManifest,
    DetectionManifest,
    DetectionSplitManifest,
    SegmentationManifest,
    SegmentationSplitManifest,
    manifest_for,
)
from lska.data.preparing import (
    RENDERED,
    CheckReport,
    DataSet,
    Findings,
    changed,
    decoded,
    differences,
    prepare_set,
    record,
)
from lska.data.synthetic.dense_scenes import FOLDERS
from lska.data.synthetic.generated import holds
from lska.provenance.files import FileError, file_hash
from lska.provenance.metric_files import read_record
from lska.settings.schema import DataSource


@dataclass(frozen=True)
class DetectionSplit:
    """One split of a detection set, ready for a COCO reader.

    File names in the JSON file `annotations` start from the folder `images`; `category_ids` are those of `classes`
    there, in label order.
    """

    split: str
    images: Path
    annotations: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    count: int
    masks: bool

    def listing(self) -> list[str]:
        """Lines that change whenever a file of the split is added, removed, renamed or resized; reads one file."""
        return [*_sized("images", self.images), f"annotations {file_hash(self.annotations)}"]


@dataclass(frozen=True)
class SegmentationSplit:
    """One split of a segmentation set: images and label maps of equal names. Values in `ignore` are not scored."""

    split: str
    images: Path
    labels: Path
    image_suffix: str
    label_suffix: str
    classes: tuple[str, ...]
    """In the order of the label values, from 1 on with `zero_is_unlabelled`, else from 0."""
    zero_is_unlabelled: bool
    ignore: tuple[int, ...]
    count: int

    def listing(self) -> list[str]:
        """As `DetectionSplit.listing`; reads no file."""
        return [*_sized("images", self.images), *_sized("labels", self.labels)]


DenseSplit = DetectionSplit | SegmentationSplit


def _sized(part: str, folder: Path) -> list[str]:
    return [f"{part} {name} {size}" for name, size in sorted(file_sizes(folder).items())]


def open_dense(kind: str, data: DataSource, split: str, cache: Path) -> Any:
    """Open a split of a set, a `DenseSplit`; unpacks an archive and converts VOC annotations into `cache` where needed.

    Raises ValueError where the manifest, the root, the split or files of it are missing, or of other settings.
    """
    return DenseSet(kind, data, cache).open(split)


def expected_dense(kind: str, data: DataSource, split: str, cache: Path) -> Any:
    """The same split where it will be looked for, whether it is there or not: with its classes, as a folder at the root
    whose annotations are in COCO's form. Raises ValueError for an unknown split or a missing manifest."""
    return DenseSet(kind, data, cache).expected(split)


def prepare_dense(kind: str, data: DataSource, record: Path, cache: Path) -> None:
    """Prepare a detection or segmentation set; raises as `lska.data.preparing.prepare_set`."""
    prepare_set(DenseSet(kind, data, cache), record)


def verify_dense(kind: str, data: DataSource, record: Path, *splits: DenseSplit) -> dict[str, str]:
    """Make sure that opened splits are those of the data record, also where the root was changed after the check.

    Compares file names, file sizes and the annotation file, and decodes nothing. Returns the name and digest of the
    data, as results keep them. Raises FileError where the record is missing or damaged, DataError where it is of
    another manifest or the files have changed.
    """
    stored = read_record(record, data.name, kind, name=str, digest=str, files=dict)
    manifest, problems = DenseSet(kind, data, record.parent).manifest, []
    if data.generate is None and stored["digest"] != manifest.digest:
        problems.append("it records another version of the manifest")
    for split in splits:
        if stored["files"].get(split.split) != lines_digest(split.listing()):
            problems.append(f"{split.split}: files at {split.images} or its annotations were changed after the check")
    if problems:
        raise changed(data.root, record, problems)
    return {"name": stored["name"], "digest": stored["digest"]}


class DenseSet(DataSet):
    """A detection or segmentation set.

    Its record holds on top `detail` with the numbers of each split, `contents` with the digest of all bytes of each,
    and `files` with that of file names and sizes, which `verify_dense` compares.
    """

    @property
    def manifest(self) -> DenseManifest:
        """What it has to hold; of generated data what the settings promise, after a look at whether they made it."""
        if self.data.generate is not None and not holds(self.root, self.settings.description()):
            raise DataError(
                f"{self.root} does not hold the generated set {self.data.name!r}, or one of other settings; make it "
                "with `lska data prepare`"
            )
        return self.described

    @property
    def described(self) -> DenseManifest:
        """What it has to hold, without a look at whether anything is there."""
        if self.data.generate is None:
            return manifest_for(self.kind, self.data)
        settings, name = self.settings, self.data.name
        about = {"name": name, "title": "generated scenes", **RENDERED, "classes": settings.class_names}
        counts = {split: settings.count(split) for split in FOLDERS}
        if self.kind == "detection":
            boxed = {
                split: DetectionSplitManifest(f"{split}2017", f"annotations/instances_{split}2017.json", count)
                for split, count in counts.items()
            }
            ids = tuple(range(1, len(settings.class_names) + 1))
            return DetectionManifest(**about, category_ids=ids, splits=boxed, masks=True)
        labelled = {
            split: SegmentationSplitManifest(f"images/{FOLDERS[split]}", f"annotations/{FOLDERS[split]}", count)
            for split, count in counts.items()
        }
        return SegmentationManifest(**about, splits=labelled, zero_is_unlabelled=True)

    def open(self, split: str) -> Any:
        """Open a split; raises as `open_dense`."""
        manifest = self.manifest
        folder = dense_root(manifest, self.root, self.cache)
        images, answers = _places(manifest, split, folder)
        folders = isinstance(manifest, SegmentationManifest) or manifest.format == "voc"
        for place, there in ((images, images.is_dir()), (answers, answers.is_dir() if folders else answers.is_file())):
            if not there:
                what = "a COCO annotation file" if place == answers and not folders else "a folder"
                raise DataError(f"{place} is missing: expected {what}; restore it or correct the data root")
        if isinstance(manifest, DetectionManifest) and folders:
            answers = self._converted(manifest, answers, folder / str(manifest.splits[split].names))
        return _split(manifest, split, images, answers)

    def expected(self, split: str) -> Any:
        """The split at its place; raises as `expected_dense`."""
        manifest = self.described
        images, answers = _places(manifest, split, self.root / (manifest.folder or ""))
        if isinstance(manifest, DetectionManifest) and manifest.format == "voc":
            answers = self.cache / f"{manifest.name}-{split}.json"
        return _split(manifest, split, images, answers)

    def _converted(self, manifest: DetectionManifest, xml: Path, names_file: Path) -> Path:
        """The COCO JSON file of a VOC split, converted anew where a source has another name, size or time."""
        try:
            names, problem = read_names(names_file, inside_problem), f"{names_file}: has none"
        except FileError as error:
            names, problem = [], str(error)
        if not names:
            raise DataError(f"{problem}\nexpected the names of the split, one a line; restore the file")
        state = hashlib.sha256(repr((coco.VOC_VERSION, str(xml.resolve()), names, manifest.classes)).encode())
        for path in sorted(xml.glob("*.xml")):
            state.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
        destination = self.cache / f"{manifest.name}-{names_file.stem}-{state.hexdigest()[:16]}.json"
        if not destination.is_file():
            coco.convert(xml, names, manifest.classes, destination)
        return destination

    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """Every annotation and every file; every image is decoded."""
        manifest, findings, notes = self.manifest, [], []
        detail, digests, files = {}, {}, {}
        for name, expected in manifest.splits.items():
            try:
                split = self.open(name)
                outcome = (check_segmentation if self.kind == "segmentation" else check_detection)(manifest, split)
            except (DataError, FileError) as error:
                findings.append(f"{name}: {error}")
                continue
            findings += [f"{name}: {text}." for text in outcome.findings]
            notes += [f"{name}: {text}" for text in outcome.notes]
            if not outcome.findings and expected.contents not in (None, outcome.contents):
                findings.append(
                    f"{name}: the contents differ, expected contents digest {expected.contents}, found "
                    f"{outcome.contents}."
                )
            detail[name], digests[name] = outcome.facts, outcome.contents
            files[name] = lines_digest(split.listing())
        if self.data.generate is not None and not findings:
            splits = {n: dataclasses.replace(one, contents=digests[n]) for n, one in manifest.splits.items()}
            manifest = dataclasses.replace(manifest, splits=splits)
        report = CheckReport(manifest.name, manifest.digest, self.root, tuple(dict.fromkeys(findings)), tuple(notes))
        return report, record(manifest) | {"kind": self.kind, "detail": detail, "contents": digests, "files": files}


def _places(manifest: DenseManifest, split: str, folder: Path) -> tuple[Path, Path]:
    """Where a split's images and its annotations or label maps are, in the folder of the set."""
    if split not in manifest.splits:
        raise DataError(f"{manifest.name} has no split {split!r}; choose from {', '.join(manifest.splits)}")
    stated = manifest.splits[split]
    answers = stated.labels if isinstance(stated, SegmentationSplitManifest) else stated.annotations
    return folder / stated.images, folder / answers


def _split(manifest: DenseManifest, split: str, images: Path, answers: Path) -> DenseSplit:
    count = manifest.splits[split].count
    if isinstance(manifest, SegmentationManifest):
        return SegmentationSplit(
            split, images, answers, manifest.image_suffix, manifest.label_suffix, manifest.classes,
            manifest.zero_is_unlabelled, manifest.ignore, count,
        )  # fmt: skip
    return DetectionSplit(split, images, answers, manifest.classes, manifest.category_ids, count, manifest.masks)


def check_segmentation(manifest: SegmentationManifest, split: SegmentationSplit) -> SplitOutcome:
    """Decode every image and label map of a split and check that they fit each other and the manifest."""
    findings, remarks, stems = Findings(), Findings(), []
    for folder, suffix in ((split.images, split.image_suffix), (split.labels, split.label_suffix)):
        files = sorted(file_sizes(folder))
        odd = [str(folder / one) for one in files if not one.endswith((split.image_suffix, split.label_suffix))]
        remarks.add(f"image files that do not end in {suffix}, left out", *odd)
        stems.append({one.removesuffix(suffix) for one in files if one.endswith(suffix)})  # case counts, as to mmseg
    images, labels = stems
    names, pixels, lines = sorted(images & labels), np.zeros(256, dtype=np.int64), []
    picture_files = {name: split.images / f"{name}{split.image_suffix}" for name in images}
    label_files = {name: split.labels / f"{name}{split.label_suffix}" for name in labels}
    findings.add("images without label map", *(str(picture_files[name]) for name in sorted(images - labels)))
    findings.add("label maps without image", *(str(label_files[name]) for name in sorted(labels - images)))
    pictures = decoded([picture_files[name] for name in names], split.split, findings, remarks)
    maps = decoded([label_files[name] for name in names], split.split, findings, remarks, labels=True)
    for name, image, label in zip(names, pictures, maps, strict=True):
        lines += [f"{image.hash} images/{name}", f"{label.hash} labels/{name}"]
        if image.size and label.size and image.size != label.size:
            text = "{} is {}x{}, the image {}x{}".format(label_files[name], *label.size, *image.size)
            findings.add("label maps of another size than their image", text)
        unknown = [str(value) for value, count in enumerate(label.pixels) if count and value not in manifest.allowed]
        if unknown:
            findings.add("label maps with values that are no class", f"{label_files[name]}: {', '.join(unknown[:10])}")
        pixels += np.array(label.pixels or 256 * [0])
    counts = differences([("pairs of image and label map", manifest.splits[split.split].count, len(names))])
    first = int(manifest.zero_is_unlabelled)
    per_class = dict(zip(manifest.classes, pixels[first:].tolist(), strict=False))
    facts = {"pixels": per_class | {"not scored": int(pixels.sum()) - sum(per_class.values())}}
    notes = (f"{len(names):,} images with label maps at {split.labels}.", *(f"{text}." for text in remarks.sentences()))
    return SplitOutcome((*findings.sentences(), *counts), facts, notes, lines_digest(lines))
