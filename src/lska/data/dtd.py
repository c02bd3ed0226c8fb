"""The Describable Textures Dataset (DTD), or a generated set in its layout: class folders and several splits of them.

Every split sorts all images into the parts train, val and test. Cimpoi et al., "Describing Textures in the Wild",
CVPR 2014; the layout is that of release 1.0.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lska.data.archives import archives_of, texture_folder, texture_root
from lska.data.entries import DataError, lines_digest, shown_names
from lska.data.folders import Split, list_split
from lska.data.manifest import IMAGES, LABELS, PARTS, TextureManifest, manifest_for
from lska.data.preparing import CheckReport, DataSet, Findings, check_class_folders, inspected_record
from lska.provenance.files import FileError, file_hash, quoted, read_lines
from lska.provenance.metric_files import digest
from lska.settings.schema import DataSource

Splits = dict[int, dict[str, np.ndarray]]
"""For each split, numbered from 1, and each of `PARTS` the indices of its images, int64 (n,), in the file's order."""

LABEL_FILE = re.compile(rf"({'|'.join(PARTS)})([1-9]\d*)\.txt")


@dataclass(frozen=True, eq=False)
class TextureSet:
    """Images of textures, sorted by class and file name, with the splits of them."""

    folder: Path
    images: Split
    splits: Splits

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.images.classes

    @property
    def names(self) -> list[str]:
        """`<class>/<file>` of every image."""
        return self.images.samples.names

    @property
    def targets(self) -> np.ndarray:
        """Class index of every image, int32 (n,)."""
        return self.images.samples.targets

    def listing(self) -> list[str]:
        """Lines that change whenever an image is added, removed, renamed or resized, or a split changed."""
        files = [self.folder / LABELS / f"{part}{number}.txt" for number in self.splits for part in PARTS]
        sizes = [f"{IMAGES} {name} {self.images.size(i)}" for i, name in enumerate(self.names)]
        return [*sizes, *(f"{LABELS} {file.name} {file_hash(file)}" for file in files)]


def open_textures(data: DataSource, cache: Path) -> TextureSet:
    """As `read_textures`, also from an archive at the root, which is unpacked into `cache`."""
    return read_textures(texture_root(Path(data.root), archives_of(data), cache))


def read_textures(root: Path) -> TextureSet:
    """Read the splits of the texture set at `root`, its own folder or the one that holds it as `dtd`. Reads no image.

    Raises DataError, which names every kind of problem with its first examples: missing folders, images or label files,
    lines that name no image, images that are listed twice in a split.
    """
    findings = Findings()
    textures = _read(root, findings)
    if findings:
        raise DataError(
            f"{textures.folder / LABELS} does not describe splits of {textures.images.source}:\n"
            + "\n".join(f"  {text}" for text in findings.sentences())
            + "\nrestore the files, or point the data root at a sound copy"
        )
    return textures


def check_textures(manifest: TextureManifest, root: Path, contents: bool = False) -> CheckReport:
    """Check a texture set completely: classes, counts, empty files, every line of every split.

    With `contents`, every image is decoded too. Nothing about the data raises: a missing root is a finding.
    """
    findings = Findings()
    try:
        textures = _read(root, findings)
    except DataError as error:
        return CheckReport(manifest.name, manifest.digest, root, (f"{error}.",), ())
    expected = range(1, manifest.splits + 1)
    findings.add("missing splits", *(f"split {number}" for number in expected if number not in textures.splits))
    surplus = (f"split {number}" for number in textures.splits if number not in expected)
    findings.add("splits that are not in the manifest", *surplus)
    for number, parts in textures.splits.items():
        for part, indices in parts.items():
            counts = np.bincount(textures.targets[indices], minlength=len(textures.classes)).tolist()
            for label, count in zip(textures.classes, counts, strict=True):
                if label in manifest.classes and count != manifest.parts[part]:
                    wrong = f"{part}{number}.txt has {count:,} of {label}, expected {manifest.parts[part]:,}"
                    findings.add("classes with too many or too few images in a part", wrong)
    images = check_class_folders(manifest.images, textures.folder, contents)
    sizes = ", ".join(f"{part} {count:,}" for part, count in manifest.parts.items())
    note = f"{LABELS}: {len(textures.splits)} splits, expected of each class {sizes}."
    sentences = (*images.findings, *(f"{LABELS}: {text}." for text in findings.sentences()))
    return CheckReport(manifest.name, manifest.digest, Path(root), sentences, (*images.notes, note))


def _read(root: Path, findings: Findings) -> TextureSet:
    """The texture set without the lines that are wrong, which become findings."""
    folder = texture_folder(root)
    images, labels = list_split(folder, IMAGES), folder / LABELS
    index = {name: position for position, name in enumerate(images.samples.names)}
    names = sorted(path.name for path in labels.iterdir())
    numbers = sorted({int(match[2]) for match in map(LABEL_FILE.fullmatch, names) if match})
    if not numbers:
        raise DataError(
            f"{labels} holds no split: expected {', '.join(f'{part}1.txt' for part in PARTS)}, found "
            f"{shown_names(names)}; restore the label files"
        )
    splits: Splits = {}
    for number in numbers:
        placed: dict[str, str] = {}  # part of each image, the first that lists it
        splits[number] = {}
        for part in PARTS:
            path, members = labels / f"{part}{number}.txt", []
            try:
                lines = read_lines(path)
            except FileError as error:
                lines = []
                findings.add("label files that cannot be read", str(error))
            else:
                findings.add("label files that name no image", *([] if lines else [path.name]))
            for line, name in lines:
                where = f"{quoted(name)} in {path.name} line {line}"
                if name not in index:
                    findings.add("lines that name a missing image", where)
                elif (former := placed.setdefault(name, where)) is not where:
                    findings.add("images listed twice in a split", f"{where} and {former}")
                else:
                    members.append(index[name])
            splits[number][part] = np.array(members, dtype=np.int64)
    return TextureSet(folder, images, splits)


class TextureFolder(DataSet):
    """Textures: DTD, or generated ones in its layout."""

    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """Classes, counts and every line of every split."""
        made = self.data.generate is not None
        manifest = self.settings.manifest(self.data.name) if made else manifest_for(self.kind, self.data)
        place = texture_root(self.root, manifest.archives, self.cache)
        report = check_textures(manifest, place, contents)
        if not report.ok:
            return report, {}
        textures = read_textures(place)
        identity = digest([manifest.digest, lines_digest(textures.listing())]) if made else manifest.digest
        return report, inspected_record(self, textures, manifest.about, identity) | {"classes": len(textures.classes)}
