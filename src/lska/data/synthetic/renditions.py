"""Generated renditions: held-out scenes of the clean set in other styles, as in ImageNet-R and ImageNet-Sketch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lska.data.synthetic.generated_folder import describe, generate
from lska.data.synthetic.generator_workers import each
from lska.data.synthetic.labelled import ClassificationSettings, classification_scene
from lska.data.synthetic.render import STYLES, save_jpeg
from lska.data.synthetic.value_checks import check_names, check_range


@dataclass(frozen=True)
class RenditionSettings:
    """Settings of a generated set of renditions.

    `image_size`, `classes` and `seed` are those of the clean set; further settings of its scenes are the defaults.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    image_size: int = 48
    """Height and width in pixels."""
    classes: int | tuple[str, ...] = 10
    """Shape categories of the clean set, or how many of `SHAPES`, from the first on."""
    kept: int | None = None
    """How many of these classes the set has, as ImageNet-R has 200 of ImageNet's 1,000; all where None."""
    per_class: int = 20
    """Images of each class."""
    styles: tuple[str, ...] = ("flat", "outline", "pencil", "emboss")
    """Styles, which take turns within each class; ("sketch",) stands in for ImageNet-Sketch."""
    quality: int = 95
    """JPEG quality."""
    seed: int = 0
    """Seed of everything random in the set."""

    def __post_init__(self) -> None:
        check_range("per_class", self.per_class, 1, 1_000_000)
        check_names("styles", self.styles, tuple(STYLES))
        check_kept(self.kept, self.clean.class_names)

    @property
    def clean(self) -> ClassificationSettings:
        """Settings of the clean set whose validation scenes these are."""
        return ClassificationSettings(
            image_size=self.image_size,
            classes=self.classes,
            val_per_class=self.per_class,
            quality=self.quality,
            seed=self.seed,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The kept classes in alphabetical order."""
        return spread(self.clean.class_names, self.kept)

    def description(self) -> dict[str, Any]:
        """Return what identifies the set, ready for JSON."""
        names = {"classes": self.clean.class_names, "kept": self.class_names}
        return describe("renditions", self, names, "renditions", "scenes")


def check_kept(kept: int | None, names: Sequence[str]) -> None:
    """Check that `kept` is None or a number of classes from 2 to all; raises ValueError."""
    if kept is not None:
        check_range("kept", kept, 2, len(names))


def spread(names: Sequence[str], kept: int | None) -> tuple[str, ...]:
    """Return `kept` of the names, in their order and evenly spread over it; all where `kept` is None."""
    count = len(names) if kept is None else kept
    return tuple(names[(2 * index + 1) * len(names) // (2 * count)] for index in range(count))


def write_rendition_set(
    root: Path, settings: RenditionSettings, *, overwrite: bool = False, workers: int = 1
) -> dict[str, int]:
    """Write the set to `root/<class>/<style>_<number>.jpg`, the layout of ImageNet-R, with `settings.json` beside.

    Image `number` shows the scene of the clean set's validation image of that number. The folder, repeated calls and
    `workers` are as with `write_classification_set`. ImageNet-R: Hendrycks et al., "The Many Faces of Robustness",
    ICCV 2021.

    Returns:
        Number of classes, of images, and of images written now (0 for a set left alone).

    Raises:
        FileExistsError: `root` holds a set of other settings and `overwrite` is False, or holds anything else.
    """
    check_range("workers", workers, 1, 1024)
    names = settings.class_names
    counts = {"classes": len(names), "images": len(names) * settings.per_class}

    def write(folder: Path) -> None:
        each(partial(_write_class, folder, settings), names, workers, chunk=1)

    return counts | {"written": generate(root, settings.description(), counts["images"], overwrite, write)}


def _write_class(folder: Path, settings: RenditionSettings, shape: str) -> None:
    (folder / shape).mkdir()
    for number in range(settings.per_class):
        style = settings.styles[number % len(settings.styles)]
        scene = classification_scene(settings.clean, "val", shape, number)
        save_jpeg(folder / shape / f"{style}_{number:05d}.jpg", scene, settings.quality, style)
