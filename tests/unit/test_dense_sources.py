"""Sources of detection and segmentation data: found, recorded, changes refused; VOC annotations made COCO JSON."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml
from dense_sets import SCENES, SHARED, annotations, copied, edited, write_ade, write_coco
from pycocotools.coco import COCO
from syrupy.assertion import SnapshotAssertion

from lska.data import coco as annotation_files
from lska.data.coco import convert
from lska.data.dense_sets import DenseSet, open_dense, prepare_dense, verify_dense
from lska.data.entries import DataError
from lska.provenance.files import FileError
from lska.settings.scale import DataSource

BCCD, CAMVID = SHARED / "bccd", SHARED / "camvid"


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_coco(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def ade(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_ade(tmp_path_factory.mktemp("sets"))


def test_splits_are_opened(coco: DataSource, ade: DataSource, tmp_path: Path) -> None:
    split = open_dense("detection", coco, "val", tmp_path)
    assert split.images == Path(coco.root) / "val2017" and split.annotations == annotations(coco, "val")
    assert (split.classes, split.category_ids) == (("arrow", "bottle", "circle"), (1, 2, 3))
    assert (split.count, split.masks) == (3, True)
    with pytest.raises(DataError, match="scenes has no split 'test'; choose from train, val"):
        open_dense("detection", coco, "test", tmp_path)
    split = open_dense("segmentation", ade, "train", tmp_path)
    assert split.images == Path(ade.root) / "images" / "training"
    assert split.labels == Path(ade.root) / "annotations" / "training"
    assert (split.image_suffix, split.label_suffix) == (".jpg", ".png")
    assert split.classes == ("background", "arrow", "bottle", "circle")
    assert (split.zero_is_unlabelled, split.ignore, split.count) == (True, (), 6)
    # The published folder or what is in it may be the root.
    link = tmp_path / "root" / "ADEChallengeData2016"
    link.parent.mkdir()
    link.symlink_to(ade.root)
    for root in (link.parent, link):
        split = open_dense("segmentation", DataSource("ade20k", str(root)), "val", tmp_path)
        assert split.labels == link / "annotations" / "validation" and split.count == 2000


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_the_record_names_the_data_and_verify_returns_it(
    kind: str, coco: DataSource, ade: DataSource, tmp_path: Path
) -> None:
    data, record = coco if kind == "detection" else ade, tmp_path / "results" / "data.json"
    prepare_dense(kind, data, record, tmp_path)
    content = json.loads(record.read_text())
    assert (content["name"], content["kind"], content["splits"]) == (data.name, kind, {"train": 6, "val": 3})
    splits = [open_dense(kind, data, split, tmp_path) for split in ("train", "val")]
    assert verify_dense(kind, data, record, *splits) == {"name": data.name, "digest": content["digest"]}
    first = record.read_bytes()
    prepare_dense(kind, data, record, tmp_path)
    assert record.read_bytes() == first


def test_numbers_of_the_record(coco: DataSource, ade: DataSource, tmp_path: Path) -> None:
    prepare_dense("detection", coco, tmp_path / "d.json", tmp_path)
    detail = json.loads((tmp_path / "d.json").read_text())["detail"]["train"]
    entries = json.loads(annotations(coco).read_text())["annotations"]
    assert detail["objects"] == sum(detail["per_class"].values()) == len(entries)
    assert (detail["dropped"], detail["boxes_without_area"], detail["boxes_thinner_than_a_pixel"]) == ([], 0, 0)
    prepare_dense("segmentation", ade, tmp_path / "s.json", tmp_path)
    pixels = json.loads((tmp_path / "s.json").read_text())["detail"]["val"]["pixels"]
    assert sum(pixels.values()) == 3 * 40 * 40
    assert pixels["not scored"] == 0
    assert pixels["background"] > pixels["arrow"]


def change_box(data: DataSource) -> None:
    text = annotations(data).read_text()
    annotations(data).write_text(text.replace('"iscrowd": 0', '"iscrowd": 1', 1))


def shorten_image(data: DataSource) -> None:
    path = Path(data.root) / "train2017" / "000000000003.jpg"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [change_box, shorten_image])
def test_a_root_changed_after_the_check_is_refused(change: object, coco: DataSource, tmp_path: Path) -> None:
    data, record = copied(coco, tmp_path), tmp_path / "record.json"
    prepare_dense("detection", data, record, tmp_path)
    change(data)
    train, val = (open_dense("detection", data, split, tmp_path) for split in ("train", "val"))
    verify_dense("detection", data, record, val)
    with pytest.raises(DataError, match="train: files at .*train2017 or its annotations were changed after the check"):
        verify_dense("detection", data, record, train, val)


def test_a_record_of_another_manifest_or_none_is_refused(coco: DataSource, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    with pytest.raises(FileError, match="record.json is missing or damaged .*lska data prepare --kind detection"):
        verify_dense("detection", coco, record)
    prepare_dense("detection", coco, record, tmp_path)
    with edited(record) as content:
        content["digest"] = "sha256:" + "0" * 64
    with pytest.raises(DataError, match="records another version of the manifest"):
        verify_dense("detection", coco, record)
    for content in ("{}", '{"name": "scenes", "digest": "x", "files": 1}', "[" * 9999):
        record.write_text(content)
        with pytest.raises(FileError, match="record.json is missing or damaged"):
            verify_dense("detection", coco, record)


def test_contents_are_compared_where_the_manifest_prescribes_them(coco: DataSource, tmp_path: Path) -> None:
    prepare_dense("detection", coco, tmp_path / "record.json", tmp_path)
    values = yaml.safe_load(Path(coco.manifest or "").read_text())
    contents = json.loads((tmp_path / "record.json").read_text())["contents"]
    for split in values["splits"]:
        values["splits"][split]["contents"] = contents[split]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(values))
    data = copied(DataSource(coco.name, coco.root, str(own)), tmp_path)
    assert DenseSet("detection", data, tmp_path).check()[0].ok
    change_box(data)
    found = DenseSet("detection", data, tmp_path).check()[0].findings
    assert len(found) == 1
    assert found[0].startswith(
        f"train: the contents differ, expected contents digest {contents['train']}, found sha256:"
    )


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_generated_data_are_made_recorded_and_verified(kind: str, tmp_path: Path) -> None:
    data = DataSource("scenes", str(tmp_path / "set"), generate=SCENES)
    record = tmp_path / "record.json"
    with pytest.raises(DataError, match="does not hold the generated set 'scenes'.*lska data prepare"):
        open_dense(kind, data, "train", tmp_path)
    prepare_dense(kind, data, record, tmp_path)
    first = json.loads(record.read_text())
    assert (first["title"], first["splits"]) == ("generated scenes", {"train": 6, "val": 3})
    split = open_dense(kind, data, "train", tmp_path)
    assert verify_dense(kind, data, record, split) == {"name": "scenes", "digest": first["digest"]}
    prepare_dense(kind, data, record, tmp_path)
    assert json.loads(record.read_text()) == first

    other = DataSource("scenes", data.root, generate={**SCENES, "seed": 1})
    with pytest.raises(DataError, match="or one of other settings"):
        verify_dense(kind, other, record, split)
    prepare_dense(kind, other, record, tmp_path)
    assert json.loads(record.read_text())["digest"] != first["digest"]
    assert open_dense(kind, other, "train", tmp_path).count == 6


def test_a_manifest_of_another_name_is_refused(coco: DataSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="detection.data.name is 'other' but the manifest .* describes 'scenes'"):
        open_dense("detection", DataSource("other", coco.root, coco.manifest), "train", tmp_path)


def test_a_wrong_root_says_what_was_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(
        DataError, match=r"does not hold bccd: expected BCCD/JPEGImages or bccd.tar or BCCD_Da.*, found 'holiday.jpg'"
    ):
        open_dense("detection", DataSource("bccd", str(tmp_path / "photos")), "train", tmp_path)
    with pytest.raises(DataError, match=r"expected train2017 or val2017 or .*, found none \(No such file"):
        open_dense("detection", DataSource("coco2017", str(tmp_path / "absent")), "train", tmp_path)


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"needs the BCCD archive at {BCCD}")
def test_bccd(tmp_path: Path) -> None:
    data, record, cache = DataSource("bccd", str(BCCD)), tmp_path / "record.json", tmp_path / "cache"
    prepare_dense("detection", data, record, cache)
    content = json.loads(record.read_text())
    assert content["splits"] == {"train": 205, "val": 87, "test": 72}
    assert content["detail"]["train"]["per_class"] == {"RBC": 2381, "WBC": 214, "Platelets": 209}
    assert content["detail"]["val"]["dropped"] == ["BloodImage_00338.xml, object 13: RBC at the single pixel 504, 337"]
    assert content["detail"]["train"]["dropped"] == ["BloodImage_00343.xml, object 4: RBC at the single pixel 181, 329"]
    splits = [open_dense("detection", data, split, cache) for split in ("train", "val", "test")]
    assert verify_dense("detection", data, record, *splits)["name"] == "bccd"
    coco = COCO(splits[0].annotations)
    (entry,) = coco.loadImgs(1)
    assert (splits[0].images / entry["file_name"]).is_file()
    assert [entry["name"] for entry in coco.cats.values()] == ["RBC", "WBC", "Platelets"]

    xml = splits[0].images.parent / "Annotations" / "BloodImage_00001.xml"
    xml.write_text(xml.read_text().replace("<name>WBC</name>", "<name>RBC</name>"))
    changed = open_dense("detection", data, "train", cache)
    with pytest.raises(DataError, match="train: files at"):
        verify_dense("detection", data, record, changed)


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"needs the CamVid archive at {CAMVID}")
def test_camvid(tmp_path: Path) -> None:
    data, record, cache = DataSource("camvid", str(CAMVID)), tmp_path / "record.json", tmp_path / "cache"
    prepare_dense("segmentation", data, record, cache)
    content = json.loads(record.read_text())
    assert content["splits"] == {"train": 367, "val": 101, "test": 233}
    assert sum(content["detail"]["train"]["pixels"].values()) == 367 * 480 * 360
    assert content["detail"]["val"]["pixels"]["road"] == 5_053_176
    split = open_dense("segmentation", data, "test", cache)
    assert (split.zero_is_unlabelled, split.ignore, split.count) == (False, (11,), 233)
    assert verify_dense("segmentation", data, record, split)["name"] == "camvid"


# --- PASCAL VOC ------------------------------------------------------------------------------------------------------


CLASSES = ("cell", "plate")


def box(label: str, *corners: float, extra: str = "") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, corners, strict=True))
    return f"<object><name>{label}</name>{extra}<bndbox>{inside}</bndbox></object>"


def write(folder: Path, name: str, *objects: str, file: str | None = None, size: str = "640,480") -> None:
    width, height = size.split(",")
    text = f"<size><width>{width}</width><height>{height}</height></size>{''.join(objects)}"
    (folder / f"{name}.xml").write_text(f"<annotation><filename>{file or name + '.jpg'}</filename>{text}</annotation>")


def test_corners_count_from_one_and_belong_to_the_box(tmp_path: Path) -> None:
    write(tmp_path, "b", box("cell", 1, 1, 640, 480), box("plate", 10, 20, 10, 21))
    write(tmp_path, "a", box("cell", 2.5, 3, 4.5, 7, extra="<difficult>1</difficult>"))
    content = convert(tmp_path, ["b", "a"], CLASSES, tmp_path / "out" / "set.json")
    assert content == json.loads((tmp_path / "out" / "set.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "plate"}]
    size = {"width": 640, "height": 480}
    assert content["images"] == [{"id": 1, "file_name": "b.jpg", **size}, {"id": 2, "file_name": "a.jpg", **size}]
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    assert [tuple(entry[key] for key in keys) for entry in content["annotations"]] == [
        (1, 1, 1, [0, 0, 640, 480], 640 * 480, 0),
        (2, 1, 2, [9, 19, 1, 2], 2, 0),
        (3, 2, 1, [1.5, 2, 3.0, 5], 15.0, 1),
    ]


def voc_set(tmp_path: Path) -> DataSource:
    """A set of one image."""
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "Annotations", "a", box("cell", 5, 6, 7, 8))
    (tmp_path / "train.txt").write_text("a\n")
    split = {"images": "JPEGImages", "annotations": "Annotations", "names": "train.txt", "count": 1}
    about = {"kind": "detection", "name": "own", "title": "Own", "source": "made here", "terms": "none"}
    values = about | {"classes": list(CLASSES), "category_ids": [1, 2], "format": "voc", "splits": {"train": split}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    return DataSource("own", str(tmp_path), str(tmp_path / "own.yaml"))


def test_a_cached_conversion_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = voc_set(tmp_path)

    def converted() -> Path:
        return open_dense("detection", data, "train", tmp_path / "cache").annotations

    before = converted()
    # Where this fails for a good reason: raise lska.data.coco.VOC_VERSION, and state the new pair here.
    content = hashlib.sha256(before.read_bytes()).hexdigest()[:16]
    assert (annotation_files.VOC_VERSION, content) == (1, "1bcfa1935e09e393")
    before.write_text("kept")
    assert converted() == before and before.read_text() == "kept"
    monkeypatch.setattr(annotation_files, "VOC_VERSION", annotation_files.VOC_VERSION + 1)
    after = converted()
    assert after != before
    assert len(json.loads(after.read_text())["annotations"]) == 1


def test_names_may_have_spaces_and_stand_once(tmp_path: Path) -> None:
    data, names = voc_set(tmp_path), tmp_path / "train.txt"
    write(tmp_path / "Annotations", "my dog", box("cell", 5, 6, 7, 8))
    write(tmp_path / "Annotations", "caf\u00e9", box("cell", 5, 6, 7, 8))
    for listing in ("my dog\r\n caf\u00e9 \r\n\r\n".encode(), "\ufeffmy dog\ncaf\u00e9".encode()):
        names.write_bytes(listing)
        content = json.loads(open_dense("detection", data, "train", tmp_path / "cache").annotations.read_text())
        assert [image["file_name"] for image in content["images"]] == ["my dog.jpg", "caf\u00e9.jpg"]
    for listing, message in (
        (b"my dog\n../a\nmy dog\n", "line 2: expected a path .*\n.*line 3: 'my dog' stands in line 1 already"),
        (b"\n", "train.txt: has none\nexpected the names of the split, one a line; restore the file"),
    ):
        names.write_bytes(listing)
        with pytest.raises(ValueError, match=message):
            open_dense("detection", data, "train", tmp_path / "cache")


def test_a_click_without_a_drag_is_left_out_and_boxes_out_of_the_image_stay_for_the_check(tmp_path: Path) -> None:
    write(tmp_path, "a", box("cell", 5, 6, 7, 8), box("plate", 30, 31, 30, 31), box("cell", 0, 6, 641, 8))
    content = convert(tmp_path, ["a"], CLASSES, tmp_path / "set.json")
    assert content["info"]["dropped"] == ["a.xml, object 2: plate at the single pixel 30, 31"]
    assert [entry["bbox"] for entry in content["annotations"]] == [[4, 5, 3, 3], [-1, 5, 642, 3]]
    assert [entry["id"] for entry in content["annotations"]] == [1, 2]


def test_everything_that_cannot_be_converted_is_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    write(tmp_path, "sound", box("cell", 5, 6, 7, 8))
    write(tmp_path, "label", box("cell", 5, 6, 7, 8), box("dog", 5, 6, 7, 8))
    write(tmp_path, "other", file="elsewhere.jpg")
    write(tmp_path, "number", box("cell", 5, 6, "x", 8))
    write(tmp_path, "size", size="640,wide")
    (tmp_path / "broken.xml").write_text("<annotation>")
    write(tmp_path, "nan", box("cell", 5, 6, "nan", 8))
    sound = (tmp_path / "sound.xml").read_text()
    (tmp_path / "unknown.xml").write_text('<?xml version="1.0" encoding="klingon"?>' + sound)
    os.mkfifo(tmp_path / "pipe.xml")
    # Given twice, in digits that only Python reads, or as neither yes nor no.
    write(tmp_path, "twice", sound_box := box("cell", 5, 6, 7, 8, extra="<name>plate</name>"), sound_box)
    write(tmp_path, "corner", box("cell", 5, 6, 7, 8).replace("<ymin>", "<xmin>4</xmin><ymin>"))
    write(tmp_path, "digits", size="6_4,480")
    write(tmp_path, "unsure", box("cell", 5, 6, 7, 8, extra="<difficult>2</difficult>"))
    names = ["sound", "label", "other", "number", "size", "broken", "absent", "nan"]
    names += ["unknown", "pipe", "twice", "corner", "digits", "unsure"]
    with pytest.raises(DataError) as caught:
        convert(tmp_path, names, CLASSES, tmp_path / "set.json")
    assert str(caught.value).replace(str(tmp_path), "TMP") == snapshot
    assert not (tmp_path / "set.json").exists()
