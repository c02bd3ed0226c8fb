"""The one decoder: what each kind of image file and label map becomes, or why it is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lska.data.decoding import decode, decode_labels, inspect, read_encoded
from lska.data.entries import DataError

DEEP = (np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32)
NEAREST = np.rint(DEEP / 257).astype(np.uint8)
SMOOTH = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((53, 47))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(pixels: np.ndarray, bits: int, colour: int) -> bytes:
    """A PNG file with `bits` per channel; PNG's colour types are 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = pixels.reshape(pixels.shape[0], -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        planes = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        lines = [np.packbits(row.ravel()).tobytes() for row in planes]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def frames(kind: str) -> bytes:
    return saved(SMOOTH, kind, save_all=True, append_images=[Image.new("RGB", SMOOTH.size, "red")])


def grey(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3)


def test_files_of_8_bits_are_read_as_pillow_and_opencv_read_them() -> None:
    kinds = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("TIFF", {})]
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK"):
        for kind, options in [*kinds, ("GIF", {}), ("PPM", {})]:
            try:
                data = saved(SMOOTH.convert(mode), kind, **options)
            except (OSError, ValueError):
                continue  # a mode that the format does not have
            found = np.asarray(decode(data, "x"))
            assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))), (mode, kind)
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            opencv = cv2.imdecode(np.frombuffer(data, np.uint8), flags)[:, :, ::-1]
            assert mode == "CMYK" or np.array_equal(found, opencv), (mode, kind)
            assert inspect(data, "x")[0] == SMOOTH.size
    assert np.array_equal(np.asarray(decode(frames("MPO"), "x")), np.asarray(decode(saved(SMOOTH, "JPEG"), "x")))


def test_16_bits_become_the_nearest_of_8() -> None:
    colours = np.dstack([DEEP, DEEP // 2, DEEP // 3])
    nearest = np.rint(colours / 257).astype(np.uint8)
    opaque = np.full_like(DEEP, 65535)
    for data, expected in (
        (saved(Image.fromarray(DEEP)), grey(NEAREST)),
        (saved(Image.fromarray(DEEP), "TIFF"), grey(NEAREST)),
        (png(DEEP[..., None], 16, 0), grey(NEAREST)),
        (png(colours, 16, 2), nearest),
        (png(np.dstack([DEEP, opaque]), 16, 4), grey(NEAREST)),
        (png(np.dstack([colours, opaque]), 16, 6), nearest),
        (cv2.imencode(".tiff", colours[:, :, ::-1])[1].tobytes(), nearest),
    ):
        assert np.array_equal(np.asarray(decode(data, "x")), expected)
        assert inspect(data, "x")[1] == ("16 bits per channel, read as 8",)
        with pytest.raises(DataError, match="cannot be used"):
            decode(data[: len(data) // 2], "x")
    for bits in (1, 2, 4):
        steps = (np.arange(256).reshape(16, 16) % 2**bits).astype(np.uint8)
        expected = grey(steps * np.uint8(255 // (2**bits - 1)))
        assert np.array_equal(np.asarray(decode(png(steps[..., None], bits, 0), "x")), expected)


def test_what_cannot_be_converted_rightly_is_refused_with_the_reason() -> None:
    whole = Image.fromarray(DEEP.astype(np.int32))
    for data, reason in (
        (saved(whole, "TIFF"), "mode I, stored as I;32S: which value is white is not known; save"),
        (saved(whole.convert("F"), "TIFF"), "Pillow's mode F, stored as"),
        (saved(Image.new("LAB", (4, 4)), "TIFF"), "Pillow's mode LAB"),
        (saved(Image.fromarray(DEEP), "TIFF", tiffinfo={262: 0}), "Pillow's mode I;16"),
        (cv2.imencode(".pgm", DEEP)[1].tobytes(), "Pillow's mode I"),
        *((frames(kind), f"2 pictures in one {kind} file") for kind in ("GIF", "PNG", "WEBP", "TIFF")),
        *((saved(SMOOTH, kind), "no file of JPEG, PNG") for kind in ("TGA", "PCX", "ICO", "JPEG2000", "EPS")),
    ):
        for read in (decode, inspect):
            with pytest.raises(DataError) as caught:
                read(data, "/data/x.png")
            text = str(caught.value)
            assert text.startswith(f"/data/x.png: expected an image, found {len(data)} bytes") and reason in text


def test_what_decoding_leaves_out_is_remarked() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    palette, see_through = SMOOTH.convert("P"), SMOOTH.convert("RGBA")
    see_through.putpixel((3, 3), (0, 0, 0, 254))
    for data, remarks in (
        (saved(SMOOTH, "JPEG"), ()),
        (saved(SMOOTH, "JPEG", exif=turned), ("an orientation in EXIF data, left out",)),
        (saved(SMOOTH.convert("RGBA")), ()),
        (saved(see_through), ("transparency, left out",)),
        (saved(palette, transparency=palette.getpixel((3, 3))), ("transparency, left out",)),
        (saved(SMOOTH.convert("L").convert("LA")), ()),
    ):
        assert inspect(data, "x")[1] == remarks


def test_label_maps_keep_the_stored_values() -> None:
    for bits in (1, 2, 4, 8):
        values = (np.arange(256).reshape(16, 16) % 2**bits).astype(np.uint8)
        palette = Image.fromarray(values)
        palette.putpalette(list(range(255, -1, -1)) * 3)
        for data in (png(values[..., None], bits, 0), saved(palette, bits=bits), saved(Image.fromarray(values), "BMP")):
            found = decode_labels(data, "x")
            assert found.dtype == np.uint8 and np.array_equal(found, values)
    small = (DEEP // 300).astype(np.uint16)
    for data in (saved(Image.fromarray(small)), saved(Image.fromarray(small.astype(np.int32)), "TIFF")):
        assert np.array_equal(decode_labels(data, "x"), small)


def test_label_maps_whose_values_would_change_are_refused() -> None:
    for data, reason in (
        (saved(Image.fromarray(DEEP)), "values from 0 to 65472, expected 0 to 255"),
        (saved(Image.fromarray(-DEEP.astype(np.int32)), "TIFF"), "values from -65472 to 0"),
        (saved(SMOOTH), "Pillow's mode RGB"),
        (saved(SMOOTH.convert("LA")), "Pillow's mode LA"),
        (saved(SMOOTH.convert("F"), "TIFF"), "Pillow's mode F"),
        (saved(SMOOTH.convert("L"), "TIFF", tiffinfo={262: 0}), "stored as L;I"),
        *((saved(SMOOTH.convert("L"), kind), f"{kind}, which does not") for kind in ("JPEG", "WEBP", "GIF", "PPM")),
        (frames("TIFF"), "2 pictures"),
        (b"", "no file of"),
    ):
        with pytest.raises(DataError) as caught:
            decode_labels(data, "/data/x.png")
        assert str(caught.value).startswith("/data/x.png: expected a label map, found ") and reason in str(caught.value)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    for name, reason in (
        ("pipe.png", "found a named pipe"), ("link.png", "is a link to gone.png"), ("none.png", "no such file"),
        (".", "found a folder"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=reason):
            read_encoded(tmp_path / name)
