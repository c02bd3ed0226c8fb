"""A generated set of natural adversarial examples: scenes that fool a reference classifier, as in ImageNet-A.

The published set (Hendrycks et al., "Natural Adversarial Examples", CVPR 2021) was selected from many photographs:
those that a fixed ResNet-50 classifies correctly were deleted, then those to whose class it gives more than 15 %
probability; people looked at the rest. Here candidates are generated, so that their labels are exact.
"""

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lska.data.synthetic.generated_folder import describe, existing_settings, replaced_set
from lska.data.synthetic.labelled import ClassificationSettings
from lska.data.synthetic.render import encode_jpeg
from lska.data.synthetic.renditions import check_kept, spread
from lska.data.synthetic.scene import Labels, Scene, compose_scene
from lska.data.synthetic.seeds import HELD_OUT
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import TEXTURES
from lska.data.synthetic.value_checks import check_range
from lska.provenance.errors import InputError
from lska.provenance.files import write_json

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    Judge = Callable[[list[Picture]], np.ndarray]

logger = logging.getLogger(__name__)

STREAM = 4
"""First number of the keys of these scenes; classification's start with 0 or 1, detection's and others' with 2 or 3."""

FIRST = HELD_OUT + (1 << 29)
"""First instance number, so that shapes and textures are held out and yet none of the clean validation set's."""

BATCH = 64
"""Candidates that are judged at a time."""

CANDIDATES_FILE = "candidates.json"


