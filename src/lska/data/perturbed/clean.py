"""Clean images that a corrupted set is made from: which of them, and what of each is corrupted."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import numpy as np

from lska.data.decoding import decode
from lska.data.entries import DataError
from lska.data.folders import Split

JPEG = (".jpg", ".jpeg")


def chosen_images(source: Split, images: int | None, seed: int) -> list[int]:
    """Indices of `images` images (None for all), ascending: as many of each class, give or take one, where it has them.

    They are the first of a seeded order that does not depend on their number: more images contain the fewer.

    Raises:
        DataError: `source` has too few images, or two files of a class would get the same name.
    """
    wanted = len(source) if images is None else images
    if not 1 <= wanted <= len(source):
        raise DataError(
            f"{source.source} has {len(source)} images, expected at least {max(1, wanted)}; lower the setting images"
        )
    samples = list(source.samples)
    keys = [hashed(seed, "order", sample.name) for sample in samples]
    ranks, seen = {}, [0] * len(source.classes)
    for index in sorted(range(len(samples)), key=keys.__getitem__):
        target = samples[index].target
        ranks[index], seen[target] = seen[target], seen[target] + 1
    chosen = sorted(sorted(ranks, key=lambda index: (ranks[index], keys[index]))[:wanted])
    _check_names(source, chosen)
    return chosen


def _check_names(source: Split, chosen: list[int]) -> None:
    names: dict[str, int] = {}
    for index in chosen:
        name = corrupted_name(source.samples[index].name)
        other = names.setdefault(name, index)
        if other != index:
            raise DataError(
                f"{source.name(other)} and {source.name(index)} would both become {name}; rename or remove one"
            )


def corrupted_name(name: str) -> str:
    """`<class>/<file>` of the corrupted image: the clean one's where that is a JPEG, else with the ending `.jpg`."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in JPEG else f"{path.with_suffix('.jpg')}"


def clean_image(source: Split, index: int, shorter_side: int, image_size: int) -> np.ndarray:
    """Decode, resize to `shorter_side` (bilinear) and centre-crop an image; uint8 RGB (image_size, image_size, 3).

    Raises:
        DataError: the image cannot be read; the message names it.
    """
    from PIL import Image

    image = decode(source.read(index), source.name(index))
    shorter = min(image.size)
    width, height = (int(shorter_side * length / shorter) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((length - image_size) / 2) for length in (width, height))
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))


def hashed(*parts: int | str) -> int:
    """A 63-bit number from any parts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
