"""A scale for a user's own images: what is written, what is drawn for validation, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.cli import main
from lska.data.archives import open_classification
from lska.data.entries import DataError
from lska.data.manifest import load_manifest
from lska.data.own_folder import MOST_LISTED, OwnFolder, describe_folder
from lska.data.preparing import prepare
from lska.data.roots import unmakeable
from lska.pipeline.new_scale import Fitted, make_scale
from lska.pipeline.products import Plan
from lska.provenance.errors import LskaError
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.settings.scale import Config, _foreign_data, load
from lska.settings.tasks import ScaleData

CLASSES = ("ahorn", "büche", "linden tree")


def picture(path: Path, number: int, size: tuple[int, int] = (40, 36)) -> None:
    """An image that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=90) if path.suffix != ".png" else Image.fromarray(pixels).save(path)


def fill(folder: Path, count: int, classes: tuple[str, ...] = CLASSES, start: int = 0) -> Path:
    """`count` images of each class; no two calls with other starts share one."""
    for position, label in enumerate(classes):
        for number in range(count):
            picture(folder / label / f"{number:03d}.jpg", start + 1000 * position + number)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> Path:
    """A folder that looks like the project's, in which nothing is committed."""
    (tmp_path / "project" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    Path("Snakefile").touch()
    Path("results/small").symlink_to(project_root() / "results" / "small")  # has the counts of the paper's networks
    return tmp_path


def written_out(path: Path) -> str:
    """A path as an option takes it, which reads `$` as a variable."""
    return str(path).replace("$", "$$")


def images(config: Config, split: str) -> list[str]:
    return open_classification(config.images, split).samples.names


def test_a_folder_becomes_a_scale_that_can_be_trained_and_is_left_as_it_is(
    here: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    folder = fill(here / "my $images", 20)
    (folder / "notes.txt").write_text("notes")
    (folder / "ahorn" / "map.bmp").write_text("no image by its name")
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    assert main(["new-scale", "trees", "--data", written_out(folder)]) == 0
    said = capsys.readouterr().out.replace(str(here), "TMP")
    written = sorted(path for path in Path("config").rglob("*") if path.is_file())
    assert [str(path) for path in written] == [f"config/{part}trees.yaml" for part in ("manifests/", "recipes/", "")]
    texts = {path: path.read_text("utf-8").replace(str(here), "TMP") for path in written}
    assert "\n---\n".join([said, *texts.values()]) == snapshot

    config = load([Path("config/trees.yaml")], more=unmakeable)
    train, val = images(config, "train"), images(config, "val")
    assert not set(train) & set(val) and len(train) == 48
    assert [sum(name.startswith(label) for name in val) for label in CLASSES] == [4, 4, 4]
    prepare(config.images)
    assert main(["data", "check", "config/manifests/trees.yaml", "--root", written_out(folder), "--contents"]) == 0
    assert main(["new-scale", "trees", "--data", written_out(folder)]) == 0, "the same again is no conflict"
    assert {path: path.read_text("utf-8").replace(str(here), "TMP") for path in written} == texts
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before


def test_a_removed_or_changed_validation_image_is_found(here: Path) -> None:
    folder = fill(here / "images", 10)
    make_scale("trees", folder, 0.2)
    config = load([Path("config/trees.yaml")])
    one = folder / images(config, "val")[0]
    one.rename(here / "aside.jpg")
    with pytest.raises(DataError, match="val: 5 images, expected 6"):
        prepare(config.images)
    picture(one, 77)
    prepare(config.images)  # names and numbers are right, which is all that is looked at
    assert main(["data", "check", "config/manifests/trees.yaml", "--root", str(folder), "--contents"]) == 1


def test_the_smallest_folder_has_one_image_of_each_class_for_validation(here: Path) -> None:
    make_scale("few", fill(here / "few", 2), 0.01)
    config = load([Path("config/few.yaml")], more=unmakeable)
    assert len(images(config, "train")) == len(images(config, "val")) == 3
    assert config.classifier(config.runs[0]).recipe.global_batch == 2


@pytest.mark.parametrize(
    ("train", "val", "beside"),
    [("train", "val", "test"), ("Training", "valid", "test"), ("train", "validation", None), ("TRAIN", "Test", None)],
)
def test_splits_that_are_there_are_taken(here: Path, train: str, val: str, beside: str | None) -> None:
    folder = fill(here / "own" / train, 5).parent
    fill(folder / val, 2, start=100)
    if beside:
        fill(folder / beside, 1, start=200)
    said = make_scale("own", folder, 0.5)
    assert ("folders that are no split, left out (1): 'test'" in said) == bool(beside)
    config = load([Path("config/own.yaml")])
    assert len(images(config, "train")) == 15 and len(images(config, "val")) == 6
    assert open_classification(config.images, "val").source == folder / val
    prepare(config.images)


def test_a_folder_train_alone_is_divided_and_a_class_may_be_called_so(here: Path) -> None:
    make_scale("alone", fill(here / "alone" / "train", 5).parent, 0.2)
    config = load([Path("config/alone.yaml")])
    assert len(images(config, "train")) == 12 and len(images(config, "val")) == 3
    make_scale("traffic", fill(here / "traffic", 5, ("car", "train")), 0.2)
    assert load_manifest("config/manifests/traffic.yaml").classes == ("car", "train")


def test_links_are_followed_and_a_folder_inside_the_project_is_named_from_there(here: Path) -> None:
    store = fill(here / "store", 6)
    Path("data").mkdir()
    Path("data/linked").mkdir()
    for label in CLASSES[:2]:
        Path("data/linked", label).symlink_to(store / label)
    Path("data/linked/single").mkdir()
    for number in range(4):
        Path(f"data/linked/single/{number}.jpg").symlink_to(store / CLASSES[2] / f"00{number}.jpg")
    make_scale("linked", Path("data/linked"), 0.25)
    config = load([Path("config/linked.yaml")])
    assert config.data.root == "data/linked" and len(images(config, "val")) == 5


def sides(own: OwnFolder) -> set[str]:
    return set(own.manifest.splits["val"].files or ())


def test_the_draw_follows_from_name_and_images_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 50)
    first = sides(describe_folder(folder, "trees", 0.2))
    assert first == sides(describe_folder(folder, "trees", 0.2)) != sides(describe_folder(folder, "others", 0.2))
    for label in CLASSES:
        for number in range(5):
            picture(folder / label / f"new{number}.jpg", 90_000 + number + 10 * CLASSES.index(label))
    later = sides(describe_folder(folder, "trees", 0.2))
    assert len(later) == 33 and len(first - later) <= 6


def test_copies_of_an_image_stay_together(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 8)
    for label in CLASSES:
        for number in range(8):
            (folder / label / f"{number:03d} copy.jpg").write_bytes((folder / label / f"{number:03d}.jpg").read_bytes())
    drawn = sides(describe_folder(folder, "trees", 0.25))
    assert len(drawn) == 12
    assert {name.replace(" copy", "") for name in drawn} == {name for name in drawn if "copy" not in name}


def test_what_cannot_be_told_apart_as_corrupted_copies_is_trained_on(tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 3)
    for number in range(9):
        picture(folder / "ahorn" / f"{number:03d}.png", 500 + number)
    assert not {f"ahorn/00{number}.{end}" for number in range(3) for end in ("jpg", "png")} & sides(
        describe_folder(folder, "trees", 0.3)
    )


def spoil(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def spoiled(folder: Path) -> Path:
        fill(folder, 4)
        change(folder)
        return folder

    return spoiled


def divided(change: Callable[[Path, Path], object]) -> Callable[[Path], Path]:
    def spoiled(folder: Path) -> Path:
        train, val = fill(folder / "train", 4), fill(folder / "val", 2, start=100)
        change(train, val)
        return folder

    return spoiled


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


BAD: dict[str, Callable[[Path], Path]] = {
    "no folder": lambda folder: folder / "absent",
    "an archive": lambda folder: (folder.write_bytes(b""), folder)[1],
    "images without classes": lambda folder: [picture(folder / f"{one}.jpg", one) for one in range(3)] and folder,
    "one class": lambda folder: fill(folder, 3, ("ahorn",)),
    "an empty class": spoil(lambda folder: (folder / "weide").mkdir()),
    "a class of another format": spoil(lambda folder: [*map(lambda one: one.rename(one.with_suffix(".tif")),
                                                            (folder / "ahorn").iterdir())]),
    "one image of a class": spoil(lambda folder: picture(folder / "weide" / "1.jpg", 9)),
    "a class of copies": spoil(lambda folder: [
        (picture(folder / "weide" / "1.jpg", 9), copy(folder / "weide" / "1.jpg", folder / "weide" / "2.jpg"))]),
    "damaged images": spoil(lambda folder: [
        (folder / "ahorn" / "000.jpg").write_bytes(b"no image"), (folder / "ahorn" / "001.jpg").write_bytes(b""),
        (folder / "ahorn" / "link.jpg").symlink_to("nowhere"), os.mkfifo(folder / "ahorn" / "pipe.jpg")]),
    "one image in two classes": spoil(lambda folder: copy(folder / "ahorn" / "000.jpg", folder / "büche" / "x.jpg")),
    "classes inside classes": spoil(lambda folder: fill(folder / "ahorn" / "kinds", 2)),
    "names": spoil(lambda folder: [
        picture(folder / "ahorn" / os.fsdecode(b"caf\xe9.jpg"), 7), picture(folder / "ahorn" / "a\x1b[2J.jpg", 8),
        picture(folder / "a\\b" / "1.jpg", 9)]),
    "other classes": divided(lambda _, val: (val / "ahorn").rename(val / "weide")),
    "one image in both splits": divided(lambda train, val: copy(train / "ahorn" / "000.jpg", val / "ahorn" / "9.jpg")),
    "names that become one": divided(lambda _, val: picture(val / "ahorn" / "000.png", 999)),
    "val alone": lambda folder: fill(folder / "val", 3).parent,
}  # fmt: skip


def test_what_cannot_be_used_is_named_with_what_to_do(here: Path, snapshot: SnapshotAssertion) -> None:
    told = []
    for number, (name, made) in enumerate(BAD.items()):
        with pytest.raises(LskaError) as caught:
            make_scale("own", made(here / f"{number}"), 0.2)
        told.append(f"{name}: {caught.value}".replace(str(here), "TMP"))
    folder = fill(here / "sound", 3)
    for name in ("my trees", "../x", "dtd", "imagenet"):
        with pytest.raises(LskaError) as caught:
            make_scale(name, folder, 0.2)
        told.append(str(caught.value))
    for place in ("results", "work"):
        with pytest.raises(LskaError) as caught:
            make_scale("own", fill(Path(place, "images"), 3), 0.2)
        told.append(str(caught.value))
    assert "\n\n".join(told) == snapshot
    assert not Path("config").exists()
    Path("Snakefile").unlink()
    with pytest.raises(LskaError, match="has no Snakefile; call this in the project's folder"):
        make_scale("own", folder, 0.2)


def test_a_validation_split_that_is_too_long_for_a_manifest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_LISTED == 50_000
    monkeypatch.setattr("lska.data.own_folder.MOST_LISTED", 5)
    with pytest.raises(DataError, match=r"a manifest lists at most 5; give a validation share of at most 0\.167"):
        describe_folder(fill(tmp_path / "images", 10), "trees", 0.2)


def test_nothing_is_written_over(here: Path) -> None:
    folder = fill(here / "images", 5)
    make_scale("own", folder, 0.2)
    config, recipe, manifest = (Path("config", part, "own.yaml") for part in ("", "recipes", "manifests"))
    recipe.write_text(recipe.read_text("utf-8").replace("epochs: 300", "epochs: 3"), "utf-8")
    config.unlink()
    with pytest.raises(LskaError, match=r"config/recipes/own\.yaml: there already, .* nothing was written"):
        make_scale("own", folder, 0.2)
    assert not config.exists()
    recipe.unlink()
    make_scale("own", folder, 0.2)
    prepare(load([config]).images)
    picture(folder / "ahorn" / "another.jpg", 12345)
    for path in (config, recipe, manifest):
        path.unlink()
    with pytest.raises(LskaError, match=r"own\.json has the same name and is of other images .* nothing was written"):
        make_scale("own", folder, 0.2)
    assert not config.exists()


@pytest.mark.parametrize("place", ["data", "data/own_c", "data/own_c/inner"])
def test_corrupted_copies_are_never_made_among_the_images(here: Path, place: str) -> None:
    folder = fill(Path(place), 3)
    with pytest.raises(LskaError, match=f"{place}: the corrupted copies .* to data/own_c,.* choose another name"):
        make_scale("own", folder, 0.2)
    assert not Path("config").exists()


def test_what_is_in_git_stays_as_it_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, root = fill(here / "images", 3), Path.cwd()
    monkeypatch.setattr("lska.provenance.metric_files.project_root", lambda: root)
    subprocess.run(["git", "init", "-q"], check=True)
    for committed in ("config/one.yaml", "results/two/metrics/x.json", "checkpoints/three/x.json"):
        Path(committed).parent.mkdir(parents=True)
        Path(committed).write_text("", "utf-8")
        subprocess.run(["git", "add", committed], check=True)
        Path(committed).unlink()
    for name in ("one", "two", "three"):
        with pytest.raises(LskaError, match=f"the scale {name} is in git"):
            make_scale(name, folder, 0.2)
    make_scale("four", folder, 0.2)


FITTED = [(48, 32), (48, 64), (1_000, 96), (5_000, 128), (50_000, 224), (1_281_167, 224), (900, 640)]


def test_the_recipe_follows_from_images_and_size(snapshot: SnapshotAssertion) -> None:
    names = ("kernels", "batch", "micro_batch", "epochs", "warmup", "interval", "rate", "test_crop", "duration")
    for images_, size in FITTED:
        settings = Fitted(images_, size).settings
        assert images_ * 0.8 > settings["batch"] and settings["batch"] % settings["micro_batch"] == 0
        assert settings["warmup"] < settings["epochs"]
        assert {name: settings[name] for name in names} == snapshot(name=f"{images_} of {size}")


# --- Other data under the name of a scale with results ---------------------------------------------------------------

SMALL = Path("config/small.yaml")
OTHERS = [{"name": "flowers"}, {"manifest": "mine.yaml"}, {"generate": {"image_size": 64}}]


@pytest.mark.parametrize("data", OTHERS)
def test_other_data_are_refused_where_git_has_results(data: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    own = read_yaml(SMALL)
    for refused in (
        lambda: load([SMALL], {"data": data | {"root": "/my images"}}),
        lambda: Plan(own, [SMALL], {"data": {key: json.dumps(value) for key, value in data.items()}}),
    ):
        with pytest.raises(LskaError, match="lska new-scale NAME --data") as caught:
            refused()
        assert "config/small.yaml" in str(caught.value) and next(iter(data)) in str(caught.value)


def test_a_configuration_without_data_refuses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = read_yaml(SMALL) | {"data": {"name": "flowers", "root": "/my images"}}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lska.settings.scale.committed_files", lambda _: ["results/small/x.json"])
    SMALL.parent.mkdir()
    for data, refused in (("", False), ("data: [1]", False), ("data: {name: cifar10}", True)):
        SMALL.write_text(f"scale: small\n{data}\n", "utf-8")
        assert bool(_foreign_data("small", values["data"])) is refused


def test_another_place_another_name_and_other_scales_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    assert load([SMALL], {"data": {"root": "/elsewhere"}}).data.root == "/elsewhere"
    assert load([SMALL], {"data": {"name": "flowers"}, "scale": "flowers"}).scale == "flowers"
    assert load([Path("config/demo.yaml")], {"data": {"generate": {"seed": 1}}}).scale == "demo"
    assert isinstance(load([SMALL, Path("config/small_gpu.yaml")]).images, ScaleData)
