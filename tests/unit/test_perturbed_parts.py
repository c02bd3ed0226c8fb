"""Prepared perturbed sets when they are opened: their parts, the clean images, and what changed since."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from perturbed_sets import (
    corrupted_manifest,
    generated,
    made,
    perturbed_manifest,
    picture,
    stored,
    write_corrupted,
    write_part,
)
from tiny_project import CLASSES, Project

from lska.data.entries import DataError
from lska.data.manifest import make_manifest, save_manifest
from lska.data.perturbed.names import FAMILIES
from lska.data.perturbed.parts import CLEAN, clean_part, open_parts, read_perturbed_record
from lska.data.perturbed.perturbed_preparing import prepare_perturbed
from lska.provenance.files import FileError
from lska.settings.tasks import PerturbedSet


def test_a_partial_set_opens_with_the_parts_that_are_there(partial: PerturbedSet) -> None:
    prepare_perturbed(partial)
    clean, *parts = open_parts(partial)
    cells = {part.cell for part in parts}
    assert len(parts) == len(cells) == 88 and not {("fog", 1), ("snow", 4), ("frost", 2)} & cells
    assert [part.name for part in parts[:2]] == ["gaussian_noise/1", "gaussian_noise/2"]
    assert clean.name == CLEAN and not clean.stored and all(part.stored for part in parts)
    assert len({part.identity for part in (clean, *parts)}) == 89


def remove(root: Path) -> None:
    next(root.rglob("*.jpg")).unlink()


def add(root: Path) -> None:
    (next(root.rglob("*.jpg")).parent / "zz.jpg").write_bytes(picture(3))


@pytest.mark.parametrize("change", [remove, add])
@pytest.mark.parametrize("name", ["c", "r"])
@pytest.mark.parametrize("origin", ["stored", "generated"])
def test_files_that_come_or_go_after_the_check_are_noticed(
    project: Project, few: None, name: str, change: Any, origin: str
) -> None:
    if origin == "stored":
        (corrupted_manifest if name == "c" else perturbed_manifest)(Path(f"my_{name}.yaml"))
        write_corrupted(Path("my_c"), "c") if name == "c" else write_part(Path("my_r"))
    item = stored(project, name) if origin == "stored" else generated(project, name)
    prepare_perturbed(item)
    open_parts(item)
    change(Path(f"my_{name}"))
    with pytest.raises(DataError, match=rf"(?s)my_{name} is not the set that .*my_{name}\.json records:.*file names"):
        open_parts(item)


def test_a_corruption_that_is_gone_is_named(partial: PerturbedSet) -> None:
    prepare_perturbed(partial)
    shutil.rmtree(Path("my_c") / "spatter")
    with pytest.raises(DataError, match=r"(?s)spatter/1: my_c/spatter is gone\nrestore the files, or remove"):
        open_parts(partial)


def test_a_missing_or_damaged_record_is_named(project: Project) -> None:
    item = generated(project, "r")
    damaged = {
        None: r"my_r\.json is missing or damaged .*`lska data prepare --kind r`",
        "{": r"my_r\.json is missing or damaged \(line 1",
        '{"name": "my_r", "digest": "x", "contents": null}': r"\(names: missing or of another type\)",
    }
    for content, message in damaged.items():
        if content is not None:
            item.record.write_text(content)
        with pytest.raises(FileError, match=message):
            read_perturbed_record(item)


def clean_data(kind: str, names: tuple[str, ...]) -> None:
    """Replace the clean set by other files of every class, in `train` and `val`."""
    Path("data").unlink()
    for split in ("train", "val"):
        for number, label in enumerate(CLASSES):
            folder = Path("data") / split / label
            folder.mkdir(parents=True)
            for name in names:
                (folder / name).write_bytes(picture(40 * number, kind))
    save_manifest(make_manifest(Path("data"), "colours"), Path("colours.yaml"))


def test_clean_images_are_matched_by_name_also_where_they_are_png(project: Project) -> None:
    corrupted_manifest(Path("my_c.yaml"))
    write_corrupted(Path("my_c"), "c")
    clean_data("PNG", ("aaa.png", "000.png", "001.png"))
    item = stored(project, "c")
    project.prepare(item.config)
    prepare_perturbed(item)
    clean, first, *_ = open_parts(item)
    assert (clean.name, len(clean), clean.cell) == (CLEAN, 8, None)
    names = [clean.split.samples[clean.index(position)].name for position in range(len(clean))]
    assert names == [sample.name.replace(".jpg", ".png") for sample in first.split.samples]


def test_only_imagenet_c_has_relative_errors(project: Project, few: None) -> None:
    item = generated(project, "c_bar")
    made(item)
    assert CLEAN not in [part.name for part in open_parts(item)]


@pytest.mark.parametrize("state", ["absent", "others"])
def test_without_the_clean_images_there_are_no_relative_errors(
    project: Project, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    corrupted_manifest(Path("my_c.yaml"))
    write_corrupted(Path("my_c"), "c")
    item = stored(project, "c")
    prepare_perturbed(item)
    if state == "absent":
        Path("data").unlink()
    else:
        clean_data("JPEG", ("000.jpg", "other.jpg"))
    with caplog.at_level(logging.WARNING):
        parts = open_parts(item)
    assert len(parts) == 95 and parts[0].name == "gaussian_noise/1"
    said = {"absent": "relative errors need the clean validation images", "others": "4 images of c are not among them"}
    assert said[state] in "\n".join(caplog.messages)


def test_the_order_of_the_clean_images_is_part_of_their_identity(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = generated(project, "c", images=6)
    monkeypatch.setitem(FAMILIES, "c", ("brightness",))
    made(item)
    clean, first = open_parts(item)[:2]
    assert len(clean) == len(first) == 6
    flipped = replace(first.split, samples=first.split.samples[::-1])
    assert clean_part(item, flipped).indices == clean.indices[::-1]
    assert clean_part(item, flipped).identity != clean.identity == clean_part(item, first.split).identity
