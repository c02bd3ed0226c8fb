"""ImageNet-C and ImageNet-C-bar of any clean validation set, in the published folder layout, restartable."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lska.data.folders import Split
from lska.data.parallel import in_processes
from lska.data.perturbed.clean import chosen_images, clean_image, corrupted_name, hashed
from lska.data.perturbed.corruptions import corrupt
from lska.data.perturbed.names import FAMILIES, SEVERITIES, severity_folder
from lska.data.synthetic.generated_folder import SETTINGS_FILE, existing_settings
from lska.data.synthetic.value_checks import check_choice, check_range
from lska.provenance.errors import InputError, OccupiedError
from lska.provenance.files import is_temporary, read_json, temporary_name, write_json, writing
from lska.provenance.metric_files import digest
from lska.settings.versions import GENERATORS

logger = logging.getLogger(__name__)

KIND = "corrupted"
"""Kind of the set in its settings.json."""

CHUNK = 128
"""Images that a process takes at a time, at the most."""


@dataclass(frozen=True)
class CorruptionSettings:
    """Settings of a corrupted set.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    family: str
    """`c` for the 19 corruptions of ImageNet-C, `c_bar` for the 10 of ImageNet-C-bar."""
    image_size: int
    """Height and width of the corrupted images in pixels."""
    resize: int | None = None
    """Shorter side in pixels before the centre crop; None for the published proportion 256 / 224."""
    images: int | None = None
    """Clean images to corrupt, spread evenly over the classes; None for all."""
    severities: tuple[int, ...] = SEVERITIES
    """Severities of each corruption, 1 to 5."""
    quality: int = 85
    """JPEG quality (published: 85)."""
    seed: int = 0
    """Seed of the choice of images and of everything random in the corruptions."""

    def __post_init__(self) -> None:
        check_choice("family", self.family, tuple(FAMILIES))
        check_range("image_size", self.image_size, 32, 4096)
        if self.resize is not None:
            check_range("resize", self.resize, self.image_size, 8192)
        if self.images is not None:
            check_range("images", self.images, 1, 10_000_000)
        if not isinstance(self.severities, tuple) or not self.severities:
            raise InputError(f"severities must be a tuple of at least one severity, found {self.severities!r}")
        for severity in self.severities:
            check_range("severities", severity, SEVERITIES[0], SEVERITIES[-1])
        if len(set(self.severities)) < len(self.severities):
            raise InputError(f"severities must be different, found {self.severities!r}")
        check_range("quality", self.quality, 1, 100)
        check_range("seed", self.seed, 0, 2**32 - 1)
        # One set has one digest, in whatever order its severities are listed.
        object.__setattr__(self, "severities", tuple(sorted(self.severities)))

    @property
    def shorter_side(self) -> int:
        """Shorter side of a clean image before the centre crop in pixels."""
        return round(self.image_size * 256 / 224) if self.resize is None else self.resize

    def description(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Return what identifies the set made from clean data that `origin` names, ready for JSON."""
        settings = asdict(self) | {"resize": self.shorter_side}
        version = GENERATORS[self.family].number
        content = {"kind": KIND, "generator": version, "settings": settings, "origin": dict(origin)}
        return json.loads(json.dumps(content))


def write_corrupted_set(
    source: Split, root: Path, settings: CorruptionSettings, origin: Mapping[str, Any], workers: int = 1
) -> dict[str, int]:
    """Write `root/<corruption>/<severity folder>/<class>/<file stem>.jpg`, with `settings.json` in `root`.

    As the published sets were made: shorter side resized (bilinear), centre crop, corruption, JPEG. A file that is a
    JPEG keeps its name. A cell, one severity of a corruption, appears complete or not at all; a second call keeps the
    complete ones and makes the rest. The cells of a set of other settings are removed first. One call at a time may
    write to `root`. Equal settings give equal bytes, whatever the number of `workers` (processes) and interruptions.

    Args:
        source: clean validation images.
        origin: names the clean data and its digest; part of the set's own digest.

    Returns:
        Number of cells, of images in each cell, and of images written now (0 where nothing was left to do).

    Raises:
        DataError: a clean image cannot be read, or there are fewer than `settings.images`, or two get the same name.
        FileExistsError: `root` holds anything but a corrupted set.
        ValueError: there is not at least one worker.
    """
    check_range("workers", workers, 1, 1024)
    root, indices = Path(root), chosen_images(source, settings.images, settings.seed)
    _prepare(root, settings.description(origin))
    missing = {
        corruption: [level for level in settings.severities if not _cell(root, settings, corruption, level).is_dir()]
        for corruption in FAMILIES[settings.family]
    }
    cells = len(missing) * len(settings.severities)
    written = len(indices) * sum(map(len, missing.values()))
    if not written:
        logger.info("%s already holds this set of %d x %d images, left as it is", root, cells, len(indices))
        return {"cells": cells, "images": len(indices), "written": 0}
    from tqdm import tqdm

    total = cells * len(indices)
    bar = tqdm(total=total, initial=total - written, desc=root.name, unit="img", disable=None)
    # Parts small enough for all processes to have several.
    size = min(CHUNK, max(1, len(indices) // (4 * workers)))
    parts = [tuple(indices[start : start + size]) for start in range(0, len(indices), size)]
    classes = {source.classes[source.samples[index].target] for index in indices}
    try:
        with bar, in_processes(workers) as mapper:
            for corruption, levels in missing.items():
                cells_of = {level: _cell(root, settings, corruption, level) for level in levels}
                # All severities at a time, so that a clean image is decoded once for all of them.
                folders = {level: cell.with_name(temporary_name(cell)) for level, cell in cells_of.items()}
                for folder in (folder / name for folder in folders.values() for name in classes):
                    folder.mkdir(parents=True)
                jobs = [_Job(source, settings, corruption, folders, part) for part in parts] if folders else []
                for number in mapper(_write_images, jobs):
                    bar.update(number)
                for level, folder in folders.items():
                    folder.replace(cells_of[level])
    finally:
        _remove_leftovers(root)
    logger.info("%s: wrote %d images", root, written)
    return {"cells": cells, "images": len(indices), "written": written}


@dataclass(frozen=True)
class _Job:
    """Some images of one corruption, and the folder of each severity that they go to, hidden until it is whole."""

    source: Split
    settings: CorruptionSettings
    corruption: str
    folders: dict[int, Path]
    indices: tuple[int, ...]


def _write_images(job: _Job) -> int:
    """Write the job's images at all its severities and return how many those are."""
    from PIL import Image

    settings = job.settings
    for index in job.indices:
        name = job.source.samples[index].name
        clean = clean_image(job.source, index, settings.shorter_side, settings.image_size)
        for severity, folder in job.folders.items():
            seed = hashed(settings.seed, job.corruption, severity, name)
            picture = Image.fromarray(corrupt(settings.family, clean, job.corruption, severity, seed))
            path = folder / corrupted_name(name)
            with writing(path):
                picture.save(path, "JPEG", quality=settings.quality, optimize=True)
    return len(job.indices) * len(job.folders)


def _prepare(root: Path, description: Mapping[str, Any]) -> None:
    """Make `root` a folder of this set, with or without cells: other settings' cells go, the settings are written."""
    if not existing_settings(root, description, overwrite=True):
        settings = root / SETTINGS_FILE
        if settings.exists():
            if (kind := read_json(settings).get("kind")) != KIND:
                what = f"{root} holds a generated set of kind {kind!r}, not {KIND!r}"
                raise OccupiedError(f"{what}; choose another folder")
            logger.warning("%s holds a corrupted set of other settings, which is replaced", root)
        # Renamed before it is removed: half a cell must never look like one of the former set's.
        for corruption in (name for names in FAMILIES.values() for name in names if (root / name).is_dir()):
            (root / corruption).replace(root / temporary_name(root / corruption))
        write_json(settings, {**description, "digest": digest(description)})
    _remove_leftovers(root)


def _remove_leftovers(root: Path) -> None:
    for leftover in filter(is_temporary, (*root.iterdir(), *root.glob("*/.*"))):
        shutil.rmtree(leftover, ignore_errors=True)


def _cell(root: Path, settings: CorruptionSettings, corruption: str, severity: int) -> Path:
    return root / corruption / severity_folder(settings.family, corruption, severity)
