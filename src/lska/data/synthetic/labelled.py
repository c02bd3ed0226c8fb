"""Generated classification sets: one object per image, the class is its shape; and the same scenes in other styles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lska.data.synthetic.generated import Count, Distinct, Quality, SceneSet, ShapeSet
from lska.data.synthetic.render import STYLES, encode_jpeg, render
from lska.data.synthetic.scene import Labels, Scene, compose_scene
from lska.data.synthetic.seeds import HELD_OUT
from lska.data.synthetic.shapes import SHAPES
from lska.provenance.files import csv_text
from lska.provenance.strict import checked

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
    """Training images of each class."""
    val_per_class: Count = 50
    """Validation images of each class."""

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
    """Images of each class."""
    styles: Styles = ("flat", "outline", "pencil", "emboss")
    """Styles, which take turns within each class; ("sketch",) stands in for ImageNet-Sketch."""
    quality: Quality = 95
    """JPEG quality."""

    def write(self, folder: Path) -> None:
        """Write `<class>/<style>_<number>.jpg`, ImageNet-R's layout; the scene is that of the clean set's number."""
        clean = ClassificationSettings(image_size=self.image_size, classes=self.classes, seed=self.seed)
        for shape in self.class_names:
            (folder / shape).mkdir()
            for number in range(self.per_class):
                style = self.styles[number % len(self.styles)]
                pixels = render(classification_scene(clean, "val", shape, number), style)
                (folder / shape / f"{style}_{number:05d}.jpg").write_bytes(encode_jpeg(pixels, self.quality))
