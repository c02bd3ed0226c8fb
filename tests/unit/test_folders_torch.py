"""The torch data set: what it returns, what it does about unreadable images, and that workers may read archives."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.data.folders_torch import GIVE_UP_AFTER, ImageDataset

BROKEN = (2, 3, 7)


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def brightness(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def archive(root: Path, count: int = 12, broken: tuple[int, ...] = BROKEN) -> Path:
    """Image i has shade i and class i // 5; the broken ones are cut short."""
    with tarfile.open(root / "train.tar", "w") as tar:
        for i in range(count):
            data = encoded(i)[: 30 if i in broken else None]
            info = tarfile.TarInfo(f"c{i // 5:02}/{i:02}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return root


EXPECTED = [(i if i not in BROKEN else 4 if i < 5 else 8) for i in range(12)]


def test_unreadable_images_are_replaced_by_the_next_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ImageDataset(open_split(archive(tmp_path), "train"), brightness, on_error="skip")
    with caplog.at_level(logging.WARNING):
        samples = [data[i] for i in range(len(data))]
    assert samples == [(shade, shade // 5) for shade in EXPECTED]
    # Number 3 is met from 2 and from 3.
    assert data.skipped == 4
    assert f"{tmp_path}/train.tar:c00/02.png" in caplog.text
    assert len([entry for entry in caplog.records if entry.levelname == "WARNING"]) == 4


def test_evaluation_refuses_unreadable_images(tmp_path: Path) -> None:
    data = ImageDataset(open_split(archive(tmp_path), "train"))
    assert data[0][0].getpixel((0, 0)) == (0, 0, 0) and data[11][1] == 2
    with pytest.raises(DataError, match=r"train\.tar:c00/02\.png: expected an image, found 30 bytes"):
        data[2]
    assert data.skipped == 0


def test_file_that_vanished_is_named(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.png").write_bytes(encoded(1))
    data = ImageDataset(open_split(tmp_path, "train"))
    (tmp_path / "train" / "a" / "1.png").unlink()
    with pytest.raises(DataError, match=r"train/a/1\.png: no such file"):
        data[0]


@pytest.mark.parametrize("run", [GIVE_UP_AFTER - 1, GIVE_UP_AFTER])
def test_gives_up_after_fifty_unreadable_images_in_a_row(tmp_path: Path, run: int) -> None:
    data = ImageDataset(open_split(archive(tmp_path, 60, tuple(range(run))), "train"), brightness, on_error="skip")
    if run < GIVE_UP_AFTER:
        assert data[0][0] == run
    else:
        with pytest.raises(DataError, match="50 unreadable images in a row"):
            data[0]
    assert data.skipped == run


def test_unknown_error_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_error: expected 'skip' or 'raise', found 'ignore'"):
        ImageDataset(open_split(archive(tmp_path), "train"), on_error="ignore")


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_one_archive_and_their_skips_are_seen(tmp_path: Path, method: str) -> None:
    data = ImageDataset(open_split(archive(tmp_path), "train"), brightness, on_error="skip")
    assert data[0] == (0, 0)  # the descriptor is open before the workers start
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=method)
    shades = [shade for images, _ in loader for shade in images.tolist()]
    assert shades == EXPECTED
    assert data.skipped == 4
