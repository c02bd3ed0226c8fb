"""ImageNet-C and ImageNet-C-bar of any clean validation set, in the published folder layout, restartable."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import AfterValidator, Field

from lska.data.decoding import decode
from lska.data.entries import DataError, repeated
from lska.data.folders import Split
from lska.data.perturbed.names import FAMILIES, SEVERITIES, severity_folder
from lska.data.synthetic.generated import SETTINGS_FILE, Distinct, Seed, holds
from lska.data.synthetic.seeds import seed_of
from lska.provenance.errors import OccupiedError, WorkerError
from lska.provenance.files import is_temporary, plain, read_json, temporary_name, write_json, writing
from lska.provenance.metric_files import digest
from lska.provenance.progress_bar import Bar
from lska.provenance.strict import checked
from lska.settings.versions import GENERATORS

logger = logging.getLogger(__name__)

KIND = "corrupted"

CHUNK = 128
"""Images that a process takes at a time, at the most."""


def _resize_problem(resize: int | None, image_size: int) -> str | None:
    fits = resize is None or image_size <= resize <= 8192
    return None if fits else f"expected {image_size}, the image size, to 8192, found {resize}"


Severities = Annotated[
    tuple[Literal[SEVERITIES], ...], Field(min_length=1), Distinct, AfterValidator(lambda some: tuple(sorted(some)))
]
"""Sorted, so that one set has one digest in whatever order they are listed."""


@dataclass(frozen=True)
class CorruptionSettings:
    """Settings of a corrupted set; ranges hold where they come from a configuration."""

    family: Literal["c", "c_bar"]
    """`c` for the 19 corruptions of ImageNet-C, `c_bar` for the 10 of ImageNet-C-bar."""
    image_size: Annotated[int, Field(ge=32, le=4096)]
    """Height and width of the corrupted images in pixels; the library refuses smaller ones."""
    resize: Annotated[int | None, checked(_resize_problem, "image_size")] = None
    """Shorter side in pixels before the centre crop; None for the published proportion 256 / 224."""
    images: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Clean images to corrupt, spread evenly over the classes; None for all."""
    severities: Severities = SEVERITIES
    """Severities of each corruption, 1 to 5."""
    quality: Annotated[int, Field(ge=1, le=100)] = 85
    """JPEG quality (published: 85)."""
    seed: Seed = 0
    """Seed of the choice of images and of everything random in the corruptions."""

    @property
    def shorter_side(self) -> int:
        """Shorter side of a clean image before the centre crop in pixels."""
        return round(self.image_size * 256 / 224) if self.resize is None else self.resize

    def description(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """What identifies the set made from clean data that `origin` names, ready for JSON."""
        settings, version = asdict(self) | {"resize": self.shorter_side}, GENERATORS[self.family].number
        return plain({"kind": KIND, "generator": version, "settings": settings, "origin": dict(origin)})


def write_corrupted_set(
    source: Split, root: Path, settings: CorruptionSettings, origin: Mapping[str, Any], workers: int = 1
) -> int:
    """Write `root/<corruption>/<severity folder>/<class>/<file stem>.jpg`, with `settings.json` in `root`.

    As the published sets were made: shorter side resized (bilinear), centre crop, corruption, JPEG. A cell, one
    severity of a corruption, appears complete or not at all; a second call keeps the complete ones and makes the rest.
    Cells of other settings, or of clean images of another `origin` (name and digest), are removed first. Equal settings
    give equal bytes, whatever the number of `workers` (processes) and interruptions. Returns the number of images
    written now. Raises DataError as `chosen_images` and `clean_image`, OccupiedError: `root` holds something else.
    """
    indices = chosen_images(source, settings.images, settings.seed)
    _begin(root, settings.description(origin))
    missing: dict[str, dict[int, Path]] = {}
    for corruption in FAMILIES[settings.family]:
        cells = {n: root / corruption / severity_folder(settings.family, corruption, n) for n in settings.severities}
        if absent := {level: cell for level, cell in cells.items() if not cell.is_dir()}:
            missing[corruption] = absent
    written = len(indices) * sum(map(len, missing.values()))
    if not written:
        logger.info("%s already holds this set, left as it is", root)
        return 0
    # Parts small enough for all processes to have several.
    size = min(CHUNK, max(1, len(indices) // (4 * workers)))
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    classes = {source.classes[source.samples[index].target] for index in indices}
    try:
        with Bar(total=written, desc=root.name, unit="images") as bar, in_processes(workers) as mapper:
            for corruption, cells in missing.items():
                # All severities at a time, so that a clean image is decoded once for all of them.
                folders = {level: cell.with_name(temporary_name(cell)) for level, cell in cells.items()}
                for folder in (folder / name for folder in folders.values() for name in classes):
                    folder.mkdir(parents=True)
                for number in mapper(partial(_write_images, source, settings, corruption, folders), parts):
                    bar.update(number)
                for level, folder in folders.items():
                    folder.replace(cells[level])
    finally:
        _remove_leftovers(root)
    logger.info("%s: wrote %d images", root, written)
    return written


def _begin(root: Path, description: Mapping[str, Any]) -> None:
    """Make `root` a folder of this set, with or without cells: other settings' cells go, the settings are written."""
    if not holds(root, description):
        settings = root / SETTINGS_FILE
        if settings.exists() and (kind := read_json(settings).get("kind")) != KIND:
            raise OccupiedError(f"{root} holds a generated set of kind {kind!r}, not {KIND!r}; choose another folder")
        # Renamed before it is removed: half a cell must never look like one of the former set's.
        for corruption in (name for names in FAMILIES.values() for name in names if (root / name).is_dir()):
            (root / corruption).replace(root / temporary_name(root / corruption))
        write_json(settings, {**description, "digest": digest(description)})
    _remove_leftovers(root)


def _remove_leftovers(root: Path) -> None:
    for leftover in filter(is_temporary, (*root.iterdir(), *root.glob("*/.*"))):
        shutil.rmtree(leftover, ignore_errors=True)


def _write_images(
    source: Split, settings: CorruptionSettings, corruption: str, folders: Mapping[int, Path], indices: list[int]
) -> int:
    """Corrupt some images at all severities of `folders`; how many were written."""
    from lska.data.perturbed.corruptions import corrupt

    for index in indices:
        name = source.samples[index].name
        clean = clean_image(source, index, settings.shorter_side, settings.image_size)
        for severity, folder in folders.items():
            seed = seed_of(settings.seed, corruption, severity, name)
            picture = Image.fromarray(corrupt(settings.family, clean, corruption, severity, seed))
            path = folder / corrupted_name(name)
            with writing(path):
                picture.save(path, "JPEG", quality=settings.quality, optimize=True)
    return len(indices) * len(folders)


def chosen_images(source: Split, images: int | None, seed: int) -> list[int]:
    """Indices of `images` images (None for all), ascending: as many of each class, give or take one, where it has them.

    They are the first of a seeded order that does not depend on their number: more images contain the fewer. Raises
    DataError: `source` has too few images, or two files of a class would get the same name.
    """
    wanted = len(source) if images is None else images
    if not 1 <= wanted <= len(source):
        raise DataError(
            f"{source.source} has {len(source)} images, expected at least {max(1, wanted)}; lower the setting images"
        )
    samples = list(source.samples)
    keys = [seed_of(seed, "order", sample.name) for sample in samples]
    ranks, seen = {}, [0] * len(source.classes)
    for index in sorted(range(len(samples)), key=keys.__getitem__):
        target = samples[index].target
        ranks[index], seen[target] = seen[target], seen[target] + 1
    chosen = sorted(sorted(ranks, key=lambda index: (ranks[index], keys[index]))[:wanted])
    if twice := repeated(corrupted_name(samples[index].name) for index in chosen):
        raise DataError(f"{source.source}: several images would become {twice[0]}; rename or remove all but one")
    return chosen


def corrupted_name(name: str) -> str:
    """`<class>/<file>` of the corrupted image: the clean one's where that is a JPEG, else with the ending `.jpg`."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in (".jpg", ".jpeg") else f"{path.with_suffix('.jpg')}"


def clean_image(source: Split, index: int, shorter_side: int, image_size: int) -> np.ndarray:
    """Decode, resize to `shorter_side` (bilinear) and centre-crop an image; uint8 RGB (image_size, image_size, 3).

    Raises DataError, which names the image, where it cannot be read.
    """
    image = decode(source.read(index), source.name(index))
    shorter = min(image.size)
    width, height = (int(shorter_side * length / shorter) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((length - image_size) / 2) for length in (width, height))
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))


# --- Processes -------------------------------------------------------------------------------------------------------


@contextmanager
def in_processes(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that runs in `workers` processes, which end with the block, or with this process.

    Raises WorkerError where one of them ended before its work was done.
    """
    if workers == 1:
        yield map
        return
    # Spawned, since a fork would copy the locks of a parent's threads as they are.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise WorkerError(
            f"one of {workers} processes ended early, perhaps because memory ran out; start again with fewer "
            "processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """A process of a pool whose parent was killed would wait for its next job for ever."""

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
