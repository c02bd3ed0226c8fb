"""Versions of what makes results that are kept: of generated data, and of measurements. Imports nothing heavy.

Results are identified by these numbers, never by the text or place of source files: moving or rewriting code makes
nothing stale. Who changes what a source computes raises its number; tests/unit/test_versions.py compares the sources
with those that the number was given to, and asks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """A number, raised whenever equal settings, weights and data would give other results."""

    number: int
    sources: tuple[str, ...]
    """Files below `src/lska`, and folders of such, that decide the results."""


_PAINT = tuple(f"data/synthetic/{name}.py" for name in ("scene", "shapes", "textures", "render", "seeds"))

GENERATORS = {
    "scenes": Version(1, ("data/synthetic/labelled.py", *_PAINT)),
    "dense_scenes": Version(1, ("data/synthetic/dense_scenes.py",)),
    "renditions": Version(1, ("data/synthetic/labelled.py",)),
    "adversarial": Version(1, ("data/synthetic/labelled.py",)),
    "cue_conflict": Version(1, ("data/synthetic/inspection_sets.py",)),
    "texture_set": Version(1, ("data/synthetic/inspection_sets.py",)),
    "c": Version(2, ("data/perturbed/corruptions.py",)),
    "c_bar": Version(1, ("data/perturbed/c_bar.py",)),
}
"""Generators of data sets, and the corruptions of ImageNet-C and ImageNet-C-bar."""

MEASUREMENTS = {
    "robustness": Version(2, tuple(f"evaluate/{name}.py" for name in ("measurement", "accuracy", "scores"))),
    "inspection": Version(
        2, tuple(f"evaluate/{name}.py" for name in ("shape_texture", "inspecting", "receptive_field", "scores"))
    ),
    "speed": Version(1, ("evaluate/efficiency.py", "models")),
    "complexity": Version(1, ("evaluate/efficiency.py", "models")),
    "dense_complexity": Version(1, ("evaluate/efficiency.py", "models")),
    "properties": Version(1, ("evaluate/efficiency.py", "models/properties.py")),
}
"""Measurements."""

_GENERATED_BY = {
    "classification": ("scenes",),
    "detection": ("dense_scenes", "scenes"),
    "segmentation": ("dense_scenes", "scenes"),
    "r": ("renditions", "scenes"),
    "sketch": ("renditions", "scenes"),
    "a": ("adversarial", "scenes"),
    "shape_texture": ("cue_conflict", "scenes"),
    "texture_knn": ("texture_set",),
}


def generator_versions(kind: str) -> list[int]:
    """Versions of what makes a generated set, by what it serves: `classification`, `r`, `texture_knn` and so on.

    Raises:
        KeyError: no generator makes a whole set of this kind, as for corruptions, which are made of another set.
    """
    return [GENERATORS[name].number for name in _GENERATED_BY[kind]]
