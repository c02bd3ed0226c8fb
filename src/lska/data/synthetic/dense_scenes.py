"""What generated detection and segmentation sets have in common: settings, scenes and images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lska.data.synthetic.generated_folder import describe, generate
from lska.data.synthetic.scene import Scene, SceneSettings, compose_scene
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import TEXTURES
from lska.data.synthetic.value_checks import check_names, check_pair, check_range

SPLITS = ("train", "val")

STREAM = 2
"""First number of the keys of these scenes; those of classification start with 0 or 1, so no two sets share scenes."""


@dataclass(frozen=True)
class DenseSettings:
    """Settings of generated scenes of several objects.

    Detection and segmentation sets of equal settings show the same scenes.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    KIND: ClassVar[str]

    image_size: int = 128
    """Height and width in pixels."""
    classes: int | tuple[str, ...] = 5
    """Shape categories, or how many of `SHAPES`, from the first on."""
    train_images: int = 400
    val_images: int = 100
    objects: tuple[int, int] = (1, 4)
    """Least and most objects of a scene; an object that finds no place is left out."""
    textures: tuple[str, ...] = TEXTURES
    extent: tuple[float, float] = (0.25, 0.5)
    """Least and largest longer side of an object's box, as a share of the image side."""
    turn: float = 30.0
    """Largest turn of an object in degrees, either way."""
    overlap: float = 0.2
    """Largest share of an object that others may cover."""
    ground: str = "darker"
    """Whether the background is `darker` or `lighter` than the objects, or `either`, image by image."""
    contrast: float = 0.3
    """Least difference in mean luma between objects and background."""
    clutter: float = 0.0
    """Luma range of a textured background; at 0 the background is a faint gradient. Harder the larger it is."""
    quality: int = 92
    """JPEG quality."""
    seed: int = 0
    """Seed of everything random in the set."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, tuple):
            check_names("classes", self.classes, SHAPES)
        else:
            check_range("classes", self.classes, 1, len(SHAPES))
        check_range("train_images", self.train_images, 1, 1_000_000)
        check_range("val_images", self.val_images, 1, 1_000_000)
        check_range("quality", self.quality, 90, 100)
        check_range("image_size", self.image_size, 32, 4096)
        check_pair("extent", self.extent, 0.1, 0.95)
        self.scene_settings("train")
        # 0 and 0.0 are one setting and must have one digest.
        for name in ("turn", "overlap", "contrast", "clutter"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "extent", tuple(map(float, self.extent)))

    @property
    def shape_names(self) -> tuple[str, ...]:
        """The shape categories in alphabetical order."""
        return tuple(sorted(SHAPES[: self.classes] if isinstance(self.classes, int) else self.classes))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        return self.shape_names

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return {"train": self.train_images, "val": self.val_images}[split]

    def scene_settings(self, split: str) -> SceneSettings:
        """Return the settings of the scenes of a split; validation scenes are made of held-out instances."""
        return SceneSettings(
            image_size=self.image_size,
            shapes=self.shape_names,
            textures=self.textures,
            objects=self.objects,
            extent=self.extent,
            turn=self.turn,
            overlap=self.overlap,
            ground=self.ground,
            contrast=self.contrast,
            clutter=self.clutter,
            held_out=split == "val",
            seed=self.seed,
        )

    def description(self) -> dict[str, Any]:
        """Return what identifies the set, ready for JSON."""
        return describe(self.KIND, self, {"classes": self.shape_names}, "dense_scenes")


def dense_scene(settings: DenseSettings, split: str, number: int) -> Scene:
    """Return scene `number` of a split, its shapes, textures and instances drawn at random.

    No scene depends on how many there are: a larger set contains the smaller.
    """
    return compose_scene(settings.scene_settings(split), (STREAM + SPLITS.index(split), number))


def write_set(
    root: Path, settings: DenseSettings, overwrite: bool, write_split: Callable[[Path, str], None]
) -> dict[str, int]:
    """Have `write_split(folder, split)` write each split into the folder that becomes `root`, complete or not at all.

    Returns and raises as `lska.data.synthetic.write_detection_set`.
    """
    counts = {split: settings.count(split) for split in SPLITS}

    def write(folder: Path) -> None:
        for split in SPLITS:
            write_split(folder, split)

    return counts | {"written": generate(root, settings.description(), sum(counts.values()), overwrite, write)}
