"""Data sources of detection and segmentation: where they are found, what is recorded, and that changes are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from dense_sets import SCENES, SHARED, annotations, copied, edited, write_ade, write_coco
from pycocotools.coco import COCO

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


def test_broken_data_stop_before_a_record_is_written(coco: DataSource, tmp_path: Path) -> None:
    data = copied(coco, tmp_path)
    with edited(annotations(data)) as content:
        content["annotations"][0]["category_id"] = 9
    with pytest.raises(DataError, match=r"(?s)not as its manifest says \(1\).*unknown category.*--configfile"):
        prepare_dense("detection", data, tmp_path / "record.json", tmp_path)
    assert not (tmp_path / "record.json").exists()


def change_box(data: DataSource) -> None:
    text = annotations(data).read_text()
    annotations(data).write_text(text.replace('"iscrowd": 0', '"iscrowd": 1', 1))


def remove_image(data: DataSource) -> None:
    (Path(data.root) / "train2017" / "000000000003.jpg").unlink()


def shorten_image(data: DataSource) -> None:
    path = Path(data.root) / "train2017" / "000000000003.jpg"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [change_box, remove_image, shorten_image])
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
