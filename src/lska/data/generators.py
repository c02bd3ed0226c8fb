"""The settings under `generate`: what each kind of set takes, and what none of them can promise to the rest of a scale.

All of it is checked when a configuration is read, so that nobody trains for hours for a set that cannot be made or
used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lska.data.entries import DataError
from lska.data.manifest import load_manifest, manifest_path
from lska.data.perturbed.corrupted_set import CorruptionSettings
from lska.data.perturbed.names import FAMILIES
from lska.data.synthetic.dense_scenes import DetectionSettings, SegmentationSettings
from lska.data.synthetic.inspection_sets import CueConflictSettings, TextureSettings
from lska.data.synthetic.labelled import AdversarialSettings, ClassificationSettings, RenditionSettings
from lska.provenance.errors import InputError
from lska.provenance.strict import build, problems_of
from lska.settings.schema import DataSource
from lska.settings.tasks import MASKED, ScaleData, place

Sources = Sequence[tuple[str, ScaleData]]
Updates = Mapping[str, Mapping[str, int]]

SETTINGS: dict[str, Any] = {
    "classification": ClassificationSettings, "detection": DetectionSettings, "segmentation": SegmentationSettings,
    "c": CorruptionSettings, "c_bar": CorruptionSettings, "a": AdversarialSettings, "r": RenditionSettings,
    "sketch": RenditionSettings, "shape_texture": CueConflictSettings, "texture_knn": TextureSettings,
}  # fmt: skip
"""Dataclass of the settings of a generated set, by what the set serves (`Config.sources`)."""


def generator_settings(kind: str, data: DataSource) -> Any:
    """The settings under `generate` of a set that serves `kind`, a `SETTINGS[kind]`; ValueError names all that is
    wrong.
    """
    if kind not in SETTINGS:
        raise InputError(f"unknown kind of data {kind!r}; choose from {', '.join(SETTINGS)}")
    return build(SETTINGS[kind], _values(kind, data), f"{place(kind)}.generate")


def _values(kind: str, data: DataSource) -> dict[str, Any]:
    values = dict(data.generate or {})
    if kind in FAMILIES:
        return {"family": kind, **values}
    # The reference of a counterpart of ImageNet-A is a run, not a setting of the images.
    return {name: value for name, value in values.items() if (kind, name) != ("a", "reference")}


@dataclass(frozen=True)
class Trained:
    """What is known of a scale's classification set without opening it: classes in index order, validation images."""

    name: str
    classes: tuple[str, ...]
    images: int


def trained(data: DataSource) -> Trained | None:
    """The classes that networks trained on a set tell apart; None where no manifest of the data is there."""
    if data.generate is not None:
        settings = generator_settings("classification", data)
        return Trained(data.name, settings.class_names, len(settings.class_names) * settings.val_per_class)
    try:
        path = manifest_path(data.manifest or data.name)
    except DataError:
        return None
    manifest = load_manifest(path)
    return Trained(data.name, manifest.classes, manifest.splits["val"].count if "val" in manifest.splits else 0)


def generator_problems(sources: Sources, updates: Updates) -> list[str]:
    """What is wrong with the settings under `generate`: each for itself, and where that is right, with the others.

    `sources` and `updates` (images that an update takes, by the setting that says so) are as `Config` has them.
    """
    made, problems = {}, []
    for kind, data in sources:
        if data.generate is not None:
            found = problems_of(SETTINGS[kind], _values(kind, data), f"{place(kind)}.generate")
            problems += found
            if not found:
                made[kind] = generator_settings(kind, data)
    clean = dict(sources)["classification"]
    about = trained(clean) if made and (clean.generate is None or "classification" in made) else None
    return problems + [problem for kind, one in made.items() for problem in _unfit(kind, one, about, updates)]


def _unfit(kind: str, settings: Any, about: Trained | None, updates: Updates) -> Iterator[str]:
    """What the settings of one generated set cannot promise to what uses it."""
    where = f"{place(kind)}.generate"
    if kind in updates:
        if kind == "classification":
            images, setting = len(settings.class_names) * settings.train_per_class, f"{where}.train_per_class"
        else:
            images, setting = settings.train_images, f"{where}.train_images"
        for path, batch in updates[kind].items():
            if images < batch:
                yield (
                    f"{setting}: {images} training images are fewer than one update takes, global_batch {batch} of "
                    f"{path}; raise it, or lower global_batch"
                )
    elif kind in FAMILIES:
        if settings.family != kind:
            yield f"{where}.family: expected {kind!r}, as the set is called, found {settings.family!r}; leave it out"
        if about is not None and settings.images is not None and not (
            len(about.classes) <= settings.images <= about.images
        ):
            yield (
                f"{where}.images: expected {len(about.classes)} (one of each class of {about.name}) to {about.images}, "
                f"its validation images, found {settings.images}; leave it out for all images"
            )
    elif kind in (*MASKED, "sketch") and about is not None:
        # The reference that chooses set a has an output for every class of the candidates.
        unknown = set(settings.class_names) - set(about.classes)
        if kind == "a":
            unknown = set(settings.shape_names) ^ set(about.classes)
        if unknown:
            yield (
                f"{where}.classes: the networks are trained on the {len(about.classes)} classes of {about.name}, and "
                f"these are not in both: {', '.join(sorted(unknown)[:10])}; choose among them, or leave the set out"
            )
    elif kind == "shape_texture":
        # The dimensions are estimated from pairs of images that share the shape, and others that share the texture.
        if settings.textures_per_shape < 2:
            yield f"{where}.textures_per_shape: no two images would share a shape: expected at least 2, found 1"
        images = len(settings.class_names) * settings.per_class
        textures = len(settings.class_names) * settings.textures_per_class
        if images < textures + 2:
            yield (
                f"{where}.textures_per_class: {images} images are too few to show {textures} textures more than once; "
                "lower it, or raise shapes_per_class"
            )
