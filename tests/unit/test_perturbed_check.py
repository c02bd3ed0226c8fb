"""Manifests of perturbed sets, and `lska data check` on them: what is missing is named, down to the severity."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from perturbed_sets import NAMES, corrupted_manifest, perturbed_manifest, picture, write_corrupted, write_part

from lska.cli import main
from lska.data.manifest import available, load_manifest
from lska.data.perturbed.names import C_BAR, EXTRA, FAMILIES, GROUPS, STANDARD
from lska.data.perturbed.parts import check_corrupted, open_test
from lska.data.sources import class_root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Complete sets of both families; read only."""
    folder = tmp_path_factory.mktemp("whole")
    return {family: write_corrupted(folder / family, family) for family in FAMILIES}


@pytest.fixture
def corrupted(whole: dict[str, Path], tmp_path: Path) -> Path:
    """A complete set of family c, to be damaged, beside its manifest."""
    corrupted_manifest(tmp_path / "my_c.yaml")
    return Path(shutil.copytree(whole["c"], tmp_path / "my_c"))


def check(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    """Exit code and findings of `lska data check` with the manifest that lies beside the root."""
    code = main(["data", "check", str(root.parent / f"{root.name.removesuffix('.tar')}.yaml"), "--root", str(root),
                 *options])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{root.name.removesuffix('.tar')} at {root}: ")
    return code, [line.removeprefix("  wrong: ") for line in lines if line.startswith("  wrong: ")]


@pytest.mark.parametrize(("name", "parts", "corruptions"), [("imagenet_c", 95, 19), ("imagenet_c_bar", 50, 10)])
def test_published_sets_of_corruptions(name: str, parts: int, corruptions: int) -> None:
    manifest = load_manifest(name, "corrupted")
    assert f"imagenet_{manifest.family}" == manifest.name == name
    assert (manifest.count, manifest.per_class, len(manifest.classes)) == (50_000, (50, 50), 1000)
    assert manifest.classes == load_manifest("imagenet1k").classes
    assert len(manifest.cells) == len(set(manifest.cells)) == parts
    assert len({corruption for corruption, _ in manifest.cells}) == corruptions


@pytest.mark.parametrize(
    ("name", "count", "classes"),
    [("imagenet_a", 7_500, 200), ("imagenet_r", 30_000, 200), ("imagenet_sketch", 50_889, 1000)],
)
def test_published_sets_with_a_folder_per_class(name: str, count: int, classes: int) -> None:
    manifest = load_manifest(name, "perturbed")
    assert (manifest.name, manifest.splits["test"].count, len(manifest.classes)) == (name, count, classes)
    assert set(manifest.classes) <= set(load_manifest("imagenet1k").classes)


def test_the_published_sets_have_digests_of_their_own() -> None:
    assert available("corrupted") == ("imagenet_c", "imagenet_c_bar")
    assert available("perturbed") == ("imagenet_a", "imagenet_r", "imagenet_sketch")
    digests = [load_manifest(name, "corrupted").digest for name in available("corrupted")]
    digests += [load_manifest(name, "perturbed").digest for name in available("perturbed")]
    assert len(set(digests)) == 5
    a, r = (set(load_manifest(name, "perturbed").classes) for name in ("imagenet_a", "imagenet_r"))
    assert a != r


@pytest.mark.parametrize("family", FAMILIES)
def test_a_complete_set_is_as_its_manifest_says(
    whole: dict[str, Path], family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, parts = corrupted_manifest(tmp_path / "mine.yaml", family), {"c": 95, "c_bar": 50}[family]
    assert main(["data", "check", str(manifest), "--root", str(whole[family]), "--contents"]) == 0
    said = capsys.readouterr().out
    assert f"mine at {whole[family]}: as its manifest says\n" in said
    assert f"{parts} of {parts} parts" in said and "with 8 images each" in said


def test_severities_of_c_bar_are_folders_with_two_decimals(whole: dict[str, Path], tmp_path: Path) -> None:
    manifest = load_manifest(corrupted_manifest(tmp_path / "mine.yaml", "c_bar"), "corrupted")
    checked = check_corrupted(manifest, whole["c_bar"])
    assert checked.parts["caustic_refraction", 5].source.name == "9.15"
    assert checked.parts["plasma_noise", 2].source.name == "7.00"
    assert [checked.parts["sparkles", level].source.name for level in (1, 5)] == ["1.00", "6.00"]
    assert len(C_BAR) * 5 == len(checked.parts)


def test_archives_may_stay_in_folders_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_corrupted(tmp_path / "my_c", "c", archives=True)
    manifest = corrupted_manifest(tmp_path / "my_c.yaml")
    assert (root / "noise" / "gaussian_noise" / "3" / "red").is_dir()
    assert check(root, capsys) == (0, [])
    assert len(check_corrupted(load_manifest(manifest, "corrupted"), root).parts) == 95
    shutil.rmtree(root / "extra")
    code, findings = check(root, capsys)
    assert code == 1
    said = "severities 1, 2, 3, 4, 5 missing (ImageNet-C has them in extra.tar)."
    assert findings == [f"{name}: {said}" for name in EXTRA]


def test_what_is_missing_is_named_down_to_the_severity(corrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(corrupted / "fog")
    shutil.rmtree(corrupted / "spatter" / "4")
    for level in ("1", "5"):
        shutil.rmtree(corrupted / "zoom_blur" / level)
    code, findings = check(corrupted, capsys)
    assert code == 1
    assert findings == [
        "zoom_blur: severities 1, 5 missing (ImageNet-C has them in blur.tar).",
        "fog: severities 1, 2, 3, 4, 5 missing (ImageNet-C has them in weather.tar).",
        "spatter: severity 4 missing (ImageNet-C has them in extra.tar).",
    ]


def test_parts_that_are_not_complete_are_named(corrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corrupted / "snow" / "2" / "red" / NAMES[0]).unlink()
    (corrupted / "frost" / "3" / "red" / NAMES[0]).unlink()
    (corrupted / "frost" / "4" / "red" / NAMES[0]).unlink()
    shutil.rmtree(corrupted / "pixelate" / "5" / "blue")
    (corrupted / "contrast" / "1" / "green" / NAMES[1]).rename(corrupted / "contrast" / "1" / "green" / "other.jpg")
    code, findings = check(corrupted, capsys)
    assert code == 1
    assert findings == [
        "snow/2; frost/3, 4: 7 images, expected 8 (1 too few); classes with too few images (1): red has 1 of 2.",
        "pixelate/5: missing classes (1 of 4): 'blue'; 6 images, expected 8 (2 too few).",
        "contrast/1: the file names are not those of gaussian_noise/1, although every part shows the same images.",
    ]


def test_the_part_with_other_names_is_the_exception_also_where_it_comes_first(corrupted: Path, tmp_path: Path) -> None:
    first = corrupted / "gaussian_noise" / "1" / "green"
    (first / NAMES[1]).rename(first / "other.jpg")
    checked = check_corrupted(load_manifest(tmp_path / "my_c.yaml", "corrupted"), corrupted)
    (finding,) = checked.findings
    assert finding.startswith("gaussian_noise/1: ") and "are not those of gaussian_noise/2" in finding
    assert len(checked.parts) == 94


def test_damaged_files_are_found_when_contents_are_asked_for(
    corrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corrupted / "glass_blur" / "2" / "white" / NAMES[1]).write_bytes(picture(7)[:200])
    assert check(corrupted, capsys) == (0, [])
    code, findings = check(corrupted, capsys, "--contents")
    assert (code, len(findings)) == (1, 1)
    place = corrupted / "glass_blur" / "2" / "white" / "001.jpg"
    assert findings[0].startswith(f"glass_blur/2: images that cannot be decoded (1): {place}: expected an image")


def test_a_root_without_any_corruption_says_what_was_found_there(
    corrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupted_manifest(tmp_path / "fog.yaml")
    shutil.move(corrupted / "fog", tmp_path / "fog")
    code, (finding,) = check(tmp_path / "fog", capsys)
    assert code == 1
    assert "holds no corruption of fog: expected <corruption>/<severity>/<class>/<image>, such as" in finding
    assert "gaussian_noise/1, found '1', '2', '3', '4', '5'; correct the root" in finding


@pytest.mark.parametrize("make", [corrupted_manifest, perturbed_manifest])
def test_a_missing_root_is_named(make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "none.yaml")
    code, (finding,) = check(tmp_path / "none", capsys)
    assert code == 1
    assert str(tmp_path / "none") in finding and finding.endswith("correct the root")
    assert "train" not in finding


def test_an_unknown_name_lists_the_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "imagenet_x", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "no manifest 'imagenet_x'" in said and "imagenet_a, imagenet_c, imagenet_c_bar, imagenet_r" in said


@pytest.fixture(params=["folder", "tar"])
def renditions(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A set with a folder per class and its manifest, as a folder or as the archive that holds it."""
    perturbed_manifest(tmp_path / "my-r.yaml", name="my-r")
    write_part(tmp_path / "my-r")
    return tmp_path / ("my-r.tar" if request.param == "tar" else "my-r")


def packed(root: Path) -> Path:
    """Pack the folder where the root is to be an archive."""
    if root.suffix == ".tar":
        with tarfile.open(root, "w") as archive:
            archive.add(root.with_suffix(""), "my-r")
        shutil.rmtree(root.with_suffix(""))
    return root


def test_a_set_with_a_folder_per_class(renditions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(packed(renditions), capsys, "--contents") == (0, [])
    split = open_test(class_root(renditions, (), renditions.with_name("cache")))
    assert len(split) == 8 and split.classes == ("blue", "green", "red", "white")


def test_wrong_counts_and_classes_are_named(renditions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = renditions.with_name("my-r")
    (folder / "red" / NAMES[0]).unlink()
    (folder / "blue" / "extra.jpg").write_bytes(picture(1))
    write_part(folder / "dog")
    for label in ("blue", "green", "red", "white"):
        (folder / "dog" / label / NAMES[0]).rename(folder / "dog" / f"{label}.jpg")
        shutil.rmtree(folder / "dog" / label)
    code, findings = check(packed(renditions), capsys)
    assert code == 1
    assert findings == [
        "test: class folders that are not in the manifest (1): 'dog'.",
        "test: 12 images, expected 8 (4 too many).",
        "test: classes with too few images (1): red has 1 of 2.",
        "test: classes with too many images (1): blue has 3 instead of 2.",
    ]


def test_a_damaged_image_of_such_a_set_is_found(renditions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (renditions.with_name("my-r") / "red" / NAMES[1]).write_bytes(b"no picture")
    packed(renditions)
    assert check(renditions, capsys)[0] == 0
    code, findings = check(renditions, capsys, "--contents")
    assert (code, len(findings)) == (1, 1)
    assert findings[0].startswith("test: images that cannot be decoded (1): ")
    assert "/red/001.jpg: expected an image, found 10 bytes" in findings[0]


def test_the_groups_of_archives_hold_every_corruption_once() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(STANDARD + EXTRA)
