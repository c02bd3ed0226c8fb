"""Generated scenes: instances of shapes and textures, exact masks and boxes, contrast, drawings in every style."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

from lska.data.synthetic import textures
from lska.data.synthetic.render import render
from lska.data.synthetic.scene import LUMA, Labels, Scene, SceneSettings, compose_scene
from lska.data.synthetic.seeds import HELD_OUT
from lska.data.synthetic.shapes import SHAPES, shape_outline
from lska.data.synthetic.textures import TEXTURES, texture_field

DRAWINGS = ("pencil", "emboss", "sketch")


def crowd(number: int, **settings: float) -> Scene:
    return compose_scene(SceneSettings(image_size=96, objects=(2, 5), extent=(0.2, 0.5), **settings), (number,))


def single(shape: str, size: int, texture: str = "dots", number: int = 1) -> Scene:
    settings = SceneSettings(image_size=size, extent=(0.7, 0.8))
    return compose_scene(settings, (number,), [Labels(shape, texture, number, number)])


def edge(mask: np.ndarray, reach: int = 1) -> np.ndarray:
    return binary_dilation(mask, iterations=reach) & ~binary_erosion(mask, iterations=reach)


# --- Instances -------------------------------------------------------------------------------------------------------


def test_a_texture_instance_is_a_field_that_looks_the_same_at_every_size() -> None:
    for texture in TEXTURES:
        field = texture_field(texture, 5, 64, seed=1)
        assert (field.shape, field.dtype, field.min(), field.max()) == ((64, 64), np.float32, 0.0, 1.0)
        assert np.array_equal(field, texture_field(texture, 5, 64, seed=1))
        larger = texture_field(texture, 5, 128, seed=1).reshape(64, 2, 64, 2).mean(axis=(1, 3))
        assert np.corrcoef(field.ravel(), larger.ravel())[0, 1] > 0.9, texture
        for other in (texture_field(texture, 6, 64, seed=1), texture_field(texture, 5, 64, seed=2)):
            assert abs(np.corrcoef(field.ravel(), other.ravel())[0, 1]) < 0.6, texture


def test_photographs_are_cropped_from_rows_of_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    # The field is stretched over its own range, so a crop over the border between the splits would not be flat.
    border = round(512 * textures.TRAINING_SHARE)
    picture = np.repeat(np.arange(512) >= border, 512).reshape(512, 512).astype(np.uint8) * 255
    monkeypatch.setattr(textures, "photograph", lambda file: picture)
    for number in range(20):
        for instance in (number, HELD_OUT + number):
            assert np.ptp(texture_field("brick", instance, 32)) == 0


def test_a_shape_is_one_piece_with_its_number_of_holes() -> None:
    for shape in SHAPES:
        holes = 1 if shape in ("ring", "gear", "key", "mug") else 0
        for number in range(12):
            labels = Labels(shape, "clouds", number, 0)
            scene = compose_scene(SceneSettings(image_size=96, extent=(0.8, 0.9)), (number,), [labels])
            mask = scene.objects[0].mask
            if shape != "leaf":  # its midrib reaches the blade's base
                assert label(mask, np.ones((3, 3)))[1] == 1, (shape, number)
            if shape not in ("fish", "leaf"):  # whose thin details may or may not show at this size
                # The narrow end of a notch can close to a hole of a few pixels.
                assert sum(np.bincount(label(~mask)[0][~mask])[1:] > 20) - 1 == holes, (shape, number)


def test_shape_instances_differ_by_number_and_seed_and_repeat_otherwise() -> None:
    def points(shape: str, instance: int, seed: int) -> np.ndarray:
        return np.concatenate([points for points, _ in shape_outline(shape, instance, seed).layers])

    for shape in SHAPES:
        one = points(shape, 4, 0)
        assert np.array_equal(one, points(shape, 4, 0))
        for other in (points(shape, 5, 0), points(shape, 4, 1), points(shape, 4 + HELD_OUT, 0)):
            assert one.shape != other.shape or np.abs(one - other).max() > 0.01
        low, high = shape_outline(shape, 4).bounds()
        assert max(high) == pytest.approx(1) and low == pytest.approx(-high)


# --- Scenes ----------------------------------------------------------------------------------------------------------


def test_boxes_and_masks_agree_and_objects_hide_no_more_of_each_other_than_allowed() -> None:
    shares = []
    for number in range(12):
        scene = crowd(number, overlap=0.1)
        assert len(scene.objects) >= 2 and sum(item.mask.astype(int) for item in scene.objects).max() == 1
        for item in scene.objects:
            y, x = np.nonzero(item.mask)
            assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            shares.append(item.mask.sum() / (item.coverage >= 0.5).sum())
    assert 0.9 <= min(shares) < 1


def test_the_mask_is_what_the_rendering_shows() -> None:
    for shape in SHAPES:
        scene = compose_scene(SceneSettings(ground="either"), (3,), [Labels(shape, "dots", 1, 1)])
        item = scene.objects[0]
        back, front = (np.array(paint.mean) @ LUMA for paint in (scene.background.paint, item.paint))
        share = (render(scene, "flat") @ LUMA / 255 - back) / (front - back)
        certain = np.abs(share - 0.5) > 0.02
        assert certain.mean() > 0.95 and np.array_equal(share[certain] > 0.5, item.mask[certain])


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



def test_texture_changes_neither_mask_nor_flat_drawings() -> None:
    scenes = [compose_scene(SceneSettings(), (7,), [Labels("fish", name, 2, 2)]) for name in ("dots", "brick")]
    assert np.array_equal(scenes[0].objects[0].mask, scenes[1].objects[0].mask)
    assert not np.array_equal(render(scenes[0]), render(scenes[1]))
    for style in ("flat", "outline"):
        assert np.array_equal(render(scenes[0], style), render(scenes[1], style))


# --- Styles ----------------------------------------------------------------------------------------------------------



@pytest.mark.parametrize("style", DRAWINGS)
def test_a_drawing_is_grey_repeats_and_has_its_strongest_changes_at_the_outline(style: str) -> None:
    for size in (32, 96):
        for number, shape in enumerate(SHAPES):
            scene = single(shape, size, number=number)
            pixels = render(scene, style)
            assert np.array_equal(pixels, render(single(shape, size, number=number), style))
            luma = pixels[..., 0].astype(int)
            assert (pixels == luma[..., None]).all()
            change = np.abs(luma - np.bincount(luma.ravel()).argmax())
            mask, reach = scene.objects[0].mask, max(2, size // 24)
            assert change[edge(mask, reach)].max() >= 90, shape
            assert change[~binary_dilation(mask, iterations=4 * reach)].max(initial=0) <= 10, shape
    labels = [Labels("star", "dots", 1, 1)]
    drawings = [render(compose_scene(SceneSettings(seed=seed), (1,), labels), style) for seed in (0, 1)]
    assert not np.array_equal(*drawings)


def test_a_sketch_has_irregular_edges_and_shows_the_texture_only_faintly() -> None:
    for texture in ("checkers", "stripes", "brick"):
        scene = single("square", 96, texture)
        ink, mask = 1 - render(scene, "sketch")[..., 0] / 255, scene.objects[0].mask
        assert ink[edge(mask)].mean() > 0.4 and 0 < ink[binary_erosion(mask, iterations=6)].max() < 0.2
    scene = single("circle", 96, "clouds")
    ink, exact = 1 - render(scene, "sketch")[..., 0] / 255, 1 - render(scene, "outline")[..., 0] / 255
    assert ink[edge(scene.objects[0].mask)].std() > 0.15
    assert np.corrcoef(ink.ravel(), exact.ravel())[0, 1] > 0.4
