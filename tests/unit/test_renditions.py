"""Drawings of scenes in further styles, and the generated set of renditions."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from lska.data.synthetic import (
    SHAPES,
    STYLES,
    ClassificationSettings,
    Labels,
    RenditionSettings,
    Scene,
    SceneSettings,
    classification_scene,
    compose_scene,
    render,
    renditions,
    write_classification_set,
    write_rendition_set,
)

DRAWN = ("pencil", "emboss", "sketch")
SMALL = RenditionSettings(image_size=32, classes=4, per_class=6, styles=("sketch", "emboss", "flat"))


def single(shape: str, size: int, texture: str = "dots", number: int = 1) -> Scene:
    settings = SceneSettings(image_size=size, extent=(0.7, 0.8))
    return compose_scene(settings, (number,), [Labels(shape, texture, number, number)])


def edge(mask: np.ndarray, reach: int = 1) -> np.ndarray:
    return binary_dilation(mask, iterations=reach) & ~binary_erosion(mask, iterations=reach)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# Styles


@pytest.mark.parametrize("style", DRAWN)
@pytest.mark.parametrize("size", [32, 48, 224])
def test_a_drawing_is_grey_repeats_and_has_its_strongest_changes_at_the_outline(style: str, size: int) -> None:
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


def test_a_drawing_is_another_one_for_another_scene_of_the_same_object() -> None:
    labels = [Labels("star", "dots", 1, 1)]
    for style in DRAWN:
        drawings = [render(compose_scene(SceneSettings(seed=seed), (1,), labels), style) for seed in (0, 1)]
        assert not np.array_equal(*drawings)


@pytest.mark.parametrize("texture", ["checkers", "stripes", "brick"])
def test_a_sketch_shows_the_edges_and_the_texture_only_faintly(texture: str) -> None:
    scene = single("square", 96, texture)
    ink, mask = 1 - render(scene, "sketch")[..., 0] / 255, scene.objects[0].mask
    assert ink[edge(mask)].mean() > 0.4
    assert 0 < ink[binary_erosion(mask, iterations=6)].max() < 0.2


def test_the_lines_of_a_sketch_are_irregular() -> None:
    scene = single("circle", 96, "clouds")
    ink, exact = 1 - render(scene, "sketch")[..., 0] / 255, 1 - render(scene, "outline")[..., 0] / 255
    border = edge(scene.objects[0].mask)
    assert ink[border].std() > 0.15
    assert np.corrcoef(ink.ravel(), exact.ravel())[0, 1] > 0.4


def test_pencil_hatches_dark_textures_denser_and_leaves_the_ground_white() -> None:
    # Half the field of checkers is dark, half light.
    scene = single("square", 128, "checkers", number=5)
    ink, mask = 1 - render(scene, "pencil")[..., 0] / 255, scene.objects[0].mask
    inside = binary_erosion(mask, iterations=6)
    luma = render(scene)[..., 1].astype(float)
    dark = luma < np.median(luma[inside])
    assert ink[inside & dark].mean() > 1.3 * ink[inside & ~dark].mean()
    # Both have strokes and paper between them.
    assert ink[inside & dark].std() > 0.1 and ink[inside & ~dark].std() > 0.1
    assert ink[~binary_dilation(mask, iterations=8)].max() == 0


def test_a_relief_is_lit_from_the_upper_left() -> None:
    scene = single("circle", 96, "clouds")
    luma, (x0, y0, x1, y1) = render(scene, "emboss")[..., 0].astype(int), scene.objects[0].box
    middle, centre = (y0 + y1) // 2, (x0 + x1) // 2
    assert luma[middle, x0 - 2 : x0 + 4].max() > 128 + 20 and luma[y0 - 2 : y0 + 4, centre].max() > 128 + 40
    assert luma[middle, x1 - 4 : x1 + 2].min() < 128 - 80 and luma[y1 - 4 : y1 + 2, centre].min() < 128 - 80
    assert (luma[~binary_dilation(scene.objects[0].mask, iterations=10)] == 128).all()


@pytest.mark.parametrize("style", DRAWN)
def test_objects_hide_what_is_drawn_behind_them(style: str) -> None:
    back, front = Labels("square", "stripes", 1, 1), Labels("circle", "dots", 2, 2)
    settings = SceneSettings(image_size=96, extent=(0.8, 0.8), overlap=1.0)
    scene = compose_scene(settings, (3,), [back, front])
    only = replace(scene, objects=scene.objects[1:])
    inside = binary_erosion(scene.objects[1].mask, iterations=8)
    assert inside.sum() > 500
    assert (scene.objects[0].coverage * inside).sum() > 500
    together, alone = render(scene, style)[inside].astype(int), render(only, style)[inside].astype(int)
    if style == "sketch":  # The hand shakes anew for each object.
        assert max(together.min(), alone.min()) > 255 * 0.8
    else:
        assert np.abs(together - alone).max() <= 1


# The set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "small"
    assert write_rendition_set(root, SMALL) == {"classes": 4, "images": 24, "written": 24}
    return root


def test_the_layout_has_one_folder_per_class_and_styles_take_turns(small_set: Path) -> None:
    images = [Path(name) for name in files(small_set) if name != "settings.json"]
    assert sorted({image.parent.name for image in images}) == list(SMALL.clean.class_names)
    for shape in SMALL.class_names:
        names = {image.name for image in images if image.parent.name == shape}
        expected = [f"{style}_{number:05d}.jpg" for number, style in enumerate(SMALL.styles * 2)]
        assert names == set(expected)
    with Image.open(small_set / images[0]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")


def test_the_images_are_the_clean_sets_validation_scenes_drawn_in_their_style(small_set: Path) -> None:
    clean = ClassificationSettings(image_size=32, classes=4, train_per_class=3, val_per_class=50)
    for path in small_set.glob("*/*.jpg"):
        style, number = path.stem.split("_")
        drawn = render(classification_scene(clean, "val", path.parent.name, int(number)), style)
        assert np.abs(np.asarray(Image.open(path)).astype(int) - drawn).mean() < 6


def test_the_photographic_style_gives_the_clean_sets_own_files(tmp_path: Path) -> None:
    clean = ClassificationSettings(image_size=32, classes=3, train_per_class=1, val_per_class=2, quality=95)
    write_classification_set(tmp_path / "clean", clean)
    settings = RenditionSettings(image_size=32, classes=3, per_class=2, styles=("texture",))
    write_rendition_set(tmp_path / "set", settings)
    for shape in clean.class_names:
        for number in range(2):
            copy = tmp_path / f"set/{shape}/texture_{number:05d}.jpg"
            assert copy.read_bytes() == (tmp_path / f"clean/val/{shape}/{shape}_{number:05d}.jpg").read_bytes()


def test_equal_settings_give_equal_bytes_whatever_the_number_of_workers(small_set: Path, tmp_path: Path) -> None:
    write_rendition_set(tmp_path / "parallel", SMALL, workers=2)
    assert files(tmp_path / "parallel") == files(small_set)


def test_kept_classes_are_spread_over_the_sorted_names() -> None:
    names = RenditionSettings(classes=10).clean.class_names
    assert RenditionSettings(classes=10).class_names == names
    assert RenditionSettings(classes=10, kept=10).class_names == names
    assert RenditionSettings(classes=10, kept=5).class_names == names[1::2]
    for kept in range(2, 11):
        positions = [names.index(name) for name in RenditionSettings(classes=10, kept=kept).class_names]
        assert len(set(positions)) == kept
        assert max(np.diff(positions)) - min(np.diff(positions)) <= 1
    thousand = [str(number) for number in range(1000)]
    assert renditions.spread(thousand, 200) == tuple(thousand[2::5])


def test_a_set_of_kept_classes_has_only_them_and_says_so(tmp_path: Path) -> None:
    settings = replace(SMALL, classes=6, kept=3, per_class=2)
    assert write_rendition_set(tmp_path / "set", settings)["classes"] == 3
    folders = Counter(Path(name).parent.name for name in files(tmp_path / "set") if name.endswith(".jpg"))
    assert folders == dict.fromkeys(settings.class_names, 2)
    found = json.loads((tmp_path / "set/settings.json").read_text())
    assert found["kind"] == "renditions"
    assert (found["settings"]["classes"], found["settings"]["kept"]) == (
        list(settings.clean.class_names),
        list(settings.class_names),
    )


def test_a_written_set_is_left_alone_and_another_refused(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renditions, "save_jpeg", lambda *arguments: pytest.fail("drawn again"))
    same = replace(SMALL, classes=SMALL.clean.class_names, kept=4)
    assert write_rendition_set(small_set, same) == {"classes": 4, "images": 24, "written": 0}
    with pytest.raises(FileExistsError, match=r"other settings \(styles: \['sketch'.*pass overwrite"):
        write_rendition_set(small_set, replace(SMALL, styles=("outline",)))


@pytest.mark.parametrize("present", [False, True])
def test_an_interruption_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    root = tmp_path / "set"
    if present:
        write_rendition_set(root, replace(SMALL, per_class=1))
    former, save, calls = files(root), renditions.save_jpeg, []

    def interrupted(path: Path, *arguments) -> None:
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        save(path, *arguments)

    monkeypatch.setattr(renditions, "save_jpeg", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_rendition_set(root, SMALL, overwrite=True)
    assert files(root) == former
    assert [path.name for path in tmp_path.iterdir()] == (["set"] if present else [])


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("image_size", 8, "an integer from 24 to 4096, found 8"),
        ("classes", 1, "an integer from 2 to 16, found 1"),
        ("kept", 11, "an integer from 2 to 10, found 11"),
        ("kept", 1, "an integer from 2 to 10, found 1"),
        ("per_class", 0, "an integer from 1 to 1000000, found 0"),
        ("styles", (), "at least 1 different names"),
        ("styles", ("oil",), "has unknown 'oil'; choose from texture"),
        ("quality", 50, "an integer from 90 to 100, found 50"),
        ("seed", -1, "an integer from 0 to 4294967295, found -1"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting} .*{expected}"):
        RenditionSettings(**{setting: value})


def test_all_styles_can_make_a_set_without_loading_a_network_library(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lska.data.synthetic import *\n"
        "settings = RenditionSettings(image_size=32, classes=2, per_class=len(STYLES), styles=tuple(STYLES))\n"
        f"write_rendition_set(Path({str(tmp_path / 'set')!r}), settings)\n"
        "raise SystemExit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list((tmp_path / "set").glob("*/*.jpg"))) == 2 * len(STYLES)
