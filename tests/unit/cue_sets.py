"""Cue-conflict sets for tests: folders of files with names, and features with planted factors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lska.data.cue_conflict import CueConflictSet, read_cue_conflict


def write_names(root: Path, names: Iterable[str]) -> Path:
    """Write a file of one byte more each, so that no two are equal; returns `root`."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * (number + 1))
    return root


def crossed(categories: Iterable[str], shapes: int, textures: int, per_shape: int, seed: int = 0) -> list[str]:
    """Names of a set in which every shape instance has `per_shape` randomly drawn textures."""
    rng, categories = np.random.default_rng(seed), list(categories)
    pool = [f"{category}{number + 1}" for category in categories for number in range(textures)]
    return [
        f"{category}/{category}{number + 1}-{texture}.png"
        for category in categories
        for number in range(shapes)
        for texture in sorted(rng.choice(pool, per_shape, replace=False))
    ]


def random_set(root: Path, shapes: int = 8) -> CueConflictSet:
    """A set of names only: 10 categories with `shapes` shapes and 4 textures each, 6 of the textures on every shape."""
    return read_cue_conflict(write_names(root, crossed(["kind_" + letter for letter in "abcdefghij"], shapes, 4, 6)))


def planted(cues: CueConflictSet, shape: int, texture: int, noise: int, seed: int = 0) -> np.ndarray:
    """Features (n, shape + texture + noise) of unit variance that encode one factor each."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.standard_normal((len(cues.shapes), shape))[cues.shape_instance],
        rng.standard_normal((len(cues.textures), texture))[cues.texture_instance],
        rng.standard_normal((len(cues), noise)),
    ]
    return np.concatenate(parts, axis=1)
