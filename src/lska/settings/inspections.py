"""Names and identities of what is looked for inside networks: which files it has, and what its results depend on.

Imports nothing heavy: the Snakefile asks here which runs still have to be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.metric_files import digest
from lska.settings.passes import Measured
from lska.settings.perturbed_sets import source_identity
from lska.settings.sections import DataSource, ReceptiveField, ShapeTexture, TextureNeighbours
from lska.settings.versions import MEASUREMENTS, generator_versions

if TYPE_CHECKING:
    from lska.settings.scale import Config

TASKS = ("shape_texture", "texture_knn", "receptive_field")
"""Shape and texture dimensions, nearest textures, effective receptive field; also the configuration's sections."""

OWN_DATA = ("shape_texture", "texture_knn")
"""Tasks with a data set of their own; the others take the scale's validation images."""

Section = ShapeTexture | TextureNeighbours | ReceptiveField


@dataclass(frozen=True)
class InspectionJob(Measured):
    """One thing that is looked for inside the networks of a scale.

    Raises:
        ValueError: the configuration has no such section.
    """

    config: Config
    name: str
    """One of `TASKS`."""

    def __post_init__(self) -> None:
        if self.config.inspections.get(self.name) is None:
            known = ", ".join(name for name, section in self.config.inspections.items() if section is not None)
            raise InputError(f"scale {self.config.scale} has no section {self.name!r}; it has: {known or 'none'}")

    @property
    def section(self) -> Section:
        """The configuration's section."""
        return self.config.inspections[self.name]

    @property
    def task(self) -> str:
        """The task of its metric files."""
        return self.name

    @property
    def rule(self) -> str:
        """Start of the names of its rules."""
        return self.name

    @property
    def command(self) -> str:
        """What follows `lska evaluate`."""
        return self.name

    @property
    def data(self) -> DataSource:
        """The images."""
        return self.section.data if self.name in OWN_DATA else self.config.data

    @property
    def reference(self) -> Run | None:
        """No run chooses the images."""
        return None

    def outputs(self, run: Run | str) -> list[Path]:
        """The files that a measurement of `run` writes."""
        return [*super().outputs(run), *([self.field(run)] if self.name == "receptive_field" else [])]

    def field(self, run: Run | str) -> Path:
        """Place of the contribution maps of `run`: a NumPy archive with float32 (S, S) `trained` and `untrained`."""
        return self.config.results / "fields" / f"{run}.npz"

    def inputs(self) -> str | None:
        """Identity of what makes the data, kept in their record; None where the record keeps none."""
        if self.name not in OWN_DATA:
            return None
        if self.data.generate is None:
            return digest({"data": source_identity(self.name, self.data)})
        # The generators' versions, not their sources: results in a clone outlive an edit that changes no image.
        return digest({"generate": self.data.generate, "version": generator_versions(self.name)})

    def protocol(self) -> str:
        """Identity of how weights and data become metrics; kept in every metric file."""
        settings: dict[str, Any] = {
            "shape_texture": ("stage", "pooled", "pairs", "resamples", "seed"),
            "texture_knn": ("gallery", "query"),
            "receptive_field": ("images", "size", "normalization"),
        }
        chosen = {name: getattr(self.section, name) for name in settings[self.name]}
        # Where nothing is cropped, both readings are one.
        if self.name == "shape_texture" and any(recipe.test_crop < 1 for recipe in self.config.recipes.values()):
            chosen["stored_images"] = self.config.stored_images
        return digest({"version": MEASUREMENTS["inspection"].number, "task": self.name, **chosen})
