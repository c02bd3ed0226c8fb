"""The parts of a prepared perturbed set, opened for evaluation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.data.entries import DataError
from lska.data.folders import Split, list_split, names_digest
from lska.data.integrity import changed
from lska.data.manifest import TEST
from lska.data.perturbed.names import FAMILIES, severity_folder
from lska.data.perturbed.perturbed_integrity import corruption_folder, open_test
from lska.data.perturbed.perturbed_preparing import verify_perturbed
from lska.data.sources import archives_of, class_root, open_classification
from lska.provenance import metric_files
from lska.provenance.files import FileError, quoted
from lska.provenance.metric_files import digest
from lska.settings.perturbed_sets import PerturbedSet

logger = logging.getLogger(__name__)

CLEAN = "clean"
"""Part with the clean images that the corruptions were applied to, for the relative errors of ImageNet-C."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images that are scored together: a corruption at a severity, the clean images, or a whole set."""

    name: str
    """`gaussian_noise/3`, `clean` or `test`."""
    split: Split
    identity: str
    """Digest of what the images are; predictions on them are kept under it."""
    indices: tuple[int, ...] | None = None
    """Images of `split` that belong to the part, in the order of the other parts; None for all."""
    stored: bool = False
    """Whether the images are stored at the size of the networks' input."""

    def __len__(self) -> int:
        return len(self.split) if self.indices is None else len(self.indices)

    def index(self, position: int) -> int:
        """Index in `split` of the image at `position`."""
        return position if self.indices is None else self.indices[position]

    @property
    def cell(self) -> tuple[str, int] | None:
        """Corruption and severity; None for the clean images and for whole sets."""
        corruption, _, severity = self.name.partition("/")
        return (corruption, int(severity)) if severity else None


def read_perturbed_record(item: PerturbedSet) -> dict[str, Any]:
    """The record of a prepared set.

    Raises:
        FileError: it is missing or damaged; says how to make it.
    """
    fields = {"name": str, "digest": str, "names": str}
    if item.corrupted:
        fields |= {"manifest": str, "contents": dict, "parts": dict, "missing": dict}
    stored = metric_files.read_record(item.record, item.data.name, item.name, **fields)
    if item.corrupted:
        levels = [stored["parts"][name] for name in FAMILIES[item.name] if name in stored["parts"]]
        if not levels or not all(isinstance(some, list) and some for some in levels):
            raise FileError(
                f"{item.record}: parts: expected severities of corruptions, found {quoted(stored['parts'])}; remove it "
                "and prepare the set again"
            )
    return stored


def open_parts(item: PerturbedSet) -> list[Part]:
    """Every part that the record of a set names, in the published order, and for ImageNet-C the clean images first.

    Raises:
        DataError: the record is missing, or the images are not the recorded ones any more.
    """
    stored = read_perturbed_record(item)
    if not item.corrupted:
        split = open_test(class_root(Path(item.data.root), archives_of(item.data), item.config.work / "cache"))
        verify_perturbed(item, stored, split)
        return [Part(TEST, split, digest([stored["digest"], stored["names"]]))]
    parts = [
        _corrupted_part(item, stored, corruption, severity)
        for corruption in FAMILIES[item.name]
        for severity in stored["parts"].get(corruption, ())
    ]
    clean = _clean_part(item, parts[0].split) if item.name == "c" else None
    return parts if clean is None else [clean, *parts]


def _corrupted_part(item: PerturbedSet, stored: dict[str, Any], corruption: str, severity: int) -> Part:
    name, root = f"{corruption}/{severity}", Path(item.data.root)
    folder = corruption_folder(root, item.name, corruption)
    if folder is None:
        raise changed(root, item.record, [f"{name}: {root / corruption} is gone"])
    split = list_split(folder, severity_folder(item.name, corruption, severity))
    if names_digest(split) != stored["names"]:
        raise changed(root, item.record, [f"{name}: its file names are not the recorded ones"])
    identity = digest([stored["manifest"], name, stored["names"], stored["contents"].get(name)])
    return Part(name, split, identity, stored=True)


def _clean_part(item: PerturbedSet, corrupted: Split) -> Part | None:
    """The clean validation images with the names of the corrupted ones; None where they are not at hand."""
    config = item.config
    try:
        clean = open_classification(config, "val")
    except DataError as error:
        logger.warning("relative errors need the clean validation images: %s", error)
        return None
    places = {_stem(sample.name): index for index, sample in enumerate(clean.samples)}
    indices = [places.get(_stem(sample.name)) for sample in corrupted.samples]
    if None in indices:
        logger.warning(
            "%s: %d images of %s are not among them; no relative errors", clean.source, indices.count(None), item.name
        )
        return None
    identity = digest([config.data_identity(config.data), indices])
    return Part(CLEAN, clean, identity, tuple(indices))


def _stem(name: str) -> str:
    """`<class>/<file>` without its suffix: a corrupted copy of a PNG file is a JPEG file."""
    return name.rpartition(".")[0]
