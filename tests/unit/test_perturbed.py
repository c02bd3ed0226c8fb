"""Perturbed sets: what is missing is named down to the severity; records; parts; and what changed since."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from perturbed_sets import (
    GENERATED,
    NAMES,
    corrupted_manifest,
    generated,
    judge,
    made,
    perturbed_manifest,
    picture,
    record,
    stored,
    write_corrupted,
    write_part,
    write_partial,
)
from syrupy.assertion import SnapshotAssertion
from tiny_project import CLASSES, Project

from lska.cli import main
from lska.data.entries import DataError
from lska.data.manifest import available, load_manifest, make_manifest, save_manifest
from lska.data.perturbed.names import FAMILIES, GROUPS
from lska.data.perturbed.parts import CLEAN, clean_part, open_parts, prepare_perturbed, read_perturbed_record
from lska.settings.tasks import PerturbedSet
from lska.settings.versions import GENERATORS, Version


def test_published_sets_have_their_sizes_and_digests_of_their_own() -> None:
    c, c_bar = (load_manifest(name, "corrupted") for name in available("corrupted"))
    for manifest, parts in ((c, 95), (c_bar, 50)):
        assert (manifest.count, manifest.per_class, len(set(manifest.cells))) == (50_000, (50, 50), parts)
        assert manifest.name == f"imagenet_{manifest.family}"
        assert manifest.classes == load_manifest("imagenet1k").classes
    folders = [load_manifest(name, "perturbed") for name in available("perturbed")]
    found = {one.name: (one.splits["test"].count, len(one.classes)) for one in folders}
    assert found == {"imagenet_a": (7_500, 200), "imagenet_r": (30_000, 200), "imagenet_sketch": (50_889, 1000)}
    assert folders[0].classes != folders[1].classes and set(folders[0].classes) <= set(c.classes)
    assert len({one.digest for one in (c, c_bar, *folders)}) == 5


# --- `lska data check` -----------------------------------------------------------------------------------------------


def lacking(root: Path) -> None:
    for place in ("fog", "spatter/4", "zoom_blur/1", "zoom_blur/5"):
        shutil.rmtree(root / place)


def incomplete(root: Path) -> None:
    for place in ("snow/2", "frost/3", "frost/4"):
        (root / place / "red" / NAMES[0]).unlink()
    shutil.rmtree(root / "pixelate/5/blue")
    for place in ("contrast/1", "gaussian_noise/1"):  # the exception, also where it comes first
        (root / place / "green" / NAMES[1]).rename(root / place / "green" / "other.jpg")


def damaged(root: Path) -> None:
    (root / "glass_blur/2/white" / NAMES[1]).write_bytes(picture(7)[:200])


def in_archives(root: Path) -> None:
    """As ImageNet-C's archives unpack, without the last of them."""
    for group, names in GROUPS.items():
        (root / group).mkdir()
        for name in names:
            (root / name).rename(root / group / name)
    shutil.rmtree(root / "extra")


def only_fog(root: Path) -> None:
    (root / "fog").rename(root.parent / "fog")
    shutil.rmtree(root)
    (root.parent / "fog").rename(root)


def other_counts(root: Path) -> None:
    (root / "red" / NAMES[0]).unlink()
    (root / "blue" / "extra.jpg").write_bytes(picture(1))
    (root / "dog").mkdir()
    (root / "dog" / NAMES[0]).write_bytes(picture(1))


def no_picture(root: Path) -> None:
    (root / "red" / NAMES[1]).write_bytes(b"no picture")


DAMAGES: list[tuple[str, Callable[[Path], Any]]] = [
    ("c", damaged), ("c", lacking), ("c", incomplete), ("c", in_archives), ("c", only_fog), ("c", shutil.rmtree),
    ("c_bar", lambda root: shutil.rmtree(root / "sparkles/3.00")),
    ("r", no_picture), ("r", other_counts), ("r", shutil.rmtree),
]  # fmt: skip