@dataclass(frozen=True)
class AdversarialSettings:
    """Settings of a generated set of natural adversarial examples.

    The defaults of the scenes are harder than the clean set's: a textured ground, darker or lighter than the object,
    smaller objects and more turn.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    image_size: int = 48
    """Height and width in pixels."""
    classes: int | tuple[str, ...] = 10
    """Shape categories of the clean set, or how many of `SHAPES`, from the first on."""
    kept: int | None = None
    """How many of these classes the set has, as ImageNet-A has 200 of ImageNet's 1,000; all where None."""
    per_class: int = 20
    """Most images of each class."""
    candidates: int = 400
    """Most candidates of each class."""
    limit: float = 0.15
    """Largest probability that the reference may give to the right class."""
    textures: tuple[str, ...] = TEXTURES
    """Texture categories of objects and grounds."""
    extent: tuple[float, float] = (0.5, 0.75)
    """Least and largest longer side of the object's box, as a share of the image side."""
    turn: float = 75.0
    """Largest turn of the object in degrees, either way; less for shapes that are named by their upright position."""
    ground: str = "either"
    """Whether the background is `darker` or `lighter` than the object, or `either`, image by image."""
    contrast: float = 0.3
    """Least difference in mean luma between object and background."""
    clutter: float = 0.25
    """Luma range of the textured background; at 0 it is a faint gradient."""
    quality: int = 95
    """JPEG quality."""
    seed: int = 0
    """Seed of everything random in the candidates."""

    def __post_init__(self) -> None:
        check_range("per_class", self.per_class, 1, 1_000_000)
        check_range("candidates", self.candidates, self.per_class, 1_000_000)
        check_range("limit", self.limit, 0.0, 1.0)
        checked = self.scenes
        check_kept(self.kept, checked.class_names)
        # 0 and 0.0 are one setting and must have one digest.
        object.__setattr__(self, "limit", float(self.limit))
        for name in ("extent", "turn", "contrast", "clutter"):
            object.__setattr__(self, name, getattr(checked, name))

    @property
    def scenes(self) -> ClassificationSettings:
        """The settings that a classification set has, too."""
        return ClassificationSettings(
            image_size=self.image_size,
            classes=self.classes,
            textures=self.textures,
            extent=self.extent,
            turn=self.turn,
            ground=self.ground,
            contrast=self.contrast,
            clutter=self.clutter,
            quality=self.quality,
            seed=self.seed,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The kept classes in alphabetical order."""
        return spread(self.scenes.class_names, self.kept)

    def description(self) -> dict[str, Any]:
        """Return what identifies the candidates and their selection, but for the reference, ready for JSON."""
        names = {"classes": self.scenes.class_names, "kept": self.class_names}
        return describe("adversarial", self, names, "adversarial", "scenes")


def adversarial_scene(settings: AdversarialSettings, shape: str, number: int) -> Scene:
    """Return candidate `number` of a class; texture categories take turns, shape and texture instance are new."""
    index = SHAPES.index(shape)
    texture = settings.textures[(number + index) % len(settings.textures)]
    labels = Labels(shape, texture, FIRST + number, FIRST + number * len(SHAPES) + index)
    return compose_scene(settings.scenes.scene_settings("val"), (STREAM, index, number), [labels])


def write_adversarial_set(
    root: Path,
    settings: AdversarialSettings,
    judge: "Judge",
    reference: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write the candidates that fool the reference to `root/<class>/candidate_<number>.jpg`, the layout of ImageNet-A.

    A candidate is kept where the reference gives its class a probability of at most `settings.limit` and another of
    the kept classes a higher one: it is wrong whether or not its outputs are restricted to the kept classes. What is
    judged are the stored pixels. `candidates.json` tells how many were tried and kept of each class. The folder and
    repeated calls are as with `write_classification_set`; a set left alone is not judged again.

    `judge` gives the reference's probabilities (B, classes) of B RGB images, classes in alphabetical order;
    `reference`, ready for JSON, identifies the reference's weights and is part of the set's digest.

    Returns:
        Number of classes, of images kept, of candidates tried for them, and of images written now.

    Raises:
        FileExistsError: `root` holds a set of other settings and `overwrite` is False, or holds anything else.
        ValueError: no candidate of a class is kept, `judge` gives no probabilities, or `reference` is empty.
    """
    if not reference:
        raise InputError("reference is empty; expected what identifies the weights of the reference classifier")
    description = settings.description() | {"reference": json.loads(json.dumps(dict(reference)))}
    if existing_settings(root, description, overwrite):
        counts = _counts(json.loads((root / CANDIDATES_FILE).read_text(encoding="utf-8")))
        logger.info("%s already holds this set of %d images, left as it is", root, counts["kept"])
        return counts | {"written": 0}
    with replaced_set(root, description) as folder:
        facts = {shape: _write_class(folder, settings, judge, shape) for shape in settings.class_names}
        write_json(folder / CANDIDATES_FILE, facts)
    counts = _counts(facts)
    logger.info("%s: kept %d of %d candidates", root, counts["kept"], counts["candidates"])
    return counts | {"written": counts["kept"]}


def _counts(facts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    kept, tried = (sum(fact[name] for fact in facts.values()) for name in ("kept", "tried"))
    return {"classes": len(facts), "kept": kept, "candidates": tried}


def _write_class(folder: Path, settings: AdversarialSettings, judge: "Judge", shape: str) -> dict[str, int]:
    """Write the kept candidates of a class and return how many were tried and kept."""
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
            f"class {shape!r}: none of {tried} candidates fools the reference (wrong, and at most {settings.limit} for "
            "the right class); raise candidates or limit, or make the scenes harder by clutter, contrast or extent"
        )
    if kept < settings.per_class:
        logger.warning("class %s: %d images instead of %d from %d candidates", shape, kept, settings.per_class, tried)
    return {"tried": tried, "kept": kept}


def _judged(settings: AdversarialSettings, judge: "Judge", shape: str) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number, JPEG file and whether it fools the reference, candidate by candidate."""
    from PIL import Image

    for start in range(0, settings.candidates, BATCH):
        numbers = range(start, min(start + BATCH, settings.candidates))
        files = [encode_jpeg(adversarial_scene(settings, shape, number), settings.quality) for number in numbers]
        pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in files]
        fooled = _fooled(judge(pictures), len(files), settings, shape)
        yield from zip(numbers, files, fooled.tolist(), strict=True)


def _fooled(probabilities: np.ndarray, count: int, settings: AdversarialSettings, shape: str) -> np.ndarray:
    """Return bool (count,): the class is improbable, and another kept class is more probable."""
    names = settings.scenes.class_names
    found = np.asarray(probabilities)
    if found.shape != (count, len(names)):
        raise InputError(f"judge must give probabilities of shape {(count, len(names))}, found {found.shape}")
    if not (found.min() >= 0 and np.allclose(found.sum(axis=1), 1, atol=1e-3)):
        raise InputError(
            "judge must give probabilities, not negative and with sum 1 for each image, "
            f"found {found.min():.3g} to {found.max():.3g}; apply a softmax to the logits"
        )
    right = found[:, names.index(shape)]
    others = found[:, [names.index(name) for name in settings.class_names if name != shape]]
    return (right <= settings.limit) & (right < others.max(axis=1))
