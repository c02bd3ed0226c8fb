"""Sidecars, `<network>.json` beside weights: what vouches for them, read and checked in one place.

A sidecar that cannot be read, or says something of another type than it should, vouches for nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from lska.provenance.errors import InputError
from lska.provenance.files import (
    FileError,
    UnreadableFileError,
    differing,
    plain,
    printable,
    quoted,
    read_json,
)
from lska.provenance.strict import OPEN_ENDED, build

_DIGEST = re.compile("sha256:[0-9a-f]{64}")

Triple = tuple[float, float, float]

FIELDS = ("image_size", "test_crop", "test_interpolation", "mean", "deviation")
"""Fields of a recipe, and so of `spec.recipe` in a sidecar, that say how images are prepared for a network."""

LARGEST = 8192
"""Pixels: side of the largest input."""

DIFFERENCES = 3
"""Differences of a recipe that are named; the others are counted."""

VALUE = 60
"""Characters of a value in a difference."""

LONGEST = 300
"""Characters of what is told of a damaged sidecar."""

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of the pixels per channel (RGB, 0 to 1), which are subtracted and divided by."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    mean: Triple
    deviation: Triple

    def __post_init__(self) -> None:
        if min(self.deviation) <= 0:
            raise InputError(f"deviation must be positive, found {list(self.deviation)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as metric files keep them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square of `size` pixels: shorter side resized to size / crop, centre cropped.

    A `crop` of 1 leaves an image of that size as it is.
    """

    size: int
    crop: float
    interpolation: str


@dataclass(frozen=True)
class Preprocessing(Normalization):
    """What happens to an image before a network sees it; fields have the names of a recipe's."""

    image_size: int
    """Pixels."""
    test_crop: float
    """Share of the resized image that the centre crop keeps."""
    test_interpolation: Interpolation

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.image_size <= LARGEST:
            raise InputError(f"image_size must be from 1 to {LARGEST} pixels, found {self.image_size}")
        if not 0 < self.test_crop <= 1:
            raise InputError(f"test_crop must be in (0, 1], found {self.test_crop}")

    @classmethod
    def of(cls, recipe: Mapping[str, Any], where: str) -> Preprocessing:
        """That of a recipe in plain values.

        Raises:
            ValueError: a field is missing, of another type or impossible; names `where` and all of them.
        """
        return _expecting(cls, recipe, where, FIELDS)

    @property
    def geometry(self) -> Geometry:
        """How an image becomes a square."""
        return Geometry(self.image_size, self.test_crop, self.test_interpolation)


@dataclass(frozen=True)
class Spec:
    """What decided weights; of imported ones, what is known of it."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    run: str | None = None
    task: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    backbone: str | None = None


@dataclass(frozen=True)
class Data:
    """The data that weights were trained on."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    name: str
    digest: str | None = None


