"""Manifests of perturbed sets: what ImageNet-C, -C-bar, -A, -R and -Sketch, or a scale's counterparts, consist of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lska.data.archives import Archive, archive_problems
from lska.data.entries import FileName, repeated
from lska.data.manifest import Manifest, SplitManifest, packaged_classes, read_manifest
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.provenance import digest
from lska.strict import build

TEST = "test"
"""Name of the only split of ImageNet-A, -R and -Sketch."""


@dataclass(frozen=True)
class CorruptedManifest:
    """A set of corruptions by severities, each part of which holds the same `count` images."""

    name: FileName
    title: str
    source: str
    terms: str
    family: Literal["c", "c_bar"]
    """Whose corruptions they are, ImageNet-C's or ImageNet-C-bar's."""
    classes: tuple[FileName, ...]
    """In index order (sorted)."""
    count: int
    per_class: tuple[int, int]
    """Fewest and most images of a class in each part."""
    severities: tuple[int, ...] = SEVERITIES
    """A generated set may have fewer; no mean is taken over them then."""
    archives: tuple[Archive, ...] = ()
    """What it is distributed as."""

    def __post_init__(self) -> None:
        if not set(self.severities) <= set(SEVERITIES) or not self.severities:
            raise ValueError(f"severities: expected some of {list(SEVERITIES)}, found {list(self.severities)}")
        problems = [f"severities: {one} is listed twice" for one in repeated(self.severities)]
        if problems := problems + archive_problems(self.archives):
            raise ValueError("; ".join(problems))
        self.part("check")

    @property
    def digest(self) -> str:
        """`sha256:...` of what identifies the data; wording may change without changing it."""
        identity = [self.name, self.family, self.classes, self.count, self.per_class, self.severities]
        return digest(identity)

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """Every corruption with every severity, in the published order."""
        return tuple((corruption, severity) for corruption in FAMILIES[self.family] for severity in self.severities)

    def part(self, folder: str) -> Manifest:
        """What the folder of one severity has to hold."""
        split = SplitManifest(self.count, self.per_class)
        return Manifest(self.name, self.title, self.source, self.terms, self.classes, {folder: split})


def load_corrupted_manifest(name: str | Path) -> CorruptedManifest:
    """Load the manifest of a set of corruptions, bundled or by the path of its YAML file.

    Raises:
        ValueError: no such manifest, or its content is wrong.
    """
    return build(CorruptedManifest, *_read(name, "corrupted"))


def load_perturbed_manifest(name: str | Path) -> Manifest:
    """As `load_corrupted_manifest`, for sets with one folder per class: ImageNet-A, -R, -Sketch."""
    values, where = _read(name, "perturbed")
    manifest = build(Manifest, values, where)
    if list(manifest.splits) != [TEST]:
        raise ValueError(f"{where}: splits: expected exactly {TEST!r}, found {', '.join(manifest.splits)}")
    return manifest


def _read(name: str | Path, kind: str) -> tuple[dict[str, Any], str]:
    path, values = read_manifest(name, kind)
    if isinstance(values.get("classes"), str):
        values["classes"] = packaged_classes(values["classes"], path)
    return values, str(path)