def test_what_a_check_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion) -> None:
    said = []
    for number, (name, damage) in enumerate(DAMAGES):
        root, manifest = tmp_path / f"set{number}", tmp_path / f"set{number}.yaml"
        if name == "r":
            perturbed_manifest(manifest)
            write_part(root)
        else:
            corrupted_manifest(manifest, name)
            write_corrupted(root, name)
        options = ["--contents"] if damage in (damaged, no_picture) else []
        command = ["data", "check", str(manifest), "--root", str(root)]
        assert damage in (lacking, incomplete) or main([*command, *options]) == 0
        capsys.readouterr()
        damage(root)
        assert main([*command, *options]) == 1
        said.append(capsys.readouterr().out)
    text = re.sub(r"sha256:\w+|/tmp/lska-\w+", "...", "\n".join(said)).replace(str(tmp_path), "<folder>")
    assert text == snapshot


# --- Records ---------------------------------------------------------------------------------------------------------


def test_a_partial_set_is_recorded_with_what_is_missing_and_opens_with_the_rest(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    partial = write_partial(project)
    prepare_perturbed(partial)
    found = record(partial)
    assert found["missing"] == {"fog": [1, 2, 3, 4, 5], "snow": [4], "frost": [2]}
    assert (found["parts"]["snow"], found["parts"]["frost"]) == ([1, 2, 3, 5], [1, 3, 4, 5])
    assert (found["family"], found["images"], found["classes"], found["contents"]) == ("c", 8, 4, {})
    assert (found["set"], found["inputs"]) == ("c", partial.inputs())
    said = "\n".join(caplog.messages)
    assert "my_c: snow/4; fog/1, 2, 3, 4, 5: missing." in said and "my_c: frost/2: 7 images, expected 8" in said
    clean, *parts = open_parts(partial)
    assert len({part.cell for part in parts}) == len(parts) == 88 and clean.name == CLEAN and not clean.stored
    assert [part.name for part in parts[:2]] == ["gaussian_noise/1", "gaussian_noise/2"] and parts[0].stored
    assert len({part.identity for part in (clean, *parts)}) == 89

    (Path("my_c") / "frost" / "2" / "red" / NAMES[0]).write_bytes(picture(9))
    prepare_perturbed(partial)
    after = record(partial)
    assert after["missing"] == {"fog": [1, 2, 3, 4, 5], "snow": [4]}
    assert found["digest"] != after["digest"] and found["names"] == after["names"]

    shutil.rmtree(Path("my_c") / "spatter")
    with pytest.raises(DataError, match="my_c/spatter' does not hold a '1' split"):
        open_parts(partial)


def test_what_is_refused(project: Project, snapshot: SnapshotAssertion) -> None:
    said = []

    def refuse(item: PerturbedSet, act: Callable[[PerturbedSet], Any] = prepare_perturbed) -> None:
        with pytest.raises(ValueError) as caught:
            act(item)
        said.append(str(caught.value))

    corrupted_manifest(Path("my_c.yaml"), count=12, per_class=[3, 3])
    for severity in "12":
        write_part(Path("my_c") / "fog" / severity)
    refuse(stored(project, "c"))
    for name, family in (("c", "c_bar"), ("c_bar", "c")):
        corrupted_manifest(Path(f"my_{name}.yaml"), family)
        refuse(stored(project, name))
    refuse(generated(project, "a"))
    perturbed_manifest(Path("my_r.yaml"))
    refuse(stored(project, "r"))
    write_part(Path("my_r"))
    (Path("my_r") / "red" / NAMES[0]).unlink()
    refuse(stored(project, "r"))
    item = stored(project, "r")
    assert not item.record.exists()
    for content in (None, "{", '{"name": "my_r", "digest": "x", "contents": null}'):
        if content is not None:
            item.record.parent.mkdir(parents=True, exist_ok=True)
            item.record.write_text(content)
        refuse(item, read_perturbed_record)
    assert re.sub(rf"sha256:\w+|{Path.cwd()}/", "...", "\n\n".join(said)) == snapshot


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_set_is_recorded_with_its_contents_and_kept(project: Project, few: None, name: str) -> None:
    item = generated(project, name)
    found = made(item)
    assert (found["name"], found["inputs"], found["set"]) == (f"my_{name}", item.inputs(), name)
    contents = found["contents"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", next(iter(contents.values())) if item.corrupted else contents)
    files = {path: path.stat().st_mtime_ns for path in Path(f"my_{name}").rglob("*.jpg")}
    assert len(files) >= 6 and made(item) == found
    assert {path: path.stat().st_mtime_ns for path in Path(f"my_{name}").rglob("*.jpg")} == files
    parts = open_parts(item)
    assert all(len(part) == len(parts[-1]) for part in parts)
    assert (CLEAN in [part.name for part in parts]) == (name == "c")
    after = made(generated(project, name, seed=1))
    assert all(found[key] != after[key] for key in ("inputs", "digest", "contents"))
    assert item.reference is None or after["reference"] == {"run": "resnet18-s0", "md5": "abc"}


def test_corruptions_follow_their_clean_images_and_lack_the_severities_left_out(project: Project, few: None) -> None:
    item = generated(project, "c", severities=[4, 2])
    before = made(item)
    assert before["parts"] == {"brightness": [2, 4], "contrast": [2, 4]}
    assert before["missing"] == {"brightness": [1, 3, 5], "contrast": [1, 3, 5]}
    clean_data("JPEG", ("000.jpg", "001.jpg", "002.jpg"))
    assert item.inputs() != before["inputs"]
    project.prepare(item.config)
    assert made(item)["digest"] != before["digest"]


def test_what_identifies_a_set(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    items = {name: generated(project, name) for name in ("a", "c", "r")}
    before, found = {name: item.inputs() for name, item in items.items()}, made(items["a"])
    prepare_perturbed(items["a"], judge, {"run": "resnet18-s0", "md5": "other"})
    again = record(items["a"])
    assert (again["reference"]["md5"], again["inputs"]) == ("other", found["inputs"])  # known only after training
    monkeypatch.setitem(GENERATORS, "renditions", Version(99, ()))
    assert items["c"].inputs() == before["c"] and items["r"].inputs() != before["r"]


# --- Parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c", "r"])
@pytest.mark.parametrize("origin", ["stored", "generated"])
def test_files_that_come_or_go_after_the_check_are_noticed(project: Project, few: None, name: str, origin: str) -> None:
    if origin == "stored":
        (corrupted_manifest if name == "c" else perturbed_manifest)(Path(f"my_{name}.yaml"))
        write_corrupted(Path("my_c"), "c") if name == "c" else write_part(Path("my_r"))
    item = stored(project, name) if origin == "stored" else generated(project, name)
    prepare_perturbed(item)
    open_parts(item)
    file = next(Path(f"my_{name}").rglob("*.jpg"))
    for change in (lambda: file.with_name("zz.jpg").write_bytes(picture(3)), file.unlink):
        change()
        with pytest.raises(DataError, match=rf"(?s)my_{name} is not the set that .*my_{name}\.json .*file names"):
            open_parts(item)
        file.with_name("zz.jpg").unlink(missing_ok=True)


def clean_data(kind: str, names: tuple[str, ...]) -> None:
    """Replace the clean set by other files of every class, in `train` and `val`."""
    Path("data").unlink()
    for split in ("train", "val"):
        for number, label in enumerate(CLASSES):
            folder = Path("data") / split / label
            folder.mkdir(parents=True)
            for name in names:
                (folder / name).write_bytes(picture(40 * number + 1, kind))
    save_manifest(make_manifest(Path("data"), "colours"), Path("colours.yaml"))


def test_clean_images_are_matched_by_name_where_they_are_at_hand(
    project: Project, few: None, caplog: pytest.LogCaptureFixture
) -> None:
    corrupted_manifest(Path("my_c.yaml"))
    write_corrupted(Path("my_c"), "c")
    item = stored(project, "c")
    clean_data("PNG", ("aaa.png", "000.png", "001.png"))
    project.prepare(item.config)
    prepare_perturbed(item)
    clean, first, *_ = open_parts(item)
    names = [clean.split.samples[clean.index(position)].name for position in range(len(clean))]
    assert names == [sample.name.replace(".jpg", ".png") for sample in first.split.samples]
    flipped = clean_part(item, replace(first.split, samples=first.split.samples[::-1]))
    assert flipped.indices == clean.indices[::-1] and flipped.identity != clean.identity

    shutil.rmtree("data")
    Path("data").symlink_to("nowhere")
    with caplog.at_level(logging.WARNING):
        assert open_parts(item)[0].name == f"{FAMILIES['c'][0]}/1"
    clean_data("JPEG", ("000.jpg", "other.jpg"))
    with caplog.at_level(logging.WARNING):
        assert open_parts(item)[0].name == f"{FAMILIES['c'][0]}/1"
    assert "relative errors need the clean validation images" in caplog.text
    assert "lacks the clean image of 4 images of c" in caplog.text
