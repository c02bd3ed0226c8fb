"""Generated classification sets: one object per image, the class is its shape; the same scenes in other styles; and
natural adversarial examples, scenes that fool a reference classifier, as in ImageNet-A.

The published set (Hendrycks et al., "Natural Adversarial Examples", CVPR 2021) was selected from many photographs:
those that a fixed ResNet-50 classifies correctly were deleted, then those to whose class it gives more than 15 %
probability; people looked at the rest. Here candidates are generated, so that their labels are exact.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from lska.data.synthetic.generated import (
    Count,
    Distinct,
    Extent,
    Ground,
    Quality,
    SceneSet,
    ShapeSet,
    Size,
    Turn,
    generate,
)
from lska.data.synthetic.render import STYLES, encode_jpeg, render
from lska.data.synthetic.scene import Labels, Scene, compose_scene
from lska.data.synthetic.seeds import HELD_OUT
from lska.data.synthetic.shapes import SHAPES
from lska.provenance.errors import InputError
from lska.provenance.files import csv_text, plain, write_json
from lska.provenance.strict import Share, checked
from lska.settings.recipes import Interval

Judge = Callable[[list[Image.Image]], np.ndarray]
"""Probabilities (B, classes) that a classifier gives to B RGB images, classes in alphabetical order."""

logger = logging.getLogger(__name__)

COLUMNS = (
    *("path", "split", "shape", "texture", "shape_instance", "texture_instance"),
    *("x_min", "y_min", "x_max", "y_max"),
)
"""Columns of labels.csv; the box is that of the object's mask in pixels, its maxima one past the last pixel."""


@dataclass(frozen=True)
class ClassificationSettings(SceneSet):
    """Settings of a generated classification set; every class shows each texture equally often, give or take one."""

    kind = "classification"
    made_by = ("scenes",)

    train_per_class: Count = 200
    val_per_class: Count = 50

    def write(self, folder: Path) -> None:
        """Write `{train,val}/<class>/<class>_<n>.jpg`, ImageNet's layout, and `labels.csv` beside them."""
        rows = []
        for split, count in (("train", self.train_per_class), ("val", self.val_per_class)):
            for shape in self.class_names:
                (folder / split / shape).mkdir(parents=True)
                for number in range(count):
                    scene, path = classification_scene(self, split, shape, number), f"{shape}_{number:05d}.jpg"
                    (folder / split / shape / path).write_bytes(encode_jpeg(render(scene), self.quality))
                    labels = scene.objects[0].labels
                    place = [f"{split}/{shape}/{path}", split, shape, labels.texture]
                    row = [*place, labels.shape_instance, labels.texture_instance, *scene.objects[0].box]
                    rows.append(dict(zip(COLUMNS, row, strict=True)))
        (folder / "labels.csv").write_text(csv_text(COLUMNS, rows), encoding="utf-8")


def classification_scene(settings: SceneSet, split: str, shape: str, number: int) -> Scene:
    """The scene of image `number` of a class; instances of the validation split are numbered from `HELD_OUT` on."""
    held_out = split == "val"
    return numbered_scene(settings, split, int(held_out), HELD_OUT * held_out, shape, number)


def numbered_scene(settings: SceneSet, split: str, stream: int, first: int, shape: str, number: int) -> Scene:
    """The scene `number` of a class in a `stream` of scenes, with instances numbered from `first` on.

    Its shape instance is new. Texture categories take turns, each class starting with another one, and each image has
    a texture instance of its own. No image depends on how many there are: a larger set contains the smaller.
    """
    index = SHAPES.index(shape)
    texture = settings.textures[(number + index) % len(settings.textures)]
    labels = Labels(shape, texture, first + number, first + number * len(SHAPES) + index)
    return compose_scene(settings.scenes(split), (stream, index, number), [labels])


def _kept_problem(kept: int | None, classes: int | tuple[str, ...]) -> str | None:
    most = classes if isinstance(classes, int) else len(classes)
    return None if kept is None or 2 <= kept <= most else f"expected 2 to {most} classes, found {kept}"


Kept = Annotated[int | None, checked(_kept_problem, "classes")]
Styles = Annotated[tuple[Literal[tuple(STYLES)], ...], Field(min_length=1), Distinct]


