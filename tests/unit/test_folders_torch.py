"""The torch data set: what it returns, what it does about unreadable images, and that workers may count."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lska.data.entries import DataError
from lska.data.folders import GIVE_UP_AFTER, ImageDataset, Split, open_split

BROKEN = (2, 3, 7)


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def brightness(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def written(root: Path, count: int = 12, broken: tuple[int, ...] = BROKEN) -> Split:
    """Image i has shade i and class i // 5; the broken ones are cut short."""
    for i in range(count):
        path = root / f"train/c{i // 5:02}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i)[: 30 if i in broken else None])
    return open_split(root, "train")


EXPECTED = [(i if i not in BROKEN else 4 if i < 5 else 8) for i in range(12)]


def test_unreadable_images_are_replaced_by_the_next_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ImageDataset(written(tmp_path), brightness, on_error="skip")
    with caplog.at_level(logging.WARNING):
        samples = [data[i] for i in range(len(data))]
    assert samples == [(shade, shade // 5) for shade in EXPECTED]
    # Number 3 is met from 2 and from 3.
    assert data.skipped == 4
    assert f"{tmp_path}/train/c00/02.png" in caplog.text
    assert len([entry for entry in caplog.records if entry.levelname == "WARNING"]) == 4


def test_evaluation_refuses_unreadable_images(tmp_path: Path) -> None:
    data = ImageDataset(written(tmp_path))
    assert data[0][0].getpixel((0, 0)) == (0, 0, 0) and data[11][1] == 2
    with pytest.raises(DataError, match=r"train/c00/02\.png: expected an image, found 30 bytes"):
        data[2]
    assert data.skipped == 0


@pytest.mark.parametrize("run", [GIVE_UP_AFTER - 1, GIVE_UP_AFTER])
def test_gives_up_after_fifty_unreadable_images_in_a_row(tmp_path: Path, run: int) -> None:
    data = ImageDataset(written(tmp_path, 60, tuple(range(run))), brightness, on_error="skip")
    if run < GIVE_UP_AFTER:
        assert data[0][0] == run
    else:
        with pytest.raises(DataError, match="50 unreadable images in a row"):
            data[0]
    assert data.skipped == run


def test_skips_of_workers_are_seen(tmp_path: Path) -> None:
    data = ImageDataset(written(tmp_path), brightness, on_error="skip")
    loader = DataLoader(data, batch_size=2, num_workers=2)
    shades = [shade for images, _ in loader for shade in images.tolist()]
    assert shades == EXPECTED
    assert data.skipped == 4
