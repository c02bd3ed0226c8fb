"""The one decoder of images and the one of label maps, for every check, every training and every evaluation.

What would be converted with loss is converted by a stated rule or refused with the reason (docs/data.md, "How images
are read"). For images of 8 bits the pixels are those that torchvision and timm read, and those that OpenCV reads of
JPEG, PNG, WebP, BMP, GIF, PPM and TIFF files in grey, RGB and palettes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lska.data.entries import DataError, content_hash
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, read_bytes

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""Pillow's names of the formats that images may have, whatever their file is called."""

LABEL_FORMATS = ("PNG", "BMP", "TIFF")
"""Formats that keep label values as they were written: JPEG and WebP do not, GIF and PPM may number or scale anew."""

# 8 bits per channel or fewer, with a conversion to RGB that all readers share.
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# What one step of a stored value is in Pillow's: grey of 2 and 4 bits is spread over 0 to 255.
LABEL_STEPS = {
    "1": 1, "L": 1, "L;2": 85, "L;4": 17, "P": 1, "P;1": 1, "P;2": 1, "P;4": 1, "P;4L": 1,
    "I;16": 1, "I;16B": 1, "I;16N": 1, "I;32": 1, "I;32S": 1, "I;32B": 1, "I;32BS": 1, "I;32N": 1, "I;32NS": 1,
}  # fmt: skip

# What Pillow's decoders raise on damaged data (OSError covers unknown formats and truncation).
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)

LARGEST_FILE = 2**30  # bytes

ORIENTATION = 0x0112  # EXIF's tag
OPAQUE = 255

IGNORED = 255
"""Label of pixels that neither train nor score, as in mmseg."""


class Seen(NamedTuple):
    """What a check saw of an image file or label map: SHA-256, width and height as stored (None where it cannot be
    used), what decoding leaves out, why it cannot be used, and of a label map the number of pixels of each value."""

    hash: str = ""
    size: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    problem: str = ""
    pixels: tuple[int, ...] = ()


def see(path: Path, labels: bool = False) -> Seen:
    """Read and decode an image, or with `labels` a label map, for a check; nothing about it raises."""
    try:
        data = read_encoded(path)
        if not labels:
            return Seen(content_hash(data), *inspect(data, str(path)))
        values = decode_labels(data, str(path))
    except DataError as error:
        return Seen(problem=str(error))
    pixels = np.bincount(values.ravel(), minlength=256).tolist()
    return Seen(content_hash(data), values.shape[::-1], pixels=tuple(pixels))


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3); raises DataError, which names it, where it cannot be read or used."""
    return np.asarray(decode(read_encoded(path), str(path)))


def read_labels(path: str | Path) -> np.ndarray:
    """The stored values of a label map, uint8 (H, W); raises as `read_image`."""
    return decode_labels(read_encoded(path), str(path))


def read_encoded(path: str | Path) -> bytes:
    """The bytes of an image file or label map; never waits for what is no regular file. Raises as `read_image`."""
    try:
        return read_bytes(Path(path), LARGEST_FILE)
    except FileError as error:
        raise DataError(str(error)) from error


def decode(data: bytes, place: str) -> Image.Image:
    """Decode an image to RGB, of the size that is stored: an orientation noted in EXIF data is not applied.

    Grey, palettes, CMYK and YCbCr are converted as Pillow does. Transparency is left out, which shows the colours that
    are stored below it. 16 bits per channel become the nearest of 8 bits (v / 257). Raises DataError, which names
    `place`, for what is damaged, truncated or of a kind that cannot be converted rightly.
    """
    with _named(data, place, "an image"):
        image = _opened(data)
        if not _is_deep(image):
            return image.convert("RGB")
        image.load()  # OpenCV fills up what is cut off
        return _of_sixteen_bits(data)


def inspect(data: bytes, place: str) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Width and height as stored of an image that `decode` reads, and what it leaves out, a few words each.

    JPEG files are decoded at an eighth of their size, which finds the same damage in half the time. Raises as `decode`.
    """
    with _named(data, place, "an image"):
        image, remarks = _opened(data), []
        size = image.size
        if _is_deep(image):
            _of_sixteen_bits(data)
            remarks.append("16 bits per channel, read as 8")
        image.draft(None, (1, 1))
        image.load()
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < OPAQUE:
            remarks.append("transparency, left out")
        try:
            if image.getexif().get(ORIENTATION, 1) != 1:
                remarks.append("an orientation in EXIF data, left out")
        except DECODE_ERRORS:
            remarks.append("damaged EXIF data, left out")
        return size, tuple(remarks)


def decode_labels(data: bytes, place: str) -> np.ndarray:
    """Decode a label map to the values that were stored, uint8 (H, W): grey or palette indices of 1 to 16 bits.

    Raises as `decode`; also for colours, formats that do not keep values, and values above 255.
    """
    with _named(data, place, "a label map"):
        image = _opened(data, LABEL_FORMATS)
        step = LABEL_STEPS.get(_raw_mode(image))
        if step is None or image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise InputError(
                f"Pillow's mode {image.mode}, stored as {_raw_mode(image)}; save it as PNG with one channel, grey or a "
                "palette, that holds the numbers of the classes"
            )
        labels = np.asarray(image)
        if labels.size and not 0 <= labels.min() <= labels.max() <= IGNORED:
            raise InputError(f"values from {labels.min()} to {labels.max()}, expected 0 to {IGNORED}; renumber them")
        return labels.astype(np.uint8) // np.uint8(step)


@contextmanager
def _named(data: bytes, place: str, what: str) -> Iterator[None]:
    """Turn everything that decoding raises into a DataError that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        # Pillow's text for an unknown format is the address of the buffer.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"no file of {', '.join(FORMATS)}" if unknown else str(error) or type(error).__name__
        raise DataError(
            f"{place}: expected {what}, found {len(data)} bytes that cannot be used ({reason}); replace, convert or "
            "remove the file"
        ) from error


def _opened(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The image before its pixels are decoded; raises ValueError where it is of a kind that is not read."""
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    # Cameras append further pictures to a JPEG file; every reader takes the first.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if kind not in formats:
        raise InputError(f"{kind}, which does not keep the values of classes; expected {', '.join(formats)}")
    frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"{frames} pictures in one {kind} file; save the one that is meant")
    if formats is FORMATS and image.mode not in MODES and not _is_deep(image):
        raise InputError(
            f"Pillow's mode {image.mode}, stored as {_raw_mode(image)}: which value is white is not known; save it "
            "with 8 bits per channel, or 16 in a PNG file"
        )
    return image


def _raw_mode(image: Image.Image) -> str:
    """How the pixels are stored in the file, in Pillow's words: `L;4` is grey of four bits."""
    if not image.tile:
        return image.mode
    arguments = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _is_deep(image: Image.Image) -> bool:
    """Whether it has 16 bits per channel, full range and black at 0: Pillow keeps the upper ones or cuts off."""
    if image.format == "TIFF":
        white_is_zero = image.tag_v2.get(262) == 0
        return not white_is_zero and ";16" in _raw_mode(image) and not _raw_mode(image).endswith("S")
    return image.format == "PNG" and ";16" in _raw_mode(image)


def _of_sixteen_bits(data: bytes) -> Image.Image:
    """RGB of a sound file with 16 bits per channel, which Pillow reads in part only and OpenCV in full."""
    import cv2
    from PIL import Image

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise InputError("16 bits per channel that OpenCV does not read; save it with 8 bits per channel")
    nearest = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if nearest.ndim == 2:
        return Image.fromarray(nearest).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(nearest[:, :, 2::-1]))
