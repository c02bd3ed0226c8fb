"""Clean images of a corrupted set: which are chosen, and how they are resized and cropped."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lska.data.entries import DataError
from lska.data.folders import Split, open_split
from lska.data.perturbed.clean import chosen_images, clean_image, corrupted_name
from lska.data.synthetic import ClassificationSettings, write_classification_set


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("sets") / "clean"
    write_classification_set(root, ClassificationSettings(image_size=32, classes=3, train_per_class=1, val_per_class=4))
    return open_split(root, "val")


def test_images_are_resized_and_cropped_as_published(tmp_path: Path) -> None:
    (tmp_path / "val/a").mkdir(parents=True)
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 60, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "val/a/wide.png")
    split = open_split(tmp_path, "val")
    cropped = clean_image(split, 0, shorter_side=40, image_size=32)
    # 120 x 60 becomes 80 x 40, of which columns 24 to 55 stay: 36 to 83 of the original.
    assert cropped.shape == (32, 32, 3)
    assert cropped[0, 0, 0] == pytest.approx(2 * 36.25, abs=2)
    assert cropped[0, -1, 0] == pytest.approx(2 * 82.75, abs=2)
    whole = clean_image(split, 0, shorter_side=60, image_size=60)
    assert (whole == ramp[:, 30:90]).all()


@pytest.mark.parametrize("images", [1, 2, 3, 7, 12])
def test_images_are_spread_over_the_classes_and_more_contain_the_fewer(clean: Split, images: int) -> None:
    chosen = chosen_images(clean, images, seed=3)
    assert chosen == sorted(set(chosen))
    counts = np.bincount([clean.samples[index].target for index in chosen], minlength=3)
    assert counts.sum() == images
    assert counts.max() - counts.min() <= 1
    assert set(chosen) <= set(chosen_images(clean, min(images + 1, 12), seed=3))


def test_all_images_and_another_seed(clean: Split) -> None:
    assert chosen_images(clean, None, seed=0) == list(range(12))
    assert len({tuple(chosen_images(clean, 3, seed)) for seed in range(8)}) > 3


def test_a_class_with_few_images_leaves_its_share_to_the_others(tmp_path: Path) -> None:
    for name, count in (("a", 1), ("b", 9)):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32)).save(tmp_path / "val" / name / f"{number}.png")
    split = open_split(tmp_path, "val")
    assert [split.samples[index].target for index in chosen_images(split, 6, 0)] == [0, 1, 1, 1, 1, 1]


def test_jpegs_keep_their_names() -> None:
    kept = ["a/ILSVRC2012_val_00000293.JPEG", "a/1.jpg", "a/2.jpeg", "a b/x.y.JPG"]
    assert [corrupted_name(name) for name in kept] == kept
    assert corrupted_name("a.b/x.y.png") == "a.b/x.y.jpg"
    assert corrupted_name("a/1.webp") == "a/1.jpg"


def test_equal_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val/a").mkdir(parents=True)
    for ending in ("jpg", "png"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"val/a/one.{ending}")
    with pytest.raises(DataError, match=r"one.jpg and .*one.png would both become a/one.jpg; rename or remove one"):
        chosen_images(open_split(tmp_path, "val"), None, 0)


@pytest.mark.parametrize("images", [0, 13])
def test_numbers_that_the_split_cannot_give_are_refused(clean: Split, images: int) -> None:
    with pytest.raises(DataError, match="has 12 images, expected at least .*; lower the setting images"):
        chosen_images(clean, images, 0)
