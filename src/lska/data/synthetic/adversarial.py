"""A generated set of natural adversarial examples: scenes that fool a reference classifier, as in ImageNet-A.

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
from typing import Annotated, Any

import numpy as np
from PIL import Image

from lska.data.synthetic.generated import Count, Extent, Ground, Quality, SceneSet, Size, Turn, generate
from lska.data.synthetic.labelled import KeptShapes, numbered_scene
from lska.data.synthetic.render import encode_jpeg, render
from lska.data.synthetic.seeds import HELD_OUT
from lska.provenance.errors import InputError
from lska.provenance.files import plain, write_json
from lska.provenance.strict import Share, checked
from lska.settings.recipes import Interval

Judge = Callable[[list[Image.Image]], np.ndarray]
"""Probabilities (B, classes) that a classifier gives to B RGB images, classes in alphabetical order."""

logger = logging.getLogger(__name__)

STREAM = 4
"""First number of the keys of these scenes; classification's start with 0 or 1, detection's and others' with 2 or 3."""

FIRST = HELD_OUT + (1 << 29)
"""First instance number, so that shapes and textures are held out and yet none of the clean validation set's."""

BATCH = 64
"""Candidates that are judged at a time."""


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
    """Most images of each class."""
    candidates: Annotated[Count, checked(_candidates_problem, "per_class")] = 400
    """Most candidates of each class."""
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
    Returns and raises as `generate`.

    Raises:
        ValueError: no candidate of a class is kept.
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
        scenes = (numbered_scene(settings, "val", STREAM, FIRST, shape, number) for number in numbers)
        files = [encode_jpeg(render(scene), settings.quality) for scene in scenes]
        probabilities = judge([Image.open(io.BytesIO(content)).convert("RGB") for content in files])
        right = probabilities[:, names.index(shape)]
        fooled = (right <= settings.limit) & (right < probabilities[:, others].max(axis=1))
        yield from zip(numbers, files, fooled.tolist(), strict=True)
