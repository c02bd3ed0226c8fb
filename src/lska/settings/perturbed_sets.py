"""Names and identities of the perturbed sets: what is measured on them, and what each result depends on.

Imports nothing heavy: the Snakefile asks here which files a set has and which runs still have to be measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.metric_files import digest
from lska.settings.passes import Measured
from lska.settings.sections import DataSource, Robustness, SetName
from lska.settings.versions import GENERATORS, MEASUREMENTS, generator_versions

if TYPE_CHECKING:
    from lska.settings.scale import Config

CORRUPTED = ("c", "c_bar")
"""Sets of corruptions by severities, made from the clean validation images."""

MASKED = ("a", "r")
"""Sets of some of the classes, whose outputs are restricted to them (Hendrycks et al., ImageNet-A and -R)."""

SETS: tuple[str, ...] = get_args(SetName)
"""ImageNet-C, ImageNet-C-bar, ImageNet-A, ImageNet-R and ImageNet-Sketch, or a scale's counterparts."""

TASK = rf"robustness/(?:{'|'.join(SETS)})"
"""Regular expression of the tasks."""

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
"""Bundled manifests, whose names stand for published data."""

CUE_CONFLICT = "cue_conflict"
"""Name of the published cue-conflict set, which needs no manifest."""


def set_of(task: str) -> str | None:
    """The set of a task such as `robustness/c_bar`; None for every other task."""
    return task.partition("/")[2] if re.fullmatch(TASK, task) else None


@dataclass(frozen=True)
class PerturbedSet(Measured):
    """One perturbed set of a scale.

    Raises:
        ValueError: the configuration has no such set.
    """

    config: Config
    name: str
    """One of `SETS`."""

    def __post_init__(self) -> None:
        section = self.config.robustness
        if section is None or self.name not in section.sets:
            known = ", ".join(section.sets) if section is not None else "none"
            raise InputError(f"scale {self.config.scale} has no perturbed set {self.name!r}; it has: {known}")

    @property
    def section(self) -> Robustness:
        """The configuration's section."""
        return self.config.robustness

    @property
    def task(self) -> str:
        """The task of its metric files."""
        return f"robustness/{self.name}"

    @property
    def data(self) -> DataSource:
        """Where the images are, or how they are made."""
        return self.section.sets[self.name]

    @property
    def corrupted(self) -> bool:
        """Whether it consists of corruptions at severities."""
        return self.name in CORRUPTED

    @property
    def strips(self) -> Path:
        """Place of the picture with examples of every part."""
        return self.config.results / "samples" / self.task / "examples.png"

    @property
    def predictions(self) -> Path:
        """Folder of the predictions on this set, a cache that may be deleted."""
        return self.config.work / "predictions" / self.data.name

    @property
    def reference(self) -> Run | None:
        """The run whose mistakes choose the images of a generated counterpart of ImageNet-A."""
        return self.section.reference if self.name == "a" else None

    @property
    def rule(self) -> str:
        """Start of the names of its rules."""
        return f"robustness_{self.name}"

    @property
    def command(self) -> str:
        """What follows `lska evaluate`."""
        return f"robustness {self.name}"

    def inputs(self) -> str:
        """Identity of what makes the set what it is, as far as it is known before it is read; kept in its record."""
        made = self.data.generate is not None and self.corrupted
        # What corruptions are applied to is `clean`.
        identity = {"generate": self.data.generate} if made else source_identity(self.name, self.data)
        parts: dict[str, Any] = {"data": identity}
        if made:
            clean = source_identity("classification", self.config.data)
            parts |= {"clean": clean, "generator": GENERATORS[self.name].number}
        if self.reference is not None:
            parts["reference"] = self.config.training_digest(self.reference)
        return digest(parts)

    def protocol(self) -> str:
        """Identity of how predictions become metrics, beside weights and data; kept in every metric file."""
        # In digests the readings keep the names that they had first, which results in clones were measured under.
        names = {"as_stored": "corrected", "enlarged": "published"}
        stored = names[self.config.stored_images] if self.corrupted else None
        return digest({"version": MEASUREMENTS["robustness"].number, "set": self.name, "stored_images": stored})


def source_identity(kind: str, data: DataSource) -> dict[str, Any]:
    """What makes the data set that serves `kind` what it is apart from its place, as far as that is known before it is
    read."""
    manifest = Path(data.manifest) if data.manifest else MANIFESTS / f"{data.name}.yaml"
    described = _described(manifest) if data.generate is None and manifest.is_file() else None
    # The key says "sources" in all records.
    versions = None if data.generate is None else generator_versions(kind)
    return {"generate": data.generate, "manifest": described, "sources": versions}


def _described(manifest: Path) -> str:
    """The text of a manifest but for the archives, its last key: where data can be had does not change them."""
    before, archives, _ = manifest.read_text(encoding="utf-8").partition("\narchives:")
    return f"{before}\n" if archives else before
