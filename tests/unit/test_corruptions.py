"""The corruptions of ImageNet-C: names, folders, and images that depend on their arguments alone."""

import subprocess
import sys

import numpy as np
import pytest

from lska.data.perturbed.corruptions import corrupt
from lska.data.perturbed.names import C_BAR, EXTRA, FAMILIES, GROUPS, SEVERITIES, STANDARD, severity_folder
from lska.data.synthetic import ClassificationSettings, classification_scene, render

WITHOUT_CHANCE = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur"),
    "saturate",
}
"""Corruptions that draw nothing."""


def scene(size: int, number: int = 0) -> np.ndarray:
    return render(classification_scene(ClassificationSettings(image_size=size), "val", "star", number))


def test_the_names_are_those_of_the_library_in_the_published_order() -> None:
    import imagecorruptions

    assert list(STANDARD) == imagecorruptions.get_corruption_names("common")
    assert list(EXTRA) == imagecorruptions.get_corruption_names("validation")
    for group in ("noise", "blur", "weather", "digital"):
        assert list(GROUPS[group]) == imagecorruptions.get_corruption_names(group)
    assert tuple(name for group in GROUPS.values() for name in group) == FAMILIES["c"]
    assert (len(STANDARD), len(FAMILIES["c"]), len(FAMILIES["c_bar"])) == (15, 19, 10)


def test_the_names_need_no_library() -> None:
    heavy = {"numpy", "PIL", "torch", "scipy", "cv2"}
    code = f"import sys, lska.data.perturbed.names; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_severity_folders_are_the_published_ones() -> None:
    assert [severity_folder("c", "fog", severity) for severity in SEVERITIES] == ["1", "2", "3", "4", "5"]
    found = [severity_folder("c_bar", "caustic_refraction", severity) for severity in SEVERITIES]
    assert found == ["2.35", "3.20", "4.90", "6.60", "9.15"]
    assert severity_folder("c_bar", "plasma_noise", 5) == "10.00"
    for corruption, values in C_BAR.items():
        assert len(values) == len(SEVERITIES), corruption
        assert list(values) == sorted(set(values)), corruption


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("c", "sparkles", 1), "no corruption 'sparkles' in family 'c'; choose from gaussian_noise"),
        (("c_bar", "fog", 1), "no corruption 'fog' in family 'c_bar'; choose from blue_noise_sample"),
        (("d", "fog", 1), "in family 'd'; choose from c, c_bar"),
        (("c", "fog", 0), "severity must be one of 1, 2, 3, 4, 5, found 0"),
        (("c_bar", "sparkles", 6), "severity must be one of 1, 2, 3, 4, 5, found 6"),
    ],
)
def test_folders_of_unknown_cells_are_refused(arguments: tuple, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        severity_folder(*arguments)


@pytest.mark.parametrize("corruption", FAMILIES["c"])
@pytest.mark.parametrize("size", [32, 45])
def test_equal_arguments_give_equal_pixels(corruption: str, size: int, capfd: pytest.CaptureFixture) -> None:
    clean = scene(size)
    untouched = clean.copy()
    for severity in SEVERITIES:
        once = corrupt("c", clean, corruption, severity, seed=2**40 + 3)
        np.random.seed(severity)
        assert (corrupt("c", clean, corruption, severity, seed=2**40 + 3) == once).all()
        assert (once.shape, once.dtype) == (clean.shape, np.uint8)
        assert (once != clean).any()
        other = corrupt("c", clean, corruption, severity, seed=4)
        assert (other == once).all() == (corruption in WITHOUT_CHANCE)
    assert (clean == untouched).all()
    # The library reports pictures that do not fit on the standard output.
    assert capfd.readouterr().out == ""


def test_the_global_generator_goes_on_as_if_nothing_had_happened() -> None:
    clean = scene(32)
    np.random.seed(5)
    expected = np.random.random_sample(3)
    np.random.seed(5)
    for corruption in FAMILIES["c"]:
        corrupt("c", clean, corruption, 3, seed=1)
    assert (np.random.random_sample(3) == expected).all()
    with pytest.raises(ValueError, match="severity"):
        corrupt("c", clean, "fog", 6, seed=1)
    np.random.seed(5)
    assert (np.random.random_sample(3) == expected).all()


# Saturate first fades and then glares; elastic transform first moves the whole image far, then its parts a little.
@pytest.mark.parametrize("corruption", sorted(set(FAMILIES["c"]) - {"saturate", "elastic_transform"}))
def test_the_highest_severity_changes_more_than_the_lowest(corruption: str) -> None:
    def distance(severity: int) -> float:
        cleans = [scene(64, number) for number in range(4)]
        changes = [corrupt("c", clean, corruption, severity, seed=7) - clean.astype(float) for clean in cleans]
        return float(np.mean(np.abs(changes)))

    assert distance(5) > distance(1) > 0.5


def test_noise_has_the_published_deviation() -> None:
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    assert corrupt("c", grey, "gaussian_noise", 1, seed=0).std() == pytest.approx(0.08 * 255, rel=0.05)
    changed = (corrupt("c", grey, "impulse_noise", 5, seed=0) != grey).mean()
    assert changed == pytest.approx(0.27, rel=0.1)


def test_spatter_without_a_drop_leaves_the_image_clean() -> None:
    clean = scene(32)
    spattered = [corrupt("c", clean, "spatter", 1, seed) for seed in range(40)]
    dry = [(picture == clean).all() for picture in spattered]
    assert 0 < sum(dry) < len(dry)
    assert min(picture.mean() for picture in spattered) >= clean.mean()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"corruption": "sparkles"}, "corruption must be one of gaussian_noise, .*found 'sparkles'"),
        ({"severity": 0}, "severity must be an integer from 1 to 5, found 0"),
        ({"severity": 2.0}, "severity must be an integer from 1 to 5, found 2.0"),
        ({"seed": -1}, "seed must be an integer from 0 to"),
        ({"image": np.zeros((31, 64, 3), np.uint8)}, r"at least 32 pixels, found uint8 \(31, 64, 3\)"),
        ({"image": np.zeros((64, 64), np.uint8)}, r"found uint8 \(64, 64\)"),
        ({"image": np.zeros((64, 64, 3), np.float32)}, r"found float32 \(64, 64, 3\)"),
    ],
)
def test_arguments_out_of_range_are_named(change: dict, expected: str) -> None:
    arguments = {"image": scene(32), "corruption": "fog", "severity": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=expected):
        corrupt("c", **arguments)
