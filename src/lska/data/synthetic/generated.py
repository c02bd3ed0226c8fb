"""What generated sets have in common: settings that know how to write a set, and a folder that is whole or not there.

Ranges are annotations, so they are checked where settings are read (`lska.provenance.strict.build`), not in Python.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lska.data.entries import repeated, shown_names
from lska.data.synthetic.scene import SceneSettings
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import TEXTURES
from lska.provenance.errors import OccupiedError
from lska.provenance.files import files_in, plain, read_json, replaced_folder, write_json
from lska.provenance.metric_files import digest
from lska.provenance.strict import Share, checked
from lska.settings.recipes import Interval
from lska.settings.versions import GENERATORS

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"


def _repetition(values: int | Sequence[Any]) -> str | None:
    twice = [] if isinstance(values, int) else repeated(values)
    return f"{', '.join(map(str, twice))} is listed twice" if twice else None


Distinct = checked(_repetition)
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Quality = Annotated[int, Field(ge=90, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def some_of(known: tuple[str, ...], least: int) -> Any:
    """Type of a setting that lists some of the `known` names, or says how many of them, from the first on."""
    names = Annotated[tuple[Literal[known], ...], Field(min_length=least)]
    return Annotated[Annotated[int, Field(ge=least, le=len(known))] | names, Distinct]


def sorted_names(chosen: int | tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The names that a setting of type `some_of` stands for, in alphabetical order."""
    return tuple(sorted(known[:chosen] if isinstance(chosen, int) else chosen))


Size = Annotated[int, Field(ge=24, le=4096)]  # smaller objects could vanish between the pixels
Classes = some_of(SHAPES, 2)
Textures = Annotated[tuple[Literal[TEXTURES], ...], Field(min_length=1), Distinct]
Extent = Annotated[float, Field(ge=0.3, le=0.95)]
Turn = Annotated[float, Field(ge=0, le=180)]
Ground = Literal["darker", "lighter", "either"]


@dataclass(frozen=True)
class GeneratedSet(ABC):
    """Settings of a generated set."""

    kind: ClassVar[str]
    made_by: ClassVar[tuple[str, ...]]
    """Its generator, then those of what it is made from, as in `lska.settings.versions.GENERATORS`."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all images and labels into an empty folder. Equal settings give equal bytes."""

    def names(self) -> dict[str, Any]:
        """Settings that the description gives as names, whatever they were given as."""
        return {}

    def description(self) -> dict[str, Any]:
        """What identifies the set, ready for JSON."""
        versions = {name: GENERATORS[name].number for name in self.made_by}
        versions["generator"] = versions.pop(self.made_by[0])
        return {"kind": self.kind, **versions, "settings": plain(asdict(self) | self.names())}


@dataclass(frozen=True)
class ShapeSet(GeneratedSet):
    """Settings of a set whose classes are shapes."""

    image_size: Size = 48
    classes: Classes = 10
    """Shape categories, or how many of `SHAPES`, from the first on."""
    seed: Seed = 0

    @property
    def shape_names(self) -> tuple[str, ...]:
        """The shape categories in alphabetical order, which is that of the class indices."""
        return sorted_names(self.classes, SHAPES)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the set in the order of their indices."""
        return self.shape_names

    def names(self) -> dict[str, Any]:
        """The shapes by name."""
        return {"classes": self.shape_names}


@dataclass(frozen=True)
class SceneSet(ShapeSet):
    """Settings of a set that says itself what its scenes show."""

    image_size: Size = 64
    textures: Textures = TEXTURES
    extent: Annotated[tuple[Extent, Extent], Interval] = (0.6, 0.88)
    """Least and largest longer side of an object's box, as a share of the image side."""
    turn: Turn = 45.0
    """Largest turn of an object in degrees, either way; less for shapes that are named by their upright position."""
    ground: Ground = "darker"
    """Whether the background is `darker` or `lighter` than the objects, or `either`, image by image."""
    contrast: Annotated[float, Field(ge=0, le=0.5)] = 0.3
    """Least difference in mean luma between objects and background; luma runs from 0 to 1."""
    clutter: Share = 0.0
    """Luma range of a textured background; at 0 the background is a faint gradient. Harder the larger it is."""
    quality: Quality = 92

    def scenes(self, split: str) -> SceneSettings:
        """The settings of the scenes of a split; those of `val` are made of held-out instances."""
        shared = {field.name: getattr(self, field.name) for field in fields(SceneSettings) if hasattr(self, field.name)}
        return SceneSettings(shapes=self.shape_names, held_out=split == "val", **shared)


def write_set(root: Path, settings: GeneratedSet) -> bool:
    """Write the set to `root`; returns and raises as `generate`."""
    return generate(root, settings.description(), settings.write)


def generate(root: Path, description: Mapping[str, Any], write: Callable[[Path], None]) -> bool:
    """Have `write(folder)` fill the folder that becomes `root`, complete or not at all, in the place of another set.

    `settings.json` with the description and its digest is added. A folder that already holds this set is left alone.
    Returns whether it was written now. Raises OccupiedError as `holds`, or where files came to the former set after it
    was generated, or were changed; WriteError: no space or no permission, and the former folder is as it was.
    """
    if holds(root, description):
        logger.info("%s already holds this set, left as it is", root)
        return False
    # The settings are the last file that is written. Copying an old file does not set back its change time.
    files = [path for path in files_in(root, "**/*") if not path.is_dir()]
    complete = (root / SETTINGS_FILE).stat().st_ctime_ns if files else 0
    if later := [str(path.relative_to(root)) for path in files if path.lstat().st_ctime_ns > complete]:
        raise OccupiedError(
            f"{root} holds a generated set of other settings, and files that were added or changed later: "
            f"{shown_names(later)}; move these elsewhere, or remove the folder yourself"
        )
    with replaced_folder(root.resolve()) as folder:
        write(folder)
        write_json(folder / SETTINGS_FILE, {**description, "digest": digest(description)})
    logger.info("%s: written", root)
    return True


def holds(root: Path, description: Mapping[str, Any]) -> bool:
    """Whether `root` already holds the set that `description` identifies; False where it may be written.

    Raises OccupiedError: `root` is a file, or a folder of other origin, which is never replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        return read_json(root / SETTINGS_FILE)["digest"] == digest(description)
    except (ValueError, KeyError) as error:
        raise OccupiedError(
            f"{root} exists and is no generated set (no readable {SETTINGS_FILE}: {error}); "
            "choose another folder or remove it yourself"
        ) from error
