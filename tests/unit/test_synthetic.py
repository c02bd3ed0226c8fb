"""Generated scenes: instances of shapes and textures, exact masks and boxes, contrast, renderings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lska.data.synthetic import (
    HELD_OUT,
    SHAPES,
    STYLES,
    TEXTURES,
    Labels,
    Scene,
    SceneSettings,
    compose_scene,
    contact_sheet,
    is_held_out,
    render,
    shape_outline,
    texture_field,
    textures,
)

LUMA = np.array([0.299, 0.587, 0.114])


def crowd(number: int, **settings: float) -> Scene:
    return compose_scene(SceneSettings(image_size=96, objects=(2, 5), extent=(0.2, 0.5), **settings), (number,))


# Instances


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_instance_is_a_field_that_looks_the_same_at_every_size(texture: str) -> None:
    field = texture_field(texture, 5, 64, seed=1)
    assert field.shape == (64, 64)
    assert field.dtype == np.float32
    assert field.min() == 0.0
    assert field.max() == 1.0
    assert np.array_equal(field, texture_field(texture, 5, 64, seed=1))
    larger = texture_field(texture, 5, 128, seed=1).reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.corrcoef(field.ravel(), larger.ravel())[0, 1] > 0.9
    for other in (texture_field(texture, 6, 64, seed=1), texture_field(texture, 5, 64, seed=2)):
        assert abs(np.corrcoef(field.ravel(), other.ravel())[0, 1]) < 0.6


def test_photographs_are_cropped_from_rows_of_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    border = round(512 * textures.TRAINING_SHARE)
    picture = np.repeat(np.arange(512) >= border, 512).reshape(512, 512).astype(np.uint8) * 255
    monkeypatch.setattr(textures, "_photograph", lambda file: picture)
    photo = textures.Photo("any", 60, 190)
    for number in range(40):
        for held_out, value in ((False, 0), (True, 255)):
            crop = textures._crop(photo, np.random.default_rng(number), 32, held_out)
            assert crop.min() == crop.max() == value


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "_PHOTOS", {"brick": textures.Photo("wall.png", 10, 20)})
    with pytest.raises(FileNotFoundError, match=r"wall\.png; install scikit-image"):
        texture_field("brick", 0, 32)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_one_piece_with_its_number_of_holes(shape: str) -> None:
    from scipy.ndimage import label

    holes = 1 if shape in ("ring", "gear", "key", "mug") else 0
    # Thin details such as the eye of the fish may or may not show at this size.
    varying = {"fish", "leaf"}
    for number in range(20):
        labels = Labels(shape, "clouds", number, 0)
        scene = compose_scene(SceneSettings(image_size=96, extent=(0.8, 0.9)), (number,), [labels])
        mask = scene.objects[0].mask
        if shape != "leaf":  # its midrib reaches the blade's base
            assert label(mask, np.ones((3, 3)))[1] == 1, number
        if shape not in varying:
            # The narrow end of a notch can close to a hole of a few pixels.
            assert sum(np.bincount(label(~mask)[0][~mask])[1:] > 20) - 1 == holes, number


def test_shape_instances_differ_by_number_and_seed_and_repeat_otherwise() -> None:
    def points(shape: str, instance: int, seed: int) -> np.ndarray:
        return np.concatenate([points for points, _ in shape_outline(shape, instance, seed).layers])

    for shape in SHAPES:
        one = points(shape, 4, 0)
        assert np.array_equal(one, points(shape, 4, 0))
        for other in (points(shape, 5, 0), points(shape, 4, 1), points(shape, 4 + HELD_OUT, 0)):
            assert one.shape != other.shape or np.abs(one - other).max() > 0.01
        low, high = shape_outline(shape, 4).bounds()
        assert max(high) == pytest.approx(1)
        assert low == pytest.approx(-high)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown shape 'blob'; choose from arrow"):
        shape_outline("blob", 0)
    with pytest.raises(ValueError, match="unknown texture 'plaid'; choose from checkers"):
        texture_field("plaid", 0, 32)
    with pytest.raises(ValueError, match="unknown style 'oil'; choose from texture"):
        render(compose_scene(SceneSettings(), (0,)), "oil")


# Scenes


@pytest.mark.parametrize("number", range(6))
def test_boxes_masks_and_maps_agree(number: int) -> None:
    scene = crowd(number)
    instances, categories = scene.instance_map(), scene.label_map()
    assert len(scene.objects) >= 2
    covered = np.zeros((96, 96), dtype=int)
    for index, item in enumerate(scene.objects):
        y, x = np.nonzero(instances == index + 1)
        assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert np.array_equal(item.mask, instances == index + 1)
        assert set(categories[item.mask]) == {SHAPES.index(item.labels.shape) + 1}
        covered += item.mask
    assert covered.max() == 1
    assert np.array_equal(categories == 0, covered == 0)


def test_objects_hide_no_more_of_each_other_than_allowed() -> None:
    shares = [
        item.mask.sum() / (item.coverage >= 0.5).sum() for n in range(12) for item in crowd(n, overlap=0.1).objects
    ]
    assert min(shares) >= 0.9
    assert min(shares) < 1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_what_the_rendering_shows(shape: str) -> None:
    scene = compose_scene(SceneSettings(ground="either"), (3,), [Labels(shape, "dots", 1, 1)])
    item = scene.objects[0]
    luma = render(scene, "flat") @ LUMA / 255
    back, front = (np.array(paint.mean) @ LUMA for paint in (scene.background.paint, item.paint))
    share = (luma - back) / (front - back)
    certain = np.abs(share - 0.5) > 0.02
    assert certain.mean() > 0.95
    assert np.array_equal(share[certain] > 0.5, item.mask[certain])


@pytest.mark.parametrize("settings", [SceneSettings(), SceneSettings(ground="either", clutter=0.4, contrast=0.35)])
def test_objects_stand_out_by_the_promised_contrast(settings: SceneSettings) -> None:
    for number, texture in enumerate(TEXTURES * 2):
        shape = SHAPES[number % len(SHAPES)]
        scene = compose_scene(settings, (number,), [Labels(shape, texture, number, number)])
        luma, item = render(scene) @ LUMA / 255, scene.objects[0]
        inside, outside = luma[item.coverage == 1], luma[item.coverage == 0].mean()
        sign = 1 if inside.mean() > outside else -1
        # The mean is exact over the mask; its fully covered part alone may differ a little.
        assert sign * (inside.mean() - outside) > settings.contrast - 0.05
        assert (sign * (inside - outside)).min() > settings.contrast / 2 - 0.05
        assert settings.ground == "either" or sign == 1


def test_the_object_takes_its_share_of_the_image() -> None:
    settings = SceneSettings(image_size=80, extent=(0.5, 0.7))
    sides = []
    for number in range(60):
        x0, y0, x1, y1 = compose_scene(settings, (number,)).objects[0].box
        assert x0 >= 1 and y0 >= 1 and x1 <= 79 and y1 <= 79
        sides.append(max(x1 - x0, y1 - y0))
    assert 0.5 * 80 - 3 <= min(sides) < 0.55 * 80
    assert 0.65 * 80 < max(sides) <= 0.7 * 80 + 1


def test_scenes_draw_from_the_named_categories_and_pool() -> None:
    settings = SceneSettings(shapes=("key", "mug"), textures=("dots", "grass"), objects=(1, 2), held_out=True)
    scenes = [compose_scene(settings, (number,)) for number in range(30)]
    labels = [item.labels for scene in scenes for item in scene.objects]
    assert {label.shape for label in labels} == {"key", "mug"}
    assert {label.texture for label in labels} == {"dots", "grass"}
    assert all(is_held_out(label.shape_instance) and is_held_out(label.texture_instance) for label in labels)


def test_texture_changes_neither_mask_nor_box() -> None:
    scenes = [compose_scene(SceneSettings(), (7,), [Labels("fish", name, 2, 2)]) for name in ("dots", "brick")]
    assert np.array_equal(scenes[0].objects[0].mask, scenes[1].objects[0].mask)
    assert not np.array_equal(render(scenes[0]), render(scenes[1]))
    for style in ("flat", "outline"):
        assert np.array_equal(render(scenes[0], style), render(scenes[1], style))


@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_an_rgb_image_that_shows_the_object(style: str) -> None:
    scene = compose_scene(SceneSettings(), (1,), [Labels("square", "stripes", 0, 0)])
    pixels = render(scene, style)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    x0, y0, x1, y1 = scene.objects[0].box
    change = np.abs(np.diff((pixels @ LUMA), axis=1))
    assert change[y0:y1, x0 - 1 : x1].max() > 5 * max(change[: y0 - 1].max(initial=0), 4)


def test_the_sheet_shows_the_scenes(tmp_path: Path) -> None:
    scenes = [compose_scene(SceneSettings(), (number,)) for number in range(5)]
    assert contact_sheet(scenes, tmp_path / "sheet.png", columns=3) == 5
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    height, width = sheet.shape[0] // 2, sheet.shape[1] // 3
    for index, scene in enumerate(scenes):
        y, x = index // 3 * height + 2, index % 3 * width + 2
        assert np.array_equal(sheet[y : y + 64, x : x + 64], render(scene))
    with pytest.raises(ValueError, match="no samples to show"):
        contact_sheet([], tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match=r"labels\.csv"):
        contact_sheet(tmp_path, tmp_path / "none.png")


def test_importing_the_generator_loads_no_heavy_package() -> None:
    code = "import sys, lska.data.synthetic; print(*{'torch', 'timm', 'skimage', 'scipy', 'pandas'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""