def spread(names: tuple[str, ...], kept: int | None) -> tuple[str, ...]:
    """`kept` of the names, in their order and evenly spread over it; all where `kept` is None."""
    count = len(names) if kept is None else kept
    return tuple(names[(2 * index + 1) * len(names) // (2 * count)] for index in range(count))


@dataclass(frozen=True)
class KeptShapes(ShapeSet):
    """Settings of a set that has some of the classes, as ImageNet-A and -R have 200 of ImageNet's 1,000."""

    kept: Kept = None
    """How many of the classes the set has, evenly spread over their sorted names; all where None."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The kept classes in alphabetical order."""
        return spread(self.shape_names, self.kept)

    def names(self) -> dict[str, Any]:
        """The shapes, and those of them that are kept."""
        return {"classes": self.shape_names, "kept": self.class_names}


@dataclass(frozen=True)
class RenditionSettings(KeptShapes):
    """Settings of renditions, as in ImageNet-R and ImageNet-Sketch: the clean set's validation scenes in other styles.

    `image_size`, `classes` and `seed` are those of the clean set; further settings of its scenes are the defaults.
    ImageNet-R: Hendrycks et al., "The Many Faces of Robustness", ICCV 2021.
    """

    kind = "renditions"
    made_by = ("renditions", "scenes")

    per_class: Count = 20
    styles: Styles = ("flat", "outline", "pencil", "emboss")
    """Styles, which take turns within each class; ("sketch",) stands in for ImageNet-Sketch."""
    quality: Quality = 95

    def write(self, folder: Path) -> None:
        """Write `<class>/<style>_<number>.jpg`, ImageNet-R's layout; the scene is that of the clean set's number."""
        clean = ClassificationSettings(image_size=self.image_size, classes=self.classes, seed=self.seed)
        for shape in self.class_names:
            (folder / shape).mkdir()
            for number in range(self.per_class):
                style = self.styles[number % len(self.styles)]
                pixels = render(classification_scene(clean, "val", shape, number), style)
                (folder / shape / f"{style}_{number:05d}.jpg").write_bytes(encode_jpeg(pixels, self.quality))


# --- Natural adversarial examples ------------------------------------------------------------------------------------

ADVERSARIAL = 4
"""First number of the keys of these scenes; classification's start with 0 or 1, detection's and others' with 2 or 3."""

FIRST = HELD_OUT + (1 << 29)
"""First instance number, so that shapes and textures are held out and yet none of the clean validation set's."""

BATCH = 64


def _candidates_problem(candidates: int, per_class: int) -> str | None:
    return f"expected at least per_class {per_class}, found {candidates}" if candidates < per_class else None


@dataclass(frozen=True)
class AdversarialSettings(KeptShapes, SceneSet):
    """Settings of a generated set of natural adversarial examples.

    The defaults of the scenes are harder than the clean set's: a textured ground, darker or lighter than the object,
    smaller objects and more turn.
    """

    kind = "adversarial"
    made_by = ("adversarial", "scenes")

    image_size: Size = 48
    extent: Annotated[tuple[Extent, Extent], Interval] = (0.5, 0.75)
    turn: Turn = 75.0
    ground: Ground = "either"
    clutter: Share = 0.25
    quality: Quality = 95
    per_class: Count = 20
    candidates: Annotated[Count, checked(_candidates_problem, "per_class")] = 400
    limit: Share = 0.15
    """Largest probability that the reference may give to the right class."""

    def write(self, folder: Path) -> None:
        """Never: see `write_adversarial_set`."""
        raise InputError(
            "robustness.sets.a.generate: the images of set a are chosen by its reference classifier, and none was given"
        )


def write_adversarial_set(
    root: Path, settings: AdversarialSettings, judge: Judge, reference: Mapping[str, Any]
) -> bool:
    """Write the candidates that fool the reference to `root/<class>/candidate_<number>.jpg`, the layout of ImageNet-A.

    A candidate is kept where the reference gives its class a probability of at most `settings.limit` and another of
    the kept classes a higher one: it is wrong whether or not its outputs are restricted to the kept classes. What is
    judged are the stored pixels. `candidates.json` tells how many were tried and kept of each class. A set left alone
    is not judged again; `reference`, ready for JSON, identifies the weights of `judge` and is part of the set's digest.
    Returns and raises as `generate`; InputError where no candidate of a class is kept.
    """

    def write(folder: Path) -> None:
        facts = {}
        for shape in settings.class_names:
            (folder / shape).mkdir()
            kept = tried = 0
            for number, content, fools in _judged(settings, judge, shape):
                tried += 1
                if fools:
                    (folder / shape / f"candidate_{number:05d}.jpg").write_bytes(content)
                    kept += 1
                if kept == settings.per_class:
                    break
            if kept == 0:
                raise InputError(
                    f"class {shape!r}: none of {tried} candidates fools the reference (wrong, and at most "
                    f"{settings.limit} for the right class); raise candidates or limit, or make the scenes harder by "
                    "clutter, contrast or extent"
                )
            if kept < settings.per_class:
                wanted = settings.per_class
                logger.warning("class %s: %d images instead of %d from %d candidates", shape, kept, wanted, tried)
            facts[shape] = {"tried": tried, "kept": kept}
        write_json(folder / "candidates.json", facts)

    return generate(root, settings.description() | {"reference": plain(dict(reference))}, write)


def _judged(settings: AdversarialSettings, judge: Judge, shape: str) -> Iterator[tuple[int, bytes, bool]]:
    """Number, JPEG file and whether it fools the reference, candidate by candidate."""
    names = settings.shape_names
    others = [names.index(name) for name in settings.class_names if name != shape]
    for start in range(0, settings.candidates, BATCH):
        numbers = range(start, min(start + BATCH, settings.candidates))
        scenes = (numbered_scene(settings, "val", ADVERSARIAL, FIRST, shape, number) for number in numbers)
        files = [encode_jpeg(render(scene), settings.quality) for scene in scenes]
        probabilities = judge([Image.open(io.BytesIO(content)).convert("RGB") for content in files])
        right = probabilities[:, names.index(shape)]
        fooled = (right <= settings.limit) & (right < probabilities[:, others].max(axis=1))
        yield from zip(numbers, files, fooled.tolist(), strict=True)