@dataclass(frozen=True)
class BackboneRecord:
    """The weights that a fine-tuning started from."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    md5: str
    run: str | None = None


@dataclass(frozen=True)
class Sidecar:
    """The fields of a sidecar that anything reads, by their types."""

    __pydantic_config__: ClassVar = OPEN_ENDED
    md5: str
    origin: Literal["trained", "imported"]
    recipe: str | None = None
    run: str | None = None
    task: str | None = None
    scale: str | None = None
    spec: Spec | None = None
    data: Data | None = None
    backbone: BackboneRecord | None = None
    code: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    attempts: tuple[dict[str, Any], ...] | None = None
    processes: int = 1
    images_seen: int | None = None
    skipped_images: int | None = None
    updates: int | None = None
    final_loss: float | None = None
    finished: str | float | None = None
    seconds: float | None = None
    seal: str | None = None

    def __post_init__(self) -> None:
        if self.origin == "trained" and self.recipe is None:
            raise InputError("missing key 'recipe', the digest of how the weights were trained")
        if self.origin == "imported" and self.recipe is not None and _DIGEST.fullmatch(self.recipe) is None:
            found = quoted(self.recipe)
            raise InputError(f"recipe: expected null or a digest, sha256:<64 hexadecimal digits>, found {found}")


def check_sidecar(content: Mapping[str, Any], where: str) -> None:
    """Check the types of what a sidecar says.

    Raises:
        ValueError: names `where` and every field that is missing or of another type.
    """
    build(Sidecar, content, where)


def load_sidecar(path: Path) -> dict[str, Any]:
    """The content of a sidecar.

    Raises:
        MissingFileError: there is none.
        FileError: it is damaged, or a field is missing or of another type; names it and them.
    """
    return _load(path, *_state(path))


def read_sidecar(path: Path) -> dict[str, Any]:
    """The content of a sidecar; an empty one where it is missing or damaged, and so vouches for nothing.

    Raises:
        UnreadableFileError: it may be whole and cannot be read (as `lska.provenance.files.vouched`).
    """
    try:
        return load_sidecar(path)
    except UnreadableFileError:
        raise
    except ValueError:
        return {}


def damage(path: Path) -> str | None:
    """What is wrong with a sidecar, in one line; None where it is sound, or where there is none."""
    try:
        load_sidecar(path)
    except ValueError as error:
        missing = isinstance(error, FileNotFoundError) and not path.is_symlink()
        return None if missing else printable(" ".join(str(error).split()), LONGEST)
    return None


def imported(content: Mapping[str, Any]) -> bool:
    """Whether a sidecar is of weights that were brought here from elsewhere."""
    return content.get("origin") == "imported"


def own_preprocessing(sidecar: Mapping[str, Any], where: str) -> Preprocessing:
    """The preprocessing of a classifier that its sidecar says.

    Raises:
        ValueError: it does not say all of it; names `where`, what is wrong, and what is expected.
    """
    return Preprocessing.of(_recipe(sidecar), f"{where}: spec.recipe")


def own_normalization(sidecar: Mapping[str, Any], where: str) -> Normalization:
    """As `own_preprocessing`, of a detector or segmentor, whose images keep the size that the protocol gives them."""
    return _expecting(Normalization, _recipe(sidecar), f"{where}: spec.recipe", ("mean", "deviation"))


def imported_normalization(path: Path) -> Normalization | None:
    """That of the imported weights which a sidecar is of; None where it is of others, or does not say it."""
    sidecar = read_sidecar(path)
    try:
        return own_normalization(sidecar, str(path)) if imported(sidecar) else None
    except ValueError:
        return None


def imported_size(path: Path) -> int | None:
    """Pixels of the input of the imported weights which a sidecar is of; None as `imported_normalization`."""
    sidecar = read_sidecar(path)
    try:
        return own_preprocessing(sidecar, str(path)).image_size if imported(sidecar) else None
    except ValueError:
        return None


def measured_alike(measured: Mapping[str, Any], sidecar: Mapping[str, Any]) -> bool:
    """Whether a metric file was measured on the weights of a sidecar and, where these were imported, with the
    preprocessing that it says today.

    That of weights trained here is part of their recipe, which has one digest with them.
    """
    if (measured.get("weights") or {}).get("md5", "none") != sidecar.get("md5"):
        return False
    if not imported(sidecar):
        return True
    stated, recipe = (measured.get("detail") or {}).get("preprocessing"), _recipe(sidecar)
    return isinstance(stated, Mapping) and all(recipe.get(name) == value for name, value in stated.items())


def _recipe(sidecar: Mapping[str, Any]) -> Mapping[str, Any]:
    return (sidecar.get("spec") or {}).get("recipe") or {}


def _expecting(cls: type[Any], recipe: Mapping[str, Any], where: str, fields: tuple[str, ...]) -> Any:
    try:
        return build(cls, recipe, where)
    except ValueError as error:
        raise InputError(
            f"{error}\nexpected {', '.join(fields)}: how images are prepared for these weights (docs/weights.md, "
            "Weights from elsewhere)"
        ) from error


def _state(path: Path) -> tuple[int, ...]:
    """What changes with a file's content."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(maxsize=4096)
def _load(path: Path, *state: int) -> dict[str, Any]:
    """Planning asks for the same sidecars again and again; `state` tells whether one is as it was."""
    content = read_json(path)
    try:
        check_sidecar(content, str(path))
    except ValueError as error:
        raise FileError(str(error)) from error
    return content


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, as `name old -> new`."""
    pairs = (
        (place.removeprefix("recipe."), *(None if value is ... else value for value in values))
        for place, *values in differing(plain(then), plain(now))
    )
    found = [_change(name, before, after) for name, before, after in pairs if before != after]
    if not found:
        return "the digest of its recipe differs"
    rest = f" and {len(found) - DIFFERENCES} more" if len(found) > DIFFERENCES else ""
    return ", ".join(found[:DIFFERENCES]) + rest


def _change(name: str, before: Any, after: Any) -> str:
    whole = name == "backbone" or isinstance(before, Mapping) or isinstance(after, Mapping)
    shown = [printable(str(value), VALUE) for value in (before, after)]
    return f"{name} has changed" if whole else f"{name} {' -> '.join(shown)}"
